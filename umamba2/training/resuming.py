"""The part of the trainers that goes back: to a checkpoint, or to the start of an epoch that went wrong.

What it needs for that, and what is read after a training that was killed, is written whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from umamba2.errors import InputError
from umamba2.files import replacing, write_file
from umamba2.models.checkpoint import open_checkpoint
from umamba2.training.watching import Watching

_MOST_EPOCHS = 10**6
RECOVERIES = 3  # from a loss that is not finite, per run


class LossNotFinite(Exception):
    """A loss or gradient that is NaN or infinite; the message says which, when and on what."""


class Resuming(Watching):
    """Writes and reads checkpoints, and keeps the state at the start of an epoch."""

    network: Any
    output_folder_base: str
    recoveries = 0

    @property
    def bare_network(self) -> Any:
        """The network without what DDP and torch.compile wrap around it."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def on_train_start(self) -> None:
        """nnU-Net's, which writes plans and description of all folds anew; a finished one needs what is there."""
        folder, draw = self.output_folder_base, self.logger.plot_progress_png
        with self._whole(folder) as self.output_folder_base:
            try:
                super().on_train_start()
            finally:
                self.output_folder_base = folder

        def draw_whole(folder: str) -> None:
            with self._whole(folder) as apart:
                draw(apart)

        self.logger.plot_progress_png = draw_whole

    @contextmanager
    def _whole(self, folder: str) -> Iterator[str]:
        """Give a place for files that then take theirs in a folder, each whole; a run that is killed may leave it."""
        apart = Path(self.output_folder, f".unfinished_{self.local_rank}")
        shutil.rmtree(apart, ignore_errors=True)
        apart.mkdir(parents=True)
        try:
            yield str(apart)
            for path in apart.iterdir():
                write_file(Path(folder, path.name), path.read_bytes())
        finally:
            shutil.rmtree(apart, ignore_errors=True)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint, complete or not at all, so that a run that is killed leaves the one before."""
        if self.local_rank or self.disable_checkpointing:
            return
        if name := _not_finite(self.bare_network.state_dict()):
            found = f"found numbers that are not finite in {name} after epoch {self.current_epoch}"
            raise InputError(f"{filename}: {found}, expected finite weights; `--continue` starts from the one before")
        with replacing(filename) as unfinished:
            try:
                super().save_checkpoint(str(unfinished))
            except RuntimeError as error:  # torch's word for a full disk, which does not tell that it is full
                size = sum(weight.nbytes for weight in self.bare_network.parameters())
                full = shutil.disk_usage(unfinished.parent).free < size
                reason = "the disk is full" if full else str(error).splitlines()[0][:200]
                raise OSError(reason) from None

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Go back to a checkpoint, given as it is or as a file, of which nothing is executed."""
        if not self.was_initialized:
            self.options = replace(self.options, pretrained=None)  # all weights come from the checkpoint
            self.initialize()
        checkpoint = filename_or_checkpoint
        try:
            if isinstance(checkpoint, str):
                file = Path(checkpoint)
                found = open_checkpoint(file)  # nnU-Net would run whatever code is in the file
                latest = file.with_name("checkpoint_latest.pth")
                if file.name == "checkpoint_final.pth" and latest.is_file():
                    # A stage begun after the end of the one before; nnU-Net would start it again each time.
                    found = max(found, open_checkpoint(latest), key=_epoch)
                checkpoint = found.read()
            if name := _not_finite(checkpoint["network_weights"]):
                raise ValueError(f"numbers that are not finite in {name}")
            self.bare_network.load_state_dict(checkpoint["network_weights"])
            self.optimizer.load_state_dict(_fitting(checkpoint["optimizer_state"], self.optimizer))
            self.current_epoch = _epoch(checkpoint)
            theirs, ours = checkpoint["init_args"], self.my_init_kwargs
            for what in ("fold", "configuration", "plans"):
                if (text := _text(theirs[what])) != _text(ours[what]):
                    raise ValueError(f"of {f'other {what}' if len(text) > 40 else f'the {what} {text}'}")
            for curve in self.logger.get_checkpoint():
                if len(found := checkpoint["logging"][curve]) != self.current_epoch:
                    raise ValueError(f"a curve {curve} of {len(found)} values after {self.current_epoch} epochs")
            self.logger.load_checkpoint(checkpoint["logging"])
            self.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]
            if self.grad_scaler and (scaling := checkpoint["grad_scaler_state"]):
                self.grad_scaler.load_state_dict(scaling)
            # Not the stored one: nnU-Net writes its periodic checkpoint before it looks whether the epoch was the best.
            self._best_ema = max(map(float, self.logger.get_value("ema_fg_dice", step=None)), default=None)
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            problem = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.output_folder}: found a checkpoint that does not fit ({problem}), expected one of this training"
            ) from None

    def remember_state(self) -> None:
        """Keep weights and optimizer, in the CPU's memory, to come back to them."""
        self.last_good = _on_cpu((self.bare_network.state_dict(), self.optimizer.state_dict()))

    def recover(self, problem: LossNotFinite) -> None:
        """Go back to the start of the epoch and on in full precision."""
        self.recoveries += 1
        if self.recoveries > RECOVERIES:
            raise InputError(f"{problem}, for the {self.recoveries}th time, expected finite numbers") from None
        self.print_to_log_file(f"{problem}; going back to the start of the epoch and on in full precision")
        weights, optimizer = _on_cpu(self.last_good)  # a copy, for the optimizer goes on with what it is given
        self.bare_network.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)
        self.full_precision, self.grad_scaler = True, None


def _epoch(checkpoint: dict[str, Any]) -> int:
    """The epoch that a checkpoint was written before; ValueError if that is no number of one."""
    epoch = checkpoint["current_epoch"]
    if type(epoch) is not int or not 0 <= epoch <= _MOST_EPOCHS:
        raise ValueError(f"found current_epoch {epoch!s:.40}")
    return epoch


def _not_finite(weights: Mapping[str, Tensor]) -> str:
    """The name of weights that are not all finite; empty if all are."""
    return next((name for name, numbers in weights.items() if not numbers.isfinite().all()), "")


def _fitting(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimizer, if it is one of the same settings over the same weights; ValueError if not."""
    ours = optimizer.state_dict()["param_groups"]
    for own, other in zip(ours, state["param_groups"], strict=True):
        for key in sorted((own.keys() & other.keys()) - {"lr"}):  # which follows from the epoch
            if other[key] != own[key]:
                raise ValueError(f"{key} {other[key]!s:.60} of its optimizer where this training has {own[key]!s:.60}")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, kept in state["state"].items():
        if number not in range(len(weights)):
            raise ValueError(f"the state of a weight {number!s:.40} of its optimizer, which has {len(weights)}")
        for key, numbers in kept.items():
            there = isinstance(numbers, Tensor) and numbers.shape in ((), weights[number].shape)
            if numbers is not None and not (there and numbers.isfinite().all()):
                raise ValueError(f"{key} of weight {number} of its optimizer that is not finite or of another shape")
    return {"state": state["state"], "param_groups": ours}


def _text(value: Any) -> str:
    """A nest of plain values as text, to compare it with one that was read from JSON."""
    return json.dumps(value, sort_keys=True, default=str)


def _on_cpu(value: Any) -> Any:
    """A copy of a nest of tensors in the CPU's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(entry) for entry in value)
    return value
