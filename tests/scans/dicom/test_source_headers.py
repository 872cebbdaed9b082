"""Headers of a series in the order of the volume's slices."""

from __future__ import annotations

import copy
import warnings
import zipfile

import pytest
from dicom_series import enhanced, save, write_slices

from umamba2.scans.dicom import source_headers


def test_headers_lie_as_the_slices_do(tmp_path):
    order = [3, 1, 4, 0, 2]

    def shuffle(ds, k):
        ds.ImagePositionPatient = [0, 0, order[k]]
        ds.InstanceNumber = k + 1

    folder = write_slices(tmp_path / "a", shuffle, count=5)
    headers = source_headers(folder)
    assert [header.ImagePositionPatient[2] for header in headers] == [0, 1, 2, 3, 4]
    assert all("PixelData" not in header for header in headers)


@pytest.mark.parametrize("deflated", [False, True])
def test_headers_out_of_a_zip_outlive_it(tmp_path, deflated):
    folder = write_slices(tmp_path / "a", syntax="1.2.840.10008.1.2.1.99" if deflated else "1.2.840.10008.1.2.1")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    headers = source_headers(tmp_path / "a.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copies = [copy.deepcopy(header) for header in headers]
    assert [header.InstanceNumber for header in copies] == list(range(1, 13))


def test_one_header_for_a_file_with_all_slices_and_the_series_that_is_asked_for(tmp_path):
    save(enhanced(range(12)), tmp_path / "a/scan")
    (header,) = source_headers(tmp_path / "a")
    assert len(header.PerFrameFunctionalGroupsSequence) == 12
    folder = write_slices(tmp_path / "b")
    write_slices(folder, lambda ds, k: setattr(ds, "SeriesNumber", 4), count=3, name="B{}", series="other")
    assert len(source_headers(folder)) == 12
    assert [header.SeriesNumber for header in source_headers(folder, "4")] == [4, 4, 4]
