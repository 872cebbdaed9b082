"""From a scan to the network's grid and back, as nnU-Net does it (transpose, crop, normalise, resample).

Nothing here imports nnU-Net, whose start-up costs seconds; the tests hold it against nnU-Net itself. The scan is worked
on a few planes at a time, so that beside it there is never more than the finished tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from umamba2.engine.greys import doubts
from umamba2.engine.harmonise import Box, grey_scale, without_air
from umamba2.engine.padding import Padding, find_padding
from umamba2.engine.resample import resample_rows, separate_axis
from umamba2.errors import InputError
from umamba2.models.network import Plan

LARGEST_GRID = 2**29  # voxels: several times the largest dental scan; beyond it the spacing must be wrong
AT_ONCE = 2**20  # voxels normalised at once, or one plane: they stay in the caches

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prepared:
    """A scan on the network's grid, with what it takes to go back.

    Attributes:
        tensor: (1, z, y, x) float32, normalised, in the plan's axis order and spacing.
        box: The part of the (transposed) scan that it covers, in the scan's voxels.
        shape: The whole (transposed) scan's.
        transpose: The plan's axes as axes of the scan.
        separate_axis: The plan's axis along which the tensor is not interpolated, if there is one.
        padding: Voxels of the (transposed) scan that no scanner measured, if there are any.
        warnings: What is odd about the scan, one line each.
    """

    tensor: Tensor
    box: Box
    shape: tuple[int, ...]
    transpose: tuple[int, ...]
    separate_axis: int | None
    padding: Padding | None = None
    warnings: tuple[str, ...] = ()

    @property
    def box_shape(self) -> tuple[int, ...]:
        """The size of the box, in the scan's voxels."""
        return tuple(s.stop - s.start for s in self.box)

    def to_grid(self, coordinates: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Voxel indices in the scan, (N, 3), as (fractional) voxel indices on this grid."""
        inside = coordinates[:, list(self.transpose)] - np.array([s.start for s in self.box])
        scale = np.array(self.tensor.shape[1:]) / np.array(self.box_shape)
        voxels: npt.NDArray[Any] = (inside + 0.5) * scale - 0.5  # voxel centres stay where they are in space
        return voxels

    def on_scan(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A label map of the box, in the scan's voxels and the plan's axis order, as one of the whole scan.

        Padding becomes background.
        """
        out = np.zeros(self.shape, dtype=np.uint8)
        out[self.box] = labels
        if self.padding is not None:
            out[self.box][self.padding.mask(self.box)] = 0
        return np.ascontiguousarray(out.transpose(np.argsort(self.transpose)))


def prepare(volume: npt.NDArray[Any], spacing: Sequence[float], plan: Plan) -> Prepared:
    """Bring a scan onto the network's grid.

    Args:
        volume: Intensities (z, y, x) of any real type; not changed.
        spacing: Of the voxels in mm, (z, y, x).
        plan: What the network expects.

    Raises:
        InputError: The array is not 3-D, is empty or not finite, the spacing is not three positive numbers, or the
            network's grid would be larger than any dental scan.
    """
    volume, spacing = _checked(volume, spacing)
    volume = volume.transpose(plan.transpose)
    spacing = tuple(spacing[i] for i in plan.transpose)
    padding = find_padding(volume)
    box = nonzero_box(volume, padding)
    if padding is not None and set(padding.values) == {0} and not padding.mask(box).any():
        padding = None  # zeros around everything are cut off without a word, as nnU-Net does it
    if plan.harmonise:
        box = without_air(volume, box, padding)
    inside = volume[box]
    shape = new_shape(inside.shape, spacing, plan.spacing)
    if math.prod(shape) > LARGEST_GRID:
        grid = "x".join(map(str, shape))
        raise InputError(
            f"spacing: found {spacing} mm, which makes {grid} voxels at the model's {plan.spacing} mm, "
            f"expected at most {LARGEST_GRID} voxels"
        )
    warnings = []
    if min(volume.shape) == 1:
        warnings.append(f"found {'x'.join(map(str, volume.shape))} voxels, expected a volume and not a single slice")
    warnings += doubts(volume, box, padding.values if padding else ())
    scale, problems = grey_scale(inside, padding, plan.harmonise)
    axis = separate_axis(spacing, plan)
    lead = axis or 0
    portions = (
        torch.from_numpy(ct_normalise(scale.apply(volume, part), plan.intensity))[None].movedim(1 + lead, 1)
        for part in _portions(box, lead)
    )
    tensor = resample_rows(portions, inside.shape, shape, axis)
    return Prepared(tensor, box, volume.shape, plan.transpose, axis, padding, (*warnings, *problems))


def _portions(box: Box, axis: int) -> Iterator[Box]:
    """A box in parts of a few planes along an axis."""
    area = math.prod(side.stop - side.start for a, side in enumerate(box) if a != axis)
    step = max(1, AT_ONCE // area)
    for start in range(box[axis].start, box[axis].stop, step):
        yield _with(box, axis, slice(start, min(start + step, box[axis].stop)))


def _with(box: Box, axis: int, side: slice) -> Box:
    return (*box[:axis], side, *box[axis + 1 :])


def nonzero_box(volume: Array, padding: Padding | None = None) -> Box:
    """The smallest box around all voxels that are neither zero nor padding (the whole volume if there is none)."""

    def used(part: Box) -> bool:
        return bool((volume[part] != 0 if padding is None else (volume[part] != 0) & ~padding.mask(part)).any())

    whole = box = tuple(slice(0, n) for n in volume.shape)
    for axis, length in enumerate(volume.shape):
        planes = [_with(box, axis, slice(i, i + 1)) for i in range(length)]
        first = next((i for i in range(length) if used(planes[i])), None)
        if first is None:
            return whole
        last = next(i for i in reversed(range(length)) if used(planes[i]))
        box = _with(box, axis, slice(first, last + 1))
    return box


def ct_normalise(values: npt.NDArray[np.float32], intensity: dict[str, float]) -> npt.NDArray[np.float32]:
    """nnU-Net's CTNormalization, in place: clip to the percentiles, subtract the mean, divide by the deviation."""
    np.clip(values, intensity["percentile_00_5"], intensity["percentile_99_5"], out=values)
    values -= np.float32(intensity["mean"])
    values /= np.float32(max(intensity["std"], 1e-8))
    return values


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """How many voxels of the target spacing cover a grid (at least one along each axis)."""
    return tuple(max(1, round(s / t * n)) for n, s, t in zip(shape, spacing, target, strict=True))


def _checked(volume: Array, spacing: Sequence[float]) -> tuple[Array, tuple[float, ...]]:
    volume = np.asarray(volume)
    if volume.ndim != 3 or volume.size == 0:
        raise InputError(f"volume: found shape {volume.shape}, expected (z, y, x) with at least one voxel")
    if volume.dtype.kind not in "biuf":
        raise InputError(f"volume: found {volume.dtype} voxels, expected real numbers")
    if volume.dtype.kind == "b":
        volume = volume.view(np.uint8)
    if volume.dtype.kind == "f" and not all(np.isfinite(plane).all() for plane in volume):
        raise InputError("volume: found NaN or infinite voxels, expected finite intensities")
    spacing = tuple(float(s) for s in spacing)
    if len(spacing) != 3 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise InputError(f"spacing: found {spacing}, expected three positive millimetre values (z, y, x)")
    return volume, spacing
