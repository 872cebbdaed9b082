"""How far something is that takes time, for somebody who watches and may stop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Watch: TypeAlias = "Callable[[int, int], object]"  # is told how many steps are done, and how many there are


def steps(watch: Watch | None, total: int) -> Callable[[], None]:
    """What to call after each of so many steps, to tell a watcher; he is told at once that none is done yet."""
    done = -1

    def step() -> None:
        nonlocal done
        done += 1
        if watch is not None:
            watch(done, total)

    step()
    return step


class Progress:
    """Tells a watcher of every pass that is done. What he raises ends the work, whatever else would go on after faults.

    Args:
        watch: Who wants to know; None: nobody.

    Attributes:
        stopped: What the watcher raised.
    """

    def __init__(self, watch: Watch | None = None):
        self.stopped: BaseException | None = None
        self._watch, self._total, self._before, self._of_tile = watch, 0, 0, 0

    def expect(self, total: int) -> None:
        """There will be so many passes."""
        self._total = total
        self._tell(0)

    def passes_of_tile(self, done: int) -> None:
        """So many passes over the tile at work are done; counted anew, they are those of another try."""
        self._of_tile = done
        self._tell(self._before + done)

    def tile(self, passes: int) -> None:
        """A tile that should get so many passes has its answer, however many it got."""
        if self._of_tile < passes:
            self._tell(self._before + passes)
        self._before, self._of_tile = self._before + passes, 0

    def _tell(self, done: int) -> None:
        if self._watch is None:
            return
        try:
            self._watch(done, self._total)
        except BaseException as error:
            self.stopped = error
            raise


class Stretches:
    """Tells a watcher of work in two stretches as if it were one.

    Args:
        watch: Who wants to know.
        after: About how many passes the second stretch will have.

    Attributes:
        stopped: What the watcher raised.
    """

    def __init__(self, watch: Watch, after: int):
        self.stopped: BaseException | None = None
        self._watch, self._before, self._done, self._after = watch, 0, 0, after

    def next(self) -> None:
        """The second stretch begins."""
        self._before, self._after = self._done, 0

    def __call__(self, done: int, total: int) -> None:
        """So many passes of this stretch are done, and there are so many."""
        self._done = self._before + done
        try:
            self._watch(self._done, self._before + total + self._after)
        except BaseException as error:
            self.stopped = error
            raise
