from __future__ import annotations

import itertools
import math

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from umamba2.anatomy.numberings import to_training
from umamba2.anatomy.structures import by_name, pulp_name, tooth_name
from umamba2.challenges import INTERACTIVE, MULTICLASS, STSR
from umamba2.engine.pulp import ENCLOSED, GAP, REACH, pulp_per_tooth
from umamba2.errors import InputError
from umamba2.synthetic.phantoms import make_phantom

CHALLENGE = MULTICLASS.with_tooth_pulps()
NAMED = by_name(CHALLENGE.structures)
PLAIN, BONE = NAMED["pulp"].training, NAMED["lower jawbone"].training
TEETH = {s.fdi: s.training for s in CHALLENGE.structures if s.fdi}
PULPS = {fdi: NAMED[pulp_name(fdi)].training for fdi in TEETH}
SPACINGS = [(0.3, 0.3, 0.3), (0.7, 0.3, 0.25)]


def oracle(labels, spacing):
    """The rules as loops over single voxels."""
    result = labels.copy()
    pieces = cc3d.connected_components((labels == PLAIN).astype(np.uint8), connectivity=26)
    of_label = {label: fdi for fdi, label in TEETH.items()}
    tooth_voxels = [(p, of_label[labels[tuple(p)]]) for p in np.argwhere(np.isin(labels, list(of_label)))]
    around = [np.array(o) for o in itertools.product((-1, 0, 1), repeat=3) if any(o)]

    def nearest(voxels, allowed, limit):
        distances = (
            (round(math.dist(v * spacing, p * spacing), 6), fdi)
            for v in voxels
            for p, fdi in tooth_voxels
            if fdi in allowed
        )
        distance, fdi = min(distances, default=(math.inf, 0))
        return fdi if distance <= limit else 0

    spacing = np.array(spacing)
    for number in range(1, pieces.max() + 1):
        voxels = np.argwhere(pieces == number)
        touched, surface, contact = set(), 0, 0
        for voxel in voxels:
            places = [voxel + offset for offset in around]
            near = [labels[tuple(p)] for p in places if all(0 <= c < n for c, n in zip(p, labels.shape))]
            own = {of_label[label] for label in near if label in of_label}
            touched |= own
            surface += any(label != PLAIN for label in near)
            contact += bool(own)
        if touched and contact / surface < ENCLOSED:
            continue
        for voxel in voxels:
            if len(touched) == 1:
                fdi = min(touched)
            elif touched:
                fdi = nearest([voxel], touched, REACH)
            else:
                fdi = nearest(voxels, set(TEETH), GAP)
            if fdi:
                result[tuple(voxel)] = PULPS[fdi]
    return result


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACINGS))
def test_against_loops(seed, spacing):
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 0, BONE, PLAIN, PLAIN, TEETH[11], TEETH[36], TEETH[37]], (3, 3, 4))
    labels = np.kron(coarse, np.ones((2, 3, 2), int)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = rng.choice([0, PLAIN, TEETH[37]])
    found, problem = pulp_per_tooth(labels, CHALLENGE, spacing)
    np.testing.assert_array_equal(found, oracle(labels, spacing))
    assert bool(problem) == (PLAIN in found)


def box_of(labels, tooth, pulp, z, y, x):
    """A tooth with a pulp in it, two voxels from its surface."""
    labels[z, y, x] = tooth
    inner = tuple(slice(side.start + 2, side.stop - 2) for side in (z, y, x))
    labels[inner] = pulp


def test_each_pulp_goes_to_the_tooth_around_it():
    labels = np.full((12, 12, 40), BONE, np.uint8)
    for number, fdi in enumerate(TEETH):
        if number < 5:
            box_of(labels, TEETH[fdi], PLAIN, slice(1, 11), slice(1, 11), slice(8 * number, 8 * number + 8))
    found, problem = pulp_per_tooth(labels, CHALLENGE, (0.3, 0.3, 0.3))
    assert problem == ""
    for fdi, tooth in list(TEETH.items())[:5]:
        inside = ndimage.binary_fill_holes(labels == tooth) & (labels == PLAIN)
        assert (found[inside] == PULPS[fdi]).all()
        assert np.count_nonzero(found == PULPS[fdi]) == inside.sum() > 0
    np.testing.assert_array_equal(found[labels != PLAIN], labels[labels != PLAIN])


def test_roots_of_one_tooth_are_one_pulp_and_pulps_that_meet_are_divided():
    labels = np.full((20, 9, 30), BONE, np.uint8)
    labels[:, :, :15], labels[:, :, 15:] = TEETH[36], TEETH[37]
    labels[2:18, 4, [3, 9]] = PLAIN  # two roots
    labels[5:7, 3:6, 11:20] = PLAIN  # one pulp through both teeth
    found, problem = pulp_per_tooth(labels, CHALLENGE, (0.3, 0.3, 0.3))
    assert problem == ""
    assert set(np.unique(found[:, :, :15])) == {TEETH[36], PULPS[36]}
    assert set(np.unique(found[:, :, 15:])) == {TEETH[37], PULPS[37]}


@pytest.mark.parametrize(("gap", "belongs"), [(0.9, True), (1.1, False)])
def test_pulp_near_no_tooth_stays_and_is_said(gap, belongs):
    labels = np.zeros((9, 9, 20), np.uint8)
    labels[:, :, :8] = TEETH[21]
    labels[3:5, 3:5, 10:12] = PLAIN  # its first voxel is three voxels from the tooth's last
    found, problem = pulp_per_tooth(labels, CHALLENGE, (0.5, 0.5, gap / 3))
    assert (found == (PULPS[21] if belongs else PLAIN)).sum() == 8
    if belongs:
        assert problem == ""
    else:
        assert problem.startswith(
            f"pulp per tooth: found no tooth around 8 voxels ({8 * 0.25 * gap / 3:.1f} mm^3) in 1 piece"
        )


def test_the_neighbour_does_not_get_the_pulp_of_a_tooth_that_was_not_found():
    labels = np.zeros((20, 9, 20), np.uint8)
    labels[:, :, :8] = TEETH[42]
    labels[1:19, 3:6, 9:11] = PLAIN
    labels[9, 4, 8] = PLAIN  # touches the neighbour
    found, problem = pulp_per_tooth(labels, CHALLENGE, (0.3, 0.3, 0.3))
    np.testing.assert_array_equal(found, labels)
    assert "1 piece" in problem


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("fill", [0, PLAIN, TEETH[11]])
def test_nothing_to_do(fill, order):
    labels = np.full((4, 5, 6), fill, np.uint8, order=order)
    found, problem = pulp_per_tooth(labels, CHALLENGE, (0.3, 0.3, 0.3))
    np.testing.assert_array_equal(found, labels)
    assert bool(problem) == (fill == PLAIN)


def test_pulps_that_have_their_number_keep_it():
    labels = np.full((9, 9, 9), TEETH[11], np.uint8)
    labels[2:7, 2:7, 2:4], labels[2:7, 2:7, 5:7] = PULPS[12], PLAIN
    found, _ = pulp_per_tooth(labels, CHALLENGE, (0.3, 0.3, 0.3))
    np.testing.assert_array_equal(found, np.where(labels == PLAIN, PULPS[11], labels))


def test_the_axes_may_lie_any_way():
    labels = to_training(MULTICLASS.structures, "dataset")[make_phantom(5, (60, 90, 100), (0.9, 0.8, 0.8)).labels]
    expected, _ = pulp_per_tooth(labels, CHALLENGE, (0.9, 0.8, 0.8))
    turned = np.transpose(labels, (2, 0, 1))[::-1, :, ::-1]
    found, _ = pulp_per_tooth(turned, CHALLENGE, (0.8, 0.9, 0.8))
    np.testing.assert_array_equal(found, np.transpose(expected, (2, 0, 1))[::-1, :, ::-1])


def test_phantoms_get_back_their_own_numbers():
    phantom = make_phantom(3, (80, 120, 150), (0.6, 0.6, 0.6))
    truth = to_training(CHALLENGE.structures, "public")[phantom.labels]
    labels = to_training(MULTICLASS.structures, "dataset")[phantom.labels]
    found, problem = pulp_per_tooth(labels, CHALLENGE, phantom.spacing)
    pulp = labels == PLAIN
    assert problem == ""
    # Where the roots of neighbours overlap on a coarse grid their pulps touch, and some voxels are as near to either.
    assert (found[pulp] == truth[pulp]).mean() > 0.995
    assert pulp.sum() > 1000


def test_other_challenges_are_refused():
    for challenge in (STSR, INTERACTIVE):
        with pytest.raises(
            InputError, match=f"found the challenge {challenge.name}, expected one with pulp and each tooth"
        ):
            challenge.with_tooth_pulps()
    assert CHALLENGE.with_tooth_pulps() is CHALLENGE
    assert tooth_name(11) in NAMED
