"""The sliding window over one prepared scan: tile after tile into labels, in the time and memory there is."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from umamba2.engine.blend import Accumulator, score_bytes
from umamba2.engine.budget import Budget
from umamba2.engine.coarse import CoarseLook
from umamba2.engine.cpu import activations
from umamba2.engine.faults import DeviceChanged, NotFinite, is_out_of_memory
from umamba2.engine.keeping import RESERVED_BYTES, Keeper, make_room
from umamba2.engine.labelmap import OtherGrid, SameGrid
from umamba2.engine.preprocess import Prepared
from umamba2.engine.progress import Progress, Watch
from umamba2.engine.record import Record
from umamba2.engine.runner import Runner
from umamba2.engine.tiles import Box, Sweep, Tile, padding
from umamba2.errors import InputError, Terminated
from umamba2.messages import unexpected
from umamba2.scans import memory
from umamba2.scans.clicks import Clicks

STEPS = tuple(n / 20 for n in range(1, 21))  # of a patch: the wider ones are what time pressure may choose
AIR_TOLERANCE = 1e-3  # in the training data's standard deviations, about 1 HU: how far resampling moves constant air


class SlidingWindow:
    """Segments one scan. What is given up on the way goes into the record.

    All passes of a tile are done before the next tile, because only finished tiles count if time or memory runs out.

    Args:
        runner: The networks.
        prepared: The scan on the network's grid.
        clicks: Those on that grid.
        blend: One of `Accumulator.METHODS`.
        budget: The time that is left.
        record: Takes the numbers and the warnings.
        progress: Show a bar over the tiles.
        watch: Is told of every pass, and may stop the work by raising something.
        keeper: Has what was found in this scan with other clicks, and takes what is found now.
    """

    def __init__(
        self, runner: Runner, prepared: Prepared, clicks: Clicks | None, blend: str, budget: Budget, record: Record,
        progress: bool = False, watch: Watch | None = None, keeper: Keeper | None = None,
    ):  # fmt: skip
        self.runner, self.prepared, self.blend = runner, prepared, blend
        self.budget, self.record, self.progress = budget, record, progress
        self.watched, self.keeper = Progress(watch), keeper
        self.patch = tuple(runner.plan.patch_size)
        self.shape = tuple(prepared.tensor.shape[1:])
        self.pads = padding(self.shape, self.patch)
        if clicks is not None:
            clicks = Clicks(clicks.coordinates + np.array([before for before, _ in self.pads]), clicks.labels)
        self.clicks = clicks
        volume = prepared.tensor[0]
        if any(before or after for before, after in self.pads):
            volume = F.pad(volume, [n for pad in reversed(self.pads) for n in pad])
        self._on_host = volume
        self.volume = self._to_device_if_it_fits(volume)
        self.coarse = CoarseLook(runner, self.volume, clicks, budget, record.warn)
        # The first failure that cannot be helped; once there is one, no more tiles are run.
        self._failure: BaseException | None = None

    def labels(self, step: float) -> npt.NDArray[np.uint8]:
        """Label the scan: uint8, of the shape of its box.

        Args:
            step: The distance of tiles as a fraction of the patch.

        Raises:
            Exception: Whatever kept every single tile from getting an answer.
        """
        prepared, classes = self.prepared, self.runner.num_classes
        same_grid, lead = self.shape == prepared.box_shape, prepared.separate_axis or 0
        if self.budget.deadline is not None:
            try:
                self.coarse.measure_speed()
            except Terminated as error:
                self._stop(error)
        sweep = self._plan(step, None if same_grid else lead)
        device = self._score_device(score_bytes(sweep.pending_voxels, classes))
        target: SameGrid | OtherGrid
        if same_grid:
            target = SameGrid(self.shape, self.pads)
        else:
            nearest = prepared.separate_axis is not None
            target = OtherGrid(self.shape, self.pads, prepared.box_shape, lead, nearest, sweep.rows(), classes, device)
        self.record.grid, self.record.tile_step = self.shape, sweep.step
        self._fill(Accumulator(sweep, self.patch, classes, self.blend, same_grid, device, target.finish))
        if problem := target.landing.land():
            self.record.warn(f"labels: found {problem} that never came from the device, expected all; background there")
            self.record.tiles_lost = max(1, self.record.tiles_lost)
        return target.labels.numpy()

    def _fill(self, scores: Accumulator) -> None:
        """Run all tiles into the accumulator."""
        tiles, record, lowest = scores.sweep.tiles, self.record, self._on_host.min()
        air = [bool(self._on_host[tile.box].max() <= lowest + AIR_TOLERANCE) for tile in tiles]
        record.tiles, record.tiles_of_air = len(tiles), sum(air)
        left = len(tiles) - sum(air)  # tiles without an answer
        todo = [tile for tile, empty in zip(tiles, air) if not empty and self._kept_answer(tile) is None]
        if self.keeper is not None:
            self.keeper.need(_place(tile) for tile in todo)
        self.watched.expect(len(todo) * self.budget.asked)
        for tile, empty in zip(tqdm(tiles, "tiles", disable=not self.progress, leave=False), air):
            if empty:
                scores.add(tile, None)
                continue
            began = time.monotonic()
            logits, passes = self._kept_answer(tile), self.budget.asked
            if logits is None:
                logits, passes = self._answer(tile, left, scores)
                self.watched.tile(self.budget.asked)
            answered = time.monotonic()
            try:
                scores.add(tile, logits)
            except (Exception, Terminated) as error:
                # The sums that are kept for later tiles are in disorder now, but what is finished stands.
                record.warn(f"blending: found {unexpected(error)}, expected scores; no tile is run after that")
                self._failure = error
                record.tiles_lost += left
                record.stopped = True
                break
            left -= 1
            if logits is None:
                record.tiles_lost += 1
            elif passes:
                record.passes_done.append(passes)
                self.budget.spent(passes, answered - began, time.monotonic() - answered)
            else:
                record.tiles_coarse += 1
            del logits  # or they would still be there beside those of the next tile
        record.sum_up()
        if record.tiles_lost and record.tiles_lost == len(tiles) - sum(air):
            raise self._failure or InputError("; ".join(record.warnings))

    def _answer(self, tile: Tile, left: int, scores: Accumulator) -> tuple[Tensor | None, int]:
        """The logits of a tile and how many passes they are the mean of; 0 means that they are the coarse look's.

        Args:
            tile: The next one.
            left: How many tiles have no answer yet, this one included.
            scores: Can free memory on the device.

        Returns:
            (classes, z, y, x), or None without any answer, and the number of passes.
        """
        passes, device_changed = self.budget.passes(left), False
        while self._failure is None:
            try:
                if device_changed:
                    self.budget.forget()
                    if self.budget.deadline is not None:
                        self.coarse.measure_speed()
                        passes = min(passes, self.budget.passes(left))
                    device_changed = False
                if passes:
                    clicks = _inside(self.clicks, tile.box)
                    tile_passes = self.runner.passes[:passes]
                    logits = self.runner.logits(
                        self.volume[tile.box], clicks, tile_passes, self.record.warn,
                        partial(self._free_memory, scores),
                        self.watched.passes_of_tile, None if self.keeper is None else self.keeper.tile(_place(tile)),
                    )  # fmt: skip
                    if self.keeper is not None and passes == 1:
                        how = self.runner.how(passes)
                        self.keeper.keep_answer(_place(tile), how, clicks, logits, self.runner.working_bytes())
                    return logits, passes
                self.coarse.refine()
                break
            except DeviceChanged:
                device_changed = True
            except NotFinite as error:
                self.record.warn(str(error))
                break
            except (Exception, Terminated) as error:
                if error is self.watched.stopped:
                    raise
                self._stop(error)
        return self.coarse.part(tile.box), 0

    def _free_memory(self, scores: Accumulator) -> str | None:
        """Free memory on the networks' device; what was done, None if there is nothing left to free."""
        if self.keeper is not None and self.keeper.bytes:
            self.keeper.clear()
            return "nothing kept from earlier clicks"
        return scores.to_host()

    def _kept_answer(self, tile: Tile) -> Tensor | None:
        if self.keeper is None or self.budget.asked > 1:
            return None
        return self.keeper.answer(_place(tile), self.runner.how(1), _inside(self.clicks, tile.box))

    def _stop(self, error: BaseException) -> None:
        self._failure = error
        self.record.stopped = True
        self.record.warn(f"network: found {unexpected(error)}, expected an answer; no tile is run after that")

    def _plan(self, step: float, outer: int | None) -> Sweep:
        """The tiles as asked for, or with less overlap where there is no time or no memory for that.

        ``outer`` is the axis along which rows of tiles are finished one after the other; None: any order will do.
        """
        shape = tuple(self.volume.shape)
        sweeps = [Sweep(shape, self.patch, s, outer) for s in (step, *(s for s in STEPS if s > step))]
        # Of those with the same tiles the one with the smallest step.
        sweeps = list({len(s.tiles): s for s in reversed(sweeps)}.values())[::-1]
        affordable = [s for s in sweeps if self.budget.affords(len(s.tiles))] or sweeps[-1:]
        if affordable[0] is not sweeps[0]:
            found = f"found too little for {_named(sweeps[0])}"
            self.record.warn(f"time: {found}, going on with {_named(affordable[0])}")
        return self._fitting(affordable, outer) if self.runner.device.type == "cpu" else affordable[0]

    def _fitting(self, sweeps: list[Sweep], outer: int | None) -> Sweep:
        """The first for which the host has the memory, or the last, with tiles in sub-tiles if need be.

        Where a host's memory runs out no error is raised: the process is killed.
        """
        activations.release()
        make_room(self._host_bytes(sweeps[0], outer) + RESERVED_BYTES)
        room, halvings = memory.available() - RESERVED_BYTES, self.runner.halvings
        needed = self._host_bytes(sweeps[0], outer)
        while not (fitting := [s for s in sweeps if self._host_bytes(s, outer) <= room]) and self.runner.halve():
            pass
        sweep = (fitting or sweeps[-1:])[0]
        if sweep is not sweeps[0] or self.runner.halvings > halvings:
            found = f"found {max(room, 0) / 1e9:.1f} GB, expected {needed / 1e9:.1f} GB for {_named(sweeps[0])}"
            pieces = f", each in {2**self.runner.halvings} pieces" if self.runner.halvings > halvings else ""
            self.record.warn(f"memory: {found}, going on with {_named(sweep)}{pieces}")
        return sweep

    def _host_bytes(self, sweep: Sweep, outer: int | None) -> int:
        """About how much memory a tile and all scores that are kept take at most on a CPU."""
        most = 0 if outer is None else max(stop - start for start, stop in sweep.rows())  # kept until it is resampled
        rows = most * math.prod(self.volume.shape) // self.volume.shape[outer or 0]
        kept = sum(score_bytes(voxels, self.runner.num_classes) for voxels in (sweep.pending_voxels, rows))
        return kept + self.runner.tile_bytes(self.budget.asked)

    def _to_device_if_it_fits(self, volume: Tensor) -> Tensor:
        """The volume on the networks' device, or where it is if there is too little memory."""
        try:
            return volume.to(self.runner.device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.record.warn("memory: found too little for the scan on the device, going on with it in the host's")
            return volume

    def _score_device(self, size: int) -> torch.device:
        """Where scores are kept: on the GPU if so many bytes are less than half of what is free there."""
        device = self.runner.device
        if device.type == "cuda" and size > memory.free_on_gpu(device) / 2:
            return torch.device("cpu")
        return device


def _inside(clicks: Clicks | None, box: Box) -> Clicks | None:
    """The clicks that fall into a part of the volume, relative to its corner."""
    if clicks is None:
        return None
    local = clicks.coordinates - np.array([side.start for side in box])
    size = np.array([side.stop - side.start for side in box])
    keep = ((local >= -0.5) & (local < size - 0.5)).all(axis=1)
    return Clicks(local[keep], clicks.labels[keep])


def _place(tile: Tile) -> tuple[int, ...]:
    """Tells a tile of a volume from all others, of other sweeps too."""
    return tuple(side.start for side in tile.box)


def _named(sweep: Sweep) -> str:
    return f"{len(sweep.tiles)} tiles (tile step {sweep.step})"
