"""Scores of overlapping tiles, summed cell by cell and handed on as soon as the last tile of a cell is in.

Only cells that some later tile overlaps too are kept, so the scores of a whole volume never exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from umamba2.engine.faults import is_out_of_memory
from umamba2.engine.tiles import Box, Cell, Sweep, Tile, all_classes, gaussian

CHUNK_ELEMENTS = 2**20  # scores worked on at once on a CPU: 4 MiB in fp32, which stay in its caches
CHUNK_ELEMENTS_GPU = 2**26  # fewer calls: a quarter of a GB in fp32
FULL_PRECISION_BYTES = 2**30  # scores are kept in fp32 up to this size, in fp16 above
LOWEST_HALF = -60000.0  # a class this far behind the best one has lost

# Takes a finished part of the volume: its place, and its scores (classes, z, y, x) in fp32, or None where no tile has
# an answer.
Finish = Callable[[Box, "Tensor | None"], None]


@dataclass
class _Sums:
    """The sums of a cell so far: scores (classes, z, y, x), and weights (z, y, x) if the mean is wanted."""

    scores: Tensor
    weight: Tensor | None

    def blended(self, rows: slice) -> Tensor:
        """The scores of some rows, in fp32."""
        scores = self.scores[:, rows].float()
        return scores if self.weight is None else scores / self.weight[rows]


class Accumulator:
    """Blends the tiles of a sweep. Each of them must be added once, in the order of the sweep.

    Args:
        sweep: The tiles.
        patch: The size of a tile, (z, y, x).
        classes: How many there are.
        blend: "nnunet" is the Gaussian-weighted mean of the logits. "published" scales the logits of each tile to a
            maximum of 100 first and then sums them with Gaussian weights; where that would divide by a maximum that is
            negative or nearly zero, and so flip or blow up the tile, the divisor stays at 1.
        argmax_only: Only the order of the classes at each voxel matters, so that a sum does as well as the mean.
        device: Where sums are kept.
        finish: Takes each finished part of the volume.
    """

    METHODS = ("nnunet", "published")

    def __init__(
        self, sweep: Sweep, patch: tuple[int, ...], classes: int, blend: str, argmax_only: bool, device: torch.device,
        finish: Finish,
    ):  # fmt: skip
        self.sweep, self.classes, self.blend, self.device, self.finish = sweep, classes, blend, device, finish
        self.dtype = score_dtype(classes * sweep.pending_voxels)
        self._weight = gaussian(patch)
        self._needs_mean = blend == "nnunet" and not argmax_only
        self._pending: dict[tuple[int, ...], _Sums] = {}
        self._weight = self._retry_on_host(lambda: self._weight.to(self.device))

    def add(self, tile: Tile, logits: Tensor | None) -> None:
        """Add a tile.

        Args:
            tile: The next one of the sweep.
            logits: (classes, z, y, x); None leaves the tile to its neighbours.
        """
        scale = None
        if logits is not None and self.blend == "published":
            scale = 100 / logits.amax().float().clamp(min=1)
        for cell in self.sweep.cells(tile):
            key = tuple(side.start for side in cell.box)
            sums = self._pending.get(key)
            if logits is not None:
                if not cell.last and sums is None:
                    self._pending[key] = self._retry_on_host(self._empty_sums, cell)
                for rows, box in self._chunks(cell.box):
                    scores, weight = self._retry_on_host(self._weighted, box, tile, logits, scale)
                    if sums is not None:
                        scores += sums.scores[:, rows]
                        weight = weight if sums.weight is None else weight + sums.weight[rows]
                    if cell.last:
                        self._retry_on_host(self.finish, box, scores.div_(weight) if self._needs_mean else scores)
                    else:
                        self._retry_on_host(self._keep, self._pending[key], rows, scores, weight)
            elif cell.last:
                for rows, box in self._chunks(cell.box):
                    if sums is None:
                        self._retry_on_host(self.finish, box, None)
                    else:
                        scores = sums.scores[:, rows].float()
                        self._retry_on_host(
                            self.finish, box, scores if sums.weight is None else scores / sums.weight[rows]
                        )
            if cell.last:
                self._pending.pop(key, None)

    def to_host(self) -> str | None:
        """Keep the sums in the host's memory from now on; what was done, None if they are there already."""
        if self.device.type == "cpu":
            return None
        self.device = torch.device("cpu")
        self._weight = self._weight.cpu()
        for sums in self._pending.values():
            sums.scores = sums.scores.cpu()
            sums.weight = None if sums.weight is None else sums.weight.cpu()
        return "scores in the host's memory"

    def _chunks(self, box: Box) -> Iterator[tuple[slice, Box]]:
        """A box a few rows at a time: which rows, counted from its start, and the part of the volume they are."""
        start, stop = box[0].start, box[0].stop
        plane = math.prod(side.stop - side.start for side in box[1:])
        step = max(1, chunk_elements(self.device) // (self.classes * plane))
        for row in range(start, stop, step):
            end = min(row + step, stop)
            yield slice(row - start, end - start), (slice(row, end), *box[1:])

    def _weighted(self, box: Box, tile: Tile, logits: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """The scores that a tile gives to a part of it, times its weight, and the weight."""
        own = tile.own(box)
        weight = self._weight[own]
        scores = logits[all_classes(own)].to(self.device, torch.float32)
        return scores * (weight if scale is None else weight * scale.to(self.device)), weight

    def _empty_sums(self, cell: Cell) -> _Sums:
        size = [side.stop - side.start for side in cell.box]
        scores = torch.empty(self.classes, *size, dtype=self.dtype, device=self.device)
        return _Sums(scores, torch.empty(*size, device=self.device) if self._needs_mean else None)

    def _keep(self, sums: _Sums, rows: slice, scores: Tensor, weight: Tensor) -> None:
        sums.scores[:, rows] = relative_scores(scores, self.dtype)
        if sums.weight is not None:
            sums.weight[rows] = weight

    def _retry_on_host(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """Take a step, and take it again with all sums in the host's memory if the device's runs out."""
        try:
            return step(*arguments)
        except Exception as error:
            if not is_out_of_memory(error) or self.to_host() is None:
                raise
        return step(*arguments)


def chunk_elements(device: torch.device) -> int:
    """How many scores are worked on at once."""
    return CHUNK_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS_GPU


def relative_scores(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores as they are kept: in fp32 as they are, in half precision relative to the best class of each voxel.

    Which class wins depends on differences alone, and near the best class these are small, so half precision holds
    them well.

    Args:
        scores: (classes, ...), fp32.
        dtype: What they are kept in.
    """
    return scores if dtype == torch.float32 else (scores - scores.amax(0)).clamp_(min=LOWEST_HALF)


def score_dtype(elements: int) -> torch.dtype:
    """How precisely so many scores are kept, so that they do not fill the memory."""
    return torch.float32 if 4 * elements <= FULL_PRECISION_BYTES else torch.float16


def score_bytes(voxels: int, classes: int) -> int:
    """The memory that the scores of so many voxels take while they are kept."""
    elements = classes * voxels
    return elements * score_dtype(elements).itemsize
