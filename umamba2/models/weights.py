"""Weights from files that people download: nothing in them is executed, and names come as a bare network has them."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from umamba2.errors import ModelError
from umamba2.models.checkpoint import Checkpoint, read_checkpoint
from umamba2.nets.unet import drop_aliases

LARGEST_HEADER = 2**21  # bytes, of a safetensors file; that of this network has a tenth
_MOST_STATED = 8  # times the file: nnU-Net has up to four names for a tensor, and packing may halve its size
CHECKPOINT_NAMES = ("checkpoint_best.pth", "checkpoint_final.pth")  # in this order: the published results use best


class Stamp(NamedTuple):
    """How a file was when its weights were read, which stay mapped to it."""

    path: Path
    inode: int
    size: int
    modified: int  # ns

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """A file as it is now; OSError if it is not there."""
        found = path.stat()
        return cls(path, found.st_ino, found.st_size, found.st_mtime_ns)

    def check(self) -> None:
        """Raise ModelError if the file was written anew in its place; another file of its name changes nothing."""
        with suppress(OSError):
            now = self.of(self.path)
            if now.inode == self.inode and now != self:
                raise ModelError(f"{self.path}: found it written anew while it is read, expected it to stay as it was")


def find_checkpoint(fold: Path) -> Path | None:
    """The checkpoint in a fold's folder of nnU-Net's layout; None if there is none."""
    return next((fold / name for name in CHECKPOINT_NAMES if (fold / name).is_file()), None)


def read_weights(path: Path, crc32: Any = None) -> dict[str, Tensor]:
    """The weights in a safetensors file or a checkpoint.

    Args:
        path: The file.
        crc32: The checksum that it must have (see `checksum`); None: not known. Checkpoints have their own.

    Raises:
        ModelError: The file is damaged, or holds anything but tensors and plain values, or no weights.
    """
    # The header comes first: it is short, and says how long the file is.
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    if crc32 is not None and (found := checksum(path)) != crc32:
        raise ModelError(f"{path}: found the checksum {found}, expected {crc32!s:.40}: another file, or a damaged one")
    return bare_weights(path, content)


def checksum(path: Path) -> int:
    """The CRC-32 of a file; ModelError if it cannot be read."""
    found = 0
    try:
        with open(path, "rb") as file:
            while piece := file.read(2**20):
                found = zlib.crc32(piece, found)
    except OSError as error:
        raise ModelError(f"{path}: could not be read ({error.strerror}), expected weights") from None
    return found


def bare_weights(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in what a file holds: no prefixes of torch.compile or DDP, no second names of a tensor.

    Args:
        path: The file, for messages.
        content: A checkpoint, or weights by name.

    Raises:
        ModelError: There are no weights, some are no dense tensors of real numbers, or a checksum is another one.
    """
    # nnU-Net's name, what others call it, or the weights themselves.
    found = next((content[key] for key in ("network_weights", "state_dict", "model") if key in content), content)
    if not isinstance(found, dict) or not any(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"{path}: found no weights, expected a checkpoint with network_weights")
    bare = [str(key).replace("_orig_mod.", "").removeprefix("module.") for key in found]
    if any(key.startswith("encoder.encoder.stem.") for key in bare):  # the reference's pretraining wraps its network
        bare = [key.removeprefix("encoder.") for key in bare]
    weights: dict[str, Any] = {}
    for key, name, value in zip(found, bare, found.values()):
        if name in weights:  # which of the two counts?
            others = f"{list(found)[bare.index(name)]!s:.100} and {key!s:.100}"
            raise ModelError(f"{path}: found {others}, expected one tensor for {name:.100}")
        weights[name] = value
    size = path.stat().st_size
    shared = f"{path}: found tensors that share their numbers, expected each to have its own"
    # Before aliases are compared, so that there is an end to it.
    if sum(value.nbytes for value in weights.values() if isinstance(value, Tensor)) > _MOST_STATED * size:
        raise ModelError(shared)
    try:
        drop_aliases(weights)
    except ValueError as error:
        raise ModelError(f"{path}: found {error}, expected two names of one tensor") from None
    if isinstance(content, Checkpoint):
        content.verify(weights.values())
    for key, value in weights.items():
        size -= value.nbytes // 2 if isinstance(value, Tensor) else 0
        dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
        if not dense or not value.is_floating_point():
            found = f"{type(value).__name__} {key[:100]}"
            raise ModelError(f"{path}: found {found}, expected a dense tensor of real numbers")
    if size < 0:
        raise ModelError(shared)
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > LARGEST_HEADER:
            raise ValueError(f"a header of {header} bytes, at most {LARGEST_HEADER} are read")
        # In this thread a signal's exception would come while foreign code runs, which makes it one of its own.
        with ThreadPoolExecutor(1, "weights") as alone:
            return alone.submit(load_file, path).result()
    except Exception as error:  # whatever a damaged or hostile file leads to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path}: could not be read ({reason}), expected a safetensors file") from None
