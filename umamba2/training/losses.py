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

from umamba2.anatomy.structures import Structure, by_name

# A canal with its continuation on the same side, and the two sinuses, which are one structure in two halves.
_ALIKE = (
    ("left inferior alveolar canal", "left mandibular incisive canal"),
    ("right inferior alveolar canal", "right mandibular incisive canal"),
    ("left maxillary sinus", "right maxillary sinus"),
)


def neighbours(structures: Sequence[Structure]) -> dict[int, tuple[int, ...]]:
    """The training ids that each training id is easily mistaken for; canals, sinuses and teeth have some."""
    named, teeth = by_name(structures), {s.fdi: s.training for s in structures if s.fdi}
    pairs = [(named[a].training, named[b].training) for a, b in _ALIKE if a in named and b in named]
    for right, left in ((1, 2), (4, 3)):  # quadrants: the upper and the lower arch, from wisdom tooth to wisdom tooth
        arch = [10 * right + i for i in range(8, 0, -1)] + [10 * left + i for i in range(1, 9)]
        pairs += [(teeth[a], teeth[b]) for a, b in pairwise(arch) if a in teeth and b in teeth]
    found: dict[int, list[int]] = {}
    for one, other in pairs:
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    for tooth in teeth.values():
        found.setdefault(tooth, []).extend(s.training for s in structures if s.group == "pulp")
    return {label: tuple(sorted(others)) for label, others in found.items() if others}


def soft_targets(structures: Sequence[Structure], share: float) -> Tensor:
    """What each label means to each class.

    Args:
        structures: The classes of a challenge.
        share: What is spread evenly over the neighbours of a label that has some.

    Returns:
        (classes, classes) with the background, a row for each label, whose entries sum to 1.
    """
    table = torch.eye(len(structures) + 1)
    for label, others in neighbours(structures).items():
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
    """Weights of the cross-entropy, (classes,).

    Args:
        classes: Number of classes, background included.
        weights: (training id, weight) of some; all others have 1.
    """
    table = torch.ones(classes)
    for label, weight in weights:
        table[label] = weight
    return table


def blame(data: Tensor, outputs: Sequence[Tensor], targets: Sequence[Tensor], loss: nn.Module) -> str:
    """Which part of a loss that is not finite is to blame: the input, the network, or one term at one resolution.

    Args:
        data: The batch, (B, C, z, y, x).
        outputs: The network's, finest first.
        targets: Labels, finest first.
        loss: nnU-Net's or `SoftDiceCE`, for one resolution.
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
