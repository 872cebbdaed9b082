"""How far a scan is, for somebody who watches and may stop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Watch: TypeAlias = "Callable[[int, int], object]"  # is told how many passes over tiles are done, and how many there are


class Progress:
    """Tells a watcher of every pass that is done. What he raises ends the work, whatever else would go on after faults.

    Args:
        watch: Who wants to know; None: nobody.

    Attributes:
        total: How many passes there are, as soon as that is known.
        stopped: What the watcher raised.
    """

    def __init__(self, watch: Watch | None = None):
        self.total = 0
        self.stopped: BaseException | None = None
        self._watch = watch

    def at(self, done: int) -> None:
        """So many passes are done."""
        if self._watch is None:
            return
        try:
            self._watch(done, self.total)
        except BaseException as error:
            self.stopped = error
            raise
