"""How far a batch is, and how long it will still take."""

from __future__ import annotations

import sys
import time
from typing import Any

from umamba2.messages import TALKING


class Progress:
    """Counts cases; on a terminal as a bar on stderr.

    Args:
        total: All cases.
        bar: Whether to show a bar.
    """

    def __init__(self, total: int, bar: bool = False):
        self.total, self.finished, self.worked, self._start = total, 0, 0, time.monotonic()
        self._bar: Any = None
        if bar:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc="scans", file=sys.stderr, dynamic_ncols=True)

    def step(self, worked: bool = True) -> str:
        """Count a case, one that took work or one that was finished before; what to say behind its line."""
        self.finished += 1
        self.worked += worked
        if self._bar is not None:
            with TALKING:
                self._bar.update()
        if self.total == 1:
            return ""
        left = self.total - self.finished
        if not left or not self.worked:
            return f"  {self.finished}/{self.total}"
        seconds = (time.monotonic() - self._start) / self.worked * left
        return f"  {self.finished}/{self.total}, {duration(seconds)} left"

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """A time in two units at most, such as "2 h 05 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
