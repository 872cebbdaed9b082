"""Arrays as nnInteractive's remote protocol sends them, read with care.

All numbers are little-endian: the magic ``NNIA``, then a byte each for the version (1), the codec (1 Zstandard, 2 LZ4),
the number of axes and the length of the type's name; the name; 8 bytes for each axis; 4 for the number of chunks; and
for each chunk 8 for its size, 8 for that of what follows, and a Blosc2 frame.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.errors import InputError, needing

MAGIC, VERSION, ZSTD, LZ4 = b"NNIA", 1, 1, 2
MOST_CHUNK = 2**30  # bytes
MOST_VOXELS = 2**31
_HEAD, _CHUNKS, _SIZES = struct.Struct("<4sBBBB"), struct.Struct("<I"), struct.Struct("<QQ")


def announced(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and type of a packed array; InputError if it is none."""
    shape, dtype, _ = _head(content)
    return shape, dtype


def unpack(content: bytes) -> npt.NDArray[Any]:
    """The array. Raises InputError if it is damaged or holds anything but what it announces."""
    with needing("nninteractive", "nnInteractive"):
        import blosc2

    shape, dtype, at = _head(content)
    out = np.empty(math.prod(shape), dtype)
    raw, done = out.view(np.uint8), 0
    try:
        (count,) = _CHUNKS.unpack_from(content, at)
        at += _CHUNKS.size
        for _ in range(count):
            size, packed = _SIZES.unpack_from(content, at)
            at += _SIZES.size
            frame = content[at : at + packed]
            at += packed
            if len(frame) != packed or done + size > len(raw) or blosc2.get_cbuffer_sizes(frame)[0] != size:
                break
            blosc2.decompress2(frame, dst=raw[done : done + size])
            done += size
    except (struct.error, ValueError, RuntimeError, TypeError):
        done = -1
    if done != len(raw):
        raise InputError(f"image: found a damaged array, expected {len(raw):,} bytes of {shape}")
    return out.reshape(shape)


def pack(array: npt.NDArray[Any]) -> bytes:
    """An array of at most a gigabyte as the protocol sends it."""
    with needing("nninteractive", "nnInteractive"):
        import blosc2

    array = np.ascontiguousarray(array)
    name = array.dtype.name.encode()
    head = _HEAD.pack(MAGIC, VERSION, ZSTD, array.ndim, len(name)) + name + struct.pack(f"<{array.ndim}q", *array.shape)
    raw = array.tobytes()
    parts = [head]
    chunks = [raw[i : i + MOST_CHUNK] for i in range(0, len(raw), MOST_CHUNK)]
    parts.append(_CHUNKS.pack(len(chunks)))
    for chunk in chunks:
        frame = blosc2.compress2(
            chunk, typesize=array.dtype.itemsize, codec=blosc2.Codec.ZSTD, clevel=3, filters=[blosc2.Filter.NOFILTER]
        )
        parts += [_SIZES.pack(len(chunk), len(frame)), frame]
    return b"".join(parts)


def _head(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    try:
        magic, version, codec, axes, length = _HEAD.unpack_from(content)
        if (magic, version) != (MAGIC, VERSION) or codec not in (ZSTD, LZ4):
            raise InputError("image: found other bytes, expected an array of nnInteractive's protocol, version 1")
        at = _HEAD.size + length
        dtype = np.dtype(content[_HEAD.size : at].decode("ascii"))
        shape = struct.unpack_from(f"<{axes}q", content, at)
    except (struct.error, UnicodeDecodeError, TypeError, ValueError):
        raise InputError("image: found no whole head, expected an array of nnInteractive's protocol") from None
    if dtype.kind not in "buif" or min(shape, default=-1) < 0 or math.prod(shape) > MOST_VOXELS:
        raise InputError(f"image: found {dtype} voxels of shape {shape}, expected real numbers, not too many")
    return shape, dtype, at + 8 * axes
