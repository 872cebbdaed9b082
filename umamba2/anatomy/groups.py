"""What a label map shows: its ids understood in any numbering, its structures by group, FDI number or file name.

What reports and exports share. Like `umamba2.anatomy.structures`, it needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from umamba2.anatomy.structures import DATASET_TYPOS, FDI_TEETH, INTERACTIVE, MULTICLASS, STRUCTURES, STSR, Structure
from umamba2.errors import InputError

# Groups of structures by training id, in the order in which people read them.
GROUPS: dict[str, dict[str, tuple[int, ...]]] = {
    MULTICLASS: {
        "teeth": tuple(range(11, 43)),
        "restorations": (8, 9, 10),
        "pulp": (46,),
        "canals": (3, 4, 43, 44, 45),
        "jaws": (1, 2),
        "sinuses": (5, 6),
        "pharynx": (7,),
    },
    INTERACTIVE: {"canals": (1, 2)},
    STSR: {"teeth": (1,), "pulp": tuple(range(2, 13))},
}


def fdi_number(challenge: str, structure: Structure) -> int | None:
    """The FDI number of a structure, or None if it is no single tooth."""
    number = structure.platform
    return number if challenge == MULTICLASS and number in FDI_TEETH else None


def slug(challenge: str, structure: Structure) -> str:
    """A name for files: ``36_lower_left_first_molar``, ``left_maxillary_sinus``."""
    number = fdi_number(challenge, structure)
    words = structure.name if number is None else f"{number} {structure.name}"
    return words.replace(" ", "_")


def id_table(challenge: str, label_map: str) -> np.ndarray:
    """Lookup table from the ids in a file to training ids, (256,), uint8; 0 for ids without a meaning.

    Except in the training numbering, the multi-class ids of the dataset release are understood too: they collide with
    none of the graded ones.
    """
    table = np.zeros(256, np.uint8)
    for structure in STRUCTURES[challenge]:
        if challenge == MULTICLASS and label_map != "training":
            table[list(structure.dataset)] = structure.training
        table[getattr(structure, label_map)] = structure.training
    if challenge == MULTICLASS and label_map != "training":
        for wrong, meant in DATASET_TYPOS.items():
            table[wrong] = table[meant]
    return table


def as_training(labels: np.ndarray, name: str, challenge: str, label_map: str) -> np.ndarray:
    """The training ids, uint8, of a label map (z, y, x) in the ids of a file; ``name`` is what messages call it.

    Raises InputError for ids that the numbering does not have, and for a label map that is background only.
    """
    table = id_table(challenge, label_map)
    unknown: np.ndarray
    if labels.size and (labels.min() < 0 or labels.max() > 255):
        unknown = np.unique(labels[(labels < 0) | (labels > 255)])
    else:
        labels = labels.astype(np.uint8, copy=False)
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        unknown = present[(table[present] == 0) & (present > 0)]
        if not unknown.size and not present.any():
            raise InputError(f"{name}: found no structure (every voxel is 0), expected at least one")
    if unknown.size:
        ids = ", ".join(map(str, unknown[:5])) + (", ..." if unknown.size > 5 else "")
        raise InputError(f"{name}: found unknown ids {ids}, expected those of {challenge}, label map {label_map}")
    return table[labels]


def select(challenge: str, wanted: Iterable[str] | None) -> list[Structure]:
    """The structures that go by the given names: groups (see `GROUPS`) or FDI numbers; all of them for None.

    Raises InputError for a name that the challenge does not have.
    """
    structures = STRUCTURES[challenge]
    if wanted is None:
        return list(structures)
    groups = GROUPS[challenge]
    chosen: set[int] = set()
    for name in wanted:
        tooth = [s.training for s in structures if name == str(fdi_number(challenge, s))]
        ids = groups.get(name) or tuple(tooth)
        if not ids:
            teeth = " or FDI numbers" if challenge == MULTICLASS else ""
            raise InputError(f"structures: found {name!r}, expected {', '.join(groups)}{teeth}")
        chosen.update(ids)
    return [s for s in structures if s.training in chosen]
