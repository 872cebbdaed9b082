"""Learning from unlabelled scans, as U-Mamba2-SSL does (arXiv 2509.20154): the formulas, each on its own.

Either the network sees an unlabelled patch twice, as it is, without gradient, and with changed intensities and
perturbed features, and the second answer must match the first (consistency); or it sees the patch once, as it is, and
learns what it is sure of (pseudo-labels). Both at every resolution of deep supervision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def probabilities_of(logits: Tensor) -> Tensor:
    """The softmax of (B, C, z, y, x) logits in full precision: a half-precision one is sure of more than it should."""
    return logits.float().softmax(1)


def consistency(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Mean squared difference between the softmax of ``logits`` and ``probabilities``, both (B, C, z, y, x)."""
    return F.mse_loss(probabilities_of(logits), probabilities)


def pseudo_labels(logits: Tensor, confidence: float) -> Tensor:
    """What a network is sure of.

    Args:
        logits: (B, C, z, y, x).
        confidence: The probability from which on it is sure.

    Returns:
        Labels (B, 1, z, y, x), `IGNORED` where the most likely class is background or unsure.
    """
    best, label = probabilities_of(logits).max(1, keepdim=True)
    return label.masked_fill((best < confidence) | (label == 0), IGNORED)


def at_resolutions(labels: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Labels (B, 1, z, y, x) on the grids of a network's outputs, finest first, by nearest voxels."""
    return [F.interpolate(labels.float(), output.shape[2:], mode="nearest").long() for output in outputs]


def attended(features: Tensor, low: float, high: float) -> Tensor:
    """Which cells a network looks at most.

    Args:
        features: (B, C, z, y, x).
        low: Of the threshold, a fraction of the sample's largest mean over the channels, drawn between low and high.
        high: Of the threshold.

    Returns:
        (B, 1, z, y, x), true where the mean over the channels is not below the threshold.
    """
    attention = features.mean(1, keepdim=True)
    largest = attention.amax(dim=(1, 2, 3, 4), keepdim=True)
    return attention >= largest * _uniform(largest.shape, low, high, features)


def add_feature_noise(features: Tensor, strength: float) -> Tensor:
    """Multiply every value by 1 + U(-strength, strength)."""
    return features * (1 + _uniform(features.shape, -strength, strength, features))


def perturbed(skips: list[Tensor], settings: SemiSupervision) -> list[Tensor]:
    """Encoder features (B, C, z, y, x), finest first, all but the first ``settings.kept_skips`` perturbed."""
    kept = settings.kept_skips
    return [*skips[:kept], *(_perturb(features, settings) for features in skips[kept:])]


def _perturb(features: Tensor, settings: SemiSupervision) -> Tensor:
    blank = attended(features, *settings.attention_threshold)  # before the dropout changes what is attended
    features = F.dropout3d(features, settings.dropout).masked_fill(blank, 0)
    return add_feature_noise(features, settings.feature_noise)


def _uniform(shape: torch.Size, low: float, high: float, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(low, high)
