"""Scans in every form in which callers have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt

from umamba2.errors import InputError
from umamba2.scans.volumes import Geometry, Volume, as_volume, read_volume

Scan: TypeAlias = str | Path | Volume | tuple[npt.NDArray[Any], Sequence[float]]


def volume_of(scan: Scan) -> tuple[Volume, str]:
    """A scan as a volume, and what messages call it.

    Args:
        scan: A file or folder, a volume, or an array (z, y, x) with its spacing in mm along these axes.

    Raises:
        InputError: It is none of these, or cannot be read.
    """
    if isinstance(scan, Volume):
        return scan, scan.name
    if isinstance(scan, (str, Path)):
        return read_volume(scan), str(scan)
    if not (isinstance(scan, (tuple, list)) and len(scan) == 2):
        raise InputError(f"scan: found a {type(scan).__name__}, expected a file, a volume, or an array and its spacing")
    array, spacing = scan
    if array.ndim != 3 or len(spacing) != 3:
        found = f"an array of shape {array.shape} with spacing {tuple(spacing)}"
        raise InputError(f"scan: found {found}, expected (z, y, x) and three numbers of mm")
    return as_volume(array, Geometry.of_array(array.shape, spacing), "scan"), "scan"
