"""Where the tiles lie, how they are weighted, and which parts of the volume each of them finishes.

The edges of all tiles cut every axis into segments, and the volume into cells. A cell is seen by the same tiles
everywhere, so all of it is finished with the last of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product

import numpy as np
import torch
from torch import Tensor

from umamba2.errors import InputError

PEAK = 10.0  # of the Gaussian: keeps products with logits well inside half precision
SMALLEST_WEIGHT = 2.0**-24  # the smallest positive fp16 number, so that no voxel ever has weight zero

MOST_TILES = 1_000_000  # 1000x1000x1000 voxels in patches of 32x32x32 have a quarter; a million take most of an hour

Box = tuple[slice, ...]  # part of a volume, one slice per axis (z, y, x)


def all_classes(box: Box) -> Box:
    """The index of a part of the volume in scores, (classes, z, y, x)."""
    return (slice(None), *box)


def positions(size: int, patch: int, step: float) -> list[int]:
    """Where the tiles start along one axis: as few as possible, evenly spread, no two the same.

    Args:
        size: Voxels of the volume, at least those of the patch.
        patch: Voxels of a tile.
        step: The largest distance of tiles as a fraction of the patch, in (0, 1].
    """
    count = min(math.ceil((size - patch) / (patch * step)), size - patch) + 1
    if count == 1:
        return [0]
    stride = (size - patch) / (count - 1)
    return [round(stride * i) for i in range(count)]


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


def mirrors(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All combinations of the axes to mirror, the unmirrored one first."""
    for bits in range(2 ** len(axes)):
        yield tuple(axis for i, axis in enumerate(axes) if bits >> i & 1)


@dataclass(frozen=True)
class Tile:
    """A part of the volume that the network sees at once.

    Attributes:
        index: Its place among the tiles along each axis, (z, y, x).
        box: The part of the volume that it covers.
    """

    index: tuple[int, ...]
    box: Box

    def own(self, box: Box) -> Box:
        """A part of the volume in the tile's own coordinates."""
        return tuple(slice(b.start - t.start, b.stop - t.start) for b, t in zip(box, self.box))


@dataclass(frozen=True)
class Cell:
    """A part of the volume that the same tiles cover.

    Attributes:
        box: Where it is.
        last: Whether the tile at work is the last of them.
    """

    box: Box
    last: bool


@dataclass(frozen=True)
class _Segment:
    start: int
    stop: int
    first: int  # the tiles along this axis that cover it: from this one
    last: int  # to this one


class Sweep:
    """The tiles of a volume in the order in which the fewest voxels are pending: seen, and to be seen again.

    Args:
        shape: The volume, (z, y, x), at least as large as a tile.
        patch: A tile, (z, y, x).
        step: The distance of tiles as a fraction of the patch.
        outer: The axis (0-2) that advances last, if it matters: all of the volume before a border across it is finished
            before the next row of tiles starts.

    Attributes:
        tiles: All of them, in order.
        pending_voxels: The greatest number that are pending at any one time.

    Raises:
        InputError: There would be more than `MOST_TILES`.
    """

    def __init__(self, shape: Sequence[int], patch: Sequence[int], step: float, outer: int | None = None):
        starts = [positions(n, p, step) for n, p in zip(shape, patch, strict=True)]
        if (count := math.prod(map(len, starts))) > MOST_TILES:
            found = f"{count:,} of {'x'.join(map(str, patch))} voxels in a grid of {'x'.join(map(str, shape))}"
            raise InputError(f"tiles: found {found}, expected at most {MOST_TILES:,}")
        self.step = step
        self._segments = [_segments(s, p) for s, p in zip(starts, patch)]
        orders = [order for order in permutations(range(3)) if outer in (None, order[0])]
        self.pending_voxels, order = min(
            (self._most_pending([len(s) for s in starts], order), order) for order in orders
        )
        self.outer = order[0]
        self.tiles = []
        for counted in product(*(range(len(starts[axis])) for axis in order)):
            index = tuple(counted[order.index(axis)] for axis in range(3))
            box = tuple(slice(s[i], s[i] + p) for s, i, p in zip(starts, index, patch))
            self.tiles.append(Tile(index, box))

    def cells(self, tile: Tile) -> list[Cell]:
        """The cells of a tile, first those that it finishes, because they make room for the others."""
        own = [[s for s in segments if s.first <= i <= s.last] for segments, i in zip(self._segments, tile.index)]
        cells = [
            Cell(
                tuple(slice(s.start, s.stop) for s in segments),
                all(s.last == i for s, i in zip(segments, tile.index)),
            )
            for segments in product(*own)
        ]
        return sorted(cells, key=lambda cell: not cell.last)

    def rows(self) -> list[tuple[int, int]]:
        """The start and stop of the rows along the outer axis that get finished together, one after the other."""
        return [(s.start, s.stop) for s in self._segments[self.outer]]

    def _most_pending(self, counts: Sequence[int], order: Sequence[int]) -> int:
        """The greatest number of pending voxels if the tiles come in that order of axes."""
        size, first, last, stride = np.ones(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), 1
        for axis in reversed(order):
            segments = self._segments[axis]
            size = np.multiply.outer(np.array([s.stop - s.start for s in segments]), size).ravel()
            first = np.add.outer(np.array([s.first for s in segments]) * stride, first).ravel()
            last = np.add.outer(np.array([s.last for s in segments]) * stride, last).ravel()
            stride *= counts[axis]
        change = np.bincount(first, size, stride) - np.bincount(last, size, stride)
        return int(change.cumsum().max())


def _segments(starts: Sequence[int], patch: int) -> list[_Segment]:
    """One axis cut at every edge of a tile, with the tiles that cover each piece."""
    edges = sorted({edge for start in starts for edge in (start, start + patch)})
    return [
        _Segment(a, b, sum(start + patch <= a for start in starts), sum(start <= a for start in starts) - 1)
        for a, b in pairwise(edges)
    ]
