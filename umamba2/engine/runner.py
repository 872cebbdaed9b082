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
from umamba2.engine.cpu import activations
from umamba2.engine.crossing import sent
from umamba2.engine.faults import DeviceChanged, NotFinite, is_out_of_memory
from umamba2.engine.gpu import GpuDecoder, swapped_twin
from umamba2.engine.keeping import KeptTile
from umamba2.engine.network import PRECISIONS, ready_network, resolve_precision, true_fp32
from umamba2.engine.subtiles import Network, halved, run_in_subtiles
from umamba2.engine.tiles import mirrors
from umamba2.errors import OutOfMemory
from umamba2.models.folder import Model
from umamba2.nets import ClickTensors, UMamba2
from umamba2.scans import memory
from umamba2.scans.clicks import Clicks, mirrored

MOST_HALVINGS = 6  # of a tile's axes, when memory is short
# Peak activation memory as a multiple of the finest level's feature maps: measured on CPUs, counted for GPUs.
FINEST_MAPS, FINEST_MAPS_GPU = 3.9, 4.3

Warn = Callable[[str], None]
FreeMemory = Callable[[], "str | None"]
AfterPass = Callable[[int], None]


@dataclass(frozen=True)
class Pass:
    """One run of a network over a tile: which fold's network, and along which axes the tile is mirrored."""

    fold: str
    axes: tuple[int, ...]


