"""Pretraining without labels: a disruptive autoencoder learns to undo noise, blur and missing blocks.

The method is that of the published self-supervised weights (arXiv 2509.20154); the numbers are in the presets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.challenges.recipe import Pretraining, Stage
from umamba2.errors import InputError
from umamba2.files import write_file
from umamba2.training.loading import Batch
from umamba2.training.schedules import Rates, pretraining_rate
from umamba2.training.trainer import UMamba2Trainer

VALIDATION_CASES = 8


def disrupt(patches: Tensor, settings: Pretraining, generator: torch.Generator | None = None) -> Tensor:
    """Spoil patches: add noise, sample down and up again (nearest), blank some blocks.

    Args:
        patches: (B, C, z, y, x).
        settings: How much of each.
        generator: Of the random numbers; None: torch's own.
    """
    noise = torch.randn(patches.shape, dtype=patches.dtype, device=patches.device, generator=generator)
    spoilt = patches + noise * settings.noise_variance**0.5
    shape = patches.shape[2:]
    coarse = [max(1, n // settings.downsampling) for n in shape]
    spoilt = F.interpolate(F.interpolate(spoilt, coarse, mode="nearest"), shape, mode="nearest")
    blank = masked_blocks(len(patches), shape, settings, patches.device, generator)
    return spoilt.masked_fill(blank, settings.mask_value)


def masked_blocks(
    batch: int,
    shape: Sequence[int],
    settings: Pretraining,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Which voxels to blank: a share of the blocks that tile each patch.

    Args:
        batch: Number of patches.
        shape: Of a patch, (z, y, x).
        settings: Size and share of the blocks.
        device: Where the answer lies.
        generator: Of the random numbers; None: torch's own.

    Returns:
        (B, 1, z, y, x), true where to blank.
    """
    grid = [-(-n // settings.block) for n in shape]
    count = int(np.prod(grid))
    order = torch.rand(batch, count, device=device, generator=generator).argsort(1)
    blocks = (order < round(settings.masked * count)).view(batch, 1, *grid)
    for axis in (2, 3, 4):
        blocks = blocks.repeat_interleave(settings.block, dim=axis)
    return blocks[:, :, : shape[0], : shape[1], : shape[2]]


class UMamba2Pretrainer(UMamba2Trainer):
    """Pretraining on a dataset whose labels, if it has any, are not looked at. The arguments are nnU-Net's."""

    momenta = 2  # AdamW's
    _drawn = False

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (as in nnU-Net)
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = self.preset.pretrain
        steps = self.options.iterations  # None: an epoch is the whole data set, in the same number of patches
        steps = steps or math.ceil(dataset_json["numTraining"] / self.settings.batch_size)
        self.set_length([Stage(self.settings.epochs, self.settings.learning_rate)], steps)
        self.initial_lr, self.weight_decay = self.settings.learning_rate, self.settings.weight_decay
        self.clip = self.settings.clip
        self.enable_deep_supervision = False
        self.oversample_foreground_percent = 0.0

    def _left_right_pairs(self) -> tuple[tuple[int, int], ...]:
        return ()

    def _patches_per_step(self) -> int:
        return self.settings.batch_size

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network of the plans with as many output channels as it has input channels."""
        network: Any = UMamba2Trainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_input_channels, False
        )
        for head in network.decoder.seg_layers[:-1]:
            head.requires_grad_(False)  # coarser outputs, which nothing looks at
        bare: nn.Module = network
        return bare

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Optimizer and learning rates."""
        weights = [(name, weight) for name, weight in self.network.named_parameters() if weight.requires_grad]
        free = [weight for name, weight in weights if weight.ndim < 2 or name.endswith("bias")]
        others = [weight for name, weight in weights if weight.ndim >= 2 and not name.endswith("bias")]
        # Norms, dt_bias, A_log and D are free of it.
        groups: list[dict[str, Any]] = [{"params": others}, {"params": free, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, Rates(optimizer, lambda epoch: pretraining_rate(self.settings, epoch, self.num_epochs))

    def _build_loss(self) -> Any:
        return nn.L1Loss()

    def _training_transforms(self) -> tuple[Any, Sequence[int]]:
        """None: patches are cropped at random, nothing more."""
        return self.get_validation_transforms(None), self.configuration_manager.patch_size

    def do_split(self) -> tuple[list[str], list[str]]:
        """All cases to learn from; a few of them also to draw pictures and the validation curve of."""
        keys = sorted(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        if not keys:
            raise InputError(f"{self.preprocessed_dataset_folder}: found no cases, expected some")
        return keys, keys[:VALIDATION_CASES]

    def loss_of(self, batch: Batch) -> tuple[Tensor, Callable[[], str]]:
        """The loss of a micro-batch, and what says which part of it is not finite."""
        clean = self._to_device(batch["data"])
        restored = self._run(self.network, disrupt(clean, self.settings), ())

        def explain() -> str:
            return "the reconstruction" if clean.isfinite().all() else "the input"

        return self.loss(restored, clean), explain

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """The loss of a batch; the first of an epoch is drawn too."""
        clean = self._to_device(batch["data"])
        spoilt = disrupt(clean, self.settings)
        with self._autocast():
            restored = self._run(self.network, spoilt, ())
            loss = self.loss(restored, clean)
        if self.local_rank == 0 and not self._drawn:
            self._drawn = True
            path = Path(self.output_folder, "reconstructions", f"epoch_{self.current_epoch:04d}.png")
            draw([volume[0, 0].float().cpu().numpy() for volume in (clean, spoilt, restored)], path)
        return {"loss": loss.detach().cpu().numpy()}

    def on_validation_epoch_start(self) -> None:
        """Draw one picture again."""
        super().on_validation_epoch_start()
        self._drawn = False

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log the mean loss, of all processes together."""
        loss = float(np.mean([output["loss"] for output in val_outputs]))
        if self.is_ddp:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, loss)
            loss = float(np.mean(everyone))
        # nnU-Net keeps the checkpoint with the highest "Dice" and draws it: here the negative loss.
        self.logger.log("mean_fg_dice", -loss, self.current_epoch)
        self.logger.get_value("ema_fg_dice", step=None)[-1] = -loss  # by the loss itself, not by its moving average
        self.logger.log("dice_per_class_or_region", [-loss], self.current_epoch)
        self.logger.log("val_losses", loss, self.current_epoch)

    def validation_bytes(self) -> float:
        """Nothing, as there is no validation afterwards."""
        return 0.0

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing: there are no segmentations to compare."""


def draw(volumes: Sequence[npt.NDArray[Any]], path: Path) -> None:
    """Draw the middle slices of some volumes side by side, in the grey values of the first.

    Args:
        volumes: Each (z, y, x), of the same shape.
        path: The PNG file.
    """
    from PIL import Image

    low, high = np.percentile(volumes[0], (1, 99))
    rows = []
    for axis in (0, 1, 2):
        slices = [volume.take(volume.shape[axis] // 2, axis) for volume in volumes]
        rows.append(np.concatenate([s if axis == 0 else s[::-1] for s in slices], axis=1))  # the head upright
    width = max(row.shape[1] for row in rows)
    page = np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1])), constant_values=low) for row in rows])
    grey = np.clip((page - low) / max(high - low, 1e-6), 0, 1) * 255
    picture = BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(picture, "PNG")
    write_file(path, picture.getvalue())
