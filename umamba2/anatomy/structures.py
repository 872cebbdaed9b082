"""The one table of anatomy: names, ids in every numbering, groups, colours, smallest sizes.

Everybody else looks ids up here by a structure's name or FDI number. What the numberings are, and how label maps go
from one to another, is in `umamba2.anatomy.numberings`. This module needs the standard library alone, so that reading a
name or an id never waits for torch.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

Colour = tuple[int, int, int]  # red, green, blue, 0-255

# What each is, `umamba2.anatomy.numberings` says. Label maps are written in the first three.
NUMBERINGS = ("platform", "public", "training", "dataset")
WRITTEN_NUMBERINGS = NUMBERINGS[:3]

# Voxel counts in the published post-processing table refer to ToothFairy3's 0.3 mm grid.
REFERENCE_VOXEL_MM3 = 0.3**3
FDI_TEETH = tuple(10 * quadrant + position for quadrant in range(1, 5) for position in range(1, 9))
PULP_OFFSET = 100  # the id of a pulp in the ToothFairy3 release is the FDI number of its tooth + this
# Case S_0048 of the ToothFairy3 release was annotated with two ids that mean tooth 38 and its pulp.
DATASET_TYPOS = {60: 38, 160: 138}


@dataclass(frozen=True)
class Structure:
    """One class of a challenge.

    Attributes:
        name: What people call it; structures of the two sides differ in the words "left" and "right" alone.
        training: Its channel in the network; the background is 0, and there are no gaps.
        platform: Its id for the platform's grader.
        public: Its id for the organisers' published grader.
        dataset: Every id that means it in the released label maps.
        group: What it is listed and selected with, such as "teeth".
        colour: Red, green, blue, 0-255.
        fdi: Its FDI number if it is a single tooth.
        min_voxels: Smallest plausible size in voxels of ``REFERENCE_VOXEL_MM3``; None: no size is too small.
    """

    name: str
    training: int
    platform: int
    public: int
    dataset: tuple[int, ...]
    group: str
    colour: Colour
    fdi: int | None = None
    min_voxels: float | None = None

    @property
    def partner(self) -> str | None:
        """The name of the same structure on the other side; None on the midline."""
        other = {"left": "right", "right": "left"}
        name = " ".join(other.get(word, word) for word in self.name.split())
        return None if name == self.name else name


def by_name(structures: Iterable[Structure]) -> dict[str, Structure]:
    """Structures by their names."""
    return {structure.name: structure for structure in structures}


def left_right_pairs(structures: Iterable[Structure]) -> tuple[tuple[int, int], ...]:
    """Pairs of training ids that trade places in a mirror image along x (array axis 2), the smaller one first."""
    named = by_name(structures)
    partners = ((s.training, named[s.partner].training) for s in named.values() if s.partner in named)
    return tuple((one, other) for one, other in partners if one < other)


def tooth_name(fdi: int) -> str:
    """The name of a tooth by FDI number, as in ``11: upper right central incisor``."""
    return f"{_QUADRANTS[fdi // 10 - 1]} {_TOOTH_NAMES[fdi % 10 - 1]}"


def pulp_name(fdi: int) -> str:
    """The name of the pulp of one tooth by FDI number."""
    return f"pulp of tooth {fdi}"


_TOOTH_NAMES = (
    "central incisor", "lateral incisor", "canine", "first premolar", "second premolar", "first molar",
    "second molar", "third molar",
)  # fmt: skip
_QUADRANTS = ("upper right", "upper left", "lower left", "lower right")  # FDI quadrants 1-4

# Smallest sizes: the 0.5th percentile of the component sizes in the ToothFairy3 training volumes (published table).
_TOOTH_SIZES = {
    11: 1473.895, 12: 888.1, 13: 1200, 14: 871.4, 15: 1970.9, 16: 1851, 17: 2146.2, 18: 1552, 21: 1520, 22: 728.52,
    23: 1196.26, 24: 1357.385, 25: 1964.44, 26: 1064.55, 27: 1930.25, 28: 1684, 31: 2177, 32: 1092, 33: 2844.9,
    34: 1590.155, 35: 1833, 36: 1057.15, 37: 2160, 38: 1179.185, 41: 1070, 42: 3597.525, 43: 1195, 44: 1947, 45: 2075,
    46: 2051.65, 47: 1057.345, 48: 3724,
}  # fmt: skip
# name, group, colour, smallest size; the training, platform, public and dataset ids of these ten are 1 to 10
_HEAD: tuple[tuple[str, str, Colour, float | None], ...] = (
    ("lower jawbone", "jaws", (222, 203, 164), None),
    ("upper jawbone", "jaws", (196, 178, 142), 448.88),
    ("left inferior alveolar canal", "canals", (230, 60, 60), 2198),
    ("right inferior alveolar canal", "canals", (60, 90, 230), 1754),
    ("left maxillary sinus", "sinuses", (120, 200, 235), 814.48),
    ("right maxillary sinus", "sinuses", (90, 170, 215), 1869),
    ("pharynx", "pharynx", (150, 220, 190), 71533),
    ("bridge", "restorations", (160, 160, 175), 7211),
    ("crown", "restorations", (205, 205, 220), 5694),
    ("implant", "restorations", (120, 120, 140), None),
)
# name, platform id, dataset id (which is the public one), colour, smallest size
_SMALL_CANALS: tuple[tuple[str, int, int, Colour, float | None], ...] = (
    ("left mandibular incisive canal", 51, 103, (240, 140, 60), 75),
    ("right mandibular incisive canal", 52, 104, (90, 150, 250), 33),
    ("lingual canal", 53, 105, (210, 90, 210), None),
)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue (any number; the fraction counts), saturation and value (both 0 to 1)."""
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
    return red, green, blue


