"""The trainers that stock nnU-Net finds through `nnUNet_extTrainer`.

What they do is decided by the preset of the dataset's challenge and the run's `Options`; nnU-Net's loop, logs, plots,
checkpoints and validation stay as they are.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from umamba2.anatomy.structures import left_right_pairs
from umamba2.challenges.recipe import Recipe, SemiSupervision, Stage
from umamba2.engine.network import resolve_precision
from umamba2.errors import InputError
from umamba2.models.folder import pairs_by_name
from umamba2.models.network import build_network
from umamba2.models.weights import read_checkpoint
from umamba2.training import augment, losses, semi_supervised
from umamba2.training.clicks import batch_clicks
from umamba2.training.dataset import read_splits
from umamba2.training.options import Options, challenge_for
from umamba2.training.presets import UNLABELLED_SUFFIX
from umamba2.training.pretrained import challenge_of, read_weights, transfer
from umamba2.training.schedules import Rates, stage_at, stage_rate
from umamba2.training.workers import check_disk

# For datasets that state no challenge: nnU-Net's own settings.
PLAIN = Recipe(network="", patch=(0, 0, 0), train=Stage(1000, 0.01), accumulate=1)
RECOVERIES = 3  # from a loss that is not finite, per run


class NotFinite(Exception):
    """A loss or gradient that is NaN or infinite; the message says which, when and on what."""


class UMamba2Trainer(nnUNetTrainer):
    """Supervised training of any network of the family, with clicks if the preset has some."""

    is_ddp: bool
    network: Any
    dataset_class: Any
    dataloader_train: Any
    inference_allowed_mirroring_axes: tuple[int, ...] | None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature, which it inspects)
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.is_ddp and device.type == "cpu":  # nnU-Net takes it for granted that several processes mean CUDA
            self.device, self.grad_scaler = device, None
        if self.label_manager.has_regions or self.label_manager.has_ignore_label or self.is_cascaded:
            raise InputError(
                f"{self.plans_manager.dataset_name}: found regions, ignored voxels or a cascade, expected labels"
            )
        self.options = Options.from_environment()
        self.challenge = challenge_for(dataset_json.get("challenge"), self.options)
        self.preset = self.options.applied_to(self.challenge.recipe if self.challenge else PLAIN)
        self.pairs = self._left_right_pairs()
        self.left_right_axis = list(self.plans_manager.transpose_forward).index(2)
        self.stages = [stage for stage in (self.preset.train, self.preset.finetune) if stage]
        self.num_epochs = sum(stage.epochs for stage in self.stages)
        self.initial_lr = self.preset.train.learning_rate
        self.weight_decay, self.clip = self.preset.weight_decay, self.preset.clip
        self.num_iterations_per_epoch = self.preset.iterations
        self.num_val_iterations_per_epoch = self.options.validation_iterations
        self.save_every = self.options.save_every
        self.accumulate = self.preset.accumulate  # micro-batches of a step and process, see below
        self.full_precision = self.options.fp32
        self.iteration = self.recoveries = 0

    def _left_right_pairs(self) -> tuple[tuple[int, int], ...]:
        labels, challenge = self.dataset_json["labels"], self.challenge
        if challenge is None:
            return pairs_by_name(labels)
        if sorted(labels.values()) != list(range(challenge.num_classes)):
            found = f"{len(labels)} labels up to {max(labels.values())}"
            expected = f"0 to {challenge.num_classes - 1} ({challenge.name})"
            raise InputError(f"{self.plans_manager.dataset_name}: found {found}, expected {expected}")
        return left_right_pairs(challenge.structures) if self.preset.swap_sides else ()

    # --- building ---------------------------------------------------------------------------------------------------

    @property
    def bare_network(self) -> nn.Module:
        """The network without what DDP and torch.compile wrap around it."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def initialize(self) -> None:
        # As for one process first: nnU-Net would ask for the GPU of this rank, which a CPU does not have.
        distributed, self.is_ddp = self.is_ddp, False
        torch.manual_seed(self.options.seed)
        super().initialize()
        self.is_ddp = distributed
        if self.device.type == "cpu":  # whose kernels are fastest in this layout; activations follow the weights
            self.bare_network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if self.options.pretrained:
            source = self.options.pretrained
            same_task = self.challenge is not None and challenge_of(source) == self.challenge.name
            done = transfer(self.bare_network, read_weights(source), same_task)
            done.report(self.print_to_log_file, source)
        if distributed:
            self._set_batch_size_and_oversample()
            gpu = [self.local_rank] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.network, device_ids=gpu)
            self.loss = self._build_loss()
        if self.local_rank == 0:  # the best, the last, and the one that replaces either; each with a momentum
            there = len(list(Path(self.output_folder).glob("checkpoint_*.pth")))
            each = 2 * sum(weight.nbytes for weight in self.bare_network.parameters())
            check_disk(Path(self.output_folder), each * max(1, 3 - there), "the checkpoints")

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        network = build_network(
            configuration_manager.network_arch_class_name,
            {"patch_size": configuration_manager.patch_size, **configuration_manager.network_arch_init_kwargs},
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        network.apply(network.initialize)
        if network.variant.takes_clicks:
            # Every number of clicks would be compiled anew, for a layer that costs next to nothing.
            network.mamba_layer.forward = torch.compiler.disable(network.mamba_layer.forward)  # type: ignore[method-assign]
        return network

    def _set_batch_size_and_oversample(self) -> None:
        """Share a step's patches among processes and micro-batches, never more at once than the plans say."""
        planned = self.configuration_manager.batch_size
        step, processes = self._patches_per_step(), dist.get_world_size() if self.is_ddp else 1
        if step % processes:
            raise InputError(f"GPUs: found {processes}, expected a divisor of the {step} patches of a step")
        share = step // processes
        self.batch_size = math.gcd(share, planned)
        self.accumulate = share // self.batch_size
        # nnU-Net's other way rounds the share of patches with foreground, which makes none of a batch of one.
        self.probabilistic_oversampling = self.is_ddp or self.batch_size == 1

    def _patches_per_step(self) -> int:
        return self.configuration_manager.batch_size * self.preset.accumulate

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.initial_lr,
            weight_decay=self.weight_decay,
            momentum=self.preset.momentum,
            nesterov=True,
        )
        return optimizer, Rates(optimizer, self._rate)

    def _rate(self, epoch: int) -> float:
        stage, epoch = stage_at(self.stages, epoch)
        return stage_rate(self.stages[stage], epoch)

    def _build_loss(self) -> Any:
        loss = super()._build_loss()  # with nnU-Net's weights for every resolution
        if self.challenge and (self.preset.soft_target or self.preset.class_weights):
            loss.loss = losses.SoftDiceCE(
                losses.soft_targets(self.challenge.structures, self.preset.soft_target),
                losses.class_weights(self.challenge.num_classes, self.preset.class_weights),
                self.configuration_manager.batch_dice,
                self.is_ddp,
            ).to(self.device)
        return loss

    # --- data -------------------------------------------------------------------------------------------------------

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy_2d, initial_patch, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        # Recorded in checkpoints. Mirroring along the left/right axis is only right with the labels swapped:
        # `umamba2 predict` does that, nnU-Net's own prediction does not.
        self.inference_allowed_mirroring_axes = self.preset.mirror_axes
        return rotation, dummy_2d, initial_patch, self.preset.mirror_axes

    def do_split(self) -> tuple[list[str], list[str]]:
        folds = self._folds()
        if self.fold != "all" and self.fold >= len(folds):  # nnU-Net would make one up
            raise InputError(f"fold {self.fold}: found {len(folds)} folds in {self._splits_file}, expected one of them")
        training, validation = super().do_split()
        if self.fold == "all" and len(training) < self.dataset_json["numTraining"]:  # else the splits name them
            raise InputError(
                f"{self.preprocessed_dataset_folder}: found {len(training)} cases, "
                f"expected {self.dataset_json['numTraining']} (`umamba2 preprocess`)"
            )
        self._check_preprocessed(self.preprocessed_dataset_folder, [*training, *validation])
        if not training or not validation:
            found = f"{len(training)} training and {len(validation)} validation cases"
            raise InputError(f"fold {self.fold}: found {found}, expected some of each")
        return training, validation

    @property
    def _splits_file(self) -> Path:
        return Path(self.preprocessed_dataset_folder_base, "splits_final.json")

    def _folds(self) -> list[dict]:
        """The folds of the splits file, or the five that nnU-Net makes where there is none."""
        return read_splits(self._splits_file) if self._splits_file.is_file() else [{}] * 5

    def _check_preprocessed(self, folder: str, keys: Sequence[str]) -> None:
        missing = sorted(set(keys) - set(self.dataset_class.get_identifiers(folder) if isdir(folder) else ()))
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise InputError(f"{folder}: found no {some}, expected all cases of the splits (`umamba2 preprocess`)")

    def get_dataloaders(self) -> tuple[Any, Any]:
        patch = self.configuration_manager.patch_size
        transforms, initial_patch = self._training_transforms()
        training, validation = self.get_tr_and_val_datasets()
        return (
            self._augmenter(training, initial_patch, transforms, 0),
            self._augmenter(validation, patch, self.get_validation_transforms(self._get_deep_supervision_scales()), 1),
        )

    def _training_transforms(self) -> tuple[Any, Sequence[int]]:
        """nnU-Net's training transforms with sided mirroring, and the patch size that they start from."""
        rotation, dummy_2d, initial_patch, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        transforms = self.get_training_transforms(
            self.configuration_manager.patch_size,
            rotation,
            self._get_deep_supervision_scales(),
            mirror_axes,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
        )
        return augment.swap_sides(transforms, self.left_right_axis, self.pairs), initial_patch

    def _augmenter(self, dataset: Any, size: Sequence[int], transforms: Any, number: int) -> Any:
        """Patches of a dataset without end, made as nnU-Net makes them; ``number`` tells one stream from another."""
        loader = nnUNetDataLoader(
            dataset,
            self.batch_size,
            size,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=transforms,
        )
        processes = get_allowed_n_proc_DA()
        if processes == 0:
            return SingleThreadedAugmenter(loader, None)
        if number:
            processes = max(1, processes // 2)
        # Without seeds, all workers would inherit and repeat the same random numbers of torch.
        augmenter = NonDetMultiThreadedAugmenter(
            loader,
            None,
            processes,
            num_cached=max(3, processes // 2),
            seeds=[self._seed(number, worker) for worker in range(processes)],
            pin_memory=self.device.type == "cuda",
            wait_time=0.002,
        )
        next(augmenter)  # start the workers
        return augmenter

    def _seed(self, *which: int) -> int:
        """A seed that depends on the run's, the epoch and this process, and on ``which`` use it is for."""
        entropy = [self.options.seed, self.current_epoch, self.local_rank, *which]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    # --- one step ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        # Every epoch starts its random numbers anew, so that a resumed run repeats what it lost.
        random.seed(self._seed(0))
        np.random.seed(self._seed(1))  # noqa: NPY002 (nnU-Net's loaders draw from it)
        torch.manual_seed(self._seed(2))
        self.rng = np.random.default_rng(self._seed(3))
        self.iteration = 0
        if self.current_epoch and stage_at(self.stages, self.current_epoch)[1] == 0:
            self.optimizer.state.clear()  # a stage is a training of its own
        self._last_good = _on_cpu((self.bare_network.state_dict(), self.optimizer.state_dict()))

    def train_step(self, batch: dict) -> dict:
        batches = [batch, *(next(self.dataloader_train) for _ in range(self.accumulate - 1))]
        try:
            loss = self._step(batches)
        except NotFinite as problem:
            self._recover(problem)
            try:
                loss = self._step(batches)
            except NotFinite as again:
                raise InputError(f"{again}, in full precision too, expected finite numbers") from None
        self.iteration += 1
        return {"loss": np.array(loss)}

    def _step(self, batches: list[dict]) -> float:
        """One optimizer step on the mean gradient of some micro-batches; returns their mean loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for number, batch in enumerate(batches, start=1):
            wait = self.is_ddp and number < len(batches)  # processes exchange their gradients once
            with self.network.no_sync() if wait else nullcontext():
                with self._autocast():
                    loss, explain = self.loss_of(batch)
                self._check(loss, explain, batch)
                share = loss / len(batches)
                (self.grad_scaler.scale(share) if self.grad_scaler else share).backward()
            total += float(loss.detach()) / len(batches)
        if self.grad_scaler:
            self.grad_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        if self.grad_scaler:
            self.grad_scaler.step(self.optimizer)  # leaves out steps whose gradient overflowed
            self.grad_scaler.update()
        else:
            self._check(norm, lambda: "the gradient", *batches)
            self.optimizer.step()
        return total

    def loss_of(self, batch: dict) -> tuple[Tensor, Callable[[], str]]:
        """The loss of a micro-batch, and what says which part of it is not finite."""
        data, target = self._to_device(batch["data"]), self._to_device(batch["target"])
        outputs = self._run(self.network, data, batch["target"])
        return self.loss(outputs, target), partial(losses.blame, data, outputs, target, self.loss.loss)

    def _run(self, network: Callable[..., Any], data: Tensor, target: Sequence[Tensor]) -> Any:
        """The network's answer to a batch, prompted with clicks on its target if it takes some."""
        prompt = (batch_clicks(target[0], self.preset.clicks, self.rng),) if self.preset.clicks else ()
        with torch.autocast("cuda", enabled=False) if self._forces_fp32() else nullcontext():
            return network(data, *prompt)

    def _forces_fp32(self) -> bool:
        return self.full_precision and self.device.type == "cuda"

    def _autocast(self) -> AbstractContextManager:
        """fp16 on GPUs, bf16 on CPUs that have it, unless full precision is asked for."""
        if self.full_precision or resolve_precision("auto", self.device) == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type)

    def _to_device(self, tensors: Any) -> Any:
        if isinstance(tensors, list):
            return [self._to_device(tensor) for tensor in tensors]
        return tensors.to(self.device, non_blocking=True)

    def validation_step(self, batch: dict) -> dict:
        network = self.network
        self.network = lambda data: self._run(network, data, batch["target"])
        try:
            return super().validation_step(batch)
        finally:
            self.network = network

    # --- when a loss is not finite ----------------------------------------------------------------------------------

    def _check(self, value: Tensor, explain: Callable[[], str], *batches: dict) -> None:
        """Raise `NotFinite`, in every process, if a value is not finite in any."""
        value = value.detach()
        worst = (~value.isfinite()).float()
        if self.is_ddp:
            dist.all_reduce(worst, dist.ReduceOp.MAX)
        if worst:
            cases = ", ".join(str(key) for batch in batches for key in batch["keys"])
            what = "the loss of another process" if value.isfinite() else explain()
            when = f"epoch {self.current_epoch}, iteration {self.iteration}"
            raise NotFinite(f"{when}, cases {cases}: found {float(value)} in {what}")

    def _recover(self, problem: NotFinite) -> None:
        """Go back to the start of the epoch and on in full precision."""
        self.recoveries += 1
        if self.recoveries > RECOVERIES:
            raise InputError(f"{problem}, for the {self.recoveries}th time, expected finite numbers") from None
        self.print_to_log_file(f"{problem}; going back to the start of the epoch and on in full precision")
        weights, optimizer = _on_cpu(self._last_good)  # a copy, for the optimizer goes on with what it is given
        self.bare_network.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)
        self.full_precision, self.grad_scaler = True, None

    # --- checkpoints and validation ---------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        partial_file = f"{filename}.partial"
        try:
            super().save_checkpoint(partial_file)
        except (OSError, RuntimeError) as error:  # torch's word for a full disk
            Path(partial_file).unlink(missing_ok=True)
            reason = str(error).splitlines()[0][:200]
            raise InputError(f"{filename}: could not be written ({reason}), expected room for it") from None
        if isfile(partial_file):  # not in other processes, and not if checkpoints are off
            os.replace(partial_file, filename)  # so that a run that is killed leaves the one before

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        if not self.was_initialized:
            self.options = replace(self.options, pretrained=None)  # all weights come from the checkpoint
            self.initialize()
        checkpoint = filename_or_checkpoint
        if isinstance(checkpoint, str):
            file = Path(checkpoint)
            checkpoint = read_checkpoint(file)  # nnU-Net would run whatever code is in the file
            latest = file.with_name("checkpoint_latest.pth")
            if file.name == "checkpoint_final.pth" and latest.is_file():
                # A stage begun after the end of the one before; nnU-Net would start it again each time.
                checkpoint = max(checkpoint, read_checkpoint(latest), key=lambda found: found.get("current_epoch", 0))
        try:
            self.bare_network.load_state_dict(checkpoint["network_weights"])
            self.optimizer.load_state_dict(checkpoint["optimizer_state"])
            self.my_init_kwargs = checkpoint["init_args"]
            self.current_epoch = checkpoint["current_epoch"]
            self.logger.load_checkpoint(checkpoint["logging"])
            self.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]
            scaling = checkpoint["grad_scaler_state"]
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            problem = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.output_folder}: found a checkpoint that does not fit ({problem}), expected one of this training"
            ) from None
        if self.grad_scaler and scaling:
            self.grad_scaler.load_state_dict(scaling)
        # Not the stored one: nnU-Net writes its periodic checkpoint before it looks whether the epoch was the best.
        self._best_ema = max(self.logger.get_value("ema_fg_dice", step=None), default=None)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        # nnU-Net averages over mirror images without swapping sides, and gives no clicks.
        axes = self.inference_allowed_mirroring_axes
        unsided = tuple(a for a in axes or () if not self.pairs or a != self.left_right_axis)
        self.inference_allowed_mirroring_axes = unsided or None
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.inference_allowed_mirroring_axes = axes


