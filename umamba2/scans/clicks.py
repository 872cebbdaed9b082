"""Clicks on the alveolar canals: find the file of a case, read it, mirror it; simulate them as the grader does.

A click is a voxel of the input image in array order (z, y, x) and a label, 0 left or 1 right (-1 pads batches). The
files are Grand Challenge's "Multiple points", with one difference that matters: ToothFairy3 stores voxel indices in
array order, not millimetres.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from umamba2.errors import InputError
from umamba2.files import found_at, once

NAMES = {"Left_IAC": 0, "Right_IAC": 1}
LEFT_RIGHT_AXIS = 2
MOST_CLICKS = 1000  # of one scan; the platform gives up to ten, and each costs time in every tile
_MOST_WARNINGS = 5
_MOST_BYTES = 8_000_000
_LONGEST_NAME = 255  # bytes, of a file


class Clicks(NamedTuple):
    """``coordinates`` (N, 3) float32, voxel indices (z, y, x); ``labels`` (N,) int64, 0 left, 1 right. N may be 0."""

    coordinates: npt.NDArray[np.floating]
    labels: npt.NDArray[np.int64]


def no_clicks() -> Clicks:
    """No clicks at all."""
    return Clicks(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))


def mirrored(
    clicks: Clicks, axes: Iterable[int], shape: Sequence[int], left_right_axis: int | None = LEFT_RIGHT_AXIS
) -> Clicks:
    """The clicks on a mirror image.

    Args:
        clicks: The clicks on the image.
        axes: Array axes (0 z, 1 y, 2 x) along which it is mirrored.
        shape: (z, y, x) of the image.
        left_right_axis: Mirroring along this axis turns left into right, so that labels 0 and 1 trade places; -1
            stays. None: there is no such axis.
    """
    coordinates, labels = clicks.coordinates.copy(), clicks.labels.copy()
    for axis in axes:
        coordinates[:, axis] = shape[axis] - 1 - coordinates[:, axis]
        if axis == left_right_axis:
            labels = np.where(labels < 0, labels, 1 - labels)
    return Clicks(coordinates, labels)


def file_names(case: str) -> tuple[str, str]:
    """The two names that a case's click file may have, the platform's first: runs are called ``<case>_..._<run>``."""
    parts = case.split("_")
    return f"iac_clicks_{parts[0]}_{parts[-1]}.json", f"iac_clicks_{case}.json"


def find_click_file(folder: str | Path, case: str, others: Iterable[str] = ()) -> Path | None:
    """The click file of a case: under its names, else the folder's only ``*clicks*.json``.

    Args:
        folder: Where click files are.
        case: The case's name.
        others: The cases processed along with this one; files that bear their names are left to them.

    Returns:
        The file, or None if there is none. Several files that could all be meant count as none, because a wrong guess
        clicks on another patient; so does a file that could be meant for several cases.
    """
    folder, others = Path(folder), list(others)
    for name in _own_names(case, others):
        if os.path.isfile(folder / name):  # not Path.is_file, which raises where a name is too long
            return folder / name
    taken = {name for other in others if other != case for name in file_names(other)}
    candidates = [path for path in folder.glob("*clicks*.json") if path.is_file() and path.name not in taken]
    return candidates[0] if len(candidates) == 1 else None


def click_file(folder: str | Path, case: str, others: Iterable[str] = ()) -> Path:
    """What `find_click_file` finds, with the same arguments, or where it expected a file, for `read_clicks` to say."""
    others = list(others)
    return find_click_file(folder, case, others) or Path(folder) / _own_names(case, others)[0]


def _own_names(case: str, others: Iterable[str]) -> tuple[str, ...]:
    """The names that can only mean this case: the platform's leaves out the middle, so patients may share it."""
    short, exact = file_names(case)
    shared = any(other != case and file_names(other)[0] == short for other in others)
    return (exact,) if shared or len(os.fsencode(short)) > _LONGEST_NAME else (short, exact)


