"""The pages of a TIFF file, looked at before ITK reads them.

ITK takes size and type from the first page and reads all others as if they had them too, into memory that is as large
as that; it follows directories in a circle, and takes strips from wherever a directory says.
"""

from __future__ import annotations

import os
import re
import zlib
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.geometry import Array
from umamba2.scans.kinds import check_kind
from umamba2.scans.voxels import check_memory

_START = 400  # bytes that tell whether it is one
_LARGEST_SIZE = 1 << 16  # voxels along an axis
_MOST_ENTRIES = 512  # of a directory; programs write some 20
_MOST_DIRECTORIES = 1 << 16  # of a file; each slice has one
_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), 1))  # of a value, by its type
_FAR = 1 << 61  # beyond the end of any file
_WHOLE = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}  # whole numbers without a sign
_PADDING, _RESERVE = 4, 512  # bytes that programs leave out between two parts, and somewhere,
_BLOCK = 1 << 13  # or up to so many, for voxels that begin where a block of memory does; but no slice
# What all pages must have alike, and what holds where a directory does not say.
_ALIKE = {
    254: ("subfile type", -1),
    256: ("width", 0),
    257: ("height", 0),
    258: ("bits a voxel", 1),
    259: ("compression", 1),
    262: ("photometric interpretation", -1),
    266: ("fill order", 1),
    274: ("orientation", 1),
    277: ("values per voxel", 1),
    317: ("predictor", 1),
    322: ("width of tiles", 0),
    339: ("sample format", 1),
}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _GREYS = 256, 257, 258, 259, 262
_FILLED, _ORIENTATION, _SAMPLES, _PREDICTOR, _TILES, _FORMAT = 266, 274, 277, 317, 322, 339
_OFFSETS, _ROWS, _COUNTS = 273, 278, 279  # of strips
_TEXT, _LONGEST_TEXT = 270, 1 << 24  # a description, of which so many bytes are looked at; OME names each page
_PAGE = 297  # its number
_RESOLUTION, _UNIT, _INCH = (282, 283), 296, 2  # pixels per unit, as fractions of two numbers
_FRACTION = 5  # a type
_MORE = (_OFFSETS, _ROWS, _COUNTS, _PAGE, _UNIT)  # fields that are read besides those that are alike
_UNPACKED, _LZW, _JPEG, _DEFLATED = 1, 5, (6, 7), (8, 32946)
# Bits a voxel and sample format (1: without a sign, 2: with one, 3: floating point) that ITK reads as what they are.
_KINDS = {(8, 1), (8, 2), (16, 1), (16, 2), (32, 1), (32, 2), (32, 3)}
_PREFIX = r"(?:[\w.-]+:)?"  # of an XML name


