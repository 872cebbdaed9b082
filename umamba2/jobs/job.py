"""One case from file to file, and the loop over many: the same for the container, the server and the command line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.structures import Structure
from umamba2.engine.record import Record, peak_memory
from umamba2.errors import InputError, NothingFound, Terminated
from umamba2.files import OutputRegistry
from umamba2.jobs.termination import endable
from umamba2.messages import say, unexpected
from umamba2.scans.parts import parts_of
from umamba2.scans.volumes import Volume, is_dicom_scan, read_volume, write_labels
from umamba2.segmenter import Segmenter

MARGIN = 0.95  # of the time is used: a busy machine may take longer for the last steps than for those before
SECONDS_PER_VOXEL = 3e-7  # for post-processing and writing: three times what they take on a slow CPU

# What else to do with a case once its output is written: image, output, scan, label map in the output's ids, the notes
# of the record. The files that it writes.
AfterWriting: TypeAlias = Callable[[Path, Path, Volume, npt.NDArray[np.uint8], "list[str]"], "list[Path]"]


@dataclass(frozen=True)
class Case:
    """A scan to segment: the image, where its label map goes, its click file if clicks are expected, the line of a list
    that asks for it, why it cannot be done if that is known, which DICOM series it is if that was asked for, and the
    output that has the names of the files beside this one, if another has."""

    image: Path
    output: Path
    clicks: Path | None = None
    line: str = ""
    problem: str = ""
    series: str | None = None
    seg_type: str | None = None  # of a DICOM Segmentation; None: a label map
    taken: Path | None = None

    @property
    def files(self) -> list[Path]:
        """What is read: the files of the image, and the clicks."""
        return [*parts_of(self.image), *filter(None, [self.clicks])]

    def absolute(self) -> Case:
        """This case, with paths that hold for processes in other folders, too."""
        image, output = (Path(os.path.abspath(path)) for path in (self.image, self.output))
        return replace(self, image=image, output=output, clicks=self.clicks and Path(os.path.abspath(self.clicks)))


@dataclass
class Outcome:
    """What became of a case: whether it has an output (since an earlier run: ``skipped``), and all else that was asked
    for (``complete``), one line for everything that was not as it should be, and how the segmentation went."""

    case: Case
    written: bool = False
    problems: list[str] = field(default_factory=list)
    record: Record = field(default_factory=Record)
    skipped: bool = False
    complete: bool = True
    table: dict[int, Structure] = field(default_factory=dict)  # what the ids in the label map mean
    headers: list[Any] = field(default_factory=list)  # of a DICOM scan, for a DICOM Segmentation, until that is written

    @property
    def status(self) -> str:
        """One of "done", "degraded" (there is an output, and something was wrong) and "failed"."""
        if not self.written:
            return "failed"
        return "degraded" if self.problems else "done"

    def report(self, level: str, problem: str) -> None:
        """Note a problem, an "error" or a "warning", and say it on stderr."""
        self.problems.append(problem)
        say(f"{level}: {problem}", sys.stderr)

    def report_warnings(self) -> None:
        """Report what the record warns of."""
        for warning in self.record.warnings:
            self.report("warning", warning)


def succeeded(outcomes: Iterable[Outcome], strict: bool = False) -> bool:
    """Whether every case has an output and all else that was asked for; ``strict``: and nothing was wrong with any."""
    return all(outcome.written and outcome.complete and not (strict and outcome.problems) for outcome in outcomes)


def network_deadline(until: float | None, cases: int, voxels: int) -> float | None:
    """When the network must be done with the next scan. All that is taken off a time limit is taken off here.

    Args:
        until: When everything must be written, on `time.monotonic`'s clock; None: no limit.
        cases: Scans that are left, this one included; each gets an equal share.
        voxels: Size of the scan, which decides the time for what comes after the network.
    """
    if until is None:
        return None
    now = time.monotonic()
    return now + MARGIN * (until - now) / cases - SECONDS_PER_VOXEL * voxels


def run_cases(
    cases: Iterable[Case],
    segmenter: Segmenter | None,
    finished: AfterWriting | None = None,
    until: float | None = None,
    background_on_failure: bool = False,
) -> list[Outcome]:
    """Segment one case after the other; a line on stdout for each, and on stderr for each problem.

    No case keeps the others from running, whatever its files hold. A case fails if its output would overwrite an
    image of any case, or the output of an earlier one.

    Args:
        cases: What to segment.
        segmenter: The loaded model; None where the process was asked to end before there was one.
        finished: Called after each output that was written.
        until: When everything must be written, on `time.monotonic`'s clock; None: no limit.
        background_on_failure: Whether a scan that cannot be segmented still gets an output, without any structure.
    """
    cases = list(cases)
    outputs = OutputRegistry(part for case in cases for part in case.files)
    outcomes = []
    for number, case in enumerate(cases):
        outcome = Outcome(case)
        start = time.monotonic()
        try:
            outputs.claim(case.output, case.image)
            volume = read_scan(outcome)
            deadline = network_deadline(until, len(cases) - number, volume.array.size)
            labels = segmented(volume, segmenter, outcome, deadline, background_on_failure)
            write_scan(outcome, volume, labels, finished)
        except Exception as error:
            outcome.report("error", in_one_line(error, case.image))
        else:
            report_written(outcome, labels.shape, time.monotonic() - start)
        outcomes.append(outcome)
    return outcomes


def read_scan(outcome: Outcome) -> Volume:
    """Read the image of a case, and whose it is. Raises InputError if that is not possible."""
    case = outcome.case
    with outcome.record.timed("read"):
        volume = read_volume(case.image, case.series)
        if case.seg_type is not None and is_dicom_scan(case.image):  # later there may be other files
            from umamba2.scans.dicom import source_headers

            outcome.headers = source_headers(case.image, case.series)
        return volume


def segmented(
    volume: Volume,
    segmenter: Segmenter | None,
    outcome: Outcome,
    deadline: float | None,
    background_on_failure: bool = False,
) -> npt.NDArray[np.uint8]:
    """The label map of a case (see `run_cases`), its warnings reported. Raises InputError if there is none."""
    case, problem = outcome.case, ""
    try:
        with endable():
            if segmenter is None:
                raise Terminated("SIGTERM")
            clicks = case.clicks if segmenter.takes_clicks else None
            outcome.table = segmenter.table
            return segmenter.segment(volume, clicks, deadline, outcome.record).labels
    except (Exception, Terminated) as error:
        problem = in_one_line(error, case.image)
    finally:
        outcome.report_warnings()
    if not background_on_failure:
        raise InputError(problem)
    outcome.report("error", f"{problem}; {case.output} is background only")
    return np.zeros(volume.array.shape, np.uint8)


def write_scan(
    outcome: Outcome, volume: Volume, labels: npt.NDArray[np.uint8], finished: AfterWriting | None = None
) -> list[Path] | None:
    """Write the label map of a case, and what else ``finished`` makes of it: these other files, None if any failed.

    Raises InputError if the label map cannot be written.
    """
    case = outcome.case
    with outcome.record.timed("write"):
        if case.seg_type is None:
            write_labels(case.output, labels, volume.geometry)
        else:
            _write_seg(outcome, case.seg_type, volume, labels)
    outcome.written = True
    if finished is not None:
        if part := outcome.record.part:  # readers of what comes beside the label map must know
            volume = replace(volume, warnings=(*volume.warnings, part))
        try:
            if case.taken is not None:
                found = f"the names of files beside {case.output} taken by those beside {case.taken}"
                raise InputError(f"{case.image}: found {found}, expected a name of its own")
            return finished(case.image, case.output, volume, labels, outcome.record.notes)
        except NothingFound as error:  # which is a result, and no failure
            outcome.report("warning", str(error))
        except Exception as error:  # the segmentation itself stands
            outcome.complete = False
            outcome.report("error", in_one_line(error, case.image))
            return None
    return []


def _write_seg(outcome: Outcome, seg_type: str, volume: Volume, labels: npt.NDArray[np.uint8]) -> None:
    from umamba2.exports.dicom_seg import write_dicom_seg

    headers, outcome.headers = outcome.headers, []  # of many cases they would fill the memory
    for warning in write_dicom_seg(outcome.case.output, labels, volume.geometry, outcome.table, headers, seg_type):
        outcome.record.warn(warning)
        outcome.report("warning", warning)


def report_written(outcome: Outcome, shape: tuple[int, ...], seconds: float, progress: str = "") -> None:
    """Say that a case has its output: size, memory, time."""
    size, memory = "x".join(map(str, shape)), _gigabytes(outcome.record.peak_memory or peak_memory())
    case = outcome.case
    say(f"{case.image.name}  {size}  {memory}{seconds:.1f} s  -> {case.output}{progress}")


def _gigabytes(memory: dict[str, int]) -> str:
    return "".join(f"{where} {size / 1e9:.2f} GB  " for where, size in memory.items())


def in_one_line(error: BaseException, image: Path) -> str:
    """What went wrong with an image, as one line."""
    if isinstance(error, InputError):
        return str(error)
    return f"{image}: found {unexpected(error)}, expected a label map"
