"""The container's entry point, on the platforms' layouts, with a predictor that needs no network."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from challenge_names import INTERACTIVE, MULTICLASS, STSR, TASKS
from stand_in import (
    OBLIQUE,
    StandInLoader,
    image_folder,
    load_stand_in,
    scan,
    write_clicks,
    write_image,
    write_model,
    write_models,
)

from umamba2.anatomy.numberings import from_training
from umamba2.jobs import container
from umamba2.scans.volumes import Geometry, read_labels

ROOT = Path(__file__).resolve().parents[2]
OUTPUT_FOLDER = {MULTICLASS: "images/oral-pharyngeal-segmentation", INTERACTIVE: "images/iac-segmentation", STSR: ""}


@pytest.fixture
def inference(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for name in list(os.environ):
        if name.startswith("UMAMBA2_"):
            monkeypatch.delenv(name)
    stand_in = types.ModuleType("umamba2.engine.predict")
    stand_in.Predictor = StandInLoader
    monkeypatch.setitem(sys.modules, "umamba2.engine.predict", stand_in)
    monkeypatch.setattr("umamba2.models.folder.load_model", load_stand_in)
    monkeypatch.setattr(container, "process_start", time.monotonic)  # that of the test runner may be long ago
    StandInLoader.made.clear()
    import inference

    return inference


@pytest.fixture
def job(inference, tmp_path, capfd):
    """Runs a challenge on tmp_path/in; returns exit code, lines of stderr (those of C libraries too), output folder."""
    models = write_models(tmp_path / "models")

    def run(task, *options, model=models, source=tmp_path / "in"):
        out = tmp_path / "out"
        arguments = ["--challenge", task, "--input", str(source), "--output", str(out), "--model", str(model)]
        code = inference.main([*arguments, *options])
        return code, capfd.readouterr().err.splitlines(), out

    return run


def one_line(errors, *parts):
    (line,) = errors
    for part in (*parts, "found", "expected"):
        assert str(part) in line
    return line


def output_of(task, out, image):
    name = image.name if task != STSR else image.name.replace(".nii.gz", "_Mask.nii.gz")
    return out / OUTPUT_FOLDER[task] / name


def ending_for(task, preferred=".mha"):
    return ".nii.gz" if task == STSR else preferred


# --- the good case ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nii.gz", ".nii", ".nrrd", ".tif"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint16])
def test_the_grid_comes_back_exactly(job, tmp_path, ending, dtype):
    array = np.maximum(scan((1, 2), (46, 4)), 0 if dtype == np.uint16 else -1000).astype(dtype)
    image = write_image(tmp_path / f"in/images/cbct/P1{ending}", array)
    code, errors, out = job(MULTICLASS)
    odd = [f"warning: {image}: found no voxel size"] if ending == ".tif" else []
    assert (code, [error.partition(",")[0] for error in errors]) == (0, odd)
    before = sitk.ReadImage(str(image))
    after = sitk.ReadImage(str(out / OUTPUT_FOLDER[MULTICLASS] / image.name))
    assert after.GetSize() == before.GetSize()
    assert after.GetSpacing() == before.GetSpacing()
    assert after.GetOrigin() == before.GetOrigin()
    if ".nii" in ending:  # rotations are stored as quaternions of float32, so they are rounded each time
        np.testing.assert_allclose(after.GetDirection(), before.GetDirection(), rtol=0, atol=1e-7)
    else:
        assert after.GetDirection() == before.GetDirection()
    assert after.GetPixelID() == sitk.sitkUInt8
    expected = np.select([array == 1001, array == 1046], [1, 50])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), expected)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_nifti_grids_along_the_axes_come_back_exactly(job, tmp_path, flips):
    direction = tuple(np.diag(flips).astype(float).ravel())
    geometry = Geometry((13, 11, 7), (0.3, 0.25, 0.1234567), (-71.3, 0.1, 1234.567), direction)
    image = write_image(tmp_path / "in/a.nii.gz", scan(), geometry)
    code, _, out = job(STSR)
    assert code == 0
    assert read_labels(out / "a_Mask.nii.gz")[1] == read_labels(image)[1]


def test_outputs_are_compressed(job, tmp_path):
    write_image(tmp_path / "in/images/cbct/P1.mha", scan(shape=(40, 50, 60)))
    _, _, out = job(MULTICLASS)
    assert (out / OUTPUT_FOLDER[MULTICLASS] / "P1.mha").stat().st_size < 40 * 50 * 60 / 10


def test_six_runs_of_one_scan(job, tmp_path):
    points = [("Left_IAC", [3, 5, x]) for x in range(4, 9)] + [("Right_IAC", [1, 5, x]) for x in range(4, 9)]
    for run in range(6):
        write_image(tmp_path / f"in/images/cbct/P7_{run}.mha", scan((1, 3)))
        write_clicks(tmp_path / f"in/iac_clicks_P7_{run}.json", *points[:run], *points[5 : 5 + run])
    code, errors, out = job(INTERACTIVE)
    assert (code, errors) == (0, [])
    assert [len(clicks.labels) for _, _, clicks in StandInLoader.made[0].calls] == [0, 2, 4, 6, 8, 10]
    names = [f"P7_{run}.mha" for run in range(6)]
    assert sorted(path.name for path in (out / "images/iac-segmentation").iterdir()) == names
    results = json.loads((out / "results.json").read_text())
    assert [entry["outputs"][0]["filename"] for entry in results] == names


def test_one_line_per_case_on_stdout(inference, tmp_path, capsys):
    write_models(tmp_path / "models")
    image = write_image(tmp_path / "in/a.nii.gz", scan())
    arguments = ["--input", str(image.parent), "--output", str(tmp_path / "out"), "--model", str(tmp_path / "models")]
    assert inference.main(arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("a.nii.gz  7x11x13  ")
    assert line.endswith(f" s  -> {tmp_path / 'out/a_Mask.nii.gz'}")


def test_settings_reach_the_predictor(job, tmp_path):
    write_image(tmp_path / "in/a.nii.gz", scan())
    job(STSR, "--folds", "0", "all", "--device", "cpu", "--precision", "fp32")
    settings = StandInLoader.made[0].settings
    assert settings == {
        "folder": tmp_path / "models/stsr", "folds": ["0", "all"], "device": "cpu", "precision": "fp32",
        "tile_step": 0.8, "mirror_axes": (1, 2), "left_right_pairs": (), "blend": "published", "progress": False,
        "deterministic": False, "dental_field": None,
    }  # fmt: skip
    job(STSR, "--dental-field", "on")
    assert StandInLoader.made[1].settings["dental_field"].size == (64, 90, 114)


def test_the_environment_sets_what_options_do_not(inference, tmp_path, monkeypatch):
    write_image(tmp_path / "in/a.nii.gz", scan())
    write_model(tmp_path / "model", STSR)
    for name, value in (("CHALLENGE", "stsr"), ("INPUT", "in"), ("OUTPUT", "out"), ("MODEL", "model")):
        monkeypatch.setenv(f"UMAMBA2_{name}", value)
    monkeypatch.setenv("UMAMBA2_STSR_SUFFIX", "_mask")
    monkeypatch.chdir(tmp_path)
    assert inference.main([]) == 0
    assert inference.main(["--suffix", "_Masks"]) == 0
    monkeypatch.setenv("UMAMBA2_CHALLENGE", "")  # as the image sets it: to be recognised
    monkeypatch.setenv("UMAMBA2_STSR_SUFFIX", "")
    assert inference.main(["--output", "out2"]) == 0
    assert inference.main(["--output", "out2", "--suffix", ""]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_Masks.nii.gz", "a_mask.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "out2").iterdir()) == ["a.nii.gz", "a_Mask.nii.gz"]


def test_the_default_model_places(inference, tmp_path, monkeypatch):
    mounted, resources = tmp_path / "mounted", tmp_path / "resources"
    monkeypatch.setattr(container, "MODEL_PLACES", (mounted, resources))
    write_image(tmp_path / "in/a.nii.gz", scan())
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    write_models(resources)
    assert inference.main(arguments) == 0
    write_model(mounted, STSR)
    assert inference.main(arguments) == 0
    assert [made.settings["folder"] for made in StandInLoader.made] == [resources / "stsr", mounted]


def test_resources_lie_beside_the_entry_point():
    mounted, beside = container.MODEL_PLACES
    assert str(mounted) == "/opt/ml/model"
    assert beside == ROOT / "resources"


def test_starts_from_any_folder_and_without_torch(tmp_path):
    for command in (
        [str(ROOT / "inference.py"), "--help"],
        ["-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import inference; assert 'torch' not in sys.modules"],
        # what is found wrong before a model is needed must not wait for torch either
        ["-X", "importtime", str(ROOT / "inference.py"), "--input", str(tmp_path), "--output", str(tmp_path / "out")],
    ):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == (1 if "-X" in command else 0), done.stderr
        assert not re.search(r"\|\s+torch$", done.stderr, re.MULTILINE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_written_outside_the_output_and_no_file_stays_open(job, tmp_path, task, monkeypatch):
    folder = image_folder(task, tmp_path / "in")
    write_image(folder / f"a_0{ending_for(task)}", scan((1, 3)))
    (folder / f"b_0{ending_for(task)}").write_bytes(b"nonsense")
    if task == INTERACTIVE:
        write_clicks(tmp_path / "in/iac_clicks_a_0.json", ("Left_IAC", [3, 5, 5]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    job(task)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if tmp_path / "out" not in path.parents}
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed - {tmp_path / "out", tmp_path} == set()
    assert not list((tmp_path / "out").rglob(".umamba2-*"))
    handles = Path("/proc/self/fd")
    if handles.is_dir():  # Linux
        opened = [os.readlink(handle) for handle in handles.iterdir() if handle.is_symlink()]
        assert not [path for path in opened if path.startswith(str(tmp_path))]


# --- bad input: one line, the others go on, exit code 1 where a case has no output ------------------------------------


def test_no_input_is_overwritten(inference, tmp_path, capsys):
    write_models(tmp_path / "models")
    images = [write_image(tmp_path / f"in/{name}.nii.gz", scan((1, 2))) for name in "ab"]
    before = [image.read_bytes() for image in images]
    (tmp_path / "out").symlink_to(tmp_path / "in")
    options = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--model", str(tmp_path / "models")]
    assert inference.main([*options, "--suffix", ""]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("found an input as its output" in error for error in errors)
    assert [image.read_bytes() for image in images] == before


@pytest.mark.parametrize("full", [False, True])
def test_the_terminal_stops_nothing(tmp_path, full):
    if full and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    names = ["a\nb.mha", "\u00e4.mha", os.fsdecode(b"\xe9.mha")]
    for name in names:
        (tmp_path / "in/images/cbct").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/images/cbct" / name).write_bytes(write_image(tmp_path / "scan.mha", scan()).read_bytes())
    program = f"""
