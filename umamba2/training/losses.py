"""Losses that know anatomy: part of a label goes to the structures it is easily mistaken for.

A voxel of a tooth is also a little its neighbours in the arch and its pulp, a canal a little its own continuation. The
targets are soft in the Dice and in the cross-entropy alike (arXiv 2509.12069, section on label smoothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor, nn

from umamba2.anatomy.structures import FDI_TEETH, MULTICLASS, STRUCTURES

PULP = 46
# Canals with their continuation on the same side, and the two sinuses, which are one structure in two halves.
_PAIRS = ((3, 43), (4, 44), (5, 6))


def neighbours() -> dict[int, tuple[int, ...]]:
    """Training ids that the multi-class labels are easily mistaken for: teeth, canals and sinuses have some."""
    training = {s.platform: s.training for s in STRUCTURES[MULTICLASS] if s.platform in FDI_TEETH}
    found: dict[int, list[int]] = {label: [] for pair in _PAIRS for label in pair}
    for one, other in _PAIRS:
        found[one].append(other)
        found[other].append(one)
    for right, left in ((1, 2), (4, 3)):  # quadrants: the upper and the lower arch, from wisdom tooth to wisdom tooth
        arch = [10 * right + i for i in range(8, 0, -1)] + [10 * left + i for i in range(1, 9)]
        teeth = [training[fdi] for fdi in arch]
        for tooth in teeth:
            found[tooth] = []
        for one, other in pairwise(teeth):
            found[one].append(other)
            found[other].append(one)
        for tooth in teeth:
            found[tooth].append(PULP)
    return {label: tuple(sorted(others)) for label, others in found.items()}


def soft_targets(classes: int, share: float) -> Tensor:
    """What a label means to each class, (classes, classes): row = label, entries sum to 1.

    ``share`` of a label with neighbours is spread evenly over them; labels without any stay hard.
    """
    table = torch.eye(classes)
    for label, others in neighbours().items():
        table[label, label] = 1 - share
        table[label, list(others)] = share / len(others)
    return table


class SoftDiceCE(nn.Module):
    """Soft Dice without background and without smoothing plus weighted cross-entropy, both against soft targets.

    ``loss(logits, target)``: (B, C, z, y, x) and (B, 1, z, y, x) labels -> a number; the Dice part is -1 at best.
    ``table`` (C, C) from `soft_targets`; ``weights`` (C,) of the cross-entropy, which is averaged over voxels. With
    ``batch_dice`` the Dice is that of all samples (with ``ddp``: of all processes) together, else their mean.

    All that counts of the voxels of one label are sums over them, because they share a target. So soft targets are
    never made: everything follows from one (C, C) matrix of sums, label by class.
    """

    table: Tensor
    weights: Tensor

    def __init__(self, table: Tensor, weights: Tensor, batch_dice: bool, ddp: bool):
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("weights", weights)
        self.batch_dice, self.ddp = batch_dice, ddp

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        scores, labels = self._log_probabilities(logits), self._one_hot(target)
        return self._dice(scores, labels) + self._cross_entropy(scores, labels)

    def dc(self, logits: Tensor, target: Tensor) -> Tensor:
        """Minus the mean soft Dice of the foreground classes."""
        return self._dice(self._log_probabilities(logits), self._one_hot(target))

    def ce(self, logits: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy, averaged over voxels."""
        return self._cross_entropy(self._log_probabilities(logits), self._one_hot(target))

    def _dice(self, scores: Tensor, labels: Tensor) -> Tensor:
        sums, counts = _sums(labels, scores.exp()), labels.sum(1)
        overlap, predicted = (self.table * sums).sum(1), sums.sum(1)
        wanted = (self.table * counts[..., None]).sum(1)
        if self.batch_dice:
            parts = (overlap, predicted, wanted)
            if self.ddp:
                parts = tuple(AllGatherGrad.apply(part).sum(0) for part in parts)
            overlap, predicted, wanted = (part.sum(0) for part in parts)
        dice = 2 * overlap / (predicted + wanted).clamp_min(1e-8)
        return -dice[..., 1:].mean()

    def _cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        voxels = labels.shape[0] * labels.shape[1]
        return -(self.weights * self.table * _sums(labels, scores)).sum() / voxels

    @staticmethod
    def _log_probabilities(logits: Tensor) -> Tensor:
        """(B, voxels, C), fp32; without a copy if the logits are channels-last."""
        return logits.flatten(2).mT.float().log_softmax(-1)

    def _one_hot(self, target: Tensor) -> Tensor:
        """(B, voxels, C), fp32."""
        return torch.eye(len(self.table), device=target.device)[target.flatten(1).long()]


def _sums(labels: Tensor, values: Tensor) -> Tensor:
    """The values of every label's voxels, added up: (B, voxels, C) twice -> (B, label, class)."""
    with torch.autocast(values.device.type, enabled=False):  # which would add up in half precision
        return labels.mT @ values


def class_weights(classes: int, weights: Sequence[tuple[int, float]]) -> Tensor:
    """(classes,) weights: those listed as (training id, weight), 1 for all others."""
    table = torch.ones(classes)
    for label, weight in weights:
        table[label] = weight
    return table


def blame(data: Tensor, outputs: Sequence[Tensor], targets: Sequence[Tensor], loss: nn.Module) -> str:
    """Which part of a loss that is not finite is to blame: the input, the network, or one term at one resolution.

    ``outputs`` and ``targets`` finest first; ``loss`` is nnU-Net's or `SoftDiceCE`, one resolution at a time.
    """
    with torch.no_grad():
        if not data.isfinite().all():
            return "the input"
        for level, output in enumerate(outputs):
            if not output.isfinite().all():
                return f"the network's output (resolution {level})"
        names = (("dc", "Dice"), ("ce", "cross-entropy"))
        for level, (output, target) in enumerate(zip(outputs, targets)):
            for attribute, name in names:
                term = getattr(loss, attribute, None)
                if term is not None and not np.isfinite(float(term(output, target))):
                    return f"the {name} term (resolution {level})"
    return "the loss"
