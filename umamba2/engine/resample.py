"""Linear resampling as nnU-Net's `resample_torch` does it, in rows: neither side needs to exist as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from umamba2.engine.crossing import sent
from umamba2.models.network import Plan

Box = tuple[slice, ...]
SLAB_ELEMENTS = 2**20  # resampled at once, or one row: 4 MiB in fp32, which stay in the caches
SLAB_ELEMENTS_GPU = 2**25  # fewer calls


def separate_axis(spacing: Sequence[float], plan: Plan) -> int | None:
    """The axis that is resampled apart from the others (nearest neighbour), or None for plain trilinear.

    nnU-Net's rule: with ``force_separate_z`` None, the one axis whose spacing exceeds the finest by more than the
    threshold, in the scan or else in the plan.
    """
    if plan.force_separate_z is False:
        return None
    for candidate in (spacing, plan.spacing):
        if plan.force_separate_z or max(candidate) / min(candidate) > plan.separate_z_threshold:
            coarsest = [i for i, s in enumerate(candidate) if s == max(candidate)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample(data: Tensor, shape: Sequence[int], axis: int | None = None) -> Tensor:
    """Linear interpolation of (C, z, y, x) to a new (z, y, x) shape, voxel edges aligned; nearest along ``axis``."""
    lead = axis or 0
    return resample_rows([data.movedim(1 + lead, 1)], data.shape[1:], shape, axis)


def resample_rows(
    portions: Iterable[Tensor], source: Sequence[int], shape: Sequence[int], axis: int | None = None
) -> Tensor:
    """What `resample` does, for an array that comes in portions and never exists as a whole.

    Args:
        portions: Some rows each (C, rows, ., .), in order, along ``axis`` (z if that is None); what is in one may
            change once the next one is asked for.
        source: The array's shape, (z, y, x).
        shape: What it becomes.
        axis: The axis along which rows are not interpolated.
    """
    lead = axis or 0
    rows = RowResampler(source[lead], leading(shape, lead), nearest=axis is not None)
    same, out, done = tuple(source) == tuple(shape), None, 0
    for portion in portions:
        for slab in [portion] if same else rows.push(portion):
            if out is None:
                out = torch.empty(slab.shape[0], *shape, dtype=slab.dtype, device=slab.device)
            out.movedim(1 + lead, 1)[:, done : done + slab.shape[1]] = slab
            done += slab.shape[1]
    assert out is not None
    return out


def leading(shape: Sequence[int], lead: int) -> tuple[int, ...]:
    """A shape with one axis moved to the front."""
    return (shape[lead], *(n for axis, n in enumerate(shape) if axis != lead))


class RowResampler:
    """Takes the rows of an array (C, rows, ., .) in order, in any portions, and gives the resampled ones in order.

    ``rows`` is how many there will be, ``shape`` what they become, ``nearest`` leaves rows uninterpolated. No more than
    one row of the input is kept for later.
    """

    def __init__(self, rows: int, shape: Sequence[int], nearest: bool = False):
        self.rows, self.shape, self.nearest = rows, tuple(shape), nearest
        self._taken = self._given = 0
        self._held: Tensor | None = None  # the last row taken

    def push(self, rows: Tensor) -> Iterator[Tensor]:
        """Take the next rows; yields every slab (C, n, ., .) in fp32 that they complete.

        If it stops halfway, the same rows can be pushed again, and it goes on with the slab that it stopped at.
        """
        first, taken = self._taken, self._taken + rows.shape[1]
        largest_plane = max(math.prod(self.shape[1:]), math.prod(rows.shape[2:]))
        elements = SLAB_ELEMENTS if rows.device.type == "cpu" else SLAB_ELEMENTS_GPU
        step = max(1, elements // (rows.shape[0] * largest_plane))
        low, high, fraction = self._sources()
        ready = int((high < taken).sum())  # they ascend
        low, high, part = low - first, high - first, sent(fraction, rows.device)
        below, above = sent(low, rows.device), sent(high, rows.device)
        for start in range(self._given, ready, step):
            now = slice(start, min(start + step, ready))
            slab = _pick(rows, below[now], _before(low[now]), self._held)
            if not self.nearest and self.rows != self.shape[0]:
                slab = torch.lerp(slab, _pick(rows, above[now], _before(high[now]), self._held), part[now, None, None])
            if slab.shape[2:] != self.shape[1:]:
                slab = F.interpolate(slab, self.shape[1:], mode="bilinear")
            yield slab
            self._given = now.stop
        self._held, self._taken = rows[:, -1].clone(), taken

    def push_parts(self, rows: Tensor, boxes: Sequence[Box]) -> Iterator[tuple[Box, Tensor]]:
        """As `push`, for those who need only what voxels of some boxes have a part in.

        Args:
            rows: The next rows.
            boxes: Parts of them, (rows, ., .), the row held from before being number -1.

        Yields:
            Where in the resampled array, (rows, ., .), and the slab there, (C, rows, ., .) in fp32. Within rounding
            these are the numbers that `push` gives. What several boxes have a part in comes several times. Everything
            is in the host's memory.
        """
        first, taken = self._taken, self._taken + rows.shape[1]
        low, high, fraction = self._sources()
        ready = int((high < taken).sum())
        for box in boxes:
            sides = [_between(side, n, m) for side, n, m in zip(box[1:], rows.shape[2:], self.shape[1:])]
            if not all(len(low) for _, low, _, _ in sides):
                continue
            touched = (high[:ready] - first >= box[0].start) & (low[:ready] - first < box[0].stop)
            touched[: self._given] = False
            (ys, y_low, y_high, y_part), (xs, x_low, x_high, x_part) = sides
            y, x = slice(int(y_low[0]), int(y_high[-1]) + 1), slice(int(x_low[0]), int(x_high[-1]) + 1)
            some, held = rows[:, :, y, x], None if self._held is None else self._held[:, y, x]
            wanted = touched.nonzero()[:, 0]
            step = max(1, SLAB_ELEMENTS // (rows.shape[0] * len(y_low) * len(x_low)))
            for now in wanted.split(step) if len(wanted) else ():  # they are neighbours
                below, above = low[now] - first, high[now] - first
                slab = _pick(some, below, _before(below), held)
                if not self.nearest and self.rows != self.shape[0]:
                    slab = torch.lerp(slab, _pick(some, above, _before(above), held), fraction[now, None, None])
                for axis, a, b, part in ((2, y_low - y.start, y_high - y.start, y_part[:, None]),
                                         (3, x_low - x.start, x_high - x.start, x_part)):  # fmt: skip
                    slab = torch.lerp(slab.index_select(axis, a), slab.index_select(axis, b), part)
                yield (slice(int(now[0]), int(now[-1]) + 1), ys, xs), slab
        self._given = ready
        self._held, self._taken = rows[:, -1].clone(), taken

    @property
    def given(self) -> int:
        """How many resampled rows have been given."""
        return self._given

    @property
    def held(self) -> Tensor | None:
        """The last row that was taken, (C, ., .)."""
        return self._held

    def _sources(self) -> tuple[Tensor, Tensor, Tensor]:
        """For every row of the output the two rows of the input it lies between, and how far towards the second."""
        if self.nearest:
            at = (torch.arange(self.shape[0]) + 0.5) * (self.rows / self.shape[0])
            low = at.long().clamp(max=self.rows - 1)
            return low, low, at
        return _neighbours(self.rows, self.shape[0])


def _neighbours(size: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """For every place of a resampled axis the two places that it lies between, and how far towards the second."""
    at = ((torch.arange(target) + 0.5) * (size / target) - 0.5).clamp(min=0)
    low = at.long().clamp(max=size - 1)
    high = low if size == target else (low + 1).clamp(max=size - 1)
    return low, high, at - low


def _between(side: slice, size: int, target: int) -> tuple[slice, Tensor, Tensor, Tensor]:
    """The part of a resampled axis that a part of the axis has a share in, and `_neighbours` of that."""
    low, high, fraction = _neighbours(size, target)
    touched = ((high >= side.start) & (low < side.stop)).nonzero()[:, 0]
    part = slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)
    return part, low[part], high[part], fraction[part]


def _before(index: Tensor) -> int:
    """How many of some ascending numbers of rows are those of the row held from the portion before."""
    return int((index < 0).sum())


def _pick(rows: Tensor, index: Tensor, before: int, held: Tensor | None) -> Tensor:
    """Rows by number, the first ``before`` being the one held from the portion before; a copy in fp32."""
    picked = rows[:, index.clamp(min=0)].float()
    if before:
        picked[:, :before] = held[:, None].to(rows.device, torch.float32)  # type: ignore[index]
    return picked
