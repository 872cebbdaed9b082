"""How the axes of an array lie in the patient, and arrays, grids and clicks turned so that they lie another way.

Patient coordinates are ITK's and DICOM's, LPS: x grows to the patient's left, y to the back (posterior), z to the top
(superior). A code such as "LPS" names the directions in which the indices x, y and z grow, as ITK's
DICOMOrientImageFilter does. Turning flips and exchanges axes, nothing more: no voxel changes, and all of it can be
undone. An *upright* array lies as "LPS" says, so that its axes (z, y, x) grow to S, P and L.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.geometry import Array, Geometry, Triple

UPRIGHT = "LPS"
_OPPOSITE = {"L": "R", "P": "A", "S": "I"}
_PATIENT_AXIS = {letter: axis for axis, pair in enumerate(_OPPOSITE.items()) for letter in pair}


@dataclass(frozen=True)
class Orientation:
    """How to turn arrays on one grid so that their axes grow in the directions of a code.

    Attributes:
        axes: Which axis of the array becomes the first, second and third.
        backwards: Whether it runs the other way then.
        spacing: In mm along the turned axes.
        tilt: By how many degrees the grid leans away from the patient's axes, where it leans most.
    """

    axes: tuple[int, int, int]
    backwards: tuple[bool, bool, bool]
    spacing: Triple
    tilt: float

    def upright(self, array: Array) -> Array:
        """An array (z, y, x) on the grid as a turned view."""
        view: Array = array.transpose(self.axes)[self._flips]
        return view

    def back(self, array: Array) -> Array:
        """A turned array as a view (z, y, x) that lies as the grid does; what `upright` undoes."""
        view: Array = array[self._flips].transpose(np.argsort(self.axes))
        return view

    def stored(self, axis: int, index: int, length: int) -> tuple[str, int]:
        """Where a place in a turned array is in the file.

        Args:
            axis: Of the turned array.
            index: On that axis.
            length: Of that axis, in voxels.

        Returns:
            The file's name of the axis ("x", "y" or "z"), and the index on it.
        """
        return "zyx"[self.axes[axis]], length - 1 - index if self.backwards[axis] else index

    @property
    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if back else 1) for back in self.backwards)


def code(geometry: Geometry) -> str:
    """The directions in the patient in which x, y and z grow on a grid, such as "LPS"; the nearest if it leans."""
    letters = list(_OPPOSITE)
    return "".join(letters[row] if cosine > 0 else _OPPOSITE[letters[row]] for row, cosine in _patient_axes(geometry))


def tilt(geometry: Geometry) -> float:
    """By how many degrees a grid leans away from the patient's axes, where it leans most."""
    least = min(abs(cosine) for _, cosine in _patient_axes(geometry))
    return float(np.degrees(np.arccos(min(least, 1.0))))


def orientation(geometry: Geometry, wanted: str = UPRIGHT) -> Orientation:
    """How to turn arrays on a grid so that they lie as a code says.

    Raises:
        InputError: The code does not name one direction of each pair L and R, P and A, S and I.
    """
    if len(wanted) != 3 or {_PATIENT_AXIS.get(letter) for letter in wanted} != {0, 1, 2}:
        raise InputError(f"orientation: found {wanted!r}, expected one of L and R, P and A, S and I each, as in LPS")
    own = code(geometry)
    order = [[_PATIENT_AXIS[letter] for letter in own].index(_PATIENT_AXIS[letter]) for letter in wanted]
    x, y, z = ((2 - axis, own[axis] != letter, geometry.spacing[axis]) for axis, letter in zip(order, wanted))
    return Orientation((z[0], y[0], x[0]), (z[1], y[1], x[1]), (z[2], y[2], x[2]), tilt(geometry))


def turned(array: Array, geometry: Geometry, wanted: str) -> tuple[Array, Geometry]:
    """An array (z, y, x) as a view that lies in the patient as a code says, and the grid of that view."""
    how = orientation(geometry, wanted)
    direction, origin = np.reshape(geometry.direction, (3, 3)), np.array(geometry.origin)
    columns, size = [], []
    for axis, backwards in zip(reversed(how.axes), reversed(how.backwards)):  # the turned grid's x, y, z
        own = 2 - axis
        if backwards:
            origin = origin + direction[:, own] * geometry.spacing[own] * (geometry.size[own] - 1)
        columns.append(direction[:, own] * (-1 if backwards else 1))
        size.append(geometry.size[own])
    grid = Geometry(
        (size[0], size[1], size[2]),
        (how.spacing[2], how.spacing[1], how.spacing[0]),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple((np.stack(columns, axis=1) + 0.0).ravel().tolist()),  # no -0
    )
    return how.upright(array), grid


def turned_back(array: Array, geometry: Geometry, wanted: str) -> Array:
    """The way back from `turned`.

    Args:
        array: An array that lies as the code says, such as the label map of a turned scan.
        geometry: The grid before turning.
        wanted: The code.

    Returns:
        A view (z, y, x) that lies as the grid does.
    """
    return orientation(geometry, wanted).back(array)


def box_turned_back(
    box: tuple[slice, ...], shape: tuple[int, ...], geometry: Geometry, wanted: str
) -> tuple[slice, ...]:
    """A part of a turned array as the same part of the array before turning; shape and geometry are that array's."""
    how, own = orientation(geometry, wanted), dict[int, slice]()
    for axis, backwards, side in zip(how.axes, how.backwards, box):
        own[axis] = slice(shape[axis] - side.stop, shape[axis] - side.start) if backwards else side
    return own[0], own[1], own[2]


def turned_points(points: Array, shape: tuple[int, int, int], geometry: Geometry, wanted: str) -> Array:
    """Where points, such as clicks, lie in an array that `turned` has turned.

    Args:
        points: (n, 3) voxel indices (z, y, x), whole or not.
        shape: (z, y, x) of the array before turning.
        geometry: Its grid.
        wanted: The code.

    Returns:
        (n, 3) voxel indices (z, y, x) in the turned array, in the same type.
    """
    how = orientation(geometry, wanted)
    result = np.array(points)[:, list(how.axes)]
    for axis, backwards in enumerate(how.backwards):
        if backwards:
            result[:, axis] = shape[how.axes[axis]] - 1 - result[:, axis]
    return result


def to_patient(geometry: Geometry, points: Array) -> Array:
    """Patient coordinates (n, 3), mm, LPS, of points (n, 3) given as array indices (z, y, x)."""
    direction = np.reshape(geometry.direction, (3, 3))
    placed: Array = np.asarray(points, float)[:, ::-1] * geometry.spacing @ direction.T + geometry.origin
    return placed


def to_voxels(geometry: Geometry, points: Array) -> Array:
    """Array indices (n, 3), (z, y, x), whole or not, of points (n, 3) in patient coordinates, mm, LPS."""
    axes = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    placed: Array = np.linalg.solve(axes, (np.asarray(points, float) - geometry.origin).T).T[:, ::-1]
    return placed


def _patient_axes(geometry: Geometry) -> list[tuple[int, float]]:
    """For the grid axes x, y and z: the patient axis (0 L, 1 P, 2 S) next to each, and the cosine between them."""
    direction = np.reshape(geometry.direction, (3, 3))  # [patient axis][grid axis]
    best = max(permutations(range(3)), key=lambda rows: sum(abs(direction[row, axis]) for axis, row in enumerate(rows)))
    return [(row, float(direction[row, axis])) for axis, row in enumerate(best)]
