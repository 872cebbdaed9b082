"""The network rebuilt for inference on CUDA: the same results from fewer kernels and fewer passes over memory.

- Convolutions before norms have no bias, because the norm takes out what is the same all over a channel.
- A norm is two kernels: moments, and one that normalises, adds the skip and activates. PyTorch's jiterator compiles the
  latter with what PyTorch brings along. It is tried at load, and plain layers stand in where it fails.
- Mean pooling is the library's.
- A decoder level adds the bias of its upsampling while it puts upsampled features and skip side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.engine.faults import is_out_of_memory
from umamba2.nets.umamba2 import UMamba2
from umamba2.nets.unet import ConvNormAct, MeanPool

SLOPE, EPS = 0.01, 1e-5  # those of the published networks; with any other eps norms are plain
TOLERANCE = 1e-4, 4  # of the largest value: absolute, and in roundings of the type
VOXELS = (2, 3, 4)  # the axes of a norm

_ACTIVATED = """template <typename T> T umamba2_norm(T x, T mean, T deviation, T weight, T bias) {
    float y = static_cast<float>(x) - static_cast<float>(mean), d = static_cast<float>(deviation);
    y = y * rsqrtf(d * d + 1e-5f) * static_cast<float>(weight) + static_cast<float>(bias);
    return static_cast<T>(y > 0.0f ? y : 0.01f * y);
}"""
_WITH_SKIP = """template <typename T> T umamba2_norm_skip(T x, T mean, T deviation, T weight, T bias, T skip) {
    float y = static_cast<float>(x) - static_cast<float>(mean), d = static_cast<float>(deviation);
    y = y * rsqrtf(d * d + 1e-5f) * static_cast<float>(weight) + static_cast<float>(bias) + static_cast<float>(skip);
    return static_cast<T>(y > 0.0f ? y : 0.01f * y);
}"""


class FusedNorm:
    """Instance norm, the sum with a skip if there is one, and LeakyReLU.

    Called with x (B, C, z, y, x), weight and bias (1, C, 1, 1, 1), and a skip like x or None. Moments are summed in
    fp32 and rounded to the type of x, as in PyTorch's group norm.
    """

    def __init__(self) -> None:
        make: Any = torch.cuda.jiterator._create_jit_fn
        self._activated, self._with_skip = make(_ACTIVATED), make(_WITH_SKIP)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None) -> Tensor:
        deviation, mean = torch.std_mean(x, VOXELS, correction=0, keepdim=True)
        with torch.cuda.device(x.device):
            out: Tensor = (
                self._activated(x, mean, deviation, weight, bias)
                if skip is None
                else self._with_skip(x, mean, deviation, weight, bias, skip)
            )
        return out

    def problem(self, device: torch.device, dtype: torch.dtype) -> str:
        """What is wrong with its numbers on a device, compared with plain layers on the CPU; "" if nothing is."""
        generator = torch.Generator().manual_seed(0)
        x, skip = 3 * torch.randn(2, 2, 5, 4, 6, 7, generator=generator) + 1
        weight, bias = torch.randn(2, 1, 5, 1, 1, 1, generator=generator)
        for other in (None, skip):
            here = [None if t is None else t.to(dtype) for t in (x, weight, bias, other)]
            found = self(*(None if t is None else t.to(device) for t in here))  # type: ignore[arg-type]
            expected = plain_norm(*(None if t is None else t.float() for t in here))  # type: ignore[arg-type]
            if found.dtype != dtype or found.shape != expected.shape:
                return f"{tuple(found.shape)} in {found.dtype}"
            difference = float((found.cpu().float() - expected).abs().max())
            if not difference < max(TOLERANCE[0], TOLERANCE[1] * torch.finfo(dtype).eps) * float(expected.abs().max()):
                return f"results that differ by {difference:.2g}"
        return ""


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None, eps: float = EPS) -> Tensor:
    """`FusedNorm` in plain layers."""
    x = F.group_norm(x, x.shape[1], weight.flatten(), bias.flatten(), eps)
    return F.leaky_relu_(x if skip is None else x.add_(skip), SLOPE)


def fused_norm(device: torch.device, dtype: torch.dtype) -> FusedNorm | None:
    """The fused norm, tried on a few values, or None where it does not work, which costs one warning."""
    try:
        norm = FusedNorm()
        problem = norm.problem(device, dtype)
    except Exception as error:  # no compiler library, another interface, ...
        if is_out_of_memory(error):
            raise
        problem = f"{type(error).__name__} ({' '.join(str(error).split())[:200]})"
    else:
        if not problem:
            return norm
    warnings.warn(f"fused norm: found {problem}, expected those of plain layers, which are used now", stacklevel=2)
    return None


def optimize_for_gpu(net: UMamba2, fused: FusedNorm | None) -> UMamba2:
    """Replace the parts of a loaded network, in place, by those of this file; it cannot be trained after that."""
    net.requires_grad_(False)
    parts: Any = net
    parts.encoder.stem.convs = nn.Sequential(*(GpuConv(conv, fused) for conv in parts.encoder.stem.convs))
    for stage in parts.encoder.stages:
        stage.blocks = nn.Sequential(*(GpuBlock(block, fused) for block in stage.blocks))
    parts.decoder = GpuDecoder(parts.decoder, fused)
    return net


def swapped_twin(net: UMamba2, swap: Tensor) -> UMamba2:
    """The same network, in the same memory, whose classes trade places: its class c is the other's ``swap[c]``.

    Args:
        net: From `optimize_for_gpu`.
        swap: (classes,).
    """
    twin, order = _shallow_copy(net), swap.to(next(net.parameters()).device)
    twin.decoder = _shallow_copy(twin.decoder)
    twin.decoder.head = head = _shallow_copy(twin.decoder.head)
    for name in ("weight", "bias"):
        setattr(head, name, nn.Parameter(getattr(head, name)[order], requires_grad=False))
    return twin  # type: ignore[no-any-return]


class GpuConv(nn.Module):
    """`ConvNormAct` with its activation, and with a skip that is added before that."""

    def __init__(self, block: Any, fused: FusedNorm | None):
        super().__init__()
        self.conv = _without_bias(block.conv)
        self.weight, self.bias = (
            nn.Parameter(values.view(1, -1, 1, 1, 1), requires_grad=False)
            for values in (block.norm.weight, block.norm.bias)
        )
        self.eps = block.norm.eps
        self.fused = fused if self.eps == EPS else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        if self.fused is None:
            return plain_norm(x, self.weight, self.bias, skip, self.eps)
        return self.fused(x, self.weight, self.bias, skip)


class GpuBlock(nn.Module):
    """`ResidualBlock`."""

    def __init__(self, block: Any, fused: FusedNorm | None):
        super().__init__()
        self.conv1, self.conv2 = GpuConv(block.conv1, fused), GpuConv(block.conv2, fused)
        self.skip = nn.Sequential(*map(_skip_part, block.skip))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x), self.skip(x))
        return out


class GpuDecoder(nn.Module):
    """`Decoder`, finest logits only. Takes the skips out of the list, so that each is freed as soon as it is used."""

    def __init__(self, decoder: Any, fused: FusedNorm | None):
        super().__init__()
        self.levels = nn.ModuleList(
            GpuLevel(up, stage, fused) for up, stage in zip(decoder.transpconvs, decoder.stages, strict=True)
        )
        self.head = decoder.seg_layers[-1]

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips.pop()
        for level in self.levels:
            x = level.joined(x, skips.pop())  # type: ignore[operator]  # both are freed before what follows
            x = level(x)
        logits: Tensor = self.head(x)
        return logits


class GpuLevel(nn.Module):
    """A level of the decoder."""

    def __init__(self, up: Any, stage: Any, fused: FusedNorm | None):
        super().__init__()
        self.bias = None if up.bias is None else nn.Parameter(up.bias.view(1, -1, 1, 1, 1), requires_grad=False)
        self.up = _without_bias(up)
        self.convs: Callable[[Tensor], Tensor] = nn.Sequential(*(GpuConv(conv, fused) for conv in stage.convs))

    def joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """What is below, upsampled, and the skip, side by side."""
        here = skip.shape[1]
        joined = skip.new_empty(len(skip), 2 * here, *skip.shape[2:])
        if self.bias is None:
            joined[:, :here] = self.up(x)
        else:
            torch.add(self.up(x), self.bias, out=joined[:, :here])
        joined[:, here:] = skip
        return joined

    def forward(self, joined: Tensor) -> Tensor:
        return self.convs(joined)


def _shallow_copy(module: Any) -> Any:
    made = copy(module)
    made._modules, made._parameters = dict(module._modules), dict(module._parameters)
    return made


def _skip_part(part: Any) -> nn.Module:
    if isinstance(part, MeanPool):
        stride: Any = part.stride
        return nn.AvgPool3d(stride)
    if isinstance(part, ConvNormAct):
        part.conv = _without_bias(part.conv)
    return part  # type: ignore[no-any-return]


def _without_bias(conv: Any) -> Any:
    conv.bias = None
    return conv
