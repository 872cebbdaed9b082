"""Memory between tiles: what is kept, and what goes back at once."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch

from umamba2.engine import heap

CPU = torch.device("cpu")
SIZE = 2**26


class Mallinfo(ctypes.Structure):
    _fields_ = [("arena", ctypes.c_size_t), ("others", ctypes.c_size_t * 9)]


@pytest.fixture
def libc():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("needs glibc 2.33")
    libc.mallinfo2.restype = Mallinfo
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    return libc


def resident():
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


@pytest.fixture
def keeping():
    heap.keep()
    yield
    heap.stop_keeping()
    heap.release()


def test_blocks_of_several_gigabytes_are_kept(keeping, libc):
    size = 5 * 2**29
    before = libc.mallinfo2().arena
    libc.free(libc.malloc(size))  # never touched, so that it takes no memory
    assert libc.mallinfo2().arena > before + size * 0.9


def test_what_lies_apart_is_given_back_at_once(keeping):
    heap.release()
    before = resident()
    tensor = heap.apart((2, SIZE // 4), torch.float16, CPU).fill_(1)
    assert resident() > before + SIZE * 0.9
    del tensor
    assert resident() < before + SIZE * 0.1


@pytest.mark.parametrize("shape", [(3, 5), (2, 600, 1000)])
def test_apart_is_an_ordinary_tensor(shape):
    tensor = heap.apart(shape, torch.float32, CPU)
    assert tensor.shape == shape
    assert tensor.is_contiguous()
    tensor[:] = 2
    assert (tensor == 2).all()
