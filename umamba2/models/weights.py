"""Weights from files that people download: nothing in them is executed, and names come as a bare network has them."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umamba2.errors import ModelError
from umamba2.files import once
from umamba2.models.checkpoint import Checkpoint, check_memory, fill, open_checkpoint, unchanging
from umamba2.nets.unet import drop_aliases

LARGEST_HEADER = 2**21  # bytes, of a safetensors file; that of this network has a tenth
_MOST_STATED = 8  # times the file: nnU-Net has up to four names for a tensor, and packing may halve its size
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_MOST_AXES, _LARGEST_AXIS = 8, 2**40
MOST_CLASSES = 256  # background included: label maps are uint8
_AT_ONCE = 4  # folds that are read
CHECKPOINT_NAMES = ("checkpoint_best.pth", "checkpoint_final.pth")  # in this order: the published results use best


class Weights(dict[str, Tensor]):
    """The weights of a fold by name. Their numbers can be let go of, and are read again when they are needed."""

    def __init__(self, path: Path, read: Callable[[Path], dict[str, Tensor]]):
        """Read them. Raises what ``read`` does."""
        self._path, self._read, self._before = path, read, _condition(path)
        super().__init__(read(path))

    def release(self) -> None:
        """Let go of the numbers: names, sizes and types stay."""
        self.update({name: value.to("meta") for name, value in self.items()})

    def numbers(self) -> dict[str, Tensor]:
        """The weights with their numbers. Raises ModelError if they were let go of and the file is another one now."""
        if not any(value.is_meta for value in self.values()):
            return self
        found = self._read(self._path)
        if _condition(self._path) != self._before:
            raise ModelError(f"{self._path}: found it written anew since it was read, expected it to stay as it was")
        return found


def read_folds(paths: dict[str, Path], read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Weights]:
    """The weights of folds, read several at a time, which takes two thirds of the time on two cores."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(paths, pool.map(lambda path: Weights(path, read), paths.values())))


def _condition(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:  # which is said when it is read
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


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
    found: int | None = None
    # The header comes first: it is short, and says how long the file is.
    if path.suffix == ".safetensors":
        content, found = _read_safetensors(path)
    else:
        content, found = open_checkpoint(path), checksum(path) if crc32 is not None else None
    if crc32 is not None and found != crc32:
        raise ModelError(f"{path}: found the checksum {found}, expected {crc32!s:.40}: another file, or a damaged one")
    return bare_weights(path, content)


def segmenting(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights themselves; ModelError if they are of no network that segments volumes, or not all finite in fp32."""
    for key in ("encoder.stem.convs.0.conv.weight", "decoder.seg_layers.0.weight"):
        if key not in weights or weights[key].ndim != 5:
            raise ModelError(f"{path}: found no 3-D {key} among {len(weights)} tensors, expected a U-Mamba2 network")
    classes = len(weights["decoder.seg_layers.0.weight"])
    if not 1 <= classes <= MOST_CLASSES:
        raise ModelError(f"{path}: found {classes} classes, expected at most {MOST_CLASSES}, which label maps can hold")
    for key, weight in weights.items():
        numbers = weight if weight.element_size() > 1 else weight.half()  # torch does not compute in 8 bits
        if numbers.dtype == torch.float64:  # the network has no more than
            numbers = numbers.float()
        # A sum is NaN or infinite if a number is, and many times faster than a look at each.
        if not (numbers.sum().isfinite() or numbers.isfinite().all()):
            raise ModelError(f"{path}: found NaN or infinite numbers in {key:.100}, expected finite weights in fp32")
    return weights


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
    stated = sum(value.nbytes for value in weights.values() if isinstance(value, Tensor))
    size = content.size if isinstance(content, Checkpoint) else stated  # a safetensors file has each number once
    shared = f"{path}: found tensors that share their numbers, expected each to have its own"
    # Before aliases are compared, so that there is an end to it.
    if stated > _MOST_STATED * size:
        raise ModelError(shared)
    if isinstance(content, Checkpoint):
        content.read(weights.values())
    try:
        drop_aliases(weights)
    except ValueError as error:
        raise ModelError(f"{path}: found {error}, expected two names of one tensor") from None
    for key, value in weights.items():
        dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
        if not dense or not value.is_floating_point():
            found = f"{type(value).__name__} {key[:100]}"
            raise ModelError(f"{path}: found {found}, expected a dense tensor of real numbers")
    if _overlap(weights.values()):
        raise ModelError(shared)
    return weights


def _overlap(tensors: Iterable[Tensor]) -> bool:
    """Whether numbers of tensors lie on each other in memory, those of one or of several."""
    last = 0
    for begin, value in sorted(((value.data_ptr(), value) for value in tensors if value.numel()), key=itemgetter(0)):
        span = 1 + sum((count - 1) * stride for count, stride in zip(value.shape, value.stride()))
        if begin < last or span < value.numel():
            return True
        last = begin + span * value.element_size()
    return False


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of a safetensors file, and its CRC-32.

    It is read and not mapped into memory, as its own library does: to look at where a mapped file was cut off meanwhile
    ends the process, and what has been checked could be another thing when it is used.
    """
    try:
        with open(path, "rb") as file, unchanging(file) as size:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if length > LARGEST_HEADER:
                raise ValueError(f"a header of {length} bytes, at most {LARGEST_HEADER} are read")
            header = file.read(length)
            entries = _entries(header, size - len(start) - length)
            check_memory(size)
            numbers = torch.empty(size - len(start) - length, dtype=torch.uint8)
            found = fill(numbers, file, zlib.crc32(start + header))
        return {name: _tensor(numbers[begin:end], dtype, shape) for name, dtype, shape, begin, end in entries}, found
    except Exception as error:  # whatever a damaged or hostile file leads to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path}: could not be read ({reason}), expected a safetensors file") from None


def _entries(header: bytes, size: int) -> list[tuple[str, torch.dtype, list[int], int, int]]:
    """Name, type, shape and place of each tensor in a header; ValueError unless they fill ``size`` bytes exactly."""
    content = json.loads(header.decode(), object_pairs_hook=once)
    content.pop("__metadata__", None)
    entries = []
    for name, entry in content.items():
        kind, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in _TYPES:
            raise ValueError(f"{name:.60} of {kind!r:.20}, which is none of {', '.join(_TYPES)}")
        dtype, whole = _TYPES[kind], isinstance(shape, list) and isinstance(place, list) and len(shape) <= _MOST_AXES
        if not (whole and all(type(n) is int and 0 <= n < _LARGEST_AXIS for n in (*shape, *place))):
            raise ValueError(f"{name:.60} of shape {shape!s:.60} at {place!s:.60} of {size} bytes")
        begin, end = place
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name:.60} of shape {shape!s:.60} and {kind} in {end - begin} bytes")
        entries.append((name, dtype, shape, begin, end))
    last = 0
    for name, _, _, begin, end in sorted(entries, key=lambda entry: entry[3:]):
        if begin != last:
            raise ValueError(f"{name:.60} from byte {begin} of the numbers, expected {last}, where the one before ends")
        last = end
    if last != size:
        raise ValueError(f"{size} bytes of numbers, {last} stated")
    return entries


def _tensor(numbers: Tensor, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if numbers.storage_offset() % dtype.itemsize:
        numbers = numbers.clone()
    return numbers.view(dtype).view(shape)
