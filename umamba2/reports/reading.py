"""What a report is about: a scan, what was found in it, and perhaps the truth, on one grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.numberings import as_training, ids_in
from umamba2.challenges import MULTICLASS, Challenge
from umamba2.scans.geometry import Geometry, check_same_grid
from umamba2.scans.orientation import UPRIGHT, turned
from umamba2.scans.volumes import Volume, read_labels, read_volume

Labels = npt.NDArray[np.uint8]

# Structures that lie around the others. Pictures show them as a veil, and are not cut where these are largest.
SURROUNDINGS = ("jaws", "sinuses", "pharynx")


@dataclass(frozen=True)
class ReportCase:
    """One case. All arrays are (z, y, x) and lie on one grid.

    Attributes:
        name: What readers call it.
        image: Intensities of a real type.
        labels: The segmentation in training ids.
        geometry: The grid.
        challenge: What names the structures.
        numbering: The ids by which the report calls them.
        truth: The true segmentation in training ids, if it is known.
        oriented: Whether the file says how it lies in the patient; if not, no picture is marked and no side is checked.
        warnings: What is odd about the files, one line each.
        notes: What was changed in the segmentation after the network, one line each.
    """

    name: str
    image: npt.NDArray[Any]
    labels: Labels
    geometry: Geometry
    challenge: Challenge = MULTICLASS
    numbering: str = "platform"
    truth: Labels | None = None
    oriented: bool = True
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of_volume(
        cls,
        volume: Volume,
        name: str,
        labels: Labels,
        challenge: Challenge,
        numbering: str,
        truth: Labels | None = None,
    ) -> ReportCase:
        """The case of a scan; the arguments are the attributes."""
        warnings = tuple(warning.replace(volume.name, name) for warning in volume.warnings)
        grid = volume.grid
        return cls(name, volume.array, labels, grid, challenge, numbering, truth, volume.oriented, warnings)

    @cached_property
    def upright(self) -> ReportCase:
        """The same case with arrays whose axes grow to the patient's top, back and left (views, no copies)."""
        labels, geometry = turned(self.labels, self.geometry, UPRIGHT)
        image, _ = turned(self.image, self.geometry, UPRIGHT)
        truth = None if self.truth is None else turned(self.truth, self.geometry, UPRIGHT)[0]
        return replace(self, image=image, labels=labels, truth=truth, geometry=geometry)

    @cached_property
    def profiles(self) -> tuple[npt.NDArray[np.int64], ...]:
        """For each axis, how many voxels of each training id lie in each plane across it: (classes, length)."""
        return _profiles(self.labels, self.challenge.num_classes)

    @cached_property
    def truth_profiles(self) -> tuple[npt.NDArray[np.int64], ...]:
        """`profiles` of the truth; without one, of the labels."""
        return self.profiles if self.truth is None else _profiles(self.truth, self.challenge.num_classes)

    @cached_property
    def inner_ids(self) -> list[int]:
        """Training ids of the structures that are no ``SURROUNDINGS``; if none of these was found, of all."""
        structures = self.challenge.structures
        inner = [s.training for s in structures if s.group not in SURROUNDINGS]
        return inner if self.profiles[0][inner].any() else [s.training for s in structures]


def read_case(
    image: str | Path,
    labels: str | Path,
    truth: str | Path | None = None,
    challenge: Challenge = MULTICLASS,
    numbering: str = "platform",
    series: str | None = None,
) -> ReportCase:
    """Read a scan, its label map and, if there is one, the ground truth.

    Args:
        image: The scan.
        labels: The segmentation.
        truth: The true segmentation; it may also have the ids of the dataset release.
        challenge: What names the structures.
        numbering: The ids in the label maps.
        series: Which DICOM series, as in `read_volume`.

    Raises:
        InputError: A file cannot be read, has unknown ids or no structure, or the grids differ.
    """
    volume = read_volume(image, series)
    files = [labels] if truth is None else [labels, truth]
    odd: list[str] = []
    maps = [_read_map(path, volume, odd) for path in files]
    challenge = challenge.as_found(numbering, *map(ids_in, maps))
    found = [as_training(one, str(path), challenge.structures, numbering) for one, path in zip(maps, files)]
    true = None if truth is None else found[1]
    case = ReportCase.of_volume(volume, Path(image).name, found[0], challenge, numbering, true)
    return replace(case, warnings=(*case.warnings, *odd))


def span(profile: npt.NDArray[np.int64]) -> slice:
    """From the first to the last plane with a voxel, by the number of voxels in each plane (there is at least one)."""
    planes = np.flatnonzero(profile)
    return slice(int(planes[0]), int(planes[-1]) + 1)


def _profiles(labels: Labels, classes: int) -> tuple[npt.NDArray[np.int64], ...]:
    _, height, width = labels.shape
    along_z, along_y, along_x = (np.zeros((classes, length), np.int64) for length in labels.shape)
    for z, plane in enumerate(labels):  # plane by plane, for numpy counts in 64-bit copies
        y, x = np.nonzero(plane)
        ids = plane[y, x].astype(np.int64)
        along_y += np.bincount(ids * height + y, minlength=along_y.size).reshape(along_y.shape)
        along_x += np.bincount(ids * width + x, minlength=along_x.size).reshape(along_x.shape)
        along_z[:, z] = np.bincount(ids, minlength=classes)
    return along_z, along_y, along_x


def read_ids(path: str | Path, volume: Volume, challenge: Challenge, numbering: str) -> Labels:
    """Read a label map that belongs to a scan, in training ids.

    Args:
        path: The file.
        volume: The scan.
        challenge: What names the structures.
        numbering: The ids in the file.

    Raises:
        InputError: It cannot be read, has unknown ids or no structure, or lies on another grid than the scan.
    """
    return as_training(_read_map(path, volume), str(path), challenge.structures, numbering)


def _read_map(path: str | Path, volume: Volume, odd: list[str] | None = None) -> npt.NDArray[Any]:
    said: list[str] = []
    labels, geometry = read_labels(path, said)
    if odd is not None:
        odd += [line.replace(str(path), Path(path).name) for line in said]
    check_same_grid(str(path), geometry, volume.name, volume.geometry)
    return labels
