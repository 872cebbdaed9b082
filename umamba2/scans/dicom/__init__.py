"""Scans in DICOM: a folder of slices, a zip of one, or a file with all slices.

Headers are pydicom's, which sees all that standard and makers have thought of; geometry and repairs are written here,
because a wrong order of slices looks like a scan; compressed pixels are SimpleITK's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from umamba2.lazy import lazily

if TYPE_CHECKING:
    from umamba2.scans.dicom.files import is_dicom
    from umamba2.scans.dicom.read import read_dicom, source_headers

__all__ = ["is_dicom", "read_dicom", "source_headers"]

if not TYPE_CHECKING:
    __getattr__ = lazily(
        __name__,
        {
            **dict.fromkeys(("is_dicom"), "files"),
            **dict.fromkeys(("read_dicom", "source_headers"), "read"),
        },
    )
