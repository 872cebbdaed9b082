"""Scores of overlapping tiles, summed cell by cell and handed on as soon as a cell's last tile is in.

Only what waits for a later tile is kept, so the scores of a whole volume never exist.
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
CHUNK_ELEMENTS_GPU = 2**24  # fewer calls
FULL_PRECISION_BYTES = 2**30  # scores are kept in fp32 up to this size, in fp16 above
LOWEST_HALF = -60000.0  # a class this far behind the best one has lost

# Takes a finished part of the volume: its place, and its scores (classes, z, y, x) in fp32, or None where no tile had
# anything to say.
Finish = Callable[[Box, "Tensor | None"], None]


@dataclass
class _Waiting:
    """The sums of a cell so far: (classes, z, y, x), and of the weights (z, y, x) if they matter."""

    scores: Tensor
    weight: Tensor | None


class Accumulator:
    """Blends the tiles of a sweep, which come in its order, every one of them.

    ``how`` "nnunet": the Gaussian-weighted mean of the logits. "published": each tile's logits are first scaled so
    that their maximum is 100, then summed with Gaussian weights. Where the published method would divide by a maximum
    that is negative or nearly zero, flipping or blowing up the tile, the divisor stays at 1.

    ``relative``: only the order of the classes at each voxel matters, so that a sum does as well as the mean.
    """

    METHODS = ("nnunet", "published")

    def __init__(
        self, sweep: Sweep, patch: tuple[int, ...], classes: int, how: str, relative: bool, device: torch.device,
        finish: Finish,
    ):  # fmt: skip
        self.sweep, self.classes, self.how, self.device, self.finish = sweep, classes, how, device, finish
        self.dtype = dtype_for_keeping(classes * sweep.waiting)
        self._weight = gaussian(patch).to(device)
        self._needs_mean = how == "nnunet" and not relative
        self._waiting: dict[tuple[int, ...], _Waiting] = {}

    def add(self, tile: Tile, logits: Tensor | None) -> None:
        """Add the logits of a tile, (classes, z, y, x), which may be overwritten; None leaves it to the others."""
        scale = None
        if logits is not None and self.how == "published":
            scale = 100 / logits.amax().float().clamp(min=1)
        for cell in self.sweep.cells(tile):
            key = tuple(side.start for side in cell.box)
            held = self._waiting.get(key)
            if logits is not None:
                if not cell.last and held is None:
                    self._waiting[key] = self._patiently(self._room, cell)
                for rows, box in self._chunks(cell.box):
                    scores, weight = self._patiently(self._weighted, box, tile, logits, scale)
                    if held is not None:
                        scores += held.scores[:, rows]
                        weight = weight if held.weight is None else weight + held.weight[rows]
                    if cell.last:
                        self._patiently(self.finish, box, scores.div_(weight) if self._needs_mean else scores)
                    else:
                        self._patiently(self._keep, self._waiting[key], rows, scores, weight)
            elif cell.last:
                for rows, box in self._chunks(cell.box):
                    if held is None:
                        self._patiently(self.finish, box, None)
                    else:
                        scores = held.scores[:, rows].float()
                        self._patiently(self.finish, box, scores if held.weight is None else scores / held.weight[rows])
            if cell.last:
                self._waiting.pop(key, None)

    def to_host(self) -> str | None:
        """Keep what waits in the host's memory from now on; what was done, None if it is there already."""
        if self.device.type == "cpu":
            return None
        self.device = torch.device("cpu")
        self._weight = self._weight.cpu()
        for held in self._waiting.values():
            held.scores = held.scores.cpu()
            held.weight = None if held.weight is None else held.weight.cpu()
        return "scores in the host's memory"

    def _chunks(self, box: Box) -> Iterator[tuple[slice, Box]]:
        """A box in pieces of a few rows: the rows counted from its start, and the piece."""
        start, stop = box[0].start, box[0].stop
        plane = math.prod(side.stop - side.start for side in box[1:])
        step = max(1, chunk_elements(self.device) // (self.classes * plane))
        for row in range(start, stop, step):
            end = min(row + step, stop)
            yield slice(row - start, end - start), (slice(row, end), *box[1:])

    def _weighted(self, box: Box, tile: Tile, logits: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """What a tile says about a part of it, times its weight, and the weight."""
        own = tile.own(box)
        weight = self._weight[own]
        scores = logits[all_classes(own)].to(self.device, torch.float32)
        return scores.mul_(weight if scale is None else weight * scale.to(self.device)), weight

    def _room(self, cell: Cell) -> _Waiting:
        """Memory for a cell."""
        size = [side.stop - side.start for side in cell.box]
        scores = torch.empty(self.classes, *size, dtype=self.dtype, device=self.device)
        return _Waiting(scores, torch.empty(*size, device=self.device) if self._needs_mean else None)

    def _patiently(self, step: Callable, *what: Any) -> Any:
        """Take a step, a second time from the host's memory if the device's runs out."""
        try:
            return step(*what)
        except Exception as error:
            if not is_out_of_memory(error) or self.to_host() is None:
                raise
        return step(*what)

    def _keep(self, held: _Waiting, rows: slice, scores: Tensor, weight: Tensor) -> None:
        held.scores[:, rows] = for_keeping(scores, self.dtype)
        if held.weight is not None:
            held.weight[rows] = weight


def chunk_elements(device: torch.device) -> int:
    """How many scores are worked on at once."""
    return CHUNK_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS_GPU


def for_keeping(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores (classes, ...) as they are kept: in half precision relative to the best class.

    Which class wins depends on differences alone, and near the best class these are small, so half precision holds
    them well.
    """
    return scores if dtype == torch.float32 else (scores - scores.amax(0)).clamp_(min=LOWEST_HALF)


def dtype_for_keeping(elements: int) -> torch.dtype:
    """How precisely so many scores are kept, so that they do not fill the memory."""
    return torch.float32 if 4 * elements <= FULL_PRECISION_BYTES else torch.float16


def kept_bytes(voxels: int, classes: int) -> int:
    """What scores of so many voxels take while they are kept."""
    elements = classes * voxels
    return elements * dtype_for_keeping(elements).itemsize
