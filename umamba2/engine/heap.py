"""Keeping memory between tiles instead of handing it back to the system.

glibc returns every large block to the kernel at once, and the kernel clears every page before it gives one out again.
For activations of hundreds of MB that takes longer than the arithmetic on them. Elsewhere than with glibc nothing here
does anything.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

# From malloc.h. Setting any of them ends glibc's own adjustment of the others.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGEST = 2**31 - 1
DEFAULT_MMAP_MAX = 65536
LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep() -> None:
    """From now on take large blocks from the heap, where they are kept when freed."""
    if libc := _glibc():
        libc.mallopt(TRIM_THRESHOLD, LARGEST)
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


@cache
def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
        return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
    except (OSError, TypeError):  # Windows has no such handle
        return None
