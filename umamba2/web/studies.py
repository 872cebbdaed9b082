"""The scans that are open, each with what was found in it. All of it is gone when the server ends."""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from umamba2.errors import InputError
from umamba2.scans import memory
from umamba2.scans.volumes import Volume
from umamba2.web.layers import CANALS, WHOLE, Layer
from umamba2.web.view import Box, View

if TYPE_CHECKING:
    from umamba2.engine.session import Session

MOST_STUDIES = 16
IDLE = 30 * 60.0  # seconds without a sign of the page, after which a scan is closed
MEMORY_SHARE = 0.5  # of what is free at the start, for scans and label maps of all studies together
KEPT_SHARE = 0.125  # of the same, for what one session keeps to answer fast, and again for those of all others


@dataclass(eq=False)
class Study:
    """One scan that somebody has open.

    Attributes:
        name: What it is asked for by; nobody guesses it.
        folder: Its files: what was sent, what the viewer reads, what can be saved.
        volume: The scan, once it is read.
        view: How it is shown.
        windows: Which grey values to show as black and white, by preset.
        session: Where clicks go, once there was one.
        layers: What was found, by kind.
        listed: The same as the page lists it.
        received: Bytes and files that were sent.
        used: When it was last asked for, on `time.monotonic`'s clock.
    """

    folder: Path
    name: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    volume: Volume | None = None
    view: View | None = None
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    session: Session[Any] | None = None
    layers: dict[str, Layer] = field(default_factory=dict)
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    received: list[int] = field(default_factory=lambda: [0, 0])
    used: float = field(default_factory=time.monotonic)

    @property
    def sent(self) -> Path:
        """The folder of what was sent."""
        return self.folder / "sent"

    @property
    def scan(self) -> Volume:
        """The scan. Raises InputError if none is read yet."""
        if self.volume is None:
            raise InputError("scan: found none, expected one to be opened first")
        return self.volume

    @property
    def shown(self) -> View:
        """How the scan is shown. Raises InputError if none is read yet."""
        if self.view is None:
            raise InputError("scan: found none, expected one to be opened first")
        return self.view

    @property
    def bytes(self) -> int:
        """The memory that it holds, without what a session keeps to answer fast."""
        arrays = [layer.labels for layer in self.layers.values()]
        return sum(array.nbytes for array in arrays) + (0 if self.volume is None else self.volume.array.nbytes)

    def drawn(self, box: Box | None = None) -> npt.NDArray[np.uint8]:
        """What the viewer draws over the scan in a box of its grid (None: all of it), (z, y, x)."""
        view = self.shown
        box = ((0, 0, 0), (view.shape[0], view.shape[1], view.shape[2])) if box is None else box
        part = view.file_box(box)
        drawn = np.zeros([axis.stop - axis.start for axis in part], np.uint8)
        for kind in (WHOLE, CANALS):
            if kind in self.layers:
                self.layers[kind].draw(drawn, part)
        return np.ascontiguousarray(view.shown(drawn))

    def plainly(self, line: str) -> str:
        """A message without the temporary folder, which says nothing to whoever opened the file."""
        line = re.sub(rf"{re.escape(str(self.sent))}/(?:\.[0-9a-f]{{16}}/)?", "", line)
        return line.replace(str(self.sent), "scan").replace(f"{self.folder}/", "")

    def place_apart(self) -> Path:
        """A new place among what was sent, which no name that a client chooses can reach."""
        return self.sent / f".{secrets.token_hex(8)}"


class Studies:
    """The open scans.

    Args:
        folder: A private folder for their files.
        most_bytes: What all of them may hold in memory; None for `MEMORY_SHARE` of what is free now.
        idle: Seconds after which an unused one is closed.
    """

    def __init__(self, folder: Path, most_bytes: float | None = None, idle: float = IDLE):
        self.folder, self.idle = folder, idle
        free = memory.available()
        self.most_bytes = MEMORY_SHARE * free if most_bytes is None else most_bytes
        self.most_kept = min(KEPT_SHARE * free, 1 << 40)  # a system that does not say has no end
        self._open: dict[str, Study] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Study]:
        return iter(list(self._open.values()))

    def new(self) -> Study:
        """Open an empty one. Raises InputError if there are too many."""
        with self._lock:
            if len(self._open) >= MOST_STUDIES:
                raise InputError(f"scans: found {MOST_STUDIES} open ones, expected fewer; close one first")
            study = Study(self.folder)
            study.folder = self.folder / secrets.token_hex(8)
            try:
                study.folder.mkdir(mode=0o700)
                study.sent.mkdir(mode=0o700)
            except OSError as error:  # never make the folder above anew: whoever removed it may have put another there
                found = f"the server's temporary folder unusable ({error.strerror})"
                raise InputError(f"scans: found {found}, expected to write there; start the server anew") from None
            self._open[study.name] = study
            return study

    def find(self, name: str) -> Study:
        """The study of that name, which counts as a use of it. Raises KeyError if there is none (any more)."""
        study = self._open[name]
        study.used = time.monotonic()
        return study

    def close(self, study: Study) -> None:
        """Forget a study and remove its files."""
        with self._lock:
            self._open.pop(study.name, None)
        study.volume = study.view = study.session = None
        study.layers.clear()
        shutil.rmtree(study.folder, ignore_errors=True)

    def check_memory(self, coming: int = 0, without: str = "") -> None:
        """Raise InputError if all studies but the one of that name, and what is to come, are more than may be held."""
        held = sum(study.bytes for study in self if study.name != without) + coming
        if held > self.most_bytes:
            found = f"{held / 1e9:.1f} GB of scans"
            raise InputError(f"memory: found {found}, expected at most {self.most_bytes / 1e9:.1f}; close other scans")

    def forget_all_but(self, study: Study) -> None:
        """Have the sessions of other studies give back what they keep, the longest unused first, until it is little."""
        others = sorted((o for o in self if o is not study and o.session is not None), key=lambda o: o.used)
        kept = sum(other.session.kept_bytes for other in others if other.session)
        for other in others:
            if kept > self.most_kept and other.session:
                kept -= other.session.kept_bytes
                other.session.forget()

    def idle_ones(self) -> list[Study]:
        """Those that nobody has asked for in a long time."""
        now = time.monotonic()
        return [study for study in self if now - study.used > self.idle]
