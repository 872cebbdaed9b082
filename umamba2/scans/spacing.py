"""Whether a voxel size can be that of a dental scan, and what it must have meant if not.

Programs leave it out, write metres, centimetres or microns into a field of millimetres, or state it twice. A network
sees nothing at all in a scan that is a thousand times too small, so a size that cannot be right is not believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from umamba2.scans.geometry import Geometry, Triple

VOXEL = (0.05, 1.5)  # mm, along each axis: the finest dental CBCT has 0.075, and teeth do not show in coarser CT
FIELD_OF_VIEW = (20.0, 400.0)  # mm
ALIKE = 1e-3  # of a voxel size: two statements that differ by no more are one, rounded
UNITS = {1000.0: "metres", 10.0: "centimetres", 0.001: "microns"}  # by the millimetres in one of each

_EXPECTED = (
    f"expected {VOXEL[0]} to {VOXEL[1]} mm and a field of view of {FIELD_OF_VIEW[0]:g} to {FIELD_OF_VIEW[1]:g} mm"
)


def is_plausible(size: tuple[int, int, int], spacing: Triple, smallest_field: float = FIELD_OF_VIEW[0]) -> bool:
    """Whether a dental scan may have such voxels.

    Args:
        size: In voxels.
        spacing: In mm, in the same order.
        smallest_field: How many mm the scan must show at least along each axis.
    """
    fields = [n * mm for n, mm in zip(size, spacing)]
    return (
        VOXEL[0] <= min(spacing)
        and max(spacing) <= VOXEL[1]
        and smallest_field <= min(fields)
        and max(fields) <= FIELD_OF_VIEW[1]
    )


def check_spacing(name: str, geometry: Geometry, stated: Mapping[str, Triple] | None) -> tuple[Geometry, list[str]]:
    """The grid to measure with, and one line of warning for everything that is odd about its voxel size.

    Args:
        name: What messages call the file.
        geometry: The grid as it was read; its spacing may be 0.
        stated: The voxel sizes (x, y, z) that the file states, by the name of the statement; empty: it states none;
            None: there is just the grid's.
    """
    spacing, size = geometry.spacing, geometry.size
    if stated is not None and not any(max(mm) > 0 for mm in stated.values()):
        return _with(geometry, spacing), [f"{name}: found no voxel size, {_EXPECTED}; taken for {_mm(spacing)}"]
    if stated and not all(np.allclose(mm, spacing, rtol=ALIKE, atol=0) for mm in stated.values()):
        found = " and ".join(f"{_mm(mm)} ({kind})" for kind, mm in stated.items())
        likely = [kind for kind, mm in stated.items() if is_plausible(size, mm)]
        chosen = stated[likely[-1]] if likely else spacing  # of two likely ones the sform, which most programs follow
        return _with(geometry, chosen), [
            f"{name}: found two voxel sizes, {found}, expected one; taken for {_mm(chosen)}"
        ]
    found = f"{name}: found a voxel size of {_mm(spacing)}"
    for factor, unit in UNITS.items():
        x, y, z = (mm * factor for mm in spacing)
        if is_plausible(size, (x, y, z)):
            if is_plausible(size, spacing, smallest_field=0):  # a small scan, perhaps
                field = " x ".join(f"{n * mm:.4g}" for n, mm in zip(size, spacing))
                return geometry, [f"{found} and a field of view of {field} mm, {_EXPECTED} (are these {unit}?)"]
            left, back, up = (mm * factor for mm in geometry.origin)
            corrected = replace(geometry, spacing=(x, y, z), origin=(left, back, up))
            return corrected, [f"{found}, {_EXPECTED}; taken for {_mm((x, y, z))}, as if in {unit}"]
    if is_plausible(size, spacing, smallest_field=0):
        return geometry, []
    corrected = _with(geometry, spacing)
    return corrected, [f"{found}, {_EXPECTED}; taken for {_mm(corrected.spacing)} all the same"]


def _with(geometry: Geometry, spacing: Triple) -> Geometry:
    """The grid with another spacing, in which 1 mm stands for 0, as readers take it where none is stated."""
    x, y, z = (mm or 1.0 for mm in spacing)
    return replace(geometry, spacing=(x, y, z))


def _mm(spacing: Triple) -> str:
    return " x ".join(f"{mm:.4g}" for mm in spacing) + " mm"
