"""How the arrays of a dataset lie in the patient, measured from the labels themselves, whatever the headers say.

Left structures against right ones, upper teeth and jaws against lower ones, molars against incisors: three directions,
which name the orientation (see `umamba2.scans.orientation`). A network learns from arrays, so this is what it must be
told about a scan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.structures import Structure

AGREEMENT = 0.8  # of the cases that show it have to lie alike
CLEAR = 2.0  # a direction runs along an axis if it is that many times as long there as along any other
STEP = 2  # only every second voxel along each axis is looked at
Array = npt.NDArray[np.float64]


def measured_code(
    labels: npt.NDArray[np.integer], structures: Iterable[Structure], spacing: Sequence[float]
) -> str | None:
    """How a label map lies in the patient.

    Args:
        labels: (z, y, x) in the dataset's numbering.
        structures: What the ids mean.
        spacing: (z, y, x) in mm.

    Returns:
        The directions in which x, y and z grow, such as "LPS"; None if the structures do not show all three.
    """
    places = _centroids(labels, structures, spacing)
    sides = [(s, p) for s, p in places.items() if "left" in s.name.split() and s.partner]
    by_name = {s.name: p for s, p in places.items()}
    to_left = [p - by_name[s.partner] for s, p in sides if s.partner in by_name]
    upper, lower = ([p for s, p in places.items() if s.name.startswith(word)] for word in ("upper", "lower"))
    front = {s.fdi // 10: p for s, p in places.items() if s.fdi and s.fdi % 10 in (1, 2)}
    to_back = [p - front[s.fdi // 10] for s, p in places.items() if s.fdi and s.fdi % 10 > 5 and s.fdi // 10 in front]
    axes = ["", "", ""]  # z, y, x
    for letters, shifts in (
        ("LR", to_left),
        ("PA", to_back),
        ("SI", [np.mean(upper, axis=0) - np.mean(lower, axis=0)] if upper and lower else []),
    ):
        if not shifts:
            return None
        shift = np.mean(shifts, axis=0)
        along = int(np.argmax(np.abs(shift)))
        if abs(shift[along]) < CLEAR * np.delete(np.abs(shift), along).max():
            return None
        axes[along] = letters[int(shift[along] < 0)]
    return "".join(reversed(axes)) if all(axes) else None


def common_code(codes: Sequence[str | None]) -> str | None:
    """The orientation that nearly all of the cases have which show one; None if there is no such."""
    known = Counter(code for code in codes if code)
    if not known:
        return None
    code, count = known.most_common(1)[0]
    return code if count >= AGREEMENT * known.total() else None


def _centroids(
    labels: npt.NDArray[np.integer], structures: Iterable[Structure], spacing: Sequence[float]
) -> dict[Structure, Array]:
    """The centre of every structure that is there, in mm along the array's axes."""
    coarse = labels[::STEP, ::STEP, ::STEP]
    where = np.nonzero(coarse)
    ids = coarse[where].astype(np.int64)
    counts = np.bincount(ids, minlength=256)
    sums = [np.bincount(ids, weights=axis, minlength=256) * STEP * s for axis, s in zip(where, spacing)]
    return {
        s: np.array([total[i] / counts[i] for total in sums]) for s in structures for i in s.dataset[:1] if counts[i]
    }
