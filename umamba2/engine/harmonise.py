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

from umamba2.engine.greys import Array, GreyValues, every_few
from umamba2.engine.padding import Padding, find_padding

AIR, SOFT_TISSUE = -1000.0, 40.0  # HU
CROSSED = 0.1  # of the fullest plane: a plane with fewer voxels of tissue is beside the head


@dataclass(frozen=True)
class GreyScale:
    """What is done to the intensities of a scan before they are normalised: ``scale * intensity + offset``.

    Attributes:
        air: What padding is replaced by first, an intensity of the scan.
        scale: The factor.
        offset: In HU, as the result.
    """

    air: float = AIR
    scale: float = 1.0
    offset: float = 0.0

    def apply(self, part: Array, padding: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float32]:
        """A copy of a part of the scan with its new intensities; ``padding`` says which of its voxels are padding."""
        values = part.astype(np.float32)  # always a copy
        if padding is not None:
            values[padding] = self.air
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
        The new intensities, and a warning for whatever is wrong: a scan that shows no two such peaks (a field of view
        without air, say) comes back as it is.
    """
    padding = find_padding(volume)
    scale, warnings = grey_scale(volume, padding, True)
    everything = tuple(slice(0, n) for n in volume.shape)
    return scale.apply(volume, padding and padding.mask(everything)), warnings


def grey_scale(volume: Array, padding: Padding | None, harmonised: bool) -> tuple[GreyScale, tuple[str, ...]]:
    """How to bring a scan to the grey scale that a network expects.

    Args:
        volume: Intensities (z, y, x).
        padding: What of it is padding.
        harmonised: Whether the network expects air at -1000 and soft tissue at 40; if not, intensities are kept.

    Returns:
        The scale, and a warning for whatever is wrong.
    """
    warnings = [] if padding is None else [f"found padding ({padding}), expected none; taken as air"]
    if not harmonised and padding is None:
        return GreyScale(), ()
    found = anchors(volume, padding.values if padding else ())
    if harmonised and found is None:
        warnings.append("found no separate peaks of air and soft tissue, expected both; intensities kept")
    if found is None:
        return GreyScale(), tuple(warnings)
    air, soft = found
    if not harmonised:
        return GreyScale(air), tuple(warnings)
    scale = (SOFT_TISSUE - AIR) / (soft - air)
    return GreyScale(air, scale, AIR - air * scale), tuple(warnings)


def anchors(volume: Array, padding: Collection[float] = ()) -> tuple[float, float] | None:
    """The intensities of air and of soft tissue in a scan, or None if its histogram does not show both.

    Air that outweighs everything else is cut off first: then the peaks are those in the box around the rest.

    Args:
        volume: Intensities (z, y, x).
        padding: Values that do not count.
    """
    greys = GreyValues.of(volume, padding)
    found, limit = greys.anchors(), greys.darkest_group()
    if found is not None or limit is None:
        return found
    grid = every_few(volume)
    tissue = (grid > limit) & ~np.isin(grid, list(padding))
    box = []
    for axis, length in enumerate(volume.shape):
        share = tissue.mean(tuple(other for other in range(3) if other != axis))
        planes = np.flatnonzero(share > CROSSED * share.max())
        if len(planes) == 0:
            return None
        step = -(-length // len(share))
        box.append(slice(int(planes[0]) * step, (int(planes[-1]) + 1) * step))
    return GreyValues.of(volume[tuple(box)], padding).anchors()
