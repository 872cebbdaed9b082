"""Start from existing weights: which of them were taken, which were not, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from umamba2.checkpoints import CHECKPOINT_NAMES, load_model, read_checkpoint
from umamba2.errors import InputError
from umamba2.nets.unet import drop_aliases

# What a new task has to learn itself, by the beginning of its keys.
NOT_TRANSFERRED = {
    "decoder.seg_layers.": "segmentation heads are never transferred",
    "mamba_layer.point_encoder.": "the click branch is never transferred",
    "mamba_layer.cross_attention.": "the click branch is never transferred",
}


@dataclass(frozen=True)
class Transfer:
    """What `transfer` did: ``loaded`` keys, and for all others of file and network why they were left out."""

    loaded: tuple[str, ...]
    skipped: dict[str, str]

    def report(self, say: Callable[[str], None], source: str | Path) -> None:
        """One line about what was loaded, and one for each reason, with its keys."""
        say(f"{source}: {len(self.loaded)} weights loaded, {len(self.skipped)} left out")
        for reason in dict.fromkeys(self.skipped.values()):
            keys = [key for key, why in self.skipped.items() if why == reason]
            say(f"  left out, {reason}: {', '.join(keys)}")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of a model: a folder (slim or nnU-Net's; its first fold), a fold's folder or a checkpoint file.

    Names come as a bare network has them. Nothing in a file is executed. Raises InputError for a file that is
    missing, damaged or holds no weights.
    """
    path = Path(path)
    if path.is_dir():
        checkpoint = next((path / name for name in CHECKPOINT_NAMES if (path / name).is_file()), None)
        if checkpoint is None:
            return next(iter(load_model(path).folds.values()))
        path = checkpoint
    elif not path.is_file():
        raise InputError(f"{path}: found no such file, expected a model folder or a checkpoint")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: could not be read ({error}), expected a safetensors file") from None
    else:
        content = read_checkpoint(path)
    # nnU-Net's name, what others call it, or the weights themselves.
    found = next((content[key] for key in ("network_weights", "state_dict", "model") if key in content), content)
    weights = found if isinstance(found, dict) else {}
    weights = {
        str(key).replace("_orig_mod.", "").removeprefix("module."): value
        for key, value in weights.items()
        if isinstance(value, Tensor)
    }
    drop_aliases(weights)
    if not weights:
        raise InputError(f"{path}: found no weights, expected a checkpoint with network_weights")
    return weights


@torch.no_grad()
def transfer(network: nn.Module, weights: dict[str, Tensor]) -> Transfer:
    """Copy into a network (without wrappers) what fits: same name, same shape, and not particular to a task.

    Raises InputError if nothing does.
    """
    own = network.state_dict()
    loaded, skipped = [], {}
    for key in dict.fromkeys([*weights, *own]):
        reason = next((why for start, why in NOT_TRANSFERRED.items() if key.startswith(start)), None)
        if reason is None and key not in own:
            reason = "not in this network"
        elif reason is None and key not in weights:
            reason = "not in the file, starts afresh"
        elif reason is None and weights[key].shape != own[key].shape:
            reason = f"of shape {tuple(weights[key].shape)} where this network has {tuple(own[key].shape)}"
        if reason is None:
            own[key].copy_(weights[key])
            loaded.append(key)
        else:
            skipped[key] = reason
    if not loaded:
        raise InputError(f"pretrained weights: found none that fit, expected those of this network ({_some(skipped)})")
    return Transfer(tuple(loaded), skipped)


def _some(skipped: dict[str, str]) -> str:
    return "; ".join(f"{key} is {why}" for key, why in list(skipped.items())[:2])
