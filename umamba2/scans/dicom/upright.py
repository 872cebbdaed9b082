"""Volumes whose slices lean against each other, as those of a tilted gantry do, with their slices shifted upright."""

from __future__ import annotations

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.dicom.places import Stack
from umamba2.scans.geometry import Array, Geometry
from umamba2.scans.voxels import check_memory

_LEAST_SHIFT = 0.25  # voxels from the first slice to the last; less shows nowhere
_MOST_TILT = 45.0  # degrees; gantries reach 30


def upright(array: Array, stack: Stack, name: str, warnings: list[str]) -> tuple[Array, Geometry]:
    """An array with its slices above each other, and its grid.

    Args:
        array: The slices (z, y, x) of a stack.
        stack: Where they lie.
        name: What messages call the scan.
        warnings: Gets a line if slices were shifted.

    Raises:
        InputError: They lean further than any gantry does.
    """
    normal = np.cross(*stack.axes)
    distance = float(stack.step @ normal)
    per_layer = stack.axes @ stack.step / stack.spacing  # voxels, (x, y)
    shift = per_layer * (len(array) - 1)
    origin = stack.origin
    if np.abs(shift).max() > _LEAST_SHIFT:
        angle = float(np.degrees(np.arctan2(np.linalg.norm(stack.step - distance * normal), distance)))
        if angle > _MOST_TILT:
            found = f"found slices that lean by {angle:.0f} degrees"
            raise InputError(f"{name}: {found}, expected at most {_MOST_TILT:.0f} (a tilted gantry)")
        warnings.append(
            f"{name}: found slices that lean by {angle:.1f} degrees (a tilted gantry), expected them above each other; "
            "shifted and interpolated"
        )
        array = _shifted(array, per_layer, name)
        origin = origin + (np.minimum(shift, 0) * stack.spacing) @ stack.axes
    z, y, x = array.shape
    columns = np.stack([*stack.axes, normal], axis=1) + 0.0  # no -0
    left, back, up = (round(float(mm), 9) for mm in origin)
    spacing = (*stack.spacing, round(distance, 9))
    return array, Geometry((x, y, z), spacing, (left, back, up), tuple(columns.ravel().tolist()))


def _shifted(array: Array, per_layer: Array, name: str) -> Array:
    """Slices shifted by so many voxels (x, y) from layer to layer, in an array that holds them all; air around."""
    depth, height, width = array.shape
    room = np.ceil(np.abs(per_layer) * (depth - 1) - 1e-6).astype(int)
    shape = (depth, height + int(room[1]), width + int(room[0]))
    check_memory(name, int(np.prod(shape, dtype=np.int64)) * array.itemsize)
    result = np.full(shape, array.min(), array.dtype)
    first = np.minimum(per_layer * (depth - 1), 0)
    for layer, plane in enumerate(array):
        x, y = per_layer * layer - first
        left, top = int(x), int(y)
        moved = _moved(_moved(plane, x - left, 1), y - top, 0)
        if array.dtype.kind == "i":
            moved = np.rint(moved)
        part = result[layer, top : top + height + 1, left : left + width + 1]
        part[:] = moved[: part.shape[0], : part.shape[1]]  # one less where it moves by whole voxels
    return result


def _moved(plane: Array, part: float, axis: int) -> Array:
    """A slice moved by part of a voxel along an axis, along which it has one voxel more then."""
    wider = np.pad(plane, [(1, 1) if side == axis else (0, 0) for side in range(2)], mode="edge")
    here, before = (np.moveaxis(wider, axis, 0)[start:][: plane.shape[axis] + 1] for start in (1, 0))
    return np.moveaxis(here * (1 - part) + before * part, 0, axis)
