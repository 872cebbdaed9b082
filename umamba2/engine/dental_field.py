"""The dental field: the part of a head that a network has learned from, found by where the teeth are densest.

A network that has seen jaws alone takes foreheads and spines for teeth. Its answer to the whole scan is good enough to
tell where most of the teeth are, though, and what it says of a box around that place alone is as good as its answer to
a scan of that size. Nothing here runs a network: `umamba2.engine.predict` looks twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.structures import Structure
from umamba2.engine.record import Record
from umamba2.errors import InputError
from umamba2.scans.clicks import Clicks
from umamba2.scans.orientation import UPRIGHT

Labels: TypeAlias = "npt.NDArray[np.uint8]"
Box: TypeAlias = "tuple[slice, ...]"
Sides: TypeAlias = "tuple[tuple[float, float], ...]"

MODES = ("auto", "off", "on")
# mm from the densest place to each side of the patient: the teeth are densest close to the front of the field, and the
# middle of the two canals lies behind it.
TEETH_REACH = {"S": 32.0, "I": 32.0, "A": 30.0, "P": 60.0, "L": 57.0, "R": 57.0}
CANALS_REACH = TEETH_REACH | {"A": 45.0, "P": 45.0}
BLUR = 16.0  # mm: half the width of an arch, so that its two sides and both jaws count as one
CELL = 2.0  # mm: the place is found on a grid of about this spacing
TOLERANCE = 1.25  # times the field: a scan that is not longer than this along any axis is taken as it is
MUCH = 0.25  # of the highest density: what is less dense marks nothing
# mm3 in the field of a first look. Teeth: in a phantom of an edentulous mouth the demo model found 443, in the same
# mouth with one molar 1073. Canals: post-processing deletes what is smaller than 59 and 47 anyway.
LEAST_TEETH, LEAST_CANALS = 500.0, 100.0
MOST_TEETH = 40_000.0  # mm3 in a whole scan; the teeth of phantoms had up to 26,000
CLICK_MARGIN = 15.0  # mm around a click outside the field that belong to it, too


@dataclass(frozen=True)
class DentalField:
    """How the dental field of a model is found.

    Attributes:
        sides: mm from the densest place to the field's ends along (z, y, x), towards lower and higher indices.
        marks: The classes whose density is looked at, in groups; the field lies around the middle of their peaks.
        lost: The classes that a scan without a dental field cannot have.
        what: What messages call the marks.
        least: mm3 of them in the field from which on there is one.
        most: mm3 of them in the whole scan beyond which other things must have been taken for them.
        asked: Whether it was asked for; if not, it is worth a warning.
    """

    sides: Sides
    marks: tuple[tuple[int, ...], ...]
    lost: tuple[int, ...]
    what: str
    least: float
    most: float = math.inf
    asked: bool = False

    @property
    def size(self) -> tuple[float, ...]:
        """mm along (z, y, x)."""
        return tuple(low + high for low, high in self.sides)

    def problems(self, look: FirstLook, box: Box | None, shape: Sequence[int], spacing: Sequence[float]) -> list[str]:
        """What is to be said, one line each.

        Args:
            look: The first look.
            box: What is segmented; None: there is no field.
            shape: Of the scan.
            spacing: Of its voxels in mm.
        """
        said = [f"first look: {problem}" for problem in look.record.warnings]
        scan = _mm(n * mm for n, mm in zip(shape, spacing))
        if look.total > self.most:
            found = f"{look.total:.0f} mm3 of {self.what} in {scan}, expected at most {self.most:.0f}"
            said.append(f"dental field: found {found}; other things were taken for {self.what}, there may be none")
        if box is None:
            found = f"{look.amount:.0f} mm3 of {self.what} in {scan}, expected at least {self.least:.0f}"
            said.append(f"dental field: found {found}; no {self.what} labelled, and all else is the first look's")
        elif not self.asked:
            part, most = _mm(described(box, spacing)["mm"]), _mm(TOLERANCE * size for size in self.size)
            said.append(f"dental field: found a scan of {scan}, expected at most {most}; only {part} were segmented")
        if box != look.box:
            found = "clicks outside of it" if look.box else f"{look.amount:.0f} mm3 of {self.what} in {scan}"
            said.append(f"dental field: found {found}; placed by the clicks")
        return said

    def is_exceeded(self, shape: Sequence[int], spacing: Sequence[float]) -> bool:
        """Whether a scan is so much larger that the field has to be found.

        Args:
            shape: Of the scan, (z, y, x).
            spacing: Of its voxels in mm, (z, y, x).
        """
        axes = zip(shape, spacing, self.size)
        return len(shape) == len(spacing) == 3 and any(n * float(mm) > TOLERANCE * size for n, mm, size in axes)

    def find(self, labels: Labels, spacing: Sequence[float], record: Record) -> FirstLook:
        """The field in a label map of a whole scan.

        Args:
            labels: (z, y, x) in the network's classes.
            spacing: Of the voxels in mm.
            record: How they were found.
        """
        peaks = [densest(labels, group, spacing) for group in self.marks]
        highest = max(density for _, density in peaks)
        places = [place for place, density in peaks if density >= MUCH * highest]
        box = self.around(np.mean(places, axis=0), labels.shape, spacing)
        amount, total = self.amount(labels[box], spacing), self.amount(labels, spacing)
        if amount < self.least:
            return FirstLook(None, self.without(labels), amount, total, record)
        return FirstLook(box, labels[box].copy(), amount, total, record)

    def around(self, place: Sequence[float], shape: Sequence[int], spacing: Sequence[float]) -> Box:
        """The field around a place, as far as it lies in the scan.

        Args:
            place: A voxel (z, y, x), whole or not.
            shape: Of the scan.
            spacing: Of its voxels in mm.
        """
        box = []
        for at, n, mm, (low, high) in zip(place, shape, spacing, self.sides):
            start = min(max(math.floor(at - low / mm), 0), n - 1)
            box.append(slice(start, min(max(math.ceil(at + high / mm), start + 1), n)))
        return tuple(box)

    def amount(self, labels: Labels, spacing: Sequence[float]) -> float:
        """How many mm3 of the marks there are in a label map."""
        table = np.isin(np.arange(256), sum(self.marks, ()))
        return sum(int(np.count_nonzero(table[plane])) for plane in labels) * math.prod(spacing)

    def without(self, labels: Labels) -> Labels:
        """A label map without what only a dental field can have; a new array."""
        kept = np.arange(256, dtype=np.uint8)
        kept[list(self.lost)] = 0
        return kept[labels]

    def holding(self, box: Box | None, clicks: Clicks, shape: Sequence[int], spacing: Sequence[float]) -> Box | None:
        """The field, widened and moved so that all clicks in the scan lie in it, with a margin around those outside.

        Up to `TOLERANCE` it is widened; beyond that its other side follows, as far as the clicks there let it. Without
        a field that was found, the clicks say where it is.

        Args:
            box: The field that was found, None if none was.
            clicks: Voxels (z, y, x) of the scan.
            shape: Of the scan.
            spacing: Of its voxels in mm.
        """
        voxels = np.rint(clicks.coordinates)
        points = voxels[(clicks.labels >= 0) & ((voxels >= 0) & (voxels < shape)).all(axis=1)].astype(int)
        if len(points) == 0:
            return box
        if box is None:
            box = self.around((points.min(0) + points.max(0)) / 2, shape, spacing)
        sides = []
        for side, at, n, mm, size in zip(box, points.T, shape, spacing, self.size):
            margin, most = CLICK_MARGIN / mm, math.ceil(TOLERANCE * size / mm)
            first, last = int(at.min()), int(at.max()) + 1
            start = side.start if first >= side.start else max(0, math.floor(first - margin))
            stop = side.stop if last <= side.stop else min(n, math.ceil(last + margin))
            if start == side.start:
                start = max(start, min(stop - most, first))
            elif stop == side.stop:
                stop = min(stop, max(start + most, last))
            sides.append(slice(start, stop))
        return tuple(sides)


@dataclass(frozen=True)
class FirstLook:
    """What the network's quick answer to a whole scan has shown.

    Attributes:
        box: Where the dental field is; None if there is none.
        labels: Of the field; without one, of the whole scan, less what only a dental field can have.
        amount: mm3 of the marks in the field, or around the place that came nearest to one.
        total: mm3 of them in the whole scan.
        record: How it went.
    """

    box: Box | None
    labels: Labels
    amount: float
    total: float
    record: Record

    def on_scan(self, shape: Sequence[int]) -> Labels:
        """The labels on the grid of the whole scan."""
        return self.labels.copy() if self.box is None else pasted(self.labels, self.box, shape)


def described(box: Box, spacing: Sequence[float]) -> dict[str, list[Any]]:
    """A part of a scan as a record has it: first voxels and those behind the last, and mm, along the array's axes."""
    mm = [round((side.stop - side.start) * float(step), 1) for side, step in zip(box, spacing)]
    return {"voxels": [[side.start, side.stop] for side in box], "mm": mm}


