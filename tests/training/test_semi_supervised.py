"""The formulas of semi-supervised training, against loops and the published numbers."""

import math

import numpy as np
import pytest
import torch
from challenge_names import STSR

from umamba2.challenges import CHALLENGES
from umamba2.challenges.recipe import SemiSupervision
from umamba2.training.semi_supervised import (
    IGNORED,
    add_feature_noise,
    consistency,
    consistency_weight,
    drop_attended,
    perturbed,
    pseudo_labels,
    unlabelled_probability,
)

STAGE_2, STAGE_3 = CHALLENGES[STSR].recipe.unlabelled, CHALLENGES[STSR].recipe.unlabelled_finetune


@pytest.mark.parametrize(
    ("stage", "done", "expected"),
    [(STAGE_2, 0, 0.1), (STAGE_2, 0.25, 0.35), (STAGE_2, 0.9, 0.5), (STAGE_3, 0, 0.3), (STAGE_3, 0.1, 0.4)],
)
def test_unlabelled_steps_become_more_likely(stage, done, expected):
    assert unlabelled_probability(stage, done) == pytest.approx(expected)


@pytest.mark.parametrize("done", [0, 0.05, 0.1, 0.2, 0.7])
def test_consistency_counts_more_and_more_over_the_first_fifth(done):
    iteration, total = done * 10_000, 10_000
    t = min(iteration / (0.2 * total), 1)
    assert consistency_weight(STAGE_2, done) == pytest.approx(50 * math.exp(-5 * (1 - t) ** 2))


def test_consistency_is_the_mean_squared_difference_of_probabilities():
    torch.manual_seed(0)
    logits, clean = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    p, q = (np.exp(x.numpy()) for x in (logits, clean))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    assert float(consistency(logits, clean.softmax(1))) == pytest.approx(float(((p - q) ** 2).mean()), rel=1e-5)


def test_pseudo_labels_are_sure_and_not_background():
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.75, 0.05], [0.2, 0.7, 0.1], [0.0, 0.0, 1.0]])
    labels = pseudo_labels(probabilities.T.reshape(1, 3, 1, 2, 2), 0.75)
    assert labels.flatten().tolist() == [IGNORED, 1, IGNORED, 2]
    assert labels.shape == (1, 1, 1, 2, 2)


def test_attended_cells_are_dropped():
    torch.manual_seed(0)
    features = torch.rand(2, 4, 3, 3, 3)
    for low, high in ((0.6, 0.9), (0.8, 0.8)):
        dropped = drop_attended(features, low, high)
        for sample, result in zip(features, dropped):
            mean = sample.mean(0)
            gone = result.abs().sum(0) == 0
            kept = ~gone
            assert torch.equal(result[:, kept], sample[:, kept])
            assert (mean[gone] >= low * mean.max() - 1e-6).all()  # nothing below the lowest threshold goes
            assert (mean[kept] < high * mean.max() + 1e-6).all()  # nothing above the highest stays
            assert gone.any()


def test_feature_noise_scales_every_value():
    torch.manual_seed(0)
    ratio = add_feature_noise(torch.full((1, 8, 8, 8, 8), 2.0), 0.3) / 2
    assert 0.7 <= ratio.min() < 0.71
    assert 1.29 < ratio.max() <= 1.3
    assert float(ratio.mean()) == pytest.approx(1, abs=0.01)


def test_the_deepest_five_skips_are_perturbed():
    torch.manual_seed(0)
    skips = [torch.rand(1, 16, 2, 2, 2) for _ in range(7)]
    changed = perturbed(skips, SemiSupervision())
    assert [torch.equal(a, b) for a, b in zip(skips, changed)] == [True] * 2 + [False] * 5
    few = perturbed(skips[:3], SemiSupervision())
    assert not any(torch.equal(a, b) for a, b in zip(skips, few))
    # what is left of a channel is doubled by the dropout, and then scaled by 0.7 to 1.3
    left = changed[-1] != 0
    ratio = (changed[-1] / skips[-1])[left]
    assert left.any()
    assert not left.all()
    assert ((ratio > 1.39) & (ratio < 2.61)).all()
