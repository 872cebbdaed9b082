"""``umamba2 report``, and what ``umamba2 predict --preview --statistics --report`` leaves beside a segmentation."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from umamba2.anatomy.structures import WRITTEN_NUMBERINGS
from umamba2.challenges import CHALLENGES, MULTICLASS, Challenge, find_challenge
from umamba2.errors import InputError
from umamba2.files import OutputRegistry
from umamba2.messages import say

if TYPE_CHECKING:
    import numpy as np

    from umamba2.scans.volumes import Volume

# What predict can leave beside a segmentation: option, file name ending, the function that writes it.
BESIDE = (
    ("preview", ".preview.png", "write_preview"),
    ("statistics", ".statistics.json", "write_statistics"),
    ("report", ".report.html", "write_report"),
)


def add_parser(commands) -> None:
    """Add ``report`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "report",
        help="write a page about a segmentation",
        description="Write one HTML page: slices, surfaces, volumes, warnings, and scores if there is a ground truth.",
    )
    parser.set_defaults(command=run)
    parser.add_argument("-i", "--image", required=True, type=Path, help="the scan")
    parser.add_argument("-s", "--labels", required=True, type=Path, help="its label map")
    parser.add_argument("-g", "--ground-truth", type=Path, help="the true label map, for Dice and HD95")
    parser.add_argument("-o", "--output", required=True, type=Path, help="where to write the page (.html)")
    parser.add_argument("--challenge", choices=CHALLENGES, default=MULTICLASS.name, help=f"default: {MULTICLASS.name}")
    parser.add_argument(
        "--numbering", "--label-map", choices=WRITTEN_NUMBERINGS, default="platform", help="ids in the files (platform)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the page of one case; returns 0."""
    _need_libraries("report")
    if options.ground_truth is not None:
        _need_metrics()
    from umamba2.reports import read_case, write_report

    files = options.image, options.labels, options.ground_truth
    OutputRegistry(path for path in files if path is not None).claim(options.output, options.image)
    write_report(options.output, read_case(*files, find_challenge(options.challenge), options.numbering))
    say(f"{options.output}  {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def side_files(
    preview: bool, statistics: bool, report: bool, challenge: Challenge, numbering: str
) -> Callable[[Path, Path, Volume, np.ndarray], None]:
    """What to do when a case of ``umamba2 predict`` is done.

    The returned function takes the image, the output, the scan, and its label map (z, y, x) in the ids of the
    numbering. Raises InputError if a library is missing.
    """
    asked = {"preview": preview, "statistics": statistics, "report": report}
    wanted = [(ending, function) for option, ending, function in BESIDE if asked[option]]
    _need_libraries("predict")
    import umamba2.reports as reports
    from umamba2.anatomy.numberings import as_training
    from umamba2.scans.volumes import stem

    places = OutputRegistry()

    def write(image: Path, output: Path, volume: Volume, labels: np.ndarray) -> None:
        files = {output.with_name(stem(output) + ending): function for ending, function in wanted}
        for path in files:
            places.claim(path, image)
        for path in files:
            path.unlink(missing_ok=True)  # whatever happens now, what lies there is of an earlier segmentation
        found = as_training(labels, str(output), challenge.structures, numbering)
        reading = reports.Reading(
            image.name, volume.array, found, volume.grid, challenge, numbering, oriented=volume.oriented
        )
        for path, function in files.items():
            getattr(reports, function)(path, reading)

    return write


def _need_libraries(command: str) -> None:
    try:
        import PIL
        import scipy  # noqa: F401
    except ImportError as error:
        raise InputError(f"{command}: found no {error.name}, expected pip install 'umamba2[reports]'") from None
    del PIL


def _need_metrics() -> None:
    try:
        import umamba2.evaluation.metrics  # noqa: F401
    except ImportError as error:
        raise InputError(f"report: found no {error.name}, expected pip install 'umamba2[reports]'") from None
