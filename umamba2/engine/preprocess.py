"""From a scan to the network's grid and back, as nnU-Net does it (transpose, crop, normalise, resample).

Nothing here imports nnU-Net, whose start-up costs seconds; the tests hold it against nnU-Net itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from umamba2.checkpoints import Plan
from umamba2.engine.harmonise import harmonise
from umamba2.errors import InputError

SLAB_ELEMENTS = 2**25  # resampled scores held at once: 128 MiB in fp32
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

    def to_labels(self, scores: Tensor) -> np.ndarray:
        """Scores on this grid, (classes, z, y, x), as a uint8 label map on the scan's: resampled, then argmax.

        Works slab by slab, so that scores of the whole scan on its own grid never exist.
        """
        out = np.zeros(self.shape, dtype=np.uint8)
        axis = self.separate_axis or 0
        view = np.moveaxis(out[self.box], axis, 0)
        rows = 0
        for slab in resampled_slabs(scores, self.box_shape, self.separate_axis):
            labels = slab.argmax(0).to(torch.uint8).cpu().numpy()
            view[rows : rows + len(labels)] = labels
            rows += len(labels)
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


def nonzero_box(volume: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around all voxels that are not zero (the whole volume if there is none)."""
    mask = volume != 0
    box = []
    for axis in range(volume.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(volume.ndim) if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, volume.shape[axis]))
    return tuple(box)


def ct_normalise(volume: np.ndarray, intensity: dict[str, float]) -> np.ndarray:
    """nnU-Net's CTNormalization: clip to the training percentiles, subtract the mean, divide by the deviation."""
    clipped = np.clip(volume, intensity["percentile_00_5"], intensity["percentile_99_5"])
    return (clipped - np.float32(intensity["mean"])) / np.float32(max(intensity["std"], 1e-8))


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """How many voxels of the target spacing cover a grid (at least one along each axis)."""
    return tuple(max(1, round(s / t * n)) for n, s, t in zip(shape, spacing, target, strict=True))


def separate_axis(spacing: Sequence[float], plan: Plan) -> int | None:
    """The axis that is resampled apart from the others (nearest neighbour), or None for plain trilinear.

    nnU-Net's rule: with ``force_separate_z`` None, the one axis whose spacing exceeds the finest by more than the
    threshold, in the scan or else in the plan.
    """
    if plan.force_separate_z is False:
        return None
    for candidate in (spacing, plan.spacing):
        if plan.force_separate_z or max(candidate) / min(candidate) > plan.separate_z_threshold:
            coarsest = [i for i, s in enumerate(candidate) if s == max(candidate)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample(data: Tensor, shape: Sequence[int], axis: int | None = None) -> Tensor:
    """Linear interpolation of (C, z, y, x) to a new (z, y, x) shape, voxel edges aligned; nearest along ``axis``."""
    if tuple(data.shape[1:]) == tuple(shape):
        return data
    return torch.cat(list(resampled_slabs(data, shape, axis)), dim=1).movedim(1, 1 + (axis or 0))


def resampled_slabs(data: Tensor, shape: Sequence[int], axis: int | None = None) -> Iterator[Tensor]:
    """`resample` in pieces: yields (C, rows, ., .), slab after slab, with ``axis`` (or else the first) leading."""
    lead = axis or 0
    data = data.movedim(1 + lead, 1)
    rows_out, *plane = [shape[lead], *(n for i, n in enumerate(shape) if i != lead)]
    channels, rows_in = data.shape[:2]
    largest_plane = max(math.prod(plane), data[0, 0].numel())
    step = max(1, SLAB_ELEMENTS // (channels * largest_plane))
    for start in range(0, rows_out, step):
        at = (torch.arange(start, min(start + step, rows_out), device=data.device) + 0.5) * (rows_in / rows_out)
        if axis is not None:
            slab = data[:, at.long().clamp(max=rows_in - 1)].float()
        else:
            at = (at - 0.5).clamp(min=0)
            low = at.long().clamp(max=rows_in - 1)
            high = (low + 1).clamp(max=rows_in - 1)
            if rows_in == rows_out:
                slab = data[:, low].float()
            else:
                slab = torch.lerp(data[:, low].float(), data[:, high].float(), (at - low)[None, :, None, None])
        if tuple(slab.shape[2:]) != tuple(plane):
            slab = F.interpolate(slab, plane, mode="bilinear")
        yield slab


def _checked(volume: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, tuple[float, ...]]:
    volume = np.asarray(volume)
    if volume.ndim != 3 or volume.size == 0:
        raise InputError(f"volume: found shape {volume.shape}, expected (z, y, x) with at least one voxel")
    if volume.dtype.kind not in "biuf":
        raise InputError(f"volume: found {volume.dtype} voxels, expected real numbers")
    if not np.isfinite(volume).all():
        raise InputError("volume: found NaN or infinite voxels, expected finite intensities")
    spacing = tuple(float(s) for s in spacing)
    if len(spacing) != 3 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise InputError(f"spacing: found {spacing}, expected three positive millimetre values (z, y, x)")
    return volume, spacing
