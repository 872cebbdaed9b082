"""SIGTERM in the middle of a run: what is done so far is written, and every scan still gets an output."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from umamba2.errors import Terminated


class Listener:
    """Whether SIGTERM came (``asked``), and whether the part that runs now ends by it (``endable``)."""

    asked = endable = False

    def __call__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice does not want to wait
        self.asked = True
        if self.endable:
            raise Terminated("SIGTERM")


_listener = Listener()


@contextmanager
def handling_sigterm() -> Iterator[Listener]:
    """Within this context, in the main thread, SIGTERM raises Terminated inside `endable` blocks.

    The first process of a container ignores the signal unless it listens, and would be killed a little later.
    """
    _listener.asked = False
    before = signal.signal(signal.SIGTERM, _listener)
    try:
        yield _listener
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def endable() -> Iterator[None]:
    """Within this context SIGTERM raises Terminated, at once if it came before; outside it waits."""
    _listener.endable = True
    try:
        if _listener.asked:
            raise Terminated("SIGTERM")
        yield
    finally:
        _listener.endable = False
