"""``umamba2 report``, and what ``umamba2 predict --preview --statistics --report`` leaves beside a segmentation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umamba2.anatomy.structures import WRITTEN_NUMBERINGS
from umamba2.arguments import some_path
from umamba2.challenges import CHALLENGES, MULTICLASS, Challenge, find_challenge
from umamba2.errors import InputError, NothingFound, needing
from umamba2.files import OutputRegistry
from umamba2.messages import say, unexpected
from umamba2.scans.command import add_series

if TYPE_CHECKING:
    import numpy.typing as npt

    from umamba2.scans.volumes import Volume

    SideFiles = Callable[[Path, Path, Volume, npt.NDArray[Any], list[str]], list[Path]]


def add_parser(commands: Any) -> None:
    """Add ``report`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "report",
        help="write a page about a segmentation",
        description="Write one HTML page: slices, surfaces, volumes, warnings, and scores if there is a ground truth.",
    )
    parser.set_defaults(command=run)
    parser.add_argument("-i", "--image", required=True, type=some_path, help="the scan (image, or DICOM)")
    parser.add_argument("-s", "--labels", required=True, type=some_path, help="its label map")
    parser.add_argument("-g", "--ground-truth", type=some_path, help="the true label map, for Dice and HD95")
    parser.add_argument("-o", "--output", required=True, type=some_path, help="where to write the page (.html)")
    parser.add_argument("--challenge", choices=CHALLENGES, default=MULTICLASS.name, help=f"default: {MULTICLASS.name}")
    add_series(parser)
    parser.add_argument(
        "--numbering", "--label-map", choices=WRITTEN_NUMBERINGS, default="platform", help="ids in the files (platform)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the page of one case; returns 0."""
    _need_libraries("report")
    from umamba2.reports import read_case, write_report
    from umamba2.scans.parts import parts_of

    files = options.image, options.labels, options.ground_truth
    read = (part for path in files if path is not None for part in parts_of(path))
    OutputRegistry(read).claim(options.output, options.image)
    case = read_case(*files, find_challenge(options.challenge), options.numbering, options.series)
    for warning in case.warnings:
        say(f"warning: {warning}", sys.stderr)
    write_report(options.output, case)
    say(f"{options.output}  {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def side_files(preview: bool, statistics: bool, report: bool, challenge: Challenge, numbering: str) -> SideFiles | None:
    """What to do when a case of ``umamba2 predict`` is done, to have more files beside its segmentation.

    Args:
        preview: Write ``<case>.preview.png``.
        statistics: Write ``<case>.statistics.json``.
        report: Write ``<case>.report.html``.
        challenge: What names the structures.
        numbering: The ids of the label maps.

    Returns:
        A function of the image's path, the output's path, the scan, its labels (z, y, x) in the ids of the numbering,
        and what was changed in them, which returns the files that it wrote; None if no file is wanted.

    Raises:
        MissingExtra: A library is missing.
    """
    if not (preview or statistics or report):
        return None
    _need_libraries("predict")
    import umamba2.reports as reports
    from umamba2.anatomy.numberings import as_training
    from umamba2.scans.parts import parts_of
    from umamba2.scans.volumes import stem

    kinds = (
        (preview, ".preview.png", reports.write_preview),
        (statistics, ".statistics.json", reports.write_statistics),
        (report, ".report.html", reports.write_report),
    )

    def write(image: Path, output: Path, volume: Volume, labels: npt.NDArray[Any], notes: list[str]) -> list[Path]:
        name = stem(output).removesuffix(".seg")  # of a DICOM Segmentation
        files = {output.with_name(name + ending): function for wanted, ending, function in kinds if wanted}
        for path in files:
            OutputRegistry(parts_of(image)).claim(path, image)
        try:
            found = as_training(labels, str(output), challenge.structures, numbering)
        except NothingFound:
            for path in files:
                path.unlink(missing_ok=True)  # what lies there shows structures that were found before
            raise
        case = reports.ReportCase.of_volume(volume, image.name, found, challenge, numbering)
        case = replace(case, notes=tuple(notes))
        problems = []
        for path, function in files.items():
            try:
                function(path, case)
            except Exception as error:  # the other files can still be written
                known = isinstance(error, InputError)
                problem = str(error) if known else f"{path}: found {unexpected(error)}, expected to write it"
                problems.append(problem + "; the one there is of an earlier segmentation" * path.exists())
        if problems:
            raise InputError("; ".join(problems))
        return list(files)

    return write


def _need_libraries(command: str) -> None:
    with needing("reports", command):
        import edt  # noqa: F401
        import jinja2  # noqa: F401
        import PIL  # noqa: F401
        import scipy  # noqa: F401
