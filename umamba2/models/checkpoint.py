"""Checkpoints as `torch.save` writes them, read without `torch.load`: a zip archive with one pickle and raw numbers.

A pickle is a program. `torch.load` runs it with a list of what it may call, and has had holes in that list and in its
own arithmetic (GHSA-53q9-r3pm-6pq6, GHSA-63cw-57p8-fm3p); a small file can also keep it busy for ever. A checkpoint
needs little: numbers, texts, lists, dicts, tensors over what the archive holds, and numpy's numbers. No more is done.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from umamba2.errors import InputError, ModelError
from umamba2.models.pickles import NUMPY, ForeignError, read_pickle
from umamba2.models.zips import open_zip
from umamba2.scans import memory

LARGEST_PICKLE = 2**24  # bytes; the published network with its optimizer has about 2**18
_UTF8 = 0x800  # a flag of an entry whose name is not in the code page of old
_PIECE = 2**20  # bytes that are read at a time
MOST_ENTRIES = 20_000  # of an archive; the published network with its optimizer has 666

_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip


class Checkpoint(dict[str, Any]):
    """What a checkpoint file holds: tensors, whose numbers mean nothing before they are read, and plain values."""

    def __init__(self, path: Path, content: dict[str, Any], archive: _Archive):
        super().__init__(content)
        self._path, self._archive = path, archive

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._archive.size

    def read(self, tensors: Iterable[Any] | None = None) -> Checkpoint:
        """Fill in the numbers of some tensors, or of all, and compare their checksums.

        The state of an optimizer is as large as the weights, and inference has no use for it: not all need be read.

        Returns:
            The checkpoint itself.

        Raises:
            ModelError: A checksum is another one, or the file is no longer what it was.
        """
        try:
            with open(self._path, "rb") as file:
                self._archive.fill(file, tensors)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ModelError(f"{self._path}: could not be read ({reason}), expected a PyTorch checkpoint") from None
        return self


@contextmanager
def unchanging(file: IO[bytes], as_before: tuple[int, ...] | None = None) -> Iterator[int]:
    """The size of an open file in bytes; ValueError in the end if it was written to meanwhile.

    Args:
        file: The file.
        as_before: How it was when it was opened before (see `condition`); ValueError at once if it is not so now.
    """
    before = condition(file)
    if as_before not in (None, before):
        raise ValueError("it was written anew while it was read")
    try:
        yield before[1]
    finally:
        if condition(file) != before:
            raise ValueError("it was written anew while it was read") from None


def condition(file: IO[bytes]) -> tuple[int, ...]:
    """Which file it is, how many bytes it has, and when it was written to last."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


def check_memory(size: int) -> None:
    """Raise ValueError if there is no memory for ``size`` bytes: a file of zeros may have any number of them."""
    if size > memory.available():
        raise ValueError(f"{size} bytes of numbers, more than there is free memory")


