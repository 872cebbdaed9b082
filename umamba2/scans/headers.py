"""What a file's own header says, read before ITK is let near it.

ITK trusts headers: it allocates what they declare, opens what they name, and does not say what they leave out. The
voxels of MetaImage, NRRD and NIfTI are read by `umamba2.scans.voxels`, from where the headers here say they are; ITK
reads their geometry, and whole TIFF files.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from umamba2.errors import InputError

_LONGEST_HEADER = 1 << 18  # bytes; segmentations by 3D Slicer name all their structures, in some 60,000

# The fields of a MetaImage that state voxel size, directions and place; each has had several names.
_SIZES = {"ElementSpacing", "ElementSize"}
_DIRECTIONS = {"TransformMatrix", "Rotation", "Orientation"}
_TYPE = re.compile("MET_U?(CHAR|SHORT|INT|LONG|LONG_LONG)|MET_(FLOAT|DOUBLE)")
_GRID = _SIZES | _DIRECTIONS | {"Offset", "Position", "Origin"}


@dataclass(frozen=True)
class Header:
    """What a file says about its voxels, beyond what ITK passes on.

    Attributes:
        data: The file that holds the voxels.
        offset: Where they begin in it, in bytes; None: they are the last thing in it.
        packed: Whether they are compressed, with zlib's or gzip's checksum.
        skip: How many bytes to leave out after unpacking.
        order: "<" or ">", the byte order.
        sized: Whether the file states a voxel size.
        oriented: Whether it states how the axes lie in the patient.
    """

    data: Path
    offset: int | None = 0
    packed: bool = False
    skip: int = 0
    order: Literal["<", ">"] = "<"
    sized: bool = True
    oriented: bool = True


def metaimage_header(path: Path) -> Header:
    """The header of a MetaImage (.mha, .mhd); InputError for one that is not understood."""
    start = _start(path)
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields and position < len(start):
        end = start.find(b"\n", position)
        end = len(start) if end < 0 else end
        key, _, value = re.sub(r"[:=]", "=", start[position:end].decode(errors="surrogateescape"), count=1).partition(
            "="
        )
        fields[key.strip()] = value.strip()
        position = end + 1
    name = fields.get("ElementDataFile")
    if name is None:
        raise InputError(f"{path}: could not be read (no ElementDataFile in it), expected a complete image file")
    if not _yes(fields.get("BinaryData", "True")):
        raise InputError(f"{path}: found voxels written as text, expected BinaryData = True")
    if not _TYPE.fullmatch(kind := fields.get("ElementType", "")):
        raise InputError(f"{path}: found voxels of the type {kind[:40]!r}, expected numbers such as MET_SHORT")
    for key in _GRID & fields.keys():  # MetaImage's own reader takes what is no number for 0
        try:
            finite = all(math.isfinite(float(number)) for number in fields[key].split())
        except ValueError:
            finite = False
        if not finite:
            raise InputError(f"{path}: found {key} = {fields[key][:80]}, expected finite numbers")
    local = name.upper() == "LOCAL"
    data = path if local else _beside(path, name)
    skip = _number(path, "HeaderSize", fields.get("HeaderSize", "0"))
    if skip < -1:
        raise InputError(f"{path}: found HeaderSize = {skip}, expected -1 or more")
    offset = skip or (position if local else 0)
    swapped = _yes(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "")))
    return Header(
        data,
        None if skip < 0 else offset,
        _yes(fields.get("CompressedData", "")),
        order=">" if swapped else "<",
        sized=bool(_SIZES & fields.keys()),
        oriented=bool(_DIRECTIONS & fields.keys()),
    )


def nrrd_header(path: Path) -> Header:
    """The header of a NRRD file; InputError for one that is not understood."""
    start = _start(path)
    end = re.search(rb"\r?\n\r?\n", start)
    lines = start[: end.start() if end else None].decode(errors="surrogateescape").splitlines()
    if not lines or not lines[0].startswith("NRRD"):
        raise InputError(f"{path}: could not be read (no NRRD header in it), expected a complete image file")
    pairs = (line.partition(":") for line in lines[1:] if not line.startswith("#") and ":=" not in line)
    fields = {key.strip().lower().replace(" ", ""): value.strip() for key, _, value in pairs}
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{path}: found the encoding {encoding[:40]!r}, expected raw or gzip")
    name = fields.get("datafile")
    if name is None and end is None:
        raise InputError(f"{path}: found no end of the header, expected an empty line before the voxels")
    skip = _number(path, "byte skip", fields.get("byteskip", "0"))
    if _number(path, "line skip", fields.get("lineskip", "0")) or skip < -1 or (skip < 0 and encoding != "raw"):
        raise InputError(f"{path}: found a line skip, or a byte skip of {skip}, expected none")
    begin = end.end() if name is None and end else 0
    raw = encoding == "raw"
    vectors = fields.get("spacedirections", "")
    return Header(
        path if name is None else _beside(path, name),
        None if skip < 0 else begin + (skip if raw else 0),
        not raw,
        0 if raw else skip,
        ">" if fields.get("endian", "").lower() == "big" else "<",
        bool(vectors) or "nan" not in fields.get("spacings", "nan").lower(),
        bool(vectors)
        and fields.get("space", "")
        .lower()
        .startswith(("l", "r")),  # "scanner-xyz" and "3D-right-handed" are not the patient's,
    )


def check_tiff(path: Path) -> None:
    """Raise InputError for a TIFF file whose directories form a circle, in which ITK would never come to an end."""
    end = path.stat().st_size
    with open(path, "rb") as file:
        mark = file.read(4)
        order = ">" if mark[:2] == b"MM" else "<"
        big = b"+" in mark[2:]  # BigTIFF: numbers of 64 bits
        number, counter, entry, place = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)

        def read(kind: str, at: int) -> int:
            size = struct.calcsize(order + kind)
            if at + size > end:
                return 0  # beyond the end of the file; ITK says so
            file.seek(at)
            return int(struct.unpack(order + kind, file.read(size))[0])

        seen: set[int] = set()
        directory = read(number, place)
        while directory:
            if directory in seen:
                raise InputError(f"{path}: found a directory that leads back to itself, expected a chain with an end")
            seen.add(directory)
            count = read(counter, directory)
            directory = read(number, directory + struct.calcsize(order + counter) + count * entry)


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_LONGEST_HEADER)


def _yes(value: str) -> bool:
    return value[:1] in ("T", "t", "1")


def _number(path: Path, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{path}: found {name} {text[:40]!r}, expected a whole number") from None


def _beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names: one regular file in the header's folder, and nothing else."""
    if name.split(" ")[0] == "LIST" or "%" in name:
        raise InputError(f"{path}: found voxels in several files ({name[:80]}), expected them in one")
    data = path.with_name(Path(name).name) if name else path
    if not name or Path(name).name != name:
        raise InputError(f"{path}: found {name[:80]!r} as the file of voxels, expected one in the same folder")
    if not data.exists():
        raise InputError(f"{path}: found no {name}, expected the file that it names as its voxels")
    if not data.is_file():
        raise InputError(f"{path}: found {name}, which is no regular file, expected the file of its voxels")
    return data
