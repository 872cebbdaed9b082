"""The numbers of a report: volumes per structure, and how well they agree with the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from umamba2.anatomy.numberings import ids_of
from umamba2.anatomy.structures import Structure
from umamba2.files import write_file
from umamba2.reports.reading import Reading
from umamba2.scans.orientation import to_patient


@dataclass(frozen=True)
class Measure:
    """What was found of one structure: size, place, and agreement with the truth if there is one.

    ``centre`` in patient mm (L, P, S), None if the structure is only in the truth. ``at_border``: it reaches the edge
    of the scan, so that some of it may be missing. ``hd95`` in voxels, as ToothFairy3 grades it, None (as is ``dice``)
    without a truth; ``hd95`` is also None if only one of the two has the structure.
    """

    structure: Structure
    voxels: int
    volume: float  # mm^3
    centre: tuple[float, float, float] | None
    at_border: bool
    dice: float | None = None
    hd95: float | None = None


def measure(reading: Reading) -> list[Measure]:
    """Measure every structure that the labels or the truth hold, in the order of the table of anatomy."""
    labels, truth = reading.labels, reading.truth
    boxes = ndimage.find_objects(labels)
    counts = np.bincount(labels.ravel(), minlength=reading.challenge.num_classes)
    agreement = {} if truth is None else _agreement(truth, labels)
    voxel = float(np.prod(reading.geometry.spacing))
    measures = []
    for structure in reading.challenge.structures:
        number, count = structure.training, int(counts[structure.training])
        dice, hd95 = agreement.get(number, (None, None))
        if count:
            box = boxes[number - 1]
            middle = np.array(ndimage.center_of_mass(labels[box] == number)) + [axis.start for axis in box]
            centre = tuple(float(value) for value in to_patient(reading.geometry, middle[None])[0])
            at_border = any(axis.start == 0 or axis.stop == size for axis, size in zip(box, labels.shape))
            measures.append(Measure(structure, count, count * voxel, centre, at_border, dice, hd95))  # type: ignore[arg-type]
        elif number in agreement:
            measures.append(Measure(structure, 0, 0.0, None, False, dice, hd95))
    return measures


def _agreement(truth: np.ndarray, labels: np.ndarray) -> dict[int, tuple[float, float | None]]:
    from umamba2.evaluation.metrics import class_masks, dice, hd95

    return {
        int(number): (0.0, None) if true is None or found is None else (dice(true, found), hd95(true, found))
        for number, true, found in class_masks(truth, labels)
    }


def as_json(reading: Reading, measures: list[Measure], remarks: list) -> dict:
    """The numbers and remarks of a report as plain data; ids are those of the label map."""
    structures = [
        {
            "id": ids_of(m.structure, reading.numbering)[0],
            "fdi": m.structure.fdi,
            "name": m.structure.name,
            "voxels": m.voxels,
            "volume_mm3": round(m.volume, 4),
            "volume_ml": round(m.volume / 1000, 7),
            "centre_lps_mm": None if m.centre is None else [round(value, 3) for value in m.centre],
            "at_border": m.at_border,
            **({} if reading.truth is None else {"dice": m.dice, "hd95_voxels": m.hd95}),
        }
        for m in measures
    ]
    return {
        "case": reading.name,
        "challenge": reading.challenge.name,
        "numbering": reading.numbering,
        "size_xyz": list(reading.geometry.size),
        "spacing_xyz_mm": list(reading.geometry.spacing),
        "structures": structures,
        "remarks": [{"level": remark.level, "text": remark.text} for remark in remarks],
    }


def write_statistics(path: str | Path, reading: Reading) -> None:
    """Write volumes, agreement and remarks of a case as JSON; InputError if that is not possible."""
    from umamba2.reports.checks import check

    measures = measure(reading)
    write_file(path, json.dumps(as_json(reading, measures, check(reading, measures)), indent=2, allow_nan=False) + "\n")