class Runner:
    """The networks of a model, on their device.

    Args:
        model: What the networks are made of, now and when they have to move or run in fp32.
        device: Where they run; the CPU takes over if there is too little memory.
        dtype: The precision of their convolutions.
        mirror_axes: The axes to average over mirror images of, in the plan's order.
        left_right_pairs: The classes that trade places in an x mirror image. Without any, sides mean nothing to this
            model, and nothing trades places.

    Attributes:
        passes: What a tile gets if there is time for everything. All folds come before the first mirror image, because
            passes are given up from the end.
        batch: How many mirror images run at once.
        halvings: How many times tiles are halved for want of memory.
        warnings: What every case must be told.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        dtype: torch.dtype,
        mirror_axes: Sequence[int],
        left_right_pairs: Sequence[tuple[int, int]] = (),
    ):
        self._model = model
        self.plan, self.num_classes = model.plan, model.num_classes
        self.device, self.dtype = device, dtype
        self.left_right_axis = model.plan.transpose.index(2) if left_right_pairs else None
        self._swap = torch.arange(self.num_classes)  # the class that each class becomes
        for left, right in left_right_pairs:
            self._swap[[left, right]] = torch.tensor([right, left])
        self.warnings: list[str] = []
        self.nets = self._ready()
        net = next(iter(self.nets.values()))
        self.takes_clicks, self.multiple = net.variant.takes_clicks, net.total_stride
        self._width, self._deepest = model.finest_channels, len(net.mamba_layer.norm.weight)
        self.passes = [Pass(fold, axes) for axes in mirrors(mirror_axes) for fold in self.nets]
        self.batch = self._mirror_images_at_once()
        self.halvings = 0
        self._fp32_runner: Runner | None = None

    def logits(
        self,
        tile: Tensor,
        clicks: Clicks | None,
        passes: Sequence[Pass],
        warn: Warn,
        free_memory: FreeMemory = lambda: None,
        after_pass: AfterPass = lambda done: None,
        kept: KeptTile | None = None,
    ) -> Tensor:
        """The mean logits of some passes over a tile: (classes, z, y, x), in fp32 or in the network's own type.

        Where memory runs out, the runner makes do with less from now on and tries this tile again: fewer mirror images
        at once, then what ``free_memory`` can do, smaller sub-tiles, the CPU. Where logits are NaN or infinite, it
        tries this tile again in fp32.

        Args:
            tile: (z, y, x), normalised.
            clicks: Those inside the tile, in its own voxels.
            passes: Some of `passes`.
            warn: Is told what was given up.
            free_memory: Frees memory that others hold, and says what it did; None if there is nothing left to free.
            after_pass: Is told how many of the passes are done.
            kept: What earlier runs over this tile have left for this one.

        Raises:
            DeviceChanged: The networks are on the CPU now; the caller should plan anew and try again.
            NotFinite: The logits are not finite in fp32 either.
            OutOfMemory: Not even the smallest step is possible.
        """
        logits, finite = self._retry_with_less_memory(tile, clicks, passes, warn, free_memory, after_pass, kept)
        if self.dtype != torch.float32 and not finite:
            warn(f"network: found NaN or infinite logits in {_name(self.dtype)}, running that tile again in fp32")
            del logits
            exact = self._in_fp32()
            logits, finite = exact._retry_with_less_memory(tile, clicks, passes, warn, free_memory, after_pass)
        if not finite:
            raise NotFinite
        return logits

    def _retry_with_less_memory(
        self, tile: Tensor, clicks: Clicks | None, passes: Sequence[Pass], warn: Warn, free_memory: FreeMemory,
        after_pass: AfterPass, kept: KeptTile | None = None,
    ) -> tuple[Tensor, bool]:  # fmt: skip
        """The mean logits, and whether they are finite."""
        device = self.device
        while True:
            try:
                logits = self._mean(tile, clicks, passes, after_pass, kept)
                return logits, _finite(logits)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                problem = " ".join(str(error).split())[:100]
            # This stands outside of the handler because the exception holds on to all memory of the failed try.
            given_up = self._step_down(free_memory)
            if given_up is None:
                raise OutOfMemory(f"found too little memory for one tile ({problem})")
            warn(f"memory: found too little ({problem}), going on with {given_up}")
            if self.device != device:
                raise DeviceChanged

    def _step_down(self, free_memory: FreeMemory) -> str | None:
        """Make do with less memory from now on; what that means, None if nothing is left to give up."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch > 1:
            self.batch //= 2
            return f"{self.batch} mirror images at once"
        if done := free_memory() or self.halve():
            return done
        if self.device.type == "cpu":
            return None
        self.nets, self._fp32_runner, self.halvings = {}, None, 0
        self._to_cpu()
        self.nets = self._ready()
        return "the CPU"

    def tile_bytes(self, passes: int) -> int:
        """About how much memory a tile takes on a CPU: activations, logits, and the sum of several passes."""
        tile, subtile = (math.prod(self._smallest_subtile(h)) for h in (0, self.halvings))
        at_work = subtile * max(FINEST_MAPS * self._width, self._width + self.num_classes)
        at_work += tile * self.num_classes * (self.halvings > 0)
        # The Mamba-2 layer counts where a patch is halved seldom: that many numbers, in fp32, for each of its tokens.
        tokens = subtile / math.prod(self.multiple) * (14 * self._deepest + 256)
        return int(at_work * self.dtype.itemsize + 4 * tokens + 4 * tile * self.num_classes * (passes > 1))

    def how(self, passes: int) -> tuple[object, ...]:
        """Whatever decides the logits of a tile beside tile and clicks, as it is now."""
        return self.device.type, self.dtype, self.halvings, tuple(self.passes[:passes])

    def working_bytes(self, images: int = 1) -> int:
        """About how much memory a pass over a tile takes where the networks are, with the sum of several.

        Args:
            images: How many mirror images run at once (on a CPU one).
        """
        if self.device.type == "cpu":
            return self.tile_bytes(1)
        at_work = max(FINEST_MAPS_GPU * self._width, self._width + self.num_classes) * self.dtype.itemsize
        return int(math.prod(self.plan.patch_size) * (images * at_work + 4 * self.num_classes))

    def halve(self) -> str | None:
        """Run tiles in smaller sub-tiles from now on; how many, None if they cannot be smaller."""
        more = self.halvings + 1
        if more > MOST_HALVINGS or self._smallest_subtile(more) == self._smallest_subtile(self.halvings):
            return None
        self.halvings = more
        return f"tiles in {2**self.halvings} pieces"

    def _smallest_subtile(self, halvings: int) -> tuple[int, ...]:
        shape = list(self.plan.patch_size)
        for _ in range(halvings):
            half = halved(shape, self.multiple)
            if half is not None:
                shape[half[0]] = half[1]
        return tuple(shape)

    def _in_fp32(self) -> Runner:
        if self._fp32_runner is None:
            exact = copy(self)
            exact.dtype = torch.float32
            exact.nets = exact._ready()
            self._fp32_runner = exact
        return self._fp32_runner

    def _ready(self) -> dict[str, UMamba2]:
        """The network of every fold on the device, or on the CPU if the device has too little memory for them."""
        self._twins: dict[str, UMamba2] = {}  # those whose classes trade places
        try:
            nets = {}
            for fold, weights in self._model.folds.items():
                nets[fold] = ready_network(self._model, fold, self.device, self.dtype)
                weights.release()  # the network has its own, and five folds are gigabytes
            return nets
        except Exception as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        self.warnings.append(f"memory: found too little for the network on {self.device}, going on with the CPU")
        self._to_cpu()
        return self._ready()

    def _to_cpu(self) -> None:
        self.device = torch.device("cpu")
        if self.dtype != torch.float32:  # what was asked for in fp32 stays in fp32
            self.dtype = resolve_precision("auto", self.device)

    def _mean(
        self, tile: Tensor, clicks: Clicks | None, passes: Sequence[Pass], after_pass: AfterPass, kept: KeptTile | None
    ) -> Tensor:
        done = 0
        tile = tile[None, None].to(self.device, self.dtype)
        total: Tensor | None = None
        for fold, images in groupby(sorted(passes, key=lambda p: p.fold), key=lambda p: p.fold):
            for group in self._groups([p.axes for p in images]):
                seen = _laid_out(torch.cat([_mirrored(tile, a) for a in group]))
                whole = self._network(fold, swapped=self._swaps(group[0]))
                net: Network = whole
                if kept is not None and not self.halvings:
                    how = (fold, tuple(group), self.device.type, self.dtype)
                    spare = (fold, group) != (self.passes[0].fold, [self.passes[0].axes])
                    net = kept.network(whole, how, spare, self.working_bytes())
                with true_fp32(self.dtype):
                    outputs = run_in_subtiles(
                        net, seen, self._click_tensors(clicks, group), self.halvings, self.multiple
                    )
                done += len(group)
                after_pass(done)
                for output, a in zip(torch.unbind(outputs), group):
                    if len(passes) == 1 and not a:
                        return output
                    total = self._add(total, output, a)
                del outputs, output  # or they would still be there beside those of the next images
        assert total is not None
        total /= len(passes)
        return total

    def _add(self, total: Tensor | None, logits: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Add the logits of a mirror image, mirrored back, to the sum of the others."""
        first = total is None
        if total is None:
            total = activations.tensor(logits.shape, torch.float32, logits.device)
        # A few rows at a time, because a mirrored copy of everything would be as large as all else together.
        for rows in _row_slices(logits):
            size = logits.shape[1]
            some = logits[:, slice(size - rows.stop, size - rows.start) if 0 in axes else rows]
            if axes:
                some = some.flip([a + 1 for a in axes])
            if self._swaps(axes) and not self._has_twins():
                some = some[self._swap.to(some.device)]
            if first:
                total[:, rows] = some
            else:
                total[:, rows] += some
        return total

    def _groups(self, axes: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Mirror images that run together, in order; where a twin answers for some, they run apart from the others."""
        for _, images in groupby(axes, key=self._swaps if self._has_twins() else lambda _: False):
            alike = list(images)
            for start in range(0, len(alike), self.batch):
                yield alike[start : start + self.batch]

    def _swaps(self, axes: tuple[int, ...]) -> bool:
        """Whether left and right trade places in a mirror image."""
        return self.left_right_axis is not None and self.left_right_axis in axes

    def _has_twins(self) -> bool:
        """Whether a network gives its classes in the order of a mirror image, so that no logits are moved for that."""
        return isinstance(getattr(next(iter(self.nets.values())), "decoder", None), GpuDecoder)

    def _network(self, fold: str, swapped: bool) -> UMamba2:
        if not (swapped and self._has_twins()):
            return self.nets[fold]
        if fold not in self._twins:
            self._twins[fold] = swapped_twin(self.nets[fold], self._swap)
        return self._twins[fold]

    def _click_tensors(self, clicks: Clicks | None, images: Sequence[tuple[int, ...]]) -> ClickTensors | None:
        """The clicks on a tile in each of its mirror images, as a batch."""
        if not self.takes_clicks or clicks is None:
            return None
        seen = [mirrored(clicks, axes, self.plan.patch_size, self.left_right_axis) for axes in images]
        return ClickTensors(
            sent(torch.from_numpy(np.stack([c.coordinates for c in seen]).astype(np.float32)), self.device),
            sent(torch.from_numpy(np.stack([c.labels for c in seen]).astype(np.int64)), self.device),
        )

    def _mirror_images_at_once(self) -> int:
        """As many as half of a GPU's free memory should hold; a CPU gains nothing from more than one."""
        if self.device.type != "cuda":
            return 1
        room, most = memory.free_on_gpu(self.device) / 2, len(self.passes) // len(self.nets)
        return max((images for images in range(1, most + 1) if self.working_bytes(images) <= room), default=1)


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
