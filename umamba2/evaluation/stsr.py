"""The STSR 2025 grader: Dice, IoU and surface Dice at 2 mm of the foreground and of every label, and IA.

Image values are means over cases. Instance values belong to a label of a ground truth and are pooled over all cases.
IA, identification accuracy, is the number of ground truth labels with an IoU of at least 0.5 over the number of labels
in either map. A prediction that is missing or cannot be read scores 0 for the image and IA and, as in the published
script, adds no instances.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from umamba2.anatomy.numberings import describe_unknown, ids_of
from umamba2.challenges import Challenge
from umamba2.errors import InputError
from umamba2.evaluation.cases import Report, elsewhere, label_files, left_over, mean, read_prediction, run_all
from umamba2.evaluation.metrics import (
    MOST_LABELS,
    Spacing,
    TooManyLabels,
    bounding_box,
    class_masks,
    dice,
    iou,
    joint_box,
    surface_dice,
)
from umamba2.scans.geometry import Array, Geometry
from umamba2.scans.volumes import from_image, read_labels, stem, to_image

TOLERANCE = 2.0  # mm
MATCH = 0.5  # IoU from which on a label counts as identified
METRICS = ("Dice", "IoU", "NSD")


@dataclass(frozen=True)
class CaseScores:
    """One case: ``image`` (Dice, IoU, NSD) of the foreground, the same for each ground truth label, IA, and the labels
    of the prediction."""

    image: tuple[float, float, float] = (0.0, 0.0, 0.0)
    instances: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    accuracy: float = 0.0
    predicted: tuple[float, ...] = ()
    problems: list[str] = field(default_factory=list)


def evaluate_instances(
    challenge: Challenge, predictions: str | Path, truths: str | Path, numbering: str, workers: int
) -> Report:
    """Grade as STSR 2025 task 1: the seven scores and their mean, ``All_Average``.

    Where outputs have a suffix, the case is the second-to-last part of a file name split at ``_`` (0001 of
    ``STS25_Validation_0001_Mask.nii.gz``), else the name. A prediction of another size or spacing is resampled to the
    ground truth, nearest neighbour. Two files of one case are an error. Arguments and result as
    `umamba2.evaluation.evaluate`; labels are compared as they are, whatever their numbering.
    """
    (expected, nameless), (found, others) = (_by_case(folder, challenge) for folder in (truths, predictions))
    if not expected:
        raise InputError(f"{truths}: found no ground truth, expected files named like ..._<case>_Mask.nii.gz")
    files = [(case, path, found.pop(case, None)) for case, path in expected.items()]
    results = run_all(partial(_score_files, challenge=challenge, numbering=numbering), files, workers)
    return {
        **_scores(results),
        "case": {case: _scores([result]) for case, result in zip(expected, results)},
        "per_class": _per_class(results, {ids_of(s, numbering)[0]: s.name for s in challenge.structures}),
        "problems": [problem for result in results for problem in result.problems]
        + nameless
        + others
        + left_over(list(found.values()), truths),
    }


def score_case(truth: Array, prediction: Array, spacing: Spacing) -> CaseScores:
    """Compare two label maps.

    Args:
        truth: (z, y, x) of any real type; what is not above 0 is background.
        prediction: The same shape.
        spacing: (z, y, x) in mm.
    """
    box = joint_box([bounding_box(truth), bounding_box(prediction)])
    if box is not None:
        truth, prediction = truth[box], prediction[box]
    image = _compare(truth > 0, prediction > 0, spacing)
    instances, labels, predicted = {}, 0, []
    for label, ours, theirs in class_masks(truth, prediction):
        labels += 1
        if theirs is not None:
            predicted.append(label)
        if ours is not None:
            instances[int(label)] = (0.0, 0.0, 0.0) if theirs is None else _compare(ours, theirs, spacing)
    matched = sum(overlap >= MATCH for _, overlap, _ in instances.values())
    return CaseScores(image, instances, matched / labels if labels else 1.0, tuple(predicted))


def _compare(truth: Array, prediction: Array, spacing: Spacing) -> tuple[float, float, float]:
    return dice(truth, prediction), iou(truth, prediction), surface_dice(truth, prediction, spacing, TOLERANCE)


def _by_case(folder: str | Path, challenge: Challenge) -> tuple[dict[str, Path], list[str]]:
    """The files of a folder by their case, and a line for each that names none."""
    files: dict[str, Path] = {}
    problems = []
    for path in label_files(folder):
        parts = path.name.split("_") if challenge.suffix else [stem(path), ""]
        case = parts[-2] if len(parts) > 1 else None
        if case is None:
            problems.append(f"{path}: found no case in the name, expected ..._<case>_Mask.nii.gz; left out")
        elif case in files:
            raise InputError(f"{path}: found {files[case].name} for case {case} too, expected one file each")
        else:
            files[case] = path
    return files, problems


def _score_files(files: tuple[str, Path, Path | None], challenge: Challenge, numbering: str) -> CaseScores:
    case, truth_path, path = files
    odd: list[str] = []
    truth, grid = read_labels(truth_path, odd)
    labels, found, problems = read_prediction(path, f"case {case} ({truth_path.name})", odd)
    if path is None or labels is None or found is None:
        return CaseScores(problems=odd + problems)
    fractions = bool(problems)
    problems = odd + problems
    for where, array in ((truth_path, truth), (path, labels)):
        if -np.inf < (lowest := array.min(initial=0)) < 0:
            expected = "expected 0 or more; those below 0 are background"
            problems.append(f"{where}: found values down to {lowest:g}, {expected}")
    # The grader looks at nothing else: grids that differ only in origin or direction are compared voxel by voxel.
    if found.size != grid.size or found.spacing != grid.spacing:
        labels = resample(labels, found, grid)
        # Formats round spacings differently; that is nothing to tell.
        if found.size != grid.size or not np.allclose(found.spacing, grid.spacing, rtol=0, atol=1e-5):
            grids = f"found size {found.size}, spacing {found.spacing}, expected {grid.size}, {grid.spacing}"
            problems.append(f"{path}: {grids}; resampled")
    else:
        problems += elsewhere(path, found, grid, "direction origin")
    try:
        scores = score_case(truth, labels, grid.zyx_spacing)
    except TooManyLabels as error:
        expected = f"expected a label map with at most {MOST_LABELS:,}"
        if error.which == 0:
            raise InputError(f"{truth_path}: found {error}, {expected}") from None
        return CaseScores(problems=[*problems, f"{path}: found {error}, {expected}; scored as missing"])
    predicted = () if fractions else tuple(map(int, scores.predicted))
    for where, ids in ((truth_path, tuple(scores.instances)), (path, predicted)):
        unknown = describe_unknown(ids, challenge.structures, numbering)
        problems += [f"{where}: {unknown}"] if unknown else []
    return replace(scores, problems=problems)


def resample(labels: Array, found: Geometry, grid: Geometry) -> Array:
    """Bring a label map to another grid by nearest neighbour; it is background where the map has no voxels.

    Args:
        labels: (z, y, x), of any real type.
        found: Its grid.
        grid: The other grid.
    """
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid.size)
    resampler.SetOutputSpacing(grid.spacing)
    resampler.SetOutputOrigin(grid.origin)
    resampler.SetOutputDirection(grid.direction)
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    return from_image(resampler.Execute(to_image(labels, found)))[0]


def _scores(results: list[CaseScores]) -> dict[str, float]:
    instances = [values for result in results for values in result.instances.values()]
    scores = {f"{name}_Image": mean([r.image[i] for r in results]) for i, name in enumerate(METRICS)}
    scores |= {f"{name}_Instance": mean([values[i] for values in instances]) for i, name in enumerate(METRICS)}
    scores["IA"] = mean([r.accuracy for r in results])
    return {**scores, "All_Average": mean(list(scores.values()))}


def _per_class(results: list[CaseScores], names: dict[int, str]) -> list[dict[str, Any]]:
    rows = []
    for label in sorted({label for result in results for label in result.instances}):
        values = [result.instances[label] for result in results if label in result.instances]
        means = {name: mean([value[i] for value in values]) for i, name in enumerate(METRICS)}
        rows.append({"id": label, "name": names.get(label, f"label {label}"), **means, "count": len(values)})
    return rows
