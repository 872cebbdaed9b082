"""Headers of DICOM files, and values out of them, whatever is in there."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from struct import unpack
from typing import TYPE_CHECKING, Any, BinaryIO

from umamba2.errors import InputError, naming, needing
from umamba2.scans.dicom.files import START, is_dicom_start
from umamba2.scans.dicom.sources import MOST_EXPANSION, SMALL, Source
from umamba2.scans.voxels import check_memory

if TYPE_CHECKING:
    from pydicom import Dataset

EVERYTHING = 0xFFFFFFFF  # the last of all tags
DEFLATED, EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
PIXELS = 0x7FE00010
_BEFORE_PIXELS = 0x7FE00007  # the last tag of a header: pixels, of whole numbers or others, follow
_BLOCK = 1 << 20
_MOST_ELEMENTS = 20_000  # of a header, not counting those inside of others; the longest known have some hundred
_MOST_READS = 300_000  # pieces of a file; a header that says something of each of 1,000 slices has some 50,000
_MOST_ITEMS = 150_000  # of a sequence, those within each other too; each of 10,000 slices has some ten
_ITEM, _UNDEFINED = b"\xfe\xff\0\xe0", 0xFFFFFFFF
_MOST_VALUE = 1 << 20  # bytes of a value that is read along with the header; larger ones wait until they are asked for


@dataclass(frozen=True)
class Header:
    """The header of a DICOM file.

    Attributes:
        source: The file.
        values: All before the pixels.
        syntax: The UID of the way in which the pixels are written.
        pixels_at: Where the element of the pixels begins in what `opened_content` opens.
        size: Of that, in bytes.
    """

    source: Source
    values: Dataset
    syntax: str
    pixels_at: int
    size: int

    @property
    def label(self) -> str:
        """What messages call the file."""
        return self.source.label


@contextmanager
def quiet() -> Iterator[None]:
    """Around all that pydicom does: what it says on odd values is said by ourselves, where it matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def need_pydicom(name: str) -> None:
    """Raise MissingExtra, for a scan of that name, where pydicom is not installed."""
    with needing("dicom", name):
        import pydicom.filereader  # noqa: F401


def read_header(source: Source, last: int = _BEFORE_PIXELS, complete: bool = False) -> Header:
    """Read the header of a file.

    Args:
        source: The file.
        last: The tag of the last element that is wanted.
        complete: Whether to take values of more than a megabyte along.

    Raises:
        InputError: It cannot be read as DICOM.
    """
    from pydicom.filereader import read_partial

    seen = set[int]()
    elements = count(1)

    def beyond(tag: int, vr: str | None, length: int) -> bool:
        if next(elements) > _MOST_ELEMENTS:
            found = f"found more than {_MOST_ELEMENTS:,} elements"
            raise InputError(f"{source.label}: {found}, expected the header of a slice")
        # Of elements of makers nothing is read; the first one comes twice where it is not clear how it is written.
        if tag in seen and len(seen) > 1 and not tag >> 16 & 1:
            found = f"found the element ({tag >> 16:04X},{tag & 0xFFFF:04X}) twice"
            raise InputError(f"{source.label}: {found}, expected each once")
        seen.add(tag)
        if vr in ("SQ", "UN", None) and 8 * _MOST_ITEMS <= length < _UNDEFINED and tag <= last:
            at = file.tell()  # its items are taken apart when they are asked for
            if file.read(length).count(_ITEM) > _MOST_ITEMS:
                raise InputError(f"{source.label}: found items without end, expected a DICOM file")
            file.seek(at)
        return tag > last

    try:
        with opened_content(source) as (file, syntax), quiet():
            complete |= isinstance(file, BytesIO)  # what waits in there cannot be asked for later
            values = read_partial(bounded(source.label, file), beyond, None if complete else _MOST_VALUE, force=True)
            at = file.tell()
            if complete:
                values.buffer = None  # the file, which is closed when somebody copies the header
            return Header(source, values, syntax or _unmarked_syntax(values), at, file.seek(0, 2))
    except (InputError, MemoryError):
        raise
    except OSError as error:
        why = error.strerror or type(error).__name__
    except Exception as error:  # of a parser that meets bytes which are anything
        why = type(error).__name__
    raise InputError(f"{source.label}: could not be read ({why}), expected a DICOM file")


def bounded(label: str, file: BinaryIO) -> BinaryIO:
    """A file to read in at most so many pieces: of millions of empty items, each costs as much as a slice does."""
    read, reads = file.read, count(1)

    def counted(size: int = -1) -> bytes:
        if next(reads) > _MOST_READS:
            raise InputError(f"{label}: found items without end, expected a DICOM file")
        return read(size)

    setattr(file, "read", counted)  # noqa: B010
    return file


