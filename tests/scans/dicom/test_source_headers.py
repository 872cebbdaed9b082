"""Headers of a series in the order of the volume's slices."""

from __future__ import annotations

from dicom_series import write_slices

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
