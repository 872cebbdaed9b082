"""The DICOM files that a folder, a zip or a path stands for, as things to open.

Zips are read in place: nothing of them is ever written to a disk, and the names in them, which may be those of
patients, are neither used nor said.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

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
_WRAPPED = re.compile(r"\.(gz|bz2|xz|zst|7z|zip|part|partial|crdownload|download|tmp)$", re.IGNORECASE)
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
        start: Its first bytes, where they are known before it is opened, as in a zip.
        size: Its bytes; likewise.
    """

    label: str
    open: Callable[[], BinaryIO]
    sure: bool = True
    start: bytes = b""
    size: int = 0


@dataclass
class Files:
    """What a folder or a zip holds.

    Attributes:
        sources: The DICOM files.
        directories: The files that list others (DICOMDIR), each with the folder in which it lies, "" or "a/b/".
        names: Those of all files, with their folders.
    """

    sources: list[Source] = field(default_factory=list)
    directories: list[tuple[Source, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


@contextmanager
def opened(path: Path, warnings: list[str]) -> Iterator[Files]:
    """The DICOM files of a folder and all folders below it, of a zip, or a single one; in the order of their names.

    Args:
        path: The folder, the zip, or the file.
        warnings: Gets a line for what is called as a slice is, and is no file, or as the slices beside it are.

    Raises:
        InputError: There is none, or a zip cannot be read or would grow beyond all measure.
    """
    if is_directory(path.name) and path.is_file():
        path = path.parent  # it lists what lies beside it
    if path.is_dir():
        yield _of_folder(path, warnings)
    elif path.suffix.lower() != ".zip" or is_dicom(path):
        yield Files([Source(str(path), file_opener(path))])
    else:
        try:
            archive = open_zip(path)
        except _UNREADABLE as error:
            raise InputError(f"{path}: found a damaged zip ({_brief(error)}), expected a whole one") from None
        with archive:
            yield _of_zip(path, archive, warnings)


def _of_folder(path: Path, warnings: list[str]) -> Files:
    files, unread, lost, others = Files(), list[Path](), list[str](), list[tuple[str, Source]]()
    named = list[tuple[str, Source]]()
    for folder, inner in files_below(path, unread):
        for file in inner:
            name = file.relative_to(path).as_posix()
            files.names.append(name)
            if is_directory(file.name):
                if file.is_file():
                    files.directories.append((Source(str(file), file_opener(file)), name[: -len(file.name)]))
            elif (source := source_of(file)) is not None:
                named.append((name, source))
            elif file.is_file():
                others.append((name, Source(str(file), file_opener(file))))
            elif _is_called_a_slice(file.name):
                lost.append(name)
        if folder != path and has_dicom_ending(folder.name) and not any(folder.iterdir()):
            lost.append(folder.relative_to(path).as_posix())
    files.sources = _with_siblings(path, named, others, lost, warnings)
    if unread:
        raise InputError(f"{unread[0]}: could not be read, expected a folder that can be: slices may lie in it")
    return files


def _with_siblings(
    path: Path, named: list[tuple[str, Source]], others: list[tuple[str, Source]], lost: list[str], warnings: list[str]
) -> list[Source]:
    """The DICOM files by their names, after a look at what is called like them and is none: a slice may be lost.

    Raises InputError for one of nothing but zeros.
    """
    if lost:
        found = f"found {len(lost)} links to nowhere, pipes or empty folders called as slices are"
        warnings.append(f"{path}: {found} ({lost[0]}{', ...' * (len(lost) > 1)}), expected files; left out")
    marked, kins = {_kin(name) for name, source in named if source.sure}, {_kin(name) for name, _ in named}
    folders = {name.rpartition("/")[0] for name, _ in named}
    packed = [
        source
        for name, source in others
        if _kin(_WRAPPED.sub("", name)) in kins - {_kin(name)}
        or (path.is_dir() and name.lower().endswith(".zip") and name.rpartition("/")[0] in folders)
    ]
    if packed:
        first = packed[0].label.removeprefix(str(path)).lstrip(f"{os.sep}: ")
        found = f"found {len(packed)} packed or unfinished files beside slices"
        warnings.append(f"{path}: {found} ({first}{', ...' * (len(packed) > 1)}), expected slices; left out")
    sizes = [_size(source) for _, source in named] if others else []
    low, high = (np.percentile(sizes, [10, 90]) * (0.8, 1.25)) if sizes else (0, -1)
    beside = {(name.rpartition("/")[0], Path(name).suffix) for name, _ in named if not has_dicom_ending(name)}
    alike = [
        source
        for name, source in others
        if _kin(name) in kins
        or ((name.rpartition("/")[0], Path(name).suffix) in beside and low <= _size(source) <= high)
    ]
    for source in alike:
        _check_zeros(source)
    if alike:
        first = alike[0].label.removeprefix(str(path)).lstrip(f"{os.sep}: ")
        found = f"found {len(alike)} files called, or as large, as the slices beside them that are no DICOM"
        warnings.append(f"{path}: {found} ({first}{', ...' * (len(alike) > 1)}), expected slices; left out")
    return [replace(source, sure=source.sure or _kin(name) in marked) for name, source in named]


def _size(source: Source) -> int:
    """Bytes of a file, in a zip or on a disk."""
    with suppress(OSError):
        return source.size or os.path.getsize(source.label)
    return 0


def _kin(name: str) -> str:
    """What the names of slices that lie beside each other have in common: all but their numbers."""
    folder, slash, own = name.rpartition("/")
    return folder + slash + re.sub("[0-9a-f]*[0-9][0-9a-f]*", "0", own.lower())


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
    if is_directory(path.name) or not path.is_file():
        return None
    sure = is_marked(path) or has_dicom_ending(path.name)
    found = sure or is_dicom(path)
    if not found and _is_called_a_slice(path.name):  # and is not left out wordlessly
        found = sure = ("." not in path.name and is_blank(path)) or not _is_readable(path)
    return Source(str(path), file_opener(path), sure) if found else None


def is_blank(path: Path) -> bool:
    """Whether a file is empty or nothing but zeros, as a slice is whose copy failed or that a crash has taken."""
    return _holds_zeros(Source(str(path), lambda: open(path, "rb")))


def _holds_zeros(source: Source) -> bool:
    if source.start.strip(b"\0") or source.size > SMALL:
        return False
    try:
        with source.open() as file:
            small = not file.read(START).strip(b"\0") and file.seek(0, os.SEEK_END) <= SMALL
            file.seek(0)
            return small and not file.read().strip(b"\0")
    except (OSError, InputError):
        return False


def _check_zeros(source: Source) -> None:
    if _holds_zeros(source):
        raise InputError(f"{source.label}: found nothing but zeros, expected a complete DICOM file")


def is_directory(name: str) -> bool:
    """Whether a file of that name lists the files of a disc."""
    return name.upper() == "DICOMDIR"


def _is_called_a_slice(name: str) -> bool:
    return has_dicom_ending(name) or not Path(name).suffix[1:].strip("0123456789")


def _is_readable(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


def _of_zip(path: Path, archive: zipfile.ZipFile, warnings: list[str]) -> Files:
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise InputError(f"{path}: found {len(members):,} files in it, expected at most {_MOST_MEMBERS:,}")
    files, sources, inner = Files(), list[tuple[str, zipfile.ZipInfo, Source]](), 0
    lost, others, unpackable = list[str](), list[tuple[str, Source]](), list[tuple[str, str]]()
    names = [member.filename.replace("\\", "/").rstrip("/") for member in members]
    there = {*names, *(name.rpartition("/")[0] for name in names)}
    inhabited = {name.rpartition("/")[0] for name in names}
    for number, (name, member) in enumerate(zip(names, members), start=1):
        *folders, own = name.split("/")
        if any(is_hidden(part) for part in (*folders, own)):
            continue
        label = f"{path}: file {number}"
        if member.is_dir():
            lost += [f"file {number}"] * (has_dicom_ending(own) and name not in inhabited)
            continue
        try:
            start = start_of(archive, member)
        except _UNREADABLE as error:
            line = f"{label}: could not be read ({_brief(error)}), expected a whole zip"
            if has_dicom_ending(own) or "." not in own:
                raise InputError(line) from None
            unpackable.append((name, line))
            continue
        if stat.S_IFMT(member.external_attr >> 16) not in (
            0,
            stat.S_IFREG,
        ):  # a link leads to what is there, or is lost
            target = posixpath.normpath("/".join([*folders, start.decode(errors="replace")]))
            lost += [f"file {number}"] * (_is_called_a_slice(own) and target not in there)
            continue
        files.names.append(name)
        source = Source(label, _opener(archive, member, label), start=start, size=member.file_size)
        if is_directory(own):
            files.directories += [(source, name[: -len(own)])] * (member.file_size <= SMALL)
            continue
        inner += start[:4] in _ZIPS
        sure = start.endswith(MARK) or has_dicom_ending(own)
        if not sure and "." not in own:
            _check_zeros(source)
        if sure or is_dicom_start(start):
            sources.append((name, member, replace(source, sure=sure)))
        else:
            others.append((name, source))
    kins = {_kin(name) for name, _, _ in sources}
    if alike := [line for name, line in unpackable if _kin(name) in kins]:
        raise InputError(alike[0])
    if inner and sources:
        warnings.append(f"{path}: found {inner} zips in the zip, expected the slices themselves; left out")
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
    files.sources = _with_siblings(path, [(name, source) for name, _, source in sources], others, lost, warnings)
    return files


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
