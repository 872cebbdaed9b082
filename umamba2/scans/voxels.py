"""Voxels out of files, to the last byte: sizes are checked before memory is taken, checksums while unpacking.

ITK ignores the checksums of compressed MetaImage and of most NRRD files, allocates whatever a header declares, and
turns NaN in NIfTI files into 0.
"""

from __future__ import annotations

import os
import zlib
from math import prod
from typing import BinaryIO

import numpy as np

from umamba2.errors import InputError
from umamba2.scans import memory
from umamba2.scans.geometry import Array
from umamba2.scans.headers import Header

_CHUNK = 1 << 20
_SHORT_CHUNK = 1 << 14  # in files of many parts: where one ends, the rest of what was read is read again
_MOST_SMALL_PARTS, _SMALL_PART = 1000, 4096  # parts of a gzip file, and the voxels' bytes that any more must hold
_LARGEST_EXPANSION = 1032  # of deflate, by the format itself
_ZLIB_OR_GZIP = 47  # for zlib: find out which
_BLANK = 1 << 10  # voxels of one value: half a block of a disk or more; smaller ones may be chance
_EXACT = 1 << 24  # up to which single precision holds every whole number
_BEYOND = 1e38  # what single precision does not hold is said by others
_LOST = 1e-3  # of the range of grey values: rounding by more may be seen
_GZIP = b"\x1f\x8b"  # how such a file begins


def check_voxels(name: str, header: Header, dtype: np.dtype[np.generic], shape: tuple[int, ...], more: int = 0) -> None:
    """Compare what a header promises with the length of the file and with the free memory, before a voxel is read.

    Args:
        name: What messages call the file.
        header: Where the voxels are.
        dtype: Of the stored numbers.
        shape: (z, y, x).
        more: Bytes for each voxel that are needed besides it.

    Raises:
        InputError: The file is too short, longer by a layer of voxels or more, or larger than the memory.
    """
    size, there = prod(shape) * dtype.itemsize, _there(header)
    most = there * _LARGEST_EXPANSION if header.packed else there
    if most < size + header.skip:
        packed = "compressed " if header.packed else ""
        found = f"the end of the file too early ({there} {packed}bytes)"
        raise InputError(f"{name}: found {found}, expected {_voxels(shape, dtype)}")
    if not header.packed:
        _check_spare(name, header, there - size, shape, dtype)
    check_memory(name, size, prod(shape) * more)


def read_voxels(
    name: str,
    header: Header,
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    said: list[str],
    more: int = 0,
    grid_only: bool = False,
) -> Array:
    """Read the voxels of a file.

    What is there is compared with what the header needs. A file as long as if there were another layer of voxels has a
    header that is wrong, of whatever size and type it speaks; a few bytes more may be padding, and are said.

    Args:
        name: What messages call the file.
        header: Where they are.
        dtype: Of the stored numbers; the header's byte order holds.
        shape: (z, y, x).
        said: Gets a line if there are more bytes than the voxels need.
        more: As for `check_voxels`.
        grid_only: Only check; the array is all zeros and takes no memory.

    Returns:
        An array of that shape in the machine's byte order.

    Raises:
        InputError: There are fewer voxels than the shape says, or more, or their checksum is wrong.
    """
    check_voxels(name, header, dtype, shape, more)
    if grid_only:
        return np.broadcast_to(np.zeros((), dtype), shape)
    size = prod(shape) * dtype.itemsize
    end = 0
    content, most = np.empty(size, np.uint8), size + _layer(shape, dtype)
    with open(header.data, "rb") as file:
        file.seek(header.data.stat().st_size - size if header.last else header.offset)
        try:
            if header.packed:
                done, end = _unpack(file, content, header.skip, most)
            else:
                done = file.readinto(content.data)
        except zlib.error as error:
            why = str(error).rpartition(": ")[2]
            raise InputError(f"{name}: found damaged voxels ({why}), expected what was once compressed") from None
    if done < size:
        raise InputError(f"{name}: found the end of the file before that of the image, expected all voxels")
    said += _check_spare(name, header, (done if header.packed else _there(header)) - size, shape, dtype)
    if header.packed_size not in (0, end - header.offset):
        found = f"{end - header.offset} bytes of compressed voxels and a header that states {header.packed_size}"
        said.append(f"{name}: found {found}, expected as many; all are taken")
    array: Array = content.view(dtype.newbyteorder(header.order)).reshape(shape)
    return array if array.dtype.isnative else array.astype(dtype.newbyteorder("="))


def compact(array: Array) -> Array:
    """Whole numbers in the smallest of uint8 (if that is their type), int16 and float32 that holds them."""
    if array.dtype in (np.uint8, np.int16):
        return array
    limits = np.iinfo(np.int16)
    if array.dtype.kind == "b" or limits.min <= array.min() <= array.max() <= limits.max:
        return array.astype(np.int16)
    return array.astype(np.float32)