import sys, types
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import stand_in
sys.modules["umamba2.engine.predict"] = types.ModuleType("predict")
sys.modules["umamba2.engine.predict"].Predictor = stand_in.StandInLoader
import umamba2.models.folder
umamba2.models.folder.load_model = stand_in.load_stand_in
import inference
sys.exit(inference.main(sys.argv[1:]))
"""
    write_models(tmp_path / "models")
    command = [sys.executable, "-c", program, "--input", "in", "--output", "out", "--model", "models"]
    with open("/dev/full" if full else tmp_path / "said", "wb") as said:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=said, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    errors = done.stderr.decode().splitlines()
    assert sum("found a file name that is not UTF-8" in error for error in errors) == 1
    assert sum("standard output: found it unusable (No space left" in error for error in errors) == full
    assert len(errors) == 1 + full
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [entry["inputs"][0]["filename"] for entry in results] == names[:2]
    if not full:
        first, second = (tmp_path / "said").read_text().splitlines()
        assert first.startswith("a\\nb.mha  7x11x13  ")
        assert second.startswith("\\xe4.mha  7x11x13  ")


def make_unreadable(path):
    path.write_bytes(b"ObjectType = Image\nNDims = 3\nrubbish" if path.suffix == ".mha" else b"\x1f\x8brubbish")


def make_truncated(path):
    write_image(path, np.random.default_rng(0).integers(-1000, 3000, (7, 11, 13)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-1500])


def make_2d(path):
    write_image(path, np.zeros((4, 5), np.int16), None)


def make_4d(path):
    array = sitk.JoinSeries([sitk.GetImageFromArray(scan())] * 2)
    sitk.WriteImage(array, str(path))


def make_colour(path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(path))


def make_zero_size(path):
    if path.suffix == ".mha":
        header = "ObjectType = Image\nNDims = 3\nDimSize = 0 4 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        path.write_text(header)
    else:
        write_image(path, scan(), None)
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[42:44] = (0).to_bytes(2, "little")  # NIfTI header: size along x
        path.write_bytes(gzip.compress(bytes(content)))


def make_only_nan(path):
    write_image(path, np.full((4, 5, 6), np.nan, np.float32))


BAD_FILES = {
    "unreadable": (make_unreadable, "could not be read"),
    "truncated": (make_truncated, "expected"),
    "empty": (lambda path: path.write_bytes(b""), "found an empty file (0 bytes), expected an image"),
    "2-D": (make_2d, "found a 2-D image"),
    "4-D": (make_4d, "found a 4-D image"),
    "colour": (make_colour, "found 3 values per voxel, expected 1"),
    "zero-size": (make_zero_size, ""),
    "only NaN": (make_only_nan, "found only NaN or infinite voxels, expected intensities"),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_image_costs_one_line_and_itself(job, tmp_path, task, kind):
    make, says = BAD_FILES[kind]
    folder, ending = image_folder(task, tmp_path / "in"), ending_for(task)
    good = [write_image(folder / f"{name}_0{ending}", scan()) for name in "ac"]
    bad = folder / f"b_0{ending}"
    make(bad)
    if task == INTERACTIVE:
        for name in "abc":
            write_clicks(tmp_path / f"in/iac_clicks_{name}_0.json")
    code, errors, out = job(task)
    assert code == 1
    (line,) = errors
    assert line.startswith(f"error: {bad}: ")
    assert says in line
    assert "expected" in line
    for image in good:
        assert read_labels(output_of(task, out, image))[1].size == OBLIQUE.size
    assert not output_of(task, out, bad).exists()
    if task != STSR:
        results = json.loads((out / "results.json").read_text())
        assert [entry["inputs"][0]["filename"] for entry in results] == [image.name for image in good]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_scan_with_some_bad_voxels_is_segmented_all_the_same(job, tmp_path, task, value):
    array = scan((1, 2)).astype(np.float32)
    array[0, 0, :3] = value
    image = write_image(image_folder(task, tmp_path / "in") / f"a_0{ending_for(task)}", array)
    if task == INTERACTIVE:
        write_clicks(tmp_path / "in/iac_clicks_a_0.json")
    code, errors, out = job(task)
    assert code == 0  # there is an output
    line = one_line(errors, f"warning: {image}", "3 NaN or infinite voxels", "finite")
    labels, _ = read_labels(output_of(task, out, image))
    assert labels.any() == (task != INTERACTIVE)  # a canal of 21 voxels is too small to stay
    if task != STSR:
        (entry,) = json.loads((out / "results.json").read_text())
        assert entry["error_messages"] == [line.removeprefix("warning: ")]


@pytest.mark.parametrize("task", TASKS)
def test_a_failing_network_leaves_background(job, tmp_path, task):
    folder, ending = image_folder(task, tmp_path / "in"), ending_for(task)
    array = scan((1, 2))
    array[0, 0, 0] = 9999
    bad, good = write_image(folder / f"a_0{ending}", array), write_image(folder / f"b_0{ending}", scan((1, 2)))
    if task == INTERACTIVE:
        for name in "ab":
            write_clicks(tmp_path / f"in/iac_clicks_{name}_0.json")
    code, errors, out = job(task)
    assert code == 0  # there is an output
    line = one_line(errors, f"error: {bad}", "RuntimeError", "ran out of memory", "is background only")
    labels, geometry = read_labels(output_of(task, out, bad))
    assert not labels.any()
    assert geometry.size == read_labels(bad)[1].size
    assert output_of(task, out, good).is_file()
    if task != STSR:
        first, second = json.loads((out / "results.json").read_text())
        assert first["error_messages"] == [line.removeprefix("error: ")]
        assert second["error_messages"] == []


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["iac_clicks_a_0.json", "no such file", "clicks of this case"]),
        ("{", ["iac_clicks_a_0.json", "no readable JSON", "click file"]),
        ('{"points": 3}', ["iac_clicks_a_0.json", "{'points': 3}", "list of 'points'"]),
        ({"point": [3, 5, 13], "name": "Left_IAC"}, ["click 1", "[3, 5, 13]", "shape (7, 11, 13)"]),
        ({"point": [3, 5, 5], "name": "Tongue"}, ["click 1", "'Tongue'", "Left_IAC or Right_IAC"]),
    ],
)
def test_bad_clicks_cost_one_line_and_themselves(job, tmp_path, content, parts):
    good = {"point": [1, 1, 1], "name": "Right_IAC"}
    for name in "ab":
        write_image(tmp_path / f"in/images/cbct/{name}_0.mha", scan((1, 2)))
    (tmp_path / "in/iac_clicks_b_0.json").write_text(json.dumps({"points": [good]}))
    if content is not None:
        text = content if isinstance(content, str) else json.dumps({"points": [content, good]})
        (tmp_path / "in/iac_clicks_a_0.json").write_text(text)
    code, errors, out = job(INTERACTIVE)
    assert code == 0  # there is an output
    line = one_line(errors, "warning: ", tmp_path / "in", *parts)
    assert sorted(path.name for path in (out / "images/iac-segmentation").iterdir()) == ["a_0.mha", "b_0.mha"]
    counts = [len(clicks.labels) for _, _, clicks in StandInLoader.made[0].calls]
    assert counts == [1 if isinstance(content, dict) else 0, 1]
    first, second = json.loads((out / "results.json").read_text())
    assert first["error_messages"] == [line.removeprefix("warning: ")]
    assert second["error_messages"] == []


def test_strict_fails_for_what_is_only_degraded(job, tmp_path):
    array = scan((1, 2)).astype(np.float32)
    image = write_image(tmp_path / "in/a.nii.gz", array)
    assert job(STSR, "--strict")[0] == 0
    array[0, 0, 0] = np.nan
    write_image(image, array)
    assert job(STSR)[0] == 0
    assert job(STSR, "--strict")[0] == 1


def test_the_run_leaves_a_record(job, tmp_path):
    write_image(tmp_path / "in/images/cbct/a.mha", scan((1, 2)))
    (tmp_path / "in/images/cbct/b.mha").write_bytes(b"")
    _, (error,), out = job(MULTICLASS, "--time-limit", "1000")
    record = json.loads((out / "metadata/run.json").read_text())
    assert record["versions"]["umamba2"]
    assert record["settings"]["tile_step"] == 0.95
    assert 0 < record["seconds_left"] < 1000
    first, second = record["cases"]
    assert (first["image"], first["output"], first["warnings"]) == ("a.mha", "a.mha", [])
    assert set(first["seconds"]) == {"read", "postprocess", "write"}
    assert (second["output"], second["warnings"]) == (None, [error.removeprefix("error: ")])


def test_a_record_that_cannot_be_written_is_no_failure(job, tmp_path):
    write_image(tmp_path / "in/images/cbct/a.mha", scan((1, 2)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/metadata").write_text("a file where the folder should be")
    code, (warning,), out = job(MULTICLASS)
    assert code == 0
    assert warning.startswith(f"warning: {out / 'metadata/run.json'}: could not be written")
    assert (out / "results.json").is_file()


def test_cases_share_the_time(job, tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 1000.0)  # reading and segmenting take no time at all
    monkeypatch.setattr("umamba2.jobs.job.time", clock)
    monkeypatch.setattr(container, "process_start", lambda: 900.0)
    for name in "abc":
        write_image(tmp_path / f"in/{name}.nii.gz", scan((1, 2)))
    job(STSR, "--time-limit", "400")
    after = 3e-7 * 7 * 11 * 13  # seconds that what follows the network may take
    expected = [1000 + 0.95 * 300 / cases - after for cases in (3, 2, 1)]
    assert StandInLoader.made[0].deadlines == pytest.approx(expected, abs=1e-6)
    job(STSR)
    assert StandInLoader.made[1].deadlines == [None] * 3


def test_the_process_started_before_now_and_not_long_ago():
    code = "import time; from umamba2.jobs.container import process_start; print(time.monotonic() - process_start())"
    began = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT).stdout)
    assert 0 < age < time.monotonic() - began + 0.02  # the system counts in hundredths of a second


@pytest.mark.parametrize("limit", ["0", "-3", "nan", "soon"])
def test_a_time_limit_is_a_positive_number(inference, limit, capsys):
    with pytest.raises(SystemExit):
        inference.main(["--time-limit", limit])
    assert "expected a positive number of seconds" in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_no_model(job, tmp_path, task):
    write_image(image_folder(task, tmp_path / "in") / f"a{ending_for(task)}", scan())
    code, errors, out = job(task, model=tmp_path / "absent")
    assert code == 1
    one_line(errors, f"error: {tmp_path / 'absent'}: found no model", "model.json or fold_*")
    assert not out.exists()


def test_a_model_for_another_challenge(job, tmp_path):
    write_image(tmp_path / "in/a.nii.gz", scan())
    code, errors, out = job(STSR, model=tmp_path / "models" / MULTICLASS)
    assert code == 1
    one_line(errors, f"error: {tmp_path / 'models' / MULTICLASS}: ", "47 classes", "13 classes", "stsr")
    assert not out.exists()


@pytest.mark.parametrize("task", TASKS)
def test_no_images(job, tmp_path, task):
    (tmp_path / "in").mkdir()
    code, errors, out = job(task)
    assert code == 1
    one_line(errors, f"error: {image_folder(task, tmp_path / 'in')}: found no images", ".mha")
    assert not out.exists()


def test_an_unknown_challenge(job, tmp_path):
    code, errors, _ = job("toothfairy4")
    assert code == 1
    one_line(errors, "error: challenge: found 'toothfairy4'", STSR)


@pytest.mark.parametrize("task", TASKS)
def test_an_output_that_cannot_be_written(job, tmp_path, task):
    write_image(image_folder(task, tmp_path / "in") / f"a_0{ending_for(task)}", scan())
    if task == INTERACTIVE:
        write_clicks(tmp_path / "in/iac_clicks_a_0.json")
    (tmp_path / "out").write_text("a file where the folder should be")
    code, errors, out = job(task)
    assert code == 1
    assert errors
    assert all(line.startswith(f"error: {out}") and "expected a writable folder" in line for line in errors)


# --- with a network ---------------------------------------------------------------------------------------------------


@pytest.fixture
def one_thread():
    # On tiles this small, threads wait for each other more than they work.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("task", TASKS)
def test_the_whole_way_with_a_network(task, tmp_path, monkeypatch, capfd, one_thread):
    from small_models import make_model

    from umamba2.challenges import CHALLENGES
    from umamba2.engine.postprocess import postprocess
    from umamba2.engine.predict import Predictor
    from umamba2.scans.clicks import Clicks
    from umamba2.scans.volumes import read_volume

    monkeypatch.syspath_prepend(str(ROOT))
    import inference

    challenge = CHALLENGES[task]
    network = "nnunetv2.nets." + ("UMambaBot2_CrossAttn_Click2" if task == INTERACTIVE else "UMambaBot2")
    model = make_model(tmp_path / "models" / task, network, challenge.num_classes, mirror_axes=(0, 1, 2))
    array = np.random.default_rng(0).integers(-1000, 3000, (14, 40, 24)).astype(np.int16)
    geometry = Geometry((24, 40, 14), (0.35, 0.3, 0.25), OBLIQUE.origin, OBLIQUE.direction)
    image = write_image(image_folder(task, tmp_path / "in") / f"a_2{ending_for(task)}", array, geometry)
    write_clicks(tmp_path / "in/iac_clicks_a_2.json", ("Right_IAC", [3, 20, 10]))
    arguments = ["--challenge", task, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    options = ["--model", str(tmp_path / "models"), "--device", "cpu", "--precision", "fp32"]
    assert inference.main([*arguments, *options]) == 0
    assert capfd.readouterr().err == ""

    volume = read_volume(image)
    predictor = Predictor.load(model, device="cpu", precision="fp32", **challenge.predictor_settings())
    clicks = Clicks(np.array([[3, 20, 10]], np.float32), np.array([1])) if task == INTERACTIVE else None
    raw = predictor.predict(volume.array, volume.spacing, clicks)
    assert raw.any()
    labels, _ = read_labels(output_of(task, tmp_path / "out", image))
    expected = from_training(challenge.structures)[postprocess(raw, challenge, volume.spacing, clicks)]
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("when", ["first tile", "later", "second time"])
def test_sigterm_leaves_an_output_for_every_scan(tmp_path, when):
    """In a process of its own, which ends by itself; what was segmented before the signal stays."""
    from small_models import make_model

    make_model(tmp_path / "models/stsr", classes=13)
    array = np.random.default_rng(0).integers(-1000, 3000, (60, 40, 24)).astype(np.int16)
    for name in "ab":
        write_image(
            tmp_path / f"in/{name}.nii.gz", array, Geometry((24, 40, 60), (0.3,) * 3, (0,) * 3, OBLIQUE.direction)
        )
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import inference
from umamba2.engine.runner import Runner
mean, calls = Runner._mean, []
def slow(*arguments):
    calls.append(1)
    if len(calls) == {1 if when == "first tile" else 5}:
        os.kill(os.getpid(), signal.SIGTERM)
        {"os.kill(os.getpid(), signal.SIGTERM)" if when == "second time" else ""}
    return mean(*arguments)
Runner._mean = slow
if {when == "second time"}:
    from umamba2.jobs import termination
    termination.Listener.endable = property(lambda self: False, lambda self, value: None)
sys.exit(inference.main(sys.argv[1:]))
"""
    arguments = ["--challenge", STSR, "--input", "in", "--output", "out", "--model", "models", "--device", "cpu"]
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    if when == "second time":
        assert done.returncode == -15
        return
    assert done.returncode == 0, done.stderr
    assert "Terminated (SIGTERM)" in done.stderr
    first, second = (read_labels(tmp_path / f"out/{name}_Mask.nii.gz")[0] for name in "ab")
    assert first.shape == second.shape == array.shape
    assert first.any() == (when == "later")
    assert not second.any()


