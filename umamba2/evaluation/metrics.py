"""How well two binary masks (bool arrays of one shape) agree: the four numbers that the graders are made of.

The graders work on whole volumes. Here each mask is cut down to the box that holds both, which changes no number:
beyond the box, as beyond the volume, there is only background.

Distances come from the `edt` package: exact here, on one thread two to three times faster than scipy's transform, and
with a fraction of its memory (scipy stores the nearest voxel's three indices, then 64-bit distances).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import permutations, product

import edt
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from umamba2.scans.geometry import Array

Box = tuple[slice, ...]
Spacing = tuple[float, float, float]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]

# The transform computes in single precision. Squared distances in voxels are whole numbers and exact; in millimetres
# they are not, and a verdict this close to the squared tolerance (as a fraction of it) is taken again in double.
_ROUNDING = 2.5e-4

# A search tree beats the transform where the box is this much larger than the number of surface voxels in it: typically
# for a class of which a few voxels lie astray.
_SPARSE = 150

_FEW = 2**16 - 1  # labels up to here need no renumbering
MOST_LABELS = 1000  # of a label map; each may lie everywhere, as those of a scan's grey values do


class TooManyLabels(ValueError):
    """A label map has more than `MOST_LABELS`; ``which`` of those that are compared, from 0."""

    def __init__(self, which: int):
        super().__init__(f"more than {MOST_LABELS:,} labels")
        self.which = which


def dice(truth: Mask, prediction: Mask) -> float:
    """Dice coefficient of two masks of one shape; 1 if both are empty."""
    total = np.count_nonzero(truth) + np.count_nonzero(prediction)
    return 2.0 * np.count_nonzero(truth & prediction) / total if total else 1.0


def iou(truth: Mask, prediction: Mask) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def hd95(truth: Mask, prediction: Mask) -> float:
    """95th percentile of the distances between the surfaces of two masks, both directions together, in voxels.

    0 if both masks (z, y, x) are empty; if one is, the norm of the shape. The number of ``medpy.metric.binary.hd95``
    without spacing, which ToothFairy3 grades with: a surface voxel has a face neighbour outside the mask, and
    everything beyond the volume is outside.
    """
    box = bounding_box(truth | prediction)
    if box is None:
        return 0.0
    if not truth.any() or not prediction.any():
        return float(np.linalg.norm(truth.shape))
    surfaces = _surface(truth[box]), _surface(prediction[box])
    squared = np.concatenate([_squared_distances(*surfaces), _squared_distances(*surfaces[::-1])])
    return float(np.percentile(np.sqrt(squared, dtype=np.float64), 95))


def surface_dice(truth: Mask, prediction: Mask, spacing: Spacing, tolerance: float = 2.0) -> float:
    """The share of both surfaces that lies within a tolerance of the other (normalised surface Dice, NSD).

    The number of ``compute_surface_dice_at_tolerance`` of DeepMind's ``surface-distance``, which STSR grades with:
    surface elements sit on the corners between voxels and weigh their marching-cubes area.

    Args:
        truth: A mask (z, y, x).
        prediction: The same shape.
        spacing: (z, y, x) in mm.
        tolerance: In mm.

    Returns:
        0 to 1; 1 if both masks are empty, 0 if one is.
    """
    box = bounding_box(truth | prediction)
    if box is None:
        return 1.0
    if not truth.any() or not prediction.any():
        return 0.0
    areas = _surfel_areas(tuple(spacing))
    codes = [_corner_codes(mask[box]) for mask in (truth, prediction)]
    surfaces = [(code != 0) & (code != 255) for code in codes]
    near_area = area = 0.0
    for code, here, there in zip(codes, surfaces, surfaces[::-1]):
        elements = code[here]
        near = _within(here, there, spacing, tolerance)
        near_area += float(np.bincount(elements[near], minlength=256) @ areas)
        area += float(np.bincount(elements, minlength=256) @ areas)
    return near_area / area


def bounding_box(mask: Array) -> Box | None:
    """The smallest box that holds every voxel that is not 0, or None if there are none."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        # Later axes are searched only where earlier ones found something.
        found = np.flatnonzero(mask[tuple(box)].any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if found.size == 0:
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def class_masks(truth: Array, prediction: Array) -> Iterator[tuple[float, Mask | None, Mask | None]]:
    """For each label above 0 that one of two label maps holds: the label and its two masks, cut to their common box.

    Args:
        truth: A label map (z, y, x) of any real type; negative values and NaN are background.
        prediction: The same shape.

    Returns:
        The labels in ascending order; None stands for the mask of a map that lacks the label.

    Raises:
        TooManyLabels: One of them has more than `MOST_LABELS`.
    """
    labels, maps = _ranked(truth, prediction)
    boxes = [ndimage.find_objects(ranks, len(labels)) for ranks in maps]
    for which, found in enumerate(boxes):
        if len(found) - found.count(None) > MOST_LABELS:
            raise TooManyLabels(which)
    for rank, (label, *found) in enumerate(zip(labels, *boxes), start=1):
        box = joint_box(found)
        if box is not None:
            ours, theirs = (None if own is None else ranks[box] == rank for ranks, own in zip(maps, found))
            yield label, ours, theirs


def _ranked(*maps: Array) -> tuple[Sequence[float], list[Array]]:
    """Label maps as small unsigned integers, the ranks of their labels (from 1), and which labels those are."""
    top = max(float(labels.max(initial=0)) for labels in maps)
    if top <= _FEW and all(labels.dtype.kind in "iu" for labels in maps):
        kind = np.min_scalar_type(int(top))
        positive = [labels if labels.dtype.kind == "u" else np.maximum(labels, 0) for labels in maps]
        return range(1, int(top) + 1), [labels.astype(kind, copy=False) for labels in positive]
    # Large or fractional ones: a slot for every number up to the largest could exceed any memory.
    where = [labels > 0 for labels in maps]
    every = np.unique(np.concatenate([_positive(which, *pair) for which, pair in enumerate(zip(maps, where))]))
    ranks = [np.zeros(labels.shape, np.min_scalar_type(every.size)) for labels in maps]
    for rank, labels, mask in zip(ranks, maps, where):
        rank[mask] = np.searchsorted(every, labels[mask]) + 1
    return every.tolist(), ranks


def _positive(which: int, labels: Array, where: Mask) -> Array:
    """The labels of a map where a mask is true, ascending; TooManyLabels as soon as there are."""
    found = np.zeros(0, labels.dtype)
    for plane, there in zip(labels, where):
        found = np.union1d(found, plane[there])
        if found.size > MOST_LABELS:
            raise TooManyLabels(which)
    return found


def joint_box(boxes: list[Box | None]) -> Box | None:
    """The smallest box that holds all boxes (None: an empty one)."""
    present = [box for box in boxes if box is not None]
    if not present:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*present))


