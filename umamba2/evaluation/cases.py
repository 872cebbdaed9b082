"""What the graders share: label files by name, predictions that may be missing, cases in parallel."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from umamba2.errors import InputError
from umamba2.volumes import Geometry, list_volumes, read_labels, suffix

Task = TypeVar("Task")
Result = TypeVar("Result")

SUFFIXES = (".mha", ".nii.gz")  # the graders', in the order in which they look


def label_files(folder: str | Path) -> list[Path]:
    """The ``.mha`` and ``.nii.gz`` files of a folder, sorted by name. Raises InputError if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected label maps")
    return [path for path in list_volumes(folder) if suffix(path) in SUFFIXES]


def first_existing(folder: Path, name: str) -> Path | None:
    """The file of that name (without suffix) in a folder, ``.mha`` before ``.nii.gz``, or None."""
    return next((path for ending in SUFFIXES if (path := folder / f"{name}{ending}").is_file()), None)


def read_results(path: Path) -> list[tuple[str, str]]:
    """(input, output) file names from a platform's ``results.json``; cases without either are left out.

    Raises InputError, naming the file, if it is not the list that evalutils writes.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
        return [
            (entry["inputs"][0]["filename"], entry["outputs"][0]["filename"])
            for entry in entries
            if entry.get("inputs") and entry.get("outputs")
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: found no list of results ({reason}), expected what evalutils writes") from None


def read_prediction(path: Path | None, case: str) -> tuple[np.ndarray, Geometry] | str:
    """Label array (z, y, x) and grid of a prediction, or one line that says why there is none."""
    if path is None or not path.exists():
        return f"{case}: found no prediction, scored as missing"
    try:
        return read_labels(path)
    except InputError as error:
        return f"{error}; scored as missing"


def small(labels: np.ndarray) -> np.ndarray:
    """The labels as the smallest unsigned type that holds them; negative values become background."""
    if labels.dtype.kind == "i" and labels.min(initial=0) < 0:
        labels = np.where(labels < 0, 0, labels)
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))), copy=False)


def elsewhere(path: Path | None, found: Geometry, expected: Geometry, ignored: str) -> list[str]:
    """A line if two grids of one shape differ in a property that the grader does not look at."""
    for what in ignored.split():
        values = getattr(found, what), getattr(expected, what)
        if not np.allclose(*values, rtol=0, atol=1e-3):
            return [f"{path}: found {what} {values[0]}, expected {values[1]}; compared voxel by voxel all the same"]
    return []


def run_all(score: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> list[Result]:
    """``score`` of each task, in order, in that many processes. Raises ValueError for less than one."""
    if workers < 1:
        raise ValueError(f"workers: found {workers}, expected at least 1")
    if min(workers, len(tasks)) < 2:
        return [score(task) for task in tasks]
    with ProcessPoolExecutor(min(workers, len(tasks))) as pool:
        return list(pool.map(score, tasks))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, 0 of nothing, as in the graders."""
    return sum(values) / len(values) if values else 0.0
