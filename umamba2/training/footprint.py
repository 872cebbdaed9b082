"""How much memory a training takes, before it starts and while it runs, and how long it will go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from umamba2.scans.memory import available


def training_bytes(
    build: Callable[[], nn.Module],
    loss: Callable[[Any, Any], Tensor],
    patches: Sequence[int],
    scales: Sequence[Sequence[float]] | None,
    half: torch.dtype | None,
    momenta: int = 1,
) -> float:
    """What a step takes at least: weights, their gradients, momenta, and what is kept for the backward pass.

    Network and loss run on tensors without memory, so that this takes seconds whatever their size.

    Args:
        build: Makes the network.
        loss: Of its outputs and targets.
        patches: The shape of a micro-batch, (B, 1, z, y, x).
        scales: Of the resolutions of deep supervision; None: there is one output, compared with the patches.
        half: The type of the convolutions under autocast; None: full precision.
        momenta: How many numbers the optimizer keeps of each weight.
    """
    kept: dict[int, Any] = {}  # the tensors too: an address may be used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        network = build()
        data, size = torch.empty(*patches), patches[2:]
        target: Any = data
        if scales is not None:
            sizes = [[round(n * by) for n, by in zip(size, scale)] for scale in scales]
            target = [torch.zeros(patches[0], 1, *one, dtype=torch.int16) for one in sizes]
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", dtype=half, enabled=half is not None),
        ):
            loss(network(data), target)
        weights = list(network.parameters())
        for weight in weights:
            kept.pop(weight.untyped_storage()._cdata, None)
        whole = (2 + momenta) * sum(weight.nbytes for weight in weights)
        return float(whole + sum(storage.nbytes() for storage in kept.values()))


def free_bytes(device: torch.device) -> float:
    """What is free on a device, or in the machine's memory if that is the device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return available()


def peak_bytes(device: torch.device) -> float:
    """The most that this process has taken so far, on a device, or of the machine's memory if that is the device."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def duration(seconds: float) -> str:
    """A time in the two units that suit it, such as "2 d 5 h"."""
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{max(1, minutes)} min"
