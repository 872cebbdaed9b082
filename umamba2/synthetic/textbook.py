"""What does not depend on a seed: the ids of structures, and sizes and forms of teeth as textbooks give them.

The STSR challenge names its root-canal classes without defining them. `ROOTS` holds our interpretation; beside it, the
third canal of a lower molar is "lower molar root 3", and all canals of wisdom teeth are "wisdom tooth".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.structures import ANATOMY, FDI_TEETH, PULP_OFFSET
from umamba2.challenges import STSR

Array = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

DATASET_ID = {s.name: s.dataset[0] for s in ANATOMY}  # ToothFairy3's ids by name, but not of pulp
STSR_ID = {s.name: s.platform for s in STSR.structures}

# Lookup table from ToothFairy3's ids to the FDI number of a tooth or of the tooth that a pulp belongs to, else 0.
FDI_OF = np.zeros(256, np.uint8)
FDI_OF[list(FDI_TEETH)] = FDI_OF[[fdi + PULP_OFFSET for fdi in FDI_TEETH]] = FDI_TEETH

# Typical sizes in mm of the permanent teeth, central incisor (1) to wisdom tooth (8):
# crown height, root length, mesiodistal width, buccolingual width.
TOOTH_SIZES = {
    "upper": [(10.5, 13.0, 8.5, 7.0), (9.0, 13.0, 6.5, 6.0), (10.0, 16.5, 7.5, 8.0), (8.5, 13.5, 7.0, 9.0),
              (8.5, 13.5, 7.0, 9.0), (7.5, 12.5, 10.0, 11.0), (7.0, 11.5, 9.5, 11.0), (6.5, 10.5, 8.5, 10.0)],
    "lower": [(9.0, 12.5, 5.0, 6.0), (9.5, 13.5, 5.5, 6.2), (11.0, 15.5, 7.0, 7.5), (8.5, 14.0, 7.0, 7.5),
              (8.0, 14.0, 7.0, 8.0), (7.5, 13.5, 11.0, 10.5), (7.0, 12.5, 10.5, 10.0), (7.0, 10.5, 10.0, 9.5)],
}  # fmt: skip

# Outward lean of the crowns in degrees (negative: inwards), same order.
LEAN = {"upper": [24, 22, 12, 5, 4, 5, 6, 8], "lower": [15, 13, 8, -2, -6, -10, -13, -15]}


class Root(NamedTuple):
    """One root: its middle at the neck and at the apex and its half widths, (distal, buccal), all as fractions of the
    tooth's half widths; its length as a fraction of the tooth's root length; the STSR name of its canal."""

    neck: tuple[float, float]
    apex: tuple[float, float]
    half: tuple[float, float]
    length: float
    canal: str


# The roots of a molar, in this order: mesiobuccal, distobuccal and palatal; below: mesial and distal.
ROOTS = {
    "upper single": [Root((0.0, 0.0), (0.10, 0.0), (0.82, 0.86), 1.0, "upper 1")],
    "lower single": [Root((0.0, 0.0), (0.20, 0.0), (0.72, 0.86), 1.0, "lower 1")],
    "upper premolar": [Root((0.0, 0.38), (0.05, 0.50), (0.74, 0.46), 1.0, "upper 1"),
                       Root((0.0, -0.38), (0.05, -0.45), (0.74, 0.46), 0.97, "upper 2")],
    "upper molar": [Root((-0.38, 0.40), (-0.45, 0.60), (0.44, 0.46), 0.95, "upper molar root 1"),
                    Root((0.38, 0.40), (0.55, 0.52), (0.40, 0.42), 0.90, "molar root 1"),
                    Root((0.02, -0.42), (0.10, -0.80), (0.50, 0.46), 1.05, "molar root 2")],
    "lower molar": [Root((-0.42, 0.0), (-0.45, 0.0), (0.44, 0.82), 1.0, "lower molar root 1"),
                    Root((0.42, 0.0), (0.55, 0.0), (0.42, 0.74), 0.95, "lower molar root 2")],
}  # fmt: skip

# Half widths of a crown (mesiodistal, buccolingual) from neck to tip, as fractions of the greatest half width.
CROWN_PROFILES = {
    "incisor": ((0.78, 0.90, 0.98, 1.00, 0.99, 0.93), (0.92, 1.00, 0.86, 0.62, 0.42, 0.24)),
    "canine": ((0.80, 0.92, 1.00, 0.97, 0.74, 0.30), (0.92, 1.00, 0.95, 0.78, 0.55, 0.25)),
    "posterior": ((0.84, 0.92, 0.98, 1.00, 0.96, 0.76), (0.90, 0.98, 1.00, 0.95, 0.82, 0.58)),
}

# Half widths of a root from neck to apex, as fractions of those at the neck: blunt, and thin as real ones end. A real
# canal is narrowest about 0.5 to 0.7 mm before it leaves the root (Kuttler 1955); ours end 0.8 mm before the apex.
ROOT_PROFILE = np.array((1.0, 0.95, 0.86, 0.74, 0.58, 0.28))
THIN_PROFILE = np.array((1.0, 0.93, 0.82, 0.66, 0.46, 0.08))
