from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from umamba2.anatomy.structures import ANATOMY
from umamba2.challenges import CHALLENGES
from umamba2.engine.postprocess import paint_clicks, postprocess, remove_small, renumbered
from umamba2.scans.clicks import Clicks, no_clicks

REFERENCE = (0.3, 0.3, 0.3)
# scipy counts neighbours by the number of axes in which they differ
STEPS = {6: 1, 18: 2, 26: 3}


def remove_small_naively(labels, min_voxels, connectivity):
    """One class and one component at a time, voxels counted: what the published table means."""
    result = labels.copy()
    structure = ndimage.generate_binary_structure(3, STEPS[connectivity])
    for label, limit in min_voxels.items():
        components, count = ndimage.label(labels == label, structure)
        for component in range(1, count + 1):
            mask = components == component
            if mask.sum() < limit:
                result[mask] = 0
    return result


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9), elements=st.integers(0, 4)),
    st.dictionaries(st.integers(1, 5), st.one_of(st.integers(1, 40), st.floats(0.5, 40)), max_size=4),
    st.sampled_from([6, 18, 26]),
    st.sampled_from([REFERENCE, (np.float32(0.3),) * 3, (0.30000001192092896,) * 3, (0.29999998,) * 3]),
)
def test_equals_the_naive_loop(labels, min_voxels, connectivity, spacing):
    result = remove_small(labels, min_voxels, spacing, connectivity)
    assert result.dtype == labels.dtype
    np.testing.assert_array_equal(result, remove_small_naively(labels, min_voxels, connectivity))


@pytest.mark.parametrize("connectivity", [18, 26])
def test_equals_the_naive_loop_on_blobs(connectivity):
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(40, 50, 60)), 1.5)
    labels = np.digitize(smooth, np.quantile(smooth, [0.5, 0.7, 0.85])).astype(np.uint8)
    limits = {1: 30, 2: 12.5, 3: 100}
    expected = remove_small_naively(labels, limits, connectivity)
    assert 0 < (expected != labels).sum() < labels.size
    np.testing.assert_array_equal(remove_small(labels, limits, REFERENCE, connectivity), expected)
    fortran = np.asfortranarray(labels)
    np.testing.assert_array_equal(remove_small(fortran, limits, REFERENCE, connectivity), expected)
    np.testing.assert_array_equal(remove_small(labels[:, ::-1], limits, REFERENCE, connectivity), expected[:, ::-1])


@pytest.mark.parametrize(
    ("spacing", "stays"),
    [
        (REFERENCE, 100),
        ((0.30000001192,) * 3, 100),
        ((0.29999998,) * 3, 100),
        ((0.15, 0.15, 0.15), 800),
        ((0.6, 0.3, 0.3), 50),
        ((0.6,) * 3, 13),
    ],
)
def test_limits_are_volumes(spacing, stays):
    # One row each of exactly the smallest size that stays, and of one voxel less.
    labels = np.zeros((3, 3, stays), np.uint8)
    labels[0, 0, :] = 1
    labels[2, 2, : stays - 1] = 1
    result = remove_small(labels, {1: 100}, spacing, 18)
    assert result[0].sum() == stays
    assert result[2].sum() == 0


@pytest.mark.parametrize(
    ("name", "corners_join"), [("toothfairy3-multiclass", False), ("toothfairy3-interactive", True)]
)
def test_every_challenge_has_neighbours_of_its_own(name, corners_join):
    """Two parts of a canal that share nothing but a corner, together as large as the smallest that stays."""
    challenge, left = CHALLENGES[name], {"toothfairy3-multiclass": 3, "toothfairy3-interactive": 1}[name]
    half = int(challenge.min_voxels[left]) // 2 + 1
    labels = np.zeros((3, 3, 2 * half), np.uint8)
    labels[1, 1, :half] = labels[2, 2, half:] = left
    assert postprocess(labels, challenge, REFERENCE, no_clicks()).any() == corners_join


def test_classes_without_a_limit_keep_everything():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0], labels[2, 2, 2], labels[3, 0, 0] = 1, 2, 255
    result = remove_small(labels, {1: 5}, REFERENCE, 18)
    assert result[0, 0, 0] == 0
    assert (result[2, 2, 2], result[3, 0, 0]) == (2, 255)


def test_inputs_are_left_alone():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[1, 1, 1] = 1
    for result in (
        remove_small(labels, {1: 5}, REFERENCE, 18),
        remove_small(labels, {}, REFERENCE, 18),
        paint_clicks(labels, clicks((1, 1, 1, 0))),
    ):
        assert result is not labels
        assert not np.shares_memory(result, labels)
    assert labels.sum() == 1


def test_noise_costs_no_more_than_a_pass():
    # Hundreds of thousands of components: hours for a loop with a mask each, a second or so here.
    labels = np.random.default_rng(1).integers(0, 47, (128, 160, 160), dtype=np.uint8)
    limits = {s.training: s.min_voxels for s in ANATOMY if s.min_voxels}
    start = time.perf_counter()
    result = remove_small(labels, limits, REFERENCE, 18)
    assert time.perf_counter() - start < 20
    assert set(np.unique(result)) == {0} | (set(range(1, 47)) - set(limits))


