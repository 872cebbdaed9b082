"""The histogram of a scan, and where air and soft tissue lie in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 512
BLUR = 6  # bins: peaks closer than about this are one; wider than the gaps of 8-bit scans
DEEP = 0.25  # of the lower peak: a valley above this does not separate air from soft tissue
SMALLEST = 0.005  # of all voxels: what is less is no tissue but noise
SHARE = 0.5  # of the group below: soft tissue has more; if not, the two are soft tissue and bone, and air is missing
FINEST = 1e-30  # between air and soft tissue: no factor of single precision makes HU of less
SAMPLE = 2**20  # voxels looked at
DISTINCT = 32  # values: an image of fewer is a drawing, not a scan
LABELS, IN_ONE_PIECE = 256, 0.8  # values of a label map at most; the share of its voxels that are equal to the next one
FEWEST = 1000  # voxels, from which on the number of values tells something
UPPER = 0.6  # of the range of grey values: where the median lies higher, bone is darker than air
QUARTER, FACES = 0.25, 0.2  # of that range, at one end of it, lies air; of the volume's faces: more is no bone

Array = np.ndarray[Any, Any]


def sampled(shape: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Some planes along each axis, the first and the last among them, that have about `SAMPLE` voxels in common."""
    share = min(1.0, (SAMPLE / math.prod(shape)) ** (1 / 3))
    return [np.unique(np.linspace(0, n - 1, math.ceil(share * n)).astype(np.int64)) for n in shape]


@dataclass(frozen=True)
class GreyValues:
    """The grey values of a scan and how often there is each.

    Attributes:
        values: In ascending order, each once.
        counts: Voxels of each value, as many as there are values.
    """

    values: Array
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, volume: Array, padding: Collection[float] = ()) -> GreyValues:
        """Those of a sample of a volume (z, y, x), without the values of its padding."""
        sample = volume[np.ix_(*sampled(volume.shape))]
        if sample.dtype.kind in "iu" and sample.itemsize <= 2:  # many times faster than sorting
            lowest = int(sample.min())
            counts = np.bincount(sample.ravel().astype(np.int64) - lowest)
            found = np.flatnonzero(counts)
            return cls((found + lowest).astype(sample.dtype), counts[found]).without(padding)
        return cls(*np.unique(sample, return_counts=True)).without(padding)

    def without(self, values: Collection[float]) -> GreyValues:
        """All but some values."""
        kept = ~np.isin(self.values, list(values))
        return GreyValues(self.values[kept], self.counts[kept])

    def quantile(self, rank: float) -> float:
        """The smallest value that at least this share of the voxels does not exceed."""
        below = np.cumsum(self.counts)
        return float(self.values[np.searchsorted(below, rank * below[-1])])

    def anchors(self) -> tuple[float, float] | None:
        """The intensities of air and of soft tissue, or None if the histogram does not show both.

        Soft tissue is the largest group of voxels with a deep valley below it; air is the group below that valley.
        """
        if len(self._groups) < 2:
            return None
        masses = [self._curve[group].sum() for group in self._groups]
        soft = 1 + int(np.argmax(masses[1:]))
        if masses[soft] < SHARE * masses[soft - 1]:
            return None
        air, tissue = (self._intensity(self._top(group)) for group in self._groups[soft - 1 : soft + 1])
        return (air, tissue) if tissue - air > FINEST else None

    def darkest_group(self) -> float | None:
        """Where the darkest group of voxels ends, or None if there is but one group."""
        return self._intensity(self._groups[0].stop) if len(self._groups) > 1 else None

    @cached_property
    def _limits(self) -> tuple[float, float]:
        return self.quantile(0.001), self.quantile(0.995)

    def _intensity(self, bins: float) -> float:
        low, high = self._limits
        return low + bins * (high - low) / BINS

    @cached_property
    def _curve(self) -> npt.NDArray[np.float64]:
        """The histogram, smoothed: the share of the voxels in each bin."""
        counts, _ = np.histogram(self.values, BINS, self._limits, weights=self.counts)
        reach = np.arange(-3 * BLUR, 3 * BLUR + 1)
        kernel = np.exp(-0.5 * (reach / BLUR) ** 2)
        padded = np.pad(counts / self.counts.sum(), 3 * BLUR, mode="symmetric")
        return np.convolve(padded, kernel / kernel.sum(), "valid")

    @cached_property
    def _groups(self) -> list[slice]:
        """The parts of the curve that deep valleys separate, from left to right."""
        if len(self.values) == 0 or self._limits[0] == self._limits[1]:
            return []
        curve = self._curve
        framed = np.concatenate([[-1.0], curve, [-1.0]])
        rises, falls = framed[1:-1] > framed[:-2], framed[1:-1] >= framed[2:]
        peaks = [int(i) for i in np.flatnonzero(rises & falls)]
        while len(peaks) > 1:
            # The shallowest valley goes first, and with it the lower of its two peaks.
            depth = [curve[a : b + 1].min() / min(curve[a], curve[b]) for a, b in pairwise(peaks)]
            at = int(np.argmax(depth))
            if depth[at] <= DEEP:
                break
            del peaks[at if curve[peaks[at]] < curve[peaks[at + 1]] else at + 1]
        valleys = [a + int(np.argmin(curve[a : b + 1])) for a, b in pairwise(peaks)]
        groups = [slice(start, stop) for start, stop in pairwise([0, *valleys, len(curve)])]
        return [group for group in groups if curve[group].sum() >= SMALLEST]

    def _top(self, group: slice) -> float:
        """Where a group peaks, in bins: the centre of its upper quarter, steadier than the highest bin."""
        part = self._curve[group]
        top = np.where(part >= 0.75 * part.max(), part, 0)
        return float(group.start + 0.5 + (top * np.arange(len(top))).sum() / top.sum())


