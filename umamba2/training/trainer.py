"""The trainer that stock nnU-Net finds through `nnUNet_extTrainer`.

What it does is decided by the preset of the dataset's challenge and the run's `Options`; nnU-Net's loop, logs, plots,
checkpoints and validation stay as they are.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from umamba2.anatomy.structures import left_right_pairs
from umamba2.engine.network import resolve_precision
from umamba2.errors import InputError
from umamba2.models.labels import pairs_by_name
from umamba2.models.network import build_network
from umamba2.training import losses
from umamba2.training.clicks import batch_clicks
from umamba2.training.loading import Batch
from umamba2.training.nnunet import options_of_run, summary_without_nan
from umamba2.training.options import NNUNET_DEFAULTS, challenge_for
from umamba2.training.plan import check_patch
from umamba2.training.pretrained import challenge_of, read_weights, transfer
from umamba2.training.resuming import LossNotFinite, Resuming
from umamba2.training.schedules import Rates, stage_at, stage_rate
from umamba2.training.workers import check_disk


class UMamba2Trainer(Resuming):
    """Supervised training of any network of the family, with clicks if the preset has some.

    The arguments are nnU-Net's, which inspects their names.
    """

    is_ddp: bool
    network: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (as in nnU-Net)
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.is_ddp and device.type == "cpu":  # nnU-Net takes it for granted that several processes mean CUDA
            self.device, self.grad_scaler = device, None
        name, self.options = self.plans_manager.dataset_name, options_of_run()
        if self.label_manager.has_regions or self.label_manager.has_ignore_label or self.is_cascaded:
            raise InputError(f"{name}: found regions, ignored voxels or a cascade, expected labels")
        stated, preset = dataset_json.get("challenge"), self.options.preset
        self.challenge = challenge_for(name, stated, preset) if stated or preset else None
        self.preset = self.options.applied_to(self.challenge.recipe if self.challenge else NNUNET_DEFAULTS)
        self._check_plans(name)
        self.pairs = self._left_right_pairs()
        self.left_right_axis = list(self.plans_manager.transpose_forward).index(2)
        self.set_length([stage for stage in (self.preset.train, self.preset.finetune) if stage], self.preset.iterations)
        self.initial_lr = self.preset.train.learning_rate
        self.weight_decay, self.clip = self.preset.weight_decay, self.preset.clip
        self.save_every, self.disable_checkpointing = self.options.save_every, self.options.dry_run
        self.accumulate = self.preset.accumulate  # micro-batches of a step and process, see below
        self.full_precision = self.options.fp32
        self.iteration = self.recoveries = 0

    def _check_plans(self, name: str) -> None:
        """Raise InputError for a patch, perhaps edited by hand, that does not fit the network of its plans."""
        manager, where = self.configuration_manager, f"{name}: plans {self.plans_manager.plans_name}"
        patch, grid = list(manager.patch_size), manager.network_arch_init_kwargs.get("patch_size")
        check_patch(where, patch, np.prod(manager.pool_op_kernel_sizes, axis=0).tolist())
        if grid is not None and list(grid) != patch:
            raise InputError(f"{where}: found a network for patches of {list(grid)}, expected the plans' {patch}")

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

    def initialize(self) -> None:
        """Build network, optimizer and loss, and take over pretrained weights."""
        # As for one process first: nnU-Net would ask for the GPU of this rank, which a CPU does not have.
        distributed, self.is_ddp = self.is_ddp, False
        torch.manual_seed(self.options.seed)
        if isinstance(self._autocast(), torch.autocast) and (thin := self._thin_maps()):
            self.print_to_log_file(f"{thin}: training in full precision, for bf16 would give wrong gradients there")
            self.full_precision = True
        super().initialize()
        self.is_ddp = distributed
        if self.device.type == "cpu":  # whose kernels are fastest in this layout; activations follow the weights
            self.bare_network.to(memory_format=torch.channels_last_3d)
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
        if self.local_rank == 0:  # the best, the last, and the one that replaces either
            there = len(list(Path(self.output_folder).glob("checkpoint_*.pth")))
            each = (1 + self.momenta) * sum(weight.nbytes for weight in self.bare_network.parameters())
            check_disk(Path(self.output_folder), each * max(1, 3 - there), "the checkpoints")
            self.announce_memory()

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network of the plans; the arguments are nnU-Net's."""
        try:
            network = build_network(
                configuration_manager.network_arch_class_name,
                {"patch_size": configuration_manager.patch_size, **configuration_manager.network_arch_init_kwargs},
                num_input_channels,
                num_output_channels,
                enable_deep_supervision,
            )
        except ValueError as error:
            raise InputError(f"plans {plans_manager.plans_name}: {error}") from None
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
        patches: int = self.configuration_manager.batch_size * self.preset.accumulate
        return patches

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Optimizer and learning rates."""
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
        else:
            loss.loss = self._dice_and_entropy()
        return loss

    def _dice_and_entropy(self, ignored: int | None = None) -> Any:
        """nnU-Net's loss, with the preset's smoothing; ``ignored`` is a label to leave out."""
        dice = {"batch_dice": self.configuration_manager.batch_dice, "smooth": self.preset.dice_smooth, "do_bg": False}
        loss = DC_and_CE_loss(
            {**dice, "ddp": self.is_ddp}, {}, ignore_label=ignored, dice_class=MemoryEfficientSoftDiceLoss
        )
        if self._do_i_compile():
            loss.dc = torch.compile(loss.dc)
        return loss

    # --- one step ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Start an epoch's random numbers anew, so that a resumed run repeats what it lost."""
        super().on_train_epoch_start()
        random.seed(self._seed(0))
        np.random.seed(self._seed(1))  # noqa: NPY002 (nnU-Net's loaders draw from it)
        torch.manual_seed(self._seed(2))
        self.rng = np.random.default_rng(self._seed(3))
        self.iteration, self.step_ends = 0, []
        if self.current_epoch and stage_at(self.stages, self.current_epoch)[1] == 0:
            self.optimizer.state.clear()  # a stage is a training of its own
        self.remember_state()

    def train_step(self, batch: Batch) -> dict[str, Any]:
        """One optimizer step on a batch and as many more as are accumulated, once more if its loss is not finite."""
        batches = [batch, *(next(self.dataloader_train) for _ in range(self.accumulate - 1))]
        try:
            values = self._step(batches)
        except LossNotFinite as problem:
            self.recover(problem)
            try:
                values = self._step(batches)
            except LossNotFinite as again:
                raise InputError(f"{again}, in full precision too, expected finite numbers") from None
        self.iteration += 1
        self.step_ends.append(time.perf_counter())
        return self._logged(batches, values)

    def _logged(self, batches: list[Batch], values: list[float]) -> dict[str, Any]:
        """What `on_train_epoch_end` gets of a step."""
        return {"loss": np.array(np.mean(values))}

    def _weight(self, batch: Batch) -> float:
        """What the gradient of a micro-batch is multiplied by, beside being divided by their number."""
        return 1.0

    def _step(self, batches: list[Batch]) -> list[float]:
        """One optimizer step on the gradients of some micro-batches; returns their losses."""
        self.optimizer.zero_grad(set_to_none=True)
        values = []
        for number, batch in enumerate(batches, start=1):
            wait = self.is_ddp and number < len(batches)  # processes exchange their gradients once
            with self.network.no_sync() if wait else nullcontext():
                with self._autocast():
                    loss, explain = self.loss_of(batch)
                self._check(loss, explain, batch)
                share = loss * (self._weight(batch) / len(batches))
                (self.grad_scaler.scale(share) if self.grad_scaler else share).backward()
            values.append(float(loss.detach()))
        if self.grad_scaler:
            self.grad_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        if self.grad_scaler:
            self.grad_scaler.step(self.optimizer)  # leaves out steps whose gradient overflowed
            self.grad_scaler.update()
        else:
            self._check(norm, lambda: "the gradient", *batches)
            self.optimizer.step()
        return values

    def loss_of(self, batch: Batch) -> tuple[Tensor, Callable[[], str]]:
        """The loss of a micro-batch, and what says which part of it is not finite."""
        data, target = self._to_device(batch["data"]), self._to_device(batch["target"])
        outputs = self._run(self.network, data, batch["target"])
        return self.loss(outputs, target), partial(losses.blame, data, outputs, target, self.loss.loss)

    def _run(self, network: Callable[..., Any], data: Tensor, target: Sequence[Tensor]) -> Any:
        """The network's answer to a batch, prompted with clicks on its target if it takes some."""
        prompt = (batch_clicks(target[0], self.preset.clicks, self.rng),) if self.preset.clicks else ()
        forced = self.full_precision and self.device.type == "cuda"  # nnU-Net's validation asks for autocast
        with torch.autocast("cuda", enabled=False) if forced else nullcontext():
            return network(data, *prompt)

    def _autocast(self) -> AbstractContextManager[Any]:
        """fp16 on GPUs, bf16 on CPUs that have it, unless full precision is asked for."""
        if self.full_precision or resolve_precision("auto", self.device) == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type)

    def _thin_maps(self) -> str:
        """The level of the network, if there is one, at which bf16 on CPUs gives wrong gradients, and its size.

        Where a map has fewer slices than the kernel, but more than one, oneDNN's gradient of the weights holds what lay
        in memory before (found with torch 2.13 on AVX-512 with bf16, beside fp32). Rows and columns do not matter.
        """
        sizes = np.array(self.configuration_manager.patch_size)
        network = self.configuration_manager.network_arch_init_kwargs
        for level, (stride, kernel) in enumerate(zip(network["strides"], network["kernel_sizes"])):
            sizes, slices = -(-sizes // stride), np.broadcast_to(kernel, 3)[0]
            if self.device.type == "cpu" and 1 < sizes[0] < slices:
                size = "x".join(map(str, sizes))
                return f"level {level} of the network has maps of {size} voxels and kernels of {slices}"
        return ""

    def _to_device(self, tensors: Any) -> Any:
        if isinstance(tensors, list):
            return [self._to_device(tensor) for tensor in tensors]
        return tensors.to(self.device, non_blocking=True)

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """nnU-Net's, with clicks if the network takes some."""
        network = self.network
        self.network = lambda data: self._run(network, data, batch["target"])
        try:
            result: dict[str, Any] = super().validation_step(batch)
        finally:
            self.network = network
        return result

    # --- when a loss is not finite ----------------------------------------------------------------------------------

    def _check(self, value: Tensor, explain: Callable[[], str], *batches: Batch) -> None:
        """Raise `LossNotFinite`, in every process, if a value is not finite in any."""
        value = value.detach()
        worst = (~value.isfinite()).float()
        if self.is_ddp:
            dist.all_reduce(worst, dist.ReduceOp.MAX)
        if worst:
            cases = ", ".join(str(key) for batch in batches for key in batch["keys"])
            what = "the loss of another process" if value.isfinite() else explain()
            when = f"epoch {self.current_epoch}, iteration {self.iteration}"
            raise LossNotFinite(f"{when}, cases {cases}: found {float(value)} in {what}")

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's, which averages over mirror images without swapping sides, so not left to right; no clicks.

        It scores whatever label maps it finds in its folder: those of an earlier run, perhaps of other splits or cut
        off when it was killed, go first.
        """
        if self.options.dry_run:
            return
        if self.local_rank == 0:
            folder = Path(self.output_folder, "validation")
            for path in (folder / "summary.json", *folder.glob("*" + self.dataset_json["file_ending"])):
                path.unlink(missing_ok=True)
        if self.is_ddp:
            dist.barrier()
        axes = self.inference_allowed_mirroring_axes
        unsided = tuple(a for a in axes or () if not self.pairs or a != self.left_right_axis)
        self.inference_allowed_mirroring_axes = unsided or None
        try:
            with summary_without_nan():
                super().perform_actual_validation(save_probabilities)
        finally:
            self.inference_allowed_mirroring_axes = axes
