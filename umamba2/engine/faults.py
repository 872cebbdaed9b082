"""What can go wrong in the middle of a case, told apart."""

from __future__ import annotations

import errno

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host; any other failure is not to be taken for it."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):  # of a mapping
        return error.errno == errno.ENOMEM
    # torch has no type of its own for a host that refuses.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


class NotFinite(Exception):
    """The network's answer holds NaN or infinity, even in fp32."""

    def __init__(self) -> None:
        super().__init__("network: found NaN or infinite logits, in fp32 too, expected finite ones")
