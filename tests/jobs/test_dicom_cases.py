"""DICOM from the command line to label maps, records and pages: names, clicks, series, and nothing of a patient."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR
from dicom_series import SECRETS, SHAPE, header, many_slices, place, save, write_slices
from stand_in import StandInLoader, use_stand_in, write_clicks, write_model

import umamba2
from umamba2 import cli
from umamba2.scans.volumes import read_labels, read_volume


@pytest.fixture
def predict(tmp_path, monkeypatch, capfd):
    """Runs `umamba2 predict` with a stand-in model, which finds in a voxel what its grey value says."""
    use_stand_in(monkeypatch)
    StandInLoader.made.clear()

    def run(task, source, out, *options):
        model = write_model(tmp_path / "model", task, task)
        code = cli.main(
            ["predict", "-i", str(source), "-o", str(out), "-m", str(model), "--no-postprocess", *map(str, options)]
        )
        said = capfd.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


def marked(ds, k):
    """A slice of air and the ids 1 and 2."""
    values = np.zeros(SHAPE[1:], "<i2")
    values[k, 3], values[5:9, 10:15] = 1001, 1002
    ds.PixelData = values.tobytes()


def clinic(folder):
    """Three patients, of whom one has a zip and one a file with all slices; and a folder that two share."""
    write_slices(folder / "one/CT", marked, patient="1")
    other = write_slices(folder.parent / "other", marked, patient="2", name="Roe^Jane {}")
    with zipfile.ZipFile(folder / "two.zip", "w") as archive:
        for path in other.iterdir():
            archive.write(path, f"MRN-4711/{path.name}")
    ds = many_slices(patient="3")
    ds.RescaleIntercept, ds.PixelData = 0, np.full(SHAPE, 1001, "<u2").tobytes()
    save(ds, folder / "three.dcm")
    write_slices(folder / "shared", marked, patient="4")
    write_slices(folder / "shared", marked, patient="5", name="B{}", count=5)
    return folder


def written(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.nii.gz")}


def test_a_folder_of_patients(predict, tmp_path):
    source, out = clinic(tmp_path / "in"), tmp_path / "out"
    code, _, errors = predict(STSR, source, out)
    assert code == 1
    assert written(out) == {"one.nii.gz", "two.nii.gz", "three.nii.gz"}
    assert sum(line.startswith("error: ") for line in errors) == 1
    assert any("shared: found scans of 2 patients, expected one" in line for line in errors)
    labels, geometry = read_labels(out / "one.nii.gz")
    volume = read_volume(source / "one")
    np.testing.assert_array_equal(labels, np.maximum(volume.array - 1000, 0))
    np.testing.assert_allclose(geometry.origin, volume.geometry.origin, atol=1e-5)
    code, _, errors = predict(STSR, source, out)
    assert len([line for line in errors if line.startswith("error: ")]) == 1  # the others are done


@pytest.mark.parametrize("make", [lambda p: p / "one/CT", lambda p: p / "two.zip", lambda p: p / "three.dcm"])
def test_one_scan_to_a_folder_or_a_file(predict, tmp_path, make):
    scan = make(clinic(tmp_path / "in"))
    assert predict(STSR, scan, tmp_path / "out")[0] == 0
    assert written(tmp_path / "out") == {f"{scan.stem}.nii.gz"}
    assert predict(STSR, scan, tmp_path / "labels.mha")[0] == 0
    np.testing.assert_array_equal(
        read_labels(tmp_path / "labels.mha")[0], read_labels(tmp_path / f"out/{scan.stem}.nii.gz")[0]
    )


def test_clicks_go_by_the_name_of_folder_or_zip(predict, tmp_path):
    source = clinic(tmp_path / "in")
    for name in ("one", "two"):
        write_clicks(tmp_path / f"clicks/iac_clicks_{name}.json", ("Left_IAC", [1, 2, 3]))
    _, _, errors = predict(INTERACTIVE, source, tmp_path / "out", "--clicks", tmp_path / "clicks")
    assert [line for line in errors if "iac_clicks" in line and ("one" in line or "two" in line)] == []
    assert any("iac_clicks_three" in line for line in errors)


def test_a_series_is_chosen(predict, tmp_path):
    folder = write_slices(tmp_path / "scan", marked)
    write_slices(folder, lambda ds, k: (marked(ds, k), setattr(ds, "SeriesNumber", 2)), series="b", count=4, name="B{}")
    assert predict(STSR, folder, tmp_path / "out", "--series", "2")[0] == 0
    assert read_labels(tmp_path / "out/scan.nii.gz")[1].size[2] == 4
    assert predict(STSR, folder, tmp_path / "out")[0] == 0  # another series is another result
    assert read_labels(tmp_path / "out/scan.nii.gz")[1].size[2] == SHAPE[0]
    assert json.loads((tmp_path / "out/run.json").read_text())


def test_the_front_door_takes_a_folder(predict, tmp_path):
    folder = write_slices(tmp_path / "scan", lambda ds, k: (marked(ds, k), setattr(ds, "SliceThickness", 9)),
                          places=lambda k: place(-k))  # fmt: skip
    segmentation = umamba2.load(write_model(tmp_path / "model", STSR, STSR), postprocess=False).segment(folder)
    np.testing.assert_array_equal(segmentation.labels, np.maximum(read_volume(folder).array - 1000, 0))
    assert segmentation.geometry == read_volume(folder).geometry


def test_nothing_of_a_patient_comes_out(predict, tmp_path):
    pytest.importorskip("jinja2")
    source, out = clinic(tmp_path / "in"), tmp_path / "out"
    write_slices(source / "one/more", marked, patient="1", series="other", count=5)
    _, said, errors = predict(MULTICLASS, source, out, "--preview", "--statistics", "--report")
    assert any("found 2 volumes" in line for line in errors), errors
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"run.json", "one.report.html", "two.statistics.json"} <= {path.name for path in files}
    ds = header(patient="1")
    secrets = [s for s in SECRETS if s != ds.PatientID] + [ds.StudyInstanceUID, ds.SeriesInstanceUID, "1.2.826.0.1"]
    for secret in secrets:
        assert not any(secret in line for line in (*said, *errors))
        assert not any(secret.encode() in path.read_bytes() for path in files), secret


def test_sides_are_not_judged_where_they_are_not_known(predict, tmp_path):
    pytest.importorskip("jinja2")

    def nowhere(ds, k):
        marked(ds, k)
        del ds.ImageOrientationPatient, ds.ImagePositionPatient

    folder = write_slices(tmp_path / "scan", nowhere)
    code, _, errors = predict(MULTICLASS, folder, tmp_path / "out", "--report")
    assert code == 0, errors
    assert any("sides, top and bottom are not certain" in line for line in errors)
    from umamba2.reports import texts

    assert texts.NO_ORIENTATION in (tmp_path / "out/scan.report.html").read_text()
    page = tmp_path / "page.html"
    assert cli.main(["report", "-i", str(folder), "-s", str(tmp_path / "out/scan.nii.gz"), "-o", str(page)]) == 0
    assert texts.NO_ORIENTATION in page.read_text()


def test_what_a_link_leads_to_is_part_of_a_scan(predict, tmp_path):
    series = write_slices(tmp_path / "elsewhere", marked)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/README.txt").write_text("read me")
    (tmp_path / "in/series").symlink_to(series)
    assert predict(STSR, tmp_path / "in", tmp_path / "out")[0] == 0
    before = read_labels(tmp_path / "out/in.nii.gz")[0]
    assert predict(STSR, tmp_path / "in", tmp_path / "out")[1][-1] == "0 done, 1 skipped, 0 degraded, 0 failed"

    def other(ds, k):
        ds.PixelData = np.full(SHAPE[1:], 1003, "<i2").tobytes()

    shutil.rmtree(series)
    write_slices(series, other)
    assert predict(STSR, tmp_path / "in", tmp_path / "out")[0] == 0
    assert not np.array_equal(before, read_labels(tmp_path / "out/in.nii.gz")[0])
