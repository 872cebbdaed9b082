"""Memory for activations: what is given out, what comes back, what is kept."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys

import pytest
import torch

from umamba2.engine.cpu import activations
from umamba2.engine.cpu.activations import ALIGNMENT, SMALLEST, Arena

CPU = torch.device("cpu")


@pytest.fixture
def memory():
    memory = Arena(2**26)
    if memory.take(1) is None:
        pytest.skip("the system gives no addresses")
    return memory


def places(views):
    return [torch.frombuffer(view, dtype=torch.uint8).data_ptr() for view in views]


def test_pieces_never_overlap_and_come_back(memory):
    generator, held = random.Random(0), []
    for turn in range(500):
        if held and generator.random() < 0.5:
            held.pop(generator.randrange(len(held)))
        else:
            view = memory.take(generator.randrange(1, 2**22))
            if view is not None:
                torch.frombuffer(view, dtype=torch.uint8).fill_(turn % 251)
                held.append((view, turn % 251))
        assert all(view[0] == view[len(view) // 2] == view[-1] == value for view, value in held)
    del view
    held.clear()
    assert memory.take(2**26) is not None  # all of it, in one piece


def test_the_lowest_place_that_is_wide_enough(memory):
    first, _second, third = (memory.take(n * ALIGNMENT) for n in (2, 1, 1))
    start = places([first])[0]
    del first
    assert places([memory.take(3 * ALIGNMENT)])[0] > places([third])[0]
    assert places([memory.take(ALIGNMENT + 1)]) == [start]


def test_too_much_is_refused(memory):
    assert memory.take(2**26 + 1) is None
    assert Arena(0).take(1) is None
    Arena(0).release()


def test_a_tensor_lives_as_long_as_a_view_of_it():
    tensor = activations.tensor((3, SMALLEST), torch.uint8, CPU)
    place, view = tensor.data_ptr(), tensor[2]
    del tensor
    other = activations.tensor((3, SMALLEST), torch.uint8, CPU)
    assert other.data_ptr() >= view.data_ptr() + SMALLEST
    del view
    assert activations.tensor((3, SMALLEST), torch.uint8, CPU).data_ptr() == place


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, SMALLEST // 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_empty_is_an_ordinary_tensor(shape, dtype):
    tensor = activations.tensor(shape, dtype, CPU).fill_(1)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert tensor.sum() == tensor.numel()


def test_release_gives_unused_memory_back_and_keeps_the_rest():
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    size = 2**27
    kept = activations.tensor((SMALLEST,), torch.uint8, CPU).fill_(7)
    before = resident()
    large = activations.tensor((size,), torch.uint8, CPU).fill_(1)
    assert resident() > before + size * 0.9
    del large
    gc.collect()
    assert resident() > before + size * 0.9
    activations.release()
    assert resident() < before + size * 0.1
    assert (kept == 7).all()


def test_release_spares_the_neighbours(memory):
    low, high = memory.take(3), memory.take(ALIGNMENT + 1)
    torch.frombuffer(high, dtype=torch.uint8).fill_(7)
    del low
    memory.release()
    assert set(high) == {7}


@pytest.mark.parametrize("limit", [2**34, 2**36])
def test_addresses_are_left_for_others_where_they_are_limited(limit):
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({limit}, resource.RLIM_INFINITY))
import torch
from umamba2.engine.cpu import activations
tensor = activations.tensor((2**24,), torch.uint8, torch.device("cpu")).fill_(1)
print(activations._arena()._free[0][1] <= {limit} // 2, bool(tensor.all()))
"""
    if sys.platform != "linux":
        pytest.skip("needs a limit that holds")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_with_an_arena_can_fork():
    """Linux refuses where one mapping is larger than the memory, and makes one of mappings that adjoin."""
    code = """
import mmap, os, torch
from umamba2.engine.cpu import activations
tensor = activations.tensor((2**24,), torch.uint8, torch.device("cpu")).fill_(1)
more = [mmap.mmap(-1, 2**26, access=mmap.ACCESS_COPY) for _ in range(8)]
child = os.fork()
if not child:
    os._exit(int(tensor.numpy()[-1] != 1))
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0"]


def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
