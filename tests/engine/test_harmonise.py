"""Harmonised intensities: the same for every scanner, in their ranges by the phantoms' labels, or left alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_models import INTENSITY, make_model

from umamba2.engine.harmonise import AIR, SOFT_TISSUE, anchors, harmonise
from umamba2.engine.preprocess import prepare
from umamba2.models.folder import load_model, slim
from umamba2.models.network import HARMONISED, Plan
from umamba2.synthetic.phantoms import make_phantom
from umamba2.synthetic.textbook import DATASET_ID

SHAPE, SPACING = (52, 100, 120), (0.8, 0.8, 0.8)


@lru_cache
def phantom(seed: int):
    return make_phantom(seed, SHAPE, SPACING)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 3),
    gain=st.floats(0.5, 2.6),
    offset=st.floats(-2000, 2000),
)
@example(seed=0, gain=0.5, offset=0)
@example(seed=1, gain=2.6, offset=1000)
def test_gain_and_offset_of_the_scanner_do_not_matter(seed, gain, offset):
    image = phantom(seed).image
    as_scanned = np.rint(gain * image.astype(np.float64) + offset).astype(np.int32)
    # Rounding moves a voxel by up to 0.5 / gain HU and a peak by a fraction of a bin of the histogram (about 8 HU).
    difference = np.abs(harmonise(as_scanned)[0] - harmonise(image)[0])
    assert np.median(difference) < 5
    assert difference[image < 2000].max() < 40


@pytest.mark.parametrize("seed", range(4))
def test_eight_bits_are_enough(seed):
    image = phantom(seed).image
    grey = np.clip((image + 1000) / 24, 0, 255).astype(np.uint8)
    difference = np.abs(harmonise(grey)[0] - harmonise(image)[0])
    assert np.median(difference[image < 4000]) < 24


@pytest.mark.parametrize("seed", range(12))
def test_air_soft_tissue_and_dentine_land_in_their_ranges(seed):
    """The labels say where they are; the phantom's own gain, offset and bias are what has to go."""
    scan = phantom(seed)
    image, _ = harmonise(scan.image * np.float32(1.7) + 300)
    teeth = (scan.labels > 10) & (scan.labels < 49)
    assert abs(np.median(image[scan.labels == DATASET_ID["pharynx"]]) - AIR) < 120
    soft = image[(scan.labels == 0) & (image > -400) & (image < 400)]
    assert abs(np.median(soft) - SOFT_TISSUE) < 60
    assert 1000 < np.median(image[teeth]) < 2400


def test_padding_below_air_is_not_taken_for_air():
    image = phantom(2).image.astype(np.int32)
    _, y, x = np.ogrid[[slice(-1, 1, n * 1j) for n in SHAPE]]
    outside = np.broadcast_to(np.hypot(y, x) > 1.0, SHAPE)
    padded = np.where(outside, -3024, image)
    np.testing.assert_allclose(anchors(padded), anchors(image), atol=25)


@pytest.mark.parametrize(
    "volume",
    [
        np.full((8, 8, 8), 7, np.int16),
        np.random.default_rng(0).normal(40, 30, (20, 30, 40)).astype(np.float32),
        make_phantom(7, (78, 118, 153), (0.4, 0.4, 0.4)).image,  # a field of view without air
        make_phantom(29, (75, 78, 144), (0.4, 0.4, 0.4)).image,  # the same with much bright bone
    ],
    ids=["constant", "one peak", "no air", "no air, much bone"],
)
def test_a_scan_without_both_peaks_is_left_alone_with_a_warning(volume, capsys):
    values, warnings = harmonise(volume)
    np.testing.assert_array_equal(values, volume)
    assert warnings == ("found no separate peaks of air and soft tissue, expected both; intensities kept",)
    assert capsys.readouterr() == ("", "")


def test_the_callers_scan_is_not_changed():
    before = phantom(0).image.copy()
    harmonise(phantom(0).image)
    np.testing.assert_array_equal(phantom(0).image, before)


def test_models_say_whether_they_want_it_and_slim_ones_too(tmp_path):
    model = make_model(tmp_path / "model", normalisation=HARMONISED)
    slim(model, tmp_path / "slim")
    assert load_model(model).plan.harmonise
    assert load_model(tmp_path / "slim").plan.harmonise
    assert not load_model(make_model(tmp_path / "plain")).plan.harmonise


def test_a_harmonising_model_sees_the_same_whatever_the_scanner():
    def tensor(volume, harmonise):
        plan = Plan("UMamba2", {}, (8, 8, 8), SPACING, (0, 1, 2), INTENSITY, harmonise=harmonise)
        return prepare(volume, SPACING, plan).tensor.numpy()

    image = phantom(1).image.astype(np.float32)
    other = 2 * image - 500
    assert np.abs(tensor(image, True) - tensor(other, True)).mean() < 0.01
    assert np.abs(tensor(image, False) - tensor(other, False)).mean() > 0.3
