"""What ITK's readers keep to themselves: files that end too early, NaN that became zero, remarks on
stderr, reasons between the lines."""

from __future__ import annotations

import gzip
import os
import re
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np

from umamba2.errors import InputError

_STDERR = 2
_ONE_AT_A_TIME = threading.Lock()
_CHUNK = 1 << 24


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Catch the lines that the C libraries behind ITK print to stderr; the list is filled at the end."""
    heard: list[str] = []
    with _ONE_AT_A_TIME:
        sys.stderr.flush()
        try:
            saved = os.dup(_STDERR)
        except OSError:  # a process without stderr has nothing to keep clean
            yield heard
            return
        ear, mouth = os.pipe()
        os.set_blocking(ear, False)
        os.set_blocking(mouth, False)  # whoever says more than a pipe holds is cut short, not kept waiting
        os.dup2(mouth, _STDERR)
        os.close(mouth)
        try:
            yield heard
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            with open(ear, "rb") as said:
                heard += (said.read() or b"").decode(errors="replace").splitlines()


def nifti_gaps(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Where a NIfTI file holds NaN or infinity, bool of that shape (z, y, x), or None if it does nowhere.

    ITK reads such voxels as 0, and those beyond the end of a truncated file too. Raises InputError for the latter.
    Only floating-point files, and compressed ones that do not state the expected size, are read a second time.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            header = file.read(348)
            order = next((o for o in "<>" if np.frombuffer(header, f"{o}i4", 1)[0] == 348), None)
            if order is None:
                return None  # NIfTI-2
            dimensions = np.frombuffer(header, f"{order}i2", 8, 40).astype(int)
            kind, bits = np.frombuffer(header, f"{order}i2", 2, 70)
            # Some writers leave the offset at 0; like NIfTI's own library, ITK reads on behind the header then.
            start = max(int(np.frombuffer(header, f"{order}f4", 1, 108)[0]), len(header))
            size = prod(dimensions[1 : dimensions[0] + 1]) * int(bits) // 8
            gaps = np.zeros(size * 8 // int(bits), bool) if kind in (16, 64) else None
            if gaps is None and _stated_size(path, packed) == (start + size) % (1 << 32 if packed else 1 << 62):
                return None
            file.read(start - len(header))
            done = 0
            while done < size:
                block = file.read(min(_CHUNK, size - done))
                if not block:
                    raise EOFError
                if gaps is not None:
                    values = np.frombuffer(block, f"{order}f{bits // 8}")
                    gaps[done * 8 // bits :][: values.size] = ~np.isfinite(values)
                done += len(block)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: found the end of the file before that of the image, expected all voxels") from None
    return gaps.reshape(shape) if gaps is not None and gaps.any() else None


def reason(error: BaseException) -> str:
    """What went wrong, as one line, from an exception that SimpleITK raised."""
    # It begins with a place in the source and ends with errno's text, right or wrong.
    text = str(error).rpartition("ERROR: ")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Reason: ")]
    if not lines:
        return type(error).__name__
    # NRRD's reader goes on with one line for each function on the way down to the reason.
    said = lines[-1] if lines[0].endswith(":") else " ".join(lines)
    return re.sub(r"^\w+\(0x[0-9a-f]+\): ", "", said)[:200]


def missing_data(path: Path) -> str | None:
    """The file of voxels that a MetaImage header (.mhd) names, if that file is not there."""
    if path.suffix.lower() != ".mhd":
        return None
    named = re.search(r"^ElementDataFile *= *(.*?) *$", path.read_text(errors="surrogateescape"), re.MULTILINE)
    if named is None or named[1].split(" ")[0] in ("LOCAL", "LIST") or "%" in named[1]:
        return None
    return None if (path.parent / named[1]).is_file() else named[1]


def _stated_size(path: Path, packed: bool) -> int:
    if not packed:
        return path.stat().st_size
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(), "little")  # gzip's last word: the unpacked size modulo 2^32
