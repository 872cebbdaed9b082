"""``umamba2 evaluate``: grade predictions as the challenges do."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from umamba2.anatomy.structures import WRITTEN_NUMBERINGS
from umamba2.arguments import positive, some_path
from umamba2.challenges import CHALLENGES
from umamba2.errors import needing
from umamba2.files import OutputRegistry, write_file
from umamba2.messages import say

# What the line on the screen leaves out; the file has everything.
_NOT_SHOWN = ("pred_fname", "gt_fname")


def add_parser(commands: Any) -> None:
    """Add ``evaluate`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "evaluate", help="grade segmentations", description="Grade segmentations as the challenge's own grader does."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("challenge", choices=CHALLENGES)
    what = "folder of label maps, or of results.json and images/"
    add("-p", "--predictions", required=True, type=some_path, help=what)
    add("-g", "--ground-truth", required=True, type=some_path, help="folder of label maps")
    add("-o", "--output", required=True, type=some_path, help="where to write the scores (JSON)")
    what = "ids in the predictions (default: the challenge's, platform)"
    add("--numbering", "--label-map", choices=WRITTEN_NUMBERINGS, help=what)
    add("--workers", type=positive(int), default=1, help="processes, one case each (default: 1)")


def run(options: argparse.Namespace) -> int:
    """Grade, write the scores and print the gist; returns 0, or 1 if anything was missing or odd."""
    with needing("evaluate", "evaluate"):
        from umamba2.evaluation.cases import files_read
        from umamba2.evaluation.graders import evaluate

    folders = options.predictions, options.ground_truth
    OutputRegistry(path for folder in folders for path in files_read(folder)).claim(options.output, options.predictions)
    report = evaluate(options.challenge, *folders, options.numbering, options.workers)
    write_file(options.output, json.dumps(report, indent=2, allow_nan=False) + "\n")
    for problem in report["problems"]:
        say(f"warning: {problem}", sys.stderr)
    scores = {name: value for name, value in report.items() if isinstance(value, float)}
    for name, summary in report.get("aggregates", {}).items():
        if name not in _NOT_SHOWN:
            scores[name] = summary["mean"]
    say("  ".join(f"{name} {value:.4f}" for name, value in scores.items()) + f"  -> {options.output}")
    return 1 if report["problems"] else 0
