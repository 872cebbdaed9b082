"""Learning rates by epoch, as plain functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from umamba2.challenges.recipe import Pretraining, Stage


def stage_at(stages: Sequence[Stage], epoch: int) -> tuple[int, int]:
    """Which stage an epoch belongs to.

    Args:
        stages: Trained one after the other.
        epoch: Counted from the start of the first.

    Returns:
        The number of the stage, and the epoch counted from its start.
    """
    for index, stage in enumerate(stages[:-1]):
        if epoch < stage.epochs:
            return index, epoch
        epoch -= stage.epochs
    return len(stages) - 1, epoch


def stage_rate(stage: Stage, epoch: int) -> float:
    """The learning rate of an epoch of a stage: nnU-Net's polynomial, or a line that ends at ``final_rate``."""
    if stage.schedule == "poly":
        return stage.learning_rate * float((1 - epoch / stage.epochs) ** 0.9)
    done = epoch / max(1, stage.epochs - 1)
    return stage.learning_rate + (stage.final_rate - stage.learning_rate) * done


def pretraining_rate(settings: Pretraining, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch of pretraining: a straight line up, then half a cosine down.

    Args:
        settings: The rates, and how many epochs the line takes.
        epoch: Which.
        epochs: Of how many.
    """
    warmup = min(settings.warmup_epochs, epochs - 1)
    if epoch < warmup:
        return settings.warmup_rate + (settings.learning_rate - settings.warmup_rate) * epoch / warmup
    cosine = (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2
    return settings.final_rate + (settings.learning_rate - settings.final_rate) * cosine


class Rates:
    """What nnU-Net's trainer expects of a scheduler: ``step(epoch)`` sets the optimizer's learning rate."""

    def __init__(self, optimizer: Optimizer, rate: Callable[[int], float]):
        self.optimizer, self.rate = optimizer, rate

    def step(self, epoch: int) -> None:
        """Set the learning rate of an epoch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(epoch)
