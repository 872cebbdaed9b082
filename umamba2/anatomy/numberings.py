"""Label maps from one numbering to another: the only place that translates ids. The ids are in the table of structures.

- *platform* ids are what a challenge's platform compares (ToothFairy3: 50-53 for pulp and the small canals);
- *public* ids are what the organisers' published grader compares (ToothFairy3: 150 and 103-105 instead);
- *training* ids are the contiguous channels of a network;
- *dataset* ids are what the released label maps hold (ToothFairy3: a pulp for every tooth, 111-148, and two typing
  errors). A structure may have several, so label maps are read in this numbering, but not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.structures import ANATOMY, NUMBERINGS, WRITTEN_NUMBERINGS, Structure
from umamba2.errors import InputError, NothingFound

_RELEASED = frozenset(number for structure in ANATOMY for number in structure.dataset)


def ids_of(structure: Structure, numbering: str) -> tuple[int, ...]:
    """Every id that means a structure in a numbering; the first one is the one to write.

    Raises:
        InputError: There is no such numbering.
    """
    if numbering not in NUMBERINGS:
        raise InputError(f"numbering: found {numbering!r}, expected one of {', '.join(NUMBERINGS)}")
    return structure.dataset if numbering == "dataset" else (getattr(structure, numbering),)


def to_training(
    structures: Sequence[Structure], numbering: str = "platform", released: bool = False
) -> npt.NDArray[np.uint8]:
    """Lookup table from the ids in a file to training ids, shape (256,); ids without a meaning become 0, background.

    Args:
        structures: The classes of a challenge.
        numbering: One of ``NUMBERINGS``, the ids in the file.
        released: Understand the ids of the released label maps as well, unless one of the numbering's own ids means
            something else there (training id 21 is no tooth 21).
    """
    own = {number: structure for structure in structures for number in ids_of(structure, numbering)}
    table = np.zeros(256, np.uint8)
    if released and all(number not in _RELEASED or number in structure.dataset for number, structure in own.items()):
        for structure in structures:
            table[list(structure.dataset)] = structure.training
    for number, structure in own.items():
        table[number] = structure.training
    return table


def from_training(structures: Sequence[Structure], numbering: str = "platform") -> npt.NDArray[np.uint8]:
    """Lookup table from training ids to the ids to write, shape (classes + 1,), background first.

    Args:
        structures: The classes of a challenge.
        numbering: One of ``WRITTEN_NUMBERINGS``.

    Raises:
        InputError: There is no such numbering, or label maps are not written in it.
    """
    if numbering not in WRITTEN_NUMBERINGS:
        raise InputError(f"numbering: found {numbering!r}, expected one of {', '.join(WRITTEN_NUMBERINGS)}")
    table = np.zeros(len(structures) + 1, np.uint8)
    for structure in structures:
        table[structure.training] = ids_of(structure, numbering)[0]
    return table


def as_training(
    labels: npt.NDArray[Any], name: str, structures: Sequence[Structure], numbering: str
) -> npt.NDArray[np.uint8]:
    """A label map in training ids.

    Args:
        labels: Integers (z, y, x), the ids of a file; those of the release are understood where they are unambiguous.
        name: What messages call it.
        structures: The classes of a challenge.
        numbering: One of ``NUMBERINGS``.

    Raises:
        InputError: The label map has ids that the numbering lacks, or holds nothing but background.
    """
    unknown = describe_unknown(ids_in(labels), structures, numbering)
    if unknown:
        raise InputError(f"{name}: {unknown}")
    if not labels.any():
        raise NothingFound(f"{name}: found no structure (every voxel is 0), expected at least one")
    translated: npt.NDArray[np.uint8] = to_training(structures, numbering, released=True)[labels]
    return translated


def describe_unknown(
    present: Sequence[int],
    structures: Sequence[Structure],
    numbering: str,
    table: npt.NDArray[np.uint8] | None = None,
) -> str:
    """What to say of ids without a meaning, with the numbering that would fit; "" if all have one.

    Args:
        present: The ids in a label map, without 0.
        structures: The classes of a challenge.
        numbering: What the ids should be.
        table: Which ids have a meaning, from `to_training`; None: those of the numbering and of the release.
    """
    table = to_training(structures, numbering, released=True) if table is None else table
    unknown = _without_meaning(present, table)
    if not unknown:
        return ""
    fitting = [name for name in NUMBERINGS if not _without_meaning(present, to_training(structures, name))]
    fits = f" (all ids fit the {' or the '.join(fitting)} numbering)" if fitting else ""
    few = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
    return f"found unknown ids {few}, expected ids of the {numbering} numbering{fits}"


def ids_in(labels: npt.NDArray[Any]) -> list[int]:
    """The ids in a label map of whole numbers, ascending, without 0."""
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high > 2**16:
        present = np.unique(labels)
    else:
        counts = np.zeros(high + 1, np.intp)
        for plane in labels:  # one at a time, because bincount makes them up to eight times as large
            counts += np.bincount(plane.ravel().astype(np.intp, copy=False), minlength=high + 1)
        present = np.flatnonzero(counts)
    return [int(number) for number in present if number]


def _without_meaning(present: Iterable[int], table: npt.NDArray[np.uint8]) -> list[int]:
    return [number for number in present if not 0 <= number < len(table) or table[number] == 0]


def in_ranges(ids: Iterable[int]) -> str:
    """Many ids for a message, as ranges: ``0-18, 21-28``."""
    ranges: list[list[int]] = []
    for number in sorted(ids):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
