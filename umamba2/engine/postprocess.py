"""From a raw label map to a plausible one: small components go, clicks leave their mark.

The smallest sizes are in the table of structures, `umamba2.anatomy.structures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from umamba2.anatomy.structures import REFERENCE_VOXEL_MM3
from umamba2.challenges.challenge import Challenge, Connectivity
from umamba2.scans.clicks import Clicks

REACH = 2  # voxels: how far from a label a click that touches it may paint
# The voxel itself and its six face neighbours, (z, y, x).
_CROSS = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])


def postprocess(
    labels: np.ndarray, challenge: Challenge, spacing: tuple[float, float, float], clicks: Clicks | None
) -> np.ndarray:
    """The published post-processing of a challenge; returns a new array unless there is none.

    Args:
        labels: The label map (z, y, x) in training ids, unsigned integers.
        challenge: Whose numbers to use.
        spacing: Of the label map, (z, y, x) in mm.
        clicks: What was clicked in the scan, as voxel indices; None if the challenge has no clicks.
    """
    where = foreground_box(labels, REACH)  # nothing happens elsewhere
    part = labels[where]
    if challenge.connectivity is not None:
        part = remove_small(part, challenge.min_voxels, spacing, challenge.connectivity)
    if challenge.takes_clicks and clicks is not None:
        near = np.rint(clicks.coordinates) - [side.start for side in where]
        part = paint_clicks(part, Clicks(near, clicks.labels))
    if part.base is labels or part is labels:
        return labels
    result = np.zeros_like(labels, order="C")
    result[where] = part
    return result


def renumbered(labels: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Labels in the ids of a lookup table, in which background stays; the same array where the ids are the same."""
    if np.array_equal(table, np.arange(len(table))):
        return labels
    where, result = foreground_box(labels), np.zeros(labels.shape, np.uint8)
    result[where] = table[labels[where]]
    return result


def foreground_box(labels: npt.NDArray[Any], reach: int = 0) -> tuple[slice, ...]:
    """The smallest box that holds all labels but background, and ``reach`` voxels around it; empty if there is none."""
    sides: list[slice] = []
    part = labels
    for axis, size in enumerate(labels.shape):
        filled = np.flatnonzero(part.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        part = part[(slice(None),) * axis + (slice(first, last),)]
        sides.append(slice(max(first - reach, 0), min(last + reach, size)) if len(filled) else slice(0, 0))
    return tuple(sides)


def remove_small(
    labels: np.ndarray, min_voxels: Mapping[int, float], spacing: tuple[float, float, float], connectivity: Connectivity
) -> np.ndarray:
    """Delete connected components that are smaller than their class can be; returns a new array.

    The time is linear in the number of voxels, however many components there are. Source: the published
    post-processing of both ToothFairy3 tasks.

    Args:
        labels: (z, y, x), unsigned integers.
        min_voxels: The smallest size that stays by class, in voxels of 0.3 mm; on other grids volumes are compared.
            Classes without one keep everything.
        spacing: Of the labels, (z, y, x) in mm.
        connectivity: 6, 18 or 26 neighbours of equal label.
    """
    result = np.array(labels, order="C")  # a copy
    foreground = np.flatnonzero(result)
    if not min_voxels or foreground.size == 0:
        return result
    # Everything from here on is about foreground voxels only, usually a tenth of the volume.
    component = cc3d.connected_components(result, connectivity=connectivity).ravel()[foreground]
    values = result.ravel()[foreground]
    size = np.bincount(component)
    label_of = np.zeros(size.shape, dtype=np.intp)
    label_of[component] = values
    limit = np.zeros(max(int(values.max()), *min_voxels) + 1)
    limit[list(min_voxels)] = list(min_voxels.values())
    # Files store 0.3 mm as 0.30000001192 or so; six digits make that a factor of exactly 1, so that on the reference
    # grid voxel counts are compared and a component of just the limit stays.
    factor = float(f"{math.prod(spacing) / REFERENCE_VOXEL_MM3:.6g}")
    too_small = size * factor < limit[label_of]
    result.ravel()[foreground[too_small[component]]] = 0
    return result


def paint_clicks(labels: np.ndarray, clicks: Clicks) -> np.ndarray:
    """Give the seven voxels around each click its class, where some of them have it already; returns a new array.

    Source: the published post-processing of ToothFairy3 task 2.

    Args:
        labels: (z, y, x) with 1 left and 2 right canal, the classes of click labels 0 and 1.
        clicks: Voxel indices (z, y, x); voxels of a cross beyond the border are ignored.
    """
    result: npt.NDArray[Any] = labels.copy()
    for centre, label in zip(np.rint(clicks.coordinates).astype(np.int64), clicks.labels):
        if label < 0:
            continue
        cross = centre + _CROSS
        inside = cross[((cross >= 0) & (cross < labels.shape)).all(axis=1)]
        where = tuple(inside.T)
        # Asks the map as predicted, so that the order of the clicks cannot decide whether one of them counts.
        if (labels[where] == label + 1).any():
            result[where] = label + 1
    return result
