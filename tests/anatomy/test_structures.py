"""The table of anatomy against the published id rules, written out a second time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR, TASKS

from umamba2.anatomy.numberings import from_training, to_training
from umamba2.anatomy.structures import ANATOMY, FDI_TEETH, WRITTEN_NUMBERINGS, left_right_pairs, tooth_name
from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError


def published_training_id(dataset_id: int) -> int:
    """The rule of the ToothFairy3 task 1 recipe, as a chain of ranges."""
    if 1 <= dataset_id <= 18:
        return dataset_id
    for low, first in ((21, 19), (31, 27), (41, 35)):
        if low <= dataset_id <= low + 7:
            return first + dataset_id - low
    if 103 <= dataset_id <= 105:
        return dataset_id - 60
    if 111 <= dataset_id <= 148 and dataset_id % 10 in range(1, 9):
        return 46
    return {60: 34, 160: 46}.get(dataset_id, 0)


def test_dataset_ids_become_training_ids_by_the_published_rule():
    assert to_training(ANATOMY, "dataset").tolist() == [published_training_id(i) for i in range(256)]


def test_interactive_training_ids():
    table = to_training(CHALLENGES[INTERACTIVE].structures, "dataset")
    assert (table[3], table[4]) == (1, 2)
    assert np.count_nonzero(table) == 2


@pytest.mark.parametrize("task", TASKS)
def test_training_ids_have_no_gaps(task):
    assert [s.training for s in CHALLENGES[task].structures] == list(range(1, CHALLENGES[task].num_classes))
    assert len({s.name for s in CHALLENGES[task].structures}) == len(CHALLENGES[task].structures)


def test_class_counts():
    assert [len(CHALLENGES[t].structures) for t in (MULTICLASS, INTERACTIVE, STSR)] == [46, 2, 12]


def test_output_ids_of_the_multiclass_task():
    teeth = list(FDI_TEETH)
    assert from_training(ANATOMY).tolist() == [*range(11), *teeth, 51, 52, 53, 50]
    assert from_training(ANATOMY, "public").tolist() == [*range(11), *teeth, 103, 104, 105, 150]
    assert from_training(ANATOMY, "training").tolist() == list(range(47))


@pytest.mark.parametrize("task", [INTERACTIVE, STSR])
@pytest.mark.parametrize("numbering", WRITTEN_NUMBERINGS)
def test_other_tasks_are_graded_by_training_id(task, numbering):
    assert from_training(CHALLENGES[task].structures, numbering).tolist() == list(range(CHALLENGES[task].num_classes))


def test_an_unknown_numbering_is_named():
    with pytest.raises(InputError, match=r"found 'fdi', expected one of platform, public, training"):
        from_training(ANATOMY, "fdi")


def test_left_right_pairs_are_the_published_ones():
    expected = {(3, 4), (5, 6), (43, 44)}
    expected |= {(11 + i, 19 + i) for i in range(8)} | {(27 + i, 35 + i) for i in range(8)}
    assert set(left_right_pairs(ANATOMY)) == expected
    assert left_right_pairs(CHALLENGES[INTERACTIVE].structures) == ((1, 2),)
    assert left_right_pairs(CHALLENGES[STSR].structures) == ()


def test_partners_are_mutual_and_named_for_the_other_side():
    by_name = {s.name: s for s in ANATOMY}
    for structure in ANATOMY:
        if "left" in structure.name or "right" in structure.name:
            swapped = structure.name.replace("left", "@").replace("right", "left").replace("@", "right")
            assert structure.partner == swapped
            assert by_name[swapped].partner == structure.name
        else:
            assert structure.partner is None


# The published table of smallest components by graded id, typed a second time.
PUBLISHED_SIZES = """
2 448.88  3 2198  4 1754  5 814.48  6 1869  7 71533  8 7211  9 5694
11 1473.895  12 888.1  13 1200  14 871.4  15 1970.9  16 1851  17 2146.2  18 1552
21 1520  22 728.52  23 1196.26  24 1357.385  25 1964.44  26 1064.55  27 1930.25  28 1684
31 2177  32 1092  33 2844.9  34 1590.155  35 1833  36 1057.15  37 2160  38 1179.185
41 1070  42 3597.525  43 1195  44 1947  45 2075  46 2051.65  47 1057.345  48 3724
51 75  52 33
"""


def test_smallest_components_are_those_of_the_published_table():
    words = PUBLISHED_SIZES.split()
    published = {int(number): float(size) for number, size in zip(words[::2], words[1::2])}
    assert {s.platform: s.min_voxels for s in ANATOMY if s.min_voxels is not None} == published
    assert [s.platform for s in ANATOMY if s.min_voxels is None] == [1, 10, 53, 50]
    assert [s.min_voxels for s in CHALLENGES[INTERACTIVE].structures] == [2198, 1754]


def test_fdi_numbers_belong_to_single_teeth_alone():
    assert [s.fdi for s in ANATOMY if s.fdi] == list(FDI_TEETH)
    assert [s.fdi for s in CHALLENGES[STSR].structures] == [None] * 12  # 11 and 12 are no teeth there


def test_structures_come_in_the_order_of_their_ids():
    with pytest.raises(ValueError, match="stsr: expected structures in the order of their training ids"):
        replace(CHALLENGES[STSR], structures=CHALLENGES[STSR].structures[::-1])


def test_fdi_names():
    assert tooth_name(11) == "upper right central incisor"
    assert tooth_name(38) == "lower left third molar"


@pytest.mark.parametrize("task", TASKS)
def test_colours_can_be_told_apart(task):
    colours = [s.colour for s in CHALLENGES[task].structures]
    assert len(set(colours)) == len(colours)
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
