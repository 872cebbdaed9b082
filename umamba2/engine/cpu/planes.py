"""Layers that work on a few planes of a volume at a time, while these are in the processor's caches.

``planes`` are always those of one sample, (z, C, y, x), with channels last in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.engine.cpu import activations

PORTION_BYTES = 2**22  # of the planes worked on at once
PORTION_VOXELS = 2**17  # few enough for exact fp32 sums, enough to be worth a call

Normalise = Callable[[Tensor], None]  # works on a portion of planes in place

_onednn: Any = torch.backends.mkldnn


def samples(x: Tensor) -> list[Tensor]:
    """The planes of every sample of a channels-last (B, C, z, y, x) tensor, as views."""
    return [sample.transpose(0, 1) for sample in x]


def empty_like_layout(example: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """A channels-last (B, channels, z, y, x) tensor with the batch and type of an example and this (z, y, x)."""
    return activations.tensor((len(example), *size, channels), example.dtype, example.device).permute(0, 4, 1, 2, 3)


def zero_padded(planes: Tensor, start: int, stop: int) -> Tensor:
    """The planes from start to stop, zeros where there are none."""
    inside = planes[max(start, 0) : stop]
    if len(inside) == stop - start:
        return inside
    _, channels, y, x = planes.shape
    padded = planes.new_zeros(stop - start, y, x, channels).permute(0, 3, 1, 2)
    padded[max(-start, 0) :][: len(inside)] = inside
    return padded


def portions(planes: Tensor, multiple: int = 1) -> Iterator[tuple[int, Tensor]]:
    """A few planes after the other, some multiple of so many, each time with the number of the first of them."""
    step = max(PORTION_BYTES // planes[0].nbytes // multiple, 1) * multiple
    yield from zip(range(0, len(planes), step), torch.split(planes, step), strict=True)


def write_portions(planes: Tensor, write: Callable[[int, Tensor], object], multiple: int = 1) -> Moments:
    """Have planes written portion by portion with ``write(first plane, portion)``; their moments."""
    moments = Moments(planes)
    for start, portion in portions(planes, multiple):
        write(start, portion)
        moments.add(portion)
    return moments


class Moments:
    """Mean and (biased) variance of every channel of some planes.

    Taken portion by portion and put together in double precision: one running fp32 sum over the 13 million voxels of a
    patch, as torch's group norm takes it, loses 0.5 % of a deviation.
    """

    def __init__(self, planes: Tensor):
        z, channels, y, x = planes.shape
        # In one place: small results left between large ones that come and go would cost these their places.
        self._found = torch.empty(z * math.ceil(y * x / PORTION_VOXELS), 2, channels)
        self._counts: list[int] = []
        self._running = torch.zeros(2, channels)  # in fp32 so that the results are

    def add(self, portion: Tensor) -> None:
        """Take a portion of the planes in."""
        voxels = portion.permute(0, 2, 3, 1).reshape(-1, portion.shape[1])
        for some in torch.split(voxels, PORTION_VOXELS):
            channels_last = some.t()[None, :, :, None]
            found = torch.batch_norm_update_stats(channels_last, self._running[0], self._running[1], 0.0)
            for place, value in zip(self._found[len(self._counts)], found, strict=True):
                place.copy_(value)
            self._counts.append(len(some))

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

    def normaliser(self, moments: Moments) -> Normalise:
        """A function that normalises portions of planes, given the moments of all of them."""
        mean, variance = moments.result()

        def normalise(portion: Tensor) -> None:  # with given moments it is a batch norm
            outputs = portion, self.unused, self.unused
            torch.native_batch_norm(portion, self.weight, self.bias, mean, variance, False, 0.0, self.eps, out=outputs)

        return normalise


class Conv(nn.Module):
    """`Conv3d` without its bias."""

    multiple = 1  # of planes that are best written at once

    def __init__(self, conv: Any):
        super().__init__()
        self.weight, self.stride, self.padding = conv.weight, conv.stride, conv.padding
        self.kernel, self.channels = conv.kernel_size, conv.out_channels

    def size(self, x: Tensor) -> tuple[int, ...]:
        """The (z, y, x) of the result."""
        sides = zip(x.shape[2:], self.kernel, self.stride, self.padding, strict=True)
        return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in sides)

    def write(self, planes: Tensor, start: int, out: Tensor) -> None:
        """Write the planes of the result from ``start`` on."""
        first = start * self.stride[0] - self.padding[0]
        seen = zero_padded(planes, first, first + (len(out) - 1) * self.stride[0] + self.kernel[0])
        padding = 0, *self.padding[1:]
        out.copy_(convolve(seen.transpose(0, 1)[None], self.weight, self.stride, padding)[0].transpose(0, 1))


class Up(nn.Module):
    """`ConvTranspose3d` without its bias; padding at most the stride."""

    def __init__(self, conv: Any):
        super().__init__()
        self.weight, self.stride, self.padding = conv.weight, conv.stride, conv.padding
        self.halo = math.ceil(self.padding[0] / self.stride[0])  # planes beyond either end that reach in

    def planes(self, below: Tensor, start: int, stop: int) -> Tensor:
        """The planes of the result from start to stop, both multiples of the stride."""
        step = self.stride[0]
        seen = zero_padded(below, start // step - self.halo, stop // step + self.halo)
        padding = step * self.halo + self.padding[0], *self.padding[1:]
        return convolve_transposed(seen.transpose(0, 1)[None], self.weight, self.stride, padding)[0].transpose(0, 1)


def convolve(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """A 2-D or 3-D convolution with oneDNN's kernels.

    Torch leaves fp32 inputs whose first four sizes multiply to at most 20,480 to kernels of its own, which are many
    times slower (`use_mkldnn` in its Convolution.cpp), and a few planes are often as small as that.
    """
    if _asks_onednn(x):
        return torch.mkldnn_convolution(x, weight, None, padding, stride, [1] * len(padding), 1)
    return (F.conv3d if x.ndim == 5 else F.conv2d)(x, weight, None, stride, padding)


def convolve_transposed(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], bias: Tensor | None = None
) -> Tensor:
    """A transposed 3-D convolution with oneDNN's kernels, see `convolve`."""
    if _asks_onednn(x) and hasattr(torch.ops.mkldnn, "_convolution_transpose_pointwise"):
        more: Any = [0, 0, 0], stride, [1, 1, 1], 1, "none", [], ""
        out: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(x, weight, bias, padding, *more)
        return out
    return F.conv_transpose3d(x, weight, bias, stride, padding)


def _asks_onednn(x: Tensor) -> bool:
    return x.dtype == torch.float32 and bool(_onednn.is_available())
