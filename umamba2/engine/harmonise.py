"""One grey scale for all scanners: shift and scale a scan so that air and soft tissue lie where CT puts them.

Cone-beam CT is not calibrated: scanners differ in gain by 0.5 to 2.6 and in offset, which fixed clipping limits do not
survive. Air and soft tissue are the two peaks that nearly every dental scan has, and two points fix a line. Bone and
enamel follow as far as the scanner is linear.
"""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np

from umamba2.messages import say

AIR, SOFT_TISSUE = -1000.0, 40.0  # HU
BINS = 512
BLUR = 6  # bins: peaks closer than about this are one; wider than the gaps of 8-bit scans
DEEP = 0.25  # of the lower peak: a valley above this does not separate air from soft tissue
SMALLEST = 0.005  # of all voxels: what is less is no tissue but noise
SHARE = 0.5  # of the group below: soft tissue has more; if not, the two are soft tissue and bone, and air is missing
SAMPLE = 2**21  # voxels looked at


def harmonise(volume: np.ndarray, name: str = "scan") -> np.ndarray:
    """The scan with its air at -1000 and its soft tissue at 40, float32, same shape.

    The result does not depend on the scanner's gain and offset. A scan that shows no two such peaks (a field of view
    without air, say) comes back as it is, with a warning on stderr, which calls it by ``name``.
    """
    found = anchors(volume)
    if found is None:
        problem = "found no separate peaks of air and soft tissue, expected both; intensities kept"
        say(f"warning: {name}: {problem}", sys.stderr)
        return volume.astype(np.float32, copy=False)
    air, soft = found
    scale = (SOFT_TISSUE - AIR) / (soft - air)
    return volume.astype(np.float32) * np.float32(scale) + np.float32(AIR - air * scale)


def anchors(volume: np.ndarray) -> tuple[float, float] | None:
    """The intensities of air and of soft tissue in a scan, or None if its histogram does not show both.

    Soft tissue is the largest group of voxels with a deep valley below it; air is the group below that valley.
    """
    sample = volume.reshape(-1)[:: max(1, volume.size // SAMPLE)]
    low, high = np.percentile(sample, (0.1, 99.5))
    if not low < high:
        return None
    counts, edges = np.histogram(sample, BINS, (low, high))
    reach = np.arange(-3 * BLUR, 3 * BLUR + 1)
    kernel = np.exp(-0.5 * (reach / BLUR) ** 2)
    curve = np.convolve(np.pad(counts / len(sample), 3 * BLUR, mode="symmetric"), kernel / kernel.sum(), "valid")
    groups = _groups(curve)
    if len(groups) < 2:
        return None
    masses = [curve[group].sum() for group in groups]
    soft = 1 + int(np.argmax(masses[1:]))
    if masses[soft] < SHARE * masses[soft - 1]:
        return None
    air, tissue = (_top(curve, group) for group in groups[soft - 1 : soft + 1])
    width = edges[1] - edges[0]
    return float(low + air * width), float(low + tissue * width)


def _top(curve: np.ndarray, group: slice) -> float:
    """Where a group peaks, in bins: the centre of its upper quarter, steadier than the highest bin."""
    part = curve[group]
    top = np.where(part >= 0.75 * part.max(), part, 0)
    return float(group.start + 0.5 + (top * np.arange(len(top))).sum() / top.sum())


def _groups(curve: np.ndarray) -> list[slice]:
    """The parts of a curve that deep valleys separate, from left to right."""
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
