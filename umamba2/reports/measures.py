"""How large each structure is, where it lies, and how well it agrees with the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umamba2.anatomy.structures import Structure
from umamba2.reports.reading import Labels, ReportCase
from umamba2.scans.geometry import Triple
from umamba2.scans.orientation import to_patient


@dataclass(frozen=True)
class Measure:
    """What was found of one structure.

    Attributes:
        structure: Which.
        voxels: Its size in voxels.
        volume: Its size in mm^3.
        centre: Its centre of mass in patient mm (L, P, S); None if only the truth has it.
        at_border: Whether it reaches the edge of the scan, so that some of it may be missing.
        dice: Dice coefficient; None without a truth.
        hd95: 95th percentile of surface distances in voxels, as ToothFairy3 grades it; None if one of the two lacks the
            structure.
    """

    structure: Structure
    voxels: int
    volume: float
    centre: Triple | None
    at_border: bool
    dice: float | None = None
    hd95: float | None = None


def measure(case: ReportCase) -> list[Measure]:
    """Measure every structure that the labels or the truth hold, in the order of the table of anatomy."""
    upright = case.upright
    agreement = {} if case.truth is None else _agreement(case.truth, case.labels)
    voxel = float(np.prod(case.geometry.spacing))
    measures = []
    for structure in case.challenge.structures:
        dice, hd95 = agreement.get(structure.training, (None, None))
        profiles = [profile[structure.training] for profile in upright.profiles]
        voxels = int(profiles[0].sum())
        if voxels:
            middle = [profile @ np.arange(len(profile)) / voxels for profile in profiles]
            x, y, z = to_patient(upright.geometry, np.array([middle]))[0].tolist()
            at_border = any(profile[0] or profile[-1] for profile in profiles)
            measures.append(Measure(structure, voxels, voxels * voxel, (x, y, z), at_border, dice, hd95))
        elif structure.training in agreement:
            measures.append(Measure(structure, 0, 0.0, None, False, dice, hd95))
    return measures


def _agreement(truth: Labels, labels: Labels) -> dict[int, tuple[float, float | None]]:
    from umamba2.evaluation.metrics import class_masks, dice, hd95

    return {
        int(number): (0.0, None) if true is None or found is None else (dice(true, found), hd95(true, found))
        for number, true, found in class_masks(truth, labels)
    }
