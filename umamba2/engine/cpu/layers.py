"""The network rebuilt for inference on CPUs: the same results from less arithmetic and fewer passes over memory.

- Convolutions, norms and activations work on a few planes at a time, while these are in the caches (`planes.py`).
- Wide convolutions need a third fewer multiplications (`winograd.py`).
- Where a skip pools and projects, one strided convolution does both.
- A decoder level convolves ``cat(up(x), skip)``. That is the sum of two convolutions, and the first of them together
  with ``up`` is one transposed convolution with 45 % fewer multiplications. So nothing is concatenated.
- The last layer is a matrix product that leaves every class contiguous, as summing scores wants them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.engine.cpu import activations
from umamba2.engine.cpu.planes import (
    PORTION_VOXELS,
    Norm,
    Normalise,
    Up,
    convolve_transposed,
    empty_like_layout,
    portions,
    samples,
    write_portions,
)
from umamba2.engine.cpu.winograd import make_conv
from umamba2.nets.umamba2 import UMamba2
from umamba2.nets.unet import ConvNormAct, Layer, MeanPool

COMPOSED_LEVELS = 3  # the finest; the others have too few voxels to repay the larger weights


def optimize_for_cpu(net: UMamba2) -> UMamba2:
    """Replace the parts of a loaded network, in place, by those of this file; it cannot be trained after that."""
    net.requires_grad_(False)
    parts: Any = net
    parts.encoder.stem.convs = nn.Sequential(*map(FastConv, parts.encoder.stem.convs))
    for stage in parts.encoder.stages:
        stage.blocks = nn.Sequential(*map(FastBlock, stage.blocks))
    parts.decoder = FastDecoder(parts.decoder)
    return net


class Convolution(nn.Module):
    """A convolution and the norm after it, so that the convolution's bias does not matter."""

    def __init__(self, conv: Any, norm: Any):
        super().__init__()
        self.conv, self.norm = make_conv(conv), Norm(norm)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Normalise]]:
        """The convolved samples, and for each of them a function that normalises portions of its planes in place."""
        out = empty_like_layout(x, self.conv.channels, self.conv.size(x))
        return out, [
            self.norm.normaliser(write_portions(result, partial(self.conv.write, planes), self.conv.multiple))
            for planes, result in zip(samples(x), samples(out), strict=True)
        ]


class FastConv(nn.Module):
    """`ConvNormAct`."""

    def __init__(self, block: Any):
        super().__init__()
        self.convolution = Convolution(block.conv, block.norm)

    def forward(self, x: Tensor) -> Tensor:
        out, norms = self.convolution.forward(x)
        for planes, normalise in zip(samples(out), norms, strict=True):
            _activate(planes, normalise)
        return out


class FastBlock(nn.Module):
    """`ResidualBlock`."""

    def __init__(self, block: Any):
        super().__init__()
        self.conv1 = FastConv(block.conv1)
        self.convolution2 = Convolution(block.conv2.conv, block.conv2.norm)
        self.projects = bool(len(block.skip)) and isinstance(block.skip[-1], ConvNormAct)
        self.skip = Convolution(_projection(block.skip), block.skip[-1].norm) if self.projects else block.skip

    def forward(self, x: Tensor) -> Tensor:
        out, norms = self.convolution2.forward(self.conv1(x))
        skip, skip_norms = self.skip(x) if self.projects else (self.skip(x), [_as_is] * len(x))
        for planes, others, normalise, normalise_other in zip(samples(out), samples(skip), norms, skip_norms):
            for (_, some), (_, other) in zip(portions(planes), portions(others), strict=True):
                normalise(some)
                normalise_other(other)
                F.leaky_relu_(some.add_(other), 0.01)
        return out


