"""TIFF files, which ITK reads in a process of its own: one that is damaged can end, or never leave, its reader."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from io import BufferedReader, BufferedWriter
from math import prod
from pathlib import Path
from threading import Timer
from typing import cast

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.geometry import Array, Triple
from umamba2.scans.itk import captured_stderr, reason, remarks
from umamba2.scans.pages import check_pages
from umamba2.scans.voxels import check_memory

_EXPANSION = 1 << 15  # at most of one byte in a file, whatever its compression
_SECONDS, _BYTES_PER_SECOND = 60, 1_000_000  # of reading: a hundredth of what even a slow machine does
# Says what the header holds, waits until it is told to go on, and sends the voxels.
_CHILD = """
import json, sys
import SimpleITK as sitk
reader = sitk.ImageFileReader()
reader.SetImageIO("TIFFImageIO")
reader.SetFileName(sys.argv[1])
reader.ReadImageInformation()
kind = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype.str
print(json.dumps([reader.GetSize(), reader.GetSpacing(), reader.GetNumberOfComponents(), kind]), flush=True)
sys.stdin.readline()
image = reader.Execute()
sys.stdout.buffer.write(sitk.GetArrayViewFromImage(image))
"""


def read_tiff(path: Path, more: int = 0) -> tuple[Array, Triple, list[str]]:
    """Read a TIFF file; ``more`` as for `check_pages`.

    Returns:
        The voxels (z, y, x), the spacing (x, y, z) in mm with 1 for what is not stated, and what the reader remarked.

    Raises:
        InputError: The file is no 3-D image of one channel, damaged, incomplete, or larger than the memory.
    """
    said = check_pages(path, more)
    limit = _SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    with captured_stderr() as lines:  # the child writes to the same place
        command = [sys.executable, "-c", _CHILD, str(path)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        timer = Timer(limit, child.kill)
        timer.start()
        array, spacing = None, (1.0, 1.0, 1.0)
        try:
            answers, orders = cast(BufferedReader, child.stdout), cast(BufferedWriter, child.stdin)
            header = answers.readline()
            if header:
                size, spacing, components, kind = json.loads(header)
                array = _room_for(path, size, components, np.dtype(kind))
                orders.write(b"\n")
                orders.flush()
                if answers.readinto(array.reshape(-1).view(np.uint8).data) < array.nbytes:
                    array = None
        except OSError:  # it has ended before it was told to go on
            array = None
        finally:
            timer.cancel()
            if array is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(1)  # perhaps it is about to say why
            child.kill()
            with suppress(OSError):
                child.communicate()
    if any("Failed to read directory" in line for line in lines):
        raise InputError(f"{path}: found fewer slices than its directories promise, expected a complete image file")
    if array is None:
        ended = child.returncode < 0
        why = f"its reader was ended by signal {-child.returncode}" if ended else reason(RuntimeError("\n".join(lines)))
        raise InputError(f"{path}: could not be read ({why}), expected a complete image file")
    x, y, z = spacing
    return array, (x, y, z), said + remarks(path, lines)


def _room_for(path: Path, size: list[int], components: int, kind: np.dtype[np.generic]) -> Array:
    """An array for an image, if it is one to read and can be as large as its header says."""
    if len(size) != 3:
        raise InputError(f"{path}: found a {len(size)}-D image of size {tuple(size)}, expected 3-D")
    if components != 1:
        raise InputError(f"{path}: found {components} values per voxel, expected 1")
    if not 0 < prod(size) <= path.stat().st_size * _EXPANSION:
        raise InputError(f"{path}: found a file too small for its size {tuple(size)}, expected all voxels")
    check_memory(str(path), prod(size) * kind.itemsize)
    return np.empty(size[::-1], kind)
