"""The trainer for few labelled and many unlabelled scans (STSR), see `umamba2.training.semi_supervised`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
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
    drawn = 0  # micro-batches

    def initialize(self) -> None:
        """As for supervised training, the losses of unlabelled patches, and the hook that perturbs features."""
        super().initialize()
        # DDP wants every pass that has a gradient to go through its own forward; a hook reaches the features there.
        self.bare_network.encoder.register_forward_hook(torch.compiler.disable(self._perturb))
        weights = self.loss.weight_factors  # of the resolutions
        self.consistency_loss = DeepSupervisionWrapper(semi_supervised.consistency, weights)
        self.pseudo_loss = DeepSupervisionWrapper(self._dice_and_entropy(semi_supervised.IGNORED), weights)

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

    def done(self, iteration: int = 0) -> float:
        """The fraction of the present stage that is over after some iterations of an epoch."""
        stage, epoch = stage_at(self.stages, self.current_epoch)
        return (epoch + iteration / self.num_iterations_per_epoch) / self.stages[stage].epochs

    # --- data -------------------------------------------------------------------------------------------------------

    def _unlabelled_cases(self) -> list[str]:
        chosen = self._folds() if self.fold == "all" else [self._folds()[self.fold]]
        cases = sorted({case for split in chosen for case in split.get("unlabeled", ())})
        if not cases:
            raise InputError(f"{self._splits_file}: found no unlabeled cases for fold {self.fold}, expected some")
        return cases

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Batches for training, of labelled and of unlabelled cases, and for validation."""
        folder, cases = Path(f"{self.preprocessed_dataset_folder}{UNLABELLED_SUFFIX}"), self._unlabelled_cases()
        self._check_cases(folder, cases)  # before any process makes patches
        labelled, validation = super().get_dataloaders()
        transforms, initial_patch = self._training_transforms()
        dataset = self.dataset_class(str(folder), cases)
        patch = self.configuration_manager.patch_size
        versions = augment.weak_and_strong(transforms, self.unlabelled.strong, patch)
        unlabelled = self._batches(dataset, initial_patch, versions, 2)
        self.kinds = labelled, unlabelled
        return self._mixed(), validation

    def _mixed(self) -> Iterator[Batch]:
        labelled, unlabelled = self.kinds
        while True:
            yield {**next(unlabelled), "unlabelled": True} if self._is_unlabelled() else next(labelled)

    def _is_unlabelled(self) -> bool:
        """Whether the next micro-batch is an unlabelled one; in a dry run, every second is."""
        self.drawn += 1
        if self.options.dry_run:
            return self.drawn % 2 == 0
        probability = semi_supervised.unlabelled_probability(self.unlabelled, self.done())
        return bool(self.shared_rng.random() < probability)

    def on_train_end(self) -> None:
        """End the processes that make patches."""
        self.dataloader_train, unlabelled = self.kinds
        super().on_train_end()
        if isinstance(unlabelled, NonDetMultiThreadedAugmenter):
            unlabelled._finish()

    # --- one step ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Start an epoch's random numbers anew; some are the same in every process, for the kind of each step."""
        super().on_train_epoch_start()
        # The processes wait for each other where the Dice is that of a batch, so theirs are of one kind.
        self.shared_rng = np.random.default_rng([self.options.seed, self.current_epoch])

    def _weight(self, batch: Batch) -> float:
        # The mean over micro-batches and processes undone: the released code divides supervised losses only.
        processes = dist.get_world_size() if self.is_ddp else 1
        whole = "unlabelled" in batch and not self.unlabelled.averaged
        return float(self.accumulate * processes) if whole else 1.0

    def _logged(self, batches: list[Batch], values: list[float]) -> dict[Any, Any]:
        kinds = ["unlabelled" in batch for batch in batches]
        return {kind: [value for value, other in zip(values, kinds) if other == kind] for kind in (False, True)}

    def on_train_epoch_end(self, train_outputs: list[dict[Any, Any]]) -> None:
        """Log the supervised loss as the curve, and the other, which it cannot be compared with, as a line."""
        labelled, unlabelled = ([v for output in train_outputs for v in output[kind]] for kind in (False, True))
        if unlabelled:
            self.print_to_log_file(f"unlabelled batches: {len(unlabelled)}, mean loss {np.mean(unlabelled):.4f}")
        super().on_train_epoch_end([{"loss": np.array(np.mean(labelled or unlabelled))}])

    def loss_of(self, batch: Batch) -> tuple[Tensor, Callable[[], str]]:
        """The loss of a micro-batch of either kind, and what says which part of it is not finite."""
        if "unlabelled" not in batch:
            return super().loss_of(batch)
        settings = self.unlabelled
        clean, strong = self._to_device(batch["data"]).chunk(2, dim=1)
        likely = settings.pseudo_labels
        if self.options.dry_run:  # the last of its stage, if there are to be some
            likely = float(likely > 0 and self.iteration > 0)
        if self.shared_rng.random() < likely:
            outputs = self._run(self.network, clean, batch["target"])
            labels = semi_supervised.pseudo_labels(outputs[0].detach(), settings.confidence)
            loss = self.pseudo_loss(outputs, semi_supervised.at_resolutions(labels, outputs))
            return settings.pseudo_weight * loss, lambda: "the pseudo-label term"
        with torch.no_grad():
            wanted = [semi_supervised.probabilities_of(o) for o in self._run(self.bare_network, clean, batch["target"])]
        self.perturbing = True
        try:
            outputs = self._run(self.network, strong, batch["target"])
        finally:
            self.perturbing = False
        weight = semi_supervised.consistency_weight(settings, self.done(self.iteration))
        return weight * self.consistency_loss(outputs, wanted), lambda: "the consistency term"
