"""Learning from unlabelled scans, as U-Mamba2-SSL does (arXiv 2509.20154): the formulas, each on its own.

The network sees an unlabelled patch twice: as it is, without gradient, and with changed intensities and perturbed
features. The second answer must match the first, either softly (consistency) or where the first is sure
(pseudo-labels).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from umamba2.challenges.recipe import SemiSupervision

IGNORED = 255


def unlabelled_probability(settings: SemiSupervision, done: float) -> float:
    """How likely a step uses unlabelled patches, when the fraction ``done`` of the stage is over."""
    return min(settings.most, done + settings.start)


def consistency_weight(settings: SemiSupervision, done: float) -> float:
    """The weight of the consistency loss, a Gaussian ramp, when the fraction ``done`` of the stage is over."""
    t = min(1.0, done / settings.ramp)
    return settings.consistency_weight * math.exp(-5 * (1 - t) ** 2)


def consistency(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Mean squared difference between the softmax of ``logits`` and ``probabilities``, both (B, C, z, y, x)."""
    return F.mse_loss(logits.float().softmax(1), probabilities)


def pseudo_labels(probabilities: Tensor, confidence: float) -> Tensor:
    """(B, C, z, y, x) -> (B, 1, z, y, x) labels; `IGNORED` where the most likely class is background or unsure."""
    best, label = probabilities.max(1, keepdim=True)
    return label.masked_fill((best < confidence) | (label == 0), IGNORED)


def drop_attended(features: Tensor, low: float, high: float) -> Tensor:
    """Blank the cells that a network looks at most, in (B, C, z, y, x).

    Cells stay where their mean over the channels is below U(low, high) times the largest such mean of the sample.
    """
    attention = features.mean(1, keepdim=True)
    largest = attention.amax(dim=(1, 2, 3, 4), keepdim=True)
    return features * (attention < largest * _uniform(largest.shape, low, high, features))


def add_feature_noise(features: Tensor, strength: float) -> Tensor:
    """Multiply every value by 1 + U(-strength, strength)."""
    return features * (1 + _uniform(features.shape, -strength, strength, features))


def perturbed(skips: list[Tensor], settings: SemiSupervision) -> list[Tensor]:
    """Encoder features (B, C, z, y, x), finest first, the deepest ``settings.perturbed_skips`` of them perturbed."""
    first = max(0, len(skips) - settings.perturbed_skips)
    changed = [_perturb(features, settings) for features in skips[first:]]
    return [*skips[:first], *changed]


def _perturb(features: Tensor, settings: SemiSupervision) -> Tensor:
    features = F.dropout3d(features, settings.dropout)
    features = drop_attended(features, *settings.attention_threshold)
    return add_feature_noise(features, settings.feature_noise)


def _uniform(shape: torch.Size, low: float, high: float, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(low, high)
