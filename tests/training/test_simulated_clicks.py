"""Clicks drawn on training patches."""

import numpy as np
import torch

from umamba2.challenges.recipe import Clicking
from umamba2.scans.clicks import simulate_clicks
from umamba2.training.clicks import batch_clicks, draw_clicks

SETTINGS = Clicking()


def canals(shape=(40, 24, 48)):
    """Two tubes, the left canal at large x, winding along z."""
    labels = np.zeros(shape, np.int16)
    for z in range(4, 36):
        y = 12 + int(4 * np.sin(z / 5))
        labels[z, y - 1 : y + 2, 35:38] = 1
        labels[z, y - 1 : y + 2, 9:12] = 2
    return labels


def test_clicks_lie_on_their_canal_and_are_as_many_as_published():
    labels, rng = canals(), np.random.default_rng(0)
    counts = {0: [], 1: []}
    for _ in range(400):
        points, sides = draw_clicks(labels, SETTINGS, rng)
        for point, side in zip(points.astype(int), sides):
            assert labels[tuple(point)] == side + 1
        for side in counts:
            counts[side].append(int((sides == side).sum()))
    for drawn in counts.values():
        assert set(drawn) == set(range(11))
        assert 0.05 < np.mean(np.array(drawn) == 0) < 0.16  # 0.1
        assert 4.5 < np.mean(drawn) < 5.4  # 0.9 * 5.5


def test_many_clicks_cover_the_canal():
    labels, rng = canals(), np.random.default_rng(1)
    spread = []
    for _ in range(50):
        points, sides = draw_clicks(labels, Clicking(none=0), rng)
        if (sides == 0).sum() >= 8:
            spread.append(np.ptp(points[sides == 0][:, 0]))
    assert np.mean(spread) > 24  # of 32 slices


def slices_of_clicks(count, draws=600):
    mask = np.zeros((100, 9, 9), bool)
    mask[10:90, 2:7, 2:7] = True
    rng = np.random.default_rng(3)
    return np.array([[z for z, _, _ in simulate_clicks(mask, rng, count)] for _ in range(draws)])


def test_the_first_and_last_click_lie_in_the_six_slices_at_the_ends():
    """As in the official simulator: each of the six as likely, never moved by the noise."""
    drawn = slices_of_clicks(5)
    for column, slices in ((0, range(10, 16)), (4, range(84, 90))):
        found, counts = np.unique(drawn[:, column], return_counts=True)
        assert found.tolist() == list(slices)
        assert (counts > 60).all()  # of 600, a sixth each


def test_the_clicks_between_lie_on_both_sides_of_their_places():
    """Within five slices, as often before as behind, and evenly."""
    drawn = slices_of_clicks(5)
    places = np.array([np.linspace(first, last, 5).astype(int) for first, last in drawn[:, [0, 4]]])
    noise = (drawn - places)[:, 1:4]
    assert np.unique(noise).tolist() == list(range(-5, 6))
    assert abs(noise.mean()) < 0.25
    assert 0.4 < (noise < 0).mean() < 0.5  # 5 of 11
    assert 0.4 < (noise > 0).mean() < 0.5


def test_a_lone_click_is_the_first_of_the_platforms_five():
    """The archives hold the first one, two, ... of five, so the first lies at the lower end."""
    drawn = slices_of_clicks(1)
    assert set(drawn[:, 0]) == set(range(10, 16))


def test_in_its_slice_a_click_lies_around_the_median():
    mask = np.zeros((60, 80, 80), bool)
    mask[:, 20:31, 20:31] = True  # the canal: 121 voxels around (25, 25)
    mask[:, 60:70, 70:75] = True  # a stray part, of fewer voxels, which moves the mean but not the median by much
    rng = np.random.default_rng(0)
    median = np.median(np.argwhere(mask[0]), axis=0).astype(int)
    assert tuple(median) == (27, 27)
    exact = np.array(simulate_clicks(mask, rng, 5, in_slice_noise=0))
    assert (exact[:, 1:] == median).all()
    drawn = np.concatenate([simulate_clicks(mask, rng, 5) for _ in range(200)])[:, 1:] - median
    assert np.unique(drawn).tolist() == list(range(-3, 4))
    assert np.abs(drawn.mean(0)).max() < 0.2  # as often to one side as to the other


def test_canals_shorter_than_the_noise():
    for length in range(1, 12):
        mask = np.zeros((30, 9, 9), bool)
        mask[8 : 8 + length, 4, 4] = True
        for seed in range(30):
            for count in (1, 2, 5):
                clicks = simulate_clicks(mask, np.random.default_rng(seed), count)
                assert len(clicks) == count
                assert all(mask[click] for click in clicks)


def test_slivers_get_no_click():
    labels = np.zeros((8, 8, 8), np.int16)
    labels[:10, 0, 0] = 1
    labels[0, :2, 0] = 1  # 9 voxels
    labels[4, :3, 2:6] = 2  # 12 voxels
    drawn = [draw_clicks(labels, Clicking(none=0), np.random.default_rng(seed))[1] for seed in range(20)]
    assert all(set(sides) == {1} for sides in drawn)


def test_the_smallest_part_of_a_canal_that_is_clicked_on():
    for voxels in (SETTINGS.fewest_voxels - 1, SETTINGS.fewest_voxels):
        labels = np.zeros((2, 8, 8), np.int16)
        labels.ravel()[:voxels] = 1
        _, sides = draw_clicks(labels, Clicking(none=0), np.random.default_rng(0))
        assert bool(len(sides)) == (voxels == SETTINGS.fewest_voxels)


def test_batches_are_padded():
    target = torch.from_numpy(np.stack([canals(), np.zeros((40, 24, 48), np.int16)]))[:, None]
    coordinates, sides = batch_clicks(target, Clicking(none=0), np.random.default_rng(0))
    assert coordinates.shape == (2, sides.shape[1], 3)
    assert (sides[0] >= 0).all()
    assert (sides[1] == -1).all()
    coordinates, sides = batch_clicks(target[1:], SETTINGS, np.random.default_rng(0))
    assert coordinates.shape == (1, 0, 3)
    assert sides.shape == (1, 0)
    assert sides.dtype == torch.long
