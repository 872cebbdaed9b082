"""Grey values of slices: stored numbers as they are, or decoded by SimpleITK in a process of its own; then slope and
intercept.

SimpleITK gets the pixels of one slice and nothing else: what it would make of slopes, of MONOCHROME1 and of the order
of slices is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from io import BytesIO
from struct import unpack
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.dicom.decoder import RLE, Decoder, Packed, is_lossy
from umamba2.scans.dicom.headers import BIG_ENDIAN, EXPLICIT, IMPLICIT, Header, bounded, opened_content, value, whole
from umamba2.scans.geometry import Array

if TYPE_CHECKING:
    from pydicom import Dataset

NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
# Ways of packing that SimpleITK unpacks, by their UIDs after "1.2.840.10008.1.2.".
PACKED = {
    "4.50": "JPEG",
    "4.51": "JPEG of 12 bits",
    "4.57": "lossless JPEG",
    "4.70": "lossless JPEG",
    "4.80": "JPEG-LS",
    "4.81": "JPEG-LS",
    "4.90": "JPEG 2000",
    "4.91": "JPEG 2000",
    "5": "RLE",
}
_ROOT = "1.2.840.10008.1.2."
_KINDS = (b"OB", b"OW", b"UN")
_ITEM, _ITEMS_END = b"\xfe\xff\0\xe0", b"\xfe\xff\xdd\xe0"  # what packed pixels begin and end with
# Where a stream of JPEG, JPEG-LS or JPEG 2000 ends and another begins; no such bytes follow each other within one.
_NEXT_STREAM = re.compile(b"\xff\xd9\0*(?:\xff\xd8\xff|\xff\x4f\xff\x51|\0\0\0\x0cjP)")
_PIXELS, _UNDEFINED = (0x7FE0, 0x0010), 0xFFFFFFFF
_PADDING = 1 << 16  # bytes: the largest blocks in which discs and tapes are filled up
_MAY_FOLLOW = ((0xFFFA, 0xFFFA), (0xFFFC, 0xFFFC))


@dataclass(frozen=True)
class Numbers:
    """How a file stores the number of a voxel.

    Attributes:
        allocated: Bits for each.
        stored: Bits that count.
        high: The highest of these.
        signed: Whether they may be negative.
    """

    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def kind(self) -> np.dtype[np.generic]:
        """The type of the numbers."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")


def numbers_of(header: Header) -> Numbers:
    """How a file stores numbers.

    Raises:
        InputError: Not in a way that can be read.
    """
    values = header.values
    allocated = whole(values, "BitsAllocated") or 16
    stored = whole(values, "BitsStored") or allocated
    high = whole(values, "HighBit")
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated:
        found = f"found {stored} bits stored in {allocated}"
        raise InputError(f"{header.label}: {found}, expected whole numbers of 8, 16 or 32 bits")
    if high is None or not stored - 1 <= high < allocated:
        high = stored - 1
    return Numbers(allocated, stored, high, whole(values, "PixelRepresentation") == 1)


def check_size(header: Header, rows: int, columns: int, count: int) -> None:
    """Raise InputError for a file that is too short for its slices, or packed in a way that cannot be read."""
    there = header.size - header.pixels_at
    if header.syntax in NATIVE:
        needed = rows * columns * count * numbers_of(header).allocated // 8
    elif header.syntax.removeprefix(_ROOT) in PACKED:
        needed = 8 * count  # the mark of each slice
    else:
        kinds = ", ".join(dict.fromkeys(PACKED.values()))
        found = f"pixels in the transfer syntax {header.syntax[:64]}"
        raise InputError(f"{header.label}: found {found}, expected plain or deflated ones, or {kinds}")
    if there < needed:
        raise InputError(
            f"{header.label}: found the end of the file too early ({there} bytes of pixels), "
            f"expected {count} slices of {columns} x {rows} voxels"
        )


