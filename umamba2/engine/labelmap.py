"""From finished scores to labels on the scan's grid, part by part.

There are two ways: where network and scan share a grid, every finished part is labelled at once. Where they do not,
parts are put together to whole rows of the volume, which are resampled, labelled and forgotten.

Labels are in the host's memory from the start: an error of a GPU that sticks would take along what is finished.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from umamba2.engine.blend import relative_scores, score_dtype
from umamba2.engine.crossing import Landing
from umamba2.engine.faults import is_out_of_memory
from umamba2.engine.resample import RowResampler, leading
from umamba2.engine.tiles import Box, all_classes

FEW_CLASSES = 3  # with no more, most of a scan is background, and it is worth while to look where
# By how much, as a part of a voxel's largest score, background must be ahead at all voxels around a place for it to be
# best there whatever rounding does.
CLEARLY = 1e-4
ROWS_OF_BOX, GAP_OF_BOXES = 8, 4  # voxels: how finely what is not background is cut out
NO_SCORE = -1000.0  # of every structure where no tile has an answer


def without_padding(box: Box, pads: Sequence[tuple[int, int]], shape: Sequence[int]) -> tuple[Box, Box] | None:
    """The part of a box that lies in the volume itself.

    Args:
        box: A part of the padded volume.
        pads: The voxels added before and after each axis.
        shape: The volume without them, (z, y, x).

    Returns:
        That part in the box's own coordinates and in the volume's, or None if all of the box is padding.
    """
    own, where = [], []
    for side, (before, _), size in zip(box, pads, shape):
        start, stop = max(side.start - before, 0), min(side.stop - before, size)
        if start >= stop:
            return None
        where.append(slice(start, stop))
        own.append(slice(start + before - side.start, stop + before - side.start))
    return tuple(own), tuple(where)


def best_class(scores: Tensor) -> Tensor:
    """The class with the highest (finite) score, the first of several: (classes, ...) -> (...) uint8."""
    if scores.device.type != "cpu":
        return scores.argmax(0).to(torch.uint8)
    # Three passes that vectorise are three times faster than one of argmax, which does not.
    countdown = 255 - torch.arange(len(scores), dtype=torch.uint8).view(-1, *[1] * (scores.ndim - 1))
    return 255 - (scores == scores.amax(0)).view(torch.uint8).mul_(countdown).amax(0)


class SameGrid:
    """The labels of a volume whose grid is the scan's.

    Args:
        shape: The volume without its padding, (z, y, x).
        pads: The voxels added before and after each axis.
    """

    def __init__(self, shape: Sequence[int], pads: Sequence[tuple[int, int]]):
        self.pads = pads
        self.landing = Landing(shape)
        self.labels = self.landing.labels

    def finish(self, box: Box, scores: Tensor | None) -> None:
        """Label a part of the padded volume from its scores (classes, z, y, x); None makes it background."""
        parts = without_padding(box, self.pads, self.labels.shape)
        if parts is not None and scores is not None:
            own, where = parts
            self.landing.put(self.labels[where], best_class(scores[all_classes(own)]))


@dataclass
class _Rows:
    """Rows of the volume that are finished together, and their scores as far as they are in."""

    start: int
    stop: int
    missing: int  # voxels
    scores: Tensor | None = None


class OtherGrid:
    """The labels of a volume that is resampled back to the scan's grid.

    Args:
        shape: The volume without its padding, (z, y, x).
        pads: The voxels added before and after each axis.
        target: The shape of the labels, (z, y, x).
        lead: The axis along which the volume is finished.
        nearest: Do not interpolate along that axis.
        rows: The first row of the padded volume, and the one after the last, of what is finished together; in order.
        classes: How many there are.
        device: Where scores are kept until their rows are complete.
    """

    def __init__(
        self, shape: Sequence[int], pads: Sequence[tuple[int, int]], target: Sequence[int], lead: int, nearest: bool,
        rows: Sequence[tuple[int, int]], classes: int, device: torch.device,
    ):  # fmt: skip
        self.shape, self.pads, self.lead, self.classes = tuple(shape), pads, lead, classes
        self.device = device
        self.landing = Landing(target)
        self.labels = self.landing.labels
        self._by_row = self.labels.movedim(lead, 0)
        self._resampler = RowResampler(shape[lead], leading(target, lead), nearest)
        before, plane = pads[lead][0], math.prod(leading(shape, lead)[1:])
        inside = [(max(a - before, 0), min(b - before, shape[lead])) for a, b in rows]
        self._pending = [_Rows(a, b, (b - a) * plane) for a, b in inside if a < b]
        self.dtype = score_dtype(classes * plane * max(rows.stop - rows.start for rows in self._pending))
        self._done = 0  # rows of the labels

    def finish(self, box: Box, scores: Tensor | None) -> None:
        """Take the scores (classes, z, y, x) of a part of the padded volume; None makes it background."""
        parts = without_padding(box, self.pads, self.shape)
        if parts is None:
            return
        own, where = parts
        side = where[self.lead]
        rows = next(r for r in self._pending if r.start <= side.start < r.stop)
        if rows.scores is None:
            rows.scores = self._empty((self.classes, rows.stop - rows.start, *leading(self.shape, self.lead)[1:]))
        place = rows.scores.movedim(1, 1 + self.lead)  # (classes, z, y, x) again
        where = (*where[: self.lead], slice(side.start - rows.start, side.stop - rows.start), *where[self.lead + 1 :])
        if scores is None:
            place[all_classes(where)] = NO_SCORE
            place[0][where] = 0
        else:
            place[all_classes(where)] = relative_scores(scores[all_classes(own)], self.dtype)
        rows.missing -= math.prod(w.stop - w.start for w in where)
        while self._pending and self._pending[0].missing == 0:
            self._label(self._pending.pop(0))

    def _empty(self, size: Sequence[int]) -> Tensor:
        """Memory for scores, the host's if there is too little on the device."""
        try:
            return torch.empty(*size, dtype=self.dtype, device=self.device)
        except Exception as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        return torch.empty(*size, dtype=self.dtype)

    def _label(self, rows: _Rows) -> None:
        assert rows.scores is not None
        try:
            return self._resample(rows.scores)
        except Exception as error:
            if rows.scores.device.type == "cpu" or not is_out_of_memory(error):
                raise
        return self._resample(rows.scores.cpu())  # goes on where it stopped

    def _resample(self, scores: Tensor) -> None:
        if self.classes <= FEW_CLASSES and scores.device.type == "cpu":
            boxes = self._doubtful_boxes(scores)
            if 2 * sum(math.prod(s.stop - s.start for s in box) for box in boxes) < scores[0].numel():
                for where, resampled in self._resampler.push_parts(scores, boxes):
                    self._by_row[where] = best_class(resampled)
                self._done = self._resampler.given
                return
        for resampled in self._resampler.push(scores):
            labels = best_class(resampled)
            self.landing.put(self._by_row[self._done : self._done + len(labels)], labels)
            self._done += len(labels)

    def _doubtful_boxes(self, scores: Tensor) -> list[Box]:
        """Parts of the rows, (rows, ., .), that hold all voxels at which background is not clearly the best.

        What lies between voxels has a weighted mean of their scores, so background is best between any for which it is.
        The row that the resampler holds from before counts as number -1.
        """
        held = self._resampler.held
        boxes = [] if held is None else _boxes_around(_doubtful(held[:, None].to(scores.device)), -1)
        for start in range(0, scores.shape[1], ROWS_OF_BOX):
            boxes += _boxes_around(_doubtful(scores[:, start : start + ROWS_OF_BOX]), start)
        return boxes


def _doubtful(scores: Tensor) -> Tensor:
    """Where background is not clearly the best of (classes, ...)."""
    scores = scores.float()
    return scores[0] - scores[1:].amax(0) <= CLEARLY * scores.abs().amax(0)


def _boxes_around(mask: Tensor, first: int) -> list[Box]:
    """Boxes side by side around what is true in some rows (rows, ., .), the first of which has that number."""
    boxes: list[Box] = []
    flat = mask.any(0)
    columns = flat.any(0).nonzero()[:, 0]
    breaks = (columns.diff() > GAP_OF_BOXES).nonzero()[:, 0] + 1
    for run in columns.tensor_split(breaks) if len(columns) else ():
        side = slice(int(run[0]), int(run[-1]) + 1)
        lines = flat[:, side].any(1).nonzero()[:, 0]
        boxes.append((slice(first, first + len(mask)), slice(int(lines[0]), int(lines[-1]) + 1), side))
    return boxes
