"""Labels on another grid than the network's: where background is clear, nothing is resampled, and nothing changes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from umamba2.engine import labelmap
from umamba2.engine.labelmap import OtherGrid
from umamba2.engine.resample import RowResampler

CPU = torch.device("cpu")


def labels_of(scores, target, lead, nearest, rows):
    grid = OtherGrid(scores.shape[1:], [(0, 0)] * 3, target, lead, nearest, rows, len(scores), CPU)
    for start, stop in rows:
        box = tuple(slice(start, stop) if axis == lead else slice(0, n) for axis, n in enumerate(scores.shape[1:]))
        grid.finish(box, scores[(slice(None), *box)].clone())
    assert grid._done == target[lead]
    return grid.labels


@pytest.mark.parametrize("seed", range(60))
def test_a_few_structures_are_labelled_as_everything_would_be(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    shape, target = (tuple(rng.integers(low, high, 3).tolist()) for low, high in ((2, 14), (1, 30)))
    nearest = bool(rng.integers(0, 2))
    lead = int(rng.integers(0, 3)) if nearest else 0
    cuts = sorted({0, shape[lead], *rng.integers(0, shape[lead] + 1, 2).tolist()})
    rows = list(pairwise(cuts))
    scores = torch.from_numpy(rng.normal(0, 3, (3, *shape)).astype(np.float32))
    scores[0] += 20
    for _ in range(rng.integers(0, 3)):
        scores[(int(rng.integers(1, 3)), *map(int, rng.integers(0, shape)))] += 40
    scores *= torch.from_numpy(10.0 ** rng.uniform(-6, 2, shape).astype(np.float32))  # as Gaussian weights do
    monkeypatch.setattr(labelmap, "ROWS_OF_BOX", int(rng.integers(1, 9)))
    monkeypatch.setattr(labelmap, "GAP_OF_BOXES", int(rng.integers(1, 5)))
    found = labels_of(scores, target, lead, nearest, rows)
    monkeypatch.setattr(labelmap, "FEW_CLASSES", 0)
    assert torch.equal(found, labels_of(scores, target, lead, nearest, rows))


def test_what_is_clear_is_not_resampled(monkeypatch):
    scores = torch.zeros(3, 12, 12, 12)
    scores[0] = 5
    scores[1, 4:6, 4:6, 4:6] = 9
    expected = labels_of(scores, (24, 30, 36), 0, False, [(0, 12)])
    assert (expected == 1).sum() > 8
    monkeypatch.setattr("umamba2.engine.resample.F.interpolate", lambda *_, **__: pytest.fail("a whole plane"))
    assert torch.equal(labels_of(scores, (24, 30, 36), 0, False, [(0, 12)]), expected)
    assert not labels_of(torch.zeros(3, 4, 4, 4) + scores[:, :1, :1, :1], (8, 8, 8), 0, False, [(0, 4)]).any()


def test_only_what_lies_near_structures_is_resampled(monkeypatch):
    scores = torch.zeros(3, 40, 30, 60)
    scores[0] = 5
    scores[1, 2:5, 3:6, 2:6] = 9
    scores[2, 30:34, 20:24, 50:56] = 9
    given = []
    push_parts = RowResampler.push_parts

    def counted(self, rows, boxes):
        for where, slab in push_parts(self, rows, boxes):
            given.append(slab[0].numel())
            yield where, slab

    monkeypatch.setattr(RowResampler, "push_parts", counted)
    found = labels_of(scores, (80, 60, 120), 0, False, [(0, 40)])
    assert 0 < sum(given) < found.numel() / 20  # one box around both would be two thirds of it
    monkeypatch.setattr(labelmap, "FEW_CLASSES", 0)
    assert torch.equal(found, labels_of(scores, (80, 60, 120), 0, False, [(0, 40)]))
    assert {int(label) for label in found.unique()} == {0, 1, 2}
