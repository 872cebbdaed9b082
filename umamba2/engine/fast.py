"""The network rebuilt for inference on CPUs: the same arithmetic with less of it, and fewer passes over memory.

- Norms and activations work in place. Statistics are taken piece by piece and put together in double precision: one
  running fp32 sum over the 13 million voxels of a patch, as torch's group norm takes it, loses 0.5 % of a deviation.
- Where a skip pools and projects, one strided convolution does both.
- A decoder level convolves ``cat(up(x), skip)``. That is the sum of two convolutions, and the first of them together
  with ``up`` is one transposed convolution with 45 % fewer multiplications. So nothing is concatenated.
- Wide convolutions do with a third fewer multiplications, see `engine.winograd`.
- The last layer is a matrix product that leaves every class contiguous, as summing scores wants them.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.engine.winograd import quick
from umamba2.nets.umamba2 import UMamba2
from umamba2.nets.unet import ConvNormAct, MeanPool

PIECE_VOXELS = 2**17  # few enough for exact fp32 sums, enough to be worth a call
COMPOSED_LEVELS = 3  # the finest; the others have too few voxels to repay the larger weights


def quicken(net: Any) -> UMamba2:
    """Swap the parts of a loaded network, in place, for those of this file. There is no way back to training."""
    net.requires_grad_(False)
    net.encoder.stem.convs = nn.Sequential(*map(FastConv, net.encoder.stem.convs))
    for stage in net.encoder.stages:
        stage.blocks = nn.Sequential(*map(FastBlock, stage.blocks))
    net.decoder = FastDecoder(net.decoder)
    return net


class FastConv(nn.Module):
    """`ConvNormAct`."""

    def __init__(self, block: Any):
        super().__init__()
        block.conv.bias = None  # an instance norm takes every constant away
        self.conv, self.norm, self.act = quick(block.conv), Norm(block.norm), block.act

    def forward(self, x: Tensor) -> Tensor:
        x = _channels_last(self.conv(x))
        for sample in x.split(1):
            self.norm.apply_(sample)
        if self.act:
            F.leaky_relu_(x, 0.01)
        return x


class FastBlock(nn.Module):
    """`ResidualBlock`."""

    def __init__(self, block: Any):
        super().__init__()
        self.conv1 = FastConv(block.conv1)
        block.conv2.conv.bias = None
        self.conv2, self.norm2 = quick(block.conv2.conv), Norm(block.conv2.norm)
        self.skip, self.skip_norm = block.skip, None
        if len(block.skip) and isinstance(block.skip[-1], ConvNormAct):
            self.skip, self.skip_norm = _projection(block.skip), Norm(block.skip[-1].norm)

    def forward(self, x: Tensor) -> Tensor:
        out, skip = _channels_last(self.conv2(self.conv1(x))), _channels_last(self.skip(x))
        for one, other in zip(out.split(1), skip.split(1), strict=True):
            self.norm2.apply_(one)
            if self.skip_norm:
                self.skip_norm.apply_(other)
        return F.leaky_relu_(out.add_(skip), 0.01)


class FastDecoder(nn.Module):
    """`Decoder`, finest logits only. Takes the skips out of the list, so that each is freed as soon as it is used."""

    def __init__(self, decoder: Any):
        super().__init__()
        composed = [False] * (len(decoder.stages) - COMPOSED_LEVELS) + [True] * COMPOSED_LEVELS
        levels = zip(decoder.transpconvs, decoder.stages, composed[-len(decoder.stages) :], strict=True)
        self.levels = nn.ModuleList(
            FastLevel(up, stage) if fast and _composable(up, stage) else PlainLevel(up, stage)
            for up, stage, fast in levels
        )
        self.head = decoder.seg_layers[-1]

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips.pop()
        for level in self.levels:
            x = level(x, skips.pop())
        classes, channels = self.head.weight.shape[:2]
        weight, bias = self.head.weight.view(classes, channels), self.head.bias.view(classes, 1)
        logits = x.new_empty(len(x), classes, *x.shape[2:])
        for sample, result in zip(x, logits, strict=True):
            voxels = sample.permute(1, 2, 3, 0).reshape(-1, channels)
            # In pieces, because in half precision the product is first made in fp32.
            for some, place in zip(voxels.split(PIECE_VOXELS), result.view(classes, -1).split(PIECE_VOXELS, 1)):
                place.copy_(torch.addmm(bias, weight, some.t()))
        return logits


class PlainLevel(nn.Module):
    """A level of the decoder as it was trained."""

    def __init__(self, up: Any, stage: Any):
        super().__init__()
        self.up, self.convs = up, nn.Sequential(*map(FastConv, stage.convs))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat([self.up(x), skip], dim=1))


class FastLevel(nn.Module):
    """A level of the decoder in which nothing is concatenated."""

    def __init__(self, up: Any, stage: Any):
        super().__init__()
        first, *rest = stage.convs
        here, kernel, padding = up.out_channels, first.conv.kernel_size, first.conv.padding
        upper, lower = first.conv.weight.float().split(here, dim=1)
        self.norm, self.rest = Norm(first.norm), nn.Sequential(*map(FastConv, rest))
        conv = nn.Conv3d(here, first.conv.out_channels, kernel, padding=padding, bias=False)
        self.skip = quick(_like(conv, lower, up))
        # Scattering with `up` and gathering with a kernel is scattering with both kernels convolved.
        weight = F.conv_transpose3d(up.weight.float(), upper.flip(2, 3, 4).transpose(0, 1))
        size: Any = weight.shape[2:]
        composed = nn.ConvTranspose3d(
            up.in_channels, first.conv.out_channels, size, up.stride, padding=padding, bias=False
        )
        self.up = _like(composed, weight, up)
        # The bias of `up` is a constant, and gone after the norm, except where the kernel reaches over the border.
        bias = upper.new_zeros(here) if up.bias is None else up.bias.float()
        constant = bias.view(1, -1, 1, 1, 1).expand(-1, -1, *kernel)
        edges = F.conv3d(constant, upper, padding=padding)
        z, y, x = padding
        self.edges: Tensor = (edges - edges[..., z : z + 1, y : y + 1, x : x + 1]).to(up.weight.dtype)
        self.padding = padding

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out, below = _channels_last(self.skip(skip)), _channels_last(self.up(x))
        self._add_edges(below)
        out += below
        for sample in out.split(1):
            self.norm.apply_(sample)
        F.leaky_relu_(out, 0.01)
        return self.rest(out)

    def _add_edges(self, x: Tensor) -> None:
        zones = [
            [(slice(0, p), slice(0, p)), (slice(p, n - p), slice(p, p + 1)), (slice(n - p, n), slice(p + 1, None))]
            for n, p in zip(x.shape[2:], self.padding, strict=True)
        ]
        for zone in product(range(3), repeat=3):
            if zone != (1, 1, 1):
                (z, from_z), (y, from_y), (x_, from_x) = (axis[i] for axis, i in zip(zones, zone, strict=True))
                x[..., z, y, x_] += self.edges[..., from_z, from_y, from_x]


class Norm(nn.Module):
    """`InstanceNorm` with its parameters in fp32."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight.float(), norm.bias.float(), norm.eps
        self.unused = torch.empty(0)

    def apply_(self, sample: Tensor) -> None:
        """Normalise a channels-last (1, C, z, y, x) tensor in place: with one sample it is a batch norm."""
        mean, variance = moments(sample)
        outputs = sample, self.unused, self.unused
        torch.native_batch_norm(sample, self.weight, self.bias, mean, variance, False, 0.0, self.eps, out=outputs)


def moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of every channel of a channels-last (1, C, z, y, x) tensor, fp32."""
    channels = sample.shape[1]
    voxels = sample.permute(0, 2, 3, 4, 1).view(-1, channels)
    parts = [part.t()[None, :, :, None] for part in voxels.split(PIECE_VOXELS)]
    running = torch.zeros(2, channels)  # in fp32 so that the results are
    found = [torch.batch_norm_update_stats(part, running[0], running[1], 0.0) for part in parts]
    means, variances = (torch.stack(column).double() for column in zip(*found, strict=True))
    share = torch.tensor([part.shape[2] for part in parts], dtype=torch.float64)[:, None] / len(voxels)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return mean.float(), variance.float()


def _projection(skip: Any) -> nn.Module:
    """Mean pooling and a 1x1x1 convolution as one strided convolution."""
    conv = skip[-1].conv
    stride: Any = skip[0].stride if isinstance(skip[0], MeanPool) else (1, 1, 1)
    weight = (conv.weight / math.prod(stride)).expand(-1, -1, *stride)
    return _like(nn.Conv3d(conv.in_channels, conv.out_channels, stride, stride, bias=False), weight, conv)


def _composable(up: Any, stage: Any) -> bool:
    # Else an axis could be so short that one kernel reaches over both borders.
    return all(s >= k - 1 for s, k in zip(up.stride, stage.convs[0].conv.kernel_size, strict=True))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)  # itself, if the convolution kept the layout


def _like(module: Any, weight: Tensor, example: Any) -> nn.Module:
    """The module with this weight, in the precision of another one and channels-last."""
    module.weight = nn.Parameter(weight.to(example.weight.dtype), requires_grad=False)
    return module.to(memory_format=torch.channels_last_3d)
