"""Whose model it is: the trainers and data sets of the published method, by name.

The names are those of the released code (github.com/zhiqin1998/UMamba2) and of its instructions. Its trainers for
ToothFairy3 write ``inference_allowed_mirroring_axes = (0, 1)`` into their checkpoints, those for STSR nnU-Net's
(0, 1, 2); all of them train with mirror images along all three axes, and the released inference reads neither: it
averages over mirror images along (1, 2). For every other trainer the checkpoint's word stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from umamba2.challenges import Challenge
from umamba2.challenges.stsr import STSR
from umamba2.challenges.toothfairy3 import INTERACTIVE, MULTICLASS
from umamba2.models.labels import misplaced, pairs_by_name

# How the names of trainers begin, with the challenge whose classes they train. LRMirror swaps those of task 1.
TRAINERS = {
    "nnUNetTrainer_TF3_Task1": MULTICLASS,
    "nnUNetTrainer_TF3_Task2": INTERACTIVE,
    "nnUNetTrainer_LRMirror": MULTICLASS,
    "nnUNetTrainer_STSR": STSR,
    "nnUNetTrainer_STS25": STSR,
}
# What the names of data sets contain, such as Dataset119_ToothFairy3, Dataset219_ToothFairy3_IAN, Dataset319_STSR2025.
DATASETS = {"toothfairy3": (MULTICLASS, INTERACTIVE), "stsr": (STSR,), "sts25": (STSR,), "sts2025": (STSR,)}
MIRROR_AXES = (1, 2)


@dataclass(frozen=True)
class Origin:
    """What tells where a model comes from. Other classes than a challenge's, or clicks or none, mean another model."""

    trainer: str
    dataset: str
    classes: int  # background included
    takes_clicks: bool

    def challenge(self, labels: dict[str, int]) -> tuple[str | None, str]:
        """The challenge of a model that does not state one, and how it was recognised.

        Args:
            labels: Names of classes and their channels; they must not contradict the challenge.
        """
        name = "".join(filter(str.isalnum, self.dataset.lower()))
        by_name = (challenge for word, challenges in DATASETS.items() if word in name for challenge in challenges)
        for what, found in (
            (f"the trainer {self.trainer}", self._trained_for()),
            (f"the data set {self.dataset}", self._fitting(by_name)),
        ):
            if found is not None:
                known = {frozenset(pair) for pair in found.predictor_settings()["left_right_pairs"]}
                pairs = {frozenset(pair) for pair in pairs_by_name(labels)}
                if not pairs <= known or misplaced(labels, found):
                    return None, f"not stated; {what} is of {found.name}, but the names of the classes are not"
                return found.name, f"recognised by {what} and {self.classes} classes"
        return None, "not stated"

    def mirror_axes(self, stored: tuple[int, ...] | None, where: str) -> tuple[tuple[int, ...], str]:
        """The axes along which mirror images may be averaged, in the plan's order, and why these.

        Args:
            stored: What the model says; None for nothing.
            where: What says it.
        """
        if self._trained_for() is not None:
            return MIRROR_AXES, f"as the published inference for {self.trainer}, whatever {where} says"
        return stored or (), f"{'not ' if stored is None else ''}stated in {where}"

    def _trained_for(self) -> Challenge | None:
        return self._fitting(c for start, c in TRAINERS.items() if self.trainer.startswith(start))

    def _fitting(self, challenges: Iterable[Challenge]) -> Challenge | None:
        own = self.classes, self.takes_clicks
        return next((c for c in challenges if (c.num_classes, c.takes_clicks) == own), None)
