"""The challenges' numbers against the published ones."""

from __future__ import annotations

import numpy as np
import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR, TASKS

from umamba2.anatomy.numberings import from_training, ids_of, to_training
from umamba2.anatomy.structures import FDI_TEETH
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


@pytest.mark.parametrize("numbering", ["platform", "public"])
def test_with_tooth_pulps_every_pulp_has_an_id(numbering):
    plain, split = CHALLENGES[MULTICLASS], CHALLENGES[MULTICLASS].with_tooth_pulps()
    assert split.structures[: len(plain.structures) - 1] == plain.structures[:-1]
    assert {ids_of(s, numbering)[0]: s.name for s in split.structures[plain.num_classes - 1 :]} == {
        100 + fdi: f"pulp of tooth {fdi}" for fdi in FDI_TEETH
    }
    ids = from_training(split.structures, numbering)
    assert len(set(ids)) == split.num_classes
    back = to_training(split.structures, numbering, released=True)
    np.testing.assert_array_equal(back[ids], np.arange(split.num_classes))
    # The ids of the release are understood as before, but for the pulps.
    released = to_training(plain.structures, numbering, released=True)
    same = [number for number in range(256) if not (111 <= number <= 148 or number == 160)]
    np.testing.assert_array_equal(back[same], released[same])
    assert back[160] == back[138] != 0


def test_label_maps_say_whether_pulps_are_told_apart():
    challenge = CHALLENGES[MULTICLASS]

    def told_apart(numbering, *present):
        return challenge.as_found(numbering, *present).has_tooth_pulps

    assert told_apart("platform", [1, 36, 136])
    assert told_apart("public", [136, 150], [148])
    assert told_apart("platform", [136], [1, 36])  # a truth without any pulp
    assert not told_apart("platform", [1, 36, 50])
    assert not told_apart("platform", [136], [50])  # a truth that does not tell them apart
    assert not told_apart("platform", [1, 36])
    assert not told_apart("training", [1, 120])
    assert not CHALLENGES[STSR].as_found("platform", [1, 2, 111]).has_tooth_pulps
