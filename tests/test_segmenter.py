"""The front door: the same result as the command line's, typed, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_models import make_model
from stand_in import OBLIQUE, StandIn, scan, write_clicks, write_image

import umamba2
from umamba2 import cli
from umamba2.challenges import CHALLENGES
from umamba2.engine.dental_field import described, pasted
from umamba2.scans.volumes import read_labels
from umamba2.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[1]
MULTICLASS, INTERACTIVE = "toothfairy3-multiclass", "toothfairy3-interactive"


@pytest.fixture
def sample(tmp_path):
    """A small scan with structures of a sample case in it."""
    import SimpleITK as sitk

    (path,) = (ROOT / "test" / MULTICLASS / "input/images/cbct").glob("*.mha")
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    return tmp_path / "scan.mha"


def test_equals_the_command_line_to_the_voxel_and_the_report_takes_it(sample, tmp_path):
    model, ours, theirs = ROOT / "resources" / MULTICLASS, tmp_path / "ours.mha", tmp_path / "theirs.mha"
    segmentation = umamba2.load(model).segment(sample)
    segmentation.write(ours)
    assert cli.main(["predict", "-i", str(sample), "-o", str(theirs), "-m", str(model)]) == 0
    first, second = read_labels(ours), read_labels(theirs)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert len(np.unique(first[0])) > 10
    assert set(np.unique(first[0])) - {0} <= set(segmentation.structures)
    assert segmentation.structures[36] == "lower left first molar"
    page = tmp_path / "page.html"
    assert cli.main(["report", "-i", str(sample), "-s", str(ours), "-o", str(page)]) == 0
    assert page.stat().st_size > 10_000


def test_the_readmes_example_runs(sample, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    exec(compile(code, "README.md", "exec"), {})
    assert read_labels(tmp_path / "labels.mha")[0].any()


def test_paths_volumes_and_arrays_are_the_same_scan(tmp_path):
    segmenter = umamba2.load(make_model(tmp_path / "m", classes=13), challenge="stsr", device="cpu", precision="fp32")
    array = np.random.default_rng(0).integers(-1000, 3000, (14, 40, 24)).astype(np.int16)
    path = write_image(tmp_path / "a.nii.gz", array, None)
    of_path = segmenter.segment(path)
    assert of_path.labels.any()
    for same in (str(path), umamba2.read_volume(path), (array, (1.0, 1.0, 1.0))):
        np.testing.assert_array_equal(segmenter.segment(same).labels, of_path.labels)
    assert of_path.labels.dtype == np.uint8
    assert of_path.geometry.size == (24, 40, 14)
    for wrong in ((array[0], (1, 1, 1)), (array, (1, 1))):
        with pytest.raises(umamba2.InputError, match="scan: found an array of shape"):
            segmenter.segment(wrong)
    for other in (None, 3, b"a.nii.gz", array, sitk.Image([8, 8, 8], sitk.sitkInt16)):
        with pytest.raises(umamba2.InputError, match="expected a file, a volume, or an array and its spacing"):
            segmenter.segment(other)


def test_without_a_challenge_the_networks_ids_and_names(tmp_path):
    model = make_model(tmp_path / "m", classes=5)
    segmenter = umamba2.load(model, challenge="none", device="cpu")
    assert segmenter.numbering == "training"
    assert list(segmenter.structures) == [1, 2, 3, 4]
    with pytest.raises(umamba2.InputError, match="numbering: found 'public' without a challenge"):
        umamba2.load(model, challenge="none", numbering="public", device="cpu")
    with pytest.raises(umamba2.InputError, match="challenge: found 'stsr-26', expected one of"):
        umamba2.load(model, challenge="stsr-26")
    with pytest.raises(umamba2.ModelError, match="found a model of 5 classes without clicks, expected 13"):
        umamba2.load(model, challenge="stsr", device="cpu")


@pytest.mark.parametrize(("channel", "other"), [
    *((name, True) for name in ("MRI", "T1", "T2w", "mr_t1", "FLAIR", "PET", "US", "Ultrasound")),
    *((name, False) for name in ("CT", "CBCT", "cbct", "noNorm", "zscore", "0", "rescale_to_0_1", "Status", 0, None)),
])  # fmt: skip
def test_a_channel_of_another_modality_gets_a_warning(tmp_path, channel, other):
    model = make_model(tmp_path / "m", description={"channel_names": {"0": channel}})
    array = np.random.default_rng(0).integers(-1000, 3000, (12, 32, 16)).astype(np.int16)
    found = umamba2.load(model, challenge="none", device="cpu").segment((array, (0.3, 0.3, 0.3))).warnings
    assert bool([line for line in found if f"{model}: found the channel {channel}, expected CT" in line]) is other
    assert len([line for line in found if "channel" in line]) == other


def test_a_published_model_is_recognised_and_says_so(tmp_path, capsys):
    """Written as the published trainers write it: mirror axes that its inference does not use, no challenge."""
    trainer = "nnUNetTrainer_TF3_Task1_1500ep_accum2"
    model = make_model(tmp_path / "m", "nnunetv2.nets.UMambaBot2", 47, mirror_axes=(0, 1), trainer=trainer)
    path = write_image(tmp_path / "a.mha", np.zeros((8, 20, 20), np.int16), None)
    files = ["-i", str(path), "-o", str(tmp_path / "out"), "-m", str(model)]
    options = ["--device", "cpu", "--precision", "fp32", "--orientation", "keep"]
    for extra, axes in (([], [1, 2]), (["--mirror-axes", "2"], [2]), (["--no-mirroring"], [])):
        assert cli.main(["predict", *files, *options, *extra]) == 0
        settings = json.loads((tmp_path / "out/run.json").read_text())["settings"]
        assert settings["challenge"] == MULTICLASS
        assert settings["numbering"] == "platform"
        assert settings["mirror_axes"] == axes
        assert trainer in settings["reasons"]["challenge"]
    assert f"for {MULTICLASS} (recognised by the trainer {trainer}" in capsys.readouterr().out
    other = make_model(tmp_path / "n", classes=5, mirror_axes=(0, 1))
    assert umamba2.load(other, device="cpu").settings["mirror_axes"] == [0, 1]
    assert umamba2.load(other, device="cpu", mirror=(2,), blend="published").settings["mirror_axes"] == [2]
    assert umamba2.load(other, device="cpu", mirror=(2,), blend="published").settings["blend"] == "published"


def test_everything_that_is_wrong_is_in_the_record(tmp_path):
    segmenter = Segmenter(StandIn(INTERACTIVE), CHALLENGES[INTERACTIVE])
    array = scan().astype(np.float32)
    array[0, 0, 0] = np.nan
    path = write_image(tmp_path / "a.mha", array)
    clicks = write_clicks(tmp_path / "c.json", ("Left_IAC", [1, 1, 1]), ("Tongue", [1, 1, 1]))
    segmenter.predictor.predict = _warning(segmenter.predictor.predict)
    first, second, third, fourth = segmenter.segment(path, clicks).warnings
    assert first.startswith(f"{path}: found 1 NaN or infinite voxels")
    assert second.startswith(f"{clicks}: click 2 left out, found the name 'Tongue'")
    assert third == f"{path}: something odd"
    assert fourth.startswith(f"{path}: clicks: found click 1 (left, voxel (1, 1, 1)) but no left canal")
    with pytest.raises(umamba2.InputError, match="clicks: found some, expected none"):
        Segmenter(StandIn("stsr"), CHALLENGES["stsr"]).segment(path, clicks)


def _warning(predict):
    def wrapped(volume, spacing, clicks=None, deadline=None, record=None, passes=None, watch=None):
        record.warn("something odd")
        return predict(volume, spacing, clicks, deadline, record)

    return wrapped


def test_no_model_means_the_demo_model_and_says_so(tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match=f"taking the demo model {MULTICLASS}, which has never seen a patient"):
        assert umamba2.load(device="cpu").challenge.name == MULTICLASS
    monkeypatch.setattr("umamba2.models.locate.DEMO_MODELS", tmp_path)
    with pytest.raises(umamba2.ModelError, match="found no model"):
        umamba2.load(challenge="stsr")


def test_the_package_shows_what_it_has():
    code = "import sys, umamba2; assert 'torch' not in sys.modules; print(*dir(umamba2))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"load", "Segmenter", "Segmentation", "Predictor", "read_volume", "InputError"} <= set(shown)
    for name in umamba2.__all__:
        assert getattr(umamba2, name).__name__ == name


def test_a_type_checker_sees_through_the_front_door(tmp_path):
    good = "import umamba2\nsegmenter = umamba2.load('m', tile_step=0.5)\nlabels = segmenter.segment('a.mha').labels\n"
    (tmp_path / "good.py").write_text(good)
    for number, bad in enumerate(("umamba2.load('m', tile_stp=0.5)", "umamba2.laod('m')", "segmenter.segment(3)")):
        (tmp_path / f"bad{number}.py").write_text(f"{good}{bad}\n")
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", *map(str, sorted(tmp_path.glob("*.py")))]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    errors = sorted(line for line in done.stdout.splitlines() if ": error: " in line)
    assert [line.split(":")[0] for line in errors] == ["bad0.py", "bad1.py", "bad2.py"], done.stdout
    assert 'Unexpected keyword argument "tile_stp"' in errors[0]


def test_oblique_scans_come_back_on_their_grid(tmp_path):
    path = write_image(tmp_path / "a.mha", scan((1, 2)))
    segmentation = Segmenter(StandIn("stsr"), CHALLENGES["stsr"]).segment(path)
    segmentation.write(tmp_path / "out.mha")
    labels, geometry = read_labels(tmp_path / "out.mha")
    assert geometry == OBLIQUE
    assert np.argwhere(labels == 1).min(0).tolist() == [2, 4, 3]


# --- orientation ------------------------------------------------------------------------------------------------------


class Sided(StandIn):
    """Finds what lies to the left, low and in front in an array that lies as it learned: one bright corner each."""

    def predict(self, volume, spacing, clicks=None, deadline=None, record=None, passes=None, watch=None):
        self.calls.append((volume.shape, tuple(spacing), clicks))
        labels = np.zeros(volume.shape, np.uint8)
        labels[:, :, volume.shape[2] // 2 :] = 1  # the patient's left where x grows to the left
        labels[: volume.shape[0] // 3] = 2
        labels[:, : volume.shape[1] // 4] = 0
        return labels


@pytest.mark.parametrize("code", ["LPS", "RAS", "RPS", "PSR", "AIL", "SLA"])
@pytest.mark.parametrize("learned", ["LPS", "RAI"])
def test_scans_are_turned_to_how_the_model_learned_and_labels_back(tmp_path, code, learned):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 3000, (8, 9, 10)).astype(np.int16))
    image.SetSpacing((0.3, 0.4, 0.5))
    sitk.WriteImage(sitk.DICOMOrient(image, "LPS"), str(tmp_path / "upright.mha"))
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / "other.mha"))
    segmenter = Segmenter(Sided(INTERACTIVE), CHALLENGES[INTERACTIVE], postprocess=False, orientation=learned)
    corner = write_clicks(tmp_path / "a.json", ("Left_IAC", [1, 2, 3]))
    upright = segmenter.segment(tmp_path / "upright.mha", corner)
    assert upright.warnings == ()
    other = umamba2.read_volume(tmp_path / "other.mha")
    point = image.TransformIndexToPhysicalPoint((3, 2, 1))
    index = sitk.ReadImage(str(tmp_path / "other.mha")).TransformPhysicalPointToIndex(point)
    clicks = write_clicks(tmp_path / "b.json", ("Left_IAC", list(index[::-1])))
    found = segmenter.segment(tmp_path / "other.mha", clicks)
    assert found.geometry == other.geometry
    found.write(tmp_path / "labels.mha")
    back = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "labels.mha")), "LPS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), upright.labels)
    first, second = segmenter.predictor.calls
    assert first[:2] == second[:2]
    np.testing.assert_array_equal(first[2].coordinates, second[2].coordinates)


def test_doubts_about_orientation_are_warnings(tmp_path):
    import SimpleITK as sitk

    def warnings(path, orientation):
        return Segmenter(StandIn("stsr"), CHALLENGES["stsr"], orientation=orientation).segment(path).warnings

    oblique = write_image(tmp_path / "oblique.mha", scan())
    bare = write_image(tmp_path / "bare.tif", scan(), None)
    image = sitk.GetImageFromArray(scan())
    sitk.WriteImage(image, str(tmp_path / "usual.mha"))
    sitk.WriteImage(sitk.DICOMOrient(image, "RAS"), str(tmp_path / "ras.mha"))
    assert warnings(tmp_path / "usual.mha", None) == warnings(tmp_path / "usual.mha", "LPS") == ()
    assert warnings(tmp_path / "ras.mha", "LPS") == warnings(tmp_path / "ras.mha", "keep") == ()
    (line,) = warnings(tmp_path / "ras.mha", None)
    assert line.startswith(f"{tmp_path / 'ras.mha'}: orientation: found RAS, expected LPS")
    assert any("tilted by" in line for line in warnings(oblique, "LPS"))
    assert any("found none stated" in line for line in warnings(bare, "LPS"))
    assert not any(": orientation: " in line for line in warnings(oblique, "keep") + warnings(bare, "keep"))
    with pytest.raises(umamba2.InputError, match="orientation: found 'LLS'"):
        Segmenter(StandIn("stsr"), CHALLENGES["stsr"], orientation="LLS").segment(oblique)


class Cropping(StandIn):
    """Segments a part of the array it is given, and says which."""

    def predict(self, volume, spacing, clicks=None, deadline=None, record=None, passes=None, watch=None):
        box = (slice(1, 3), slice(2, 6), slice(0, 7))
        record.dental_field = described(box, spacing)
        return pasted(np.ones((2, 4, 7), np.uint8), box, volume.shape)


@pytest.mark.parametrize("code", ["LPS", "RAS", "PSR", "AIL", "SLA"])
def test_the_part_that_is_segmented_is_told_in_the_files_voxels(tmp_path, code):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.zeros((8, 9, 10), np.int16))
    image.SetSpacing((0.5, 0.4, 0.3))
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / "scan.mha"))
    segmenter = Segmenter(Cropping("stsr"), CHALLENGES["stsr"], postprocess=False, orientation="LPS")
    found = segmenter.segment(tmp_path / "scan.mha")
    ends = [(int(at.min()), int(at.max()) + 1) for at in np.nonzero(found.labels)]
    assert [tuple(side) for side in found.record.dental_field["voxels"]] == ends
    spacing = found.geometry.zyx_spacing
    assert found.record.dental_field["mm"] == pytest.approx([(b - a) * mm for (a, b), mm in zip(ends, spacing)])
    assert sorted(found.record.dental_field["mm"]) == pytest.approx([0.6, 1.6, 3.5])


# --- sessions ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clickable(tmp_path_factory):
    model = make_model(
        tmp_path_factory.mktemp("clickable") / "m", "umamba2.nets.UMamba2Click", 3, folds=(0, 1), mirror_axes=(0, 1, 2)
    )
    return umamba2.load(model, challenge=INTERACTIVE, device="cpu", precision="fp32", orientation="LPS")


def clicked_scan(tmp_path, code="LPS", spacing=(0.3, 0.3, 0.3)):
    import SimpleITK as sitk

    array = np.random.default_rng(5).normal(800, 900, (20, 40, 36)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(path))
    return path


@pytest.mark.parametrize(("code", "spacing"), [("LPS", (0.3, 0.3, 0.3)), ("RSA", (0.25, 0.4, 0.3))])
def test_a_session_ends_as_the_command_line_does_with_its_click_file(tmp_path, clickable, code, spacing):
    path = clicked_scan(tmp_path, code, spacing)
    session = clickable.session(path)
    session.click("left", voxel=(3, 4, 5))
    session.click("right", voxel=(17, 14, 15))
    session.click("left", voxel=(1, 1, 1))
    session.move(2, voxel=(18, 19, 9))
    session.remove(3)
    (tmp_path / "clicks.json").write_text(session.click_file())
    whole = session.finish()
    expected = clickable.segment(path, tmp_path / "clicks.json")
    np.testing.assert_array_equal(whole.labels, expected.labels)
    assert whole.geometry == expected.geometry == session.geometry
    assert set(np.unique(whole.labels)) == {0, 1, 2}
    assert sum(whole.record.passes_done) > whole.record.tiles
    assert session.structures == whole.structures


class Pulled(StandIn):
    """Finds both canals, and the left one higher up as soon as one of its clicks is high up; keeps nothing."""

    def predict(self, volume, spacing, clicks=None, record=None, **others):
        self.calls.append(clicks)
        labels = np.zeros(volume.shape, np.uint8)
        start = 6 if ((clicks.labels == 0) & (clicks.coordinates[:, 0] > 14)).any() else 2
        labels[start : start + 3, 4:16, 22:26] = 1
        labels[2:5, 4:16, 4:8] = 2
        return labels


@pytest.mark.parametrize("code", ["LPS", "RSA"])
def test_a_click_off_its_canal_is_left_out_by_the_session_and_by_predict_alike(tmp_path, code):
    path = clicked_scan(tmp_path, code, (1.0, 1.0, 1.0))
    segmenter = Segmenter(Pulled(INTERACTIVE), CHALLENGES[INTERACTIVE], orientation="LPS")
    session = segmenter.session(path)
    session.click("left", position_mm=(23, 10, 3))
    alone = session.labels
    answer = session.click("left", position_mm=(23, 10, 17))
    tooth = session.clicks[1].voxel
    (line,) = answer.warnings
    assert f"clicks: found click 2 (left, voxel {tooth}) 9.0 mm off the left canal, expected it on it; left out" in line
    assert answer.changed is None
    assert len(session.clicks) == 2  # it may count together with a later one
    (tmp_path / "clicks.json").write_text(session.click_file())
    whole, expected = session.finish(), segmenter.segment(path, tmp_path / "clicks.json")
    for found in (whole, expected):
        np.testing.assert_array_equal(found.labels, alone)
        assert line.partition("clicks: ")[2] in found.warnings[0]
    for options in ({"postprocess": False}, {"all_clicks": True}):
        plain = Segmenter(Pulled(INTERACTIVE), CHALLENGES[INTERACTIVE], orientation="LPS", **options)
        found = plain.segment(path, tmp_path / "clicks.json")
        assert (found.labels != alone).any()
        assert found.warnings == ()


def test_a_session_on_a_scan_larger_than_the_field_ends_as_the_command_line_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("umamba2.engine.dental_field.LEAST_CANALS", 1.0)
    field = {"dental_field": [[2.5, 2.5], [3, 4], [4, 4]], "orientation": "LPS"}
    model = make_model(tmp_path / "m", "umamba2.nets.UMamba2Click", 3, mirror_axes=(2,), description=field)
    path, options = clicked_scan(tmp_path, "RSA"), {"device": "cpu", "precision": "fp32"}
    session = umamba2.load(model, challenge=INTERACTIVE, **options).session(path)
    for voxel in ((3, 4, 5), (38, 1, 30)):
        session.click("left", voxel=voxel)
        (tmp_path / "clicks.json").write_text(session.click_file())
        command = [
            "predict",
            "-i",
            str(path),
            "-o",
            str(tmp_path / "out"),
            "-m",
            str(model),
            "--challenge",
            INTERACTIVE,
        ]
        command += ["--clicks", str(tmp_path / "clicks.json"), "--device", "cpu", "--precision", "fp32", "--report"]
        assert cli.main([*command, "--overwrite"]) == 0
        labels = read_labels(tmp_path / "out/scan.nii.gz")[0]
        whole = session.finish()
        np.testing.assert_array_equal(whole.labels, labels)
        (case,) = json.loads((tmp_path / "out/run.json").read_text())["cases"]
        assert case["dental_field"] == whole.record.dental_field
        (z0, z1), (y0, y1), (x0, x1) = case["dental_field"]["voxels"]
        assert all(a <= c < b for c, (a, b) in zip(voxel, ((z0, z1), (y0, y1), (x0, x1))))
        assert labels[z0:z1, y0:y1, x0:x1].any()
        labels[z0:z1, y0:y1, x0:x1] = 0
        assert not labels.any()
        assert any("only" in line and "were segmented" in line for line in case["warnings"])
        page = (tmp_path / "out/scan.report.html").read_text(encoding="utf-8")
        assert (
            f"only the dental field was segmented, {'x'.join(f'{mm:g}' for mm in case['dental_field']['mm'])} mm"
            in page
        )
    assert "warning: " in capsys.readouterr().err
    assert cli.main([*command, "--strict", "--dental-field", "off"]) == 0
    off = umamba2.load(model, challenge=INTERACTIVE, dental_field="off", **options)
    labels = read_labels(tmp_path / "out/scan.nii.gz")[0]
    np.testing.assert_array_equal(labels, off.segment(path, tmp_path / "clicks.json").labels)
    assert cli.main([*command, "--strict"]) == 1


def test_models_without_clicks_have_no_sessions(tmp_path):
    segmenter = umamba2.load(make_model(tmp_path / "m"), challenge="none", device="cpu")
    with pytest.raises(umamba2.InputError, match="found a model that takes no clicks"):
        segmenter.session((np.zeros((3, 3, 3)), (1, 1, 1)))


def test_who_watches_is_told_of_every_pass_and_can_stop(tmp_path, clickable):
    path, seen = clicked_scan(tmp_path), []
    segmentation = clickable.segment(path, watch=lambda *numbers: seen.append(numbers))
    total = segmentation.record.passes_asked * segmentation.record.tiles
    assert total > segmentation.record.tiles > 1
    assert seen == [(done, total) for done in range(total + 1)]

    def stop(done, total):
        if done == 3:
            raise umamba2.Cancelled("enough")

    with pytest.raises(umamba2.Cancelled, match="enough"):
        clickable.segment(path, watch=stop)
    session = clickable.session(path)
    with pytest.raises(umamba2.Cancelled):
        session.finish(watch=stop)
    np.testing.assert_array_equal(session.finish().labels, segmentation.labels)
