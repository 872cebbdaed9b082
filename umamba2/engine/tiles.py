"""Where the tiles lie, how they are weighted, and how their scores are put together (nnU-Net's sliding window)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

PEAK = 10.0  # of the Gaussian: keeps products with logits well inside half precision
SMALLEST_WEIGHT = 2.0**-24  # the smallest positive fp16 number, so that no voxel ever has weight zero
FULL_PRECISION_BYTES = 4 * 2**30  # up to here the sum of scores is kept in fp32, above in fp16


def positions(size: int, patch: int, step: float) -> list[int]:
    """Tile starts along one axis: as few as steps of at most ``step * patch`` allow, evenly spread.

    ``size`` must be at least ``patch``; ``step`` in (0, 1]. No two tiles are the same.
    """
    count = min(math.ceil((size - patch) / (patch * step)), size - patch) + 1
    if count == 1:
        return [0]
    stride = (size - patch) / (count - 1)
    return [round(stride * i) for i in range(count)]


def tiles(shape: Sequence[int], patch: Sequence[int], step: float) -> list[tuple[slice, ...]]:
    """All tiles of a volume, as slices (z, y, x), in raster order."""
    starts = [positions(n, p, step) for n, p in zip(shape, patch, strict=True)]
    return [
        tuple(slice(a, a + p) for a, p in zip((z, y, x), patch, strict=True))
        for z in starts[0]
        for y in starts[1]
        for x in starts[2]
    ]


def gaussian(patch: Sequence[int]) -> Tensor:
    """The weight of each voxel of a tile: a Gaussian of sigma = patch / 8 around the centre, peak `PEAK`, fp32."""
    weight = torch.ones(1, 1, 1, dtype=torch.float64)
    for axis, n in enumerate(patch):
        profile = torch.exp(-0.5 * ((torch.arange(n, dtype=torch.float64) - n // 2) / (n / 8)) ** 2)
        weight = weight * profile.reshape([-1 if a == axis else 1 for a in range(3)])
    return (PEAK * weight).clamp(min=SMALLEST_WEIGHT).float()


def padding(shape: Sequence[int], patch: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis so that at least one tile fits."""
    missing = [max(0, p - n) for n, p in zip(shape, patch, strict=True)]
    return [(m // 2, m - m // 2) for m in missing]


class Blend:
    """The weighted sum of tile scores.

    ``how`` "nnunet": the Gaussian-weighted mean of the logits. "published": each tile's logits are first scaled so
    that their maximum is 100, then summed with Gaussian weights; argmax needs no division. Where the published
    method would divide by a maximum that is negative or nearly zero, flipping or blowing up the tile, the divisor
    stays at 1.
    """

    METHODS = ("nnunet", "published")

    def __init__(self, classes: int, shape: Sequence[int], patch: Sequence[int], how: str, device: torch.device):
        self.how = how
        size = 4 * classes * math.prod(shape)
        dtype = torch.float32 if size <= FULL_PRECISION_BYTES else torch.float16
        self.scores = torch.zeros((classes, *shape), dtype=dtype, device=device)
        self.weight = gaussian(patch).to(device)
        self.total = torch.zeros(tuple(shape), device=device) if how == "nnunet" else None

    def add(self, tile: tuple[slice, ...], logits: Tensor) -> None:
        """Add the logits of one tile, (classes, z, y, x) in fp32; they are overwritten."""
        if self.how == "published":
            logits.mul_(100 / logits.amax().clamp(min=1))
        where = (slice(None), *tile)
        self.scores[where] += logits.to(self.weight.device).mul_(self.weight)
        if self.total is not None:
            self.total[tile] += self.weight

    def result(self) -> Tensor:
        """The blended scores, (classes, z, y, x)."""
        if self.total is not None:
            self.scores /= self.total
            self.total = None
        return self.scores


def mirrors(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All combinations of the axes to mirror, the unmirrored one first."""
    for bits in range(2 ** len(axes)):
        yield tuple(axis for i, axis in enumerate(axes) if bits >> i & 1)
