"""The two ToothFairy3 graders (the organisers' ``evaluation.py``): Dice and HD95 of every class, in voxels.

A class that both masks lack has Dice 1 and HD95 0; one that a single mask lacks has Dice 0 and the array's diagonal,
and so has every class of a prediction that is missing or cannot be read. Both graders find the predictions in a folder
of label maps named like the ground truth, or in a container's output folder with ``results.json``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from os.path import exists
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.numberings import describe_unknown, ids_in, ids_of, to_training
from umamba2.anatomy.structures import Structure
from umamba2.challenges import Challenge
from umamba2.errors import InputError
from umamba2.evaluation.cases import (
    RESULTS,
    Report,
    elsewhere,
    first_existing,
    label_files,
    left_over,
    mean,
    read_prediction,
    read_results,
    run_all,
)
from umamba2.evaluation.metrics import class_masks, dice, hd95
from umamba2.scans.geometry import Array
from umamba2.scans.volumes import read_labels, stem

RUNS = range(6)  # the interactive challenge runs every scan with 0 to 5 clicks


@dataclass(frozen=True)
class _Case:
    """A ground truth and its predictions, each with whether it was handed in or only should have been."""

    truth: Path
    predictions: tuple[tuple[Path, bool], ...]


@dataclass(frozen=True)
class _Scores:
    """One prediction: Dice, HD95 and presence in the ground truth of each class, in the order of training ids."""

    prediction: Path
    truth: Path
    dice: list[float]
    hd95: list[float]
    present: list[bool]
    problems: list[str]


def evaluate_classes(
    challenge: Challenge, predictions: str | Path, truths: str | Path, numbering: str, workers: int
) -> Report:
    """Grade as ToothFairy3's first task: mean Dice and HD95 over all classes, per case and over all cases.

    Every ground truth is a case. Arguments, errors and result as `umamba2.evaluation.evaluate`; ``case`` and
    ``aggregates`` have the grader's form.
    """
    found, problems = _predictions(challenge, predictions)
    cases = []
    expected = _truths(truths, problems)
    for name, truth in expected.items():
        scan = _scan(truth.name)  # the ground truth, too, may be called by a channel
        files = found.pop(name if name in found or scan in expected else scan, [])
        problems += [f"{path}: found another prediction of {name}, expected one; it counts too" for path in files[1:]]
        cases.append(_Case(truth, tuple((path, True) for path in files) or ((Path(predictions) / truth.name, False),)))
    scores = _score_all(challenge, cases, numbering, workers)
    columns: dict[str, list[Any]] = {
        "Dice Average": [mean(s.dice) for s in scores],
        "HD95 Average": [mean(s.hd95) for s in scores],
        "pred_fname": [str(s.prediction) for s in scores],
        "gt_fname": [str(s.truth) for s in scores],
    }
    rows = {name: {str(i): value for i, value in enumerate(values)} for name, values in columns.items()}
    return _report(challenge, numbering, rows, scores, problems + _left_over(found, truths))


def evaluate_click_runs(
    challenge: Challenge, predictions: str | Path, truths: str | Path, numbering: str, workers: int
) -> Report:
    """Grade as ToothFairy3's second task: Dice and HD95 over six runs with 0 to 5 clicks.

    The ground truth of prediction ``<case>_<n>`` is ``<case>``. ``AUC`` is the integral over the runs by trapezoids of
    width 1, ``Final`` the value of the last. As in the grader, a run too many counts as one more. Arguments, errors and
    result as `evaluate_classes`.
    """
    found, problems = _predictions(challenge, predictions)
    cases = []
    for name, truth in _truths(truths, problems).items():
        runs: list[tuple[int, Path, bool]] = []
        seen = set()
        for scan in [scan for scan in found if scan.rsplit("_", 1)[0] == name]:
            number = _number(scan)
            for path in found.pop(scan):
                if number not in RUNS or number in seen:
                    expected = f"expected {name}_0 to {name}_5, one each"
                    problems.append(f"{path}: found a run too many ({scan}), {expected}; it counts too")
                seen.add(number)
                runs.append((_number(_scan(path.name)), path, True))
        ending = truth.name[len(name) :]
        runs += [(n, Path(predictions) / f"{name}_{n}{ending}", False) for n in RUNS if n not in seen]
        runs.sort(key=lambda run: run[0])
        cases.append(_Case(truth, tuple((path, given) for _, path, given in runs)))
    scores = _score_all(challenge, cases, numbering, workers)
    rows: dict[str, dict[str, float]] = {"Dice_AUC": {}, "Dice_Final": {}, "HD95_AUC": {}, "HD95_Final": {}}
    for case in cases:
        of_case = [s for s in scores if s.truth == case.truth]
        for metric, values in (("Dice", [mean(s.dice) for s in of_case]), ("HD95", [mean(s.hd95) for s in of_case])):
            rows[f"{metric}_AUC"][str(case.truth)] = sum((a + b) / 2 for a, b in pairwise(values))
            rows[f"{metric}_Final"][str(case.truth)] = values[-1]
    return _report(challenge, numbering, rows, scores, problems + _left_over(found, truths))


def _report(
    challenge: Challenge,
    numbering: str,
    rows: Mapping[str, Mapping[str, float | str]],
    scores: Sequence[_Scores],
    problems: list[str],
) -> Report:
    """The report from the scores of every case, by column, and of every prediction.

    ``per_class`` has means over all predictions; its ``count`` is how many ground truths, one per prediction, hold the
    class.
    """
    return {
        "case": rows,
        "aggregates": {name: summary(list(values.values())) for name, values in rows.items()},
        "per_class": [
            {
                "id": ids_of(structure, numbering)[0],
                "name": structure.name,
                "Dice": mean([s.dice[i] for s in scores]),
                "HD95": mean([s.hd95[i] for s in scores]),
                "count": sum(s.present[i] for s in scores),
            }
            for i, structure in enumerate(challenge.structures)
        ],
        "problems": [problem for s in scores for problem in s.problems] + problems,
    }


def summary(values: Sequence[Any]) -> dict[str, float | None]:
    """Summarise a column as the graders do, by pandas' ``describe``, of which text has only the counts.

    The standard deviation of a single value is None.
    """
    if values and isinstance(values[0], str):
        return {"count": float(len(values)), "freq": float(max(Counter(values).values()))}
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    quartiles = dict(zip(("min", "25%", "50%", "75%", "max"), map(float, np.percentile(values, (0, 25, 50, 75, 100)))))
    return {"count": float(len(values)), "mean": float(np.mean(values)), "std": deviation, **quartiles}


def _truths(folder: str | Path, problems: list[str]) -> dict[str, Path]:
    """The ground truth by the name of the scan; ``problems`` gets a line for each file that is left out."""
    files: dict[str, Path] = {}
    for path in label_files(folder):  # .mha comes before .nii.gz, and the grader takes the first
        first = files.setdefault(stem(path), path)
        if first is not path:
            problems.append(_doubled(path, first))
    if not files:
        raise InputError(f"{folder}: found no .mha or .nii.gz files, expected the ground truth")
    return files


def _doubled(path: Path, first: Path) -> str:
    return f"{path}: found {first.name} for the same scan, expected one file; left out"


def _predictions(challenge: Challenge, folder: str | Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The predictions by the name of their scan, as ``results.json`` has it, else as the files are called; and a line
    for each that is left out."""
    folder = Path(folder)
    images = folder / challenge.output_folder
    images = images if images.is_dir() else folder
    found: dict[str, list[Path]] = {}
    if not (folder / RESULTS).is_file():
        problems = []
        for path in label_files(images):  # .mha comes before .nii.gz
            first = found.setdefault(_scan(path.name), [path])[0]
            if first is not path:
                problems.append(_doubled(path, first))
        return found, problems
    entries, problems = read_results(folder / RESULTS)
    scans: dict[str, str] = {}
    twice = []
    for scan, output in entries:
        if scans.get(output, scan) != scan:
            twice.append(f"{output} for {scans[output]} and {scan}")
        scans[output] = scan
    if twice:
        more = f" and {len(twice) - 1:,} more of that kind" if len(twice) > 1 else ""
        problems.append(f"{folder / RESULTS}: found {twice[0][:300]}{more}, expected one; the last counts")
    for output, scan in scans.items():
        found.setdefault(_scan(scan), []).append(_output(images, output))
    return found, problems


