"""The same labels from a GPU every time, for those who ask for it.

Two things differ between runs there: cuDNN and cuBLAS choose among algorithms, some of which add up in any order; and
how much memory is free decides how many mirror images run at once, and so the algorithm. CPUs need nothing of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from umamba2.errors import InputError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED = (":4096:8", ":16:8")  # with which cuBLAS adds up in one order; by NVIDIA's documentation of cuBLAS


def fix_workspace() -> None:
    """Set what cuBLAS reads when CUDA starts.

    Raises:
        InputError: CUDA has started without it.
    """
    found = os.environ.get(WORKSPACE)
    if found in FIXED:
        return
    if torch.cuda.is_initialized():
        raise InputError(f"deterministic: found CUDA started with {WORKSPACE}={found or ''}, expected {FIXED[0]}")
    os.environ[WORKSPACE] = FIXED[0]


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Where torch takes deterministic algorithms alone, and raises an error where it has none.

    Args:
        wanted: Whether; if not, nothing is changed.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.get_deterministic_debug_mode(), cudnn.benchmark, cudnn.deterministic
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.benchmark, cudnn.deterministic = False, True
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        cudnn.benchmark, cudnn.deterministic = before[1:]
