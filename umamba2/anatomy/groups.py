"""Structures by group, by FDI number and by file name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from umamba2.anatomy.structures import Structure
from umamba2.errors import InputError

GROUPS = ("teeth", "restorations", "pulp", "canals", "jaws", "sinuses", "pharynx")  # in the order of reading


def by_group(structures: Iterable[Structure]) -> dict[str, list[Structure]]:
    """Structures by the name of their group, in the order of reading; groups that are not in ``GROUPS`` come last."""
    structures = list(structures)
    groups: dict[str, list[Structure]] = {name: [s for s in structures if s.group == name] for name in GROUPS}
    for structure in structures:
        if structure.group not in GROUPS:
            groups.setdefault(structure.group, []).append(structure)
    return {name: members for name, members in groups.items() if members}


def title(structure: Structure) -> str:
    """A name for readers: ``36 lower left first molar``, ``left maxillary sinus``."""
    return structure.name if structure.fdi is None else f"{structure.fdi} {structure.name}"


def slug(structure: Structure) -> str:
    """A name for files: ``36_lower_left_first_molar``, ``left_maxillary_sinus``."""
    return title(structure).replace(" ", "_")


def select(structures: Sequence[Structure], wanted: Iterable[str] | None) -> list[Structure]:
    """The structures that go by some names.

    Args:
        structures: The classes of a challenge.
        wanted: Groups or FDI numbers; None: all structures.

    Raises:
        InputError: A name that the challenge does not have.
    """
    if wanted is None:
        return list(structures)
    chosen: set[str] = set()
    for name in wanted:
        found = [s.name for s in structures if name == s.group or (s.fdi and name == str(s.fdi))]
        if not found:
            teeth = " or FDI numbers" if any(s.fdi for s in structures) else ""
            raise InputError(f"structures: found {name!r}, expected {', '.join(by_group(structures))}{teeth}")
        chosen.update(found)
    return [s for s in structures if s.name in chosen]