@contextmanager
def opened_content(source: Source) -> Iterator[tuple[BinaryIO, str]]:
    """A file's content to read, inflated if it is deflated, and its transfer syntax, "" where it states none."""
    with naming(source.label), source.open() as file:
        syntax = _stated_syntax(file)
        if syntax != DEFLATED:
            file.seek(0)
            yield file, syntax
            return
        yield BytesIO(_inflated(source.label, file)), EXPLICIT


def _stated_syntax(file: BinaryIO) -> str:
    """The transfer syntax by the group of elements before the data set, at whose end the file stands then."""
    start = file.read(START)
    if not (is_dicom_start(start) and start.endswith(b"DICM")):
        return ""
    syntax = ""
    while len(head := file.read(8)) == 8:
        group, element, kind, length = unpack("<HH2sH", head)
        if group != 2:
            file.seek(-8, 1)
            break
        if kind in (b"OB", b"UN"):
            length = unpack("<I", file.read(4).ljust(4, b"\0"))[0]
        if length > _BLOCK:
            break
        value = file.read(length)
        if element == 0x10:
            syntax = value.decode("ascii", "replace").strip("\0 ")
    return syntax


def _inflated(name: str, file: BinaryIO) -> bytes:
    """The data set of a deflated file, after an empty preamble that says nothing."""
    at = file.tell()
    packed_size = file.seek(0, 2)
    file.seek(at)
    inflater, blocks, size = zlib.decompressobj(-zlib.MAX_WBITS), list[bytes](), 0
    while not inflater.eof:
        packed = inflater.unconsumed_tail or file.read(_BLOCK)
        if not packed:
            break
        block = inflater.decompress(packed, 16 * _BLOCK)
        size += len(block)
        if size > max(SMALL, MOST_EXPANSION * packed_size):
            found = f"more than {size / 1e6:.0f} MB in {packed_size / 1e6:.1f} MB"
            raise InputError(f"{name}: found {found}, expected at most {MOST_EXPANSION} times its size")
        check_memory(name, 2 * len(block) + size)  # once more, to join them
        blocks.append(block)
    return b"".join(blocks)


def _unmarked_syntax(values: Dataset) -> str:
    """The transfer syntax of a file that states none, as pydicom has found it."""
    implicit, little = values.original_encoding
    return IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN


def value(values: Dataset | None, keyword: str) -> Any:
    """A value, or None where it is missing, empty, or cannot be understood."""
    try:
        found = None if values is None else values.get(keyword)
        return None if found is None or (isinstance(found, (str, bytes)) and not found.strip()) else found
    except Exception:
        return None


def numbers(values: Dataset | None, keyword: str, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    found = value(values, keyword)
    try:
        listed = [float(one) for one in ([found] if isinstance(found, (str, int, float)) else found)]
        if "_" in str(found):  # which Python takes for a part of a number
            return None
    except (TypeError, ValueError, OverflowError):
        return None
    return tuple(listed) if len(listed) == count and all(map(math.isfinite, listed)) else None


def number(values: Dataset | None, keyword: str) -> float | None:
    """A finite number, or None."""
    found = numbers(values, keyword, 1)
    return None if found is None else found[0]


def whole(values: Dataset | None, keyword: str) -> int | None:
    """A whole number, or None."""
    found = number(values, keyword)
    return None if found is None or found != int(found) else int(found)


def text(values: Dataset | None, keyword: str) -> str:
    """A text without spaces around it, "" where there is none."""
    found = value(values, keyword)
    return "" if found is None else str(found).strip()


def is_stated(values: Dataset, keyword: str) -> bool:
    """Whether there is a value at all, of whatever kind."""
    try:
        return keyword in values and bool(values.get_item(keyword).value not in (None, "", b""))
    except Exception:
        return True


def item(values: Dataset | None, keyword: str, index: int = 0) -> Dataset | None:
    """An item of a sequence, or None."""
    try:
        found = value(values, keyword)[index]
        return found if hasattr(found, "get_item") else None  # of another kind of element it is a number
    except Exception:
        return None


def rows_of(header: Header) -> int:
    """The number of rows of a slice, 0 if it has none."""
    return max(0, whole(header.values, "Rows") or 0)


def columns_of(header: Header) -> int:
    """The number of columns of a slice, 0 if it has none."""
    return max(0, whole(header.values, "Columns") or 0)
