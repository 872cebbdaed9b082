"""Clicks that the network does not follow: the scan is answered again without them, because they steer all the same.

A click on a canal is followed: the canal that is found runs through it, or nearly so. One on the other side, on air or
on a tooth mostly is not, and yet may pull the canal off its course (`benchmarks/RESULTS.md`). Grey values do not tell
enough: a canal may touch roots and cortical bone, and a tooth has a pulp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from umamba2.engine.postprocess import foreground_box
from umamba2.engine.progress import Stretches, Watch
from umamba2.engine.record import Record
from umamba2.engine.session import SIDES
from umamba2.errors import Terminated
from umamba2.messages import unexpected
from umamba2.scans.clicks import Clicks

FAR = 3.0  # mm from a click to what was found of its canal: a canal is 2 to 4 mm thick
TIME = 1.1  # of what the first answer took: what must be left for another
MOST_LINES = 5  # about single clicks

Labels: TypeAlias = "npt.NDArray[np.uint8]"
Ask: TypeAlias = "Callable[[Clicks, Record, Watch | None], Labels]"


def answered(
    ask: Ask, clicks: Clicks, places: npt.NDArray[np.floating], canals: Sequence[int], spacing: Sequence[float],
    record: Record, watch: Watch | None, deadline: float | None,
) -> Labels:  # fmt: skip
    """The answer to clicks or, if it passes some of them by, to the others.

    All clicks are asked about first, every time, so one that is left out now may count together with a later one.

    Args:
        ask: Labels the scan, (z, y, x).
        clicks: Voxels (z, y, x) of those labels.
        places: The same in the scan's own voxels, for the warnings.
        canals: The ids of the left and the right canal.
        spacing: Of the labels, (z, y, x) in mm.
        record: Takes the numbers, and a warning for each click that is off its canal.
        watch: Is told of both answers as if they were one.
        deadline: On `time.monotonic`'s clock; without time for another answer all clicks count.
    """
    clicks, places = Clicks(np.asarray(clicks.coordinates), np.asarray(clicks.labels)), np.asarray(places)
    noted, began = len(record.warnings), time.monotonic()
    stretches = None if watch is None else Stretches(watch, 0)
    labels = ask(clicks, record, stretches)
    off = [i for i in range(len(clicks.labels)) if is_off(labels, clicks, i, canals, spacing)]
    if not off:
        return labels
    lines = [_described(labels, clicks, i, places[i], canals, spacing) for i in off[:MOST_LINES]]
    if len(off) > MOST_LINES:
        lines.append(f"{len(off) - MOST_LINES} more off their canals, expected them on them")
    kept, now = "", time.monotonic()
    if record.stopped or (deadline is not None and now + TIME * (now - began) > deadline):
        kept = "no time is left to do without"
    else:
        again, others = Record(), np.setdiff1d(np.arange(len(clicks.labels)), off)
        if stretches is not None:
            stretches.next()
        try:
            without = ask(Clicks(clicks.coordinates[others], clicks.labels[others]), again, stretches)
        except (Exception, Terminated) as error:
            if stretches is not None and error is stretches.stopped:
                raise
            kept = f"without, found {unexpected(error)}"
        else:
            if again.stopped:
                kept = "the answer without was cut short"
            else:
                record.give_way(again, noted)
                labels = without
    for line in lines:
        record.warn(f"clicks: found {line}; {f'counted, {kept}' if kept else 'left out'}")
    return labels


def is_off(labels: Labels, clicks: Clicks, number: int, canals: Sequence[int], spacing: Sequence[float]) -> bool:
    """Whether a click is for a canal and nothing of that canal was found within `FAR` of it."""
    side, at = int(clicks.labels[number]), np.rint(clicks.coordinates[number]).astype(int)
    if side < 0:
        return False
    reach = np.ceil(FAR / np.asarray(spacing)).astype(int)
    low, high = np.maximum(at - reach, 0), np.maximum(at + reach + 1, 0)
    part = labels[tuple(slice(a, b) for a, b in zip(low, high))]
    return _distance(np.argwhere(part == canals[side]) + low, at, spacing) > FAR


def _described(
    labels: Labels, clicks: Clicks, number: int, place: npt.NDArray[np.floating], canals: Sequence[int],
    spacing: Sequence[float],
) -> str:  # fmt: skip
    side, at = int(clicks.labels[number]), np.rint(clicks.coordinates[number]).astype(int)
    voxel = ", ".join(str(int(c)) for c in np.rint(place))
    click = f"click {number + 1} ({SIDES[side]}, voxel ({voxel}))"
    other = Clicks(clicks.coordinates, 1 - clicks.labels)
    on_other = "" if is_off(labels, other, number, canals, spacing) else f" and on the {SIDES[1 - side]} one"
    box = foreground_box(labels)
    mm = _distance(np.argwhere(labels[box] == canals[side]) + [part.start for part in box], at, spacing)
    if np.isinf(mm):
        return f"{click}{on_other} but no {SIDES[side]} canal, expected it on one"
    return f"{click} {mm:.1f} mm off the {SIDES[side]} canal{on_other}, expected it on it"


def _distance(voxels: npt.NDArray[np.intp], at: npt.NDArray[np.intp], spacing: Sequence[float]) -> float:
    """From a voxel to the nearest of others, in mm; infinity if there is none."""
    return float(np.linalg.norm((voxels - at) * spacing, axis=1).min()) if len(voxels) else np.inf
