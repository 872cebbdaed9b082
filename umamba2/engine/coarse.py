"""An answer for everything at once, when there is no time for tile after tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from umamba2.engine.tiles import Box
from umamba2.scans.clicks import Clicks


def squeezed(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """A volume (z, y, x) on a coarser grid of that shape, each voxel the mean of what it stands for."""
    return F.adaptive_avg_pool3d(volume[None, None].float(), list(shape))[0, 0]  # type: ignore[arg-type]


def squeezed_clicks(clicks: Clicks | None, shape: Sequence[int], patch: Sequence[int]) -> Clicks | None:
    """Clicks on a volume of that shape, for a network that sees all of it as one patch."""
    if clicks is None:
        return None
    return Clicks((clicks.coordinates + 0.5) * (np.array(patch) / np.array(shape)) - 0.5, clicks.labels)


def part(logits: Tensor, shape: Sequence[int], box: Box) -> Tensor:
    """What the coarse logits (classes, z, y, x) of a volume of that shape say about a part of it."""
    for axis, (where, size) in enumerate(zip(box, shape), start=1):
        at = (torch.arange(where.start, where.stop, device=logits.device) + 0.5) * (logits.shape[axis] / size)
        logits = logits.index_select(axis, at.long())
    return logits
