"""From finished scores to labels on the scan's grid, as they come in.

Two ways: where network and scan share a grid, every finished part is labelled at once; where they do not, the parts of
a slab are put together, resampled, labelled and forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from umamba2.engine.blend import dtype_for_keeping, for_keeping
from umamba2.engine.faults import is_out_of_memory
from umamba2.engine.resample import RowResampler, leading
from umamba2.engine.tiles import Box, all_classes

NEVER = -1000.0  # the score of every structure where no tile had anything to say


def clipped(box: Box, pads: Sequence[tuple[int, int]], shape: Sequence[int]) -> tuple[Box, Box] | None:
    """A part of the padded volume: what of it lies in the volume itself, in its own and in the volume's coordinates.

    ``shape`` is the volume's. None if all of it is padding.
    """
    own, where = [], []
    for part, (before, _), size in zip(box, pads, shape):
        start, stop = max(part.start - before, 0), min(part.stop - before, size)
        if start >= stop:
            return None
        where.append(slice(start, stop))
        own.append(slice(start + before - part.start, stop + before - part.start))
    return tuple(own), tuple(where)


def best(scores: Tensor) -> Tensor:
    """The class with the highest (finite) score, the first of several; (classes, ...) -> (...) uint8."""
    if scores.device.type != "cpu":
        return scores.argmax(0).to(torch.uint8)
    # Three passes that vectorise are three times faster than one of argmax, which does not.
    countdown = 255 - torch.arange(len(scores), dtype=torch.uint8).view(-1, *[1] * (scores.ndim - 1))
    return 255 - (scores == scores.amax(0)).view(torch.uint8).mul_(countdown).amax(0)


class SameGrid:
    """Labels of a volume whose grid is the scan's; ``shape`` (z, y, x) without the padding."""

    def __init__(self, shape: Sequence[int], pads: Sequence[tuple[int, int]], device: torch.device):
        self.pads = pads
        self.labels = torch.zeros(tuple(shape), dtype=torch.uint8, device=device)

    def finish(self, box: Box, scores: Tensor | None) -> None:
        """Label a part of the padded volume, (classes, z, y, x); None is background."""
        parts = clipped(box, self.pads, self.labels.shape)
        if parts is not None and scores is not None:
            own, where = parts
            self.labels[where] = best(scores[all_classes(own)]).to(self.labels.device)


@dataclass
class _Slab:
    start: int
    stop: int
    missing: int  # voxels
    scores: Tensor | None = None


class OtherGrid:
    """Labels of a volume that is resampled back to the scan's grid.

    ``shape`` (z, y, x) of the volume without the padding, ``target`` of the labels. ``rows`` are the slabs along
    axis ``lead`` of the padded volume in the order in which they are finished; ``nearest``: rows are not interpolated.
    """

    def __init__(
        self, shape: Sequence[int], pads: Sequence[tuple[int, int]], target: Sequence[int], lead: int, nearest: bool,
        rows: Sequence[tuple[int, int]], classes: int, device: torch.device,
    ):  # fmt: skip
        self.shape, self.pads, self.lead, self.classes = tuple(shape), pads, lead, classes
        self.labels = torch.zeros(tuple(target), dtype=torch.uint8, device=device)
        self._by_row = self.labels.movedim(lead, 0)
        self._rows = RowResampler(shape[lead], leading(target, lead), nearest)
        before, plane = pads[lead][0], math.prod(leading(shape, lead)[1:])
        inside = [(max(a - before, 0), min(b - before, shape[lead])) for a, b in rows]
        self._slabs = [_Slab(a, b, (b - a) * plane) for a, b in inside if a < b]
        self.dtype = dtype_for_keeping(classes * plane * max(slab.stop - slab.start for slab in self._slabs))
        self._done = 0  # rows of the labels

    def finish(self, box: Box, scores: Tensor | None) -> None:
        """Take a part of the padded volume, (classes, z, y, x); None is background."""
        parts = clipped(box, self.pads, self.shape)
        if parts is None:
            return
        own, where = parts
        row = where[self.lead].start
        slab = next(s for s in self._slabs if s.start <= row < s.stop)
        if slab.scores is None:
            size = (self.classes, slab.stop - slab.start, *leading(self.shape, self.lead)[1:])
            slab.scores = self._room(size)
        place = slab.scores.movedim(1, 1 + self.lead)  # (classes, z, y, x) again
        rows = slice(row - slab.start, where[self.lead].stop - slab.start)
        where = tuple(rows if axis == self.lead else side for axis, side in enumerate(where))
        if scores is None:
            place[all_classes(where)] = NEVER
            place[0][where] = 0
        else:
            place[all_classes(where)] = for_keeping(scores[all_classes(own)], self.dtype)
        slab.missing -= math.prod(w.stop - w.start for w in where)
        while self._slabs and self._slabs[0].missing == 0:
            self._label(self._slabs.pop(0))

    def _room(self, size: Sequence[int]) -> Tensor:
        """Memory for a slab, on the host if there is too little on the labels' device."""
        try:
            return torch.empty(*size, dtype=self.dtype, device=self.labels.device)
        except Exception as error:
            if self.labels.device.type == "cpu" or not is_out_of_memory(error):
                raise
        return torch.empty(*size, dtype=self.dtype)

    def _label(self, slab: _Slab) -> None:
        assert slab.scores is not None
        try:
            return self._resample(slab.scores)
        except Exception as error:
            if slab.scores.device.type == "cpu" or not is_out_of_memory(error):
                raise
        return self._resample(slab.scores.cpu())  # goes on where it stopped

    def _resample(self, rows: Tensor) -> None:
        for scores in self._rows.push(rows):
            labels = best(scores)
            self._by_row[self._done : self._done + len(labels)] = labels
            self._done += len(labels)
