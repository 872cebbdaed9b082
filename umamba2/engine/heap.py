"""Keeping memory between tiles instead of handing it back to the system.

glibc returns every large block to the kernel at once, and the kernel clears every page before it gives one out again.
For activations of hundreds of MB that takes longer than the arithmetic on them. What outlives a tile must lie `apart`:
in a gap of the heap it would keep the next tile's activations out, and the heap would grow. Elsewhere than with glibc
nothing is kept.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# From malloc.h. Setting any of them ends glibc's own adjustment of the others.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
NEVER = -1  # to trim; any number there is would be less than 2 GiB
DEFAULT_MMAP_MAX = 65536
LARGEST_MMAP_THRESHOLD = 32 * 2**20
SMALLEST_APART = 2**20  # bytes; the system allows a process some 65,000 mappings


def keep() -> None:
    """From now on take large blocks from the heap, where they are kept when freed."""
    if libc := _glibc():
        libc.mallopt(TRIM_THRESHOLD, NEVER)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(MMAP_MAX, 0)


def stop_keeping() -> None:
    """From now on take large blocks from the system again. What was kept stays for the next `keep`."""
    if libc := _glibc():
        libc.mallopt(MMAP_MAX, DEFAULT_MMAP_MAX)


def release() -> None:
    """Hand all that was kept back to the system."""
    if libc := _glibc():
        libc.malloc_trim(0)


def apart(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor for what outlives a tile; on CPUs away from the heap, given back as soon as it is freed."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < SMALLEST_APART:
        return torch.empty(*shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, size, access=mmap.ACCESS_COPY), dtype=dtype).view(*shape)


@cache
def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
        return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
    except (OSError, TypeError):  # Windows has no such handle
        return None
