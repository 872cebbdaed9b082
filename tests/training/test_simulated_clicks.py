"""Clicks drawn on training patches."""

import numpy as np
import torch

from umamba2.challenges.recipe import Clicking
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


def test_slivers_get_no_click():
    labels = np.zeros((8, 8, 8), np.int16)
    labels[:10, 0, 0] = 1
    labels[0, :2, 0] = 1  # 9 voxels
    labels[4, :3, 2:6] = 2  # 12 voxels
    drawn = [draw_clicks(labels, Clicking(none=0), np.random.default_rng(seed))[1] for seed in range(20)]
    assert all(set(sides) == {1} for sides in drawn)


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