def fill(numbers: Tensor, file: IO[bytes], crc32: int = 0) -> int:
    """Read as many bytes as a contiguous tensor has into it; the CRC-32 of all, ValueError if the file ends before."""
    place: memoryview = numbers.reshape(-1).view(torch.uint8).numpy().data
    done = 0
    while done < len(place):
        piece = place[done : done + _PIECE]
        count = file.readinto(piece)  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it is cut off")
        crc32, done = zlib.crc32(piece[:count], crc32), done + count
    return crc32


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint file; the numbers of its tensors mean nothing before `Checkpoint.read`.

    Raises:
        ModelError: The file is damaged, was written by a torch before 1.6, or holds any other object.
    """
    try:
        with open(path, "rb") as file, unchanging(file):
            archive = _Archive(file)
            content = read_pickle(archive.read("data.pkl"), _NAMES, np.ndarray.tolist, archive.storage)
    except InputError as error:
        raise ModelError(f"{path}: {error}") from None
    except ForeignError as error:
        raise ModelError(f"{path}: found {error}, expected tensors and plain values only") from None
    except Exception as error:  # whatever a damaged or hostile file leads to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path}: could not be read ({reason}), expected a PyTorch checkpoint") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: found a {type(content).__name__}, expected an nnU-Net checkpoint")
    return Checkpoint(path, content, archive)


class _Archive:
    """The zip archive. It is read and not mapped: to look at where a mapped file was cut off ends the process."""

    def __init__(self, file: io.BufferedReader):
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("no zip archive as torch has written since 1.6")
        with open_zip(file, MOST_ENTRIES) as archive:
            self._entries = {entry.filename: entry for entry in archive.infolist()}
        self._file, self._condition = file, condition(file)
        self.size = self._condition[1]  # bytes
        if sum(entry.compress_size for entry in self._entries.values()) > self.size:
            raise ValueError("entries that overlap or are cut off")
        pickles = [name for name in self._entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} entries data.pkl in the archive, not one")
        self._folder = pickles[0].removesuffix("data.pkl")
        self._storages: dict[str, Tensor] = {}
        self._places: dict[int, tuple[Tensor, zipfile.ZipInfo]] = {}  # yet to be read, by where they are in memory
        if f"{self._folder}byteorder" in self._entries and self.read("byteorder") != sys.byteorder.encode():
            raise ValueError("numbers in another byte order than this machine's")

    def read(self, name: str) -> bytes:
        """A small entry, its checksum compared."""
        entry = self._entries[f"{self._folder}{name}"]
        if entry.file_size > LARGEST_PICKLE:
            raise ValueError(f"{name} of {entry.file_size} bytes, at most {LARGEST_PICKLE} are read")
        found = torch.empty(entry.file_size, dtype=torch.uint8)
        self._fill(self._file, found, entry)
        return found.numpy().tobytes()

    def fill(self, file: IO[bytes], tensors: Iterable[Any] | None) -> None:
        """Read the numbers that tensors are made of from the file, opened again; None: all. ValueError if damaged."""
        places = set(self._places)
        if tensors is not None:
            places &= {tensor.untyped_storage().data_ptr() for tensor in tensors if isinstance(tensor, Tensor)}
        check_memory(sum(self._places[place][0].nbytes for place in places))
        with unchanging(file, self._condition):
            for place in places:
                self._fill(file, *self._places.pop(place))  # once is enough

    def _fill(self, file: IO[bytes], numbers: Tensor, entry: zipfile.ZipInfo) -> None:
        file.seek(self._start(file, entry))
        if fill(numbers, file) != entry.CRC:
            raise ValueError(f"{entry.filename:.100} with another checksum than the archive states")

    def storage(self, reference: Any) -> Tensor:
        """The numbers of a storage, one after the other, which are yet to be read."""
        _, dtype, key, _, count = reference
        if not (type(key) is str and type(dtype) is torch.dtype and type(count) is int):
            raise ForeignError("a storage that torch.save does not write")
        if key not in self._storages:
            entry = self._entries[f"{self._folder}data/{key}"]
            self._start(self._file, entry)
            if entry.file_size != count * dtype.itemsize:
                raise ValueError(f"storage {key} of {entry.file_size} bytes, {count} numbers of {dtype} stated")
            found = self._storages[key] = torch.empty(count, dtype=dtype)
            if count:
                self._places[found.untyped_storage().data_ptr()] = found, entry
        if self._storages[key].dtype != dtype:
            raise ValueError(f"storage {key} of {self._storages[key].dtype} and of {dtype}")
        return self._storages[key]

    def _start(self, file: IO[bytes], entry: zipfile.ZipInfo) -> int:
        """Where the bytes of an entry begin in the file."""
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{entry.filename} compressed, torch.save never does that")
        if entry.flag_bits & 1:
            raise ValueError(f"{entry.filename} encrypted, torch.save never does that")
        file.seek(entry.header_offset)
        signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
        start: int = entry.header_offset + 30 + name + extra
        if signature != b"PK\x03\x04" or start + entry.file_size > self.size:
            raise ValueError(f"{entry.filename} cut off")
        if file.read(name) != entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437"):
            raise ValueError(f"another file where the archive's list has {entry.filename}")
        return start


def _tensor(storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *more: Any) -> Tensor:
    if len(more) > 2 and more[2]:  # behind requires_grad and hooks: that the numbers are to be negated or conjugated
        raise ForeignError(f"a tensor with the property {more[2]!s:.60}")
    if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
        raise ForeignError("a tensor that torch.save does not write")
    end = offset + sum((size - 1) * step for size, step in zip(shape, stride)) + 1 if all(shape) else 0
    if max(end, math.prod(shape)) > storage.numel():  # the latter: the same number again and again
        raise ValueError(f"a tensor {tuple(shape)} over {storage.numel()} stored numbers")
    return storage.as_strided(shape, stride, offset)


def _new_dict() -> dict[Any, Any]:  # without arguments: pairs could take for ever to hash
    return {}


# What a checkpoint may name, and what that is here.
_NAMES: dict[str, Any] = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.device": torch.device,  # nnU-Net stores the arguments that its trainer was made with
    "torch.Size": tuple,
    "collections.OrderedDict": _new_dict,
    **NUMPY,
}
