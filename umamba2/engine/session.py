"""A scan that somebody clicks on: the clicks, what the network makes of them, and the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from umamba2.engine.progress import Watch
from umamba2.engine.record import Record
from umamba2.errors import InputError
from umamba2.scans.clicks import MOST_CLICKS, NAMES, Clicks, click_json, no_clicks, read_clicks
from umamba2.scans.orientation import to_voxels
from umamba2.scans.volumes import Volume

if TYPE_CHECKING:
    from umamba2.engine.keeping import Keeper  # torch takes seconds to import: not before it is needed

SIDES = ("left", "right")  # of the patient, by the label of a click
Labels: TypeAlias = "npt.NDArray[np.uint8]"
Voxel: TypeAlias = "tuple[int, int, int]"
Look: TypeAlias = "Callable[[Clicks, Record, Watch | None], Labels]"
Whole = TypeVar("Whole")


@dataclass(frozen=True)
class Click:
    """A click on a canal.

    Attributes:
        id: Its number, which it keeps as long as the session lasts.
        side: "left" or "right" of the patient.
        voxel: (z, y, x) in the scan's own array.
    """

    id: int
    side: str
    voxel: Voxel


@dataclass(frozen=True)
class Answer:
    """What changed.

    Attributes:
        changed: The smallest box, its first voxel (z, y, x) and the one after its last, in which any label is another
            one than before; None if none is.
        labels: The labels in that box, uint8 (z, y, x); None if there is none.
        seconds: How long it took.
        warnings: One line for everything that was not as it should be.
    """

    changed: tuple[Voxel, Voxel] | None
    labels: Labels | None
    seconds: float
    warnings: tuple[str, ...]


class Session(Generic[Whole]):
    """A scan and the clicks on it; `Segmenter.session` makes one.

    While clicking every answer comes from one pass of the network; `finish` uses all that the settings ask for. If a
    call fails or is stopped by its watcher, clicks and labels are as they were before it.

    A session is for one caller at a time: calls must not overlap, in it or with others of the same segmenter.

    Args:
        volume: The scan.
        structures: The name of every id that a label map can have.
        look: Labels the scan, quickly.
        finish: Segments the scan in full.
        keeper: What they keep from call to call.

    Attributes:
        geometry: Of the scan and its labels, as the file states it.
        structures: The name of every id, without background.
        labels: uint8 (z, y, x) on the scan's own grid; background before the first answer. Each answer has an array
            of its own, so one that was taken stays as it is.
    """

    def __init__(
        self, volume: Volume, structures: dict[int, str], look: Look,
        finish: Callable[[Clicks, Watch | None], Whole], keeper: Keeper | None = None,
    ):  # fmt: skip
        self.geometry, self.structures = volume.geometry, structures
        self.labels: Labels = np.zeros(volume.array.shape, np.uint8)
        self._look, self._finish, self._keeper = look, finish, keeper
        self._clicks: tuple[Click, ...] = ()
        self._before: list[tuple[Click, ...]] = []
        self._next_id = 1
        self._warnings = list(volume.warnings)

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks in the order of a click file."""
        return self._clicks

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for everything that has not been as it should be, so far."""
        return tuple(self._warnings)

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken for what later answers can use."""
        return self._keeper.bytes if self._keeper else 0

    def forget(self) -> None:
        """Give that memory back; the next answer costs as much as the first."""
        if self._keeper:
            self._keeper.clear()

    def click_file(self) -> str:
        """The clicks as the content of a click file in Grand Challenge's form."""
        names = {label: name for name, label in NAMES.items()}
        return click_json((names[SIDES.index(click.side)], click.voxel) for click in self._clicks)

    def look(self, watch: Watch | None = None) -> Answer:
        """The answer to the clicks as they are, none at first.

        Args:
            watch: As for every other call: is told after each pass over a tile how many are done and how many there
                are. What it raises, such as `umamba2.Cancelled`, ends the call and is raised by it.
        """
        return self._answer(self._clicks, self._before, watch)

    def click(
        self, side: str, position_mm: Sequence[float] | None = None, voxel: Sequence[float] | None = None,
        watch: Watch | None = None,
    ) -> Answer:  # fmt: skip
        """Click on a canal.

        Args:
            side: "left" or "right": which of the patient's canals it is on.
            position_mm: Where, as a point (x, y, z) in patient coordinates in mm as ITK and DICOM have them (LPS: to
                the left, to the back, to the top), by the geometry that the file states. NIfTI's viewers show RAS,
                in which x and y have the other sign.
            voxel: Or where, as the voxel (z, y, x) of the scan's own array.
            watch: See `look`.

        Raises:
            InputError: The side is neither, the place is not one of three finite numbers inside the scan, or there
                are as many clicks as there may be.
        """
        if len(self._clicks) >= MOST_CLICKS:
            raise InputError(f"clicks: found {MOST_CLICKS:,} already, expected no more")
        new = Click(self._next_id, self._side(side), self._place(position_mm, voxel))
        answer = self._change((*self._clicks, new), watch)
        self._next_id += 1
        return answer

    def move(
        self, id: int, position_mm: Sequence[float] | None = None, voxel: Sequence[float] | None = None,
        side: str | None = None, watch: Watch | None = None,
    ) -> Answer:  # fmt: skip
        """Move a click elsewhere, to the other canal too if a side is given; the arguments are those of `click`.

        Raises:
            InputError: There is no such click, or as for `click`.
        """
        moved = replace(self._known(id), voxel=self._place(position_mm, voxel))
        if side is not None:
            moved = replace(moved, side=self._side(side))
        return self._change(tuple(moved if click.id == id else click for click in self._clicks), watch)

    def remove(self, id: int, watch: Watch | None = None) -> Answer:
        """Take a click away. Raises InputError if there is no such click."""
        self._known(id)
        return self._change(tuple(click for click in self._clicks if click.id != id), watch)

    def undo(self, watch: Watch | None = None) -> Answer:
        """Take back the last change of the clicks. Raises InputError if there is none."""
        if not self._before:
            raise InputError("undo: found nothing to take back, expected a click before it")
        return self._answer(self._before[-1], self._before[:-1], watch)

    def replace(self, clicks: str | Path | Clicks | None = None, watch: Watch | None = None) -> Answer:
        """Start anew with other clicks.

        Args:
            clicks: A click file, clicks as voxels (z, y, x) of the scan, or None for none at all. What cannot be used
                of a file costs a warning.
            watch: See `look`.

        Raises:
            InputError: The file cannot be read, or clicks that are no file are not as for `click`.
        """
        remarks: tuple[str, ...] = ()
        if isinstance(clicks, (str, Path)):
            clicks, remarks = read_clicks(clicks, self.geometry.shape)
        used = no_clicks() if clicks is None else clicks
        if len(used.labels) > MOST_CLICKS:
            raise InputError(f"clicks: found {len(used.labels):,}, expected at most {MOST_CLICKS:,}")
        if not np.isin(used.labels, (0, 1)).all():
            raise InputError(f"clicks: found labels {used.labels.tolist()}, expected 0 (left) or 1 (right)")
        new = tuple(
            Click(self._next_id + i, SIDES[label], self._place(None, voxel))
            for i, (voxel, label) in enumerate(zip(used.coordinates.tolist(), used.labels, strict=True))
        )
        answer = self._change(new, watch, remarks)
        self._next_id += len(new)
        return answer

    def finish(self, watch: Watch | None = None) -> Whole:
        """Segment the scan with the clicks as they are and all folds and mirror images.

        The result is, to the voxel, that of `umamba2 predict` with the same click file. The session goes on after it.

        Args:
            watch: See `look`.
        """
        return self._finish(self._as_arrays(self._clicks), watch)

    def _change(self, clicks: tuple[Click, ...], watch: Watch | None, remarks: tuple[str, ...] = ()) -> Answer:
        return self._answer(clicks, [*self._before, self._clicks], watch, remarks)

    def _answer(
        self, clicks: tuple[Click, ...], before: list[tuple[Click, ...]], watch: Watch | None,
        remarks: tuple[str, ...] = (),
    ) -> Answer:  # fmt: skip
        began, record = time.monotonic(), Record()
        for remark in remarks:
            record.warn(remark)
        labels = self._look(self._as_arrays(clicks), record, watch)
        changed = box_around(labels != self.labels)
        part = None if changed is None else labels[tuple(slice(a, b) for a, b in zip(*changed))].copy()
        self.labels, self._clicks, self._before = labels, clicks, before
        self._warnings += [warning for warning in record.warnings if warning not in self._warnings]
        return Answer(changed, part, time.monotonic() - began, tuple(record.warnings))

    def _as_arrays(self, clicks: tuple[Click, ...]) -> Clicks:
        places = np.array([click.voxel for click in clicks], np.float32).reshape(-1, 3)
        return Clicks(places, np.array([SIDES.index(click.side) for click in clicks], np.int64))

    def _known(self, id: int) -> Click:
        for click in self._clicks:
            if click.id == id:
                return click
        known = ", ".join(str(click.id) for click in self._clicks) or "none, there is no click"
        raise InputError(f"click: found the id {id!r:.40}, expected one of {known}")

    @staticmethod
    def _side(side: str) -> str:
        if side not in SIDES:
            raise InputError(f"side: found {side!r:.40}, expected {' or '.join(SIDES)}")
        return side

    def _place(self, position_mm: Sequence[float] | None, voxel: Sequence[float] | None) -> Voxel:
        """The voxel that is meant, which must be inside."""
        if (position_mm is None) == (voxel is None):
            found = "neither" if voxel is None else "both"
            raise InputError(f"click: found {found} of a position in mm and a voxel, expected one of them")
        what, given = ("voxel", voxel) if voxel is not None else ("position", position_mm)
        try:
            point = np.array(given, float)
        except (TypeError, ValueError, OverflowError):
            point = np.zeros(0)
        if point.shape != (3,) or not np.isfinite(point).all():
            raise InputError(f"{what}: found {given!r:.80}, expected three finite numbers")
        at = point if position_mm is None else to_voxels(self.geometry, point[None])[0]
        if not all(-0.5 <= c < size - 0.5 for c, size in zip(at, self.geometry.shape)):
            where = f"voxel {_listed(at)}" if what == "voxel" else f"{_listed(point)} mm (LPS), voxel {_listed(at)}"
            raise InputError(f"{what}: found {where}, expected a place inside a scan of shape {self.geometry.shape}")
        z, y, x = (min(max(round(float(c)), 0), size - 1) for c, size in zip(at, self.geometry.shape))
        return (z, y, x)


def box_around(mask: npt.NDArray[np.bool_]) -> tuple[Voxel, Voxel] | None:
    """The smallest box around what is true: its first voxel and the one after its last."""
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(planes):
        return None
    inside = mask[planes[0] : planes[-1] + 1]
    rows, columns = (np.flatnonzero(inside.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    first, last = ((int(planes[i]), int(rows[i]), int(columns[i])) for i in (0, -1))
    return first, (last[0] + 1, last[1] + 1, last[2] + 1)


def _listed(point: npt.NDArray[np.floating]) -> str:
    return "(" + ", ".join(f"{c:.6g}" for c in point) + ")"