class UMamba2SemiSupervisedTrainer(UMamba2Trainer):
    """Supervised training with steps on unlabelled scans in between (STSR), see `umamba2.training.semi_supervised`.

    The unlabelled scans are those that the splits file lists as ``unlabeled``.
    """

    perturbing = False

    def initialize(self) -> None:
        super().initialize()
        # DDP wants every pass that has a gradient to go through its own forward; a hook reaches the features there.
        encoder: Any = self.bare_network.encoder
        encoder.register_forward_hook(torch.compiler.disable(self._perturb))
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
            name = self.challenge.name if self.challenge else self.plans_manager.dataset_name
            raise InputError(f"{name}: found no settings for unlabelled scans, expected a preset with some")
        return settings

    @property
    def done(self) -> float:
        """The fraction of the present stage that is over."""
        stage, epoch = stage_at(self.stages, self.current_epoch)
        return (epoch + self.iteration / self.num_iterations_per_epoch) / self.stages[stage].epochs

    # --- data -------------------------------------------------------------------------------------------------------

    def _unlabelled_keys(self) -> list[str]:
        chosen = self._folds() if self.fold == "all" else [self._folds()[self.fold]]
        keys = sorted({key for split in chosen for key in split.get("unlabeled", ())})
        if not keys:
            raise InputError(f"{self._splits_file}: found no unlabeled cases for fold {self.fold}, expected some")
        return keys

    def get_dataloaders(self) -> tuple[Any, Any]:
        labelled, validation = super().get_dataloaders()
        transforms, initial_patch = self._training_transforms()
        folder, keys = f"{self.preprocessed_dataset_folder}{UNLABELLED_SUFFIX}", self._unlabelled_keys()
        self._check_preprocessed(folder, keys)
        dataset = without_classes(self.dataset_class)(folder, keys)
        unlabelled = self._augmenter(dataset, initial_patch, augment.weak_and_strong(transforms), 2)
        return _Mixed(labelled, unlabelled, self._is_unlabelled_step), validation

    def _is_unlabelled_step(self) -> bool:
        return self.shared_rng.random() < semi_supervised.unlabelled_probability(self.unlabelled, self.done)

    def on_train_end(self) -> None:
        mixed = self.dataloader_train
        self.dataloader_train = mixed.labelled
        super().on_train_end()
        if isinstance(mixed.unlabelled, NonDetMultiThreadedAugmenter):
            mixed.unlabelled._finish()

    # --- one step ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        # The same in every process: they have to agree on the kind of each step.
        self.shared_rng = np.random.default_rng([self.options.seed, self.current_epoch])

    def train_step(self, batch: dict) -> dict:
        self.dataloader_train.stay = True  # the micro-batches of a step are of one kind
        try:
            return {**super().train_step(batch), "unlabelled": "unlabelled" in batch}
        finally:
            self.dataloader_train.stay = False

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        kinds = {kind: [o for o in train_outputs if o["unlabelled"] == kind] for kind in (False, True)}
        if kinds[True]:
            mean = np.mean([output["loss"] for output in kinds[True]])
            self.print_to_log_file(f"unlabelled steps: {len(kinds[True])}, mean loss {mean:.4f}")
        # The curve shows the supervised loss, which the other is not comparable with.
        super().on_train_epoch_end([{"loss": output["loss"]} for output in kinds[False] or train_outputs])

    def loss_of(self, batch: dict) -> tuple[Tensor, Callable[[], str]]:
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

    def __init__(self, labelled: Iterator[dict], unlabelled: Iterator[dict], wanted: Callable[[], bool]):
        self.labelled, self.unlabelled, self.wanted = labelled, unlabelled, wanted
        self.stay = self.is_unlabelled = False

    def __iter__(self) -> _Mixed:
        return self

    def __next__(self) -> dict:
        if not self.stay:
            self.is_unlabelled = self.wanted()
        return {**next(self.unlabelled), "unlabelled": True} if self.is_unlabelled else next(self.labelled)


def without_classes(dataset_class: type) -> type:
    """A dataset class for cases without labels, which know no place of any class."""

    class Unlabelled(dataset_class):
        def load_case(self, identifier: str) -> tuple:
            data, labels, previous, properties = super().load_case(identifier)
            return data, labels, previous, {"class_locations": {}, **properties}

    return Unlabelled


def _on_cpu(value: Any) -> Any:
    """A copy of a nest of tensors in the CPU's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(entry) for entry in value)
    return value
