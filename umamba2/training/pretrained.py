"""Start from existing weights: which of them were taken, which were not, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from umamba2.errors import InputError
from umamba2.models import load_model
from umamba2.models.weights import find_checkpoint
from umamba2.models.weights import read_weights as read_file

# What another task has to learn itself, by the beginning of its keys.
NOT_TRANSFERRED = {
    "decoder.seg_layers.": "segmentation heads of another task",
    "mamba_layer.point_encoder.": "the click branch of another task",
    "mamba_layer.cross_attention.": "the click branch of another task",
}


@dataclass(frozen=True)
class Transfer:
    """What `transfer` did.

    Attributes:
        loaded: The keys that were copied.
        skipped: All other keys of file and network, each with the reason.
    """

    loaded: tuple[str, ...]
    skipped: dict[str, str]

    def report(self, say: Callable[[str], None], source: str | Path) -> None:
        """Say in one line what was loaded, and in one for each reason what was not."""
        say(f"{source}: {len(self.loaded)} weights loaded, {len(self.skipped)} left out")
        for reason in dict.fromkeys(self.skipped.values()):
            keys = [key for key, why in self.skipped.items() if why == reason]
            say(f"  left out, {reason}: {', '.join(keys)}")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of a model, under the names that a bare network has. Nothing in a file is executed.

    Args:
        path: A model folder (slim or nnU-Net's; its first fold), a fold's folder, or a file.

    Raises:
        InputError: The file is missing, damaged, or holds none or others than finite weights.
    """
    path = Path(path)
    file = find_checkpoint(path) or path
    if file.is_dir():
        return dict(next(iter(load_model(file).folds.values())))
    if not file.is_file():
        raise InputError(f"{file}: found no such file, expected a model folder or a checkpoint")
    found = read_file(file)
    broken = next((key for key, value in found.items() if not value.float().isfinite().all()), None)
    if broken:
        raise InputError(f"{file}: found NaN or infinite weights ({broken}), expected finite ones")
    return found


def challenge_of(path: str | Path) -> str | None:
    """The challenge that a model folder was trained for, if it says so; None for lone files."""
    path = Path(path)
    return load_model(path).challenge if path.is_dir() and not find_checkpoint(path) else None


@torch.no_grad()
def transfer(network: nn.Module, weights: dict[str, Tensor], same_task: bool = False) -> Transfer:
    """Copy weights into a network where they fit: same name, same shape, and not particular to a task.

    Args:
        network: Without wrappers.
        weights: By name.
        same_task: They are of a model for the same challenge, so heads and click branch are copied as well.

    Raises:
        InputError: Nothing fits.
    """
    own = network.state_dict()
    particular = {} if same_task else NOT_TRANSFERRED
    loaded, skipped = [], {}
    for key in dict.fromkeys([*weights, *own]):
        reason = next((why for start, why in particular.items() if key.startswith(start)), None)
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
