"""The graders' metrics against the implementations that the graders use, on whole volumes."""

from __future__ import annotations

import warnings
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary

from umamba2.evaluation import dice, hd95, iou, metrics, surface_dice

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import surface_distance
    from surface_distance import lookup_tables

SHAPE = (9, 11, 10)
SPACINGS = [(1.0, 1.0, 1.0), (0.3, 0.25, 0.25), (0.4, 0.4, 0.4), (2.0, 0.4, 1.1), (0.25, 1.0, 0.5), (5.0, 5.0, 5.0)]


def empty(shape=SHAPE):
    return np.zeros(shape, bool)


def box(*ranges, shape=SHAPE):
    mask = empty(shape)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def voxels(*where, shape=SHAPE):
    mask = empty(shape)
    for index in where:
        mask[index] = True
    return mask


def noise(density, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).random(shape) < density


ADVERSARIAL = {
    "the same": (box((2, 5), (2, 6), (3, 7)), box((2, 5), (2, 6), (3, 7))),
    "full": (~empty(), ~empty()),
    "full and one voxel": (~empty(), voxels((0, 0, 0))),
    "full and all but a corner": (~empty(), ~voxels((8, 10, 9))),
    "single voxels": (voxels((1, 2, 3)), voxels((7, 8, 9))),
    "opposite corners": (voxels((0, 0, 0)), voxels((8, 10, 9))),
    "touching every border": (box((0, 9), (3, 6), (0, 10)), box((2, 4), (0, 11), (0, 5))),
    "disjoint": (box((0, 3), (0, 3), (0, 3)), box((6, 9), (8, 11), (7, 10))),
    "one inside the other": (box((1, 8), (1, 10), (1, 9)), box((4, 5), (5, 6), (4, 6))),
    "hollow": (box((1, 8), (1, 10), (1, 9)) & ~box((3, 6), (3, 8), (3, 7)), box((1, 8), (1, 10), (1, 9))),
    "planes": (box((0, 1), (0, 11), (0, 10)), box((8, 9), (0, 11), (0, 10))),
    "a line and its diagonal": (box((4, 5), (5, 6), (0, 10)), voxels(*((i, i, i) for i in range(9)))),
    "checkerboards": (np.indices(SHAPE).sum(0) % 2 == 0, np.indices(SHAPE).sum(0) % 2 == 1),
    "dust and a block": (noise(0.02), box((3, 7), (3, 7), (3, 7))),
    "noise": (noise(0.5, 1), noise(0.5, 2)),
    "a single slice": (noise(0.3, 1, (1, 7, 8)), noise(0.3, 2, (1, 7, 8))),
    "a single row": (noise(0.5, 1, (1, 1, 9)), noise(0.5, 2, (1, 1, 9))),
}
PAIRS = pytest.mark.parametrize(("truth", "prediction"), list(ADVERSARIAL.values()), ids=list(ADVERSARIAL))


def reference_surface_dice(truth, prediction, spacing, tolerance=2.0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = surface_distance.compute_surface_distances(truth, prediction, spacing)
    return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)


@PAIRS
@pytest.mark.parametrize("sparse", [0, np.inf], ids=["search tree", "transform"])
def test_hd95_is_medpys_on_the_whole_volume(truth, prediction, sparse):
    with patch.object(metrics, "_SPARSE", sparse):
        assert hd95(truth, prediction) == pytest.approx(binary.hd95(prediction, truth), abs=1e-9)
        assert hd95(prediction, truth) == pytest.approx(binary.hd95(truth, prediction), abs=1e-9)


@PAIRS
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_surface_dice_is_deepminds_on_the_whole_volume(truth, prediction, spacing):
    assert surface_dice(truth, prediction, spacing) == pytest.approx(
        reference_surface_dice(truth, prediction, spacing), abs=1e-9
    )


@st.composite
def mask_pairs(draw):
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    pair = []
    for _ in range(2):
        kind = draw(st.sampled_from(["bits", "box", "noise"]))
        if kind == "bits":
            mask = draw(arrays(bool, shape))
        elif kind == "box":
            ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
            mask = box(*ends, shape=shape)
        else:
            mask = noise(draw(st.floats(0, 1)), draw(st.integers(0, 99)), shape)
        pair.append(mask)
    return tuple(pair)