def clicks(*rows):
    rows = np.array(rows, dtype=np.float32).reshape(-1, 4)
    return Clicks(rows[:, :3], rows[:, 3].astype(np.int64))


def cross(shape, centre, value):
    expected = np.zeros(shape, np.uint8)
    for voxel in np.ndindex(shape):
        if np.abs(np.subtract(voxel, centre)).sum() <= 1:
            expected[voxel] = value
    return expected


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("centre", [(2, 2, 2), (0, 0, 0), (4, 5, 6), (0, 5, 3)])
def test_a_click_that_touches_its_class_paints_a_cross(centre, label):
    shape = (5, 6, 7)
    labels = np.zeros(shape, np.uint8)
    neighbour = tuple(np.clip(np.add(centre, (0, 0, 1)), 0, np.subtract(shape, 1)))
    labels[neighbour] = label + 1
    np.testing.assert_array_equal(paint_clicks(labels, clicks((*centre, label))), cross(shape, centre, label + 1))


def test_a_click_elsewhere_or_on_the_other_side_paints_nothing():
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[2, 2, 2] = 2
    np.testing.assert_array_equal(paint_clicks(labels, clicks((2, 2, 2, 0), (4, 4, 4, 1))), labels)
    np.testing.assert_array_equal(paint_clicks(labels, clicks((2, 3, 3, 1))), labels)  # diagonal is no contact
    np.testing.assert_array_equal(paint_clicks(labels, clicks((2, 2, 2, -1))), labels)


def test_at_the_border_nothing_wraps_around():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = 1
    result = paint_clicks(labels, clicks((0, 0, 0, 0), (9, 9, 9, 0), (-3, 0, 0, 0)))
    assert result.sum() == 4
    assert result[-1].sum() == result[:, -1].sum() == result[:, :, -1].sum() == 0


def test_fractions_of_voxels_are_rounded():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 1
    np.testing.assert_array_equal(paint_clicks(labels, clicks((1.6, 2.4, 2, 0))), cross((5, 5, 5), (2, 2, 2), 1))


@pytest.mark.parametrize("place", [22.6, 22.5, 21.5])
def test_fractions_are_rounded_in_the_scan_and_not_in_the_box_of_labels(place):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[13:23, 13:23, 13:23] = 1
    expected = np.maximum(labels, cross((40, 40, 40), (round(place), 18, 18), 1))
    found = postprocess(labels, CHALLENGES["toothfairy3-interactive"], (2.0,) * 3, clicks((place, 18, 18, 0)))
    np.testing.assert_array_equal(found, expected)


def test_where_crosses_meet_the_later_click_paints_but_all_ask_the_map_as_predicted():
    labels = np.zeros((5, 5, 9), np.uint8)
    labels[2, 2, 2], labels[2, 2, 5] = 1, 2
    left, right = (2, 2, 3, 0), (2, 2, 4, 1)
    first, second = cross(labels.shape, left[:3], 1), cross(labels.shape, right[:3], 2)
    for order, over, under in (((left, right), second, first), ((right, left), first, second)):
        np.testing.assert_array_equal(
            paint_clicks(labels, clicks(*order)), np.where(over, over, np.where(under, under, labels))
        )
    # The second click touches its class nowhere but in what the first has painted, or has painted over.
    far = (2, 2, 4, 0)
    result = paint_clicks(labels, clicks(left, far))
    np.testing.assert_array_equal(result, np.where(first, first, labels))
    labels[2, 2, 5] = 0
    labels[2, 2, 4] = 2
    result = paint_clicks(labels, clicks(left, (2, 2, 5, 1)))
    np.testing.assert_array_equal(result, np.where(second := cross(labels.shape, (2, 2, 5), 2), second, first))


@pytest.mark.parametrize("seed", range(40))
def test_working_on_the_box_of_labels_alone_changes_nothing(seed):
    rng, challenge = np.random.default_rng(seed), CHALLENGES["toothfairy3-interactive"]
    shape = rng.integers(1, 14, 3)
    labels = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(0, 4)):
        start = rng.integers(0, shape)
        stop = rng.integers(start, shape) + 1
        labels[tuple(map(slice, start, stop))] = rng.integers(1, 3)
    count = rng.integers(0, 6)
    places = rng.integers(-2, 2 * shape.max(), (count, 3)) / 2  # between voxels, too
    clicks = Clicks(places.astype(np.float32), rng.integers(-1, 2, count))
    spacing = ((0.3,) * 3, (2.0,) * 3)[seed % 2]
    expected = remove_small(labels, challenge.min_voxels, spacing, challenge.connectivity)
    before = labels.copy()
    found = postprocess(labels, challenge, spacing, clicks)
    np.testing.assert_array_equal(found, paint_clicks(expected, clicks))
    np.testing.assert_array_equal(labels, before)
    assert found is not labels


def test_ids_are_looked_up_where_they_differ():
    labels = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(np.uint8)
    labels[0] = 0
    same, other = np.arange(4, dtype=np.uint8), np.array([0, 7, 2, 9], np.uint8)
    assert renumbered(labels, same) is labels
    np.testing.assert_array_equal(renumbered(labels, other), other[labels])
    assert not renumbered(np.zeros_like(labels), other).any()
