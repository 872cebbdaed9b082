"""The challenges' graders on your desk: the same numbers, sooner.

>>> from umamba2.evaluation import evaluate_multiclass
>>> report = evaluate_multiclass("predictions/", "truth/", label_map="platform", workers=4)
>>> report["aggregates"]["Dice Average"]["mean"]

`evaluate_multiclass`, `evaluate_interactive` and `evaluate_stsr` compare folders; `dice`, `iou`, `hd95` and
`surface_dice` compare two masks.
"""

from __future__ import annotations

__all__ = ["dice", "evaluate_interactive", "evaluate_multiclass", "evaluate_stsr", "hd95", "iou", "surface_dice"]

_HOMES = {
    "dice": "umamba2.evaluation.metrics",
    "evaluate_interactive": "umamba2.evaluation.toothfairy3",
    "evaluate_multiclass": "umamba2.evaluation.toothfairy3",
    "evaluate_stsr": "umamba2.evaluation.stsr",
    "hd95": "umamba2.evaluation.metrics",
    "iou": "umamba2.evaluation.metrics",
    "surface_dice": "umamba2.evaluation.metrics",
}


def __getattr__(name: str):
    # The command line asks this package for its options, and must not wait for scipy to get them.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'umamba2.evaluation' has no attribute {name!r}")
