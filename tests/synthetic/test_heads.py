"""Phantoms of heads: what must hold whatever is drawn. Coarse grids, for whole heads are large."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from umamba2.synthetic.heads import PARTS, TOOTHLESS, _pad, make_head
from umamba2.synthetic.textbook import FDI_OF

EDGE = 2.0  # mm
SEEDS = range(4)
TABLE = {*range(11), 103, 104, 105, *(q + p + more for q in (10, 20, 30, 40) for p in range(1, 9) for more in (0, 100))}


@cache
def head(seed, part="head"):
    return make_head(seed, part, (EDGE,) * 3)


@pytest.mark.parametrize("part", PARTS)
def test_arrays_fit_and_labels_are_those_of_the_table(part):
    phantom = head(1, part)
    assert phantom.image.dtype == np.int16
    assert phantom.labels.dtype == phantom.stsr_labels.dtype == np.uint8
    assert phantom.image.shape == phantom.labels.shape == phantom.stsr_labels.shape
    assert phantom.spacing == (EDGE,) * 3
    assert set(np.unique(phantom.labels).tolist()) <= TABLE
    longest = [most / EDGE for (_, most) in PARTS[part][0]]
    assert all(8 < n <= max(24, most + 1) for n, most in zip(phantom.image.shape, longest, strict=True))


def test_same_seed_same_bytes_and_other_seed_another_head():
    again, other = make_head(2, "head", (EDGE,) * 3), head(3)
    assert again.clicks == head(2).clicks
    for name in ("image", "labels", "stsr_labels"):
        assert np.array_equal(getattr(again, name), getattr(head(2), name))
    assert other.image.shape != again.image.shape


def test_spacing_is_drawn_when_it_is_not_given():
    spacings = {make_head(seed, "side of the head").spacing for seed in (0, 1)}
    assert len(spacings) == 2
    assert all(0.8 <= mm <= 1.2 for spacing in spacings for mm in spacing)


@pytest.mark.parametrize("part", TOOTHLESS)
@pytest.mark.parametrize("seed", SEEDS)
def test_parts_without_a_dental_field_have_no_tooth_and_no_restoration_label(part, seed):
    phantom = head(seed, part)
    assert not FDI_OF[phantom.labels].any()
    assert not phantom.stsr_labels.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_teeth_lie_together_and_near_the_jaws(seed):
    """No tooth label outside the dental field: teeth fill a box of an arch's size, each touching jaw or tooth."""
    labels = head(seed).labels
    teeth = FDI_OF[labels] > 0
    where = np.argwhere(teeth)
    assert len(where)
    assert all(np.ptp(where, axis=0) * EDGE < (105, 110, 120))
    jaws = ndimage.binary_dilation(np.isin(labels, (1, 2)), iterations=8)
    assert (teeth & jaws).sum() > 0.9 * teeth.sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_there_is_more_bone_than_the_jaws_and_it_is_background(seed):
    """Bone looks the same with and without a label, so brightness alone must not tell the jaws."""
    phantom = head(seed)
    jaws = ndimage.binary_erosion(np.isin(phantom.labels, (1, 2)))
    away = ~ndimage.binary_dilation(phantom.labels > 0, iterations=5)
    bone = np.median(phantom.image[jaws])
    assert bone > np.median(phantom.image[phantom.labels == 7]) + 500
    litres = (phantom.image[away] > bone).sum() * EDGE**3 / 1e6
    assert litres > 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_agree_with_the_image(seed):
    phantom = head(seed)
    teeth = (phantom.labels > 10) & (phantom.labels < 50)
    flesh = ndimage.binary_dilation(phantom.labels == 7, iterations=3) & (phantom.labels == 0)
    assert np.median(phantom.image[teeth]) > np.median(phantom.image[flesh]) + 100
    assert np.median(phantom.image[phantom.labels == 7]) < np.median(phantom.image[flesh]) - 400
    assert np.array_equal(phantom.stsr_labels >= 2, (phantom.labels > 110) & (phantom.labels < 149))


def test_padding_is_constant_and_has_no_label():
    shares = []
    for seed in range(30):
        image, labels = np.full((20, 40, 50), 5000, np.int16), np.ones((20, 40, 50), np.uint8)
        image[10, 20, 25] = -999  # what the darkest voxel is
        _pad(np.random.default_rng(seed), image, [labels], np.ones(3))
        assert np.array_equal(labels == 0, (image != 5000) & (labels == 0))
        assert len(np.unique(image[labels == 0])) <= 1
        assert np.all(np.isin(image[labels == 1], (5000, -999)))
        shares.append((labels == 0).mean())
    assert min(shares) == 0
    assert 0.1 < max(shares) < 0.6


def test_numbers_cannot_be_counted():
    """Some teeth stand where their neighbour would, gaps are closed, and some lie in the bone."""
    whole = [set(np.unique(FDI_OF[head(seed).labels]).tolist()) - {0} for seed in range(8)]
    assert min(map(len, whole)) < 24
    assert len({frozenset(teeth) for teeth in whole}) == 8


def test_clicks_lie_on_their_canals():
    for seed in SEEDS:
        for name, point in head(seed).clicks:
            assert head(seed).labels[point] == {"Left_IAC": 3, "Right_IAC": 4}[name]


def test_bad_arguments_are_refused_with_their_value():
    with pytest.raises(ValueError, match="part is 'foot', expected one of 'dental field', 'head'"):
        make_head(0, "foot")
    with pytest.raises(ValueError, match=r"spacing is \(1, 0, 1\), expected three positive numbers"):
        make_head(0, "head", (1, 0, 1))
