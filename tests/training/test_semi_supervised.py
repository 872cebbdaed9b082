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
    at_resolutions,
    attended,
    consistency,
    consistency_weight,
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


@pytest.mark.parametrize(("stage", "part"), [(STAGE_2, 0.2), (STAGE_3, 0.05)])
def test_consistency_counts_more_and_more_over_the_first_part(stage, part):
    for done in (0, 0.01, 0.04, 0.1, 0.2, 0.7):
        iteration, total = done * 10_000, 10_000
        t = min(iteration / (part * total), 1)
        assert consistency_weight(stage, done) == pytest.approx(50 * math.exp(-5 * (1 - t) ** 2))


def test_consistency_is_the_mean_squared_difference_of_probabilities():
    torch.manual_seed(0)
    logits, clean = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    p, q = (np.exp(x.numpy()) for x in (logits, clean))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    assert float(consistency(logits, clean.softmax(1))) == pytest.approx(float(((p - q) ** 2).mean()), rel=1e-5)


def test_pseudo_labels_are_sure_and_not_background():
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7501, 0.0499], [0.2, 0.7, 0.1], [1e-9, 1e-9, 1.0]])
    labels = pseudo_labels(probabilities.T.reshape(1, 3, 1, 2, 2).log(), 0.75)
    assert labels.flatten().tolist() == [IGNORED, 1, IGNORED, 2]
    assert labels.shape == (1, 1, 1, 2, 2)
    certain = torch.tensor([-torch.inf, 0.0]).view(1, 2, 1, 1, 1)  # "from which on": at just that probability, too
    assert pseudo_labels(certain, 1.0).item() == 1


def test_pseudo_labels_of_half_precision_logits_are_decided_in_full_precision():
    """Whether a voxel is sure follows from the logits as they are; rounding the softmax as well changes some."""
    logits = torch.randn(1, 3, 40, 40, 40, generator=torch.Generator().manual_seed(0)).mul(1.5).bfloat16()
    expected = logits.double().softmax(1).amax(1, keepdim=True) >= 0.75
    rounded = logits.softmax(1).amax(1, keepdim=True) >= 0.75
    wanted = expected & (logits.argmax(1, keepdim=True) > 0)
    assert torch.equal(pseudo_labels(logits, 0.75) != IGNORED, wanted)
    assert not torch.equal(rounded, expected)  # else this shows nothing
    assert consistency(logits, logits.float().softmax(1)).item() == 0


def test_labels_at_coarser_resolutions_are_those_of_the_nearest_voxels():
    labels = torch.arange(4 * 6 * 8).reshape(1, 1, 4, 6, 8)
    outputs = [torch.zeros(1, 2, *shape) for shape in ((4, 6, 8), (2, 3, 4), (2, 3, 8))]
    full, half, flat = at_resolutions(labels, outputs)
    assert torch.equal(full, labels)
    assert torch.equal(half, labels[:, :, ::2, ::2, ::2])
    assert torch.equal(flat, labels[:, :, ::2, ::2])


def test_what_is_attended_most():
    torch.manual_seed(0)
    features = torch.rand(2, 4, 3, 3, 3)
    for low, high in ((0.6, 0.9), (0.8, 0.8)):
        for sample, mask in zip(features, attended(features, low, high)):
            mean = sample.mean(0)
            blank = mask[0]
            assert (mean[blank] >= low * mean.max() - 1e-6).all()  # nothing below the lowest threshold goes
            assert (mean[~blank] < high * mean.max() + 1e-6).all()  # nothing above the highest stays
            assert blank.any()


def test_attention_is_that_of_the_features_before_dropout():
    """Of equally strong cells all are attended; after dropout the weaker ones, by chance, would not be."""
    torch.manual_seed(0)
    everywhere = SemiSupervision(kept_skips=0)
    features = torch.ones(1, 16, 8, 8, 8)
    features[:, :, :4] = 0.5  # below every threshold of 0.6 to 0.9
    features[:, :, 0, 0, 0] = -5.0
    for _ in range(10):
        (changed,) = perturbed([features], everywhere)
        assert (changed[:, :, 4:] == 0).all()
        kept = changed[:, :, :4].abs().amax(1) > 0  # a channel in 65536 loses all of its cells
        assert kept.all()
    white = torch.randn(1, 320, 5, 9, 9).abs()
    kept = [float((perturbed([white], everywhere)[0].abs().amax(1) > 0).float().mean()) for _ in range(200)]
    naive = []
    rng = np.random.default_rng(0)
    mean = white.mean(1).numpy()
    for _ in range(200):
        naive.append(float((mean < mean.max() * rng.uniform(0.6, 0.9)).mean()))
    assert np.mean(kept) == pytest.approx(np.mean(naive), abs=0.08)


def test_feature_noise_scales_every_value():
    torch.manual_seed(0)
    ratio = add_feature_noise(torch.full((1, 8, 8, 8, 8), 2.0), 0.3) / 2
    assert 0.7 <= ratio.min() < 0.71
    assert 1.29 < ratio.max() <= 1.3
    assert float(ratio.mean()) == pytest.approx(1, abs=0.01)


def test_all_skips_but_the_two_finest_are_perturbed():
    torch.manual_seed(0)
    skips = [torch.rand(1, 16, 2, 2, 2) for _ in range(7)]
    changed = perturbed(skips, SemiSupervision())
    assert [torch.equal(a, b) for a, b in zip(skips, changed)] == [True] * 2 + [False] * 5
    few = perturbed(skips[:5], SemiSupervision())  # of a network with fewer stages, too
    assert [torch.equal(a, b) for a, b in zip(skips, few)] == [True] * 2 + [False] * 3
    # what is left of a channel is doubled by the dropout, and then scaled by 0.7 to 1.3
    left = changed[-1] != 0
    ratio = (changed[-1] / skips[-1])[left]
    assert left.any()
    assert not left.all()
    assert ((ratio > 1.39) & (ratio < 2.61)).all()