def _surface(mask: Mask) -> Mask:
    inside = mask.copy()
    for axis in range(mask.ndim):
        voxels, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        kept[1:] &= voxels[:-1]
        kept[:-1] &= voxels[1:]
        kept[0] = kept[-1] = False
    outermost: Mask = mask & ~inside
    return outermost


def _squared_distances(here: Mask, there: Mask) -> Array:
    """For each true voxel of one array: its squared distance, in voxels, to the nearest of the other. Exact."""
    if here.size > _SPARSE * (np.count_nonzero(here) + np.count_nonzero(there)):
        distances, _ = cKDTree(_points(there)).query(_points(here))
        squared: Array = np.rint(distances**2)
    else:
        squared = edt.edtsq(~there)[here]
    return squared


def _points(mask: Mask) -> Array:
    # flatnonzero first: several times faster than argwhere where little is true
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def _within(here: Mask, there: Mask, spacing: Spacing, tolerance: float) -> Mask:
    """For each true voxel of one array: is one of the other within the tolerance (mm)? As double precision has it."""
    squared = edt.edtsq(~there, anisotropy=tuple(spacing))[here]
    near: Mask = squared <= tolerance**2
    unsure = np.abs(squared - tolerance**2) < _ROUNDING * tolerance**2
    if unsure.any():
        verdicts = _verdicts(there.shape, spacing, tolerance)
        if verdicts.all() or not verdicts.any():
            near[unsure] = verdicts.all()
        else:  # which of several equally near elements scipy finds decides, so scipy has to find it
            near[unsure] = (ndimage.distance_transform_edt(~there, sampling=spacing)[here] <= tolerance)[unsure]
    return near


