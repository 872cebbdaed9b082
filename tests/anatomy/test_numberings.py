"""Label maps from one numbering to another."""

from __future__ import annotations

import numpy as np
import pytest
from challenge_names import TASKS

from umamba2.anatomy.numberings import as_training, from_training
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
        (
            [-1, 300, 11],
            "a.mha: found unknown ids -1, 300, expected ids of the platform numbering",
        ),
    ],
)
def test_ids_that_make_no_sense(ids, says):
    with pytest.raises(InputError) as error:
        as_training(np.array(ids), "a.mha", ANATOMY, "platform")
    assert str(error.value) == says
