"""What the graders share: label files by name, predictions that may be missing, cases in parallel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from os.path import exists, isfile
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from umamba2.errors import InputError
from umamba2.files import read_json_value
from umamba2.messages import leave_quietly, pool_of_processes
from umamba2.scans.geometry import Array, Geometry
from umamba2.scans.parts import parts_of
from umamba2.scans.volumes import first_odd, list_volumes, read_array, suffix

Report: TypeAlias = dict[str, Any]  # as JSON can hold it
Work = TypeVar("Work")
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
    yield from (part for path in folder.rglob("*") if suffix(path) in SUFFIXES for part in parts_of(path))


def first_existing(folder: Path, name: str) -> Path | None:
    """The file of that name (without suffix) in a folder, ``.mha`` before ``.nii.gz``, or None."""
    return next((path for ending in SUFFIXES if isfile(path := folder / f"{name}{ending}")), None)


def read_results(path: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """(input, output) file names from a platform's ``results.json``, and a line if entries have none.

    Cases without inputs or outputs are left out, as the graders do. Raises InputError if the file holds no list,
    or a key twice.
    """
    entries = read_json_value(path, "the JSON that evalutils writes")
    if not isinstance(entries, list):
        raise InputError(f"{path}: found no list of results ({_short(entries)}), expected what evalutils writes")
    names, bad = [], []
    for number, entry in enumerate(entries):
        try:
            if entry.get("inputs") and entry.get("outputs"):
                scan, output = entry["inputs"][0]["filename"], entry["outputs"][0]["filename"]
                names.append((scan + "", output + ""))  # a TypeError if they are no text
        except (LookupError, TypeError, AttributeError):
            bad.append(number)
    if not bad:
        return names, []
    which = f"{len(bad):,} entries, the first of them" if len(bad) > 1 else "the entry"
    found = f"{which} {bad[0]} = {_short(entries[bad[0]])}"
    return names, [f"{path}: found {found}, expected file names of an input and an output; left out"]


def _short(content: object) -> str:
    text = json.dumps(content)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_prediction(path: Path | None, case: str, odd: list[str]) -> tuple[Array | None, Geometry | None, list[str]]:
    """Read a prediction as the graders do, which compare whatever numbers it holds.

    Args:
        path: The file; None if it was not handed in.
        case: What the message calls a missing one.
        odd: Gets one line for everything that is odd about the file, whatever numbers it holds.

    Returns:
        Array (z, y, x) in the file's own type and its grid, None for what is missing or cannot be read; and one line
        for everything that is odd about its numbers, such as fractions.
    """
    if path is None or not exists(path):
        return None, None, [f"{case}: found no prediction, scored as missing"]
    try:
        array, grid = read_array(path, odd)
    except (InputError, OSError) as error:
        return None, None, [f"{error}; scored as missing"]
    if array.dtype.kind == "c":
        return None, None, [f"{path}: found complex values, expected whole numbers; scored as missing"]
    fraction = first_odd(array)
    problem = f"{path}: found the value {fraction}, expected whole numbers; scored as it is"
    return array, grid, [] if fraction is None else [problem]


def left_over(paths: Sequence[Path], truths: str | Path) -> list[str]:
    """A line if there are predictions of which there is no ground truth."""
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return [f"{paths[0]}{more}: found no ground truth in {truths}, left out"] if paths else []


def elsewhere(path: Path | None, found: Geometry, expected: Geometry, ignored: str) -> list[str]:
    """A line if two grids of one shape differ in a property that the grader does not look at.

    Args:
        path: What the line calls the one found.
        found: The grid of a prediction.
        expected: The grid of the ground truth.
        ignored: Those properties, the first one that differs is named.
    """
    for what in ignored.split():
        values = getattr(found, what), getattr(expected, what)
        if not np.allclose(*values, rtol=0, atol=1e-3):
            how = f"found {what} {values[0]}, expected {values[1]}"
            if what == "direction" and (axes := _mirrored(*values)):
                how = f"found a grid that is mirrored along {axes} ({what} {values[0]}), expected {values[1]}"
            return [f"{path}: {how}; compared voxel by voxel all the same"]
    return []


def _mirrored(found: Sequence[float], expected: Sequence[float]) -> str:
    """The axes (such as "x and y") that run the other way in one of two directions; "" if that is not all."""
    turn = np.reshape(expected, (3, 3)).T @ np.reshape(found, (3, 3))
    signs = np.sign(np.diag(turn))
    backwards = [axis for axis, sign in zip("xyz", signs) if sign < 0]
    return " and ".join(backwards) if np.allclose(turn, np.diag(signs), atol=1e-3) else ""


def run_all(score: Callable[[Work], Result], cases: Sequence[Work], workers: int) -> list[Result]:
    """Score cases in parallel.

    Args:
        score: What to call with each case; picklable, as are its results.
        cases: What to score.
        workers: Processes.

    Returns:
        The results in the order of the cases.

    Raises:
        ValueError: ``workers`` is less than one.
        InputError: The system ended a process.
    """
    if workers < 1:
        raise ValueError(f"workers: found {workers}, expected at least 1")
    if min(workers, len(cases)) < 2:
        return [score(case) for case in cases]
    pool = pool_of_processes(min(workers, len(cases)), leave_quietly)
    try:
        return list(pool.map(score, cases))
    except BrokenProcessPool:
        raise InputError(f"workers: found one of {workers} ended by the system, expected memory for all") from None
    finally:
        pool.shutdown(cancel_futures=True)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, 0 of nothing, as in the graders."""
    return sum(values) / len(values) if values else 0.0
