"""The pulp of each tooth: every voxel of pulp gets the number of the tooth that encloses it.

Nothing is learned for this. Pulp is looked at in connected pieces (26 neighbours):

- a piece that touches one tooth belongs to it, all of it;
- a piece that touches several is divided: each voxel belongs to the nearest of them, in mm between centres of voxels;
- a piece that touches none, but has a tooth within ``GAP``, belongs to the nearest one;
- all other pulp stays what it is, with a warning: pulp that has more than ``REACH`` to the teeth of its piece, and
  pieces of which teeth touch less than ``ENCLOSED``, as when the tooth itself was not found, but its neighbour was.

Of teeth equally near the one with the lowest number counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cc3d
import numpy as np
import numpy.typing as npt

from umamba2.anatomy.structures import by_name, pulp_name
from umamba2.challenges.challenge import Challenge

# The dentine and enamel around a pulp are thicker than this, so that no pulp of another tooth is so near.
GAP = 1.0  # mm
# From the middle of the widest pulp chamber to its wall it is less than this.
REACH = 3.0  # mm
# The share of a piece's surface voxels that must touch teeth.
ENCLOSED = 0.25
_AROUND = np.array([offset for offset in np.ndindex(3, 3, 3) if offset != (1, 1, 1)]) - 1

Labels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


def pulp_per_tooth(labels: Labels, challenge: Challenge, spacing: tuple[float, float, float]) -> tuple[Labels, str]:
    """Give every voxel of pulp the number of the tooth that encloses it.

    Args:
        labels: The label map (z, y, x) in training ids.
        challenge: What it is of, with tooth pulps (`Challenge.with_tooth_pulps`).
        spacing: Of the label map, (z, y, x) in mm.

    Returns:
        A new label map, and what to warn of; "" if all pulp has a tooth.
    """
    named = by_name(challenge.structures)
    plain = named["pulp"].training
    teeth = sorted((s for s in challenge.structures if s.fdi), key=lambda tooth: tooth.fdi or 0)
    rank = np.zeros(256, np.uint8)  # of the tooth that a training id means, from 1 on in the order of the numbers
    rank[[tooth.training for tooth in teeth]] = range(1, len(teeth) + 1)
    pulp_of = np.array([plain, *(named[pulp_name(tooth.fdi or 0)].training for tooth in teeth)], np.uint8)

    result = labels.copy()
    box = _box(labels == plain)
    if box is None:
        return result, ""
    start = np.array([side.start for side in box])
    piece_at = cc3d.connected_components((labels[box] == plain).astype(np.uint8), connectivity=26)
    inside = np.argwhere(piece_at)
    piece = piece_at[tuple(inside.T)].astype(np.int64) - 1
    del piece_at
    voxels = inside.astype(np.int64) + start
    owner = _owners(labels, voxels, piece, rank, len(teeth), plain, spacing)
    result[tuple(voxels.T)] = pulp_of[owner]
    lost = int(np.count_nonzero(owner == 0))
    if not lost:
        return result, ""
    pieces, size = len(np.unique(piece[owner == 0])), lost * math.prod(spacing)
    found = f"found no tooth around {lost} voxels ({size:.1f} mm^3) in {pieces} {'piece' if pieces == 1 else 'pieces'}"
    return result, f"pulp per tooth: {found}, expected a tooth around all pulp; left as plain pulp"


def _owners(
    labels: Labels,
    voxels: Indices,
    piece: Indices,
    rank: npt.NDArray[np.uint8],
    teeth: int,
    plain: int,
    spacing: tuple[float, float, float],
) -> npt.NDArray[np.uint8]:
    """The rank of the tooth of each voxel of pulp (n, 3), 0 for none; ``piece`` says which piece each is of."""
    pieces = int(piece.max()) + 1
    touches = np.zeros((pieces, teeth + 1), bool)
    at_tooth, at_surface = np.zeros(len(voxels), bool), np.zeros(len(voxels), bool)
    for offset in _AROUND:
        near, valid = _neighbours(labels, voxels, offset)
        found = rank[near]
        touches[piece[valid], found] = True
        at_tooth[valid] |= found > 0
        at_surface[valid] |= near != plain
    touches[:, 0] = False
    share = np.bincount(piece, at_tooth, pieces) / np.maximum(np.bincount(piece, at_surface, pieces), 1)
    count = touches.sum(axis=1)
    count[(count > 0) & (share < ENCLOSED)] = -1  # not in the teeth that it touches
    owner = np.where(count == 1, touches.argmax(axis=1), 0)[piece].astype(np.uint8)

    shared = np.flatnonzero(count[piece] > 1)
    everywhere = touches[piece[shared]]
    owner[shared] = _nearest(labels, voxels[shared], everywhere, np.arange(len(shared)), rank, spacing, REACH)

    alone = np.flatnonzero((count[piece] == 0) & at_surface)
    _, group = np.unique(piece[alone], return_inverse=True)
    anything = np.ones((len(alone), teeth + 1), bool)
    of_piece = np.zeros(pieces, np.uint8)
    of_piece[piece[alone]] = _nearest(labels, voxels[alone], anything, group, rank, spacing, GAP)[group]
    isolated = count[piece] == 0
    owner[isolated] = of_piece[piece[isolated]]
    return owner


def _nearest(
    labels: Labels,
    voxels: Indices,
    allowed: npt.NDArray[np.bool_],
    group: Indices,
    rank: npt.NDArray[np.uint8],
    spacing: tuple[float, float, float],
    limit: float,
) -> npt.NDArray[np.uint8]:
    """The rank of the tooth nearest to each group of voxels.

    All voxels look at their surroundings at once, one distance after the other from the nearest on, and a group is
    done with the first tooth that it sees. As nearly all pulp is near its tooth, few get far.

    Args:
        labels: The label map.
        voxels: Of pulp, (n, 3).
        allowed: Which teeth may be found from each voxel, (n, ranks).
        group: Of each voxel, (n,), from 0 on.
        rank: Of the tooth that a label means.
        spacing: (z, y, x) in mm.
        limit: How far to look, in mm.
    """
    best = np.zeros(int(group.max(initial=-1)) + 1, np.uint8)
    for shell in _shells(spacing, limit):
        if not len(voxels):
            break
        seen = np.full(len(best), 255, np.uint8)
        for offset in shell:
            near, valid = _neighbours(labels, voxels, offset)
            found = rank[near]
            use = (found > 0) & allowed[valid, found]
            np.minimum.at(seen, group[valid][use], found[use])
        best[seen < 255] = seen[seen < 255]
        left = best[group] == 0
        if not left.all():
            voxels, allowed, group = voxels[left], allowed[left], group[left]
    return best


def _shells(spacing: tuple[float, float, float], limit: float) -> Iterator[Indices]:
    """The offsets (n, 3) to all voxels of the same distance, for one distance after the other up to a limit in mm."""
    reach = [int(limit / step) for step in spacing]
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.sqrt((np.square(offsets * spacing)).sum(axis=1)).round(6)  # equal ones may differ in the last digits
    order = np.argsort(distance, kind="stable")
    order = order[(distance[order] > 0) & (distance[order] <= limit)]
    ends = np.flatnonzero(np.diff(distance[order])) + 1
    yield from np.split(offsets[order], ends)


def _neighbours(labels: Labels, voxels: Indices, offset: npt.NDArray[np.int64]) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """The labels at an offset from voxels, and which of the voxels have one there, the others being at the border."""
    there = voxels + offset
    valid = np.asarray(((there >= 0) & (there < labels.shape)).all(axis=1))
    return labels[tuple(there[valid].T)], valid


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box around a mask; None if it is empty."""
    sides = []
    for axis in range(3):
        planes = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(planes):
            return None
        sides.append(slice(int(planes[0]), int(planes[-1]) + 1))
    return tuple(sides)
