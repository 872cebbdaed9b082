"""What a report is about: a scan, what was found in it, and perhaps the truth, on one grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umamba2.anatomy.numberings import as_training
from umamba2.challenges import MULTICLASS, Challenge
from umamba2.errors import InputError
from umamba2.scans.volumes import Geometry, read_labels, read_volume

# How far apart two grids may lie and still be the same: NIfTI keeps its geometry in single precision.
_GRID_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Reading:
    """One case: ``image`` float32, ``labels`` and ``truth`` uint8 in training ids, all (z, y, x) on ``geometry``.

    ``oriented``: whether the file says which side is left; if not, no picture is marked and no side is checked.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    geometry: Geometry
    challenge: Challenge = MULTICLASS
    numbering: str = "platform"
    truth: np.ndarray | None = None
    oriented: bool = True


def read_case(
    image: str | Path,
    labels: str | Path,
    truth: str | Path | None = None,
    challenge: Challenge = MULTICLASS,
    numbering: str = "platform",
) -> Reading:
    """Read a scan, its label map and, if there is one, the ground truth.

    ``numbering`` names the ids of ``labels``; the ground truth may also have those of the dataset release. Raises
    InputError for unreadable files, unknown ids, an empty label map, or grids that differ.
    """
    volume = read_volume(image)
    found = _read_ids(labels, image, volume.geometry, challenge, numbering)
    true = None if truth is None else _read_ids(truth, image, volume.geometry, challenge, numbering)
    return Reading(Path(image).name, volume.array, found, volume.grid, challenge, numbering, true, volume.oriented)


def _read_ids(path: str | Path, image: str | Path, grid: Geometry, challenge: Challenge, numbering: str) -> np.ndarray:
    labels, geometry = read_labels(path)
    for what, value, expected in (
        ("size", geometry.size, grid.size),
        ("spacing", geometry.spacing, grid.spacing),
        ("origin", geometry.origin, grid.origin),
        ("direction", geometry.direction, grid.direction),
    ):
        if not np.allclose(value, expected, rtol=0, atol=_GRID_TOLERANCE):
            raise InputError(f"{path}: found {what} {_plain(value)}, expected {_plain(expected)} as {image} has")
    return as_training(labels, str(path), challenge.structures, numbering)


def _plain(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
