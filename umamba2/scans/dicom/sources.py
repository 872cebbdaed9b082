"""The DICOM files that a folder, a zip or a path stands for, as things to open.

Zips are read in place: nothing of them is ever written to a disk, and the names in them, which may be those of
patients, are neither used nor said.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from umamba2.errors import InputError
from umamba2.scans.dicom.files import (
    MARK,
    START,
    files_below,
    has_dicom_ending,
    is_dicom,
    is_dicom_start,
    is_hidden,
    is_marked,
)
from umamba2.scans.voxels import check_memory

MOST_EXPANSION = 200  # of a zip as a whole: DICOM shrinks to a half or a third, air alone to a thousandth
SMALL = 100 << 20  # bytes: no zip below needs a look at its expansion, and no member below is read piece by piece
_MOST_MEMBERS = 50_000  # of a zip
_LARGEST_DIRECTORY = 16 << 20  # bytes of the list of them
_TAIL = (1 << 16) + 200  # bytes at the end of a zip in which is said how large that is
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# What the zipfile module raises for archives that are damaged, encrypted or packed in a way that it does not know.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


@dataclass(frozen=True)
class Source:
    """A DICOM file.

    Attributes:
        label: What messages call it.
        open: Opens it; what it returns can be read and sought.
        sure: Whether it is DICOM by its mark or its name, so that it is a fault if it cannot be read.
    """

    label: str
    open: Callable[[], BinaryIO]
    sure: bool = True


@contextmanager
def opened(path: Path, warnings: list[str]) -> Iterator[list[Source]]:
    """The DICOM files of a folder and all folders below it, of a zip, or a single one; in the order of their names.

    Args:
        path: The folder, the zip, or the file.
        warnings: Gets a line for what is called as a slice is, and is no file.

    Raises:
        InputError: There is none, or a zip cannot be read or would grow beyond all measure.
    """
    if path.name.upper() == "DICOMDIR" and path.is_file():
        path = path.parent  # it lists what lies beside it
    if path.is_dir():
        unread, lost, sources = list[Path](), list[Path](), list[Source]()
        for folder, inner in files_below(path, unread):
            sources += [source for file in inner if (source := source_of(file)) is not None]
            lost += [file for file in inner if _is_called_a_slice(file) and not file.is_file()]
            if folder != path and has_dicom_ending(folder.name) and not any(folder.iterdir()):
                lost.append(folder)
        if lost:
            listed = f"{lost[0].relative_to(path)}" + ", ..." * (len(lost) > 1)
            found = f"found {len(lost)} links to nowhere, pipes or empty folders called as slices are ({listed})"
            warnings.append(f"{path}: {found}, expected files; left out")
        if unread:
            raise InputError(f"{unread[0]}: could not be read, expected a folder that can be: slices may lie in it")
        yield sources
    elif path.suffix.lower() != ".zip" or is_dicom(path):
        yield [Source(str(path), file_opener(path))]
    else:
        try:
            archive = open_zip(path)
        except _UNREADABLE as error:
            raise InputError(f"{path}: found a damaged zip ({_brief(error)}), expected a whole one") from None
        with archive:
            yield _of_zip(path, archive)


def file_opener(path: Path) -> Callable[[], BinaryIO]:
    """What opens a file, and raises InputError once it is no longer what it was at first."""
    seen = set[tuple[int, int, int]]()

    def open_file() -> BinaryIO:
        try:
            file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            if not seen:
                raise
            raise InputError(f"{path}: could not be read ({error.strerror}), expected a file that stays") from None
        now = os.fstat(file.fileno())
        seen.add((now.st_ino, now.st_size, now.st_mtime_ns))
        if len(seen) > 1:
            file.close()
            raise InputError(f"{path}: found a file that changed while it was read, expected a complete one")
        return file

    return open_file


def source_of(path: Path) -> Source | None:
    """A file of a folder, if it is DICOM or must once have been."""
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return None
    sure = is_marked(path) or has_dicom_ending(path.name)
    found = sure or is_dicom(path)
    if not found and _is_called_a_slice(path):  # and is not left out wordlessly
        found = sure = ("." not in path.name and is_blank(path)) or not _is_readable(path)
    return Source(str(path), file_opener(path), sure) if found else None


def is_blank(path: Path) -> bool:
    """Whether a file is empty or nothing but zeros, as a slice is whose copy failed or that a crash has taken."""
    try:
        with open(path, "rb") as file:
            small = os.fstat(file.fileno()).st_size <= SMALL
            return small and not file.read(START).strip(b"\0") and not file.read().strip(b"\0")
    except OSError:
        return False


def _is_called_a_slice(path: Path) -> bool:
    return has_dicom_ending(path.name) or not path.suffix[1:].strip("0123456789")


def _is_readable(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


def _of_zip(path: Path, archive: zipfile.ZipFile) -> list[Source]:
    sources, inner = list[tuple[str, zipfile.ZipInfo, bool]](), 0
    if len(archive.infolist()) > _MOST_MEMBERS:
        raise InputError(f"{path}: found {len(archive.infolist()):,} files in it, expected at most {_MOST_MEMBERS:,}")
    for number, member in enumerate(archive.infolist(), start=1):
        parts = member.filename.replace("\\", "/").split("/")
        if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16) or any(is_hidden(part) for part in parts[:-1]):
            continue
        if is_hidden(parts[-1]) or parts[-1].upper() == "DICOMDIR":
            continue
        label = f"{path}: file {number}"
        try:
            start = start_of(archive, member)
        except _UNREADABLE as error:
            if has_dicom_ending(parts[-1]) or "." not in parts[-1]:
                raise InputError(f"{label}: could not be read ({_brief(error)}), expected a whole zip") from None
            continue
        inner += start[:4] in _ZIPS
        sure = start.endswith(MARK) or has_dicom_ending(parts[-1]) or ("." not in parts[-1] and not start)
        if sure or is_dicom_start(start):
            sources.append((label, member, sure))
    if not sources:
        found = "a zip in the zip" if inner else "no DICOM file"
        raise InputError(f"{path}: found {found}, expected the files of a scan")
    if len({member.header_offset for _, member, _ in sources}) < len(sources):
        raise InputError(f"{path}: found several names for one file, expected each file once")
    size, packed = sum(member.file_size for _, member, _ in sources), path.stat().st_size
    if size > max(SMALL, MOST_EXPANSION * packed):
        found = f"{size / 1e9:.1f} GB in a zip of {packed / 1e9:.3f} GB"
        raise InputError(f"{path}: found {found}, expected at most {MOST_EXPANSION} times its size")
    check_memory(str(path), size)
    return [Source(label, _opener(archive, member, label), sure) for label, member, sure in sources]


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip. Raises whatever zipfile does, and ValueError for a directory that takes for ever to read."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        tail = file.read()
    end, large = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")  # the second is there in zips of many files
    sizes = [tail[end + 12 : end + 16] if end >= 0 else b"", tail[large + 40 : large + 48] if large >= 0 else b""]
    if max(int.from_bytes(size, "little") for size in sizes) > _LARGEST_DIRECTORY:
        raise ValueError("a directory without end")
    return zipfile.ZipFile(path)


def start_of(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The first `START` bytes of a file in a zip. Raises whatever zipfile does for one that cannot be unpacked."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError  # the others unpack without bounds before they give the first byte
    with archive.open(member) as file:
        return file.read(START)


def _opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo, label: str) -> Callable[[], BinaryIO]:
    def open_member() -> BinaryIO:
        try:
            with archive.open(member) as file:
                return BytesIO(file.read())  # to the end, where its checksum is
        except _UNREADABLE as error:
            raise InputError(f"{label}: could not be read ({_brief(error)}), expected a whole zip") from None

    return open_member


def _brief(error: BaseException) -> str:
    """What is wrong with a zip, without the names in it."""
    if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
        return "it is encrypted" if "encrypted" in str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return os.strerror(error.errno or 0)
    if "CRC" in str(error):
        return "a checksum is wrong"
    return "a packing that is not known" if isinstance(error, NotImplementedError) else type(error).__name__
