"""NIfTI-1 and NIfTI-2 headers: what they say about voxels, voxel sizes and the place in the patient.

A NIfTI file may state its voxel size twice (``pixdim`` and the ``sform`` matrix) and its place twice (``qform`` and
``sform``), and the statements need not agree. The fields are those of the NIfTI-1 and NIfTI-2 headers as published by
nifti.nimh.nih.gov; patient coordinates there are RAS, here LPS.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.geometry import Array, Geometry, Triple
from umamba2.scans.headers import Header
from umamba2.scans.kinds import check_kind

_NAMES = ["dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter", "xyzt_units"]
_NAMES += ["qform_code", "sform_code", "quaternion", "qoffset", "sform"]
_FORMATS = {  # by the header's size, which is also its first number
    348: (
        ["8i2", "i2", "i2", "8f4", "f4", "f4", "f4", "u1", "i2", "i2", "3f4", "3f4", "(3,4)f4"],
        [40, 70, 72, 76, 108, 112, 116, 123, 252, 254, 256, 268, 280],
        (344, b"n+1\0"),
    ),
    540: (
        ["8i8", "i2", "i2", "8f8", "i8", "f8", "f8", "i4", "i4", "i4", "3f8", "3f8", "(3,4)f8"],
        [16, 12, 14, 104, 168, 176, 184, 500, 344, 348, 352, 376, 400],
        (4, b"n+2\0\r\n\x1a\n"),  # whose end shows whether something has changed line ends
    ),
}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_MM = {1: 1000.0, 3: 0.001}  # mm per metre and per micron; all else is taken for mm
_TO_LPS = np.diag([-1.0, -1.0, 1.0])
LARGEST_SHEAR = 1.0  # degree
_ROUNDED = 1e-4  # by which a quaternion may be too long
_PACKED_START = 1 << 16  # bytes of a packed file in which its header must be
_SHORTEST = 1e-9  # mm of a voxel; squares of numbers much smaller are none
_GZIP = 31  # for zlib


@dataclass(frozen=True)
class Nifti:
    """What a NIfTI header says.

    Attributes:
        header: Where the voxels are.
        size: In voxels, (x, y, z, ...), without axes of one voxel beyond the third.
        dtype: Of the stored numbers, with their byte order.
        scale: Slope and intercept that turn stored numbers into intensities.
        pixdim: The voxel size that it states, in mm, (x, y, z); 0 where it states none.
        qform: The matrix (3, 4) from voxels to mm, LPS, of the quaternion; None: not stated.
        sform: The matrix (3, 4) from voxels to mm, LPS, that is stated outright; None: not stated.
        extensions: Bytes between the header and the voxels.
        scanner: Whether the sform claims to be that of the scanner, so that ITK takes it before the qform.
    """

    header: Header
    size: tuple[int, ...]
    dtype: np.dtype[np.generic]
    scale: tuple[float, float]
    pixdim: Triple
    qform: Array | None
    sform: Array | None
    scanner: bool
    extensions: int = 0

    @property
    def voxel_sizes(self) -> dict[str, Triple]:
        """The voxel sizes (x, y, z) in mm that the header states, by the name of the statement; 0 where it does not."""
        stated = {"pixdim": self.pixdim}
        if self.sform is not None:
            x, y, z = np.linalg.norm(self.sform[:, :3], axis=0).tolist()
            stated["sform"] = (x, y, z)
        return stated

    def geometry(self) -> tuple[Geometry, float]:
        """The grid, for files that ITK does not read, and by how many degrees its axes miss right angles.

        The axes are turned to the nearest right angles. Of two matrices the one that ITK would take is taken.
        """
        qform, sform = self.qform, self.sform
        matrix = sform if qform is None or (sform is not None and self.scanner) else qform
        x, y, z = next((mm for mm in self.voxel_sizes.values() if min(mm) > 0), (1.0, 1.0, 1.0))
        size = (self.size[0], self.size[1], self.size[2])
        if matrix is None:
            return Geometry(size, (x, y, z)), 0.0
        columns = matrix[:, :3] / np.linalg.norm(matrix[:, :3], axis=0)
        u, _, v = np.linalg.svd(columns)
        right, up, out = matrix[:, 3].tolist()
        return Geometry(size, (x, y, z), (right, up, out), tuple((u @ v).ravel().tolist())), shear(columns)

    def disagreement(self) -> str | None:
        """How qform and sform differ, or None if they agree or only one is stated."""
        if self.qform is None or self.sform is None:
            return None
        directions = [form[:, :3] / np.linalg.norm(form[:, :3], axis=0) for form in (self.qform, self.sform)]
        cosines = (directions[0] * directions[1]).sum(axis=0)
        angle = float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))
        shift = float(np.linalg.norm(self.qform[:, 3] - self.sform[:, 3]))
        return f"{angle:.3g} degrees and {shift:.3g} mm apart" if angle > 1 or shift > 1 else None


def shear(columns: Array) -> float:
    """By how many degrees the angles between three directions, the columns of (3, 3), miss right angles at most."""
    cosines = (columns.T @ columns)[np.triu_indices(3, 1)]
    return float(np.degrees(np.arcsin(np.clip(np.abs(cosines).max(), 0, 1))))


def nifti_header(path: Path) -> Nifti:
    """Read the header of a NIfTI file, compressed or not; InputError for one that is not understood."""
    with open(path, "rb") as file:
        start = file.read(_PACKED_START)
    packed = start[:2] == b"\x1f\x8b"
    try:
        start = _unpacked(start, _PACKED_START) if packed else start
    except zlib.error as error:
        raise InputError(f"{path}: could not be read ({error}), expected a complete image file") from None
    check_kind(path, start, "NIfTI")
    order: Literal["<", ">"] = "<" if int.from_bytes(start[:4], "little") in _FORMATS else ">"
    length = int.from_bytes(start[:4], "little" if order == "<" else "big")
    if length not in _FORMATS or len(start) < length:
        raise InputError(f"{path}: could not be read (no NIfTI header in it), expected a complete image file")
    formats, offsets, (mark, magic) = _FORMATS[length]
    layout = np.dtype({"names": _NAMES, "formats": formats, "offsets": offsets, "itemsize": length})
    fields = np.frombuffer(start[:length], layout.newbyteorder(order), 1)[0]
    if start[mark : mark + 2] != b"n+":
        raise InputError(f"{path}: found a header without its voxels, expected a NIfTI file of one part")
    if start[mark : mark + len(magic)] != magic:
        found = f"a header of {length} bytes with the mark {start[mark : mark + len(magic)]!r}"
        raise InputError(f"{path}: found {found}, expected {magic!r}")
    count = int(fields["dim"][0])
    if not 1 <= count <= 7:
        raise InputError(f"{path}: found {count} dimensions, expected 3")
    size = [int(n) for n in fields["dim"][1 : count + 1]]
    if min(size) < 1:
        raise InputError(f"{path}: found size {tuple(size)}, expected at least one voxel along each axis")
    if count == 5 and size[3] == 1 < size[4]:
        raise InputError(f"{path}: found {size[4]} values per voxel, expected 1")
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    kind = _TYPES.get(int(fields["datatype"]))
    if kind is None:
        raise InputError(f"{path}: found voxels of NIfTI's type {fields['datatype']}, expected one real number each")
    start_of_voxels = float(fields["vox_offset"])
    if not 0 <= start_of_voxels < 2**40 or start_of_voxels != int(start_of_voxels):
        raise InputError(f"{path}: found voxels from byte {start_of_voxels:g} on, expected them behind the header")
    # Some writers leave it at 0; NIfTI's own library reads on behind the header then.
    skip = max(int(start_of_voxels), length)
    unit = _MM.get(int(fields["xyzt_units"]) & 7, 1.0)
    said, bits = [], 8 * int(kind[1])
    if fields["bitpix"] != bits:
        said.append(f"{path}: found {fields['bitpix']} bits a voxel, expected {bits} as its type has")
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    scaled = bool(np.isfinite(slope)) and slope != 0  # a slope of 0 is the standard's way to say that there is no scale
    scale = (slope, intercept if np.isfinite(intercept) else 0.0) if scaled else (1.0, 0.0)
    if np.isinf(slope) or not (np.isfinite(intercept) if scaled else intercept == 0 or np.isnan(intercept)):
        said.append(
            f"{path}: found a slope of {slope:g} and an intercept of {intercept:g}, expected finite ones or none; "
            f"taken for {scale[0]:g} and {scale[1]:g}"
        )
    for name, parts in (("qform", ("quaternion", "qoffset")), ("sform", ("sform",))):
        if fields[f"{name}_code"] > 0 and not all(np.isfinite(fields[part]).all() for part in parts):
            raise InputError(f"{path}: found NaN or infinity in its {name}, expected finite numbers")
    qform = _qform(fields, unit) if fields["qform_code"] > 0 else None
    sform = _TO_LPS @ fields["sform"].astype(float) * unit if fields["sform_code"] > 0 else None
    length_of_turn = float(np.linalg.norm(fields["quaternion"].astype(float)))
    if qform is not None and length_of_turn > 1 + _ROUNDED:
        found = f"a quaternion of length {length_of_turn:.4g}"
        said.append(f"{path}: found {found}, expected at most 1; taken for half a turn")
    sides = np.linalg.norm(sform[:, :3], axis=0) if sform is not None else np.ones(3)
    if sform is not None and (sides.min() < _SHORTEST or abs(np.linalg.det(sform[:, :3])) <= 1e-3 * sides.prod()):
        raise InputError(f"{path}: found an sform of determinant 0, expected three different directions")
    x, y, z = (float(mm) * unit if np.isfinite(mm) else 0.0 for mm in fields["pixdim"][1:4])
    header = Header(
        path,
        0 if packed else skip,
        packed=packed,
        skip=skip if packed else 0,
        order=order,
        oriented=qform is not None or sform is not None,
        said=tuple(said),
        doubt=_doubt(start, length, skip, order),
    )
    scanner = bool(fields["sform_code"] == 1)
    dtype, extensions = np.dtype(f"{order}{kind}"), skip - length
    return Nifti(header, tuple(size), dtype, scale, (x, y, z), qform, sform, scanner, extensions)


def _doubt(start: bytes, length: int, skip: int, order: Literal["<", ">"]) -> str:
    """Why the voxels of a file may begin behind where its header says; "": nothing speaks for that.

    Four bytes follow the header, of which the first says whether extensions come next; each of these begins with its
    length in bytes, a multiple of 16.

    Args:
        start: The first bytes of the file, unpacked.
        length: Of the header.
        skip: Where it says that the voxels begin.
        order: The byte order.
    """
    at = length + 4
    if skip < at:
        return f"its voxels from byte {skip} on, expected {at} or later"
    while any(start[length : length + 1]) and (at < skip or at == length + 4) and at + 8 <= len(start):
        size = int.from_bytes(start[at : at + 4], "little" if order == "<" else "big")
        if size < 16 or size % 16:  # no extension, whatever it is
            return ""
        at += size
    return f"its voxels from byte {skip} on, expected them behind an extension that ends at {at}" if at > skip else ""


def _unpacked(packed: bytes, size: int) -> bytes:
    """The first bytes of what is packed, in however many gzip files in a row."""
    content = b""
    while len(content) < size and packed.strip(b"\0"):
        inflater = zlib.decompressobj(_GZIP)
        content += inflater.decompress(packed, size - len(content))
        packed = inflater.unused_data
    return content


def _qform(fields: np.void, unit: float) -> Array:
    b, c, d = (float(q) for q in fields["quaternion"])
    rest = 1 - b * b - c * c - d * d
    if rest < 1e-7:  # half a turn, but for rounding
        rest, length = 0.0, (b * b + c * c + d * d) ** 0.5
        b, c, d = b / length, c / length, d / length
    a = rest**0.5
    # A quaternion turns by R v = v + 2 a (q x v) + 2 q x (q x v).
    cross = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
    rotation = np.eye(3) + 2 * a * cross + 2 * cross @ cross
    mirror = -1.0 if fields["pixdim"][0] < 0 else 1.0
    form: Array = _TO_LPS @ np.column_stack([rotation * [1, 1, mirror], fields["qoffset"].astype(float) * unit])
    return form
