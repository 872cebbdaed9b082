"""From a scan to the network's grid and back, as nnU-Net does it (transpose, crop, normalise, resample).

Nothing here imports nnU-Net, whose start-up costs seconds; the tests hold it against nnU-Net itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from umamba2.engine.harmonise import harmonise
from umamba2.engine.resample import resample, separate_axis
from umamba2.errors import InputError
from umamba2.models.network import Plan

LARGEST_GRID = 2**29  # voxels: several times the largest dental scan; beyond it the spacing must be wrong


@dataclass(frozen=True)
class Prepared:
    """A scan on the network's grid, with what it takes to go back.

    ``tensor`` is (1, z, y, x) float32, normalised, in the plan's axis order and spacing; ``box`` is the part of the
    (transposed) scan it covers, ``shape`` the whole (transposed) scan's, both in the scan's voxels.
    """

    tensor: Tensor
    box: tuple[slice, ...]
    shape: tuple[int, ...]
    transpose: tuple[int, ...]
    separate_axis: int | None

    @property
    def box_shape(self) -> tuple[int, ...]:
        return tuple(s.stop - s.start for s in self.box)

    def to_grid(self, coordinates: np.ndarray) -> np.ndarray:
        """Voxel indices in the scan, (N, 3), as (fractional) voxel indices on this grid."""
        inside = coordinates[:, list(self.transpose)] - np.array([s.start for s in self.box])
        scale = np.array(self.tensor.shape[1:]) / np.array(self.box_shape)
        return (inside + 0.5) * scale - 0.5  # voxel centres stay where they are in space

    def on_scan(self, labels: np.ndarray) -> np.ndarray:
        """A label map of the box, in the scan's voxels and the plan's axis order, as one of the whole scan."""
        out = np.zeros(self.shape, dtype=np.uint8)
        out[self.box] = labels
        return np.ascontiguousarray(out.transpose(np.argsort(self.transpose)))


def prepare(volume: np.ndarray, spacing: Sequence[float], plan: Plan) -> Prepared:
    """Bring a scan, (z, y, x) with its spacing in mm, onto the network's grid.

    Raises InputError for an array that is not 3-D, is empty or not finite, and for spacing that is not three positive
    numbers.
    """
    volume, spacing = _checked(volume, spacing)
    volume = volume.transpose(plan.transpose)
    spacing = tuple(spacing[i] for i in plan.transpose)
    box = nonzero_box(volume)
    cropped = np.ascontiguousarray(volume[box], dtype=np.float32)
    if plan.harmonise:
        cropped = harmonise(cropped)
    tensor = torch.from_numpy(ct_normalise(cropped, plan.intensity))[None]
    shape = new_shape(cropped.shape, spacing, plan.spacing)
    if math.prod(shape) > LARGEST_GRID:
        grid = "x".join(map(str, shape))
        raise InputError(
            f"spacing: found {spacing} mm, which makes {grid} voxels at the model's {plan.spacing} mm, "
            f"expected at most {LARGEST_GRID} voxels"
        )
    axis = separate_axis(spacing, plan)
    tensor = resample(tensor, shape, axis)
    return Prepared(tensor, box, volume.shape, plan.transpose, axis)


def nonzero_box(volume: Array, padding: Padding | None = None) -> tuple[slice, ...]:
    """The smallest box around all voxels that are neither zero nor padding (the whole volume if there is none)."""
    whole = box = tuple(slice(0, n) for n in volume.shape)
    for axis, length in enumerate(volume.shape):

        def part(planes: slice, axis: int = axis) -> tuple[slice, ...]:
            return (*box[:axis], planes, *box[axis + 1 :])

        def used(at: int) -> bool:
            plane = part(slice(at, at + 1))
            return bool((volume[plane] != 0 if padding is None else (volume[plane] != 0) & ~padding.mask(plane)).any())

        first = next(filter(used, range(length)), None)
        if first is None:
            return whole
        box = part(slice(first, next(filter(used, reversed(range(length)))) + 1))
    return box


def ct_normalise(volume: np.ndarray, intensity: dict[str, float]) -> np.ndarray:
    """nnU-Net's CTNormalization: clip to the training percentiles, subtract the mean, divide by the deviation."""
    clipped = np.clip(volume, intensity["percentile_00_5"], intensity["percentile_99_5"])
    return (clipped - np.float32(intensity["mean"])) / np.float32(max(intensity["std"], 1e-8))


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """How many voxels of the target spacing cover a grid (at least one along each axis)."""
    return tuple(max(1, round(s / t * n)) for n, s, t in zip(shape, spacing, target, strict=True))


def _checked(volume: Array, spacing: Sequence[float]) -> tuple[Array, tuple[float, ...]]:
    volume = np.asarray(volume)
    if volume.ndim != 3 or volume.size == 0:
        raise InputError(f"volume: found shape {volume.shape}, expected (z, y, x) with at least one voxel")
    if volume.dtype.kind not in "biuf":
        raise InputError(f"volume: found {volume.dtype} voxels, expected real numbers")
    if volume.dtype.kind == "f" and not all(np.isfinite(plane).all() for plane in volume):
        raise InputError("volume: found NaN or infinite voxels, expected finite intensities")
    spacing = tuple(float(s) for s in spacing)
    if len(spacing) != 3 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise InputError(f"spacing: found {spacing}, expected three positive millimetre values (z, y, x)")
    return volume, spacing
