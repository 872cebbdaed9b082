"""The sliding window seen from outside: its blended scores, and the naive way to the same that holds everything."""

from __future__ import annotations

import torch

from umamba2.engine.blend import Accumulator
from umamba2.engine.budget import Budget
from umamba2.engine.record import Record
from umamba2.engine.tiles import Sweep, all_classes, gaussian
from umamba2.engine.window import SlidingWindow

CPU = torch.device("cpu")


@torch.inference_mode()
def scores(predictor, tensor, clicks=None):
    """Blended scores of a prepared scan, (1, z, y, x) at least as large as a patch -> (classes, z, y, x)."""
    out = torch.full((predictor.num_classes, *tensor.shape[1:]), torch.nan)

    def finish(box, part):
        assert out[all_classes(box)].isnan().all(), "finished twice"
        out[all_classes(box)] = part

    sweep = Sweep(tensor.shape[1:], predictor.plan.patch_size, predictor.tile_step)
    accumulator = Accumulator(
        sweep, predictor.plan.patch_size, predictor.num_classes, predictor.blend, False, CPU, finish
    )
    window = SlidingWindow(predictor.runner, predictor.blend, Budget(None, len(predictor.runner.passes)), Record())
    window._fill(accumulator, tensor[0], clicks)
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
