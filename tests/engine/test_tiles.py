"""Tiles and weights against nnU-Net's, cells against a count of tiles per voxel."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umamba2.engine.tiles import Sweep, gaussian, mirrors, padding, positions
from umamba2.errors import InputError

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
    assert ours.min() == 2.0**-24  # not less: what fp16 holds, so that no weight is ever 0 there


@given(shape=st.tuples(*[st.integers(1, 20)] * 3))
def test_padding_reaches_the_patch_and_is_centred(shape):
    for n, p, (before, after) in zip(shape, (8, 8, 8), padding(shape, (8, 8, 8)), strict=True):
        assert before + n + after == max(n, p)
        assert after - before in (0, 1)


def test_mirrors_are_all_combinations():
    assert list(mirrors((0, 2))) == [(), (0,), (2,), (0, 2)]
    assert list(mirrors(())) == [()]


sizes = st.tuples(*[st.integers(4, 20)] * 3)
patches = st.tuples(*[st.integers(2, 12)] * 3)


@settings(max_examples=50, deadline=None)
@given(shape=sizes, patch=patches, step=st.sampled_from([0.2, 0.5, 0.8, 1.0]), outer=st.sampled_from([None, 0, 1, 2]))
def test_cells_part_the_volume_and_end_with_the_last_of_their_tiles(shape, patch, step, outer):
    """Against a count of tiles per voxel: every voxel is in one cell of each of its tiles, and finished by the last."""
    shape = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
    sweep = Sweep(shape, patch, step, outer)
    covered, seen, waiting, most = np.zeros(shape, int), np.zeros(shape, int), 0, 0
    for tile in sweep.tiles:
        covered[tile.box] += 1
    for tile in sweep.tiles:
        own = np.zeros(shape, int)
        for cell in sweep.cells(tile):
            own[cell.box] += 1
            size = own[cell.box].size
            assert len(np.unique(seen[cell.box])) == len(np.unique(covered[cell.box])) == 1
            before, total = seen[cell.box].flat[0], covered[cell.box].flat[0]
            assert cell.last == (before + 1 == total)
            waiting += size * (int(before == 0 and total > 1) - int(before > 0 and before + 1 == total))
        most = max(most, waiting)
        assert (own[tile.box] == 1).all()
        assert own.sum() == own[tile.box].size
        seen += own
    assert (seen == covered).all()
    assert waiting == 0
    assert sweep.pending_voxels == most
    assert outer is None or sweep.outer == outer


@settings(max_examples=50, deadline=None)
@given(shape=sizes, patch=patches, step=st.sampled_from([0.3, 0.5, 0.9]), outer=st.integers(0, 2))
def test_rows_are_finished_in_order(shape, patch, step, outer):
    shape = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
    sweep = Sweep(shape, patch, step, outer)
    assert sweep.rows()[0][0] == 0
    assert sweep.rows()[-1][1] == shape[outer]
    finished = [cell.box[outer].start for tile in sweep.tiles for cell in sweep.cells(tile) if cell.last]
    done = [max(i for i, start in enumerate(finished) if start == row) for row, _ in sweep.rows()]
    assert done == sorted(done)


def test_fewest_voxels_wait_in_the_order_of_axes_that_is_chosen():
    shape, patch = (40, 12, 14), (10, 8, 8)
    assert Sweep(shape, patch, 0.5).pending_voxels == min(
        Sweep(shape, patch, 0.5, outer).pending_voxels for outer in range(3)
    )


def test_tiles_without_number_are_refused():
    assert len(Sweep((400, 400, 400), (32, 32, 32), 0.5).tiles) == 24**3
    found = re.escape("found 1,092,727 of 16x16x16 voxels in a grid of 832x832x832, expected at most 1,000,000")
    with pytest.raises(InputError, match=found):
        Sweep((832, 832, 832), (16, 16, 16), 0.5)
