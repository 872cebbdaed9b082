"""The numbers of teeth, settled by their order along the arch.

The average arch (`umamba2.anatomy.arches`) is laid through the teeth as they are numbered: turned, mirrored, stretched
and tilted as they ask for, and hardly drawn by the few whose number is wrong. That gives each tooth its place along the
arch, whichever way the array lies. Where numbers rise along the arch, each once, they stay. Where they do not, all
teeth of that jaw are given rising numbers at the least cost: a price for every tooth that changes its number, and less
for distances to the neighbours and to the average place that do not fit. Positions may stay empty, so that missing
teeth are no reason to change the numbers of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.arches import JAWS_APART, LOWER_ARCH, UPPER_ARCH, average_place

Points = npt.NDArray[np.floating[Any]]

_JAWS = ((1, 2), (3, 4))  # the quadrants of each
_FEWEST = 4  # numbers through which an arch can be laid
_FEWEST_OF_A_JAW = 6  # teeth in each jaw, from which on heights tell upper from lower
_FEWEST_OF_A_SIDE = 3  # teeth on each side of a jaw: of a piece of an arch the average one tells too little
_SPREAD = 5.0  # mm that teeth lie off an arch
_STIFFNESS = (2.0 / 0.15) ** 2  # mm^2: how much arches differ in shape, see `umamba2.reports.field`
_ASTRAY = 12.0  # mm from its average place from which on a number is not believed
_CLEARLY = 0.2 * JAWS_APART  # beyond the middle between the jaws, in mm, a tooth is in the other one
_TIED = 2.5  # mm along the arch by which teeth may lie out of order, as crowded ones do
_CHANGED_PLACES = 2  # how far apart the numbers of two neighbours may be that were given the wrong way round
_MOST_CHANGED = 0.7  # of the teeth of a jaw: beyond that their numbers tell nothing
_ONE_TOOTH = 0.5  # of a tooth's width along the arch: parts so near are one tooth

# What the numbering costs: a tooth that changes its number; one that came from the other jaw, whose number says less;
# two neighbours that keep one number; a new wisdom tooth; a mm too much or too little between neighbours, and from
# the average place, both up to a limit.
_CHANGE, _CHANGE_OF_JAW, _SAME, _WISDOM, _MM_BETWEEN, _MM_ASTRAY, _MOST_MM = 1.0, 0.5, 2.5, 0.2, 0.08, 0.03, 12.0


@dataclass(frozen=True)
class Renumbered:
    """What the arch says of teeth.

    Attributes:
        numbers: The FDI number of each.
        problem: Why numbers that are doubtful stay as they are; "" if none is.
    """

    numbers: list[int]
    problem: str = ""


def renumber(numbers: Sequence[int], centres: Points) -> Renumbered:
    """Give teeth numbers that rise along the arches.

    Args:
        numbers: The FDI numbers of teeth, or of large parts of one, as a network told them.
        centres: Where they are, (n, 3) in mm, along any axes.
    """
    numbers = list(numbers)
    places = _along_the_arches(numbers, centres)
    if places is None:
        twice = sorted({n for n in numbers if numbers.count(n) > 1})
        return Renumbered(numbers, f"found {_list(twice)} twice and too few other teeth to tell" if twice else "")
    result, problems = list(numbers), []
    for jaw, arch in enumerate((UPPER_ARCH, LOWER_ARCH)):
        mine = [i for i in range(len(numbers)) if places.jaws[i] == jaw]
        named = [(LOWER_ARCH if numbers[i] in LOWER_ARCH else UPPER_ARCH).index(numbers[i]) for i in mine]
        moved = [numbers[i] not in arch for i in mine]
        new = _in_order(named, moved, places.along[mine], places.lines[jaw])
        changed = sum(arch[b] != numbers[i] for i, b in zip(mine, new))
        which = "lower" if jaw else "upper"
        first = np.count_nonzero(places.along[mine] < places.lines[jaw].mean())
        if changed and (fewest := min(first, len(mine) - first)) < _FEWEST_OF_A_SIDE:
            problems.append(f"found {which} teeth out of order and {fewest} on one side, too few to tell")
            continue
        if changed > max(2, _MOST_CHANGED * len(mine)):
            problems.append(f"found {which} teeth out of order, {changed} of {len(mine)} numbers would have to change")
            continue
        for i, b in zip(mine, new):
            result[i] = arch[b]
    return Renumbered(result, "; ".join(problems))


@dataclass(frozen=True)
class _Places:
    """Teeth on the average arches: the jaw (0 upper, 1 lower) and the mm along it of each; the mm along each arch of
    the places of all its teeth."""

    jaws: npt.NDArray[np.int64]
    along: Points
    lines: tuple[Points, Points]


def _along_the_arches(numbers: Sequence[int], centres: Points) -> _Places | None:
    """Where teeth lie along the average arches laid through them; None if none can be laid."""
    found = _lay(np.array([average_place(n) for n in numbers]), centres, numbers)
    if found is None:
        return None
    matrix, shift = found
    own = np.linalg.solve(matrix, (centres - shift).T).T  # mm to the left, the back and the top on the average arch
    named = np.array([int(n in LOWER_ARCH) for n in numbers])
    jaws = named.copy()
    if all(len({n for n in numbers if (n in LOWER_ARCH) == lower}) >= _FEWEST_OF_A_JAW for lower in (0, 1)):
        above = own[:, 2] + JAWS_APART / 2
        free = np.array([n % 10 != 8 for n in numbers])  # impacted wisdom teeth lie anywhere
        jaws[free & (above > _CLEARLY)] = 0
        jaws[free & (above < -_CLEARLY)] = 1
    lines = []
    along = np.zeros(len(numbers))
    for jaw, arch in enumerate((UPPER_ARCH, LOWER_ARCH)):
        corners = np.array([average_place(n)[:2] for n in arch])
        line = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
        lines.append(line)
        mine = jaws == jaw
        along[mine] = [_nearest(corners, line, point) for point in own[mine, :2]]
    return _Places(jaws, along, (lines[0], lines[1]))


def _nearest(corners: Points, line: Points, point: Points) -> float:
    """The mm along a line of corners (n, 2) up to what is nearest to a point; its ends go on straight."""
    ahead = np.diff(corners, axis=0)
    part = ((point - corners[:-1]) * ahead).sum(axis=1) / (ahead**2).sum(axis=1)
    low, high = np.zeros(len(part)), np.ones(len(part))
    low[0], high[-1] = -inf, inf
    part = part.clip(low, high)
    away = np.linalg.norm(corners[:-1] + part[:, None] * ahead - point, axis=1)
    best = int(away.argmin())
    return float(line[best] + part[best] * (line[best + 1] - line[best]))


def _lay(average: Points, centres: Points, numbers: Sequence[int]) -> tuple[Points, Points] | None:
    """The matrix and the shift that take places of the average arch to the teeth, wherever a few numbers are wrong.

    Which ones are wrong is not known, so the search starts from all teeth, from those of one jaw, one side and one
    quadrant, and the arch that fits most teeth best counts.
    """
    quadrants = np.array([n // 10 for n in numbers])
    groups = ((1, 2, 3, 4), *_JAWS, (1, 4), (2, 3), (1,), (2,), (3,), (4,))
    best, fit = inf, None
    for group in groups:
        chosen = np.isin(quadrants, group)
        if len({n for n, use in zip(numbers, chosen) if use}) < _FEWEST:
            continue
        one_jaw = len(group) == 1 or group in _JAWS
        for flip in (1.0, -1.0)[: 1 + one_jaw]:  # teeth of one jaw do not tell up from down
            weight = chosen.astype(float)
            for _ in range(8):
                matrix, shift = _fitted(average, centres, weight, flip)
                off = np.linalg.norm(centres - shift - average @ matrix.T, axis=1)
                weight = 1 / (1 + (off / _SPREAD) ** 2)
            cost = float(np.log1p((off / _SPREAD) ** 2).sum())
            if cost < best and np.count_nonzero(off < _ASTRAY) > len(off) / 2:
                best, fit = cost, (matrix, shift)
                if (off < _ASTRAY).all():
                    return fit  # no number is far from its place
    return fit


def _fitted(average: Points, centres: Points, weight: Points, flip: float) -> tuple[Points, Points]:
    """The matrix nearest to a rotation, perhaps mirrored, and the shift that take average places to centres."""
    share = weight / weight.sum()
    here, there = share @ average, share @ centres
    source, goal = average - here, centres - there
    together = (weight[:, None] * goal).T @ source
    left, strength, right = np.linalg.svd(together)
    if strength[2] < 0.05 * strength[1]:
        left[:, 2] *= flip
    matrix = together + _STIFFNESS * left @ right
    matrix = np.linalg.solve((weight[:, None] * source).T @ source + _STIFFNESS * np.eye(3), matrix.T).T
    return matrix, there - matrix @ here


def _in_order(named: Sequence[int], moved: Sequence[bool], along: Points, line: Points) -> list[int]:
    """The place in an arch (0 to 15) of each of its teeth, rising along it.

    Args:
        named: The places that their numbers mean.
        moved: Which of them had a number of the other jaw.
        along: Where they lie, in mm along the average arch.
        line: Where the 16 places lie.
    """
    teeth = _teeth(named, along, line)
    order = sorted(range(len(teeth)), key=lambda t: float(along[teeth[t]].mean()))
    first = [named[teeth[t][0]] for t in order]
    at = [float(along[teeth[t]].mean()) for t in order]
    swapped = True
    while swapped:  # crowded teeth lie beside each other: then their numbers say who comes first
        swapped = False
        for i in range(len(order) - 1):
            if first[i] > first[i + 1] and at[i + 1] - at[i] < _TIED:
                order[i : i + 2], first[i : i + 2] = order[i : i + 2][::-1], first[i : i + 2][::-1]
                at[i : i + 2] = at[i : i + 2][::-1]
                swapped = True
    for i, (one, two) in enumerate(pairwise(first)):
        around = first[:i] + first[i + 2 :]
        neighbours = 0 < one - two <= _CHANGED_PLACES and not any(two <= place <= one for place in around)
        if neighbours:  # they changed places, nothing more
            first[i : i + 2] = two, one
    other = [moved[teeth[t][0]] for t in order]
    if any(other) or any(a >= b for a, b in pairwise(first)):
        first = _cheapest(first, other, at, line)
    result = list(named)
    for t, place in zip(order, first):
        for i in teeth[t]:
            result[i] = place
    return result


def _teeth(named: Sequence[int], along: Points, line: Points) -> list[list[int]]:
    """Which parts are one tooth: those of one number that lie at one place along the arch."""
    width = np.gradient(line)
    teeth: list[list[int]] = []
    for i in np.argsort(along, kind="stable"):
        near = [t for t in teeth if named[t[0]] == named[i] and along[i] - along[t[-1]] < _ONE_TOOTH * width[named[i]]]
        if near:
            near[-1].append(int(i))
        else:
            teeth.append([int(i)])
    return teeth


def _cheapest(named: Sequence[int], other: Sequence[bool], at: Sequence[float], line: Points) -> list[int]:
    """The rising places at the least cost, of teeth in their order along the arch (dynamic programming)."""
    count = len(line)
    costs = np.zeros((len(named), count))
    came = np.zeros((len(named), count), int)
    for i, (place, moved) in enumerate(zip(named, other)):
        own = np.full(count, _CHANGE_OF_JAW if moved else _CHANGE)
        own[[0, -1]] += _WISDOM
        own[place] = 0
        own += _MM_ASTRAY * np.minimum(np.abs(at[i] - line), _MOST_MM)
        if i == 0:
            costs[i] = own
            continue
        between = line[None, :] - line[:, None]  # from the place before to this one
        step = costs[i - 1][:, None] + _MM_BETWEEN * np.minimum(np.abs(at[i] - at[i - 1] - between), _MOST_MM)
        step[np.tril_indices(count, -1)] = inf
        step[np.diag_indices(count)] += _SAME
        came[i] = step.argmin(axis=0)
        costs[i] = own + step.min(axis=0)
    places = [int(costs[-1].argmin())]
    for i in range(len(named) - 1, 0, -1):
        places.append(int(came[i, places[-1]]))
    return places[::-1]


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
