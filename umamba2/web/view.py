"""A scan as the viewer in the browser shows it, and places and boxes on the way between the two.

The viewer gets its own grid: the scan's axes turned to RAS (x to the patient's right, y to the front, z to the top),
the first voxel at 0, axes along the millimetres. So nothing depends on how the viewer turns what it reads, and a place
that it names, in mm on that grid, is a place in the file by arithmetic alone, for oblique scans too. Where a browser
could not hold all voxels, every second or third one is shown; places stay what they are.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from umamba2.errors import InputError
from umamba2.scans.geometry import Array, Geometry
from umamba2.scans.orientation import Orientation, code, orientation, tilt, turned, turned_points
from umamba2.scans.volumes import Volume, to_image

VIEWER = "RAS"
MOST_SHOWN = 100_000_000  # voxels: 400 MB on the graphics card
LONGEST_SHOWN = 2048  # voxels along an axis: what graphics cards hold
Box = tuple[tuple[int, int, int], tuple[int, int, int]]  # first voxel, and the one after the last
_NIFTI_HEADER = 352  # bytes
_TO_RAS = (-1.0, -1.0, 1.0)  # of ITK's LPS


@dataclass(frozen=True)
class View:
    """How a scan is shown; `View.of` makes one.

    Attributes:
        file: The scan's grid.
        grid: The turned grid, with all voxels.
        how: How to turn.
        steps: Every how many voxels of the turned array, (z, y, x), one is shown.
        oriented: Whether the file says which side is which.
    """

    file: Geometry
    grid: Geometry
    how: Orientation
    steps: tuple[int, int, int]
    oriented: bool

    @classmethod
    def of(cls, volume: Volume) -> View:
        """The view of a scan."""
        array, grid = turned(volume.array, volume.grid, VIEWER)
        steps = [-(-length // LONGEST_SHOWN) for length in array.shape]
        while np.prod([-(-length // step) for length, step in zip(array.shape, steps)]) > MOST_SHOWN:
            sizes = [step * mm for step, mm in zip(steps, grid.zyx_spacing)]
            steps[int(np.argmin(sizes))] += 1
        how = orientation(volume.grid, VIEWER)
        return cls(volume.grid, grid, how, (steps[0], steps[1], steps[2]), volume.oriented)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is shown, (z, y, x)."""
        return tuple(-(-length // step) for length, step in zip(self.grid.shape, self.steps))

    def shown(self, array: Array) -> Array:
        """What is shown of an array on the scan's grid (a view of it)."""
        return self.how.upright(array)[self._every]

    def write(self, array: Array, path: Path) -> None:
        """Write the voxels that are shown as the NIfTI file that the viewer reads, uncompressed.

        Raises:
            InputError: The disk has no room for it.
        """
        pieces = self.shown(array)
        spacing = [mm * step for mm, step in zip(self.grid.zyx_spacing, self.steps)]
        grid = Geometry(pieces.shape[::-1], tuple(spacing[::-1]), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))  # type: ignore[arg-type]
        with suppress(RuntimeError):
            sitk.WriteImage(to_image(pieces, grid), str(path), useCompression=False)
        # ITK's writer says nothing when a disk is full.
        if not path.is_file() or path.stat().st_size != _NIFTI_HEADER + pieces.nbytes:
            path.unlink(missing_ok=True)
            raise InputError("scan: found no room on the disk for what the viewer reads, expected more; close others")

    def voxel(self, position: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The place in the file, voxels (z, y, x), of a position in the viewer, mm (x, y, z)."""
        places = (np.asarray(position, float).reshape(1, 3) / self.grid.spacing)[:, ::-1]
        voxel: npt.NDArray[np.float64] = turned_points(places, self.grid.shape, self.grid, code(self.file))[0]
        return voxel

    def position(self, voxel: npt.ArrayLike) -> list[float]:
        """The position in the viewer, mm (x, y, z), of voxels (z, y, x) in the file."""
        places = turned_points(np.asarray(voxel, float).reshape(1, 3), self.file.shape, self.file, VIEWER)
        return [round(float(mm), 4) for mm in places[0, ::-1] * self.grid.spacing]

    def seen(self, patient: npt.ArrayLike) -> list[float]:
        """The position in the viewer, mm (x, y, z), of a place in the patient, mm (L, P, S)."""
        direction = np.reshape(self.grid.direction, (3, 3))
        return [round(float(mm), 4) for mm in np.linalg.solve(direction, np.asarray(patient) - self.grid.origin)]

    def box(self, box: Box) -> Box:
        """The box of shown voxels (z, y, x) that holds all of a box of the file."""
        corners = np.array([box[0], np.subtract(box[1], 1)])
        places = turned_points(corners, self.file.shape, self.file, VIEWER)
        low, high = places.min(0) // self.steps, -(-(places.max(0) + 1) // self.steps)
        high = np.maximum(np.minimum(high, self.shape), low)
        return _triple(low), _triple(high)

    def file_box(self, box: Box) -> tuple[slice, slice, slice]:
        """Where in an array on the file's grid the voxels of a shown box are (z, y, x), with those left out between."""
        first = np.multiply(box[0], self.steps)
        last = np.minimum(np.multiply(box[1], self.steps), self.grid.shape) - 1
        places = turned_points(np.array([first, last]), self.grid.shape, self.grid, code(self.file))
        low, high = places.min(0), places.max(0) + 1
        return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])

    def facts(self) -> dict[str, Any]:
        """What the page must know, as JSON can hold it."""
        directions = (np.reshape(self.grid.direction, (3, 3)).T * _TO_RAS).T
        zero, units = self.voxel((0, 0, 0)), [self.voxel(unit) for unit in np.eye(3)]
        return {
            "size": list(self.file.size),
            "spacing": [round(mm, 5) for mm in self.file.spacing],
            "shape": list(self.shape[::-1]),
            "steps": list(self.steps[::-1]),
            "oriented": self.oriented,
            "code": code(self.file) if self.oriented else None,
            "tilt": round(tilt(self.file), 1) if self.oriented else None,
            # From a position in the viewer to mm in the patient (R, A, S), and to voxels of the file (x, y, z).
            "patient": [*directions.ravel().tolist(), *(np.array(self.grid.origin) * _TO_RAS).tolist()],
            "voxels": [*(np.stack(units, 1) - zero[:, None])[::-1].ravel().tolist(), *zero[::-1].tolist()],
        }

    @property
    def _every(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, step) for step in self.steps)


def _triple(values: npt.NDArray[Any]) -> tuple[int, int, int]:
    z, y, x = (int(value) for value in values)
    return z, y, x