def stored_slices(
    header: Header, rows: int, columns: int, count: int, decoder: Decoder, warnings: list[str]
) -> Iterator[Array]:
    """The slices of a file in its order, (rows, columns) of `Numbers.kind`, as stored.

    Args:
        header: The file's.
        rows: Of a slice.
        columns: Of a slice.
        count: Of slices.
        decoder: For packed pixels.
        warnings: Gets a line where there is more than these, or loss; what it has after "; " is the same for all files.

    Raises:
        InputError: Some are missing or damaged.
    """
    stored = numbers_of(header)
    with opened_content(header.source) as (file, _):
        file.seek(header.pixels_at)
        length, words = _start_of_pixels(header, file)
        at = file.tell()
        start = file.read(len(_ITEM))
        items, end = ([], at + length + length % 2) if header.syntax in NATIVE else _items(file, at)
        if _is_followed(header, file, end):
            found = "found bytes behind its pixels, expected the end of the file"
            warnings.append(f"{header.label}: {found}; left out")
        file.seek(at)
        packed = length == _UNDEFINED or (start == _ITEM and length % (rows * columns) > 0)
        if (header.syntax in NATIVE) == packed:
            kinds = ("plain", "packed") if header.syntax in NATIVE else ("packed", "plain")
            found = f"found {kinds[1]} pixels in a file that states {kinds[0]} ones"
            raise InputError(f"{header.label}: {found}, expected what it states")
        if header.syntax in NATIVE:
            size = rows * columns * stored.allocated // 8
            kind = stored.kind.newbyteorder(">" if header.syntax == BIG_ENDIAN else "<")
            if length > size * count + 1:
                found = f"found {length} bytes of pixels"
                warnings.append(f"{header.label}: {found}, expected {size * count}; the others left out")
            if not size * count <= length <= header.size - file.tell():
                found = f"found {length} bytes of pixels"
                raise InputError(f"{header.label}: {found}, expected {count} slices of {columns} x {rows} voxels")
            if stored.allocated == 8 and words and header.syntax == BIG_ENDIAN:  # the second number of two comes first
                pairs = file.read(length)
                file = BytesIO(np.frombuffer(pairs[: len(pairs) // 2 * 2], np.uint16).byteswap().tobytes())
            for _ in range(count):
                plain = file.read(size)
                if len(plain) < size:
                    raise InputError(f"{header.label}: found the end of the file too early, expected all voxels")
                yield np.frombuffer(plain, kind).reshape(rows, columns).astype(stored.kind, copy=False)
            return
        lossy = False
        for content in _packed_frames(header, file, count, items, warnings):
            lossy |= is_lossy(content, header.syntax)
            how = Packed(header.syntax, rows, columns, stored.allocated, stored.stored, stored.high, stored.signed)
            yield decoder.decode(header.label, content, how, warnings)
        if lossy:
            found = "found slices packed with loss in a transfer syntax that has none"
            warnings.append(f"{header.label}: {found}, expected all values as they were; taken as they are")


def _start_of_pixels(header: Header, file: BinaryIO) -> tuple[int, bool]:
    """The length of the pixels, at whose first byte the file stands then, and whether they are words of 16 bits."""
    order = ">" if header.syntax == BIG_ENDIAN else "<"
    head = file.read(8).ljust(8, b"\0")
    group, element = unpack(f"{order}HH", head[:4])
    if (group, element) != _PIXELS:
        raise InputError(f"{header.label}: found no pixels, expected a slice with its voxels")
    if head[4:6] not in _KINDS:  # the element says no kind; whatever the file states, it is written so
        return int(unpack(f"{order}I", head[4:])[0]), False
    return int(unpack(f"{order}I", file.read(4).ljust(4, b"\0"))[0]), head[4:6] == b"OW"


def _items(file: BinaryIO, at: int) -> tuple[list[tuple[int, int]], int]:
    """Where the items of packed pixels lie that begin there, and how long they are; and where the pixels end."""
    items = list[tuple[int, int]]()
    file.seek(at)
    while (head := file.read(8))[:4] == _ITEM:
        items.append((at, length := int.from_bytes(head[4:], "little")))
        at = file.seek(length, 1)
    return items, at + 8 * (head[:4] == _ITEMS_END)


def _is_followed(header: Header, file: BinaryIO, end: int) -> bool:
    """Whether other bytes follow pixels that end there than may: elements of makers, padding, signatures; zeros."""
    if end >= header.size:
        return False
    file.seek(end)
    rest = file.read(_PADDING + 1)
    if len(rest) <= _PADDING and not rest.strip(b"\0"):
        return False
    group, element = unpack(f"{'>' if header.syntax == BIG_ENDIAN else '<'}HH", rest[:4].ljust(4, b"\0"))
    return not (group > _PIXELS[0] and group % 2) and (group, element) not in _MAY_FOLLOW


def _packed_frames(
    header: Header, file: BinaryIO, count: int, items: list[tuple[int, int]], warnings: list[str]
) -> Iterator[bytes]:
    """The packed slices of a file, which stands at the first byte of its pixels; a line where there are more."""
    from pydicom.encaps import generate_frames

    offsets, lengths = (value(header.values, f"ExtendedOffsetTable{end}") for end in ("", "Lengths"))
    extended = (offsets, lengths) if isinstance(offsets, bytes) and isinstance(lengths, bytes) else None
    if extended is not None:
        _check_offsets(header, *extended, items[1:])
    more = f"{header.label}: found more packed slices than {count}; the others left out"
    number = 0
    try:
        for frame in generate_frames(bounded(header.label, file), number_of_frames=count, extended_offsets=extended):
            if number == count:
                if frame and more not in warnings:
                    warnings.append(more)
                break
            number += 1
            end = None if header.syntax == RLE else _NEXT_STREAM.search(frame)
            if end is not None and more not in warnings:
                warnings.append(more)
            yield frame if end is None else frame[: end.start() + 2]
    except InputError:
        raise
    except Exception as error:
        why = type(error).__name__
        raise InputError(f"{header.label}: found damaged pixels ({why}), expected {count} packed slices") from None
    if number < count:
        raise InputError(f"{header.label}: found {number} packed slices, expected {count}")


def _check_offsets(header: Header, offsets: bytes, lengths: bytes, items: list[tuple[int, int]]) -> None:
    """Raise InputError unless a table names each item of packed pixels once, in their order, with its length."""
    first = items[0][0] if items else 0
    starts, sizes = (np.frombuffer(table[: len(table) // 8 * 8], "<u8").tolist() for table in (offsets, lengths))
    there = [at - first for at, _ in items]
    if (
        starts != there
        or len(sizes) != len(items)
        or any(not 0 <= length - size <= 1 for (_, length), size in zip(items, sizes))
    ):
        found = f"found an ExtendedOffsetTable of {len(starts)} packed slices that lie or end elsewhere"
        raise InputError(f"{header.label}: {found}, expected it to name each of the {len(items)} that there are")


class Beside(Enum):
    """What the bits of a slice hold beside those that count."""

    NOTHING = auto()  # or an overlay, or nothing that makes a difference
    SIGN = auto()  # of negative numbers, carried on into them
    LEFT_OUT = auto()  # what changed numbers once it was left out
    NUMBERS = auto()  # so that the statement is what is wrong


def meant(stored: Array, how: Numbers, values: Dataset, all_bits: bool = False) -> tuple[Array, Beside]:
    """The numbers that a slice's stored ones mean, and what lies beside the bits that count.

    Bits beside those hold the sign, nothing, or an overlay. Where they hold something else, the statement is what is
    wrong: taking the bits away would turn the brightest voxels dark.

    Args:
        stored: The slice.
        how: How its file says that it stores numbers.
        values: The header.
        all_bits: Whether it is known from other slices that all bits count but those of overlays.
    """
    if how.stored == how.allocated:
        return stored, Beside.NOTHING
    overlays, shift = _overlays(values, how), how.high + 1 - how.stored
    if shift and not overlays and (all_bits or (stored & ((1 << shift) - 1)).any()):
        return stored, Beside.NUMBERS  # in the bits that shall hold none
    if shift or (overlays and how.signed):
        bits = stored.view(np.dtype(f"u{stored.dtype.itemsize}")) >> shift & ((1 << how.stored) - 1)
        return _signed(bits, how), Beside.NOTHING if overlays else Beside.LEFT_OUT
    if overlays:
        stored = stored & ((1 << how.allocated) - 1 - overlays)
    low, high = int(stored.min()), int(stored.max())
    if how.signed:
        half = 1 << (how.stored - 1)
        if -half <= low and high < half:
            return stored, Beside.SIGN if low < 0 else Beside.NOTHING
        if low >= 0 and high < 2 * half and not all_bits:  # the sign was not carried on into the bits beyond
            return _signed(stored.view(np.dtype(f"u{stored.dtype.itemsize}")), how), Beside.LEFT_OUT
        return stored, Beside.NUMBERS
    return stored, Beside.NUMBERS if high >= 1 << how.stored else Beside.NOTHING


def _overlays(values: Dataset, how: Numbers) -> int:
    """The bits beside those that count in which overlays lie, as a number; others have an element of their own."""
    low, found = how.high + 1 - how.stored, 0
    for group in range(0x6000, 0x6020, 2):
        try:
            place = None if (group, 0x3000) in values else int(values[group, 0x0102].value)
        except Exception:  # it is not there, or of any other kind
            continue
        if place is not None and 0 <= place < how.allocated and not low <= place <= how.high:
            found |= 1 << place
    return found


def _signed(bits: Array, how: Numbers) -> Array:
    """Unsigned numbers as what their highest stored bit makes of them."""
    if not how.signed:
        return bits
    half = 1 << (how.stored - 1)
    return ((bits.astype(np.int64) ^ half) - half).astype(how.kind)


def padding_of(values: Dataset, how: Numbers) -> tuple[int, int] | None:
    """The lowest and highest stored number that a file gives to voxels outside of its image, or None."""
    first = whole(values, "PixelPaddingValue")
    if first is None and isinstance(raw := value(values, "PixelPaddingValue"), bytes) and len(raw) == 2:
        first = int.from_bytes(raw, "little", signed=how.signed)
    if first is None:
        return None
    last = whole(values, "PixelPaddingRangeLimit")
    ends = sorted(_wrapped(end, how) for end in (first, first if last is None else last))
    return ends[0], ends[1]


def _wrapped(number: int, how: Numbers) -> int:
    """A number that was written with the wrong sign, as it was meant."""
    size = 1 << how.allocated
    low = -size // 2 if how.signed else 0
    return number - size if number >= low + size else number + size if number < low else number
