"""Memory for activations, kept from tile to tile.

Large blocks usually go back to the system when they are freed, and it clears every page before it gives one out again:
for activations of hundreds of MB that takes longer than the arithmetic on them. Kept in the heap instead, they lose
their places to small things that live on, and the heap grows with every tile. Here they have a range of addresses to
themselves, so that every tile finds the places of the one before.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from bisect import insort
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from threading import Lock

import torch
from torch import Tensor

ALIGNMENT = mmap.PAGESIZE  # or `release` would take from the neighbours
SMALLEST = 2**20  # bytes: smaller tensors are left to the usual allocator


def tensor(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor for large and short-lived values; its memory is kept when it is freed, until `release`."""
    size = math.prod(shape) * dtype.itemsize
    owner = _arena().take(size) if device.type == "cpu" and size >= SMALLEST else None
    if owner is None:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return torch.frombuffer(owner, dtype=dtype).view(*shape)


def release() -> None:
    """Hand what is kept back to the system."""
    if _arena.cache_info().currsize:
        _arena().release()


class Arena:
    """A range of addresses, given out piece by piece at the lowest place that is wide enough.

    ``size`` in bytes; without memory until it is written to. Takes nothing if the system refuses that many addresses.
    """

    def __init__(self, size: int):
        self._free: list[tuple[int, int]] = []  # from, to; sorted, no two adjoin
        self._returned: deque[tuple[int, int]] = deque()  # whatever thread a tensor dies in
        self._lock = Lock()
        with suppress(OSError, ValueError, OverflowError):
            self._memory = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
            self._view = memoryview(self._memory)
            self._free = [(0, size)]

    def take(self, size: int) -> memoryview | None:
        """So many bytes, which come back when the view dies; None if there is no place for them."""
        room = size + -size % ALIGNMENT
        with self._lock:
            self._collect()
            for i, (start, stop) in enumerate(self._free):
                if stop - start >= room:
                    self._free[i : i + 1] = [(start + room, stop)] if stop - start > room else []
                    owner = self._view[start : start + size]
                    weakref.finalize(owner, self._returned.append, (start, start + room)).atexit = False
                    return owner
        return None

    def release(self) -> None:
        """Hand all memory that nobody uses back to the system."""
        with self._lock:
            self._collect()
            with suppress(AttributeError, OSError, ValueError):  # elsewhere than on Linux it stays
                for start, stop in self._free:
                    self._memory.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def _collect(self) -> None:
        while self._returned:
            insort(self._free, self._returned.popleft())
        joined: list[tuple[int, int]] = []
        for start, stop in self._free:
            if joined and joined[-1][1] == start:
                start = joined.pop()[0]
            joined.append((start, stop))
        self._free = joined


@cache
def _arena() -> Arena:
    # Half as many addresses as there is memory, because Linux lets no process fork that has a mapping larger than that,
    # and mappings side by side become one; and never more than half of those that the process may have.
    size = 0
    with suppress(ImportError, AttributeError, OSError, ValueError):  # on Windows, for one
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        size = size if limit == resource.RLIM_INFINITY else min(size, limit // 2)
    return Arena(size)