def _verdicts(shape: tuple[int, ...], spacing: Spacing, tolerance: float) -> Mask:
    """Whether the offsets between voxels that are about as long as the tolerance are within it, bool, one for each."""
    reach = [min(size, int(tolerance / step) + 2) for size, step in zip(shape, spacing)]
    z, y, x = np.ogrid[tuple(slice(0, n) for n in reach)]
    length = np.sqrt((z * spacing[0]) ** 2 + (y * spacing[1]) ** 2 + (x * spacing[2]) ** 2)
    return length[np.abs(length**2 - tolerance**2) < 2 * _ROUNDING * tolerance**2] <= tolerance


# ---------------------------------------------------------------------------------------------------------------------
# Surface elements. Every corner of the grid touches eight voxels; which of them are in the mask is a number of eight
# bits, and marching cubes turns it into triangles between the midpoints of the cube's edges. Only their areas matter.
# Mirrored, turned or inverted cubes have the same triangles, so thirteen cubes stand for all 254.

# Voxels in the mask (z, y, x), and the triangles' areas projected along z, y, x, in eighths of a voxel's face.
_CUBES: tuple[tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]], ...] = (
    (("000",), ((1, 1, 1),)),
    (("000", "001"), ((2, 2, 0), (2, 2, 0))),
    (("001", "010"), ((1, 1, 1), (1, 1, 1))),
    (("000", "111"), ((1, 1, 1), (1, 1, 1))),
    (("000", "001", "010"), ((1, 1, 1), (2, 2, 2), (4, 0, 0))),
    (("001", "010", "100"), ((1, 1, 1), (1, 1, 1), (1, 1, 1))),
    (("000", "011", "100"), ((0, 2, 2), (0, 2, 2), (1, 1, 1))),
    (("000", "001", "010", "011"), ((4, 0, 0), (4, 0, 0))),
    (("000", "001", "010", "100"), ((1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2))),
    (("000", "001", "011", "100"), ((0, 2, 2), (1, 1, 1), (2, 0, 2), (3, 3, 3))),
    (("001", "010", "011", "100"), ((1, 1, 1), (1, 1, 1), (2, 2, 2), (4, 0, 0))),
    (("010", "011", "100", "101"), ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0))),
    (("000", "011", "101", "110"), ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))),
)


def _corner_codes(mask: Mask) -> Codes:
    """The code of each corner of the grid: uint8, one longer than the mask along each axis."""
    codes = np.zeros([n + 1 for n in mask.shape], np.uint8)
    voxels = mask.view(np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=3)):
        codes[tuple(slice(c, c + n) for c, n in zip(corner, mask.shape))] |= voxels << np.uint8(bit)
    return codes


@lru_cache(maxsize=8)
def _surfel_areas(spacing: Spacing) -> npt.NDArray[np.float64]:
    """The area in mm^2 of the triangles of each code, (256,)."""
    faces = np.prod(spacing) / np.array(spacing)  # of a voxel, across z, y, x
    areas = np.zeros(256)
    for voxels, triangles in _CUBES:
        corners = [tuple(map(int, voxel)) for voxel in voxels]
        for order, mirror in product(permutations(range(3)), product((0, 1), repeat=3)):
            moved = [[corner[axis] ^ mirror[axis] for axis in order] for corner in corners]
            code = sum(1 << (4 * z + 2 * y + x) for z, y, x in moved)
            area = sum(float(np.linalg.norm(np.array([t[axis] for axis in order]) / 8 * faces)) for t in triangles)
            areas[code] = areas[255 - code] = area
    return areas
