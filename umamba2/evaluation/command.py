"""``umamba2 evaluate``: grade predictions as the challenges do."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from umamba2.anatomy.structures import WRITTEN_NUMBERINGS
from umamba2.challenges import CHALLENGES, find_challenge
from umamba2.errors import InputError
from umamba2.files import OutputRegistry, write_file
from umamba2.messages import say

# What a line on the screen shows; the file has everything.
_SHOWN = {
    "classes": ("Dice Average", "HD95 Average"),
    "click runs": ("Dice_AUC", "Dice_Final", "HD95_AUC", "HD95_Final"),
}


def add_parser(commands) -> None:
    """Add ``evaluate`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "evaluate", help="grade segmentations", description="Grade segmentations as the challenge's own grader does."
    )
    parser.set_defaults(command=run)
    parser.add_argument("challenge", choices=CHALLENGES)
    parser.add_argument(
        "-p", "--predictions", required=True, type=Path, help="folder of label maps, or of results.json and images/"
    )
    parser.add_argument("-g", "--ground-truth", required=True, type=Path, help="folder of label maps")
    parser.add_argument("-o", "--output", required=True, type=Path, help="where to write the scores (JSON)")
    parser.add_argument("--numbering", "--label-map", choices=WRITTEN_NUMBERINGS, help="ids in the predictions")
    parser.add_argument("--workers", type=_at_least_one, default=1, help="processes, one case each (default: 1)")


def run(options: argparse.Namespace) -> int:
    """Grade, write the scores and print the gist; returns 0, or 1 if anything was missing or odd."""
    from umamba2.evaluation.cases import files_read

    places = OutputRegistry(
        path for folder in (options.predictions, options.ground_truth) for path in files_read(folder)
    )
    places.claim(options.output, options.predictions)
    report = _evaluate(options)
    write_file(options.output, json.dumps(report, indent=2, allow_nan=False) + "\n")
    for problem in report["problems"]:
        say(f"warning: {problem}", sys.stderr)
    grading = find_challenge(options.challenge).grading
    if grading == "instances":
        scores = {name: value for name, value in report.items() if isinstance(value, float)}
    else:
        scores = {name: report["aggregates"][name]["mean"] for name in _SHOWN[grading]}
    say("  ".join(f"{name} {value:.4f}" for name, value in scores.items()) + f"  -> {options.output}")
    return 1 if report["problems"] else 0


def _evaluate(options: argparse.Namespace) -> dict:
    folders, challenge = (options.predictions, options.ground_truth), find_challenge(options.challenge)
    numbering = options.numbering or challenge.numbering
    try:
        if challenge.grading == "instances":
            from umamba2.evaluation.stsr import evaluate_stsr

            return evaluate_stsr(*folders, workers=options.workers)
        from umamba2.evaluation.toothfairy3 import evaluate_classes, evaluate_click_runs
    except ImportError as error:
        raise InputError(f"evaluate: found no {error.name}, expected pip install 'umamba2[evaluate]'") from None
    evaluate = evaluate_click_runs if challenge.grading == "click runs" else evaluate_classes
    return evaluate(challenge, *folders, numbering, options.workers)


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected at least 1")
    return value
