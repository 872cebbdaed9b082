"""One pass over a tile that is too large for the memory: the tile in overlapping pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from umamba2.engine.cpu import arena
from umamba2.engine.tiles import Box, all_classes

OVERLAP = 1 / 8  # of the halved axis, to either side of the middle

Prompt = tuple[Tensor, Tensor]


def in_pieces(
    net: Callable[..., Tensor], x: Tensor, prompt: Prompt | None, halvings: int, multiple: Sequence[int]
) -> Tensor:
    """Run a network over (B, 1, z, y, x), its longest axis halved so many times; (B, classes, z, y, x).

    Sizes of pieces are multiples of ``multiple`` (z, y, x). Clicks beyond a piece count as none in it. The logits are
    close to those of the whole tile, not equal: norms and the Mamba layer see less.
    """
    if not halvings:
        return net(x) if prompt is None else net(x, prompt)
    shape = x.shape[2:]
    everything = tuple(slice(0, n) for n in shape)
    joined = None
    for read, kept in _halved(everything, everything, halvings, multiple):
        seen = x[_batch(read)]
        logits = net(seen) if prompt is None else net(seen, _within(prompt, read, shape))
        if joined is None:
            joined = arena.empty((*logits.shape[:2], *shape), logits.dtype, logits.device)
        own = tuple(slice(k.start - r.start, k.stop - r.start) for k, r in zip(kept, read))
        joined[_batch(kept)] = logits[_batch(own)]
        del logits  # or they would still be there beside those of the next piece
    assert joined is not None
    return joined


def _batch(box: Box) -> Box:
    return (slice(None), *all_classes(box))


def cut(shape: Sequence[int], multiple: Sequence[int]) -> tuple[int, int] | None:
    """The axis to halve and the size of the pieces; None if none gets smaller."""
    for axis in sorted(range(3), key=lambda a: -shape[a]):
        half = shape[axis] * (0.5 + OVERLAP)
        size = -int(-half // multiple[axis]) * multiple[axis]
        if size < shape[axis]:
            return axis, size
    return None


def _halved(read: Box, kept: Box, halvings: int, multiple: Sequence[int]) -> Iterator[tuple[Box, Box]]:
    """A part of a tile in pieces: what each of them reads, and what of that is kept."""
    part = cut([side.stop - side.start for side in read], multiple) if halvings else None
    if part is None:
        yield read, kept
        return
    axis, size = part
    start, stop = read[axis].start, read[axis].stop
    middle = start + (stop - start) // 2
    for side, own in ((slice(start, start + size), (0, middle)), (slice(stop - size, stop), (middle, stop))):
        keep = slice(max(own[0], kept[axis].start), min(own[1], kept[axis].stop))
        if keep.start < keep.stop:
            yield from _halved(_with(read, axis, side), _with(kept, axis, keep), halvings - 1, multiple)


def _with(box: Box, axis: int, side: slice) -> Box:
    return (*box[:axis], side, *box[axis + 1 :])


def _within(prompt: Prompt, read: Box, shape: Sequence[int]) -> Prompt:
    """Clicks of a tile for one of its pieces, scaled as the point encoder expects: to a patch of the usual size."""
    sides = [side.start for side in read], [side.stop - side.start for side in read], list(shape)
    start, size, whole = torch.tensor(sides, device=prompt[0].device)
    at = prompt[0] - start
    inside = ((at >= -0.5) & (at < size - 0.5)).all(-1)
    return (at + 0.5) * (whole / size) - 0.5, torch.where(inside, prompt[1], -1)
