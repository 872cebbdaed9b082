"""Which files are DICOM, whatever they are called; pydicom is not needed for that."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

ENDINGS = (".dcm", ".dicom", ".ima")  # of files that are DICOM even without the mark at their beginning
_MARK, _MARK_AT = b"DICM", 128
# Data sets without the mark begin with the lowest groups; the element numbers of these are small.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")


def is_dicom(path: Path) -> bool:
    """Whether a regular file is DICOM, by its content: the mark after the preamble, or a data set without one."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with open(path, "rb") as file:
            return is_dicom_start(file.read(_MARK_AT + len(_MARK)))
    except OSError:
        return False


def is_dicom_start(start: bytes) -> bool:
    """Whether a file's first 132 bytes are those of a DICOM file."""
    if start[_MARK_AT:] == _MARK:
        return True
    return len(start) == _MARK_AT + len(_MARK) and start[:2] in _FIRST_GROUPS and start[3:4] == b"\0" < start[8:9]


def files_below(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder below one, itself first, with its files, sorted by name.

    Hidden files and folders are left out, and so are those that macOS puts into archives. Links are followed, each
    folder once.
    """
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        yield Path(place), [Path(place, name) for name in sorted(names) if not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
