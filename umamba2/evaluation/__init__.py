"""The challenges' graders on your desk: the same numbers, sooner.

>>> from umamba2.evaluation import evaluate_multiclass
>>> report = evaluate_multiclass("predictions/", "truth/", numbering="platform", workers=4)
>>> report["aggregates"]["Dice Average"]["mean"]

`evaluate_multiclass`, `evaluate_interactive` and `evaluate_stsr` compare folders; `dice`, `iou`, `hd95` and
`surface_dice` compare two masks.
"""

from __future__ import annotations

from umamba2.lazy import lazily

__all__ = ["dice", "evaluate_interactive", "evaluate_multiclass", "evaluate_stsr", "hd95", "iou", "surface_dice"]

__getattr__ = lazily(
    __name__,
    {
        "dice": "metrics",
        "evaluate_interactive": "toothfairy3",
        "evaluate_multiclass": "toothfairy3",
        "evaluate_stsr": "stsr",
        "hd95": "metrics",
        "iou": "metrics",
        "surface_dice": "metrics",
    },
)
