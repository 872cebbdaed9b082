"""What of the mouth lies in the field of view, so that nothing counts as missing that the scan cannot show.

An average dental arch is laid through the teeth that were found. Where it puts the others says whether the scan shows
their places. It stretches, turns and tilts with the teeth, less so where they are few (ridge regression towards the
average); what a tooth then still lies off the arch holds for its neighbours as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.arches import LOWER_ARCH, SMALLEST_TOOTH, UPPER_ARCH, average_place
from umamba2.anatomy.structures import Structure
from umamba2.reports.measures import Measure
from umamba2.reports.reading import ReportCase
from umamba2.scans.orientation import to_patient

Points = npt.NDArray[np.float64]

# How far other pairs lie to the side of the midline, in mm.
_LATERAL = {"inferior alveolar canal": 27.0, "maxillary sinus": 25.0, "mandibular incisive canal": 13.0}

_BESIDE = 10.0  # mm beside the midline from which on a scan shows a side
_STIFFNESS = (2.0 / 0.15) ** 2  # mm^2: teeth lie 2 mm off their arch, and arches differ by 0.15 mm a mm
_OFF_THE_ARCH = 5.0  # mm; what a tooth lies off the arch beyond that says nothing about its neighbours
_STRAY, _LEAN = 8.0, 0.5  # mm, and mm a mm between them, by which two teeth may have moved differently
_REACH = (3.0, 3.0, 6.0)  # mm around the place of a tooth that the scan must show, to the left, the back and the top
_OPENING = 10.0  # mm by which an open mouth may part the jaws


def distance_of_partners(structure: Structure) -> float:
    """How far apart a structure and its partner on the other side usually lie, in mm; 0 if that is not known."""
    if structure.fdi is not None:
        return 2 * abs(average_place(structure.fdi)[0])
    name = " ".join(word for word in structure.name.split() if word not in ("left", "right"))
    return 2 * _LATERAL.get(name, 0.0)


def shows_both_sides(case: ReportCase, midline: float) -> bool:
    """Whether a scan reaches well beyond the midline, given in patient mm to the left, on both sides."""
    corners = to_patient(case.geometry, np.array(list(product(*((0, length - 1) for length in case.geometry.shape)))))
    return bool(corners[:, 0].min() + _BESIDE <= midline <= corners[:, 0].max() - _BESIDE)


def teeth_in_field(case: ReportCase, measures: list[Measure]) -> set[int]:
    """FDI numbers of the teeth whose places the scan shows, found or not.

    Where the orientation is not known, these are the teeth between found ones of the same jaw.
    """
    centres = {m.structure.fdi: m.centre for m in measures if m.structure.fdi and m.centre}
    teeth = {m.structure.fdi: m.volume for m in measures if m.structure.fdi}
    whole = [fdi for fdi, volume in teeth.items() if volume >= SMALLEST_TOOTH[fdi % 10 - 1]]
    upper, lower = ([fdi for fdi in arch if fdi in centres] for arch in (UPPER_ARCH, LOWER_ARCH))
    shown = {*upper, *lower}
    for arch, found, opposite, away in ((UPPER_ARCH, upper, lower, 1), (LOWER_ARCH, lower, upper, -1)):
        # A piece of a tooth is no good guide: it does not lie where the whole tooth does.
        guides = [fdi for fdi in found or opposite if fdi in whole] or found or opposite
        if case.oriented and guides:
            opening = np.array([0, 0, 0 if found else _OPENING / 2])
            places = _places(arch, guides, np.array([centres[fdi] for fdi in guides])) + away * opening
            shown.update(fdi for fdi, place in zip(arch, places) if _shows(case.upright, place, _REACH + opening))
        elif found:
            shown.update(arch[arch.index(found[0]) : arch.index(found[-1])])
    return shown


def _along(teeth: Sequence[int]) -> list[int]:
    """The order of teeth along the arch, from -8 at the right wisdom tooth to 8 at the left one."""
    return [fdi % 10 if fdi // 10 in (2, 3) else -(fdi % 10) for fdi in teeth]


def _places(wanted: Sequence[int], guides: Sequence[int], centres: Points) -> Points:
    """Where teeth should lie, (n, 3) in patient mm, by the centres of others, the guides; both from right to left."""
    average, goal = (np.array([average_place(fdi) for fdi in teeth]) for teeth in (guides, wanted))
    moved = centres - average
    agree = _distances(moved) < _STRAY + _LEAN * _distances(average)
    sound = agree[agree.sum(axis=1).argmax()]  # the others are stray pieces of other structures
    average, moved, guides = average[sound], moved[sound], np.array(guides)[sound].tolist()
    # How a tooth has moved from the average: a shift, a slope along the side and the depth, and what remains.
    middle, shift = average[:, :2].mean(axis=0), moved.mean(axis=0)
    spread = average[:, :2] - middle
    slope = np.linalg.solve(spread.T @ spread + _STIFFNESS * np.eye(2), spread.T @ (moved - shift))
    remains = (moved - shift - spread @ slope).clip(-_OFF_THE_ARCH, _OFF_THE_ARCH)
    between = [np.interp(_along(wanted), _along(guides), remains[:, axis]) for axis in range(3)]
    places: Points = goal + shift + (goal[:, :2] - middle) @ slope + np.stack(between, axis=1)
    return places


def _distances(points: Points) -> Points:
    """Between any two of n points, (n, n)."""
    distances: Points = np.linalg.norm(points[:, None] - points, axis=2)
    return distances


def _shows(upright: ReportCase, place: Points, reach: Points) -> bool:
    """Whether a box around a place in patient mm lies in the scan, and for the most part not in its padding."""
    geometry = upright.geometry
    corners = place + reach * list(product((-1, 1), repeat=3)) - geometry.origin
    indices = np.linalg.solve(np.reshape(geometry.direction, (3, 3)), corners.T)[::-1].T / geometry.zyx_spacing
    low, high = indices.min(axis=0).round().astype(int), indices.max(axis=0).round().astype(int) + 1
    if (low < 0).any() or (high > geometry.shape).any():
        return False
    box = upright.image[tuple(slice(*ends) for ends in zip(low, high))]
    return bool(box.min() < np.median(box) < box.max())
