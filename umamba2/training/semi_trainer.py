"""The trainer for few labelled and many unlabelled scans (STSR), see `umamba2.training.semi_supervised`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from umamba2.challenges.recipe import SemiSupervision
from umamba2.errors import InputError
from umamba2.training import augment, semi_supervised
from umamba2.training.loading import Batch
from umamba2.training.nnunet import UNLABELLED_SUFFIX
from umamba2.training.schedules import stage_at
from umamba2.training.trainer import UMamba2Trainer


class UMamba2SemiSupervisedTrainer(UMamba2Trainer):
    """Supervised training with steps on unlabelled scans in between.

    The unlabelled scans are those that the splits file lists as ``unlabeled``.
    """

    perturbing = False

    def initialize(self) -> None:
        """As for supervised training, and the hook that perturbs features."""
        super().initialize()
        # DDP wants every pass that has a gradient to go through its own forward; a hook reaches the features there.
        self.bare_network.encoder.register_forward_hook(torch.compiler.disable(self._perturb))
        self.pseudo_loss = DC_and_CE_loss(
            {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
            {},
            ignore_label=semi_supervised.IGNORED,
            dice_class=MemoryEfficientSoftDiceLoss,
        )

    def _perturb(self, module: nn.Module, inputs: Any, skips: list[Tensor]) -> list[Tensor]:
        return semi_supervised.perturbed(skips, self.unlabelled) if self.perturbing else skips

    @property
    def unlabelled(self) -> SemiSupervision:
        """The settings of the present stage."""
        stage, _ = stage_at(self.stages, self.current_epoch)
        settings = self.preset.unlabelled_finetune if stage else self.preset.unlabelled
        if settings is None:
            name = self.plans_manager.dataset_name
            raise InputError(f"{name}: found no settings for unlabelled scans, expected a preset with some")
        return settings

    @property
    def done(self) -> float:
        """The fraction of the present stage that is over."""
        stage, epoch = stage_at(self.stages, self.current_epoch)
        return (epoch + self.iteration / self.num_iterations_per_epoch) / self.stages[stage].epochs

    # --- data -------------------------------------------------------------------------------------------------------

    def _unlabelled_cases(self) -> list[str]:
        chosen = self._folds() if self.fold == "all" else [self._folds()[self.fold]]
        cases = sorted({case for split in chosen for case in split.get("unlabeled", ())})
        if not cases:
            raise InputError(f"{self._splits_file}: found no unlabeled cases for fold {self.fold}, expected some")
        return cases

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Batches for training, of labelled and of unlabelled cases, and for validation."""
        labelled, validation = super().get_dataloaders()
        transforms, initial_patch = self._training_transforms()
        folder, cases = Path(f"{self.preprocessed_dataset_folder}{UNLABELLED_SUFFIX}"), self._unlabelled_cases()
        self._check_cases(folder, cases)
        dataset = self.dataset_class(str(folder), cases)
        unlabelled = self._batches(dataset, initial_patch, augment.weak_and_strong(transforms), 2)
        return _Mixed(labelled, unlabelled, self._is_unlabelled_step), validation

    def _is_unlabelled_step(self) -> bool:
        probability = semi_supervised.unlabelled_probability(self.unlabelled, self.done)
        return bool(self.shared_rng.random() < probability)

    def on_train_end(self) -> None:
        """End the processes that make patches."""
        mixed = self.dataloader_train
        self.dataloader_train = mixed.labelled
        super().on_train_end()
        if isinstance(mixed.unlabelled, NonDetMultiThreadedAugmenter):
            mixed.unlabelled._finish()

    # --- one step ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Start an epoch's random numbers anew; some are the same in every process, for the kind of each step."""
        super().on_train_epoch_start()
        self.shared_rng = np.random.default_rng([self.options.seed, self.current_epoch])

    def train_step(self, batch: Batch) -> dict[str, Any]:
        """One optimizer step, whose micro-batches are of one kind."""
        self.dataloader_train.stay = True
        try:
            return {**super().train_step(batch), "unlabelled": "unlabelled" in batch}
        finally:
            self.dataloader_train.stay = False

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the supervised loss as the curve, and the other, which it cannot be compared with, as a line."""
        kinds = {kind: [o for o in train_outputs if o["unlabelled"] == kind] for kind in (False, True)}
        if kinds[True]:
            mean = np.mean([output["loss"] for output in kinds[True]])
            self.print_to_log_file(f"unlabelled steps: {len(kinds[True])}, mean loss {mean:.4f}")
        super().on_train_epoch_end([{"loss": output["loss"]} for output in kinds[False] or train_outputs])

    def loss_of(self, batch: Batch) -> tuple[Tensor, Callable[[], str]]:
        """The loss of a micro-batch of either kind, and what says which part of it is not finite."""
        if "unlabelled" not in batch:
            return super().loss_of(batch)
        settings = self.unlabelled
        weak, strong = self._to_device(batch["data"]).chunk(2, dim=1)
        with torch.no_grad():
            probabilities = self._run(self.bare_network, weak, batch["target"])[0].float().softmax(1)
        self.perturbing = True
        try:
            outputs = self._run(self.network, strong, batch["target"])
        finally:
            self.perturbing = False
        if self.shared_rng.random() < settings.pseudo_labels:
            target = semi_supervised.pseudo_labels(probabilities, settings.confidence)
            name, loss = "pseudo-label", settings.pseudo_weight * self.pseudo_loss(outputs[0], target)
        else:
            weight = semi_supervised.consistency_weight(settings, self.done)
            name, loss = "consistency", weight * semi_supervised.consistency(outputs[0], probabilities)
        if self.is_ddp:  # which insists on a gradient for every weight, those of the coarser outputs too
            loss = loss + sum(0 * output.float().mean() for output in outputs[1:])
        return loss, lambda: f"the {name} term"


class _Mixed:
    """Labelled batches, or unlabelled ones where ``wanted`` says so; the kind stays while ``stay`` is set."""

    def __init__(self, labelled: Iterator[Batch], unlabelled: Iterator[Batch], wanted: Callable[[], bool]):
        self.labelled, self.unlabelled, self.wanted = labelled, unlabelled, wanted
        self.stay = self.is_unlabelled = False

    def __iter__(self) -> _Mixed:
        return self

    def __next__(self) -> Batch:
        if not self.stay:
            self.is_unlabelled = self.wanted()
        return {**next(self.unlabelled), "unlabelled": True} if self.is_unlabelled else next(self.labelled)