def doubts(volume: Array, box: tuple[slice, ...], padding: Collection[float] = ()) -> list[str]:
    """A line if an image looks like a drawing or like a negative.

    Args:
        volume: Intensities (z, y, x).
        box: What of it is looked at.
        padding: Values that do not count.
    """
    greys = GreyValues.of(volume, padding)
    if looks_drawn(volume, greys):
        count = len(greys.values)
        return [f"found {count} value{'s' * (count > 1)} in all voxels, expected a scan: a label map, or a mask?"]
    inside = volume[box]
    if looks_inverted(inside, greys if inside.shape == volume.shape else GreyValues.of(inside, padding), padding):
        return ["found bone darker than air, expected it brighter; the grey values seem to be inverted"]
    return []


def looks_drawn(volume: Array, greys: GreyValues) -> bool:
    """Whether an image is a label map, a mask or the like.

    It has few values, or each lies in one piece: nearly all voxels are equal to the next one. Noise sees to it that
    even in scans of 8 bits three in four are not.

    Args:
        volume: Intensities (z, y, x).
        greys: Their histogram.
    """
    if not len(greys.values) or greys.counts.sum() < FEWEST:
        return False
    if len(greys.values) < DISTINCT:
        return True
    if len(greys.values) > LABELS:
        return False
    planes = volume[sampled(volume.shape)[0][::8]]
    left, right = planes[..., :-1], planes[..., 1:]
    most = greys.values[np.argmax(greys.counts)]  # of the background; or of air, which may be cut off at one value
    counted = (left != most) & (right != most)
    return bool(counted.any()) and float((left == right)[counted].mean()) > IN_ONE_PIECE


def looks_inverted(volume: Array, greys: GreyValues, padding: Collection[float] = ()) -> bool:
    """Whether air is bright in a scan and bone is dark, as in a negative.

    Bone, teeth and metal reach far beyond soft tissue, air does not: the median lies in the lower half of the range of
    grey values. Where it does not, air at the border of the volume tells which is which.

    Args:
        volume: Intensities (z, y, x).
        greys: Their histogram.
        padding: Values that do not count.
    """
    if len(greys.values) < DISTINCT:
        return False
    low, high = greys.quantile(0.005), greys.quantile(0.995)
    middle = (greys.quantile(0.5) - low) / (high - low or 1)
    if middle <= 0.5:
        return False
    faces = np.concatenate([volume.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])
    faces = (faces[~np.isin(faces, list(padding))] - low) / (high - low)
    if len(faces) == 0:
        return middle > UPPER
    dark, bright = np.mean(faces < QUARTER), np.mean(faces > 1 - QUARTER)
    return bool(dark < FACES and (middle > UPPER or bright > FACES))