class FastDecoder(nn.Module):
    """`Decoder`, finest logits only. Takes the skips out of the list, so that each is freed as soon as it is used."""

    def __init__(self, decoder: Any):
        super().__init__()
        composed = [False] * (len(decoder.stages) - COMPOSED_LEVELS) + [True] * COMPOSED_LEVELS
        levels = zip(decoder.transpconvs, decoder.stages, composed[-len(decoder.stages) :], strict=True)
        self.levels = nn.ModuleList(
            FastLevel(up, stage) if fast and _composable(up, stage) else ConcatLevel(up, stage)
            for up, stage, fast in levels
        )
        self.head = decoder.seg_layers[-1]

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips.pop()
        for level in self.levels:
            x = level(x, skips.pop())
        return self._logits(x)

    def halfway(self, skips: list[Tensor]) -> list[Tensor]:
        """What becomes of all skips but the deepest before that one matters; takes them out of the list.

        Of memory that holds nothing else, because it is kept.
        """
        return [level.halfway(skips.pop()) for level in self.levels][::-1]  # type: ignore[operator]

    def finish(self, x: Tensor, halfway: list[Tensor]) -> Tensor:
        """The logits, bit by bit those of ``forward([*skips, x])``, from what `halfway` made of the skips."""
        for level, ready in zip(self.levels, reversed(halfway), strict=True):
            x = level.finish(x, ready)  # type: ignore[operator]
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        classes, channels = self.head.weight.shape[:2]
        weight, bias = self.head.weight.view(classes, channels), self.head.bias.view(classes, 1)
        logits = activations.tensor((len(x), classes, *x.shape[2:]), x.dtype, x.device)
        for sample, result in zip(x, logits, strict=True):
            voxels = sample.permute(1, 2, 3, 0).reshape(-1, channels)
            # In portions, because in half precision the product is first made in fp32.
            for some, place in zip(voxels.split(PORTION_VOXELS), result.view(classes, -1).split(PORTION_VOXELS, 1)):
                place.copy_(torch.addmm(bias, weight, some.t()))
        return logits


class ConcatLevel(nn.Module):
    """A level of the decoder as it was trained."""

    def __init__(self, up: Any, stage: Any):
        super().__init__()
        self.up = up
        self.convs: Layer = nn.Sequential(*map(FastConv, stage.convs))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = convolve_transposed(x, self.up.weight, self.up.stride, self.up.padding, self.up.bias)
        return self.convs(torch.cat([up, skip], dim=1))

    def halfway(self, skip: Tensor) -> Tensor:
        """What becomes of the skip alone: nothing here."""
        return skip.clone()

    def finish(self, x: Tensor, ready: Tensor) -> Tensor:
        """What ``forward(x, skip)`` gives, from ``halfway(skip)``."""
        return self.forward(x, ready)


