"""What the container's two entry points share, `inference.py` and `umamba2.serving`: the options, the loaded model.

Settings come from options, else from UMAMBA2_* variables; an empty variable counts as none.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umamba2.anatomy.structures import WRITTEN_NUMBERINGS
from umamba2.arguments import positive
from umamba2.challenges import CHALLENGES
from umamba2.engine.dental_field import MODES
from umamba2.models.locate import DEMO_MODELS, find_model

if TYPE_CHECKING:
    from umamba2.challenges import Challenge
    from umamba2.segmenter import Segmenter

MODEL_PLACES = (Path("/opt/ml/model"), DEMO_MODELS)


def option_parser(description: str, **options: Any) -> argparse.ArgumentParser:
    """An argument parser with the options of both entry points; ``options`` go to argparse."""
    environment = {name: value for name, value in os.environ.items() if value}.get
    parser = argparse.ArgumentParser(description=description, **options)
    parser.add_argument(
        "--challenge",
        default=environment("UMAMBA2_CHALLENGE"),
        help=", ".join(CHALLENGES),
    )
    parser.add_argument("--input", default=environment("UMAMBA2_INPUT"), help="default: /input or /inputs")
    parser.add_argument("--output", default=environment("UMAMBA2_OUTPUT"), help="default: /output or /outputs")
    parser.add_argument(
        "--model", default=environment("UMAMBA2_MODEL"), help="default: /opt/ml/model, then resources/ beside the code"
    )
    parser.add_argument(
        "--suffix", default=environment("UMAMBA2_STSR_SUFFIX"), help="STSR: <case><suffix>.nii.gz (default: _Mask)"
    )
    add_inference_options(parser, environment("UMAMBA2_TIME_LIMIT"))
    return parser


def add_inference_options(parser: argparse.ArgumentParser, seconds: str | None = None) -> None:
    """Add what the container and ``umamba2 predict`` have in common; ``seconds``: the default time limit."""
    add = parser.add_argument
    add("--numbering", "--label-map", choices=WRITTEN_NUMBERINGS, help="ids of the output (default: platform)")
    add(
        "--dental-field",
        choices=MODES,
        default="auto",
        help="of scans larger than it, segment the dental field alone (default: where the model states one)",
    )
    add("--folds", nargs="+", metavar="FOLD", help="numbers or 'all' (default: every fold there is)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    add("--precision", choices=("auto", "fp16", "bf16", "fp32"), default="auto")
    add(
        "--time-limit",
        type=positive(float, "seconds"),
        default=seconds,
        metavar="S",
        help="seconds until everything must be written; gives up mirror images, folds, overlap and detail as needed",
    )
    add(
        "--strict",
        action="store_true",
        help="fail if anything was not as it should be, even if every case has an output",
    )


def time_of_end(options: argparse.Namespace, start: float | None = None) -> float | None:
    """When everything must be written, on `time.monotonic`'s clock, or None where there is no limit.

    Args:
        options: With the time limit in seconds.
        start: When the work began; None: when this process did, because platforms count its start-up.
    """
    if options.time_limit is None:
        return None
    return (process_start() if start is None else start) + float(options.time_limit)


def mounts(challenge: Challenge, options: argparse.Namespace) -> tuple[Path, Path]:
    """The input and the output folder: those of the options, else the platform's."""
    return Path(options.input or challenge.mounts[0]), Path(options.output or challenge.mounts[1])


def load_segmenter(challenge: Challenge, options: argparse.Namespace) -> Segmenter:
    """Load the model for a challenge. Raises ModelError if there is none, or it is one for something else."""
    model = find_model(challenge.name, [options.model] if options.model else MODEL_PLACES)

    from umamba2.segmenter import load  # takes its time to import: not before it is needed

    return load(
        model,
        challenge=challenge,
        folds=options.folds,
        device=options.device,
        precision=options.precision,
        numbering=options.numbering,
        dental_field=options.dental_field,
        all_clicks=True,  # the platforms' are right, and what was published counts them all
        orientation="keep",  # the platforms' headers are not reliable, and their training and test arrays lie alike
    )


def process_start() -> float:
    """When this process started, on `time.monotonic`'s clock; where the system does not tell, when this was loaded."""
    try:
        # Field 22, counted behind the command's name, which may hold anything: ticks since the machine started.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return _LOADED
    return time.monotonic() - age


_LOADED = time.monotonic()
