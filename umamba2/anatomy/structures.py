"""The one table of anatomy: names, ids in every numbering, left/right partners, colours, post-processing sizes.

Numberings, all of them in use somewhere:

- *dataset* ids are what the ToothFairy3 release stores (FDI tooth numbers, 103-105 canals, 111-148 pulps);
- *training* ids are the contiguous channels of a network;
- *platform* ids are what the Grand Challenge evaluation compares (50-53 for pulp and the small canals);
- *public* ids are what the organisers' published ``evaluation.py`` compares (103-105 and 150 instead).

This module needs numpy alone, so that reading a file name or a label never waits for torch.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

MULTICLASS = "toothfairy3-multiclass"
INTERACTIVE = "toothfairy3-interactive"
STSR = "stsr"
TASKS = (MULTICLASS, INTERACTIVE, STSR)
LABEL_MAPS = ("platform", "public", "training")

# Voxel counts in the published post-processing table refer to ToothFairy3's 0.3 mm grid.
REFERENCE_VOXEL_MM3 = 0.3**3


@dataclass(frozen=True)
class Structure:
    """One class of a task: its ids in each numbering, its mirror partner and its smallest plausible size.

    ``partner`` is the training id of the same structure on the other side (None on the midline);
    ``min_voxels`` counts voxels of ``REFERENCE_VOXEL_MM3`` (None: components of any size stay);
    ``colour`` is an RGB triple, 0-255.
    """

    name: str
    training: int
    platform: int
    public: int
    dataset: tuple[int, ...]
    partner: int | None = None
    min_voxels: float | None = None
    colour: tuple[int, int, int] = (200, 200, 200)


# 0.5th percentile of the component sizes in the ToothFairy3 training volumes, by platform id (published table).
_MIN_VOXELS = {
    2: 448.88, 3: 2198, 4: 1754, 5: 814.48, 6: 1869, 7: 71533, 8: 7211, 9: 5694, 11: 1473.895, 12: 888.1, 13: 1200,
    14: 871.4, 15: 1970.9, 16: 1851, 17: 2146.2, 18: 1552, 21: 1520, 22: 728.52, 23: 1196.26, 24: 1357.385,
    25: 1964.44, 26: 1064.55, 27: 1930.25, 28: 1684, 31: 2177, 32: 1092, 33: 2844.9, 34: 1590.155, 35: 1833,
    36: 1057.15, 37: 2160, 38: 1179.185, 41: 1070, 42: 3597.525, 43: 1195, 44: 1947, 45: 2075, 46: 2051.65,
    47: 1057.345, 48: 3724, 51: 75, 52: 33,
}  # fmt: skip

# S_0048 of the release was annotated with two ids of a private numbering (they mean 38 and its pulp).
DATASET_TYPOS = {60: 38, 160: 138}

_TOOTH_NAMES = (
    "central incisor", "lateral incisor", "canine", "first premolar", "second premolar", "first molar",
    "second molar", "third molar",
)  # fmt: skip
_QUADRANTS = ("upper right", "upper left", "lower left", "lower right")  # FDI quadrants 1-4
FDI_TEETH = tuple(10 * quadrant + position for quadrant in range(1, 5) for position in range(1, 9))
PULP_OFFSET = 100  # dataset id of a pulp = FDI number of its tooth + 100


def tooth_name(fdi: int) -> str:
    """The name of a tooth by FDI number, as in ``11: upper right central incisor``."""
    return f"{_QUADRANTS[fdi // 10 - 1]} {_TOOTH_NAMES[fdi % 10 - 1]}"


def _tooth_colour(fdi: int) -> tuple[int, int, int]:
    # Hue walks along the arch, brightness alternates, so that neighbours differ and quadrants look related.
    hue = (0.25 * (fdi // 10 - 1) + 0.025 * (fdi % 10 - 1)) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, 0.55 if fdi % 2 else 0.8, 1.0 if fdi % 2 else 0.85)
    return tuple(round(255 * channel) for channel in rgb)  # type: ignore[return-value]


def _multiclass() -> tuple[Structure, ...]:
    # name, partner, colour; the training, platform and dataset ids of these ten agree
    head = (
        ("lower jawbone", None, (222, 203, 164)),
        ("upper jawbone", None, (196, 178, 142)),
        ("left inferior alveolar canal", 4, (230, 60, 60)),
        ("right inferior alveolar canal", 3, (60, 90, 230)),
        ("left maxillary sinus", 6, (120, 200, 235)),
        ("right maxillary sinus", 5, (90, 170, 215)),
        ("pharynx", None, (150, 220, 190)),
        ("bridge", None, (160, 160, 175)),
        ("crown", None, (205, 205, 220)),
        ("implant", None, (120, 120, 140)),
    )
    table = [
        Structure(name, i, i, i, (i,), partner, _MIN_VOXELS.get(i), colour)
        for i, (name, partner, colour) in enumerate(head, start=1)
    ]
    for index, fdi in enumerate(FDI_TEETH):
        partner_fdi = {1: 20, 2: 10, 3: 40, 4: 30}[fdi // 10] + fdi % 10
        mirrored = 11 + FDI_TEETH.index(partner_fdi)
        table.append(
            Structure(tooth_name(fdi), 11 + index, fdi, fdi, (fdi,), mirrored, _MIN_VOXELS.get(fdi), _tooth_colour(fdi))
        )
    small_canals: tuple[tuple[int, int, int, str, int | None, tuple[int, int, int]], ...] = (
        (43, 51, 103, "left mandibular incisive canal", 44, (240, 140, 60)),
        (44, 52, 104, "right mandibular incisive canal", 43, (90, 150, 250)),
        (45, 53, 105, "lingual canal", None, (210, 90, 210)),
    )
    for training, platform, dataset, name, partner, colour in small_canals:
        limit = _MIN_VOXELS.get(platform)
        table.append(Structure(name, training, platform, dataset, (dataset,), partner, limit, colour))
    pulps = tuple(fdi + PULP_OFFSET for fdi in FDI_TEETH)
    table.append(Structure("pulp", 46, 50, 150, pulps, colour=(200, 30, 90)))
    return tuple(table)


def _interactive() -> tuple[Structure, ...]:
    return (
        Structure("left inferior alveolar canal", 1, 1, 1, (3,), 2, _MIN_VOXELS[3], (230, 60, 60)),
        Structure("right inferior alveolar canal", 2, 2, 2, (4,), 1, _MIN_VOXELS[4], (60, 90, 230)),
    )


def _stsr() -> tuple[Structure, ...]:
    names = (
        "tooth", "pulp", "upper 1", "upper molar root 1", "lower molar root 1", "lower molar root 2", "molar root 1",
        "lower molar root 3", "molar root 2", "lower 1", "upper 2", "wisdom tooth",
    )  # fmt: skip
    table = []
    for i, name in enumerate(names, start=1):
        rgb = colorsys.hsv_to_rgb((0.08 + i * 0.381966) % 1.0, 0.65, 0.95)  # golden-ratio hues stay apart
        table.append(Structure(name, i, i, i, (i,), colour=tuple(round(255 * c) for c in rgb)))  # type: ignore[arg-type]
    return tuple(table)


STRUCTURES: dict[str, tuple[Structure, ...]] = {
    MULTICLASS: _multiclass(),
    INTERACTIVE: _interactive(),
    STSR: _stsr(),
}


def left_right_pairs(task: str) -> tuple[tuple[int, int], ...]:
    """Pairs of training ids that trade places when a volume is mirrored along x (array axis 2)."""
    return tuple((s.training, s.partner) for s in STRUCTURES[task] if s.partner is not None and s.training < s.partner)


def output_table(task: str, label_map: str = "platform") -> np.ndarray:
    """Lookup table from training ids to graded ids: ``output_table(task)[labels]``.

    Shape (classes + 1,), uint8, background first. ``label_map`` is one of ``LABEL_MAPS``.
    Raises ValueError for an unknown map.
    """
    if label_map not in LABEL_MAPS:
        raise ValueError(f"label map: found {label_map!r}, expected one of {', '.join(LABEL_MAPS)}")
    return np.array([0] + [getattr(s, label_map) for s in STRUCTURES[task]], dtype=np.uint8)


def training_table(task: str) -> np.ndarray:
    """Lookup table from dataset ids to training ids: ``training_table(task)[labels]``, shape (256,), uint8.

    Dataset ids that the task does not use become background.
    """
    table = np.zeros(256, dtype=np.uint8)
    for structure in STRUCTURES[task]:
        table[list(structure.dataset)] = structure.training
    if task != STSR:
        for wrong, meant in DATASET_TYPOS.items():
            table[wrong] = table[meant]
    return table