def pasted(labels: Labels, box: Box, shape: Sequence[int]) -> Labels:
    """Labels of a part of a scan on the grid of the whole scan, background elsewhere."""
    whole = np.zeros(tuple(shape), np.uint8)
    whole[box] = labels
    return whole


def field_for(
    mode: str, sides: Sides | None, orientation: str | None, structures: Iterable[Structure]
) -> DentalField | None:
    """The dental field of a model; None if it is not to be looked for.

    Args:
        mode: One of `MODES`; "auto" looks for it where the model states its sides.
        sides: What the model states; None: nothing.
        orientation: How the model's training scans lay, if it says so.
        structures: The model's classes.

    Raises:
        InputError: There is no such mode.
    """
    if mode not in MODES:
        raise InputError(f"dental field: found {mode!r:.40}, expected one of {', '.join(MODES)}")
    if mode == "off" or (mode == "auto" and sides is None):
        return None
    structures = list(structures)
    teeth = tuple(s.training for s in structures if s.group in ("teeth", "restorations"))
    marks: tuple[tuple[int, ...], ...] = (teeth,)
    if teeth:
        pulp = tuple(s.training for s in structures if s.group == "pulp")
        reach, lost, what, least, most = TEETH_REACH, teeth + pulp, "teeth", LEAST_TEETH, MOST_TEETH
    else:  # canals on two sides
        marks = tuple((s.training,) for s in structures)
        reach, lost, what, least, most = CANALS_REACH, sum(marks, ()), "canals", LEAST_CANALS, math.inf
    return DentalField(sides or sides_of(reach, orientation), marks, lost, what, least, most, asked=mode == "on")


