"""Time: how many passes a tile may have so that the case ends before its deadline."""

from __future__ import annotations

import math
import time

RECENT = 3  # tiles whose times count for the next one


class Budget:
    """The time that is left for the tiles of one case.

    Args:
        deadline: When the last tile must be done, on `time.monotonic`'s clock; None or infinity: whenever.
        asked: The passes that each tile gets if time allows, never more.
    """

    def __init__(self, deadline: float | None, asked: int):
        self.deadline = None if deadline == math.inf else deadline
        self.asked = asked
        self.forget()

    def forget(self) -> None:
        """Forget how long passes took, because they run on another device now."""
        self._paces: list[float] = []  # seconds per pass
        self._extras: list[float] = []  # seconds per tile, however many passes it had

    @property
    def left(self) -> float:
        """The seconds until the deadline."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    @property
    def pace(self) -> float:
        """The seconds that the next pass should take; 0 before the first."""
        return _expected(self._paces)

    def spent(self, passes: float, seconds: float, extra: float = 0.0) -> None:
        """Note how long a tile took.

        Args:
            passes: How many it had; a pass over part of a tile is part of one.
            seconds: What all of them took together.
            extra: What everything else about the tile took.
        """
        self._paces.append(seconds / passes)
        self._extras.append(extra)

    def passes(self, tiles: int) -> int:
        """How many passes the next of so many tiles may have, so that all of them can have as many.

        Where that is not even one, the tile gets one nevertheless as long as there is time after it for another pass,
        which can then answer for all the tiles that follow; else none.
        """
        if self.deadline is None:
            return self.asked
        if self.left <= 0:
            return 0
        extra = _expected(self._extras)
        if self.pace == 0:
            return self.asked
        affordable = int((self.left - extra * tiles) / (self.pace * tiles))
        if affordable >= 1:
            return min(affordable, self.asked)
        return int(self.left - extra >= 2 * self.pace)

    def affords(self, tiles: int) -> bool:
        """Whether so many tiles can have one pass each."""
        return self.left >= (self.pace + _expected(self._extras)) * tiles


def _expected(seconds: list[float]) -> float:
    """The next of a row of times: the last one, or the recent average if that was longer."""
    recent = seconds[-RECENT:]
    return max(recent[-1], sum(recent) / len(recent)) if recent else 0.0
