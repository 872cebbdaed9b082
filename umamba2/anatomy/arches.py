"""The dental arches of the textbook: the order of the teeth, where they lie, how small they may be."""

from __future__ import annotations

from umamba2.anatomy.structures import FDI_TEETH

# From the patient's right wisdom tooth to the left one. A tooth bites on the one with the same place in the other arch.
UPPER_ARCH = (*reversed(FDI_TEETH[:8]), *FDI_TEETH[8:16])
LOWER_ARCH = (*reversed(FDI_TEETH[24:]), *FDI_TEETH[16:24])

# Where teeth lie on an average arch, central incisor to wisdom tooth: mm to the side of the midline, and mm behind the
# upper central incisors. From textbook mesiodistal widths, on arches 50 and 46 mm wide at the first molars.
_UPPER = ((4.3, 0), (11, 2.5), (16.5, 7.5), (20, 14), (22.5, 20.5), (25, 29), (26.5, 38.5), (27.5, 47.5))
_LOWER = ((2.6, 2), (7.8, 3.5), (12.8, 7), (17.3, 12.5), (20.5, 19), (23, 28), (25, 38.5), (27, 48.5))
# In mm^3, by their place too: about a third of the usual volume, in the jaw where they are smaller.
SMALLEST_TOOTH = (75, 90, 150, 140, 140, 350, 350, 200)
JAWS_APART = 15.0  # mm from the middle of the upper teeth down to that of the lower teeth, with the mouth closed


def average_place(fdi: int) -> tuple[float, float, float]:
    """Where a tooth lies on the average arch: mm to the left, the back and the top."""
    quadrant, position = divmod(fdi, 10)
    lateral, depth = (_UPPER if quadrant < 3 else _LOWER)[position - 1]
    return (lateral if quadrant in (2, 3) else -lateral), depth, 0.0 if quadrant < 3 else -JAWS_APART
