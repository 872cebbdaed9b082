"""The grader of any challenge."""

from __future__ import annotations

from pathlib import Path

from umamba2.challenges import Challenge, find_challenge
from umamba2.evaluation.cases import Report
from umamba2.evaluation.stsr import evaluate_instances
from umamba2.evaluation.toothfairy3 import evaluate_classes, evaluate_click_runs

_GRADERS = {"classes": evaluate_classes, "click runs": evaluate_click_runs, "instances": evaluate_instances}


def evaluate(
    challenge: str | Challenge,
    predictions: str | Path,
    truths: str | Path,
    numbering: str | None = None,
    workers: int = 1,
) -> Report:
    """Grade label maps as a challenge's own grader does.

    Args:
        challenge: The challenge, or its name.
        predictions: A folder of label maps, or a container's output folder.
        truths: A folder of label maps, in whose files the ids of the released label maps are understood too.
        numbering: The ids in the predictions: "platform", "public" or "training"; None for the challenge's default.
        workers: Processes, one case each.

    Returns:
        The grader's scores in its own form, with ``per_class``, one row for each class, and ``problems``, one line for
        everything that was not as it should be.

    Raises:
        InputError: A ground truth or a setting cannot be used.
    """
    challenge = find_challenge(challenge) if isinstance(challenge, str) else challenge
    return _GRADERS[challenge.grading](challenge, predictions, truths, numbering or challenge.numbering, workers)
