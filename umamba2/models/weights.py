"""Weights from files that people download: nothing in them is executed, and names come as a bare network has them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umamba2.errors import ModelError
from umamba2.nets.unet import drop_aliases

CHECKPOINT_NAMES = ("checkpoint_best.pth", "checkpoint_final.pth")  # in this order: the published results use best


def find_checkpoint(fold: Path) -> Path | None:
    """The checkpoint in a fold's folder of nnU-Net's layout; None if there is none."""
    return next((fold / name for name in CHECKPOINT_NAMES if (fold / name).is_file()), None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a safetensors file or a checkpoint.

    Raises:
        ModelError: The file is damaged, or holds anything but tensors and plain values, or no weights.
    """
    return bare_weights(path, _read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path))


def bare_weights(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in what a file holds: no prefixes of torch.compile or DDP, no second names of a tensor.

    Args:
        path: The file, for messages.
        content: A checkpoint, or weights by name.

    Raises:
        ModelError: There are no weights, or some are no dense tensors of real numbers.
    """
    # nnU-Net's name, what others call it, or the weights themselves.
    found = next((content[key] for key in ("network_weights", "state_dict", "model") if key in content), content)
    if not isinstance(found, dict) or not any(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"{path}: found no weights, expected a checkpoint with network_weights")
    weights = {str(key).replace("_orig_mod.", "").removeprefix("module."): value for key, value in found.items()}
    if any(key.startswith("encoder.encoder.stem.") for key in weights):  # the reference's pretraining wraps its network
        weights = {key.removeprefix("encoder."): value for key, value in weights.items()}
    drop_aliases(weights)
    for key, value in weights.items():
        dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
        if not dense or not value.is_floating_point():
            raise ModelError(f"{path}: found {type(value).__name__} {key}, expected a dense tensor of real numbers")
    return weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint file as tensors and plain values; ModelError if it is damaged or asks for any other object."""
    try:
        with _numpy_values_allowed():
            # Memory-mapped, so that the optimizer state beside the weights is never read.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        problem = f"the Python object {name[1]}" if name else "something other than a checkpoint"
        raise ModelError(f"{path}: found {problem}, expected tensors and plain values only") from None
    except (RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{path}: could not be read ({reason}), expected a PyTorch checkpoint") from None
    if not isinstance(checkpoint, dict):
        raise ModelError(f"{path}: found a {type(checkpoint).__name__}, expected an nnU-Net checkpoint")
    return checkpoint


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: could not be read ({error}), expected a safetensors file") from None


@contextmanager
def _numpy_values_allowed() -> Iterator[None]:
    """Let numpy numbers and arrays through: nnU-Net's logs and statistics hold them, and they cannot run code."""
    core: Any = getattr(np, "_core", None) or np.core
    scalar, rebuild = core.multiarray.scalar, core.multiarray._reconstruct
    allowed: list[Any] = [np.dtype, np.ndarray, np.bool_, np.number]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # numpy 1 and 2 write different names
        allowed += [(scalar, f"{module}.scalar"), (rebuild, f"{module}._reconstruct")]
    allowed += [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    import _codecs

    allowed.append(_codecs.encode)  # how old pickles spell bytes
    with torch.serialization.safe_globals(allowed):
        yield
