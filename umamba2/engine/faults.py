"""The failures that the engine tells apart in the middle of a case."""

from __future__ import annotations

import errno

import torch

# Torch has no exception type of its own for a host or a library that refuses. CUDA's libraries say "not initialized",
# and cuDNN that it finds no engine, where they cannot get the memory for their handles and workspaces.
REFUSALS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",  # Windows
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_{HOST,DEVICE}_ALLOCATION_FAILED
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "unable to find an engine",
    "Unable to find a valid cuDNN algorithm",
    "MPS backend out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out on the device or the host; no other failure may be taken for that."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(refusal in str(error) for refusal in REFUSALS)


class DeviceChanged(Exception):
    """The networks had to move to another device: the tile has no answer yet, and all times measured are outdated."""


class NotFinite(Exception):
    """The network's answer holds NaN or infinity, even in fp32."""

    def __init__(self) -> None:
        super().__init__("network: found NaN or infinite logits, in fp32 too, expected finite ones")