@pytest.mark.parametrize("first", [False, True], ids=["a process", "the first process of a container"])
@pytest.mark.parametrize("when", ["while torch is imported", "while the model is loaded"])
def test_sigterm_before_there_is_a_model_leaves_background(tmp_path, when, first):
    from small_models import make_model

    namespace = ["unshare", "--pid", "--fork", "--mount-proc"] if first else []
    if first and subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root on Linux for a namespace of processes")

    make_model(tmp_path / "models/stsr", classes=13)
    write_image(tmp_path / "in/a.nii.gz", scan())
    trap = "umamba2.engine.predict" if "torch" in when else "umamba2.models.folder"
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import inference
class Trap:
    def find_spec(self, name, *_):
        if name == {trap!r}:
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Trap())
sys.exit(inference.main(sys.argv[1:]))
"""
    arguments = ["--challenge", STSR, "--input", "in", "--output", "out", "--model", "models"]
    done = subprocess.run(
        [*namespace, sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Terminated (SIGTERM)" in done.stderr
    labels, geometry = read_labels(tmp_path / "out/a_Mask.nii.gz")
    assert geometry.size == OBLIQUE.size
    assert not labels.any()


def test_the_handler_comes_before_anything_slow():
    code = "import sys, inference; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "SimpleITK", "torch"} & set(done.stdout.split())


def test_what_nobody_foresaw_is_one_line(inference, monkeypatch, capsys):
    monkeypatch.setattr(container, "mounts", lambda *_: {}["no such key"])
    assert inference.main(["--challenge", STSR]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: found KeyError ('no such key'), expected")
