"""What a file's own header says, read before ITK is let near it.

ITK trusts headers: it allocates what they declare, opens what they name, and does not say what they leave out; some end
the process. The voxels of MetaImage, NRRD and NIfTI are read by `umamba2.scans.voxels`, from where the headers here say
they are. ITK reads the grids of NRRD and NIfTI files, and whole TIFF files (`umamba2.scans.tiff`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.geometry import Geometry

_LONGEST_HEADER = 1 << 18  # bytes; segmentations by 3D Slicer name all their structures, in some 60,000

_FREE_TEXT = ("Comment", "Name")
_LARGEST_SIZE = 1 << 31  # voxels along an axis

_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# What the fields of a MetaImage's grid have been called; of several, the first counts.
_META_NAMES = {
    "size": ("DimSize",),
    "spacing": ("ElementSpacing", "ElementSize"),
    "origin": ("Origin", "Offset", "Position"),
    "direction": ("TransformMatrix", "Rotation", "Orientation"),
}


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
        dtype: Of the voxels; None: ITK finds out.
        geometry: The grid; None: ITK finds out.
    """

    data: Path
    offset: int | None = 0
    packed: bool = False
    skip: int = 0
    order: Literal["<", ">"] = "<"
    sized: bool = True
    oriented: bool = True
    dtype: np.dtype[np.generic] | None = None
    geometry: Geometry | None = None


def metaimage_header(path: Path) -> Header:
    """The header of a MetaImage (.mha, .mhd); InputError for one that is not understood."""
    start = _start(path)
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields and position < len(start):
        end = start.find(b"\n", position)
        end = len(start) if end < 0 else end
        line = start[position:end].decode(errors="surrogateescape")
        key, *value = (part.strip() for part in re.split("[:=]", line, maxsplit=1))
        told = value[0] if value else ""
        if fields.setdefault(key, told) != told and key not in _FREE_TEXT:
            raise InputError(f"{path}: found {key[:40]} twice ({fields[key][:40]}, {told[:40]}), expected one")
        position = end + 1
    name = fields.get("ElementDataFile")
    if name is None:
        raise InputError(f"{path}: could not be read (no ElementDataFile in it), expected a complete image file")
    if not _yes(fields.get("BinaryData", "True")):
        raise InputError(f"{path}: found voxels written as text, expected BinaryData = True")
    kind = fields.get("ElementType", "")
    if kind not in _META_TYPES:
        raise InputError(f"{path}: found voxels of the type {kind[:40]!r}, expected numbers such as MET_SHORT")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        channels = fields["ElementNumberOfChannels"]
        raise InputError(f"{path}: found {channels[:20]} values per voxel, expected 1")
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
        sized=bool(fields.keys() & _META_NAMES["spacing"]),
        oriented=bool(fields.keys() & _META_NAMES["direction"]),
        dtype=np.dtype(_META_TYPES[kind]),
        geometry=_meta_geometry(path, fields),
    )


def _meta_geometry(path: Path, fields: dict[str, str]) -> Geometry:
    """The grid that the fields of a MetaImage state."""

    def numbers(name: str, default: str, count: int) -> list[float]:
        key = next((key for key in _META_NAMES[name] if key in fields), _META_NAMES[name][0])
        try:
            found = [float(number) for number in fields.get(key, default).split()]
        except ValueError:
            found = []
        if len(found) < count or not all(map(math.isfinite, found)):
            raise InputError(f"{path}: found {key} = {fields.get(key, '')[:80]}, expected {count} finite numbers")
        return found[:count]

    dimension = _number(path, "NDims", fields.get("NDims", ""))
    stated = numbers("size", "", max(0, min(dimension, 10)))
    size = [int(n) for n in stated if n.is_integer() and abs(n) < _LARGEST_SIZE]
    if len(size) < len(stated):
        raise InputError(f"{path}: found DimSize = {fields['DimSize'][:80]}, expected {dimension} whole numbers")
    if dimension != 3 and (dimension != 4 or size[3] != 1):  # files of one time point
        raise InputError(f"{path}: found a {dimension}-D image of size {tuple(size)}, expected 3-D")
    if min(size) < 1:
        raise InputError(f"{path}: found size {tuple(size)}, expected at least one voxel along each axis")
    spacing = numbers("spacing", "1 1 1 1", dimension)
    origin = numbers("origin", "0 0 0 0", dimension)
    identity = "1 0 0 0 1 0 0 0 1" if dimension == 3 else "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"
    # MetaImage writes the direction of one grid axis after the other.
    columns = np.reshape(numbers("direction", identity, dimension**2), (dimension, dimension))
    direction = tuple(columns[:3, :3].T.ravel().tolist())
    x, y, z = size[:3]
    return Geometry((x, y, z), (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]), direction)


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