def read_clicks(path: str | Path, shape: tuple[int, int, int]) -> tuple[Clicks, tuple[str, ...]]:
    """Read a click file.

    Args:
        path: A JSON file, ``{"points": [{"point": [z, y, x], "name": "Left_IAC" or "Right_IAC"}, ...]}``.
        shape: (z, y, x) of the image that is clicked on.

    Returns:
        The usable clicks, at most `MOST_CLICKS`, and a few lines about those that are not.

    Raises:
        InputError: The file is missing, very large, or has another form.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: found {found_at(path)}, expected the clicks of this case")
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path}: found {path.stat().st_size:,} bytes, expected at most {_MOST_BYTES:,} of clicks")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: found no readable JSON ({_brief(error)}), expected a click file") from None
    points = content.get("points") if isinstance(content, dict) else None
    if not isinstance(points, list):
        raise InputError(f"{path}: found {_brief(content)}, expected an object with a list of 'points'")
    coordinates, labels, warnings, bad = [], [], [], 0
    for number, point in enumerate(points, start=1):
        reason = _what_is_wrong(point, shape)
        if reason:
            bad += 1
            if bad <= _MOST_WARNINGS:
                warnings.append(f"{path}: click {number} left out, {reason}")
        else:
            coordinates.append(point["point"])
            labels.append(NAMES[point["name"]])
    if bad > _MOST_WARNINGS:
        warnings.append(
            f"{path}: found {bad - _MOST_WARNINGS:,} more clicks of that kind, expected none; left out, too"
        )
    if len(labels) > MOST_CLICKS:
        warnings.append(f"{path}: found {len(labels):,} clicks, expected at most {MOST_CLICKS:,}; the others left out")
        del coordinates[MOST_CLICKS:], labels[MOST_CLICKS:]
    # Just within the last voxel, single precision would round a click up and out of the image.
    last = np.nextafter(np.array(shape, np.float32) - np.float32(0.5), np.float32(0))
    clicks = Clicks(np.minimum(np.array(coordinates, np.float32).reshape(-1, 3), last), np.array(labels, np.int64))
    return clicks, tuple(warnings)


def click_json(points: Iterable[tuple[str, Sequence[int]]]) -> str:
    """The content of a click file.

    Args:
        points: Pairs of a name, one of `NAMES`, and a voxel (z, y, x).
    """
    content = {
        "version": {"major": 1, "minor": 0},
        "type": "Multiple points",
        "points": [{"point": list(point), "name": name} for name, point in points],
    }
    return json.dumps(content, indent=1) + "\n"


def simulate_clicks(
    mask: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    count: int = 5,
    slice_noise: int = 5,
    in_slice_noise: int = 3,
    tries: int = 10,
) -> list[tuple[int, int, int]]:
    """Click on a canal as the official ToothFairy3 simulator does (ToothFairy3/Interactive-Segmentation).

    The first click lies up to ``slice_noise`` slices inside of the canal's first slice, the last one as far inside of
    its last; between them the others are spread evenly. A lone click is the first of the five that the platform gives
    out one by one.

    Args:
        mask: One canal, (z, y, x).
        rng: Where the noise comes from.
        count: How many clicks, spread along axis 0.
        slice_noise: How many slices a click may lie from its place.
        in_slice_noise: How many voxels per axis a click may lie from the median of the canal in its slice.
        tries: How many draws may miss the canal before a random voxel of it in that slice is taken.

    Returns:
        Voxels (z, y, x), ``count`` of them, or none for an empty mask.
    """
    canal = np.argwhere(mask)
    if not len(canal):
        return []
    filled = np.unique(canal[:, 0])
    lowest, highest = canal.min(0), canal.max(0)

    def nearest(slices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        chosen: npt.NDArray[np.int64] = filled[np.abs(filled - slices[:, None]).argmin(1)]
        return chosen

    inside = rng.integers(0, slice_noise + 1, 2)
    first, last = lowest[0] + inside[0], highest[0] - inside[1]
    slices = nearest(np.linspace(first, last, count).astype(int)) + rng.integers(-slice_noise, slice_noise + 1, count)
    slices = nearest(np.clip(slices, first, max(first, last)))
    slices[-1] = last if last in filled else highest[0]
    slices[0] = first if first in filled else lowest[0]
    clicks = []
    for z in slices:
        here = canal[canal[:, 0] == z][:, 1:]
        median = np.median(here, axis=0).astype(int)
        for _ in range(tries):
            noise = rng.integers(-in_slice_noise, in_slice_noise + 1, 2)
            y, x = np.clip(median + noise, lowest[1:], highest[1:])
            if mask[z, y, x]:
                break
        else:
            y, x = here[rng.integers(len(here))]
        clicks.append((int(z), int(y), int(x)))
    return clicks


def _what_is_wrong(point: object, shape: tuple[int, int, int]) -> str | None:
    if not isinstance(point, dict):
        return f"found {_brief(point)}, expected an object with 'point' and 'name'"
    name, where = point.get("name"), point.get("point")
    if not isinstance(name, str) or name not in NAMES:
        return f"found the name {_brief(name)}, expected {' or '.join(NAMES)}"
    # True is an int to Python; comparing, unlike converting to an array, also copes with integers of any length.
    if not isinstance(where, list) or len(where) != 3 or any(type(c) not in (int, float) for c in where):
        return f"found the point {_brief(where)}, expected three numbers (z, y, x)"
    if not all(-float("inf") < c < float("inf") for c in where):
        return f"found the point {_brief(where)}, expected finite numbers (z, y, x)"
    if not all(-0.5 <= c < size - 0.5 for c, size in zip(where, shape)):
        return f"found the point {_brief(where)}, expected voxels (z, y, x) inside an image of shape {tuple(shape)}"
    return None


def _brief(value: object) -> str:
    # Messages are one line, whatever somebody put into the file.
    text = " ".join((str(value) if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= 80 else text[:77] + "..."
