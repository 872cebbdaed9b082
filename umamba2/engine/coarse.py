"""An answer for the whole volume from one pass: for when there is no time for tile after tile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from umamba2.engine.budget import Budget
from umamba2.engine.faults import DeviceChanged
from umamba2.engine.runner import Runner
from umamba2.engine.tiles import Box
from umamba2.scans.clicks import Clicks


class CoarseLook:
    """The network's logits of the whole volume, squeezed to the size of a tile or less.

    Args:
        runner: The networks.
        volume: (z, y, x), normalised, at least as large as a tile.
        clicks: Those on the volume.
        budget: The time that is left; it is told how fast the network is.
        warn: Is told what the runner gave up.
    """

    def __init__(
        self, runner: Runner, volume: Tensor, clicks: Clicks | None, budget: Budget, warn: Callable[[str], None]
    ):
        self.runner, self.volume, self.budget, self.warn = runner, volume, budget, warn
        self.patch = tuple(runner.plan.patch_size)
        if clicks is not None:  # the point encoder takes any image for one of the patch's size
            scale = np.array(self.patch) / np.array(volume.shape)
            clicks = Clicks((clicks.coordinates + 0.5) * scale - 0.5, clicks.labels)
        self.clicks = clicks
        self._coarse_logits: Tensor | None = None
        self._refined = False

    def measure_speed(self) -> None:
        """Take a first look, and see how fast the network is, before there is a plan.

        The first and coarsest look is taken even if no time is left: without it there would be no answer at all.
        """
        pace = 0.0
        for size in dict.fromkeys(self._part_of_patch(parts) for parts in (4, 2)):
            ratio = math.prod(size) / math.prod(self.patch)
            if self._coarse_logits is not None and self.budget.left < 2 * pace * ratio:
                break
            # A failure will be met again by the first tile, where it is taken care of.
            with suppress(Exception):
                for _ in range(2):  # the first time also wakes the device up
                    began = time.monotonic()
                    self._predict_coarse(size)
                    seconds = time.monotonic() - began
                    pace = seconds / ratio
                    if self.budget.left < seconds:
                        break
        if pace:
            self.budget.spent(1, pace)

    def refine(self) -> None:
        """Look once more, in as much detail as one pass can show, if there is time for that pass."""
        if not self._refined and self.budget.left >= self.budget.pace:
            self._refined = True
            with suppress(Exception):  # the look that there is will do
                self._predict_coarse(self.patch)

    def part(self, box: Box) -> Tensor | None:
        """The coarse logits of a part of the volume at its full resolution, (classes, z, y, x); None without a look."""
        logits = self._coarse_logits
        if logits is None:
            return None
        for axis, (side, size) in enumerate(zip(box, self.volume.shape), start=1):
            at = (torch.arange(side.start, side.stop) + 0.5) * (logits.shape[axis] / size)
            logits = logits.index_select(axis, at.long())
        return logits

    def _predict_coarse(self, size: tuple[int, ...]) -> None:
        """Run one pass over the whole volume, every voxel of which is the mean of what it stands for."""
        squeezed = F.adaptive_avg_pool3d(self.volume[None, None].float(), list(size))[0, 0]  # type: ignore[arg-type]

        def look() -> Tensor:
            # A copy on the host: memory for activations is for what dies with its tile, and a GPU's for the tiles.
            return self.runner.logits(squeezed, self.clicks, self.runner.passes[:1], self.warn).to("cpu", copy=True)

        try:
            self._coarse_logits = look()
        except DeviceChanged:
            self._coarse_logits = look()

    def _part_of_patch(self, parts: int) -> tuple[int, ...]:
        """About so small a part of the patch along every axis."""
        return tuple(math.ceil(n / parts / m) * m for n, m in zip(self.patch, self.runner.multiple))
