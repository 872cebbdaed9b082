"""What the container's two ways in share, `inference.py` and `umamba2.serving`: the options, and the loaded model.

Settings come from options, else from UMAMBA2_* variables; an empty variable counts as none.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umamba2.challenges import Challenge
    from umamba2.jobs import Job

MARGIN = 0.95  # of a time limit is used: a busy machine may take longer for the last steps than for those before

MODEL_PLACES = (Path("/opt/ml/model"), Path(__file__).resolve().parents[2] / "resources")


def option_parser(description: str, **options) -> argparse.ArgumentParser:
    """An argument parser with the options of both; ``options`` go to argparse."""
    environment = {name: value for name, value in os.environ.items() if value}.get
    parser = argparse.ArgumentParser(description=description, **options)
    parser.add_argument(
        "--challenge",
        default=environment("UMAMBA2_CHALLENGE"),
        help="toothfairy3-multiclass, toothfairy3-interactive or stsr",
    )
    parser.add_argument("--input", default=environment("UMAMBA2_INPUT"), help="default: /input or /inputs")
    parser.add_argument("--output", default=environment("UMAMBA2_OUTPUT"), help="default: /output or /outputs")
    parser.add_argument(
        "--model", default=environment("UMAMBA2_MODEL"), help="default: /opt/ml/model, then resources/ beside the code"
    )
    parser.add_argument("--label-map", choices=("platform", "public", "training"), default="platform")
    parser.add_argument(
        "--suffix", default=environment("UMAMBA2_STSR_SUFFIX"), help="STSR: <case><suffix>.nii.gz (default: _Mask)"
    )
    parser.add_argument("--folds", nargs="+", help="numbers or 'all' (default: every fold there is)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", choices=("auto", "fp16", "bf16", "fp32"), default="auto")
    add_limits(parser, environment("UMAMBA2_TIME_LIMIT"))
    return parser


def add_limits(parser: argparse.ArgumentParser, seconds: str | None = None) -> None:
    """Add the options that say when to be done, and what counts as done."""
    parser.add_argument(
        "--time-limit",
        type=_seconds,
        default=seconds,
        metavar="S",
        help="seconds until everything must be written; gives up mirror images, folds, overlap and detail as needed",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail if anything was not as it should be, even if every case has an output",
    )


def deadline(options: argparse.Namespace, start: float) -> float | None:
    """When to be done, on `time.monotonic`'s clock, if the work began at ``start``."""
    return None if options.time_limit is None else start + MARGIN * options.time_limit


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}, expected a positive number of seconds")
    return value


def mounts(challenge: Challenge, options: argparse.Namespace) -> tuple[Path, Path]:
    """The input and the output folder: those of the options, else the platform's."""
    return Path(options.input or challenge.mounts[0]), Path(options.output or challenge.mounts[1])


def load_job(challenge: Challenge, options: argparse.Namespace) -> Job:
    """Load the model for a challenge. Raises InputError if there is none, or it is one for something else."""
    from umamba2 import jobs

    model = jobs.find_model(challenge.name, [options.model] if options.model else MODEL_PLACES)

    from umamba2.engine.predict import Predictor  # torch takes seconds to import: not before it is needed

    predictor = Predictor.from_folder(
        model,
        folds=options.folds,
        device=options.device,
        precision=options.precision,
        **challenge.predictor_settings(),
    )
    jobs.check_model(predictor, challenge, model)
    return jobs.Job(predictor, challenge, options.label_map, background_on_failure=True)
