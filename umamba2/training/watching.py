"""The part of the trainers that looks after memory, time and the curves."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from umamba2.challenges import Challenge
from umamba2.engine.network import resolve_precision
from umamba2.training.footprint import duration, free_bytes, peak_bytes, training_bytes
from umamba2.training.loading import DataLoading
from umamba2.training.options import NNUNET_DEFAULTS
from umamba2.training.workers import GB


class Watching(DataLoading):
    """Says what a training will take and has taken, and how long it will go on."""

    challenge: Challenge | None
    full_precision: bool
    step_ends: list[float]  # when the steps of this epoch ended, in seconds

    def announce_memory(self) -> None:
        """Say what this training takes at least, and what is free."""
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
        )
        free = free_bytes(self.device)
        said = f"memory: at least {needed / GB:.2f} GB for this training, {free / GB:.2f} GB free ({self.device.type})"
        self.print_to_log_file(f"{said}: too little" if needed > free else said)

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
        """nnU-Net's, and how long the rest will take."""
        super().on_epoch_end()
        starts, ends = (np.array(self.logger.get_value(f"epoch_{x}_timestamps", step=None)) for x in ("start", "end"))
        left = self.num_epochs - self.current_epoch
        if left and not self.options.dry_run:
            self.print_to_log_file(f"time left: {duration(left * float(np.median((ends - starts)[-10:])))}")

    def on_train_end(self) -> None:
        """nnU-Net's, and how much memory it took; after a dry run, how long the whole would take."""
        super().on_train_end()
        most = f"{peak_bytes(self.device) / GB:.2f} GB at most ({self.device.type})"
        self.print_to_log_file(f"memory: {most}")
        if self.options.dry_run:
            recipe = self.challenge.recipe if self.challenge else NNUNET_DEFAULTS
            whole = replace(self.options, dry_run=False).applied_to(recipe)
            epochs = sum(stage.epochs for stage in (whole.train, whole.finetune) if stage)
            step = self.step_ends[-1] - self.step_ends[-2]
            time = f"a step takes {step:.2f} s, the {epochs} epochs about {duration(epochs * whole.iterations * step)}"
            self.print_to_log_file(f"dry run: this machine suffices; {time}; memory: {most}")
