"""One grey scale for all scanners: shift and scale a scan so that air and soft tissue lie where CT puts them.

Cone-beam CT is not calibrated: scanners differ in gain by 0.5 to 2.6 and in offset, which fixed clipping limits do not
survive. Air and soft tissue are the two peaks that nearly every dental scan has, and two points fix a line. Bone and
enamel follow as far as the scanner is linear.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from umamba2.engine.greys import Array, GreyValues, sampled
from umamba2.engine.padding import Padding, find_padding

AIR, SOFT_TISSUE = -1000.0, 40.0  # HU
CROSSED = 0.02  # of the fullest plane: a plane with fewer voxels of tissue is beside the head
MUCH = 2 / 3  # of the scan: where the head and the air within its box fill less, there is much air around it

Box = tuple[slice, ...]


@dataclass(frozen=True)
class GreyScale:
    """What is done to the intensities of a scan before they are normalised: ``scale * intensity + offset``.

    Attributes:
        padding: What of the scan is padding.
        air: What padding is replaced by first, an intensity of the scan.
        scale: The factor.
        offset: In HU, as the result.
    """

    padding: Padding | None
    air: float = AIR
    scale: float = 1.0
    offset: float = 0.0

    def apply(self, volume: Array, box: Box) -> npt.NDArray[np.float32]:
        """The new intensities of a part of the scan, in memory of their own."""
        values = volume[box].astype(np.float32)
        if self.padding is not None:
            values[self.padding.mask(box)] = self.air
        if (self.scale, self.offset) != (1, 0):
            values *= np.float32(self.scale)
            values += np.float32(self.offset)
        return values


def harmonise(volume: Array) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Bring the air of a scan to -1000 and its soft tissue to 40.

    The result does not depend on the scanner's gain and offset. Padding becomes air.

    Args:
        volume: Intensities (z, y, x) of any real type; not changed.

    Returns:
        The new intensities, and a warning for whatever is wrong. A scan that shows no two such peaks (a field of view
        without air, say) comes back as it is.
    """
    scale, warnings = grey_scale(volume, find_padding(volume), True)
    return scale.apply(volume, tuple(slice(0, n) for n in volume.shape)), warnings


def grey_scale(volume: Array, padding: Padding | None, harmonised: bool) -> tuple[GreyScale, tuple[str, ...]]:
    """How to bring a scan to the grey scale that a network expects.

    Args:
        volume: Intensities (z, y, x) of the scan, or of the part of it that counts.
        padding: What of the whole scan is padding.
        harmonised: Whether the network expects air at -1000 and soft tissue at 40; if not, intensities are kept.

    Returns:
        The scale, and a warning for whatever is wrong.
    """
    if padding is None and not harmonised:
        return GreyScale(None), ()
    warnings: tuple[str, ...] = (
        () if padding is None else (f"found padding ({padding}), expected none; taken as air, not labelled",)
    )
    found = anchors(volume, padding.values if padding else ())
    if found is None and harmonised:
        warnings += ("found no separate peaks of air and soft tissue, expected both; intensities kept",)
    air, soft = found or (AIR, SOFT_TISSUE)
    scale = (SOFT_TISSUE - AIR) / (soft - air) if harmonised else 1.0
    return GreyScale(padding, air, scale, AIR - air * scale if harmonised else 0.0), warnings


def anchors(volume: Array, padding: Collection[float] = ()) -> tuple[float, float] | None:
    """The intensities of air and of soft tissue in a scan, or None if its histogram does not show both.

    Where air outweighs everything else, they are looked for in the box around the rest.

    Args:
        volume: Intensities (z, y, x).
        padding: Values that do not count.
    """
    found = GreyValues.of(volume, padding).anchors()
    if found is None:
        box = tissue_box(volume, padding)
        found = None if box is None else GreyValues.of(volume[box], padding).anchors()
    return found


def tissue_box(volume: Array, padding: Collection[float] = ()) -> Box | None:
    """The box around everything in a scan that is brighter than its darkest group of voxels; None if all are one group.

    Args:
        volume: Intensities (z, y, x).
        padding: Values that do not count.
    """
    limit = GreyValues.of(volume, padding).darkest_group()
    if limit is None:
        return None
    places = sampled(volume.shape)
    grid = volume[np.ix_(*places)]
    tissue = (grid > limit) & ~np.isin(grid, list(padding))
    box = []
    for axis, planes in enumerate(places):
        share = tissue.mean(tuple(other for other in range(3) if other != axis))
        used = np.flatnonzero(share > CROSSED * share.max())
        box.append(slice(int(planes[max(used[0] - 1, 0)]), int(planes[min(used[-1] + 1, len(planes) - 1)]) + 1))
    return tuple(box)


def without_air(volume: Array, box: Box, padding: Padding | None) -> Box:
    """The part of a box that holds the head, if much of it is air around the head; else all of it.

    Networks answer differently where their tiles hold hardly anything but air.

    Args:
        volume: Intensities (z, y, x).
        box: The part of it that is looked at.
        padding: What of it is padding.
    """
    values, inside = padding.values if padding else (), volume[box]
    part = tissue_box(inside, values)
    if part is None or inside[part].size > MUCH * inside.size or GreyValues.of(inside[part], values).anchors() is None:
        return box
    return tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, part))
