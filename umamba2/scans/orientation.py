"""How the axes of an array lie in the patient, and arrays turned the way the pictures need them.

Patient coordinates are ITK's and DICOM's, LPS: x grows to the patient's left, y to the back (posterior), z to the top
(superior). An *upright* array has the axes (S, P, L), each growing in that direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from umamba2.scans.volumes import Geometry, suffix


@dataclass(frozen=True)
class Orientation:
    """Which array axis (z, y, x) runs along S, P and L, whether it runs backwards, and by how many degrees it leans."""

    axes: tuple[int, int, int]
    backwards: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]  # mm along S, P, L
    tilt: float

    def upright(self, array: np.ndarray) -> np.ndarray:
        """An array (z, y, x) as a view with the axes (S, P, L)."""
        return array.transpose(self.axes)[tuple(slice(None, None, -1 if back else 1) for back in self.backwards)]

    def stored(self, axis: int, index: int, length: int) -> tuple[str, int]:
        """The file's name of an axis ("x", "y" or "z") and of an index on it, for a position in an upright array."""
        return "zyx"[self.axes[axis]], length - 1 - index if self.backwards[axis] else index


def orientation(geometry: Geometry) -> Orientation:
    """The upright orientation nearest to a grid's direction cosines."""
    direction = np.reshape(geometry.direction, (3, 3))  # [patient axis L, P, S][grid axis x, y, z]
    best = max(permutations(range(3)), key=lambda order: sum(abs(direction[row, order[row]]) for row in range(3)))
    cosines = [float(direction[row, best[row]]) for row in (2, 1, 0)]
    grid = [best[row] for row in (2, 1, 0)]
    axes, backwards = [2 - axis for axis in grid], [cosine < 0 for cosine in cosines]
    spacing = [float(geometry.spacing[axis]) for axis in grid]
    tilt = float(np.degrees(np.arccos(np.clip(min(map(abs, cosines)), 0, 1))))
    return Orientation(tuple(axes), tuple(backwards), tuple(spacing), tilt)  # type: ignore[arg-type]


def states_orientation(path: str) -> bool:
    """Whether files of that name say how they lie in the patient; TIFF has no place for it."""
    return suffix(path) not in (".tif", ".tiff")


def to_patient(geometry: Geometry, points: np.ndarray) -> np.ndarray:
    """Patient coordinates (n, 3), mm, LPS, of points (n, 3) given as array indices (z, y, x)."""
    direction = np.reshape(geometry.direction, (3, 3))
    return np.asarray(points, float)[:, ::-1] * geometry.spacing @ direction.T + geometry.origin
