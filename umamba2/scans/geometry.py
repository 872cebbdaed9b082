"""Where a grid of voxels lies in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from umamba2.errors import InputError

Array = np.ndarray[Any, Any]
Triple = tuple[float, float, float]

# How far apart two grids may lie and still be the same: NIfTI keeps its geometry in single precision.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Geometry:
    """Where a grid lies in the patient.

    Attributes:
        size: In voxels, (x, y, z), as all of these.
        spacing: In mm.
        origin: Where the centre of the first voxel lies, in mm: x to the patient's left, y to the back, z to the top.
        direction: The nine direction cosines, row by row; column k is the direction in which grid axis k grows.
    """

    size: tuple[int, int, int]
    spacing: Triple
    origin: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def of_array(cls, shape: Sequence[int], spacing: Sequence[float], origin: Triple = (0.0, 0.0, 0.0)) -> Geometry:
        """The grid of an array whose axes run along the patient's.

        Args:
            shape: (z, y, x) in voxels.
            spacing: (z, y, x) in mm.
            origin: (x, y, z) in mm.
        """
        (depth, height, width), (z, y, x) = shape, spacing
        return cls((width, height, depth), (x, y, z), origin)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an array on this grid, (z, y, x)."""
        x, y, z = self.size
        return (z, y, x)

    @property
    def zyx_spacing(self) -> Triple:
        """The spacing in the order of an array's axes, (z, y, x), in mm."""
        x, y, z = self.spacing
        return (z, y, x)


def check_same_grid(name: str, geometry: Geometry, of: str, expected: Geometry) -> None:
    """Raise InputError if a label map, called ``name``, does not lie on the grid of a scan, called ``of``."""
    for what in ("size", "spacing", "origin", "direction"):
        value, wanted = getattr(geometry, what), getattr(expected, what)
        if not np.allclose(value, wanted, rtol=0, atol=_TOLERANCE):
            raise InputError(f"{name}: found {what} {_text(value)}, expected {_text(wanted)} as {of} has")


def check_written(path: str, written: Geometry, wanted: Geometry) -> None:
    """Raise InputError if a corner lies over half a voxel off: for NIfTI, ITK turns axes to right angles, wordlessly.

    Args:
        path: The file, for the message.
        written: The grid that it states.
        wanted: The grid that it should have.
    """
    corners = np.array(list(product(*((0, n - 1) for n in wanted.size))))
    places, expected = (
        corners @ (np.reshape(grid.direction, (3, 3)) * grid.spacing).T + grid.origin for grid in (written, wanted)
    )
    off = float(np.linalg.norm(places - expected, axis=1).max())
    if not off <= min(wanted.spacing) / 2:
        found = f"a corner {off:.2g} mm off once written, as its format holds no directions {_text(wanted.direction)}"
        raise InputError(f"{path}: found {found}, expected right angles and lengths of 1 (.mha and .nrrd hold others)")


def _text(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
