"""One pass over a tile that is too large for the memory: the tile in overlapping pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

OVERLAP = 1 / 8  # of the halved axis, to either side of the middle

Prompt = tuple[Tensor, Tensor]


def in_pieces(
    net: Callable[..., Tensor], x: Tensor, prompt: Prompt | None, halvings: int, multiple: Sequence[int]
) -> Tensor:
    """Run a network over (B, 1, z, y, x), its longest axis halved so many times; (B, classes, z, y, x).

    Sizes of pieces are multiples of ``multiple`` (z, y, x). Clicks beyond a piece count as none in it. The logits are
    close to those of the whole tile, not equal: norms and the Mamba layer see less.
    """
    part = cut(x.shape[2:], multiple) if halvings else None
    if part is None:
        return net(x) if prompt is None else net(x, prompt)
    axis, size = part
    whole, dim = x.shape[2 + axis], 2 + axis
    middle, start = whole // 2, whole - size
    low = in_pieces(net, x.narrow(dim, 0, size), _within(prompt, axis, whole, 0, size), halvings - 1, multiple)
    high = in_pieces(net, x.narrow(dim, start, size), _within(prompt, axis, whole, start, size), halvings - 1, multiple)
    return torch.cat([low.narrow(dim, 0, middle), high.narrow(dim, middle - start, whole - middle)], dim)


def cut(shape: Sequence[int], multiple: Sequence[int]) -> tuple[int, int] | None:
    """The axis to halve and the size of the pieces; None if none gets smaller."""
    for axis in sorted(range(3), key=lambda a: -shape[a]):
        half = shape[axis] * (0.5 + OVERLAP)
        size = -int(-half // multiple[axis]) * multiple[axis]
        if size < shape[axis]:
            return axis, size
    return None


def _within(prompt: Prompt | None, axis: int, whole: int, start: int, size: int) -> Prompt | None:
    """Clicks of a tile for one of its pieces, scaled as the point encoder expects: to a patch of the usual size."""
    if prompt is None:
        return None
    coordinates, labels = prompt[0].clone(), prompt[1]
    at = coordinates[..., axis] - start
    coordinates[..., axis] = (at + 0.5) * (whole / size) - 0.5
    return coordinates, torch.where((at >= -0.5) & (at < size - 0.5), labels, -1)
