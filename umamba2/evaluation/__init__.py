"""The challenges' graders on your desk: the same numbers, sooner.

>>> from umamba2.evaluation import evaluate
>>> report = evaluate("toothfairy3-multiclass", "predictions/", "truth/", workers=4)
>>> report["aggregates"]["Dice Average"]["mean"]

`evaluate` compares folders; `dice`, `iou`, `hd95` and `surface_dice` compare two masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from umamba2.lazy import lazily

if TYPE_CHECKING:
    from umamba2.evaluation.graders import evaluate
    from umamba2.evaluation.metrics import dice, hd95, iou, surface_dice

__all__ = ["dice", "evaluate", "hd95", "iou", "surface_dice"]

if not TYPE_CHECKING:
    __getattr__ = lazily(
        __name__, {"evaluate": "graders", **dict.fromkeys(("dice", "hd95", "iou", "surface_dice"), "metrics")}
    )
