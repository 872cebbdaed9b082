"""Which files are DICOM, whatever they are called; pydicom is not needed for that."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from umamba2.errors import InputError

ENDINGS = (".dcm", ".dicom", ".ima")  # that DICOM files have, if they have any
MARK, _MARK_AT = b"DICM", 128
START = _MARK_AT + len(MARK)  # bytes that tell
# Data sets without the mark begin with the lowest groups; the element numbers of these are small.
_DEEPEST = 100  # folders within each other
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")


def is_dicom(path: Path) -> bool:
    """Whether a regular file is DICOM, by its content: the mark after the preamble, or a data set without one."""
    return is_dicom_start(_start(path))


def is_marked(path: Path) -> bool:
    """Whether a regular file has the mark of DICOM."""
    start = _start(path)
    return len(start) == START and start.endswith(MARK)


def is_dicom_start(start: bytes) -> bool:
    """Whether a file's first `START` bytes are those of a DICOM file."""
    if len(start) < START:
        return False
    if start.endswith(MARK):
        return True
    return start[:2] in _FIRST_GROUPS and start[3:4] == b"\0" < start[8:9]


def _start(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with open(path, "rb") as file:
            return file.read(START)
    except OSError:
        return b""


def has_dicom_ending(name: str, zips: bool = False) -> bool:
    """Whether a file is called as DICOM files are, if it has an ending at all; ``zips``: or as zips are."""
    return name.lower().endswith((*ENDINGS, ".zip") if zips else ENDINGS)


def without_dicom_ending(name: str) -> str:
    """A file's name without the ending of DICOM or of a zip."""
    return next((name[: -len(end)] for end in (*ENDINGS, ".zip") if name.lower().endswith(end)), name)


def files_below(folder: Path, unread: list[Path] | None = None) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder below one, itself first, with its files, sorted by name.

    Hidden files and folders are left out, and so are those that macOS puts into archives. Links are followed, each
    folder once. Raises InputError for folders within folders beyond all measure.

    Args:
        folder: Where to begin.
        unread: Gets the folders that cannot be read.
    """
    seen = set[str]()

    def failed(error: OSError) -> None:
        if unread is not None:
            unread.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=failed, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if len(Path(place).parts) - len(folder.parts) > _DEEPEST:  # walking down is calls within calls, and they end
            raise InputError(f"{folder}: found folders more than {_DEEPEST} deep, expected those of scans")
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield Path(place), [Path(place, name) for name in sorted(names) if not is_hidden(name)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is none to look at."""
    return (name.startswith(".") and name not in (".", "..")) or name in ("__MACOSX", "lost+found")
