"""The sliding window over one prepared scan: tile after tile into labels, in the time and memory there is."""

from __future__ import annotations

import math
import time
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from umamba2.engine import coarse, memory
from umamba2.engine.blend import Accumulator, kept_bytes
from umamba2.engine.budget import Budget
from umamba2.engine.cpu import arena
from umamba2.engine.faults import Moved, NotFinite, is_out_of_memory
from umamba2.engine.labelmap import OtherGrid, SameGrid
from umamba2.engine.preprocess import Prepared
from umamba2.engine.record import Record
from umamba2.engine.runner import Runner
from umamba2.engine.tiles import Box, Sweep, Tile, padding
from umamba2.errors import InputError, Terminated
from umamba2.messages import unexpected
from umamba2.scans.clicks import Clicks

STEPS = tuple(n / 20 for n in range(1, 21))  # of a patch: the wider ones are what time pressure may choose
SPARE_BYTES = 2**29  # of the host's memory: for the labels, and what is worked on at once
AIR_TOLERANCE = 1e-3  # of the training data's deviation, about one HU: resampling leaves that much


class SlidingWindow:
    """Segments one scan. What is given up on the way goes into the record.

    All passes of a tile are done before the next one, because what is finished is all that there may be in the end.
    """

    def __init__(self, runner: Runner, blend: str, budget: Budget, record: Record, progress: bool = False):
        self.runner, self.blend, self.budget, self.record, self.progress = runner, blend, budget, record, progress
        self.patch = tuple(runner.plan.patch_size)
        self._failure: BaseException | None = None  # after it the network is left alone
        self._overview: Tensor | None = None  # coarse logits of the whole volume
        self._refined = False

    def labels(self, prepared: Prepared, clicks: Clicks | None, step: float) -> np.ndarray:
        """Label a prepared scan: uint8, of the shape of its box. ``clicks`` are on the prepared grid.

        Raises whatever kept every single tile from getting an answer.
        """
        shape = tuple(prepared.tensor.shape[1:])
        pads = padding(shape, self.patch)
        volume = prepared.tensor[0]
        if any(before or after for before, after in pads):
            volume = F.pad(volume, [n for pad in reversed(pads) for n in pad])
        if clicks is not None:
            clicks = Clicks(clicks.coordinates + np.array([before for before, _ in pads]), clicks.labels)
        volume = self._at_hand(volume)
        same_grid, lead = shape == prepared.box_shape, prepared.separate_axis or 0
        if self.budget.deadline is not None:
            self._survey(volume, clicks)
        sweep = self._sweep(tuple(volume.shape), step, None if same_grid else lead)
        classes = self.runner.num_classes
        device = self._score_device(kept_bytes(sweep.waiting, classes))
        target: SameGrid | OtherGrid
        if same_grid:
            target = SameGrid(shape, pads, device)
        else:
            nearest = prepared.separate_axis is not None
            target = OtherGrid(shape, pads, prepared.box_shape, lead, nearest, sweep.rows(), classes, device)
        self.record.grid, self.record.tile_step = shape, sweep.step
        scores = Accumulator(sweep, self.patch, classes, self.blend, same_grid, device, target.finish)
        self._fill(scores, volume, clicks)
        return target.labels.cpu().numpy()

    def _fill(self, scores: Accumulator, volume: Tensor, clicks: Clicks | None) -> None:
        """Run all tiles into the accumulator."""
        tiles, record = scores.sweep.tiles, self.record
        lowest = volume.min()
        air = [bool(volume[tile.box].max() <= lowest + AIR_TOLERANCE) for tile in tiles]
        record.tiles, record.tiles_of_air = len(tiles), sum(air)
        left = len(tiles) - sum(air)
        for tile, empty in zip(tqdm(tiles, "tiles", disable=not self.progress, leave=False), air):
            if empty:
                scores.add(tile, None)
                continue
            began, passes = time.monotonic(), self.budget.passes(left)
            logits, passes = self._answer(tile, volume, clicks, passes, left, scores)
            answered = time.monotonic()
            try:
                scores.add(tile, logits)
            except (Exception, Terminated) as error:
                # What waits for later tiles is in disorder now, but what is finished stands.
                record.warn(f"blending: found {unexpected(error)}, expected scores; no tile is run after that")
                self._failure = error
                record.tiles_lost += left
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

    def _answer(
        self, tile: Tile, volume: Tensor, clicks: Clicks | None, passes: int, left: int, scores: Accumulator
    ) -> tuple[Tensor | None, int]:
        """The logits of a tile, from so many passes or else from the overview, and from how many passes they are;
        None if it gets none. ``left`` is how many tiles have no answer yet."""
        while passes and self._failure is None:
            try:
                seen = volume[tile.box], _inside(clicks, tile.box), self.runner.passes[:passes]
                return self.runner.logits(*seen, self.record.warn, scores.to_host), passes
            except Moved:
                self.budget.forget()
                if self.budget.deadline is not None:
                    self._survey(volume, clicks)
                    passes = min(passes, self.budget.passes(left))
            except NotFinite as error:
                self.record.warn(str(error))
                break
            except (Exception, Terminated) as error:
                self._failure = error
                self.record.warn(f"network: found {unexpected(error)}, expected an answer; no tile is run after that")
        if not (passes or self._refined or self._failure) and self.budget.left >= self.budget.pace:
            self._refined = True
            with suppress(Exception):  # the one that there is will do
                self._overview = self._look(volume, clicks, self.patch)
        return None if self._overview is None else coarse.part(self._overview, volume.shape, tile.box), 0

    def _survey(self, volume: Tensor, clicks: Clicks | None) -> None:
        """Before there is a plan, have an answer for everything at once, and see how fast the network is.

        The first and coarsest look is taken even if no time is left: without it there would be no answer at all.
        """
        pace = 0.0
        for size in dict.fromkeys(self._part_of_patch(parts) for parts in (4, 2)):
            ratio = math.prod(size) / math.prod(self.patch)
            if self._overview is not None and self.budget.left < 2 * pace * ratio:
                break
            # A failure will be met again by the first tile, where it is taken care of.
            with suppress(Exception):
                for _ in range(2):  # the first time also wakes the device up
                    began = time.monotonic()
                    self._overview = self._look(volume, clicks, size)
                    seconds = time.monotonic() - began
                    pace = seconds / ratio
                    if self.budget.left < seconds:
                        break
        if pace:
            self.budget.spent(1, pace)

    def _look(self, volume: Tensor, clicks: Clicks | None, size: tuple[int, ...]) -> Tensor:
        """The logits of the whole volume from one pass over it, squeezed to a size."""
        seen = coarse.squeezed(volume, size), coarse.squeezed_clicks(clicks, volume.shape, self.patch)

        def look() -> Tensor:  # a copy, because the memory of tiles is for what dies with its tile
            return self.runner.logits(*seen, self.runner.passes[:1], self.record.warn).clone()

        with suppress(Moved):
            return look()
        return look()

    def _sweep(self, shape: tuple[int, ...], step: float, outer: int | None) -> Sweep:
        """The tiles as asked for, or with less overlap where there is no time or no memory for that."""
        sweeps = [Sweep(shape, self.patch, s, outer) for s in (step, *(s for s in STEPS if s > step))]
        # Of those with the same tiles the one with the smallest step.
        sweeps = list({len(s.tiles): s for s in reversed(sweeps)}.values())[::-1]
        quick = [s for s in sweeps if self.budget.affords(len(s.tiles))] or sweeps[-1:]
        if quick[0] is not sweeps[0]:
            self.record.warn(f"time: found too little for {_named(sweeps[0])}, going on with {_named(quick[0])}")
        return self._in_memory(quick, shape, outer) if self.runner.device.type == "cpu" else quick[0]

    def _in_memory(self, sweeps: list[Sweep], shape: tuple[int, ...], outer: int | None) -> Sweep:
        """The first for which the host has the memory, or the last, with tiles in pieces if need be.

        Where memory runs out there is no error to wait for: the process is killed.
        """
        arena.release()
        room, halvings = memory.available() - SPARE_BYTES, self.runner.halvings
        needed = self._bytes(sweeps[0], shape, outer)
        while not (fitting := [s for s in sweeps if self._bytes(s, shape, outer) <= room]) and self.runner.halve():
            pass
        sweep = (fitting or sweeps[-1:])[0]
        if sweep is not sweeps[0] or self.runner.halvings > halvings:
            found = f"found {max(room, 0) / 1e9:.1f} GB, expected {needed / 1e9:.1f} GB for {_named(sweeps[0])}"
            pieces = f", each in {2**self.runner.halvings} pieces" if self.runner.halvings > halvings else ""
            self.record.warn(f"memory: {found}, going on with {_named(sweep)}{pieces}")
        return sweep

    def _bytes(self, sweep: Sweep, shape: tuple[int, ...], outer: int | None) -> int:
        """What a tile and all scores that are kept take at most on a CPU, about."""
        rows = 0 if outer is None else max(b - a for a, b in sweep.rows())  # of a slab that waits for resampling
        slab = rows * math.prod(shape) // shape[outer or 0]
        kept = sum(kept_bytes(voxels, self.runner.num_classes) for voxels in (sweep.waiting, slab))
        return kept + self.runner.tile_bytes(len(self.runner.passes))

    def _part_of_patch(self, parts: int) -> tuple[int, ...]:
        """About so small a part of the patch along every axis."""
        return tuple(math.ceil(n / parts / m) * m for n, m in zip(self.patch, self.runner.multiple))

    def _at_hand(self, volume: Tensor) -> Tensor:
        """The volume on the network's device, or where it is if there is no room."""
        try:
            return volume.to(self.runner.device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.record.warn("memory: found too little for the scan on the device, going on with it in the host's")
            return volume

    def _score_device(self, size: int) -> torch.device:
        """Where scores wait: on the GPU if they take less than half of what is free there."""
        device = self.runner.device
        if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] / 2:
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


def _named(sweep: Sweep) -> str:
    return f"{len(sweep.tiles)} tiles (tile step {sweep.step})"
