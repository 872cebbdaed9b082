"""The part of the trainers that looks after memory, time and the curves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from umamba2.challenges.recipe import Stage
from umamba2.engine.network import resolve_precision
from umamba2.scans.memory import available
from umamba2.training.footprint import duration, free_bytes, peak_bytes, training_bytes
from umamba2.training.loading import DataLoading
from umamba2.training.workers import GB, TooLittle, in_words


class Watching(DataLoading):
    """Says what a training will take and has taken, and how long it will go on."""

    stages: list[Stage]
    full_precision: bool
    momenta = 1  # numbers that the optimizer keeps of each weight
    step_ends: list[float]  # when the steps of this epoch ended, in seconds

    def set_length(self, stages: Sequence[Stage], steps: int) -> None:
        """Set how long to train; a dry run does two steps of each stage, and remembers what there would be to do.

        Args:
            stages: One after the other.
            steps: Of the optimizer in an epoch.
        """
        self.asked = [(stage.epochs, steps) for stage in stages]
        validation = self.preset.validation_iterations
        if self.options.dry_run:
            stages, steps, validation = [replace(stage, epochs=1) for stage in stages], 2, 1
        self.stages, self.num_epochs = list(stages), sum(stage.epochs for stage in stages)
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = steps, validation

    def announce_memory(self) -> None:
        """Say what this training takes at least, and what is free. Raises TooLittle in a dry run if that is less."""
        patches = (self.batch_size, self.num_input_channels, *self.configuration_manager.patch_size)
        manager, classes = (self.plans_manager, self.configuration_manager), self.label_manager.num_segmentation_heads
        precision = resolve_precision("auto", self.device)
        half = None if self.full_precision or precision == torch.float32 else torch.bfloat16  # fp16 is as large
        needed = training_bytes(
            lambda: self.build_network_architecture(
                *manager, self.num_input_channels, classes, self.enable_deep_supervision
            ),
            self.loss,
            patches,
            self._get_deep_supervision_scales(),
            half,
            self.momenta,
        )
        free = free_bytes(self.device)
        said = f"memory: at least {needed / GB:.2f} GB for this training, {free / GB:.2f} GB free ({self.device.type})"
        there = sum(weight.nbytes for weight in self.network.parameters())  # of what is needed
        short = needed - there > free
        if short and self.options.dry_run:
            raise TooLittle(said)
        self.print_to_log_file(f"{said}: too little" if short else said)

    def validation_bytes(self) -> float:
        """What nnU-Net's validation after the training takes of the main memory at least: the scores of the largest
        case, in half precision."""
        _, cases = self.get_tr_and_val_datasets()
        voxels = max(math.prod(cases.load_case(case)[0].shape) for case in cases.identifiers)
        return float(2 * self.label_manager.num_segmentation_heads * voxels)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's, without ever a Dice of NaN, after which no checkpoint would be the best."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0
            super().on_validation_epoch_end(val_outputs)
        for name in ("mean_fg_dice", "ema_fg_dice"):
            curve = self.logger.get_value(name, step=None)
            if math.isnan(curve[-1]):  # the patches show no class, and none was found
                curve[-1] = curve[-2] if len(curve) > 1 else 0.0

    def on_epoch_end(self) -> None:
        """nnU-Net's, and how long the rest will take; in a dry run, how long this stage would."""
        super().on_epoch_end()
        if self.options.dry_run:
            done = self.current_epoch - 1
            epochs, steps = self.asked[done]
            step = self.step_ends[-1] - self.step_ends[-2]  # the first one warms up
            whole = f"{epochs} epochs of {steps} steps about {duration(epochs * steps * step)}"
            which = "second stage (--finetune): " if done else ""
            self.print_to_log_file(f"dry run: {which}a step takes {step:.2f} s, {whole}")
            return
        starts, ends = (np.array(self.logger.get_value(f"epoch_{x}_timestamps", step=None)) for x in ("start", "end"))
        left = self.num_epochs - self.current_epoch
        if left:
            self.print_to_log_file(f"time left: {duration(left * float(np.median((ends - starts)[-10:])))}")

    def on_train_end(self) -> None:
        """nnU-Net's, and how much memory it took; after a dry run, what that means.

        Raises:
            TooLittle: In a dry run, if the validation afterwards would not fit.
        """
        super().on_train_end()
        most = f"{peak_bytes(self.device) / GB:.2f} GB at most ({self.device.type})"
        if not self.options.dry_run:
            self.print_to_log_file(f"memory: {most}")
        elif self.local_rank == 0:
            needed, free = self.validation_bytes(), available()
            if needed > free:
                wanted = f"expected at least {in_words(needed)} for the validation after the training"
                raise TooLittle(f"memory: found {in_words(free)} free, {wanted}")
            self.print_to_log_file(f"dry run: this machine suffices; memory: {most}")