def check_pages(path: Path, more: int = 0) -> list[str]:
    """Look at all directories of a TIFF file.

    Args:
        path: The file.
        more: Bytes for each voxel that are needed besides it.

    Returns:
        One line for everything that is odd.

    Raises:
        InputError: They lead in a circle, are too many, differ, are of a kind that ITK does not read, or their voxels
            are not where or as many as they should be, or more than there is memory for.
    """
    with open(path, "rb") as file:
        pages, parts = _directories(path, file)
        if not pages or _HEIGHT not in pages[0]:
            return []  # ITK says what is missing
        first = _kind(pages[0])
        for number, page in enumerate(pages):
            for tag, value in _kind(page).items():
                if value != first[tag]:
                    found = f"{_ALIKE[tag][0]} {first[tag]} in the first slice and {value} in slice {number + 1}"
                    raise InputError(f"{path}: found the {found}, expected slices that are alike")
        _check_kind(path, first)
        voxels = len(pages) * first[_WIDTH] * first[_HEIGHT]
        check_memory(str(path), voxels * first[_BITS] // 8, voxels * more)
        strips = np.concatenate([_strips(path, page, first) for page in pages])
        regions = np.concatenate([strips[:, :2], np.reshape(sorted(parts), (-1, 2))])
        regions = regions[np.lexsort(regions.T[::-1])]
        end = file.seek(0, os.SEEK_END)
        if (regions[1:, 0] < regions[:-1, 1]).any() or regions[-1, 1] > end:
            found = "parts that lie on each other or beyond the end"
            raise InputError(f"{path}: found {found}, expected each in its place in a complete image file")
        if first[_COMPRESSION] in _DEFLATED:
            _check_deflated(path, file, strips)
    said = []
    spare = end - int((regions[:, 1] - regions[:, 0]).sum())
    size = int((strips[:, 1] - strips[:, 0]).sum()) // len(pages)  # of a slice
    if spare > _PADDING * len(regions) + max(_RESERVE, min(_BLOCK, size - 1)):
        said.append(f"{path}: found {spare} bytes that none of its {len(pages)} slices names, expected no more slices")
    if first[_COMPRESSION] in _JPEG:
        said.append(f"{path}: found slices packed as JPEG, which changes values, expected all as they were")
    if first[_GREYS] == 0:
        said.append(f"{path}: found grey values of which 0 is white, expected 0 to be black; they are not inverted")
    text = _text(pages[0])
    axes = _axes_of(text, len(pages))
    if len(axes) > 1:
        stated = ", ".join(f"{count} {name}" for name, count in axes.items())
        raise InputError(f"{path}: found several volumes in it ({stated}), expected one, 3-D")
    if any(count != len(pages) for count in axes.values()):
        found = f"{len(pages)} slices and a description of {', '.join(map(str, axes.values()))}"
        said.append(f"{path}: found {found}, expected as many; those that are there are taken for all")
    said += _odd_description(path, text, first, len(pages))
    scales = [_scale(page) for page in pages if any(tag in page for tag in _RESOLUTION)]
    if len(set(scales)) > 1:
        said.append(f"{path}: found slices of different resolutions, expected one; that of the first is taken for all")
    numbers = [int(page[_PAGE][0]) for page in pages if _PAGE in page]
    if sorted(numbers) != numbers:
        said.append(f"{path}: found page numbers that are out of order, expected rising ones; they are passed over")
    calibration = re.findall(r"^(?:cf|c\d)=.*", text, re.MULTILINE)
    if calibration:  # ImageJ's, as for signed numbers of 16 bits, which it stores without their sign
        found = f"found grey values that need a calibration ({', '.join(calibration)[:80]})"
        said.append(f"{path}: {found}, expected them as they are; it is not applied")
    return said


def _axes_of(text: str, pages: int) -> dict[str, int]:
    """The axes along which a description says that pages follow each other, with their sizes, of those that have some.

    ImageJ, ImageJ2 (SCIFIO), OME and tifffile write them. A stack whose only such axis is called time or channels is a
    volume, too. Of several images in OME, a file that has no more pages than one of them holds but that.
    """
    if text.startswith("ImageJ="):
        sizes = dict(re.findall(r"^(channels|slices|frames)=(\d{1,9})\s*$", text, re.MULTILINE))
    elif text.startswith("SCIFIO="):
        rows = (re.search(rf"^{row}=(.*)$", text, re.MULTILINE) for row in ("axes", "lengths"))
        axes, lengths = (row[1].strip().split(",") if row else [] for row in rows)
        named = {"Channel": "channels", "Z": "slices", "Time": "frames"}
        stated = {named.get(axis, axis): count for axis, count in zip(axes, lengths) if axis not in ("X", "Y")}
        sizes = {name: count for name, count in stated.items() if re.fullmatch(r"\d{1,9}", count, re.ASCII)}
    elif _is_ome(text):
        pixels = re.search(rf"<{_PREFIX}Pixels\s[^<>]*>", text)
        names = {"C": "channels", "Z": "slices", "T": "frames"}
        found = re.findall(r"\bSize([CZT])\s*=\s*.(\d{1,9})\b", pixels[0] if pixels else "")
        sizes = {names[axis]: count for axis, count in found}
        if pages > prod(map(int, sizes.values())):
            sizes["images"] = str(len(re.findall(rf"<{_PREFIX}Image[\s>]", text)))
    else:
        shape = re.match(r'\{"shape": \[([\d, ]+)\]', text)
        sides = shape[1].split(",")[:-2] if shape else []
        sizes = {f"along axis {axis}": count for axis, count in enumerate(sides, start=1)}
    return {name: int(count) for name, count in sizes.items() if int(count) > 1}


def _odd_description(path: Path, text: str, kind: dict[int, int], pages: int) -> list[str]:
    """What a description by OME or tifffile says of the pages that they themselves say otherwise, one line each.

    Raises:
        InputError: By OME they are slices in another order than that of the file.
    """
    shape = re.match(r'\{"shape": \[(?:\d+, )*(\d+), (\d+)\]', text)
    if shape:
        return _contradicted(path, {"height": (shape[1], kind[_HEIGHT]), "width": (shape[2], kind[_WIDTH])})
    pixels = re.findall(rf"<{_PREFIX}Pixels\s[^<>]*>", text) if _is_ome(text) else []
    if len(pixels) != 1:  # of several images it is not known which are here
        return []
    stated, bits = _attributes(pixels[0]), kind[_BITS]
    dtype = "float" if kind[_FORMAT] == 3 else f"{'int' if kind[_FORMAT] == 2 else 'uint'}{bits}"
    there: dict[str, str | int] = {"SizeX": kind[_WIDTH], "SizeY": kind[_HEIGHT], "Type": dtype}
    told = {name: (stated[name], value) for name, value in there.items() if name in stated}
    used = stated.get("SignificantBits", "")
    if used.isdecimal() and not bits // 2 < int(used[:9]) <= bits:  # fewer would be another type
        told["SignificantBits"] = (used, bits)
    said = _contradicted(path, told)
    itself = re.search(rf"<{_PREFIX}OME\s[^<>]*\bUUID\s*=\s*[\"']([^\"'<>]*)", text)
    parts, others = [], set()
    for tag, owner, uuid in re.findall(
        rf"<{_PREFIX}TiffData\b([^<>]*)>(?:\s*<{_PREFIX}UUID\b([^<>]*)>([^<>]*)<)?", text
    ):
        name = _attributes(owner).get("FileName", path.name)
        if name != path.name and not (itself and itself[1].strip() == uuid.strip()):
            others.add(name)
            continue
        numbers = {key: int(value) for key, value in _attributes(tag).items() if re.fullmatch(r"[0-9]{1,9}", value)}
        page = numbers.get("IFD", 0)
        count = numbers.get("PlaneCount", numbers.get("NumPlanes", 1 if "IFD" in numbers else pages - page))
        parts.append((sum(numbers.get(f"First{axis}", 0) for axis in "ZCT"), page, count))
    if others:
        found = f"a description that names other files for its slices ({sorted(others)[0][:80]!r})"
        said.append(f"{path}: found {found}, expected this one; all slices that are here are taken")
    parts.sort()
    if any(after < before for (_, before, _), (_, after, _) in pairwise(parts)):
        found = "slices in another order than its description (TiffData) says"
        raise InputError(f"{path}: found {found}, expected them as they follow each other")
    named = 0
    for plane, page, count in parts:
        if not plane == page == named:
            break
        named += count
    if parts and not others and named != pages:
        found = f"{pages} slices, of which its description (TiffData) does not name each in its place"
        said.append(f"{path}: found {found}, expected that it does; they are taken as they follow each other")
    return said


def _contradicted(path: Path, told: dict[str, tuple[str, str | int]]) -> list[str]:
    """A line for each name whose value in the description, the first, is not that of the pages, the second."""
    return [
        f"{path}: found {name} {stated[:40]} in its description and slices of {there}, expected as much; they count"
        for name, (stated, there) in told.items()
        if stated != str(there)
    ]


def _attributes(tag: str) -> dict[str, str]:
    """The attributes of an XML element."""
    return dict(re.findall(r"([\w:]+)\s*=\s*[\"']([^\"'<>]*)[\"']", tag))


def _is_ome(text: str) -> bool:
    return re.search(rf"<{_PREFIX}OME[\s>]", text) is not None


def _text(page: dict[int, Array]) -> str:
    """The description in a page, without comments of XML."""
    text = page.get(_TEXT, np.zeros(0, np.uint8)).tobytes().decode(errors="replace")
    if not _is_ome(text):
        return text
    start, *behind = text.split("<!--")
    return start + "".join(part.partition("-->")[2] for part in behind)


def _scale(page: dict[int, Array]) -> tuple[float, ...]:
    """The pixels per inch or other unit along x and y that a page states, with the unit; 0: not stated."""
    numbers = (page.get(tag, np.zeros(2)).tolist() for tag in _RESOLUTION)
    unit = int(page[_UNIT][0]) if _UNIT in page else _INCH
    return (*(above / below if below else 0.0 for above, below in numbers), unit)


def _directories(path: Path, file: BinaryIO) -> tuple[list[dict[int, Array]], set[tuple[int, int]]]:
    """The fields of all directories that are of interest, and where directories and fields lie: (start, end)."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(_START)
    check_kind(path, start, "TIFF")
    order = ">" if start[:2] == b"MM" else "<"
    big = start[2:4] in (b"\0+", b"+\0")  # BigTIFF: numbers of 64 bits
    number, counter, width = (np.dtype(f"{order}u8"),) * 2 + (8,) if big else (f"{order}u4", f"{order}u2", 4)
    layout = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("count", number), ("value", f"V{width}")])

    def read(at: int, kind: str | np.dtype[np.void] | np.dtype[np.unsignedinteger], count: int = 1) -> Array:
        size = np.dtype(kind).itemsize * count
        if at + size > end:
            return np.zeros(0, kind)  # ITK says so
        file.seek(at)
        return np.frombuffer(file.read(size), kind)

    def one(at: int, kind: str | np.dtype[np.unsignedinteger]) -> int:
        found = read(at, kind)
        return int(found[0]) if found.size else 0

    pages: list[dict[int, Array]] = []
    seen: set[int] = set()
    parts = {(0, 16 if big else 8)}
    place = one(8 if big else 4, number)
    while place:
        if place in seen:
            raise InputError(f"{path}: found a directory that leads back to itself, expected a chain with an end")
        seen.add(place)
        if len(seen) > _MOST_DIRECTORIES:
            raise InputError(f"{path}: found more than {_MOST_DIRECTORIES:,} directories, expected one a slice")
        count = one(place, counter)
        if count > _MOST_ENTRIES:
            raise InputError(f"{path}: found a directory of {count} fields, expected at most {_MOST_ENTRIES}")
        at = place + np.dtype(counter).itemsize
        entries = read(at, layout, count)
        elsewhere = np.frombuffer(entries["value"].tobytes(), number)
        fields = {}
        numbers = (entries[name].tolist() for name in ("tag", "type", "count"))
        for tag, kind, amount, value, away in zip(*numbers, entries["value"], elsewhere.tolist()):
            size = _BYTES.get(kind, 0) * amount
            if size > width:
                parts.add((min(away, _FAR), min(away + size, _FAR)))
            fraction = tag in _RESOLUTION and kind == _FRACTION and amount == 1
            if fraction or (kind in _WHOLE and (tag in _ALIKE or tag in _MORE) and 0 < amount <= _LARGEST_SIZE):
                whole = np.dtype(f"{order}{'u4' if fraction else _WHOLE[kind]}")
                fields[tag] = (
                    read(away, whole, size // whole.itemsize)
                    if size > width
                    else np.frombuffer(value.tobytes()[:size], whole)
                )
            elif tag == _TEXT and not pages and width < size:
                fields[tag] = read(away, "u1", min(size, _LONGEST_TEXT))
        pages.append({tag: values for tag, values in fields.items() if values.size})
        behind = at + count * layout.itemsize
        parts.add((place, behind + width))
        place = one(behind, number)
    return pages, parts


def _kind(page: dict[int, Array]) -> dict[int, int]:
    return {tag: int(page[tag][0]) if tag in page else default for tag, (_, default) in _ALIKE.items()}


def _check_kind(path: Path, kind: dict[int, int]) -> None:
    """Raise InputError for pages that ITK does not read, or not as what they are."""
    if max(kind[_WIDTH], kind[_HEIGHT]) > _LARGEST_SIZE:
        raise InputError(f"{path}: found more than {_LARGEST_SIZE:,} voxels along an axis, expected fewer")
    if kind[_SAMPLES] != 1:
        raise InputError(f"{path}: found {kind[_SAMPLES]} values per voxel, expected 1")
    if kind[_TILES]:
        raise InputError(f"{path}: found voxels in tiles, expected them in strips")
    if (kind[_BITS], kind[_FORMAT]) not in _KINDS:
        found = f"voxels of {kind[_BITS]} bits and sample format {kind[_FORMAT]}"
        raise InputError(f"{path}: found {found}, expected whole numbers of 8, 16 or 32 bits, or floats of 32")
    if kind[_GREYS] not in (0, 1):
        raise InputError(f"{path}: found the photometric interpretation {kind[_GREYS]}, expected grey values (0 or 1)")
    if kind[_FILLED] != 1:  # ITK turns the bits of each byte around, which few programs mean
        raise InputError(f"{path}: found the fill order {kind[_FILLED]}, expected 1")
    if kind[_PREDICTOR] != 1 and kind[_COMPRESSION] not in (_LZW, *_DEFLATED):  # ITK would give the differences
        found = f"the predictor {kind[_PREDICTOR]} with compression {kind[_COMPRESSION]}"
        raise InputError(f"{path}: found {found}, expected it with LZW (5) or Deflate (8) only")
    if kind[_ORIENTATION] not in (1, 4):
        raise InputError(f"{path}: found the orientation {kind[_ORIENTATION]} of its slices, expected 1 or 4")


def _strips(path: Path, page: dict[int, Array], kind: dict[int, int]) -> Array:
    """Where the strips of a page lie, and what they hold: (strips, 3), start, end and unpacked bytes."""
    height, row = kind[_HEIGHT], kind[_WIDTH] * kind[_BITS] // 8
    rows = min(height, int(page[_ROWS][0])) if _ROWS in page else height
    nothing = np.zeros(0, np.int64)
    found = (page.get(tag, nothing).astype(np.uint64) for tag in (_OFFSETS, _COUNTS))
    starts, sizes = (np.minimum(numbers, _FAR).astype(np.int64) for numbers in found)
    expected = -(-height // rows) if rows else 0
    if not len(starts) == len(sizes) == expected:
        there = f"{len(starts)} places and {len(sizes)} sizes of strips in a slice"
        raise InputError(f"{path}: found {there}, expected {expected} each")
    if kind[_COMPRESSION] == _UNPACKED and int(sizes.sum()) != height * row:
        raise InputError(f"{path}: found {sizes.sum()} bytes of voxels in a slice, expected {height * row}")
    unpacked = np.diff(np.minimum(np.arange(expected + 1) * rows, height)) * row
    return np.column_stack([starts, starts + sizes, unpacked])


def _check_deflated(path: Path, file: BinaryIO, strips: Array) -> None:
    """Raise InputError where a checksum is wrong, or more is packed than belongs there, which ITK does not look at."""
    for start, end, expected in strips.tolist():
        file.seek(start)
        inflater, packed, size = zlib.decompressobj(), file.read(max(0, end - start)), 0
        try:
            while packed and not inflater.eof and size <= expected:
                size += len(inflater.decompress(packed, 1 << 24))
                packed = inflater.unconsumed_tail
        except zlib.error as error:
            raise InputError(f"{path}: found damaged voxels ({error}), expected what was once compressed") from None
        if size > expected:
            found = f"{size} bytes or more unpacked in a strip"
            raise InputError(f"{path}: found {found}, expected {expected}: is the size or type of its slices another?")
        if not inflater.eof:
            raise InputError(f"{path}: found voxels that end too early, expected what was once compressed")
