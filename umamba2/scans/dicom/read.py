"""A scan out of DICOM files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from umamba2.errors import InputError, needing
from umamba2.scans.dicom.files import files_below, is_dicom

if TYPE_CHECKING:
    from pydicom import Dataset


def source_headers(path: str | Path, series: str | None = None) -> list[Dataset]:
    """The headers, without pixels, of the series that `read_volume` reads, in the order of the volume's slices.

    Args:
        path: A folder, a zip, or one file.
        series: Which series, as in `read_volume`.

    Returns:
        One header for each slice that there is, or a single one where a file holds all of them.

    Raises:
        InputError: There is no series to read.
    """
    path = Path(path)
    with needing("dicom", str(path)):
        import pydicom
    files = [path] if path.is_file() else [file for _, inner in files_below(path) for file in inner if is_dicom(file)]
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    headers = [header for header in headers if "Rows" in header]
    if not headers:
        raise InputError(f"{path}: found no DICOM images, expected a series of slices")
    if len(headers) == 1:
        return headers

    def place(header: Dataset) -> float:
        right, down = np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))
        return float(np.cross(right, down) @ np.array(header.ImagePositionPatient, float))

    return sorted(headers, key=place)
