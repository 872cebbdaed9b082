"""A network as inference wants it: on which device, in which precision, in which memory layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import torch

from umamba2.engine.cpu import optimize_for_cpu
from umamba2.engine.gpu import FusedNorm, fused_norm, optimize_for_gpu
from umamba2.errors import InputError
from umamba2.models.folder import Model
from umamba2.nets.umamba2 import UMamba2

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """The device that a name stands for.

    Args:
        device: "auto", "cpu", "cuda", "cuda:<n>" or "mps".

    Raises:
        InputError: This machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device: found {device!r}, expected auto, cpu, cuda, cuda:<n> or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (chosen.index or 0) >= count.get(chosen.type, 0):
        raise InputError(f"device: found {device!r}, which this machine does not have, expected auto or cpu")
    return chosen


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type in which the convolutions run.

    Args:
        precision: A name from `PRECISIONS`, or "auto": fp16 on CUDA, bf16 on CPUs that have it, else fp32.
        device: Where they run.

    Raises:
        InputError: The name is unknown, or fp16 is asked for on a CPU.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else torch.float32
    if precision not in PRECISIONS:
        raise InputError(f"precision: found {precision!r}, expected auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision: found fp16 on a CPU, expected bf16 or fp32 there")
    return PRECISIONS[precision]


def _cpu_has_bf16() -> bool:
    # Without these instructions bf16 is emulated, which is slower than fp32.
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def ready_network(model: Model, fold: str, device: torch.device, dtype: torch.dtype) -> UMamba2:
    """The network of one fold with its weights, ready for tiles (B, 1, z, y, x) of ``dtype`` on the device.

    On a CPU its logits are contiguous, and the memory of its activations is kept from tile to tile until
    `engine.cpu.activations.release`.
    """
    net = model.network().eval().requires_grad_(False)
    model.load_weights(net, fold, dtype)  # the Mamba and click layer stays in fp32
    if device.type == "cpu":
        net = optimize_for_cpu(net.to(memory_format=torch.channels_last_3d))  # type: ignore[call-overload]
    elif device.type == "cuda":
        net = optimize_for_gpu(net, fused_norm(device, dtype))
    return net.to(device)


@contextmanager
def waking(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """CUDA starts in a thread while the files of a model are read inside; on other devices nothing happens.

    That takes a second or more: the driver, the libraries of matrix products, and the kernels that are compiled.
    """
    thread = Thread(target=_wake, args=(device, dtype)) if device.type == "cuda" else None
    try:
        if thread is not None:
            thread.start()
        yield
    finally:
        if thread is not None:
            thread.join()  # before anybody else uses the device, and before Python ends


def _wake(device: torch.device, dtype: torch.dtype) -> None:
    with suppress(Exception):  # whoever needs the device next meets the same error and says so
        some = torch.ones(8, 8, dtype=dtype, device=device)
        some @ some
        FusedNorm().problem(device, dtype)


@contextmanager
def true_fp32(dtype: torch.dtype) -> Iterator[None]:
    """Where fp32 means fp32: without TF32, which cuDNN's convolutions use by default on Ampere and newer GPUs.

    Args:
        dtype: The precision of the work inside; nothing is changed for any other than fp32.
    """
    cudnn: Any = torch.backends.cudnn
    new = hasattr(cudnn, "conv")  # torch 2.9 and newer refuse to mix their interface with the older one
    modules = [cudnn.conv if new else cudnn, torch.backends.cuda.matmul]
    name, value = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
    before = [getattr(module, name) for module in modules]
    try:
        if dtype == torch.float32:
            for module in modules:
                setattr(module, name, value)
        yield
    finally:
        for module, was in zip(modules, before):
            setattr(module, name, was)
