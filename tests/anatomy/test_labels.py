"""The table of anatomy against the published id rules, written out a second time."""

from __future__ import annotations

import numpy as np
import pytest

from umamba2.anatomy.structures import (
    FDI_TEETH,
    INTERACTIVE,
    LABEL_MAPS,
    MULTICLASS,
    STRUCTURES,
    STSR,
    TASKS,
    left_right_pairs,
    output_table,
    tooth_name,
    training_table,
)


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
    assert training_table(MULTICLASS).tolist() == [published_training_id(i) for i in range(256)]


def test_interactive_training_ids():
    table = training_table(INTERACTIVE)
    assert (table[3], table[4]) == (1, 2)
    assert np.count_nonzero(table) == 2


@pytest.mark.parametrize("task", TASKS)
def test_training_ids_have_no_gaps(task):
    assert [s.training for s in STRUCTURES[task]] == list(range(1, len(STRUCTURES[task]) + 1))
    assert len({s.name for s in STRUCTURES[task]}) == len(STRUCTURES[task])


def test_class_counts():
    assert [len(STRUCTURES[t]) for t in (MULTICLASS, INTERACTIVE, STSR)] == [46, 2, 12]


def test_output_ids_of_the_multiclass_task():
    teeth = list(FDI_TEETH)
    assert output_table(MULTICLASS).tolist() == [*range(11), *teeth, 51, 52, 53, 50]
    assert output_table(MULTICLASS, "public").tolist() == [*range(11), *teeth, 103, 104, 105, 150]
    assert output_table(MULTICLASS, "training").tolist() == list(range(47))


@pytest.mark.parametrize("task", [INTERACTIVE, STSR])
@pytest.mark.parametrize("label_map", LABEL_MAPS)
def test_other_tasks_are_graded_by_training_id(task, label_map):
    assert output_table(task, label_map).tolist() == list(range(len(STRUCTURES[task]) + 1))


def test_an_unknown_label_map_is_named():
    with pytest.raises(ValueError, match=r"found 'fdi', expected one of platform, public, training"):
        output_table(MULTICLASS, "fdi")


def test_left_right_pairs_are_the_published_ones():
    expected = {(3, 4), (5, 6), (43, 44)}
    expected |= {(11 + i, 19 + i) for i in range(8)} | {(27 + i, 35 + i) for i in range(8)}
    assert set(left_right_pairs(MULTICLASS)) == expected
    assert left_right_pairs(INTERACTIVE) == ((1, 2),)
    assert left_right_pairs(STSR) == ()


def test_partners_are_mutual_and_named_for_the_other_side():
    by_id = {s.training: s for s in STRUCTURES[MULTICLASS]}
    for structure in by_id.values():
        if structure.partner is not None:
            other = by_id[structure.partner]
            assert other.partner == structure.training
            swapped = structure.name.replace("left", "@").replace("right", "left")
            assert other.name == swapped.replace("@", "right")


def test_thresholds_are_on_the_graded_ids_of_the_published_table():
    limits = {s.platform: s.min_voxels for s in STRUCTURES[MULTICLASS]}
    assert (limits[2], limits[3], limits[7], limits[48], limits[51], limits[52]) == (448.88, 2198, 71533, 3724, 75, 33)
    assert [i for i, limit in limits.items() if limit is None] == [1, 10, 53, 50]
    assert [s.min_voxels for s in STRUCTURES[INTERACTIVE]] == [2198, 1754]


def test_fdi_names():
    assert tooth_name(11) == "upper right central incisor"
    assert tooth_name(38) == "lower left third molar"


@pytest.mark.parametrize("task", TASKS)
def test_colours_can_be_told_apart(task):
    colours = [s.colour for s in STRUCTURES[task]]
    assert len(set(colours)) == len(colours)
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
