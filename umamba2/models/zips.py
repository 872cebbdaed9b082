"""Zip archives that somebody sends, opened without reading more of their list of files than anybody needs."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from typing import IO

from umamba2.errors import InputError

LARGEST_LIST = 2**22  # bytes of an archive's list of files; 20,000 entries of a checkpoint have 2,000,000


def open_zip(file: IO[bytes], most: int) -> zipfile.ZipFile:
    """Open a zip archive.

    Args:
        file: Open for reading.
        most: Entries that it may have. Python's zipfile makes an object for each before anybody can count them, which
            is why the size of the list is bounded, too.

    Raises:
        InputError: It has more, or two of one name: programs differ in which of them they take.
        zipfile.BadZipFile: It is none.
    """
    archive = zipfile.ZipFile(_Bounded(file))
    names = archive.namelist()
    if len(names) > most:
        raise InputError(f"found {len(names)} files in it, expected at most {most}")
    _check_list(archive, file)
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise InputError(f"found {name[:100]} {count} times in it, expected each file once")
    return archive


def _check_list(archive: zipfile.ZipFile, file: IO[bytes]) -> None:
    """Raise InputError where Python passes over what other programs say: something in front, or a list cut short."""
    entries = archive.infolist()
    if entries and (before := min(entry.header_offset for entry in entries)):
        raise InputError(f"found {before} bytes in front of its first file, expected none (are they two archives?)")
    names = (entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437") for entry in entries)
    rest = sum(len(entry.extra) + len(entry.comment) for entry in entries)
    file.seek(archive.start_dir + sum(46 + len(name) for name in names) + rest)
    end = file.read(40)
    if end[:4] == b"PK\5\6":
        (count,) = struct.unpack("<H", end[10:12])
    elif end[:4] == b"PK\6\6":
        (count,) = struct.unpack("<Q", end[32:40])
    else:
        return
    if count not in (len(entries), 0xFFFF):
        raise InputError(f"found {len(entries)} files in its list, expected the {count} that it states")


class _Bounded(io.RawIOBase):
    """A file of which no more than `LARGEST_LIST` is read at once; zipfile reads the list of entries in one piece."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(LARGEST_LIST + 1 if size < 0 or size > LARGEST_LIST else size)
        if len(content) > LARGEST_LIST:
            raise InputError(f"found a list of files of more than {LARGEST_LIST} bytes in it, expected a shorter one")
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
