"""Memory for activations, kept from tile to tile.

Large blocks usually go back to the system when they are freed, and it clears every page before it gives one out again,
which takes 7 % of a tile's time. Every tile needs the blocks of the one before, so they stay here until `release`.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SMALLEST = 2**20  # bytes: smaller tensors are left to the usual allocator

Block = npt.NDArray[np.uint8]

_free: list[Block] = []
_lock = Lock()  # for whoever takes a block; blocks come back without it, in whatever thread a tensor dies


def tensor(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor for large and short-lived values; on a CPU its memory is kept when it is freed."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < SMALLEST:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    block = _block(size)
    view = block[:size]  # lives as long as the tensor and all views of it
    finalizer: Any = weakref.finalize(view, _free.append, block)
    finalizer.atexit = False
    return torch.from_numpy(view).view(dtype).view(*shape)


def release() -> None:
    """Hand the memory that nobody uses back to the system."""
    with _lock:
        _free.clear()


def idle_bytes() -> int:
    """How much memory is kept that nobody uses."""
    with _lock:
        return sum(block.nbytes for block in _free)


def _block(size: int) -> Block:
    """The smallest free block of at least so many bytes, or a new one in place of the largest that is too small."""
    with _lock:
        sizes = [block.nbytes for block in _free]
        if sizes:
            chosen = min((n for n in sizes if n >= size), default=max(sizes))
            block = _free.pop(sizes.index(chosen))
            if chosen >= size:
                return block
            del block
    # Mapped, because the heap would keep what is given back.
    return np.frombuffer(mmap.mmap(-1, size, access=mmap.ACCESS_COPY), np.uint8)
