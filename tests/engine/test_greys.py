"""Where histograms and volumes lie at the thresholds: what is just beyond one is treated otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from small_models import INTENSITY

from umamba2.engine.greys import GreyValues, doubts
from umamba2.engine.harmonise import harmonise, tissue_box, without_air
from umamba2.engine.preprocess import prepare
from umamba2.models.network import Plan

ALL = (slice(None),) * 3


def histogram(*steps: tuple[int, float]) -> GreyValues:
    """A histogram of steps, each of a width in grey values and a height."""
    heights = np.concatenate([np.full(width, height) for width, height in steps])
    found = np.flatnonzero(heights)
    return GreyValues(found.astype(np.int16), np.rint(1000 * heights[found]).astype(np.int64))


@pytest.mark.parametrize(("valley", "found"), [(0.23, True), (0.265, False)])
def test_a_valley_of_a_quarter_of_the_lower_peak_separates(valley, found):
    greys = histogram((400, 1.0), (200, valley), (600, 1.0))
    assert (greys.anchors() is not None) == found


@pytest.mark.parametrize(("height", "found"), [(0.47, False), (0.53, True)])
def test_soft_tissue_is_at_least_half_of_the_group_below(height, found):
    greys = histogram((500, 1.0), (400, 0.0), (500, height))
    assert (greys.anchors() is not None) == found


@pytest.mark.parametrize(("share", "found"), [(0.0048, False), (0.0053, True)])
def test_what_is_less_than_half_a_percent_is_no_group(share, found):
    # The darkest thousandth of all voxels is left out first.
    small = (share + 0.001) * 600 / (1 - share - 0.001) / 60
    greys = histogram((60, small), (340, 0.0), (600, 1.0))
    assert (greys.darkest_group() is not None) == found


@pytest.mark.parametrize(("distance", "found"), [(45, False), (51, True)])
def test_peaks_closer_than_the_blur_are_one(distance, found):
    # Two lines d apart, blurred by s: the valley is 2 exp(-d^2 / 8 s^2) of a peak, a quarter at d = 4.08 s, which is
    # 24.5 of 512 bins; the outermost values make the bins 1000 / 512 wide.
    values, counts = np.array([0, 300, 300 + distance, 1000]), np.array([200, 49_700, 49_500, 600])
    assert (GreyValues(values, counts).anchors() is not None) == found


def test_a_peak_lies_at_the_centre_of_its_upper_quarter():
    # What is at least three quarters as high as the peak counts by its height: both of these steps.
    greys = histogram((100, 0.0), (200, 1.0), (200, 0.79), (300, 0.0), (700, 1.0))
    found = greys.anchors()
    assert found is not None
    low = greys.quantile(0.001)
    centre = (200 * 1.0 * 200 + 200 * 0.79 * 400) / (200 * 1.0 + 200 * 0.79)
    assert found[0] - low == pytest.approx(centre - 100, abs=16)  # the ends of the steps are blurred


def negative(median: float, distinct: int) -> np.ndarray:
    """A volume of so many grey values from 0 to 1, with a median and without air at its border."""
    rng, volume = np.random.default_rng(0), np.full((40, 40, 40), 0.5)
    inner = np.where(rng.random((38, 38, 38)) < 0.8, rng.uniform(median - 0.01, median + 0.01, (38, 38, 38)), 0.0)
    inner[rng.random(inner.shape) < 0.02] = 1.0
    volume[1:-1, 1:-1, 1:-1] = inner
    steps = np.union1d(np.linspace(median - 0.01, median + 0.01, distinct - 3), [0.0, 0.5, 1.0])
    return steps[np.abs(volume[..., None] - steps).argmin(-1)]


@pytest.mark.parametrize(("median", "inverted"), [(0.57, False), (0.63, True)])
def test_a_median_high_in_the_range_means_a_negative(median, inverted):
    assert bool(doubts(negative(median, 60), ALL)) == inverted


@pytest.mark.parametrize(("distinct", "scan"), [(31, False), (33, True)])
def test_few_grey_values_are_a_drawing(distinct, scan):
    volume = negative(0.7, distinct)
    assert len(np.unique(volume)) == distinct
    assert ("inverted" in str(doubts(volume, ALL))) == scan


def label_map(ids: int) -> np.ndarray:
    """Blocks of so many ids in background, about a third of all."""
    volume = np.zeros((40, 60, 60), np.int16)
    blocks = np.arange(1, ids).repeat(64).reshape(-1, 4, 4, 4)
    for number, block in enumerate(blocks):
        z, y, x = 4 * np.array(np.unravel_index(2 * number, (10, 15, 15)))
        volume[z : z + 4, y : y + 4, x : x + 4] = block
    return volume


@pytest.mark.parametrize("drawing", [label_map(2), label_map(6) * 51, label_map(78), label_map(200).astype(np.float32)])
def test_label_maps_and_masks_are_no_scans(drawing):
    plan = Plan("UMamba2", {}, (8, 8, 8), (0.3, 0.3, 0.3), (0, 1, 2), INTENSITY, False)
    prepared = prepare(drawing, (0.3, 0.3, 0.3), plan)
    assert f"found {len(np.unique(drawing))} values in all voxels, expected a scan" in str(prepared.warnings)


@pytest.mark.parametrize("cut", [0, 12])
def test_scans_of_eight_bits_with_little_noise_are_scans(cut):
    rng = np.random.default_rng(0)
    tissue = ndimage.gaussian_filter(rng.normal(0, 1, (40, 60, 60)), 3) * 150 + rng.normal(0, 1, (40, 60, 60))
    scan = np.where(label_map(6) > 0, 120, 30) + tissue
    assert doubts(np.clip(scan, cut, 255).astype(np.uint8), ALL) == []


def test_air_goes_to_minus_1000_and_soft_tissue_to_40():
    rng = np.random.default_rng(0)
    volume = np.where(
        np.arange(40)[:, None, None] < 18, rng.normal(100, 8, (40, 40, 40)), rng.normal(700, 8, (40, 40, 40))
    )
    result, warnings = harmonise(volume)
    assert not warnings
    assert np.median(result[:18]) == pytest.approx(-1000, abs=3)
    assert np.median(result[18:]) == pytest.approx(40, abs=3)


def head(filled: int) -> np.ndarray:
    """Air of (50, 100, 100) half of it soft tissue, of whose first plane only some voxels."""
    rng = np.random.default_rng(0)
    volume = rng.normal(-1000, 5, (50, 100, 100))
    volume[26:] = rng.normal(40, 5, (24, 100, 100))
    volume[25].flat[:filled] = 40
    return volume


@pytest.mark.parametrize(("filled", "first"), [(190, 25), (210, 24)])
def test_planes_with_a_fiftieth_of_the_tissue_belong_to_the_head(filled, first):
    box = tissue_box(head(filled))
    assert box is not None
    assert box[0].start == first  # one plane of air is kept


@pytest.mark.parametrize(("planes", "cut"), [(32, True), (35, False)])
def test_more_than_a_third_of_air_around_the_head_is_cut_off(planes, cut):
    rng = np.random.default_rng(0)
    volume = rng.normal(-1000, 5, (50, 60, 60))
    volume[-planes + 1 :, ::2] = rng.normal(40, 5, volume[-planes + 1 :, ::2].shape)
    everything = tuple(slice(0, n) for n in volume.shape)
    part = without_air(volume, everything, None)
    assert part == ((slice(50 - planes, 50), *everything[1:]) if cut else everything)
