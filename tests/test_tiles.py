"""Tiling, weights and blending against nnU-Net's and a naive sum."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umamba2.engine import tiles as module
from umamba2.engine.tiles import Blend, gaussian, mirrors, padding, positions, tiles

CPU = torch.device("cpu")


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 400), patch=st.integers(1, 200), step=st.sampled_from([0.25, 0.5, 0.8, 0.9, 0.95, 1.0]))
def test_tiles_cover_every_voxel_without_leaving_the_volume(size, patch, step):
    size = max(size, patch)
    starts = positions(size, patch, step)
    assert starts[0] == 0
    assert starts[-1] + patch == size
    covered = np.zeros(size, int)
    for start in starts:
        covered[start : start + patch] += 1
    assert covered.min() >= 1
    assert all(b - a <= max(1, round(step * patch) + 1) for a, b in pairwise(starts))


@settings(max_examples=100, deadline=None)
@given(size=st.integers(8, 400), patch=st.integers(8, 200), step=st.sampled_from([0.3, 0.5, 0.8, 0.95]))
def test_positions_are_nnunets(size, patch, step):
    theirs = pytest.importorskip("nnunetv2.inference.sliding_window_prediction").compute_steps_for_sliding_window
    size = max(size, patch)
    assert positions(size, patch, step) == theirs((size,), (patch,), step)[0]


@pytest.mark.parametrize("patch", [(16, 24, 32), (8, 9, 40)])
def test_gaussian_is_nnunets(patch):
    theirs = pytest.importorskip("nnunetv2.inference.sliding_window_prediction").compute_gaussian(
        patch, value_scaling_factor=10, dtype=torch.float32, device=CPU
    )
    # Theirs has exact zeros, replaced, beyond four sigma; in that tail only the order of magnitude means anything.
    ours = gaussian(patch)
    torch.testing.assert_close(ours[theirs > 1e-3], theirs[theirs > 1e-3], rtol=1e-3, atol=0)
    assert ours.max() == 10
    assert ours.min() > 0


@given(shape=st.tuples(*[st.integers(1, 20)] * 3))
def test_padding_reaches_the_patch_and_is_centred(shape):
    for n, p, (before, after) in zip(shape, (8, 8, 8), padding(shape, (8, 8, 8)), strict=True):
        assert before + n + after == max(n, p)
        assert after - before in (0, 1)


def test_mirrors_are_all_combinations():
    assert list(mirrors((1, 2))) == [(), (1,), (2,), (1, 2)]
    assert list(mirrors(())) == [()]


def run(how, tile_logits, shape, patch, step):
    blend = Blend(tile_logits(0).shape[0], shape, patch, how, CPU)
    for i, tile in enumerate(tiles(shape, patch, step)):
        blend.add(tile, tile_logits(i).clone())
    return blend.result()


def random_tiles(patch, scale=1.0, shift=0.0):
    def logits(i):
        return torch.randn(3, *patch, generator=torch.Generator().manual_seed(i)) * scale + shift

    return logits


def test_nnunet_blend_is_the_weighted_mean():
    shape, patch, step = (9, 12, 10), (6, 8, 8), 0.5
    logits = random_tiles(patch)
    total, weights = torch.zeros(3, *shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for i, tile in enumerate(tiles(shape, patch, step)):
        total[(slice(None), *tile)] += logits(i).double() * gaussian(patch)
        weights[tile] += gaussian(patch)
    torch.testing.assert_close(
        run("nnunet", logits, shape, patch, step).double(), total / weights, rtol=1e-4, atol=1e-5
    )


def test_published_blend_scales_each_tile_to_a_maximum_of_100():
    shape, patch, step = (9, 12, 10), (6, 8, 8), 0.9
    logits = random_tiles(patch, scale=5.0)
    total = torch.zeros(3, *shape)
    for i, tile in enumerate(tiles(shape, patch, step)):
        total[(slice(None), *tile)] += logits(i) / logits(i).max() * 100 * gaussian(patch)
    torch.testing.assert_close(run("published", logits, shape, patch, step), total, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shift", [-50.0, -3.2, 0.0])
def test_published_blend_never_flips_or_explodes_a_tile(shift):
    """A tile whose largest logit is negative or next to nothing keeps its order and its size."""
    patch = (4, 4, 4)
    tile = torch.rand(3, *patch) * 3.2 + shift - 3.2 * (shift == 0.0) + 1e-6
    result = run("published", lambda i: tile, patch, patch, 1.0)
    assert torch.equal(result.argmax(0), tile.argmax(0))
    assert (result / gaussian(patch)).abs().max() <= 100 * max(tile.abs().max().item(), 1.0) * 1.001


def test_half_precision_sums_give_the_same_labels(monkeypatch):
    shape, patch = (12, 16, 16), (8, 8, 8)
    logits = random_tiles(patch, scale=6.0)
    full = run("nnunet", logits, shape, patch, 0.5)
    monkeypatch.setattr(module, "FULL_PRECISION_BYTES", 0)
    half = run("nnunet", logits, shape, patch, 0.5)
    assert half.dtype == torch.float16
    assert half.isfinite().all()
    assert (half.argmax(0) == full.argmax(0)).float().mean() > 0.995
