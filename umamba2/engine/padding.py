"""Padding: voxels that no scanner measured, which software filled with one extreme value.

It lies outside the scanner's cylinder, in slabs, in corners, or scattered. Its value may be dark (-3024, -32768) or
bright (3071, 32767), and would be taken for the darkest air or for metal. Three things tell it from what was measured:
its value stands apart in the histogram; dark padding is darker than air; and whatever a scanner sees has blurred edges,
so that metal and enamel, clipped or not, lie beside bright voxels, and padding beside any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from umamba2.engine.greys import DISTINCT, Array, GreyValues

FEWEST = 2e-5  # of the voxels: less padding than this does no harm
BEYOND = 0.02  # of the voxels may have values more extreme than padding
NEAR = 0.02  # of the range of grey values: this close to padding there are few other voxels,
FEW = 0.2  # at most this much for each voxel of padding; the clipped end of a peak has more
BELOW_AIR = 0.2  # of the way from air to soft tissue: what is not darker than air by this is air
FAR = 2.0  # of the way from the median to the brightest: where no air is seen, so far below the median there is none
NO_AIR = -1500.0  # nor so far below air in CT, on whatever scale
BRIGHT, DARK = 0.8, 0.01  # ranks among all grey values: half of what lies beside padding is not beyond these
FRAME = 0.2  # of the volume's twelve edges: more than this is not anatomy
PEELINGS = 3  # scattered voxels that touch each other are taken away one after the other

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Padding:
    """Where a scan is padded.

    Attributes:
        values: The padded voxels of each value.
        shape: The scan's, (z, y, x).
        bits: Which voxels they are, eight along the last axis in a byte.
    """

    values: dict[float, int]
    shape: tuple[int, ...]
    bits: npt.NDArray[np.uint8]

    def mask(self, box: tuple[slice, ...]) -> Mask:
        """Which voxels of a part of the scan are padding."""
        start, stop = box[-1].start, box[-1].stop
        rows = self.bits[box[:-1]][..., start // 8 : -(-stop // 8)]
        return np.unpackbits(rows, axis=-1)[..., start % 8 : start % 8 + stop - start].view(np.bool_)

    def __str__(self) -> str:
        return " and ".join(f"{count} voxels of {value:g}" for value, count in self.values.items())


def find_padding(volume: Array) -> Padding | None:
    """Find the padding of a scan, intensities (z, y, x) of any real type; None if there is none."""
    greys = GreyValues.of(volume)
    fewest, padded, found, rejected = max(8.0, FEWEST * greys.counts.sum()), None, dict[float, int](), set[float]()
    for bright in (True, False) * 2:  # one may hide the other, or a second one
        value = _spike(greys, bright, fewest)
        if value is None or value in rejected:
            continue
        others = greys.without([value])
        mask = _padded(volume, value, bright, others.quantile(BRIGHT if bright else DARK))
        if mask is None:
            rejected.add(value)
            continue
        found[value] = int(np.count_nonzero(mask))
        padded, greys = mask if padded is None else padded | mask, others
    return None if padded is None else Padding(found, volume.shape, np.packbits(padded, axis=-1))


def _spike(greys: GreyValues, bright: bool, fewest: float) -> float | None:
    """The value on one side that stands apart from the others the most, if it does at all; else None.

    Args:
        greys: The scan's grey values.
        bright: Which side.
        fewest: How often a value must be there.
    """
    values, counts = greys.values, greys.counts
    order = slice(None, None, -1 if bright else 1)
    beyond = (np.cumsum(counts[order]) - counts[order])[order]
    extreme = np.flatnonzero((beyond <= BEYOND * (counts.sum() - counts)) & (counts >= fewest))
    if len(values) < DISTINCT or len(extreme) == 0:
        return None
    most = greys.without([float(values[extreme[np.argmax(counts[extreme])]])])
    reach = NEAR * (most.quantile(0.995) - most.quantile(0.005))
    total = np.concatenate([[0], np.cumsum(counts)])
    start = np.searchsorted(values, values[extreme] - reach, "left")
    stop = np.searchsorted(values, values[extreme] + reach, "right")
    near = (total[stop] - total[start] - counts[extreme]) / counts[extreme]
    at = int(np.argmin(near))
    if near[at] > FEW or reach == 0:
        return None
    value = float(values[extreme[at]])
    if bright:
        return value
    others = greys.without([value])
    middle, high, anchors = others.quantile(0.5), others.quantile(0.995), others.anchors()
    if anchors is None:
        limit = max(middle - FAR * (high - middle), NO_AIR)
    else:
        limit = anchors[0] - BELOW_AIR * (anchors[1] - anchors[0])
    return value if value < limit else None


def _padded(volume: Array, value: float, bright: bool, ordinary: float) -> Mask | None:
    """Which voxels of a value are padding, or None if none is.

    Bright padding reaches the border of the volume or is scattered: metal inside the head is left alone, even where a
    drawing gives it sharp edges. Nothing that a scanner sees is as dark as dark padding.
    """
    mask = volume == volume.dtype.type(value)
    found = None
    for part in _bright_parts(mask) if bright else (mask,):
        beside = _beside(volume, part, mask)
        usual = len(beside) and (np.median(beside) < ordinary if bright else np.median(beside) > ordinary)
        if usual or _frame(part) > FRAME:
            found = part if found is None else found | part
    return found


def _bright_parts(mask: Mask) -> Iterator[Mask]:
    """What of a mask reaches the border of the volume, and what is scattered in it, where there is such a thing."""
    outer = _outer(mask)
    if outer.any():
        yield outer
    # No voxel inside lies at the border, so that none of its neighbours does beyond it.
    inside = (mask & ~outer).ravel()
    at, scattered = np.flatnonzero(inside), np.zeros_like(inside)
    steps = (1, mask.shape[2], mask.shape[1] * mask.shape[2])
    for _ in range(PEELINGS):
        touching = sum(inside[at + step].astype(np.uint8) + inside[at - step] for step in steps)
        alone = at[touching <= 1]
        inside[alone], scattered[alone] = False, True
        at = at[touching > 1]
    if scattered.any():
        yield scattered.reshape(mask.shape)


def _outer(mask: Mask) -> Mask:
    """The voxels of a mask from which a straight line along an axis leads out of the volume without leaving the mask.

    That is all of the padding around a convex field of view: a cylinder, a ball, a box in any direction.
    """
    outer = np.zeros_like(mask)
    for planes, reached in ((mask, outer), (mask[::-1], outer[::-1])):
        run = np.ones(mask.shape[1:], np.bool_)
        for plane, out in zip(planes, reached):
            run &= plane
            if not run.any():
                break
            out |= run
    for plane, out in zip(mask, outer):
        for lines, reached in ((plane, out), (plane[::-1], out[::-1]), (plane.T, out.T), (plane.T[::-1], out.T[::-1])):
            if lines[0].any():
                length = np.where(lines.all(0), len(lines), lines.argmin(0))
                reached |= np.arange(len(lines))[:, None] < length
    return outer


def _beside(volume: Array, part: Mask, mask: Mask) -> Array:
    """The intensities of what shares a face with a part of the mask and is not in the mask itself."""
    found = []
    for z in range(len(volume)):  # plane by plane, which is far quicker than all at once
        if part[z].any():
            for other in {max(z - 1, 0), min(z + 1, len(volume) - 1)} - {z}:
                found.append(volume[other][part[z] & ~mask[other]])
            for own, grey, all_ in ((part[z], volume[z], mask[z]), (part[z].T, volume[z].T, mask[z].T)):
                found.append(grey[1:][own[:-1] & ~all_[1:]])
                found.append(grey[:-1][own[1:] & ~all_[:-1]])
    return np.concatenate(found) if found else volume[:0, 0, 0]


def _frame(mask: Mask) -> float:
    """The share of the volume's twelve edges that a mask covers."""
    ends = [slice(None, None, max(1, n - 1)) for n in mask.shape]
    edges = [mask[tuple(slice(None) if a == axis else ends[a] for a in range(3))] for axis in range(3)]
    return sum(int(e.sum()) for e in edges) / sum(e.size for e in edges)
