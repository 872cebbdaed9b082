"""The zip of predictions for Codabench."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba2.cli import main
from umamba2.errors import InputError
from umamba2.jobs.codabench import package_predictions
from umamba2.jobs.fingerprint import fingerprint

GOOD = ("STS25_Validation_0001_Mask.nii.gz", "STS25_Validation_0042_Mask.nii.gz")


def fill(folder, *names):
    folder.mkdir()
    for number, name in enumerate(names):
        if not name.endswith(".nii.gz"):
            (folder / name).touch()
            continue
        image = sitk.GetImageFromArray(np.full((2, 3, 4), number, np.uint8))
        sitk.WriteImage(image, folder / name)
    return folder


def test_the_zip_is_flat_and_whole(tmp_path, capsys):
    folder = fill(tmp_path / "out", *GOOD, ".hidden", "run.json")
    assert main(["package-predictions", str(folder)]) == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert tuple(archive.namelist()) == GOOD
        assert archive.testzip() is None
        assert archive.read(GOOD[1]) == (folder / GOOD[1]).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.zip"]
    assert capsys.readouterr().out == f"{tmp_path / 'out.zip'}  0.0 MB\n"


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys):
    folder = fill(tmp_path / "out", GOOD[0])
    bad = fill(tmp_path / "other") / "bad"
    bad.symlink_to("/proc/self/mem")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(bad if path.name == GOOD[0] else path))
    assert main(["package-predictions", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: {tmp_path}/out.zip: could not be written (Input/output error with {folder / GOOD[0]})"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]
    assert fingerprint([tmp_path / "none"]) is None
    with pytest.raises(OSError, match="Input/output error") as error:
        fingerprint([bad])
    assert error.value.filename == str(bad)


@pytest.mark.parametrize(
    "name",
    [
        "STS25_Validation_0001.nii.gz",
        "STS25_Validation_0001_mask.nii.gz",
        "STS25_Validation_1_Mask.nii.gz",
        "STS25_Validation_0001_Mask.nii",
        "STS25_Validation_0001_Mask.nii.gz.partial",
        "results.json",
    ],
)
def test_wrong_names_are_refused(tmp_path, name, capsys):
    folder = fill(tmp_path / "out", GOOD[0], name)
    assert main(["package-predictions", str(folder), "-o", str(tmp_path / "a.zip")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder / name}: found the file name {name}, expected STS25_Validation_")
    assert not (tmp_path / "a.zip").exists()


def test_folders_and_empty_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="found no such folder"):
        package_predictions(tmp_path / "missing")
    with pytest.raises(InputError, match="found no files"):
        package_predictions(fill(tmp_path / "empty"))
    folder = fill(tmp_path / "out")
    (folder / GOOD[0]).touch()
    with pytest.raises(InputError, match="0 bytes"):
        package_predictions(folder)
    sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), 0.5)), folder / GOOD[0])
    with pytest.raises(InputError, match=f"{GOOD[0]}: found the value 0.5, expected whole numbers"):
        package_predictions(folder)
    (folder / GOOD[0]).write_bytes(b"no image")
    with pytest.raises(InputError, match=f"{GOOD[0]}: "):
        package_predictions(folder)
    (folder / GOOD[0]).unlink()
    (folder / GOOD[0]).mkdir()
    with pytest.raises(InputError, match="found the folder"):
        package_predictions(folder)


def test_predictions_are_never_overwritten(tmp_path):
    folder = fill(tmp_path / "out", *GOOD)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "link.zip").symlink_to(folder / GOOD[1])
    for target in (folder / GOOD[0], tmp_path / "link.zip"):
        with pytest.raises(InputError, match="found an input as its output"):
            package_predictions(folder, target)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", [".", "../out.v2", "./../out.v2/"])
def test_the_folder_one_is_in(tmp_path, monkeypatch, name):
    monkeypatch.chdir(fill(tmp_path / "out.v2", *GOOD))
    assert package_predictions(name) == tmp_path / "out.v2.zip"


def test_dates_that_a_zip_cannot_hold(tmp_path):
    folder = fill(tmp_path / "out", *GOOD)
    for name, seconds in zip(GOOD, (0, 6e9)):  # 1970, as in reproducible builds, and 2160
        os.utime(folder / name, (seconds, seconds))
    with zipfile.ZipFile(package_predictions(folder)) as archive:
        assert tuple(archive.namelist()) == GOOD
        assert archive.testzip() is None