def _mm(lengths: Iterable[float]) -> str:
    return "x".join(f"{mm:.0f}" for mm in lengths) + " mm"


def sides_of(reach: dict[str, float], orientation: str | None) -> Sides:
    """The sides of a field for arrays that lie as a code says, such as "LPS"; for that one where nothing is known.

    Args:
        reach: mm to each side of the patient.
        orientation: The code.
    """
    opposite = {"S": "I", "I": "S", "A": "P", "P": "A", "L": "R", "R": "L"}
    return tuple((reach[opposite[letter]], reach[letter]) for letter in reversed(orientation or UPRIGHT))


def densest(labels: Labels, marks: Sequence[int], spacing: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """The voxel (z, y, x), whole or not, that has most of some classes around it, weighed by a Gaussian of `BLUR` mm.

    How much that is comes with it, in no unit: it is for comparisons.

    Args:
        labels: (z, y, x).
        marks: The classes.
        spacing: Of the voxels in mm.
    """
    steps = [max(1, round(CELL / mm)) for mm in spacing]
    starts = [np.arange(0, n, step) for n, step in zip(labels.shape, steps)]
    counts, table = np.zeros([len(s) for s in starts]), np.isin(np.arange(256), marks)
    for z, plane in enumerate(labels):  # plane by plane: no copy of the scan in numbers
        rows = np.add.reduceat(table[plane], starts[1], axis=0, dtype=np.int64)
        counts[z // steps[0]] += np.add.reduceat(rows, starts[2], axis=1)
    for axis, (step, mm) in enumerate(zip(steps, spacing)):
        places = np.arange(counts.shape[axis]) * step * mm
        weights = np.exp(-0.5 * ((places[:, None] - places) / BLUR) ** 2)
        counts = np.moveaxis(np.tensordot(weights, counts, (1, axis)), 0, axis)
    peak = np.unravel_index(int(counts.argmax()), counts.shape)
    return tuple(int(i) * step + (step - 1) / 2 for i, step in zip(peak, steps)), float(counts[peak])
