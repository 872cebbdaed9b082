"""A platform's contract from its input folder to its output folder."""

from __future__ import annotations

import json
import platform
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import umamba2
from umamba2.challenges.challenge import Challenge
from umamba2.errors import InputError
from umamba2.files import write_file
from umamba2.jobs.job import Case, Outcome, run_cases
from umamba2.jobs.locate import find_images
from umamba2.messages import say, unexpected
from umamba2.scans.clicks import click_file
from umamba2.scans.volumes import stem
from umamba2.segmenter import Segmenter

RUN_RECORD = "run.json"


def list_cases(challenge: Challenge, source: str | Path, output: str | Path, suffix: str | None = None) -> list[Case]:
    """The cases in an input folder, with their places in the output folder, sorted by image name.

    ``suffix`` is what the challenge's file name rule inserts after the case's name (None: its default).
    Raises InputError if there are no images, or the suffix is no part of a name.
    """
    source, output = Path(source), Path(output)
    suffix = challenge.suffix if suffix is None else suffix
    if set(suffix) & {"/", "\\", "\0"}:
        raise InputError(f"suffix: found {suffix!r}, expected a part of a file name")
    images = find_images(challenge, source)
    names = [stem(image) for image in images]
    cases = []
    for image, name in zip(images, names):
        file_name = challenge.output_name.format(name=image.name, case=name, suffix=suffix)
        clicks = click_file(source, name, names) if challenge.takes_clicks else None
        cases.append(Case(image, output / challenge.output_folder / file_name, clicks))
    return cases


def run(
    challenge: Challenge,
    cases: list[Case],
    segmenter: Segmenter | None,
    output: str | Path,
    until: float | None = None,
) -> list[Outcome]:
    """Segment the cases; every scan that can be read gets a label map.

    On Grand Challenge there is also ``results.json``, as evalutils 0.4.2 writes it, with an entry for each case that
    has an output and its problems as error messages, and our own record of the run, ``metadata/run.json``.

    Args:
        challenge: Whose platform it is.
        cases: What to segment.
        segmenter: The loaded model; None where the process was asked to end before there was one.
        output: The platform's output folder.
        until: When everything must be written, on `time.monotonic`'s clock; None: no limit.
    """
    outcomes = run_cases(cases, segmenter, until=until, background_on_failure=True)
    if challenge.has_results:
        output = Path(output)
        write_file(output / "results.json", json.dumps([_entry(outcome) for outcome in outcomes if outcome.written]))
        leave_record(output / "metadata", outcomes, segmenter.settings if segmenter else {}, until)
    return outcomes


def leave_record(
    folder: Path,
    outcomes: list[Outcome],
    settings: dict[str, Any],
    until: float | None,
    part: tuple[int, int] | None = None,
    level: str = "warning",
) -> bool:
    """Write what was done, and with what, to ``run.json`` in a folder; of part i of n to ``run.i-of-n.json``.

    No segmentation is the worse for it if that fails.

    Returns:
        Whether it was written; if not, that is said on stderr, as a problem of that level.
    """
    path = folder / (RUN_RECORD if part is None else f"run.{part[0]}-of-{part[1]}.json")
    try:
        write_file(path, json.dumps(_run_record(folder, outcomes, settings, until), indent=1, default=str))
    except Exception as error:
        problem = str(error) if isinstance(error, InputError) else f"{path}: found {unexpected(error)}"
        say(f"{level}: {problem}", sys.stderr)
        return False
    return True


@cache
def versions() -> dict[str, str]:
    """The versions of what has a part in a result."""
    found = {"python": platform.python_version(), "umamba2": umamba2.__version__}
    for package in ("torch", "numpy", "SimpleITK", "connected-components-3d", "safetensors", "mamba-ssm"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _run_record(folder: Path, outcomes: list[Outcome], settings: dict[str, Any], until: float | None) -> dict[str, Any]:
    def place(output: Path) -> str:  # two cases in different folders may have the same name
        return output.relative_to(folder).as_posix() if output.is_relative_to(folder) else output.name

    return {
        "versions": versions(),
        "settings": settings,
        "seconds_left": None if until is None else round(until - time.monotonic(), 3),
        "cases": [
            {
                "image": outcome.case.image.name,
                "output": place(outcome.case.output) if outcome.written else None,
                "status": "skipped" if outcome.skipped else outcome.status,
                **asdict(outcome.record),
                "warnings": outcome.problems,
            }
            for outcome in outcomes
        ],
    }


def _entry(outcome: Outcome) -> dict[str, Any]:
    # The type is what evalutils calls every image, whatever its format.
    return {
        "outputs": [{"type": "metaio_image", "filename": outcome.case.output.name}],
        "inputs": [{"type": "metaio_image", "filename": outcome.case.image.name}],
        "error_messages": outcome.problems,
    }
