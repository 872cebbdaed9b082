"""What was done for a case, and what was given up: numbers for the log and for run.json."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Record:
    """One case. A pass is one run of a network over a tile, one for each fold and mirror image."""

    grid: tuple[int, ...] = ()  # of the network, (z, y, x)
    tiles: int = 0
    tiles_of_air: int = 0  # left out
    tiles_coarse: int = 0  # answered from the coarse look alone, for want of time or after a failure
    tiles_lost: int = 0  # without any answer
    tile_step: float = 0.0
    passes_asked: int = 0  # for each tile
    passes_done: list[int] = field(default_factory=list)  # for each tile that got any
    stopped: bool = False  # no tile was run after a failure
    # Where only a part of the scan was segmented: "voxels", [first, behind the last] along the scan's (z, y, x); "mm".
    dental_field: dict[str, list[Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # for each stage
    peak_memory: dict[str, int] = field(default_factory=dict)  # bytes, on the "host" and on the "gpu"
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was changed as asked for, which is no reason to worry

    def warn(self, problem: str) -> None:
        """Note a problem once, however many tiles have it."""
        if problem not in self.warnings:
            self.warnings.append(problem)

    @property
    def part(self) -> str:
        """One line about what was segmented, if that is not all of the scan."""
        if not self.dental_field:
            return ""
        size, ends = "x".join(f"{mm:g}" for mm in self.dental_field["mm"]), self.dental_field["voxels"]
        voxels = ", ".join(f"{axis} {first} to {last - 1}" for axis, (first, last) in zip("zyx", ends))
        return f"only the dental field was segmented, {size} mm (voxels {voxels})"

    def take_over(self, other: Record) -> None:
        """Take over what another record says of the tiles."""
        for name in _OF_TILES:
            setattr(self, name, getattr(other, name))

    def give_way(self, other: Record, noted: int) -> None:
        """Another answer takes the place of this one; its seconds are added.

        Args:
            other: How that was made.
            noted: How many of the warnings are older than this answer, and stay.
        """
        self.take_over(other)
        self.dental_field, self.warnings[noted:] = other.dental_field, []
        for problem in other.warnings:
            self.warn(problem)
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 3)
        for where, size in other.peak_memory.items():
            self.peak_memory[where] = max(size, self.peak_memory.get(where, 0))

    def sum_up(self) -> None:
        """Warn of what the tiles lack."""
        own = self.tiles - self.tiles_of_air
        asked, done = self.passes_asked * len(self.passes_done), sum(self.passes_done)
        if done < asked:
            self.warn(f"time: found enough for {done} of {asked} passes over tiles (mirror images, folds)")
        if self.tiles_coarse:
            self.warn(f"{self.tiles_coarse} of {own} tiles have no answer of their own, labelled at a coarser spacing")
        if self.tiles_lost:
            self.warn(f"{self.tiles_lost} of {own} tiles have no answer at all")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what happens inside to the seconds of a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 3)


_OF_TILES = (
    "grid", "tiles", "tiles_of_air", "tiles_coarse", "tiles_lost", "tile_step", "passes_asked", "passes_done",
    "stopped",
)  # fmt: skip


def forget_peak_memory() -> None:
    """Start counting anew, so that a case is not charged with the one before it (as far as the system lets us)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if _has_gpu():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """The most memory since `forget_peak_memory`, in bytes: of the process ("host") and on its GPU ("gpu")."""
    peak = {}
    with suppress(OSError, StopIteration, ValueError):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        peak["host"] = 1024 * int(line.split()[1])
    if not peak:
        with suppress(ImportError):  # Windows
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            peak["host"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if _has_gpu():
        peak["gpu"] = sys.modules["torch"].cuda.max_memory_allocated()
    return peak


def _has_gpu() -> bool:
    torch = sys.modules.get("torch")  # this file is read long before torch is needed
    return torch is not None and torch.cuda.is_initialized()
