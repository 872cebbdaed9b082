"""The sliding window seen from outside: its blended scores, and the naive way to the same that holds everything."""

from __future__ import annotations

import torch

from umamba2.engine.blend import Accumulator
from umamba2.engine.budget import Budget
from umamba2.engine.preprocess import Prepared
from umamba2.engine.record import Record
from umamba2.engine.tiles import Sweep, all_classes, gaussian
from umamba2.engine.window import SlidingWindow

CPU = torch.device("cpu")


def window_of(predictor, tensor, clicks=None, budget=None, record=None):
    """The sliding window over a prepared scan, (1, z, y, x), whose grid is the network's."""
    shape = tuple(tensor.shape[1:])
    prepared = Prepared(tensor, tuple(slice(0, n) for n in shape), shape, (0, 1, 2), None)
    budget = budget or Budget(None, len(predictor.runner.passes))
    return SlidingWindow(predictor.runner, prepared, clicks, predictor.blend, budget, record or Record())


@torch.inference_mode()
def scores(predictor, tensor, clicks=None):
    """Blended scores of a prepared scan, (1, z, y, x) at least as large as a patch -> (classes, z, y, x)."""
    out = torch.full((predictor.num_classes, *tensor.shape[1:]), torch.nan)

    def finish(box, part):
        assert out[all_classes(box)].isnan().all(), "finished twice"
        out[all_classes(box)] = part

    patch, classes = predictor.plan.patch_size, predictor.num_classes
    sweep = Sweep(tensor.shape[1:], patch, predictor.tile_step)
    window_of(predictor, tensor, clicks)._fill(Accumulator(sweep, patch, classes, predictor.blend, False, CPU, finish))
    return out


def hold_everything(sweep, patch, classes, how, logits_of):
    """Weighted sums over the whole volume, and the sums of weights; ``logits_of`` a tile, None for a tile left out."""
    shape = [max(tile.box[axis].stop for tile in sweep.tiles) for axis in range(3)]
    total, weights = torch.zeros(classes, *shape), torch.zeros(shape)
    for tile in sweep.tiles:
        logits = logits_of(tile)
        if logits is None:
            continue
        factor = 100 / max(logits.max().item(), 1) if how == "published" else 1
        total[all_classes(tile.box)] += logits * factor * gaussian(patch)
        weights[tile.box] += gaussian(patch)
    return total, weights
