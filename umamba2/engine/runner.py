"""The networks at work on one tile: folds and mirror images, and what happens when memory or numbers run out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from umamba2.engine.blend import chunk_elements
from umamba2.engine.cpu import arena
from umamba2.engine.faults import Moved, NotFinite, is_out_of_memory
from umamba2.engine.network import PRECISIONS, ready_network, resolve_precision
from umamba2.engine.pieces import cut, in_pieces
from umamba2.engine.tiles import mirrors
from umamba2.models.folder import Model, load_model
from umamba2.nets.umamba2 import UMamba2
from umamba2.scans.clicks import Clicks, mirrored

MOST_HALVINGS = 6  # of a tile's axes, when memory is short
BYTES_PER_VOXEL = 16  # that one feature map of the finest level takes at the network's widest, in copies of 2 bytes
FINEST_MAPS = 3.3  # so many features of the finest level there are at once on a CPU, coarser ones included


@dataclass(frozen=True)
class Pass:
    """One run of a network over a tile: which fold's, on which mirror image."""

    fold: str
    axes: tuple[int, ...]


class Runner:
    """The networks of a model, on their device.

    ``swap`` is the class that each class becomes in an image mirrored along ``left_right_axis`` (None: none does).
    """

    def __init__(
        self, model: Model, device: torch.device, dtype: torch.dtype, mirror_axes: Sequence[int], swap: Sequence[int],
        left_right_axis: int | None,
    ):  # fmt: skip
        self.plan, self.folder, self.num_classes = model.plan, model.folder, model.num_classes
        self.device, self.dtype, self.left_right_axis = device, dtype, left_right_axis
        self.warnings: list[str] = []  # for every case
        self.nets = self._ready(model)
        net = next(iter(self.nets.values()))
        self.takes_clicks, self.multiple = net.variant.takes_clicks, net.total_stride
        self._width = next(net.parameters()).shape[0]  # channels of the finest level
        # All folds come before the first mirror image: mirror images are the first to be given up.
        self.passes = [Pass(fold, axes) for axes in mirrors(mirror_axes) for fold in self.nets]
        self.batch = self._mirror_images_at_once(model)
        self.halvings = 0
        self._exact: Runner | None = None
        self._swap = torch.tensor(swap)

    def logits(
        self,
        tile: Tensor,
        clicks: Clicks | None,
        passes: Sequence[Pass],
        warn: Callable[[str], None],
        spare: Callable[[], str | None] = lambda: None,
    ) -> Tensor:
        """Mean logits over some passes: (z, y, x) -> (classes, z, y, x), in fp32 or the network's own type.

        Where memory runs out, steps down for good and tries this tile again: fewer mirror images at once, then what
        ``spare`` can free (it says what it did, None if nothing is left), smaller pieces, the CPU (raises Moved: it is
        for the caller to try again). Where numbers run out, tries again in fp32. ``warn`` is told of either. Raises
        NotFinite, and whatever cannot be helped.
        """
        logits = self._patiently(tile, clicks, passes, warn, spare)
        if self.dtype != torch.float32 and not _finite(logits):
            warn(f"network: found NaN or infinite logits in {_name(self.dtype)}, running that tile again in fp32")
            del logits
            logits = self._in_fp32()._patiently(tile, clicks, passes, warn, spare)
        if not _finite(logits):
            raise NotFinite
        return logits

    def _patiently(self, tile, clicks, passes, warn, spare) -> Tensor:
        device = self.device
        while True:
            try:
                return self._mean(tile, clicks, passes)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                problem = " ".join(str(error).split())[:100]
            # Out here, because the exception holds on to everything that the failed try had in memory.
            step = self._step_down(spare)
            if step is None:
                raise MemoryError(f"found too little memory for one tile ({problem})")
            warn(f"memory: found too little ({problem}), going on with {step}")
            if self.device != device:
                raise Moved

    def _step_down(self, spare: Callable[[], str | None]) -> str | None:
        """Make do with less memory from now on; what was given up, None if nothing is left."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch > 1:
            self.batch //= 2
            return f"{self.batch} mirror images at once"
        freed = spare()
        if freed:
            return freed
        if smaller := self.halve():
            return smaller
        if self.device.type != "cpu":
            folds, self.nets, self._exact, self.halvings = set(self.nets), {}, None, 0
            self._to_cpu()
            self.nets = self._ready(load_model(self.folder, folds))
            return "the CPU"
        return None

    def tile_bytes(self, passes: int) -> int:
        """What a tile takes on a CPU, about: activations, logits, and the sum of several passes."""
        tile, piece = (math.prod(self._smallest_piece(h)) for h in (0, self.halvings))
        at_work = piece * max(FINEST_MAPS * self._width, self._width + self.num_classes)
        at_work += tile * self.num_classes * (self.halvings > 0)
        return int(at_work * self.dtype.itemsize + 4 * tile * self.num_classes * (passes > 1))

    def halve(self) -> str | None:
        """Run tiles in smaller pieces from now on; how many, None if they cannot be smaller."""
        more = self.halvings + 1
        if more > MOST_HALVINGS or self._smallest_piece(more) == self._smallest_piece(self.halvings):
            return None
        self.halvings = more
        return f"tiles in {2**self.halvings} pieces"

    def _in_fp32(self) -> Runner:
        if self._exact is None:
            exact = copy(self)
            exact.dtype = torch.float32
            exact.nets = exact._ready(load_model(self.folder, set(self.nets)))
            self._exact = exact
        return self._exact

    def _ready(self, model: Model) -> dict[str, UMamba2]:
        """The networks of a model on the device, or on the CPU if there is no room for them."""
        try:
            return {fold: ready_network(model, fold, self.device, self.dtype) for fold in model.folds}
        except Exception as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        self.warnings.append(f"memory: found too little for the network on {self.device}, going on with the CPU")
        self._to_cpu()
        return self._ready(model)

    def _to_cpu(self) -> None:
        self.device = torch.device("cpu")
        if self.dtype != torch.float32:  # as exact as it was
            self.dtype = resolve_precision("auto", self.device)

    def _smallest_piece(self, halvings: int) -> tuple[int, ...]:
        shape = list(self.plan.patch_size)
        for _ in range(halvings):
            part = cut(shape, self.multiple)
            if part is not None:
                shape[part[0]] = part[1]
        return tuple(shape)

    def _mean(self, tile: Tensor, clicks: Clicks | None, passes: Sequence[Pass]) -> Tensor:
        tile = tile[None, None].to(self.device, self.dtype)
        total = None
        for fold, images in groupby(sorted(passes, key=lambda p: p.fold), key=lambda p: p.fold):
            axes = [p.axes for p in images]
            for start in range(0, len(axes), self.batch):
                group = axes[start : start + self.batch]
                seen = torch.cat([_mirrored(tile, a) for a in group])
                outputs = in_pieces(
                    self.nets[fold], _laid_out(seen), self._prompt(clicks, group), self.halvings, self.multiple
                )
                for output, a in zip(outputs, group):
                    if len(passes) == 1 and not a:
                        return output
                    total = self._add(total, output, a)
        return total.div_(len(passes))  # type: ignore[union-attr]

    def _add(self, total: Tensor | None, logits: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Add the logits of a mirror image, mirrored back, to those of the others."""
        first = total is None
        if total is None:
            total = arena.empty(logits.shape, torch.float32, logits.device)
        # In portions, because a mirrored copy of everything would be as large as all else together.
        for rows in _row_slices(logits):
            size = logits.shape[1]
            source = slice(size - rows.stop, size - rows.start) if 0 in axes else rows
            piece = logits[:, source]
            if axes:
                piece = piece.flip([a + 1 for a in axes])
            if self.left_right_axis is not None and self.left_right_axis in axes:
                piece = piece[self._swap.to(piece.device)]
            if first:
                total[:, rows] = piece
            else:
                total[:, rows] += piece
        return total

    def _prompt(self, clicks: Clicks | None, images: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor] | None:
        """The clicks of a tile in each of its mirror images, as a batch."""
        if not self.takes_clicks or clicks is None:
            return None
        seen = [mirrored(clicks, axes, self.plan.patch_size, self.left_right_axis) for axes in images]
        return (
            torch.from_numpy(np.stack([c.coordinates for c in seen]).astype(np.float32)).to(self.device),
            torch.from_numpy(np.stack([c.labels for c in seen]).astype(np.int64)).to(self.device),
        )

    def _mirror_images_at_once(self, model: Model) -> int:
        """As many as half of a GPU's free memory should hold; a CPU gains nothing from more than one."""
        if self.device.type != "cuda":
            return 1
        free, _ = torch.cuda.mem_get_info(self.device)
        one = int(np.prod(self.plan.patch_size)) * (BYTES_PER_VOXEL * self._width + 8 * model.num_classes)
        return int(np.clip(free // 2 // one, 1, max(1, len(self.passes) // len(self.nets))))


def _mirrored(tile: Tensor, axes: Sequence[int]) -> Tensor:
    return tile.flip([axis + 2 for axis in axes]) if axes else tile


def _laid_out(x: Tensor) -> Tensor:
    # The layout of the network's weights, see `ready_network`.
    return x.contiguous(memory_format=torch.channels_last_3d if x.device.type == "cpu" else torch.contiguous_format)


def _row_slices(logits: Tensor) -> Iterator[slice]:
    step = max(1, chunk_elements(logits.device) // logits[:, :1].numel())
    for row in range(0, logits.shape[1], step):
        yield slice(row, min(row + step, logits.shape[1]))


def _name(dtype: torch.dtype) -> str:
    return next(name for name, value in PRECISIONS.items() if value is dtype)


def _finite(logits: Tensor) -> bool:
    # NaN counts as smallest and as largest. A sum in fp32 takes 25 times longer where logits are bf16.
    return bool(torch.stack(torch.aminmax(logits)).isfinite().all())
