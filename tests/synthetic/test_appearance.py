"""Random images of label maps: what must hold whatever is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from umamba2.synthetic.appearance import draw_greys, image_of_labels
from umamba2.synthetic.phantoms import make_phantom

SPACING = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def jaws():
    """A phantom's label map without pulp, as a map of jaws and teeth alone is."""
    labels = make_phantom(1, (50, 84, 104), SPACING).labels
    return np.where((labels > 110) & (labels < 150), labels - 100, labels).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_tissues_keep_their_order(jaws, seed):
    image, labels = image_of_labels(jaws, SPACING, seed)
    assert (image.dtype, labels.dtype, image.shape) == (np.int16, np.uint8, jaws.shape)
    bone, tooth = (np.median(image[part]) for part in ((jaws == 1) | (jaws == 2), (jaws > 10) & (jaws < 50)))
    pharynx, metal = np.median(image[jaws == 7]), image[(jaws > 7) & (jaws < 11)]
    assert pharynx < np.median(image[labels == 0]) < bone
    assert pharynx < tooth
    assert not metal.size or np.median(metal) > bone


def test_teeth_get_pulp_and_nothing_else_changes(jaws):
    before = jaws.copy()
    _, labels = image_of_labels(jaws, SPACING, 0)
    pulp = labels > 110
    assert (jaws == before).all()
    assert (labels[~pulp] == jaws[~pulp]).all()
    assert (labels[pulp] == jaws[pulp] + 100).all()
    sizes = {tooth: ((jaws == tooth).sum(), (labels == tooth + 100).sum()) for tooth in (16, 26, 36, 46)}
    assert all(0.01 * size < found < 0.4 * size for size, found in sizes.values()), sizes


def test_pulp_that_is_labelled_stays(jaws):
    with_pulp = jaws.copy()
    with_pulp[jaws == 36] = 136
    _, labels = image_of_labels(with_pulp, SPACING, 0)
    assert (labels[jaws == 36] == 136).all()


def test_one_seed_one_image(jaws):
    one, again, other = (image_of_labels(jaws, SPACING, seed)[0] for seed in (3, 3, 4))
    assert (one == again).all()
    assert (one != other).mean() > 0.5


def test_grey_values_differ_from_draw_to_draw_but_keep_what_harmonising_needs():
    greys = [draw_greys(np.random.default_rng(seed)) for seed in range(50)]
    assert all(g["air"] + 500 < g["soft"] < g["trabecular"] < g["cortical"] for g in greys)
    assert np.std([g["cortical"] for g in greys]) > 300
    assert any(g["dentine"] < g["cortical"] for g in greys)