class FastLevel(nn.Module):
    """A level of the decoder in which nothing is concatenated."""

    def __init__(self, up: Any, stage: Any):
        super().__init__()
        first, *rest = stage.convs
        here, kernel, padding = up.out_channels, first.conv.kernel_size, first.conv.padding
        upper, lower = first.conv.weight.float().split(here, dim=1)
        self.norm = Norm(first.norm)
        self.rest: Layer = nn.Sequential(*map(FastConv, rest))
        conv = nn.Conv3d(here, first.conv.out_channels, kernel, padding=padding, bias=False)
        self.skip = make_conv(_like(conv, lower, up))
        # Scattering with `up` and gathering with a kernel is scattering with both kernels convolved.
        weight = F.conv_transpose3d(up.weight.float(), upper.flip(2, 3, 4).transpose(0, 1))
        size: Any = weight.shape[2:]
        composed = nn.ConvTranspose3d(
            up.in_channels, first.conv.out_channels, size, up.stride, padding=padding, bias=False
        )
        self.up = Up(_like(composed, weight, up))
        # The bias of `up` is a constant, and gone after the norm, except where the kernel reaches over the border.
        bias = upper.new_zeros(here) if up.bias is None else up.bias.float()
        constant = bias.view(1, -1, 1, 1, 1).expand(-1, -1, *kernel)
        edges = F.conv3d(constant, upper, padding=padding)
        z, y, x = padding
        edges = (edges - edges[..., z : z + 1, y : y + 1, x : x + 1]).to(up.weight.dtype)
        self.edges: Tensor = edges[0].transpose(0, 1)  # (z, C, y, x)
        self.padding = padding

        self.multiple = math.lcm(self.skip.multiple, self.up.stride[0])

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self._convolved(x, skip, self.skip.write)

    def halfway(self, skip: Tensor) -> Tensor:
        """What becomes of the skip alone: it is convolved."""
        size = len(skip), *self.skip.size(skip), self.skip.channels
        ready = torch.empty(size, dtype=skip.dtype).permute(0, 4, 1, 2, 3)
        for planes, result in zip(samples(skip), samples(ready), strict=True):
            for start, portion in portions(result, self.multiple):  # those of `forward`, for the same bits
                self.skip.write(planes, start, portion)
        return ready

    def finish(self, x: Tensor, ready: Tensor) -> Tensor:
        """What ``forward(x, skip)`` gives, from ``halfway(skip)``."""
        return self._convolved(x, ready, _copy)

    def _convolved(self, x: Tensor, skip: Tensor, write: Callable[[Tensor, int, Tensor], object]) -> Tensor:
        out = empty_like_layout(skip, self.skip.channels, self.skip.size(skip))
        for planes, below, result in zip(samples(skip), samples(x), samples(out), strict=True):
            moments = write_portions(result, partial(self._write, write, planes, below), self.multiple)
            _activate(result, self.norm.normaliser(moments))
        return self.rest(out)

    def _write(
        self, write: Callable[[Tensor, int, Tensor], object], skip: Tensor, below: Tensor, start: int, out: Tensor
    ) -> None:
        write(skip, start, out)
        out += self.up.planes(below, start, start + len(out))
        z = torch.arange(start, start + len(out))
        reach, last = self.padding[0], len(skip) - 1
        edges = self.edges[z.clamp(max=reach) + (z - last + reach).clamp(min=0)]
        # Away from the borders in z the middle zone (number 4) has nothing to add.
        inside = start >= reach and start + len(out) <= len(skip) - reach
        zones = list(product(*map(_zones, out.shape[2:], self.padding[1:])))
        for (y, from_y), (x, from_x) in [zone for i, zone in enumerate(zones) if not (inside and i == 4)]:
            out[..., y, x] += edges[..., from_y, from_x]


def _zones(size: int, reach: int) -> list[tuple[slice, slice]]:
    """An axis in parts, and where in the edges the constant of each is: before, middle, after."""
    after = size - reach
    parts = [(slice(0, reach), slice(0, reach)), (slice(reach, after), slice(reach, reach + 1))]
    return [*parts, (slice(after, size), slice(reach + 1, None))]


def _projection(skip: Any) -> Any:
    """Mean pooling and a 1x1x1 convolution as one strided convolution."""
    conv = skip[-1].conv
    stride: Any = skip[0].stride if isinstance(skip[0], MeanPool) else (1, 1, 1)
    weight = (conv.weight / math.prod(stride)).expand(-1, -1, *stride)
    return _like(nn.Conv3d(conv.in_channels, conv.out_channels, stride, stride, bias=False), weight, conv)


def _composable(up: Any, stage: Any) -> bool:
    # Else an axis could be so short that one kernel reaches over both borders.
    return all(s >= k - 1 for s, k in zip(up.stride, stage.convs[0].conv.kernel_size, strict=True))


def _activate(planes: Tensor, normalise: Normalise) -> None:
    for _, some in portions(planes):
        normalise(some)
        F.leaky_relu_(some, 0.01)


def _copy(planes: Tensor, start: int, out: Tensor) -> None:
    out.copy_(planes[start : start + len(out)])


def _as_is(portion: Tensor) -> None:
    pass


def _like(module: Any, weight: Tensor, example: Any) -> Any:
    """The module with this weight, in the precision of another one and channels-last."""
    module.weight = nn.Parameter(weight.to(example.weight.dtype), requires_grad=False)
    return module.to(memory_format=torch.channels_last_3d)
