"""Label maps from one numbering to another."""

from __future__ import annotations

import numpy as np
import pytest
from challenge_names import TASKS

from umamba2.anatomy.numberings import as_training, from_training, in_ranges, to_training
from umamba2.anatomy.structures import ANATOMY
from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError


def test_ids_of_every_numbering_are_understood():
    for task in TASKS:
        every = np.arange(CHALLENGES[task].num_classes)
        for numbering in ("platform", "public", "training"):
            ids = from_training(CHALLENGES[task].structures, numbering)[every]
            assert as_training(ids, "a.mha", CHALLENGES[task].structures, numbering).tolist() == every.tolist()
    dataset = np.array([0, 3, 48, 103, 105, 111, 148, 60])
    assert as_training(dataset, "a.mha", ANATOMY, "platform").tolist() == [0, 3, 42, 43, 45, 46, 46, 34]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([0, 0], "a.mha: found no structure (every voxel is 0), expected at least one"),
        ([0, 99, 11], "a.mha: found unknown ids 99, expected ids of the platform numbering"),
        ([-1, 300, 11], "a.mha: found unknown ids -1, 300, expected ids of the platform numbering"),
        ([256, 11], "a.mha: found unknown ids 256, expected ids of the platform numbering"),
        ([65536, 257], "a.mha: found unknown ids 257, 65536, expected ids of the platform numbering"),
        (
            [19, 20, 29, 30, 39, 40, 46],
            "a.mha: found unknown ids 19, 20, 29, 30, 39, ..., expected ids of the platform numbering "
            "(all ids fit the training numbering)",
        ),
    ],
)
def test_ids_that_make_no_sense(ids, says):
    with pytest.raises(InputError) as error:
        as_training(np.array(ids), "a.mha", ANATOMY, "platform")
    assert str(error.value) == says


def test_ids_of_the_release_are_understood_where_they_cannot_mean_anything_else():
    def names(numbering, challenge="toothfairy3-multiclass"):
        structures = CHALLENGES[challenge].structures
        table = to_training(structures, numbering, released=True)
        return {number: structures[table[number] - 1].name for number in np.flatnonzero(table)}

    for numbering in ("platform", "public", "dataset"):
        assert names(numbering)[60] == names(numbering)[38] == "lower left third molar"
        assert names(numbering)[103] == "left mandibular incisive canal"
        assert names(numbering)[160] == names(numbering)[111] == "pulp"
    assert names("training")[21] == "upper left canine"  # and not the central incisor
    assert 103 not in names("training")
    assert set(names("platform", "toothfairy3-interactive")) == {1, 2}  # 1 is the lower jawbone in the release
    assert set(names("dataset", "toothfairy3-interactive")) == {3, 4}


def test_label_maps_are_not_written_in_the_numbering_of_the_dataset():
    with pytest.raises(InputError, match="numbering: found 'dataset', expected one of platform, public, training"):
        from_training(ANATOMY, "dataset")


def test_many_ids_are_said_as_ranges():
    assert in_ranges([0, 1, 2, 7, 9, 10]) == "0-2, 7, 9-10"
