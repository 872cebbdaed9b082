"""What a file's own header says, read before ITK is let near it.

ITK trusts headers: it allocates what they declare, opens what they name, and does not say what they leave out; some end
the process. The voxels of MetaImage, NRRD and NIfTI are read by `umamba2.scans.voxels`, from where the headers here say
they are. ITK reads the grids of NRRD and NIfTI files, and whole TIFF files (`umamba2.scans.tiff`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.geometry import Geometry
from umamba2.scans.kinds import check_kind
from umamba2.scans.orientation import code, tilt

_LONGEST_HEADER = 1 << 18  # bytes; segmentations by 3D Slicer name all their structures, in some 60,000

_FREE_TEXT = ("Comment", "Name")
# What Python's own int() and float() take besides, such as 1_0 and Arabic digits, is no number in a file.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOST_ODD_FIELDS = 500  # that are compared with those that are known
_LARGEST_SIZE = 1 << 31  # voxels along an axis
_LONGEST_LINE = 500  # bytes of NRRD, but for comments and key/value lines
_MOST_PAIRS = 5_000  # key/value lines of NRRD; teem compares each with all others, and 3D Slicer writes some 1,000

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
    "byte order": ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
}
_META_FIELDS = (
    "ObjectType", "ObjectSubType", "TransformType", "NDims", "Comment", "Name", "ID", "ParentID", "Color", "Modality",
    "BinaryData", "CompressedData", "CompressedDataSize", "CompressionLevel", "CenterOfRotation", "DistanceUnits",
    "AnatomicalOrientation", "HeaderSize", "HeaderSizePerSlice", "SequenceID", "ElementMin", "ElementMax",
    "ElementNumberOfChannels", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ElementType",
    "ElementDataFile",
    *(name for names in _META_NAMES.values() for name in names),
)  # fmt: skip
_LEANING = 30  # degrees; of what leans more, programs name other axes
_META_GRID = re.compile(rf"\b({'|'.join(name for names in _META_NAMES.values() for name in names)})\s*[=:]")
# Fields that ITK and others pass over, with the value for which that does not matter, and how it is written.
_META_IGNORED = {
    "DistanceUnits": ("mm", r"mm|\?|"),
    "ElementToIntensityFunctionSlope": ("1", r"1(\.0*)?"),
    "ElementToIntensityFunctionOffset": ("0", r"-?0(\.0*)?"),
    "ObjectType": ("Image", "Image|"),
    "Modality": ("MET_MOD_CT", r"(MET_MOD_)?(CT|CBCT|OTHER|UNKNOWN)|\?|"),
}
_NRRD_FIELDS = ("space", "space origin", "space directions", "spacings", "space units", "units", "endian", "byte skip")


_NRRD_KINDS = ("domain", "space", "none", "???")  # of the axes of a volume
_ROUNDED = 1e-3  # of a voxel size


@dataclass(frozen=True)
class Header:
    """What a file says about its voxels, beyond what ITK passes on.

    Attributes:
        data: The file that holds the voxels.
        offset: Where they begin in it, in bytes.
        last: Whether they are the last thing in it, wherever behind that they begin.
        packed: Whether they are compressed, with zlib's or gzip's checksum.
        packed_size: How many bytes they are, compressed; 0: not stated.
        skip: How many bytes to leave out after unpacking.
        order: "<" or ">", the byte order.
        sized: Whether the file states a voxel size.
        oriented: Whether it states how the axes lie in the patient.
        dtype: Of the voxels; None: ITK finds out.
        geometry: The grid; None: ITK finds out.
        said: What is odd about it, one line each.
        doubt: Why the voxels may begin elsewhere, as they do if there are more bytes than they need; "": no reason.
    """

    data: Path
    offset: int = 0
    last: bool = False
    packed: bool = False
    packed_size: int = 0
    skip: int = 0
    order: Literal["<", ">"] = "<"
    sized: bool = True
    oriented: bool = True
    dtype: np.dtype[np.generic] | None = None
    geometry: Geometry | None = None
    said: tuple[str, ...] = ()
    doubt: str = ""


def metaimage_header(path: Path) -> Header:
    """The header of a MetaImage (.mha, .mhd); InputError for one that is not understood."""
    start = _start(path)
    check_kind(path, start, "MetaImage")
    fields: dict[str, str] = {}
    odd: list[str] = []
    position = 0
    while "ElementDataFile" not in fields and position < len(start):
        end = start.find(b"\n", position)
        end = len(start) if end < 0 else end
        line = start[position:end].decode(errors="surrogateescape")
        key, *value = (part.strip() for part in re.split("[:=]", line, maxsplit=1))
        told = value[0] if value else ""
        if key and not value:
            odd.append(f"{path}: found the line {key[:40]!r} in its header, expected NAME = VALUE")
        if fields.setdefault(key, told) != told and key not in _FREE_TEXT:
            raise InputError(f"{path}: found {key[:40]!r} twice ({fields[key][:40]!r}, {told[:40]!r}), expected one")
        position = end + 1
    name = fields.get("ElementDataFile")
    if name is None:
        raise InputError(f"{path}: could not be read (no ElementDataFile in it), expected a complete image file")
    if not _yes(path, fields, "BinaryData", "True"):
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
    if local and 0 < skip < position:
        raise InputError(f"{path}: found HeaderSize = {skip}, expected at least the {position} bytes of the header")
    if _number(path, "HeaderSizePerSlice", fields.get("HeaderSizePerSlice") or "0"):
        found = f"HeaderSizePerSlice = {fields['HeaderSizePerSlice'][:40]}"
        raise InputError(f"{path}: found {found}, expected 0: voxels without anything between the slices")
    packed, told = _yes(path, fields, "CompressedData"), fields.get("CompressedDataSize", "")
    if packed and skip < 0:
        raise InputError(f"{path}: found HeaderSize = -1 and compressed voxels, expected the byte where they begin")
    size = int(told) if re.fullmatch(r"\d{1,18}", told, re.ASCII) else 0
    if size and not packed:
        odd.append(f"{path}: found CompressedDataSize = {told}, but no CompressedData = True, expected both or neither")
    if not local and start[position:].strip():
        odd.append(f"{path}: found {name[:80]!r} as the file of voxels and more behind the header, expected one")
    geometry = _meta_geometry(path, fields)
    swapped = [_yes(path, fields, order) for order in _META_NAMES["byte order"] if order in fields]
    return Header(
        data,
        skip if skip > 0 else position if local else 0,
        skip < 0,
        packed,
        size if packed else 0,
        order=">" if swapped and swapped[0] else "<",
        sized=bool(fields.keys() & _META_NAMES["spacing"]),
        oriented=bool(fields.keys() & _META_NAMES["direction"]),
        dtype=np.dtype(_META_TYPES[kind]),
        geometry=geometry,
        said=(*odd[:5], *_odd_meta_fields(path, fields), *_odd_place(path, fields, geometry)),
    )


def _odd_meta_fields(path: Path, fields: dict[str, str]) -> list[str]:
    """What the fields of a MetaImage say that is not heard, one line each."""
    said = _misspelt(path, fields, _META_FIELDS)
    for key, (usual, pattern) in _META_IGNORED.items():
        if key in fields and not re.fullmatch(pattern, fields[key]):
            said.append(f"{path}: found {key} = {fields[key][:40]!r}, expected {usual}; it is not applied")
    for key, value in fields.items():
        swallowed = _META_GRID.search(value)
        if swallowed:
            said.append(f"{path}: found {swallowed[1]} within {key}, expected it on a line of its own")
    for names in _META_NAMES.values():
        stated = {key: fields[key] for key in names if key in fields}
        if len(set(stated.values())) > 1:
            found = ", ".join(f"{key} = {value[:40]!r}" for key, value in stated.items())
            said.append(f"{path}: found {found}, expected one of them; the first counts")
    return said


def _odd_place(path: Path, fields: dict[str, str], geometry: Geometry) -> list[str]:
    """What the fields of a MetaImage say of its place in the patient that does not go together, one line each.

    The letters of an anatomical orientation are by MetaIO where the indices x, y and z come from, by others where they
    go to; either is taken as right.
    """
    said, letters = [], fields.get("AnatomicalOrientation", "").upper()
    stated = fields.keys() & _META_NAMES["direction"]
    if stated and not fields.keys() & _META_NAMES["origin"]:
        said.append(_no_origin(path, "Offset"))
    if stated and re.fullmatch("[LRPASI]{3}", letters) and tilt(geometry) < _LEANING:
        goes = code(geometry)
        comes = goes.translate(str.maketrans("LRPASI", "RLAPIS"))
        if letters not in (goes, comes):
            found = f"AnatomicalOrientation = {letters}, but a TransformMatrix of {comes}"
            said.append(f"{path}: found {found}, expected the same of both; the matrix counts")
    return said


def _no_origin(path: Path, name: str) -> str:
    return f"{path}: found no {name}, expected where the first voxel lies; taken as 0, 0, 0"


def _misspelt(path: Path, found: Iterable[str], known: tuple[str, ...]) -> list[str]:
    """One line for each of some fields that nobody reads, but that is nearly one that is read."""
    odd = [key for key in found if key not in known and len(key) < 40][:_MOST_ODD_FIELDS]
    lower = {name.lower(): name for name in known}
    near = {key: get_close_matches(key.lower(), lower, 1, 0.8) for key in odd}
    return [f"{path}: found a field {key!r}, expected {lower[names[0]]}?" for key, names in near.items() if names][:5]


def _meta_geometry(path: Path, fields: dict[str, str]) -> Geometry:
    """The grid that the fields of a MetaImage state."""

    dimension = _number(path, "NDims", fields.get("NDims", ""))
    if not 1 <= dimension <= 10:
        raise InputError(f"{path}: found NDims = {dimension}, expected 3")

    def numbers(name: str, default: str) -> list[float]:
        key = next((key for key in _META_NAMES[name] if key in fields), _META_NAMES[name][0])
        told, count = fields.get(key, default), dimension ** (2 if name == "direction" else 1)
        found = [float(number) if _NUMBER.fullmatch(number) else math.nan for number in told.split()]
        if len(found) != count or not all(map(math.isfinite, found)):
            raise InputError(f"{path}: found {key} = {told[:80]}, expected {count} finite numbers")
        return found

    stated = numbers("size", "")
    size = [int(n) for n in stated if n.is_integer() and abs(n) < _LARGEST_SIZE]
    if len(size) < len(stated):
        raise InputError(f"{path}: found DimSize = {fields['DimSize'][:80]}, expected {dimension} whole numbers")
    if dimension != 3 and (dimension != 4 or size[3] != 1):  # files of one time point
        raise InputError(f"{path}: found a {dimension}-D image of size {tuple(size)}, expected 3-D")
    if min(size) < 1:
        raise InputError(f"{path}: found size {tuple(size)}, expected at least one voxel along each axis")
    spacing, origin = numbers("spacing", "1 " * dimension), numbers("origin", "0 " * dimension)
    # MetaImage writes the direction of one grid axis after the other.
    identity = " ".join(map(str, np.eye(dimension).ravel()))
    columns = np.reshape(numbers("direction", identity), (dimension, dimension))
    direction = tuple(columns[:3, :3].T.ravel().tolist())
    x, y, z = size[:3]
    return Geometry((x, y, z), (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]), direction)


def nrrd_header(path: Path) -> Header:
    """The header of a NRRD file; InputError for one that is not understood."""
    start = _start(path)
    check_kind(path, start, "NRRD")
    end = re.search(rb"(\r\n|\n|\r(?!\n)){2}", start)  # as teem's lines end, and nothing else
    lines = re.split("\r\n|\n|\r", start[: end.start() if end else None].decode(errors="surrogateescape"))
    if not lines[0].startswith("NRRD"):
        raise InputError(f"{path}: could not be read (no NRRD header in it), expected a complete image file")
    count = sum(":=" in line for line in lines)
    if count > _MOST_PAIRS:
        raise InputError(f"{path}: found {count:,} key/value lines in its header, expected at most {_MOST_PAIRS:,}")
    if end is None and path.stat().st_size > _LONGEST_HEADER:
        found = f"no end of the header within {_LONGEST_HEADER:,} bytes"
        raise InputError(f"{path}: found {found}, expected an empty line before the voxels")
    for line in lines:  # teem quotes them in its complaints, with room for fewer
        if len(line) > _LONGEST_LINE and not (line.startswith(("#", "content:")) or ":=" in line):
            found = f"a line of {len(line):,} bytes in its header ({line[:20]!r} ...)"
            raise InputError(f"{path}: found {found}, expected at most {_LONGEST_LINE}")
    pairs = [line.partition(": ") for line in lines[1:] if not line.startswith("#")]
    fields = {key.lower().replace(" ", ""): value.strip() for key, _, value in pairs}
    said = _misspelt(path, (line[1:].partition(":")[0] for line in lines if line.startswith("#")), _NRRD_FIELDS)
    for key in ("sizes", "spacings", "spacedirections", "spaceorigin"):
        if key in fields and not _are_numbers(fields[key]):
            raise InputError(f"{path}: found {key} {fields[key][:80]!r}, expected numbers")
    units = fields.get("spaceunits", fields.get("units", ""))
    if set(re.findall(r"[^\s\"]+", units)) - {"mm", "???"}:
        said.append(f"{path}: found space units of {units[:40]!r}, expected mm; they are not applied")
    ends = {key: fields[key] for key in ("oldmin", "oldmax") if key in fields}
    if ends:  # of grey values that were made 8 bits, say
        stated = ", ".join(f"{key} {told[:40]}" for key, told in ends.items())
        said.append(
            f"{path}: found grey values that stood for others ({stated}), expected them as they are; not applied"
        )
    said += _odd_axes(path, fields)
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
    if name is not None and end and start[end.end() :].strip():
        said.append(f"{path}: found {name[:80]!r} as the file of voxels and more behind the header, expected one")
    raw = encoding == "raw"
    vectors = fields.get("spacedirections", "")
    whole = vectors.count("(") > 2 and "nan" not in vectors.lower()  # each axis of the volume has one
    # "scanner-xyz" and "3D-right-handed" are not the patient's.
    oriented = whole and fields.get("space", "").lower().startswith(("l", "r"))
    if oriented and re.search("nan|none", fields.get("spaceorigin", "none").lower()):
        said.append(_no_origin(path, "space origin"))
    return Header(
        path if name is None else _beside(path, name),
        begin + (skip if raw and skip > 0 else 0),
        skip < 0,
        not raw,
        skip=0 if raw else skip,
        order=">" if fields.get("endian", "").lower() == "big" else "<",
        sized=whole or "nan" not in fields.get("spacings", "nan").lower(),
        oriented=oriented,
        said=tuple(said),
    )


def _odd_axes(path: Path, fields: dict[str, str]) -> list[str]:
    """What the fields of a NRRD file say of its axes that does not go together, one line each."""
    said = []
    sizes = _floats(fields.get("sizes", ""))
    if "number" in fields and _floats(fields["number"]) != [math.prod(sizes)]:
        found = f"the number {fields['number'][:40]}"
        said.append(f"{path}: found {found}, expected {math.prod(sizes):.0f}, the product of the sizes; they count")
    kinds = zip(fields.get("kinds", "").split(), sizes)
    odd = [kind[:40] for kind, count in kinds if count > 1 and kind.lower() not in _NRRD_KINDS]
    if odd:
        said.append(f"{path}: found an axis of the kind {odd[0]}, expected three of space; it is taken for one")
    ends = [_floats(fields.get(key, "")) for key in ("axismins", "axismaxs")]
    if not all(len(numbers) == len(sizes) for numbers in ends):
        return said
    # What they say depends on whether they are the middles or the borders of the first and the last voxel. Teem refuses
    # them beside space directions.
    made = [[abs(b - a) / (n - less) for a, b, n in zip(*ends, sizes) if n > 1] for less in (0, 1)]
    stated = [mm for mm, n in zip(_floats(fields.get("spacings", "")), sizes) if n > 1]
    found = " x ".join(f"{mm:.4g}" for mm in made[0])
    found = f"found axis mins and maxs of {found} mm a voxel"
    if not any(math.isfinite(mm) for mm in stated):
        said.append(f"{path}: {found}, expected spacings or space directions; they are not applied")
    elif not all(
        any(math.isclose(of[axis], mm, rel_tol=_ROUNDED) or not math.isfinite(of[axis] + mm) for of in made)
        for axis, mm in enumerate(stated)
    ):
        said.append(f"{path}: {found}, expected the spacing that it states besides; they are not applied")
    return said


def _floats(row: str) -> list[float]:
    """The numbers in a text, NaN for each part that is none."""
    return [float(part) if _NUMBER.fullmatch(part) else math.nan for part in row.split()]


def _are_numbers(row: str) -> bool:
    """Whether a text is a row of numbers or of vectors; teem reads what begins like one, whatever follows."""
    parts = re.findall(r"[(),]|[^\s(),]+", row)
    shape = (
        part if part in "()," else "n" if _NUMBER.fullmatch(part) or part in ("nan", "none") else "x" for part in parts
    )
    return re.fullmatch(r"(n|\(n(,n)*\))+", "".join(shape)) is not None


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_LONGEST_HEADER)


def _yes(path: Path, fields: dict[str, str], name: str, default: str = "False") -> bool:
    told = fields.get(name, default).lower()
    if told not in ("true", "t", "1", "false", "f", "0", ""):
        raise InputError(f"{path}: found {name} = {told[:40]}, expected True or False")
    return told in ("true", "t", "1")


def _number(path: Path, name: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII):
        raise InputError(f"{path}: found {name} {text[:40]!r}, expected a whole number")
    return int(text)


def _beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names: one regular file in the header's folder, and nothing else."""
    if name.split(" ")[0] == "LIST" or "%" in name:
        raise InputError(f"{path}: found voxels in several files ({name[:80]}), expected them in one")
    if not name or Path(name).name != name:  # "." has no name
        raise InputError(f"{path}: found {name[:80]!r} as the file of voxels, expected one in the same folder")
    data = path.with_name(name)
    if not data.exists():
        raise InputError(f"{path}: found no {name}, expected the file that it names as its voxels")
    if data.samefile(path):
        raise InputError(f"{path}: found {name}, which is itself, as the file of voxels, expected another or LOCAL")
    if not data.is_file():
        raise InputError(f"{path}: found {name}, which is no regular file, expected the file of its voxels")
    return data
