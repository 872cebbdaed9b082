"""What the graders share: label files by name, predictions that may be missing, cases in parallel."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from os.path import exists, isfile
from pathlib import Path
from typing import TypeVar

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.volumes import Geometry, first_odd, list_volumes, read_array, suffix

Task = TypeVar("Task")
Result = TypeVar("Result")

RESULTS = "results.json"
SUFFIXES = (".mha", ".nii.gz")  # the graders', in the order in which they look


def label_files(folder: str | Path) -> list[Path]:
    """The ``.mha`` and ``.nii.gz`` files of a folder, sorted by name. Raises InputError if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected label maps")
    return [path for path in list_volumes(folder) if suffix(path) in SUFFIXES]


def files_read(folder: Path) -> Iterator[Path]:
    """Every file below a folder that a grader may look at."""
    yield folder / RESULTS
    yield from (path for path in folder.rglob("*") if suffix(path) in SUFFIXES)


def first_existing(folder: Path, name: str) -> Path | None:
    """The file of that name (without suffix) in a folder, ``.mha`` before ``.nii.gz``, or None."""
    return next((path for ending in SUFFIXES if isfile(path := folder / f"{name}{ending}")), None)


def read_results(path: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """(input, output) file names from a platform's ``results.json``, and a line for each entry that has none.

    Cases without inputs or outputs are left out, as the graders do. Raises InputError if the file holds no list.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: could not be read ({error}), expected the JSON that evalutils writes") from None
    if not isinstance(entries, list):
        raise InputError(f"{path}: found no list of results ({_short(entries)}), expected what evalutils writes")
    names, problems = [], []
    for number, entry in enumerate(entries):
        try:
            if entry.get("inputs") and entry.get("outputs"):
                scan, output = entry["inputs"][0]["filename"], entry["outputs"][0]["filename"]
                names.append((scan + "", output + ""))  # a TypeError if they are no text
        except (LookupError, TypeError, AttributeError):
            expected = "expected file names of an input and an output"
            problems.append(f"{path}: found the entry {number} = {_short(entry)}, {expected}; left out")
    return names, problems


def _short(content: object) -> str:
    text = json.dumps(content)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_prediction(path: Path | None, case: str) -> tuple[np.ndarray | None, Geometry | None, list[str]]:
    """Array (z, y, x) and grid of a prediction, None for one that is missing or cannot be read, and what is odd.

    The array has the type of the file. The graders compare whatever numbers it holds; so fractions are odd, no more.
    """
    if path is None or not exists(path):
        return None, None, [f"{case}: found no prediction, scored as missing"]
    try:
        array, grid = read_array(path)
    except (InputError, OSError) as error:
        return None, None, [f"{error}; scored as missing"]
    if array.dtype.kind == "c":
        return None, None, [f"{path}: found complex values, expected whole numbers; scored as missing"]
    odd = first_odd(array)
    problem = f"{path}: found the value {odd}, expected whole numbers; scored as it is"
    return array, grid, [] if odd is None else [problem]


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
    try:
        with ProcessPoolExecutor(min(workers, len(tasks)), initializer=_leave_quietly) as pool:
            return list(pool.map(score, tasks))
    except BrokenProcessPool:
        raise InputError(f"workers: found one of {workers} ended by the system, expected memory for all") from None


def _leave_quietly() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is told once, by the process that has the terminal


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, 0 of nothing, as in the graders."""
    return sum(values) / len(values) if values else 0.0
