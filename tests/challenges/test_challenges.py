"""The challenges' numbers against the published ones."""

from __future__ import annotations

import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR, TASKS

from umamba2.challenges import CHALLENGES, find_challenge
from umamba2.errors import InputError


def test_published_settings():
    # SPEC: tile step, mirrors and channel swaps of the three submissions
    assert [CHALLENGES[task].tile_step for task in TASKS] == [0.95, 0.9, 0.8]
    assert [CHALLENGES[task].connectivity for task in TASKS] == [18, 26, None]
    assert [CHALLENGES[task].num_classes for task in TASKS] == [47, 3, 13]
    settings = {task: CHALLENGES[task].predictor_settings() for task in TASKS}
    assert {s["mirror_axes"] for s in settings.values()} == {(1, 2)}
    assert {s["blend"] for s in settings.values()} == {"published"}
    assert settings[INTERACTIVE]["left_right_pairs"] == ((1, 2),)
    assert settings[STSR]["left_right_pairs"] == ()
    assert {(3, 4), (5, 6), (43, 44), (11, 19), (34, 42)} <= set(settings[MULTICLASS]["left_right_pairs"])
    assert CHALLENGES[INTERACTIVE].min_voxels == {1: 2198, 2: 1754}


def test_an_unknown_challenge_is_named():
    with pytest.raises(
        InputError, match="found 'toothfairy4', expected one of toothfairy3-multiclass, toothfairy3-int"
    ):
        find_challenge("toothfairy4")
