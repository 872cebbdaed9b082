"""Losses that know anatomy: part of a label goes to the structures it is easily mistaken for.

A voxel of a tooth is also a little its neighbours in the arch and its pulp, a canal a little its own continuation. The
targets are soft in the Dice and in the cross-entropy alike (arXiv 2509.12069, section on label smoothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, nn

from umamba2.labels import FDI_TEETH, MULTICLASS, STRUCTURES

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
    ``table`` (C, C) from `soft_targets`; ``weights`` (C,) of the cross-entropy, which is averaged over voxels.
    """

    table: Tensor
    weights: Tensor

    def __init__(self, table: Tensor, weights: Tensor, batch_dice: bool, ddp: bool):
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("weights", weights)
        self.soft_dice = MemoryEfficientSoftDiceLoss(softmax_helper_dim1, batch_dice, do_bg=False, smooth=0, ddp=ddp)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.dc(logits, target) + self.ce(logits, target)

    def dc(self, logits: Tensor, target: Tensor) -> Tensor:
        """Minus the mean soft Dice of the foreground classes."""
        return self.soft_dice(logits, self._soft(target))

    def ce(self, logits: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy, averaged over voxels."""
        return nn.functional.cross_entropy(logits, self._soft(target), self.weights)

    def _soft(self, target: Tensor) -> Tensor:
        # (B, 1, z, y, x) -> (B, C, z, y, x), as a view: channels vary fastest in memory, which no reader minds.
        return self.table[target[:, 0].long()].movedim(-1, 1)


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
