"""Structures by group, by FDI number and by file name."""

from __future__ import annotations

import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR, TASKS

from umamba2.anatomy.groups import by_group, select, slug
from umamba2.anatomy.structures import ANATOMY
from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError


def test_every_structure_is_in_one_group():
    for task in TASKS:
        members = [s.training for group in by_group(CHALLENGES[task].structures).values() for s in group]
        assert sorted(members) == [s.training for s in CHALLENGES[task].structures]
        assert len({slug(s) for s in CHALLENGES[task].structures}) == len(members)


def test_structures_are_chosen_by_group_and_number():
    chosen = select(ANATOMY, ["jaws", "36", "36"])
    assert [slug(s) for s in chosen] == ["lower_jawbone", "upper_jawbone", "36_lower_left_first_molar"]
    assert len(select(CHALLENGES[STSR].structures, None)) == 12
    for task, name in ((MULTICLASS, "49"), (STSR, "36"), (INTERACTIVE, "teeth"), (MULTICLASS, "")):
        with pytest.raises(InputError, match=f"structures: found '{name}', expected"):
            select(CHALLENGES[task].structures, [name])
