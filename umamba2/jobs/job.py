"""One case from file to file, and the loop over many: the same for the container and the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from umamba2.anatomy.structures import output_table
from umamba2.challenges.challenge import Challenge
from umamba2.engine.record import Record, peak_memory
from umamba2.errors import InputError, Terminated
from umamba2.files import OutputRegistry
from umamba2.jobs.termination import endable
from umamba2.messages import say, unexpected
from umamba2.scans.clicks import Clicks, no_clicks, read_clicks
from umamba2.scans.volumes import Volume, read_volume, write_labels

if TYPE_CHECKING:
    from umamba2.engine.predict import Predictor

# Post-processing and writing, kept free before a deadline: three times what they take on a slow CPU.
SECONDS_PER_VOXEL = 3e-7

# What else to do with a case once its output is written: the case, its scan, its label map in the output's ids.
Finished = Callable[["Case", Volume, np.ndarray], None]


@dataclass(frozen=True)
class Case:
    """A scan to segment: the image, where its label map goes, and its click file if clicks are expected."""

    image: Path
    output: Path
    clicks: Path | None = None


@dataclass
class Outcome:
    """What became of a case: whether it has an output, one line for everything that was not as it should be, and how
    the segmentation went."""

    case: Case
    written: bool = False
    problems: list[str] = field(default_factory=list)
    record: Record = field(default_factory=Record)

    def report(self, level: str, problem: str) -> None:
        """Note a problem, an "error" or a "warning", and say it on stderr."""
        self.problems.append(problem)
        say(f"{level}: {problem}", sys.stderr)

    def read_clicks(self, shape: tuple[int, int, int]) -> Clicks:
        """The usable clicks of the case on an image of that shape (z, y, x); what is not usable is reported."""
        if self.case.clicks is None:
            return no_clicks()
        try:
            clicks, warnings = read_clicks(self.case.clicks, shape)
        except InputError as error:
            self.report("warning", f"{error}; going on without clicks")
            return no_clicks()
        for warning in warnings:
            self.report("warning", warning)
        return clicks


@dataclass(frozen=True)
class Job:
    """How cases are turned into label maps; what is the same for all of them.

    ``challenge`` None: plain prediction, the network's own ids. ``label_map`` None: the challenge's default.
    ``background_on_failure``: a scan whose segmentation fails still gets an output, without any structure.
    """

    predictor: Predictor
    challenge: Challenge | None = None
    label_map: str | None = None
    postprocess: bool = True
    background_on_failure: bool = False

    def segment(
        self,
        volume: Volume,
        clicks: Clicks | None = None,
        deadline: float | None = None,
        record: Record | None = None,
    ) -> np.ndarray:
        """A volume to its label map, uint8 (z, y, x), in the ids of ``label_map``; the rest as `Predictor.predict`."""
        record = record or Record()
        if deadline is not None:
            deadline -= SECONDS_PER_VOXEL * volume.array.size
        labels = self.predictor.predict(volume.array, volume.spacing, clicks, deadline, record)
        if self.challenge is None:
            return labels
        if self.postprocess:
            with record.timed("postprocess"):
                try:
                    labels = self.challenge.clean(labels, volume.spacing, clicks)
                except (Exception, Terminated) as error:  # the network's answer as it is beats none
                    record.warn(f"post-processing: found {unexpected(error)}, going on without it")
        return output_table(self.challenge.name, self.label_map or self.challenge.label_map)[labels]


def check_model(predictor: Predictor, challenge: Challenge, model: str | Path) -> None:
    """Raise InputError, naming the model, if it is not one for this challenge."""
    if predictor.challenge not in (None, challenge.name):
        raise InputError(f"{model}: found a model for {predictor.challenge}, expected one for {challenge.name}")

    def what(classes: int, clicks: bool) -> str:
        return f"{classes} classes {'with' if clicks else 'without'} clicks"

    found = what(predictor.num_classes, predictor.takes_clicks)
    expected = what(challenge.num_classes, challenge.takes_clicks)
    if found != expected:
        raise InputError(f"{model}: found a model of {found}, expected {expected} for {challenge.name}")


def succeeded(outcomes: Iterable[Outcome], strict: bool = False) -> bool:
    """Whether every case has an output; ``strict``: and nothing was wrong with any."""
    return all(outcome.written and not (strict and outcome.problems) for outcome in outcomes)


def run_cases(
    cases: Iterable[Case], job: Job, finished: Finished | None = None, deadline: float | None = None
) -> list[Outcome]:
    """Segment one case after the other; a line on stdout for each, and on stderr for each problem.

    No case keeps the others from running, whatever its files hold. A case fails if its output would overwrite an
    image of any case, or the output of an earlier one. ``finished`` is called after each that is written.
    ``deadline``, on `time.monotonic`'s clock, is that of all together: each gets an equal share of what is left.
    """
    cases = list(cases)
    places = OutputRegistry(case.image for case in cases)
    outcomes = []
    for number, case in enumerate(cases):
        outcome = Outcome(case)
        start = time.monotonic()
        until = None if deadline is None else start + (deadline - start) / (len(cases) - number)
        try:
            places.claim(case.output, case.image)
            shape = _run_case(case, job, outcome, finished, until)
        except Exception as error:
            outcome.report("error", _in_one_line(error, case.image))
        else:
            size, memory = "x".join(map(str, shape)), _gigabytes(outcome.record.peak_memory or peak_memory())
            seconds = time.monotonic() - start
            say(f"{case.image.name}  {size}  {memory}{seconds:.1f} s  -> {case.output}")
        outcomes.append(outcome)
    return outcomes


def _run_case(
    case: Case, job: Job, outcome: Outcome, finished: Finished | None, deadline: float | None
) -> tuple[int, ...]:
    record = outcome.record
    with record.timed("read"):
        volume = read_volume(case.image)
    for warning in volume.warnings:
        outcome.report("warning", warning)
    clicks = outcome.read_clicks(volume.array.shape) if job.predictor.takes_clicks else None
    try:
        with endable():
            labels = job.segment(volume, clicks, deadline, record)
        for warning in record.warnings:
            outcome.report("warning", f"{case.image}: {warning}")
    except (Exception, Terminated) as error:
        # What the predictor raises does not know the file.
        problem = f"{case.image}: {error}" if isinstance(error, InputError) else _in_one_line(error, case.image)
        if not job.background_on_failure:
            raise InputError(problem) from None
        outcome.report("error", f"{problem}; {case.output} is background only")
        labels = np.zeros(volume.array.shape, np.uint8)
    with record.timed("write"):
        write_labels(case.output, labels, volume.geometry)
    outcome.written = True
    if finished is not None:
        try:
            finished(case, volume, labels)
        except Exception as error:  # the segmentation itself stands
            outcome.report("warning", _in_one_line(error, case.image))
    return labels.shape


def _gigabytes(memory: dict[str, int]) -> str:
    return "".join(f"{where} {size / 1e9:.2f} GB  " for where, size in memory.items())


def _in_one_line(error: BaseException, image: Path) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"{image}: found {unexpected(error)}, expected a label map"
