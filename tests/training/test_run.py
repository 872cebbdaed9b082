"""From a folder of scans to pretraining, up to where nnU-Net trains; what a dry run leaves, and its verdict."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from challenge_names import STSR
from downloads import SHAPE, phantom, write

import umamba2
from umamba2 import cli
from umamba2.challenges import CHALLENGES
from umamba2.challenges.recipe import SMALL
from umamba2.errors import InputError
from umamba2.scans import volumes
from umamba2.training import nnunet, preprocess, workers
from umamba2.training.nnunet import PLANS
from umamba2.training.options import Options
from umamba2.training.run import pretrain, train

pytest.importorskip("nnunetv2")

STEPS = {".mha": 2.0, ".nii.gz": 2.0, ".nrrd": 3.0}  # mm; their median decides about the grid


@pytest.fixture
def scans(tmp_path):
    """By name, of three kinds; the first one is the largest."""
    paths = {}
    for number, (ending, mm) in enumerate(STEPS.items()):
        image = phantom(number).image[: SHAPE[0] - number]
        paths[f"scan_{number}"] = write(tmp_path / "scans" / f"scan_{number}{ending}", image, (mm,) * 3)
    return paths


@pytest.fixture
def trained(monkeypatch):
    """What nnU-Net finds when it is asked to train: the plans, and the preprocessed cases. It trains nothing."""
    found = {}

    def look(dataset, fold, trainer, options, folders, *_):
        target = folders[0] / dataset
        found["description"] = json.loads((target / "dataset.json").read_text())
        found["plans"] = json.loads((target / f"{PLANS}.json").read_text())
        cases = next(path for path in target.iterdir() if path.is_dir() and not path.name.endswith("_made"))
        found["cases"] = {path.stem: stored(cases, path.stem) for path in cases.glob("*.pkl")}
        raise Looked

    monkeypatch.setattr(nnunet, "run_training", look)
    return found


class Looked(Exception):
    pass


def stored(folder, case):
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    return np.asarray(nnUNetDatasetBlosc2(str(folder)).load_case(case)[0][0])


def pretrained(scans, out, **options):
    with pytest.raises(Looked):
        pretrain(scans, out, CHALLENGES[STSR], Options(**options), patch=(16, 32, 32), architecture=SMALL, device="cpu")


def test_pretraining_reads_the_voxels_of_a_scan_once(scans, trained, tmp_path, monkeypatch):
    read, voxels_of = [], volumes.read_voxels

    def counted(name, *arguments):
        read.append((Path(name).name, arguments[-1]))
        return voxels_of(name, *arguments)

    monkeypatch.setattr(volumes, "read_voxels", counted)
    monkeypatch.setattr(sitk, "ReadImage", lambda *_: pytest.fail("nnU-Net has read a scan"))
    pretrained(scans, tmp_path / "out")
    names = [path.name for path in scans.values()]
    assert sorted(name for name, grid_only in read if not grid_only) == names
    assert [name for name, grid_only in read if grid_only] == names
    assert trained["plans"]["configurations"]["3d_fullres"]["spacing"] == [2.0, 2.0, 2.0]
    shapes = {case: array.shape for case, array in trained["cases"].items()}
    z, y, x = SHAPE
    assert shapes["scan_0"] == SHAPE
    assert shapes["scan_1"] == (z - 1, y, x)
    assert shapes["scan_2"] == tuple(round(n * 1.5) for n in (z - 2, y, x))
    # Normalised as the plans say, by a formula of its own.
    settings = trained["plans"]["foreground_intensity_properties_per_channel"]["0"]
    clipped = np.clip(phantom(0).image.astype(float), settings["percentile_00_5"], settings["percentile_99_5"])
    expected = (clipped - settings["mean"]) / settings["std"]
    np.testing.assert_allclose(trained["cases"]["scan_0"], expected, atol=1e-5)


def test_scans_are_pretrained_on_as_they_are_segmented(trained, tmp_path, capsys):
    """Metres instead of mm, and NaN: put right with a warning, as `umamba2 predict` does."""
    folder, image = tmp_path / "scans", phantom(0).image
    write(folder / "a.mha", image, (1.5,) * 3)
    write(folder / "b.mha", image, (0.0015,) * 3)
    spoilt = image.astype(np.float32)
    place = np.unravel_index(image.argmax(), image.shape)
    spoilt[place] = np.nan
    write(folder / "c.mha", spoilt, (1.5,) * 3)
    arguments = ["pretrain", folder, "-o", tmp_path / "out", "--preset", STSR, "--patch", 16, 32, 32]
    assert cli.main([str(one) for one in (*arguments, "--network", "small", "--workers", 1, "--device", "cpu")]) == 1
    said = capsys.readouterr().err
    assert "b.mha: found a voxel size of 0.0015 x 0.0015 x 0.0015 mm" in said
    assert "c.mha: found 1 NaN or infinite voxels, expected finite intensities" in said
    cases = trained["cases"]
    np.testing.assert_array_equal(cases["a"], cases["b"])
    assert np.count_nonzero(cases["a"] != cases["c"]) == 1
    assert cases["c"][place] == cases["a"].min()


def test_a_scan_that_cannot_be_read_is_named(scans, trained, tmp_path, caplog):
    whole = scans["scan_0"].read_bytes()
    scans["scan_0"].write_bytes(whole[:-200] + bytes(200))  # which no header shows
    with pytest.raises(InputError, match="preprocessing: found 1 of 3 cases that failed, expected none"):
        pretrain(scans, tmp_path / "out", CHALLENGES[STSR], Options(), patch=(16, 32, 32), architecture=SMALL)
    assert f"{scans['scan_0']}: found" in caplog.text
    write(scans["scan_0"], phantom(0).image, (1e-5,) * 3)  # no unit makes that plausible
    with pytest.raises(InputError, match="preprocessing: found 1 of 1 cases that failed, expected none"):
        pretrain(scans, tmp_path / "out", CHALLENGES[STSR], Options(), patch=(16, 32, 32), architecture=SMALL)
    assert f"{scans['scan_0']}: found nnU-Net stopped (" in caplog.text
    scans["scan_0"].write_bytes(b"nothing")
    with pytest.raises(InputError, match="reading headers: found 1 of 3 cases that failed, expected none"):
        pretrain(scans, tmp_path / "out", CHALLENGES[STSR], Options(), patch=(16, 32, 32), architecture=SMALL)


def test_a_second_run_leaves_the_first_ones_scans_alone(scans, tmp_path):
    """Whatever it would preprocess: it is kept out before it writes anything."""
    out = tmp_path / "out"
    hold = "import sys; from pathlib import Path; from umamba2.training.lock import alone_in\n"
    hold += "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True)\n    input()"
    first = subprocess.Popen(
        [sys.executable, "-c", hold, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(umamba2.__file__).parents[1])},
    )  # fmt: skip
    assert first.stdout.readline() == "in\n"
    with pytest.raises(InputError, match="out: found another run at work in it, expected none"):
        pretrain(scans, out, CHALLENGES[STSR], Options(epochs=1, iterations=1), patch=(16, 32, 32), architecture=SMALL)
    first.kill()
    first.wait()
    assert [path.name for path in out.rglob("*")] == [".lock"]


@pytest.mark.parametrize(("free", "more"), [(10**12, ""), (200_000, r"; 0\.2 MB of disk are left")])
def test_a_full_disk_of_which_the_library_says_nothing(tmp_path, monkeypatch, free, more):
    class Full:
        warnings = ()

        def __init__(self, verbose):
            pass

        def run_case_save(self, *arguments):
            raise RuntimeError("Error while creating the NDArray")

    monkeypatch.setattr(preprocess, "Preprocessor", Full)
    monkeypatch.setattr(preprocess, "PlansManager", lambda plans: SimpleNamespace(get_configuration=lambda name: None))
    monkeypatch.setattr(preprocess, "stamps", lambda *files: None)
    monkeypatch.setattr(preprocess.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    said = rf"x\.partial/a: could not be written \(Error while creating the NDArray{more}\), expected a writable"
    with pytest.raises(InputError, match=said):
        preprocess.preprocess_case(tmp_path / "plans.json", "a", tmp_path / "a.mha", None, tmp_path / "x")


# --- dry runs ---------------------------------------------------------------------------------------------------------


def everything_below(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_dry_run_of_pretraining_tries_the_largest_scan_and_leaves_nothing(scans, trained, tmp_path):
    before = everything_below(tmp_path)
    pretrained(scans, tmp_path / "far" / "out", dry_run=True)
    assert list(trained["cases"]) == ["scan_0"]
    assert trained["description"]["numTraining"] == 3  # which decides about the length of an epoch
    assert everything_below(tmp_path) == before


def test_there_must_be_room_for_all_scans_in_a_dry_run_too(scans, tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr(preprocess, "run_all", lambda work, tasks, *_: {case: [] for case in tasks})
    monkeypatch.setattr(preprocess, "check_disk", lambda folder, needed, title: wanted.append(needed))
    for number, dry_run in enumerate((False, True)):
        with mock.patch.object(nnunet, "run_training", side_effect=Looked):
            pretrained(scans, tmp_path / str(number), dry_run=dry_run)
    assert wanted[0] == wanted[1] > 0
    monkeypatch.setattr(workers, "available", lambda: 1e8)
    verdict = r"^dry run: this machine does not suffice; memory: found 100.0 MB free, expected .*B for preprocessing$"
    with pytest.raises(InputError, match=verdict):
        pretrain(scans, tmp_path / "x", CHALLENGES[STSR], Options(dry_run=True), patch=(16, 32, 32), architecture=SMALL)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_gpu_that_is_too_small_is_a_verdict(tmp_path, monkeypatch, dry_run):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. And more")

    monkeypatch.setattr(nnunet, "run_training", full)
    start = "dry run: this machine does not suffice; " if dry_run else ""
    message = rf"^{start}memory: found too little \(CUDA out of memory\), expected a larger GPU, or smaller patches$"
    with pytest.raises(InputError, match=message):
        train("Dataset901_X", 0, "T", Options(dry_run=dry_run), tmp_path, tmp_path / "results", device="cpu")
    assert (tmp_path / "results").exists() is not dry_run


def test_commands_that_train_have_a_dry_run_and_announce_no_result_after_it(scans, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nnunet, "run_training", lambda *_: None)
    folder, out = scans["scan_0"].parent, tmp_path / "out"
    small = ("--patch", 16, 32, 32, "--network", "small", "--workers", 1, "--device", "cpu", "--dry-run")
    assert cli.main([str(one) for one in ("pretrain", folder, "-o", out, "--preset", STSR, *small)]) == 0
    assert "complete" not in capsys.readouterr().out
    assert not out.exists()
    for command in ("pretrain", "train"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "--dry-run" in capsys.readouterr().out
