"""What can go wrong in the middle of a case, told apart."""

from __future__ import annotations

import errno

import torch

# torch has no type of its own for a host or a library that refuses.
REFUSALS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",  # Windows
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host; any other failure is not to be taken for it."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):  # the system's own word for it
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(refusal in str(error) for refusal in REFUSALS)


class Moved(Exception):
    """The networks had to move to another device: the tile has no answer yet, and every time measured is outdated."""


class NotFinite(Exception):
    """The network's answer holds NaN or infinity, even in fp32."""

    def __init__(self) -> None:
        super().__init__("network: found NaN or infinite logits, in fp32 too, expected finite ones")