@settings(max_examples=200, deadline=None)
@given(mask_pairs(), st.tuples(*[st.sampled_from([0.1, 0.25, 0.287, 0.3, 0.4, 0.5, 1.0, 2.0])] * 3))
def test_any_masks(pair, spacing):
    truth, prediction = pair
    if truth.any() and prediction.any():
        assert hd95(truth, prediction) == pytest.approx(binary.hd95(prediction, truth), abs=1e-9)
        expected = reference_surface_dice(truth, prediction, spacing)
    else:
        assert hd95(truth, prediction) == (np.linalg.norm(truth.shape) if truth.any() or prediction.any() else 0)
        expected = float(truth.any() == prediction.any())
    assert surface_dice(truth, prediction, spacing) == pytest.approx(expected, abs=1e-9)
    both, either = (truth & prediction).sum(), (truth | prediction).sum()
    assert iou(truth, prediction) == pytest.approx(both / either if either else 1, abs=1e-12)
    assert dice(truth, prediction) == pytest.approx(2 * both / (both + either) if either else 1, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(mask_pairs(), st.tuples(*[st.integers(0, 4)] * 6))
def test_background_around_the_volume_changes_no_surface_dice(pair, margins):
    around = list(zip(margins[:3], margins[3:]))
    padded = [np.pad(mask, around) for mask in pair]
    assert surface_dice(*padded, (0.3, 0.25, 0.25)) == surface_dice(*pair, (0.3, 0.25, 0.25))
    if pair[0].any() and pair[1].any():
        assert hd95(*padded) == hd95(*pair)


@pytest.mark.parametrize("steps", [4, 5, 6])
@pytest.mark.parametrize("spacing", [0.4, float(np.float32(0.4)), 0.5, 1 / 3])
def test_distances_at_the_tolerance_are_judged_in_double_precision(spacing, steps):
    truth = box((2, 4), (2, 4), (2, 4), shape=(16, 16, 16))
    for axes in [(0,), (1,), (2,), (0, 1), (0, 2)]:
        prediction = np.roll(truth, steps, axes)
        grid = (spacing,) * 3
        expected = reference_surface_dice(truth, prediction, grid)
        assert surface_dice(truth, prediction, grid) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_distances_on_both_sides_of_the_tolerance_within_single_precision(seed):
    grid = (0.4, 0.4, float(np.float32(0.4)))  # five voxels are 2 mm, but along x 2.00000003
    truth, prediction = noise(0.004, seed, (30, 30, 30)), noise(0.004, seed + 10, (30, 30, 30))
    verdicts = metrics._verdicts(truth.shape, grid, 2.0)
    assert verdicts.any()
    assert not verdicts.all()
    expected = reference_surface_dice(truth, prediction, grid)
    assert surface_dice(truth, prediction, grid) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_areas_of_all_256_surface_elements(spacing):
    areas = metrics._surfel_areas(spacing)
    expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    for code in range(256):
        cube = np.array([code >> bit & 1 for bit in range(8)]).reshape(2, 2, 2)
        assert areas[code] == pytest.approx(expected[(cube * lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL).sum()])


def test_empty_masks():
    some = voxels((1, 2, 3))
    for function, both, one in [(dice, 1, 0), (iou, 1, 0), (hd95, 0, np.linalg.norm(SHAPE))]:
        assert function(empty(), empty()) == both
        assert function(some, empty()) == function(empty(), some) == one
    assert surface_dice(empty(), empty(), (1, 1, 1)) == 1
    assert surface_dice(some, empty(), (1, 1, 1)) == surface_dice(empty(), some, (1, 1, 1)) == 0


def test_a_few_known_values():
    cube = box((2, 6), (2, 6), (2, 6))
    shifted = np.roll(cube, 1, axis=2)
    assert dice(cube, shifted) == 0.75
    assert iou(cube, shifted) == 0.6
    assert hd95(cube, shifted) == 1
    assert hd95(voxels((0, 0, 0)), voxels((2, 3, 6))) == 7
    assert surface_dice(cube, shifted, (1, 1, 1)) == 1
    assert surface_dice(cube, np.roll(cube, 3, axis=2), (1, 1, 1)) < 1


# What the graders are given: unsigned and signed numbers, large ones, and fractions that no label has.
LABELS = {
    "uint8": (np.uint8, (0, 1, 2, 3, 9)),
    "negative": (np.int16, (-5, 0, 1, 3, 300)),
    "a huge one": (np.uint32, (0, 1, 2, 3, 4_000_000_000)),
    "huge and negative": (np.int64, (-(2**62), 0, 1, 2**40, 2**62)),
    "floating point": (np.float32, (0, 1, 2.5, -1, 1e30)),
}


@pytest.mark.parametrize("name", LABELS)
def test_class_masks_are_those_of_the_whole_volume(name):
    kind, values = LABELS[name]
    rng = np.random.default_rng(3)
    truth, prediction = rng.choice(np.array(values, kind), (2, *SHAPE))
    prediction[prediction == values[-1]] = values[2]
    truth[truth == values[2]] = values[0]
    found = {label: masks for label, *masks in metrics.class_masks(truth, prediction)}
    assert list(found) == [label for label in np.union1d(truth, prediction) if label > 0]
    for label, masks in found.items():
        whole = [labels == label for labels in (truth, prediction)]
        assert [mask is not None for mask in masks] == [mask.any() for mask in whole]
        if masks[0] is not None and masks[1] is not None:
            assert [mask.sum() for mask in masks] == [mask.sum() for mask in whole]
            assert (masks[0] & masks[1]).sum() == (whole[0] & whole[1]).sum()


def test_class_masks_of_nothing():
    assert list(metrics.class_masks(np.zeros(SHAPE, int), np.full(SHAPE, np.nan))) == []