def blank_rows(name: str, array: Array) -> list[str]:
    """A line for each value of which whole rows of a scan are, as where a block of a disk was never written.

    No checksum tells of that where voxels are not compressed. The block's bits may be all 0 or all 1: -1 or the
    largest unsigned number (in floats NaN, which others look for). Where that is the darkest value it may be air.
    """
    if not array.size or array.dtype.kind == "b":
        return []
    blanks = [0, -1] if array.dtype.kind == "i" else [0]
    if array.dtype.kind == "u":
        blanks = [int(np.iinfo(array.dtype).max)]
    said, darkest = [], array.min()
    for blank in blanks:
        rows = array[(array[..., 0] == blank) & (array[..., -1] == blank)]
        count = int(np.count_nonzero((rows == blank).all(axis=1)))
        if darkest < blank and count * array.shape[-1] >= _BLANK:
            found = f"found {count} rows of voxels that are all {blank}"
            said.append(f"{name}: {found}, expected intensities: padding, or a missing part?")
    return said


def rounded(name: str, low: float, high: float) -> list[str]:
    """A line for whole numbers from low to high, if single precision does not hold each of them."""
    if not _EXACT < max(-low, high) < np.inf:
        return []
    found = f"found values from {low:.12g} to {high:.12g}, expected intensities"
    return [f"{name}: {found}; whole numbers beyond {_EXACT:,} are rounded"]


def coarse(name: str, low: float, high: float) -> list[str]:
    """A line for numbers of double precision from low to high, if they differ too little for single precision."""
    most = max(-low, high)
    if not most < _BEYOND:
        return []
    lost = float(np.spacing(np.float32(most))) / 2
    if low == high or lost <= _LOST * (high - low):
        return []
    found = f"found values from {low:.12g} to {high:.12g}, expected intensities"
    return [f"{name}: {found}; single precision rounds them by up to {lost:.2g}"]


def check_memory(name: str, size: int, more: int = 0) -> None:
    """Raise InputError for a file with more voxels than there is memory.

    Args:
        name: What messages call the file.
        size: Bytes of voxels.
        more: Bytes that are needed besides.
    """
    free = memory.available()
    if size + more > free:
        found = f"{size / 1e9:.1f} GB of voxels" + (f", which need {more / 1e9:.1f} GB besides" if more else "")
        raise InputError(f"{name}: found {found}, expected at most the {free / 1e9:.1f} GB of memory that are free")


def _there(header: Header) -> int:
    """The bytes that may be voxels."""
    return max(0, header.data.stat().st_size - header.offset)


def _voxels(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> str:
    return f"{' x '.join(map(str, reversed(shape)))} voxels of {dtype.itemsize} bytes"


def _layer(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> int:
    """The bytes that one more layer of voxels would take, along the longest axis."""
    return prod(shape) * dtype.itemsize // max(shape)


def _check_spare(
    name: str, header: Header, spare: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> list[str]:
    """A line for bytes besides the voxels, none if there are none; InputError if they can be no padding behind them."""
    if spare <= 0:
        return []
    found = f"{name}: found {spare} bytes or more besides the voxels, expected just {_voxels(shape, dtype)}"
    if spare >= _layer(shape, dtype):
        raise InputError(f"{found}: is its size or type another?")
    if header.doubt:
        raise InputError(f"{found}, and {header.doubt}: do they begin later?")
    return [f"{found}; passed over"]


def _unpack(file: BinaryIO, content: Array, skip: int, most: int) -> tuple[int, int]:
    """Fill an array of bytes from a zlib or gzip stream, leaving out its first bytes.

    Reads to the end of the stream, where its checksum is, and of what follows it, or until there are more than
    ``most``. Raises zlib.error if the stream is damaged.

    Returns:
        How many bytes were there, and where in the file the stream ends.
    """
    done, packed, inflater = -skip, b"", zlib.decompressobj(_ZLIB_OR_GZIP)
    parts, chunk, end = 1, _CHUNK, 0
    while done <= most:
        packed = packed or file.read(chunk)
        block = inflater.decompress(packed, 16 * _CHUNK)
        if not (packed or block or inflater.eof):
            return 0, 0  # the file ends before the stream and its checksum do
        packed = inflater.unconsumed_tail
        first, last = max(0, -done), min(len(block), content.size - done)
        if first < last:
            content[done + first : done + last] = np.frombuffer(block, np.uint8)[first:last]
        done += len(block)
        if inflater.eof:
            end = file.seek(-len(inflater.unused_data), os.SEEK_CUR)
            packed, chunk = file.read(_SHORT_CHUNK), _SHORT_CHUNK  # gzip files may be several in a row
            if not packed.strip(b"\0"):
                break
            if done >= content.size and not packed.startswith(_GZIP):
                return done + len(packed.rstrip(b"\0")), end  # no part of it
            parts += 1
            if parts > _MOST_SMALL_PARTS + (done + skip) // _SMALL_PART:
                raise zlib.error(f"it is in more than {parts - 1:,} parts of next to nothing")
            inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
    return done, end