def _output(folder: Path, name: str) -> Path:
    path = folder / Path(name).name
    return path if exists(path) else first_existing(folder, stem(path)) or path


def _scan(name: str) -> str:
    return stem(name).removesuffix("_0000")


def _number(name: str) -> int:
    """The number that a name ends with, or -1, as the grader has it."""
    found = re.search(r"_(\d+)$", name)
    return int(found[1]) if found else -1


def _left_over(found: dict[str, list[Path]], truths: str | Path) -> list[str]:
    paths = [path for _, paths in sorted(found.items()) for path in paths]
    return left_over(paths, truths)


def _score_all(challenge: Challenge, cases: list[_Case], numbering: str, workers: int) -> list[_Scores]:
    results = run_all(partial(_score_case, challenge=challenge, numbering=numbering), cases, workers)
    return [scores for case in results for scores in case]


def _score_case(case: _Case, challenge: Challenge, numbering: str) -> list[_Scores]:
    said: list[str] = []
    labels, expected = read_labels(case.truth, said)
    unknown_ids = partial(_unknown_ids, structures=challenge.structures, numbering=numbering)
    table = to_training(challenge.structures, numbering, released=True)
    truth = _classes(labels, table)
    unknown = unknown_ids(case.truth, labels, truth, table)
    table = _graded_ids(challenge, numbering)
    scores = []
    for path, given in case.predictions:
        found, grid, problems = read_prediction(path if given else None, str(path), said)
        if found is None or grid is None:
            prediction = None
        elif found.shape != truth.shape:
            prediction = None
            problems = [
                f"{path}: found shape {found.shape}, expected {truth.shape} as in {case.truth}; scored as missing"
            ]
        else:
            prediction = _classes(found, table)
            problems = problems or unknown_ids(path, found, prediction, table)
            problems += elsewhere(path, grid, expected, "direction spacing origin")
        values = dice_and_hd95(truth, prediction, len(challenge.structures))
        scores.append(_Scores(path, case.truth, *values, said + unknown + problems))
        said, unknown = [], []  # said once for all predictions
    return scores


