"""Memory for activations: what is given out, what comes back, what is kept."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
from threading import Thread

import pytest
import torch

from umamba2.engine.cpu import activations
from umamba2.engine.cpu.activations import SMALLEST

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_kept():
    activations.release()
    yield
    activations.release()


def take(size):
    return activations.tensor((size,), torch.uint8, CPU)


def churn(seed):
    generator, held = random.Random(seed), []
    for turn in range(200):
        if held and generator.random() < 0.5:
            tensor, value = held.pop(generator.randrange(len(held)))
            assert tensor[0] == tensor[len(tensor) // 2] == tensor[-1] == value
        else:
            value = (seed * 31 + turn) % 251
            held.append((take(SMALLEST + generator.randrange(2**20)).fill_(value), value))
    assert all((tensor[:: 2**12] == value).all() for tensor, value in held)


def test_no_two_tensors_share_memory():
    churn(0)


def test_nor_in_threads():
    failures = []

    def run(seed):
        try:
            churn(seed)
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_smallest_block_that_is_large_enough():
    small, large = take(SMALLEST), take(3 * SMALLEST)
    places = small.data_ptr(), large.data_ptr()
    del small, large
    first, second = take(SMALLEST + SMALLEST // 4), take(SMALLEST)
    assert (second.data_ptr(), first.data_ptr()) == places


def test_a_block_that_is_too_small_is_given_up_for_a_larger_one():
    small, large = take(SMALLEST), take(2 * SMALLEST)
    del small, large
    larger = take(3 * SMALLEST)
    assert sorted(block.nbytes for block in activations._free) == [SMALLEST]
    del larger
    assert sorted(block.nbytes for block in activations._free) == [SMALLEST, 3 * SMALLEST]


def test_tile_after_tile_takes_no_more_than_the_first_two():
    """Sizes of a network's levels, each kept while the next is made, as an encoder and a decoder do."""

    def tile():
        skips = [take(SMALLEST * n) for n in (64, 16, 4)]
        for n in (4, 16, 64):
            skips.pop()
            out = take(SMALLEST * n)
        return take(SMALLEST * 94), out

    held = []
    for _ in range(4):
        tile()
        gc.collect()
        held.append(sum(block.nbytes for block in activations._free))
    assert held[1] == held[2] == held[3]
    assert held[-1] <= SMALLEST * (64 + 94 + 16 + 4)


def test_a_tensor_lives_as_long_as_a_view_of_it():
    tensor = activations.tensor((3, SMALLEST), torch.uint8, CPU)
    place, view = tensor.data_ptr(), tensor[2]
    del tensor
    other = activations.tensor((3, SMALLEST), torch.uint8, CPU)
    assert not place <= other.data_ptr() < place + 3 * SMALLEST
    del view
    assert activations.tensor((3, SMALLEST), torch.uint8, CPU).data_ptr() == place


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, SMALLEST // 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_what_comes_is_an_ordinary_tensor(shape, dtype):
    tensor = activations.tensor(shape, dtype, CPU).fill_(1)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert tensor.sum() == tensor.numel()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_release_gives_unused_memory_back_and_keeps_the_rest():
    size = 2**27
    kept = take(SMALLEST).fill_(7)
    before = resident()
    large = take(size).fill_(1)
    assert resident() > before + size * 0.9
    del large
    gc.collect()
    assert resident() > before + size * 0.9
    activations.release()
    assert resident() < before + size * 0.1
    assert (kept == 7).all()


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits that hold")
@pytest.mark.parametrize(("limit", "use"), [("RLIMIT_DATA", "VmData:"), ("RLIMIT_AS", "VmSize:")])
def test_no_more_is_taken_than_is_used_where_a_process_is_limited(limit, use):
    code = f"""
import resource
import torch
from umamba2.scans import memory
from umamba2.engine.cpu import activations

def used():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith({use!r}))

resource.setrlimit(resource.{limit}, (used() + 2**27, resource.RLIM_INFINITY))
left = memory.available()
assert 0 < left <= 2**27, left
tensor = activations.tensor((2**24,), torch.uint8, torch.device("cpu")).fill_(1)
assert left - 2**25 < memory.available() <= left - 2**24
try:
    activations.tensor((2**28,), torch.uint8, torch.device("cpu"))
except OSError as error:
    from umamba2.engine.faults import is_out_of_memory
    print(is_out_of_memory(error))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True"]


def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
