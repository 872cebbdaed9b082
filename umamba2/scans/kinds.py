"""What a file is by its first bytes, for those that are called otherwise."""

from __future__ import annotations

from pathlib import Path

from umamba2.errors import InputError

_FIRST_BYTES = {
    b"\x1f\x8b": "gzip",
    b"PK\3\4": "zip",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"NRRD": "NRRD",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"%PDF": "PDF",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "NumPy",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"version https://git-lfs": "Git LFS",  # what stands for a large file that was not fetched
    b"<html": "HTML",
    b"<!DOCTYPE": "HTML",
    b"<!doctype": "HTML",
}
_FURTHER_ON = [(128, b"DICM", "DICOM"), (344, b"n+1\0", "NIfTI"), (4, b"n+2\0", "NIfTI"), (257, b"ustar", "tar")]


def check_kind(path: Path, start: bytes, expected: str) -> None:
    """Refuse a file that is of another kind than its name says.

    Args:
        path: The file, for the message.
        start: Its first bytes, some 400 or all.
        expected: "MetaImage", "NRRD", "NIfTI" or "TIFF".

    Raises:
        InputError: It is of another kind that is known.
    """
    found = next((kind for mark, kind in _FIRST_BYTES.items() if start.startswith(mark)), None)
    if found is None:
        found = next((kind for at, mark, kind in _FURTHER_ON if start[at : at + len(mark)] == mark), None)
    if found is None and start.lstrip().startswith((b"ObjectType", b"NDims")):
        found = "MetaImage"
    if found != expected and found is not None:
        raise InputError(f"{path}: found a file that is {found} by its first bytes, expected {expected}")