def unknown_structure(number: int, name: str) -> Structure:
    """A class of which nothing but its number and its name is known, for models of no challenge."""
    # Hues a golden ratio apart stay apart.
    return Structure(name, number, number, number, (number,), "classes", hsv(0.08 + number * 0.381966, 0.65, 0.95))


def _tooth_colour(fdi: int) -> Colour:
    # Hue walks along the arch, brightness alternates, so that neighbours differ and quadrants look related.
    hue = 0.25 * (fdi // 10 - 1) + 0.025 * (fdi % 10 - 1)
    return hsv(hue, 0.55, 1.0) if fdi % 2 else hsv(hue, 0.8, 0.85)


def _with_typos(*ids: int) -> tuple[int, ...]:
    return *ids, *(wrong for wrong, meant in DATASET_TYPOS.items() if meant in ids)


def _anatomy() -> Iterator[Structure]:
    for i, (name, group, colour, size) in enumerate(_HEAD, start=1):
        yield Structure(name, i, i, i, (i,), group, colour, min_voxels=size)
    for i, fdi in enumerate(FDI_TEETH, start=11):
        facts = (tooth_name(fdi), i, fdi, fdi, _with_typos(fdi), "teeth", _tooth_colour(fdi))
        yield Structure(*facts, fdi=fdi, min_voxels=_TOOTH_SIZES[fdi])
    for i, (name, platform, dataset, colour, size) in enumerate(_SMALL_CANALS, start=43):
        yield Structure(name, i, platform, dataset, (dataset,), "canals", colour, min_voxels=size)
    yield Structure("pulp", 46, 50, 150, _with_typos(*(fdi + PULP_OFFSET for fdi in FDI_TEETH)), "pulp", (200, 30, 90))


def _tooth_pulps() -> Iterator[Structure]:
    for i, fdi in enumerate(FDI_TEETH, start=len(ANATOMY) + 1):
        number, (red, green, blue) = fdi + PULP_OFFSET, _tooth_colour(fdi)
        darker = (red // 2, green // 2, blue // 2)  # than the tooth that it lies in
        yield Structure(pulp_name(fdi), i, number, number, _with_typos(number), "pulp", darker)


# Every structure of the ToothFairy3 release, in the order of its training ids there.
ANATOMY = tuple(_anatomy())
# The pulps of the single teeth, in the order of the teeth. No network has them as classes: their training ids, which
# follow the others, are for label maps in memory alone.
TOOTH_PULPS = tuple(_tooth_pulps())


def named_structures(labels: Mapping[str, int]) -> list[Structure]:
    """The structures that the classes of a model go by, with its channels; those with unknown names too."""
    known = by_name(ANATOMY)
    return [replace(known.get(name) or unknown_structure(i, name), training=i) for name, i in labels.items() if i]