def _graded_ids(challenge: Challenge, numbering: str) -> npt.NDArray[np.uint8]:
    """Lookup table from the ids in a prediction to training ids; the grader merges the pulps of single teeth."""
    table = to_training(challenge.structures, numbering)
    for structure in challenge.structures:
        if structure.group == "pulp":
            table[list(structure.dataset)] = structure.training
    return table


def _classes(labels: Array, table: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if labels.dtype != np.uint8:
        ids = np.where((labels >= 0) & (labels <= 255), labels, 0).astype(np.uint8)
        labels = np.where(ids == labels, ids, 0)  # fractions are no class
    classes: npt.NDArray[np.uint8] = table[labels]
    return classes


def _unknown_ids(
    path: Path,
    labels: Array,
    classes: npt.NDArray[np.uint8],
    table: npt.NDArray[np.uint8],
    structures: Sequence[Structure],
    numbering: str,
) -> list[str]:
    """A line if a label map of whole numbers has ids without a meaning; ``classes`` is the same in training ids."""
    if np.count_nonzero(classes) == np.count_nonzero(labels):  # far faster than a list of all ids
        return []
    return [f"{path}: {describe_unknown(ids_in(labels), structures, numbering, table)}"]


def dice_and_hd95(truth: Array, prediction: Array | None, classes: int) -> tuple[list[float], list[float], list[bool]]:
    """Compare the classes of two label maps.

    Args:
        truth: Integers (z, y, x).
        prediction: The same shape; None for one that is missing: Dice 0 and the diagonal throughout.
        classes: Compare the labels 1 to this.

    Returns:
        Of every class: Dice, HD95 in voxels, and whether the truth has it.
    """
    diagonal = float(np.linalg.norm(truth.shape))
    if prediction is None:
        sizes = np.bincount(np.minimum(truth, classes + 1).ravel(), minlength=classes + 1)[1 : classes + 1]
        return [0.0] * classes, [diagonal] * classes, (sizes > 0).tolist()
    dices, distances, present = [1.0] * classes, [0.0] * classes, [False] * classes
    for label, ours, theirs in class_masks(truth, prediction):
        if label > classes:
            break
        i = int(label) - 1
        present[i] = ours is not None
        if ours is None or theirs is None:
            dices[i], distances[i] = 0.0, diagonal
        else:
            dices[i], distances[i] = dice(ours, theirs), hd95(ours, theirs)
    return dices, distances, present
