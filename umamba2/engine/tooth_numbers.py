"""Cleaner teeth: one connected piece for each, and numbers that rise along the arch.

Nothing is learned for this; it works on any label map that has each tooth by its FDI number. Teeth are looked at in
connected pieces (26 neighbours), in this order:

- crumbs, below ``CRUMB``, go to the tooth that they touch with much of their surface, or away. A crumb at the border of
  the volume that is all there is of its tooth stays;
- a piece that touches a larger tooth with much of its surface, and lies so near to its middle that no other tooth could
  be there, is a part of it: as the wisdom tooth that a network splits off the second molar;
- a second piece of a tooth that lies far from the first is another tooth if it is as large as one, and else goes away.
  Near the first it stays, as the roots of a tooth without its crown do;
- the numbers of all teeth are settled by their order along the arch (`umamba2.engine.arch`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from umamba2.anatomy.arches import SMALLEST_TOOTH
from umamba2.anatomy.structures import Structure
from umamba2.challenges.challenge import Challenge
from umamba2.engine.arch import renumber
from umamba2.engine.postprocess import foreground_box
from umamba2.engine.record import Record
from umamba2.errors import InputError, Terminated
from umamba2.messages import unexpected

CRUMB = 20.0  # mm^3; the smallest tooth that the published table keeps has 19.7
# When a piece is a part of the larger tooth that it touches: from which share of its surface that touches it, up to
# which share of its volume and which distance in mm between their middles on; for pieces smaller than the tooth whose
# number they have can be, and for pieces of any size by a molar. Of the premolars and molars of 204 phantoms, crowded
# ones too, none of less than 0.75 of its neighbour's volume touches it with more than 0.24 of its surface, and of the
# molars that lie within 6.5 mm of another none with more than 0.09.
TOUCHING, SMALL, NEAR = 0.2, 0.25, 7.5
TOUCHING_MOLAR, SMALL_BY_MOLAR, NEAR_MOLAR = 0.25, 0.75, 6.5
BETWEEN_MOLARS = 0.14  # TOUCHING_MOLAR if both are molars: parts of a real scan's second molars had 0.155 and 0.175
FIRST_MOLAR = 5  # its place in the quadrant, from 0 on
ONE_TOOTH = 15.0  # mm between the middles of two parts of a tooth, at most
MOST_NOTES = 10

Labels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Fixed:
    """What became of the teeth of a label map.

    Attributes:
        labels: The label map; the given one if nothing changed.
        notes: What was changed, one line each, at most ``MOST_NOTES`` and one for the rest.
        problem: What is doubtful and stays as it is; "" if nothing is.
    """

    labels: Labels
    notes: tuple[str, ...] = ()
    problem: str = ""


def need_numbers(challenge: Challenge | None) -> None:
    """Raise InputError if a challenge does not have each tooth by its number."""
    if challenge is None or not any(s.fdi for s in challenge.structures):
        found = "no challenge" if challenge is None else f"the challenge {challenge.name}"
        raise InputError(f"fix numbers: found {found}, expected one with each tooth by its number")


def with_fixed_numbers(
    labels: Labels, challenge: Challenge, spacing: tuple[float, float, float], record: Record
) -> Labels:
    """`fix_numbers` for a record, which takes the notes and the problem; the labels as they are if it fails."""
    with record.timed("fix numbers"):
        try:
            fixed = fix_numbers(labels, challenge.structures, spacing)
        except (Exception, Terminated) as error:  # the network's answer as it is beats none
            record.warn(f"tooth numbers: found {unexpected(error)}, going on without")
            return labels
    record.notes += fixed.notes
    if fixed.problem:
        record.warn(fixed.problem)
    return fixed.labels


def fix_numbers(labels: Labels, structures: Sequence[Structure], spacing: tuple[float, float, float]) -> Fixed:
    """Make each tooth one piece, and let the numbers of teeth rise along the arch, each once.

    Args:
        labels: The label map (z, y, x) in training ids.
        structures: What the ids mean; those with an FDI number are teeth.
        spacing: Of the label map, (z, y, x) in mm.
    """
    teeth = {s.fdi: s.training for s in structures if s.fdi}
    number_of = np.zeros(256, np.uint8)  # FDI
    number_of[list(teeth.values())] = list(teeth)
    box = foreground_box(labels)
    named = number_of[labels[box]]
    part = foreground_box(named)
    named = np.ascontiguousarray(named[part])
    box = tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, part))
    if not named.size:
        return Fixed(labels)
    pieces = _Pieces(named, box, labels.shape, spacing)
    notes = pieces.give_crumbs() + pieces.give_parts() + pieces.drop_strays()
    told, problem = pieces.renumber()
    notes += told
    training_of = np.zeros(256, np.uint8)
    training_of[list(teeth)] = list(teeth.values())
    new = pieces.numbers()
    changed = new != pieces.first
    changed[0] = False
    if not changed.any():
        return Fixed(labels, (), problem)
    result = labels.copy()
    where = changed[pieces.at]
    result[box][where] = training_of[new[pieces.at[where]]]
    if len(notes) > MOST_NOTES:
        notes[MOST_NOTES:] = [f"and {len(notes) - MOST_NOTES} changes more to teeth"]
    return Fixed(result, tuple(notes), problem)


class _Pieces:
    """The connected pieces of the teeth in a box, which get other owners and numbers; piece 0 is everything else.

    Attributes:
        at: The piece of every voxel.
        first: The FDI number of each piece in the label map.
        number: The same, as it is now; 0 for what goes away.
        owner: The piece that each one is a part of, itself if of none.
    """

    def __init__(
        self,
        named: Labels,
        box: tuple[slice, ...],
        shape: tuple[int, ...],
        spacing: tuple[float, float, float],
    ):
        self.at = cc3d.connected_components(named, connectivity=26)
        found = cc3d.statistics(self.at, no_slice_conversion=True)
        self.volume: Floats = found["voxel_counts"] * math.prod(spacing)
        start = np.array([side.start for side in box])
        self.centre: Floats = (found["centroids"] + start) * spacing
        count = len(self.volume)
        bounds = np.asarray(found["bounding_boxes"]).reshape(count, 3, 2).astype(np.int64) + start[:, None]
        self._at_border = (bounds[:, :, 0] <= 0).any(axis=1) | (bounds[:, :, 1] >= np.array(shape) - 1).any(axis=1)
        self.first = np.zeros(count, np.uint8)
        self.first[self.at] = named
        self.number = self.first.copy()
        self.owner = np.arange(count)
        self._surface, self._contact = _contacts(self.at, count, spacing)

    def numbers(self) -> Labels:
        """The FDI number of each piece in the end."""
        numbers: Labels = self.number[self.owner]
        return numbers

    def _live(self, number: int | None = None) -> list[int]:
        """The pieces that are still their own, of a number or of any, the largest first."""
        live = (self.owner == np.arange(len(self.owner))) & (self.number > 0)
        if number is not None:
            live &= self.number == number
        return sorted(np.flatnonzero(live).tolist(), key=lambda i: (-self.volume[i], i))

    def give_crumbs(self) -> list[str]:
        """Give crumbs to what they touch, or away."""
        crumb = self.volume < CRUMB
        crumb[0] = False
        largest = np.zeros(256)
        np.maximum.at(largest, self.first[1:], self.volume[1:])
        crumb &= ~(self._at_border & (self.volume == largest[self.first]))
        if not crumb.any():
            return []
        best = np.zeros(len(crumb))
        target = np.zeros(len(crumb), int)
        for (one, other), area in self._contact.items():
            for i, j in ((one, other), (other, one)):
                if crumb[i] and not crumb[j] and area > best[i]:
                    best[i], target[i] = area, j
        given = crumb & (best >= TOUCHING * self._surface)
        self.owner[given] = target[given]
        gone = crumb & ~given
        self.number[gone] = 0
        notes = []
        for which, what in ((given, "given to the teeth that they touch"), (gone, "removed")):
            if many := int(np.count_nonzero(which)):
                size = self.volume[which].sum()
                notes.append(f"{many} small {'piece' if many == 1 else 'pieces'} of teeth, {size:.1f} mm3, {what}")
        return notes

    def give_parts(self) -> list[str]:
        """Give pieces that are parts of the tooth beside them to that tooth, the smallest first."""
        touching: dict[int, dict[int, float]] = {}
        for (one, other), area in self._contact.items():
            i, j = int(self.owner[one]), int(self.owner[other])
            if i != j and self.number[i] and self.number[j]:
                for a, b in ((i, j), (j, i)):
                    row = touching.setdefault(a, {})
                    row[b] = row.get(b, 0.0) + area
        notes = []
        for i in reversed(self._live()):
            beside = touching.get(i, {})
            j = max(beside, key=lambda k: (beside[k], -k), default=0)
            if not j or not self._is_part(i, j, beside[j] / self._surface[i]):
                continue
            notes.append(f"a part of tooth {self.number[j]} of {self.volume[i]:.0f} mm3 named {self.number[i]} was "
                         f"given to {self.number[j]}")  # fmt: skip
            self.owner[self.owner == i] = j
            share = self.volume[i] / (self.volume[i] + self.volume[j])
            self.centre[j] += share * (self.centre[i] - self.centre[j])
            self.volume[j] += self.volume[i]
            for k, area in touching.pop(i).items():
                touching[k].pop(i)
                if k != j:
                    touching[j][k] = touching[j].get(k, 0.0) + area
                    touching[k][j] = touching[k].get(j, 0.0) + area
        return notes

    def _is_part(self, i: int, j: int, touching: float) -> bool:
        alone = self._live(int(self.number[i]))[0] == i
        if alone and self._at_border[i]:
            return False  # a tooth that the field of view cuts
        share = self.volume[i] / self.volume[j]
        away = float(np.linalg.norm(self.centre[i] - self.centre[j]))
        molar, by_molar = (_place(self.number[k]) >= FIRST_MOLAR for k in (i, j))
        enough = BETWEEN_MOLARS if molar else TOUCHING_MOLAR
        if by_molar and touching >= enough and share < SMALL_BY_MOLAR and away < NEAR_MOLAR:
            return True
        if touching < TOUCHING:
            return False
        too_small = self.volume[i] < SMALLEST_TOOTH[_place(self.number[i])] and away < NEAR
        return share < SMALL and (too_small or not alone)

    def drop_strays(self) -> list[str]:
        """Remove pieces far from the rest of their tooth that are too small to be another one."""
        notes = []
        for number in sorted({int(n) for n in self.number[self._live()]}):
            main, *others = self._live(number)
            for i in others:
                away = float(np.linalg.norm(self.centre[i] - self.centre[main]))
                if away > ONE_TOOTH and self.volume[i] < min(SMALLEST_TOOTH):
                    self.number[i] = 0
                    notes.append(f"a piece of {self.volume[i]:.0f} mm3 named {number}, {away:.0f} mm from that tooth, "
                                 "was removed")  # fmt: skip
        return notes

    def renumber(self) -> tuple[list[str], str]:
        """Let numbers rise along the arch; what was changed, and what is doubtful."""
        live = self._live()
        # Parts of a tooth that are no tooth themselves follow the largest, so that they have no say. Nor has the rest
        # of a tooth that the field of view cuts off: it does not lie where the tooth does.
        main = {number: self._live(number)[0] for number in {int(self.number[i]) for i in live}}
        large = [i for i in live if main[int(self.number[i])] == i or self.volume[i] >= min(SMALLEST_TOOTH)]
        large = [
            i for i in large if not (self._at_border[i] and self.volume[i] < SMALLEST_TOOTH[_place(self.number[i])])
        ]
        old = [int(self.number[i]) for i in large]
        found = renumber(old, self.centre[large])
        new_of = dict(zip(large, found.numbers))
        follows = {i: new_of.get(main[int(self.number[i])], int(self.number[i])) for i in live if i not in new_of}
        for i, number in {**new_of, **follows}.items():
            self.number[i] = number
        pairs = sorted({(a, b) for a, b in zip(old, found.numbers) if a != b})
        kept = {a for a, b in zip(old, found.numbers) if a == b}
        notes = []
        for a, b in pairs:
            if a in kept:
                behind = "behind" if b % 10 > a % 10 else "in front"
                there = f"the one {behind}" if a // 10 == b // 10 else "the other one"
                notes.append(f"two teeth were called {a}; {there} became {b}")
            else:
                notes.append(f"the tooth called {a} became {b}, by its place in the arch")
        return notes, found.problem and f"tooth numbers: {found.problem}; left as they are"


def _place(number: int) -> int:
    """The place of a tooth in its quadrant, from 0 on."""
    return int(number) % 10 - 1


def _contacts(
    at: npt.NDArray[np.unsignedinteger], count: int, spacing: tuple[float, float, float]
) -> tuple[Floats, dict[tuple[int, int], float]]:
    """The surface of each piece, and where two pieces touch how much of it, in mm^2.

    Args:
        at: The piece of every voxel (z, y, x), 0 for none.
        count: Of pieces, with piece 0.
        spacing: (z, y, x) in mm.
    """
    padded = np.pad(at, 1)
    flat = padded.ravel()
    inside = np.flatnonzero(flat)  # usually a tenth of all voxels
    own = flat[inside].astype(np.int64)
    surface = np.zeros(count)
    contact: dict[tuple[int, int], float] = {}
    for axis, stride in enumerate(padded.strides):
        area = math.prod(spacing) / spacing[axis]
        for step in (stride // padded.itemsize, -stride // padded.itemsize):
            other = flat[inside + step]
            face = other != own
            surface += area * np.bincount(own[face], minlength=count)
            both = face & (other > own)  # each pair once
            pairs, many = np.unique(own[both] * count + other[both], return_counts=True)
            for pair, number in zip(pairs.tolist(), many.tolist()):
                key = divmod(pair, count)
                contact[key] = contact.get(key, 0.0) + area * number
    return surface, contact
