"""Which scans a folder holds."""

from __future__ import annotations

import os
import zipfile

import pytest
from dicom_series import many_slices, save, write_slices

from umamba2.scans.find import find_scans
from umamba2.scans.volumes import read_volume


def names(folder):
    return [str(path.relative_to(folder)) for path in find_scans(folder)]


def test_images_and_dicom_side_by_side(tmp_path):
    for name in ("a.mha", "b/c.nii.gz", "b/.hidden.mha", "b/readme.txt", "results.mha/keep.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    write_slices(tmp_path / "d/deep/er", count=3, patient="1")
    write_slices(tmp_path / "e/first", count=3, patient="2", series="1")
    write_slices(tmp_path / "e/second", count=3, patient="2", series="2")
    assert names(tmp_path) == ["a.mha", "b/c.nii.gz", "d", "e"]


def test_the_folder_itself_is_one_scan_where_all_is_of_one_study(tmp_path):
    write_slices(tmp_path / "DICOM/PA000", count=3)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert names(tmp_path) == ["."]


def test_two_studies_of_one_patient_are_two_scans(tmp_path):
    write_slices(tmp_path / "before", count=3, study="1")
    write_slices(tmp_path / "after", count=3, study="2")
    assert names(tmp_path) == ["after", "before"]


@pytest.mark.parametrize("of_below", [{"study": "2"}, {"patient": "2"}])
def test_slices_right_in_a_folder_are_read_without_other_studies_below_it(tmp_path, of_below):
    """The larger study below would be read twice, and theirs never."""
    write_slices(tmp_path, count=4)
    write_slices(tmp_path / "below", count=6, **of_below)
    assert names(tmp_path) == [".", "below"]
    found = [read_volume(path) for path in find_scans(tmp_path)]
    assert [volume.geometry.size[2] for volume in found] == [4, 6]
    assert any("took what lies right in the folder" in line for line in found[0].warnings)
    write_slices(tmp_path / "below", count=6)  # all of one study: one scan, of which the largest series is read
    assert names(tmp_path) == ["."]


def test_anonymous_patients_are_not_one(tmp_path):
    def forget(ds, k):
        del ds.PatientID, ds.PatientName, ds.StudyInstanceUID

    write_slices(tmp_path / "1", forget, count=3)
    write_slices(tmp_path / "2", forget, count=3)
    assert names(tmp_path) == ["1", "2"]


def test_files_of_many_slices_are_scans_of_their_own(tmp_path):
    for patient in ("1", "2"):
        save(many_slices(patient=patient), tmp_path / f"{patient}.dcm")
    write_slices(tmp_path / "3", count=3, patient="3")
    assert names(tmp_path) == ["1.dcm", "2.dcm", "3"]


def test_zips_count_if_they_hold_dicom_or_are_broken(tmp_path):
    folder = write_slices(tmp_path / "a", count=3)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
        archive.write(folder / "IM0000", "export/1")
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as archive:
        archive.writestr("readme.txt", "hello" * 100)
    (tmp_path / "broken.zip").write_bytes(b"PK")
    assert names(tmp_path) == ["a", "broken.zip", "scan.zip"]


def test_links_that_lead_back_and_pipes(tmp_path):
    write_slices(tmp_path / "a", count=3)
    (tmp_path / "a/loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "a/pipe.dcm")
    (tmp_path / "a/nowhere").symlink_to(tmp_path / "missing")
    assert names(tmp_path) == ["."]


def test_without_pydicom_every_folder_of_files_is_a_scan(tmp_path, monkeypatch):
    write_slices(tmp_path / "a", count=3, patient="1")
    write_slices(tmp_path / "b", count=3, patient="1")
    monkeypatch.setitem(__import__("sys").modules, "pydicom.filereader", None)
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"DICM", b"\0" * 127 + b"DICM", b"\x08\0" + bytes(400)])
def test_what_is_no_dicom(tmp_path, content):
    (tmp_path / "IM0").write_bytes(content)
    assert names(tmp_path) == []
