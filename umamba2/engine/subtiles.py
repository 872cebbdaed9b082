"""One pass over a tile that is too large for the memory: the tile in overlapping sub-tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from umamba2.engine.cpu import activations
from umamba2.engine.tiles import Box, all_classes
from umamba2.nets import ClickTensors

Network = Callable[[Tensor, "ClickTensors | None"], Tensor]
OVERLAP = 1 / 8  # of the halved axis, to either side of the middle


def run_in_subtiles(
    net: Network,
    tiles: Tensor,
    clicks: ClickTensors | None,
    halvings: int,
    multiple: Sequence[int],
) -> Tensor:
    """Run a network over a batch of tiles, sub-tile by sub-tile; (B, classes, z, y, x).

    The logits are close to those of whole tiles, not equal: norms and the Mamba layer see less.

    Args:
        net: The network.
        tiles: (B, 1, z, y, x).
        clicks: Those on the tiles; in a sub-tile, clicks that lie beyond it count as none.
        halvings: How many times the longest axis is halved; 0 runs whole tiles.
        multiple: What the sizes of sub-tiles must be multiples of, (z, y, x).
    """
    if not halvings:
        return net(tiles, clicks)
    shape = tiles.shape[2:]
    everything = tuple(slice(0, n) for n in shape)
    joined = None
    for seen, kept in _split(everything, everything, halvings, multiple):
        logits = net(tiles[_batch(seen)], clicks and _within(clicks, seen, shape))
        if joined is None:
            joined = activations.tensor((*logits.shape[:2], *shape), logits.dtype, logits.device)
        own = tuple(slice(k.start - s.start, k.stop - s.start) for k, s in zip(kept, seen))
        joined[_batch(kept)] = logits[_batch(own)]
        del logits  # or they would still be there beside those of the next sub-tile
    assert joined is not None
    return joined


def halved(shape: Sequence[int], multiple: Sequence[int]) -> tuple[int, int] | None:
    """The axis to halve and the size of its overlapping halves; None if no axis gets smaller."""
    for axis in sorted(range(3), key=lambda a: -shape[a]):
        half = shape[axis] * (0.5 + OVERLAP)
        size = -int(-half // multiple[axis]) * multiple[axis]
        if size < shape[axis]:
            return axis, size
    return None


def _split(seen: Box, kept: Box, halvings: int, multiple: Sequence[int]) -> Iterator[tuple[Box, Box]]:
    """Part of a tile in sub-tiles: what the network sees of each, and what is kept of that."""
    half = halved([side.stop - side.start for side in seen], multiple) if halvings else None
    if half is None:
        yield seen, kept
        return
    axis, size = half
    start, stop = seen[axis].start, seen[axis].stop
    middle = start + (stop - start) // 2
    for side, own in ((slice(start, start + size), (0, middle)), (slice(stop - size, stop), (middle, stop))):
        keep = slice(max(own[0], kept[axis].start), min(own[1], kept[axis].stop))
        if keep.start < keep.stop:
            yield from _split(_replaced(seen, axis, side), _replaced(kept, axis, keep), halvings - 1, multiple)


def _batch(box: Box) -> Box:
    return (slice(None), *all_classes(box))


def _replaced(box: Box, axis: int, side: slice) -> Box:
    return (*box[:axis], side, *box[axis + 1 :])


def _within(clicks: ClickTensors, seen: Box, shape: Sequence[int]) -> ClickTensors:
    """The clicks on a tile for one of its sub-tiles, scaled to a tile of the usual size as the point encoder wants."""
    sides = [side.start for side in seen], [side.stop - side.start for side in seen], list(shape)
    start, size, whole = torch.tensor(sides, device=clicks.coordinates.device)
    at = clicks.coordinates - start
    inside = ((at >= -0.5) & (at < size - 0.5)).all(-1)
    return ClickTensors((at + 0.5) * (whole / size) - 0.5, torch.where(inside, clicks.labels, -1))
