"""Layers that work on a few planes of a volume at a time, while these are in the processor's caches.

A slab is some planes of one sample, (z, C, y, x) with channels last in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.engine.cpu import activations

PIECE_BYTES = 2**22  # of a slab worked on at once
PIECE_VOXELS = 2**17  # few enough for exact fp32 sums, enough to be worth a call


def slabs(x: Tensor) -> list[Tensor]:
    """All planes of every sample of a channels-last (B, C, z, y, x) tensor, as views."""
    return [sample.transpose(0, 1) for sample in x]


def empty_like_layout(example: Tensor, channels: int, size: tuple[int, ...]) -> Tensor:
    """A channels-last (B, channels, *size) tensor of the type of another one."""
    return activations.tensor((len(example), *size, channels), example.dtype, example.device).permute(0, 4, 1, 2, 3)


def planes(slab: Tensor, start: int, stop: int) -> Tensor:
    """The planes from start to stop, zeros where there are none."""
    inside = slab[max(start, 0) : stop]
    if len(inside) == stop - start:
        return inside
    _, channels, y, x = slab.shape
    padded = slab.new_zeros(stop - start, y, x, channels).permute(0, 3, 1, 2)
    padded[max(-start, 0) :][: len(inside)] = inside
    return padded


def pieces(slab: Tensor, multiple: int = 1) -> Iterator[tuple[int, Tensor]]:
    """A slab in pieces of some multiple of planes, each with the number of its first plane."""
    step = max(PIECE_BYTES // slab[0].nbytes // multiple, 1) * multiple
    yield from zip(range(0, len(slab), step), slab.split(step), strict=True)


def fill(slab: Tensor, write: Callable[[int, Tensor], object], multiple: int = 1) -> Moments:
    """Have a slab written piece by piece, with ``write(first plane, piece)``."""
    moments = Moments(slab)
    for start, piece in pieces(slab, multiple):
        write(start, piece)
        moments.add(piece)
    return moments


class Moments:
    """Mean and (biased) variance of every channel of a slab.

    Taken piece by piece and put together in double precision: one running fp32 sum over the 13 million voxels of a
    patch, as torch's group norm takes it, loses 0.5 % of a deviation.
    """

    def __init__(self, slab: Tensor):
        z, channels, y, x = slab.shape
        # In one place: small results left between large ones that come and go would cost these their places.
        self._found = torch.empty(z * math.ceil(y * x / PIECE_VOXELS), 2, channels)
        self._counts: list[int] = []
        self._running = torch.zeros(2, channels)  # in fp32 so that the results are

    def add(self, piece: Tensor) -> None:
        """Take a piece of the slab in."""
        voxels = piece.permute(0, 2, 3, 1).reshape(-1, piece.shape[1])
        for part in voxels.split(PIECE_VOXELS):
            channels_last = part.t()[None, :, :, None]
            found = torch.batch_norm_update_stats(channels_last, self._running[0], self._running[1], 0.0)
            for place, value in zip(self._found[len(self._counts)], found, strict=True):
                place.copy_(value)
            self._counts.append(len(part))

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and variance in fp32."""
        share = torch.tensor(self._counts, dtype=torch.float64)[:, None] / sum(self._counts)
        means, variances = self._found[: len(self._counts)].double().unbind(1)
        mean = (share * means).sum(0)
        return mean.float(), (share * (variances + (means - mean).square())).sum(0).float()


class Norm(nn.Module):
    """`InstanceNorm` with its parameters in fp32."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight.float(), norm.bias.float(), norm.eps
        self.unused = torch.empty(0)

    def of(self, moments: Moments) -> Callable[[Tensor], None]:
        """What normalises pieces of a slab in place, given the moments of all of it."""
        mean, variance = moments.result()

        def normalise(piece: Tensor) -> None:  # with given moments it is a batch norm
            outputs = piece, self.unused, self.unused
            torch.native_batch_norm(piece, self.weight, self.bias, mean, variance, False, 0.0, self.eps, out=outputs)

        return normalise


class Conv(nn.Module):
    """`Conv3d` without its bias."""

    multiple = 1  # of planes that are best written at once

    def __init__(self, conv: Any):
        super().__init__()
        self.weight, self.stride, self.padding = conv.weight, conv.stride, conv.padding
        self.kernel, self.channels = conv.kernel_size, conv.out_channels

    def size(self, x: Tensor) -> tuple[int, ...]:
        """(z, y, x) of the result."""
        sides = zip(x.shape[2:], self.kernel, self.stride, self.padding, strict=True)
        return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in sides)

    def write(self, slab: Tensor, start: int, out: Tensor) -> None:
        """Write the planes of the result from ``start`` on."""
        first = start * self.stride[0] - self.padding[0]
        seen = planes(slab, first, first + (len(out) - 1) * self.stride[0] + self.kernel[0])
        padding = 0, *self.padding[1:]
        out.copy_(F.conv3d(seen.transpose(0, 1)[None], self.weight, None, self.stride, padding)[0].transpose(0, 1))


class Up(nn.Module):
    """`ConvTranspose3d` without its bias; padding at most the stride."""

    def __init__(self, conv: Any):
        super().__init__()
        self.weight, self.stride, self.padding = conv.weight, conv.stride, conv.padding
        self.halo = math.ceil(self.padding[0] / self.stride[0])  # planes beyond either end that reach in

    def planes(self, slab: Tensor, start: int, stop: int) -> Tensor:
        """The planes of the result from start to stop, both multiples of the stride."""
        step = self.stride[0]
        seen = planes(slab, start // step - self.halo, stop // step + self.halo)
        padding = step * self.halo + self.padding[0], *self.padding[1:]
        out = F.conv_transpose3d(seen.transpose(0, 1)[None], self.weight, None, self.stride, padding)
        return out[0].transpose(0, 1)
