"""Many cases into one folder: what is finished is recorded at once, and not done again.

While the network is at work on a scan, the next one is read and the last one is written. Any number of processes may
work on one folder; each case is done by one of them.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from umamba2.engine.record import Record
from umamba2.errors import InputError
from umamba2.jobs.contract import versions
from umamba2.jobs.fingerprint import Fingerprint, files_of_scan, fingerprint
from umamba2.jobs.job import (
    AfterWriting,
    Case,
    Outcome,
    in_one_line,
    network_deadline,
    read_scan,
    report_written,
    segmented,
    write_scan,
)
from umamba2.jobs.manifest import Manifest
from umamba2.jobs.progress import Progress
from umamba2.messages import say
from umamba2.scans import memory
from umamba2.scans.volumes import Volume, check_size
from umamba2.segmenter import Segmenter

HEADROOM = 4 << 30  # bytes that must be free for the network before anything is read ahead
BYTES_PER_VOXEL = 20  # of a scan in the network (at most 8 until the first tile), and of the one that is read ahead
MOST_REPEATED, MOST_LETTERS = 50, 2000  # warnings of a record that are said again, and letters of each
_LARGE = 1_000_000_000  # bytes of a scan: a second of reading, which is saved where it will be refused anyway
_PATIENCE = 0.5  # seconds between looks at whether another process has finished a case

Tools: TypeAlias = tuple[Segmenter, "AfterWriting | None"]  # the loaded model, and what else to do with each output


@dataclass(frozen=True)
class Plan:
    """What decides whether a case is finished; the same in all processes that work on a batch.

    Attributes:
        folder: The output folder.
        model: The fingerprint of the model's files.
        asked: Everything else that was asked for and decides the result.
        overwrite: Whether what was finished before is done again.
        since: The end of the manifest when this began: what is recorded later belongs to this batch.
    """

    folder: Path
    model: Fingerprint
    asked: dict[str, Any]
    overwrite: bool = False
    since: int = 0

    @property
    def asked_sha256(self) -> str:
        """A checksum of what was asked for."""
        return hashlib.sha256(json.dumps(self.asked, sort_keys=True, default=str).encode()).hexdigest()

    def key(self, case: Case) -> str:
        """What the manifest calls a case: the place of its output below the folder."""
        return case.output.relative_to(self.folder).as_posix()


@dataclass
class _Task:
    """A case that this process has claimed."""

    outcome: Outcome
    scan: Fingerprint | None
    clicks: Fingerprint | None
    volume: Volume | None = None
    error: str = ""
    shape: tuple[int, ...] | None = None  # of what was written
    # The files that were written beside the output, by name, as they are now; None if any is missing.
    beside: dict[str, Any] | None = None

    def read(self, folder: Path) -> None:
        """Read the scan, or find out why it cannot be; ``folder`` is for outputs."""
        image = self.outcome.case.image
        try:
            self.volume = read_scan(self.outcome)
            if self.scan != fingerprint(files_of_scan(image, folder), [asdict(self.scan)] if self.scan else ()):
                raise InputError(f"{image}: found a file that changed while it was read, expected a complete one")
        except Exception as error:
            self.volume, self.error = None, in_one_line(error, image)


class Batch:
    """Cases, one after the other, into a folder.

    Args:
        plan: What decides whether a case is finished.
        manifest: The folder's.
        load: Loads the model; called once, when the first case needs it.
        until: When everything must be written, on `time.monotonic`'s clock; None: no limit.

    Attributes:
        outcomes: What became of the cases that were dealt with.
        settings: Of the model, here or where the cases were done.
    """

    def __init__(self, plan: Plan, manifest: Manifest, load: Callable[[], Tools], until: float | None = None):
        self.plan, self.manifest, self.until = plan, manifest, until
        self.outcomes: list[Outcome] = []
        self.settings: dict[str, Any] = {}
        self._load = load
        self._segmenter: Segmenter | None = None
        self._after: AfterWriting | None = None
        self._progress, self._expected = Progress(0), 0  # cases that will take work
        self._stopping = threading.Event()

    @contextmanager
    def counting(self, cases: list[Case], bar: bool = False) -> Iterator[None]:
        """Say how far these cases are, with a bar if asked for; in the end the outcomes are in their order."""
        self._progress = Progress(len(cases), bar)
        try:
            yield
        finally:
            self._progress.close()
            order = {case.output: number for number, case in reversed(list(enumerate(cases)))}
            self.outcomes.sort(key=lambda outcome: order[outcome.case.output])

    def run(self, cases: list[Case]) -> None:
        """Do the cases that are not finished.

        A line on stdout for each case that is done, and on stderr for each problem. No case keeps the others from
        running.

        Raises:
            ModelError: The model cannot be loaded.
        """
        self._expected = sum(not self._seems_finished(case) for case in cases)
        claims = self._claims(cases)
        with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
            try:
                self._work(claims, reader, writer)
            except BaseException:
                self._stopping.set()
                raise

    def unfinished(self, cases: list[Case]) -> list[Case]:
        """The cases that are left to do, whoever may be at it; the outcomes of the others are noted."""
        left = []
        for case in cases:
            if case.problem:
                self._refuse(case)
            elif known := self._look(case)[0]:
                self._skip(case, known)
            else:
                left.append(case)
        return left

    def _seems_finished(self, case: Case) -> bool:
        """Whether a case will probably be skipped, so that it needs no share of the time."""
        known = {} if case.problem else self._known(case)
        return bool(case.problem) or (known.get("status") in ("done", "degraded") and self._is_alike(known))

    def is_recorded(self, case: Case) -> bool:
        """Whether anybody has finished a case since this batch began."""
        self.manifest.refresh()
        return self.manifest.find(self.plan.key(case), self.plan.since) is not None

    def settle(self, case: Case, problem: str) -> None:
        """Note what became of a case that another process has done; ``problem`` counts if that has left no record."""
        self.manifest.refresh()
        outcome, known = Outcome(case), self.manifest.find(self.plan.key(case), self.plan.since)
        if known is None:
            self._finish(_Task(outcome, None, None, error=problem), None)
            return
        self._resume(outcome, known)
        outcome.skipped, outcome.complete = False, isinstance(known.get("beside"), dict)
        progress = self._close(outcome)
        if outcome.written:
            report_written(outcome, known.get("shape") or (), sum(outcome.record.seconds.values()), progress)

    def _work(self, claims: Iterator[_Task], reader: ThreadPoolExecutor, writer: ThreadPoolExecutor) -> None:
        task = reader.submit(self._take, claims).result()
        writing: Future[None] | None = None
        while task is not None:
            if task.volume is None and not task.error:
                task.read(self.plan.folder)
            voxels = 0 if task.volume is None else task.volume.array.size
            ahead = reader.submit(self._take, claims, voxels)
            labels = self._segmented(task)
            if writing is not None:
                writing.result()  # one at a time
            writing = writer.submit(self._finish, task, labels)
            del labels
            if not _room(voxels):
                writing.result()
            task = ahead.result()
        if writing is not None:
            writing.result()

    # --- which case is next ----------------------------------------------------------------------------------------

    def _take(self, claims: Iterator[_Task], beside: int | None = None) -> _Task | None:
        """The next case, read if there is memory for it beside a scan of so many voxels."""
        task = next(claims, None)
        if task is not None and (beside is None or _room(max(beside, task.scan.bytes if task.scan else 0))):
            task.read(self.plan.folder)
        return task

    def _claims(self, cases: list[Case]) -> Iterator[_Task]:
        """The cases that are left to this process, each locked for it."""
        waiting = []
        for case in cases:
            if case.problem:
                self._refuse(case)
            elif self.manifest.claim(self.plan.key(case)):
                yield from self._claimed(case)
            else:
                waiting.append(case)
        while waiting:  # for other processes to finish them, or to die
            for case in list(waiting):
                if self.manifest.claim(self.plan.key(case)):
                    waiting.remove(case)
                    yield from self._claimed(case)
            if waiting and self._stopping.wait(_PATIENCE):
                return

    def _claimed(self, case: Case) -> Iterator[_Task]:
        finished, scan, clicks = self._look(case)
        if finished:
            self._skip(case, finished)
            self.manifest.release(self.plan.key(case))
        else:
            yield _Task(Outcome(case), scan, clicks)

    def _refuse(self, case: Case) -> None:
        outcome = Outcome(case)
        outcome.report("error", case.problem)
        self._close(outcome, worked=False)

    def _skip(self, case: Case, finished: dict[str, Any]) -> None:
        outcome = Outcome(case)
        self._resume(outcome, finished)
        self._close(outcome, worked=False)

    def _look(self, case: Case) -> tuple[dict[str, Any] | None, Fingerprint | None, Fingerprint | None]:
        """The record of a case if it is finished, and the fingerprints of its scan and its clicks."""
        self.manifest.refresh()
        known = self._known(case)
        scan = clicks = None
        with suppress(OSError, InputError, RuntimeError):  # who reads them will say what is wrong
            clicks = fingerprint([case.clicks] if case.clicks else [], [_part(known, "clicks")])
        with suppress(OSError, InputError, RuntimeError):
            files = files_of_scan(case.image, self.plan.folder)
            if sum(path.stat().st_size for path in files) > _LARGE:
                check_size(case.image)
            scan = fingerprint(files, [_part(known, "scan")])
        finished = self._same(known, case, scan, clicks) and self._stands(known, case)
        return known if finished else None, scan, clicks

    def _same(self, known: dict[str, Any], case: Case, scan: Fingerprint | None, clicks: Fingerprint | None) -> bool:
        """Whether a record is about the same scan and clicks, model and settings."""
        pairs = (("scan", scan), ("clicks", clicks))
        return (
            scan is not None
            and (known.get("click_file") is None) == (case.clicks is None)  # it may be missing
            and self._is_alike(known)
            and all(_part(known, name).get("sha256") == (now and now.sha256) for name, now in pairs)
        )

    def _known(self, case: Case) -> dict[str, Any]:
        """The record of a case, if it has one that counts."""
        return self.manifest.find(self.plan.key(case), self.plan.since if self.plan.overwrite else 0) or {}

    def _is_alike(self, known: dict[str, Any]) -> bool:
        """Whether a record is about the same model and settings."""
        same_model = _part(known, "model").get("sha256") == self.plan.model.sha256
        return same_model and known.get("asked_sha256") == self.plan.asked_sha256

    def _stands(self, known: dict[str, Any], case: Case) -> bool:
        """Whether what a record says is still true, so that nothing is left to do."""
        if known.get("status") == "failed":  # by another process, a moment ago: it would do so again
            return self.manifest.find(self.plan.key(case), self.plan.since) is not None
        beside = known.get("beside")
        if not isinstance(beside, dict):  # something that was asked for could not be written
            return False
        pairs = [(case.output, known.get("written")), *((case.output.parent / n, was) for n, was in beside.items())]
        found = {path: (fingerprint([path], [was]), was) for path, was in pairs}
        if not all(now and isinstance(was, dict) for now, was in found.values()):
            return False
        changed = [path for path, (now, was) in found.items() if now and now.sha256 != was.get("sha256")]
        for path in changed:
            say(f"warning: {path}: found changed since it was written, doing it again", sys.stderr)
        return not changed

    def _resume(self, outcome: Outcome, known: dict[str, Any]) -> None:
        """Take an outcome from a record."""
        kept = {f.name: known[f.name] for f in fields(Record) if f.name in known and f.name != "warnings"}
        outcome.record, outcome.written = Record(**kept), known.get("status") != "failed"
        outcome.skipped, self.settings = outcome.written, self.settings or _part(known, "settings")
        problems = known.get("warnings")
        problems = [str(problem)[:MOST_LETTERS] for problem in problems] if isinstance(problems, list) else []
        for problem in problems[:MOST_REPEATED]:
            outcome.report("warning" if outcome.written else "error", problem)
        if len(problems) > MOST_REPEATED:  # no run has said so many; somebody has changed the record
            left = len(problems) - MOST_REPEATED
            outcome.report("warning", f"{outcome.case.image}: found {left} more warnings in its record, expected fewer")

    # --- what becomes of it ----------------------------------------------------------------------------------------

    def _segmented(self, task: _Task) -> npt.NDArray[np.uint8] | None:
        if task.volume is None:
            return None
        if self._segmenter is None:
            self._segmenter, self._after = self._load()
            self.settings = self._segmenter.settings
        left = max(1, self._expected - self._progress.worked)
        deadline = network_deadline(self.until, left, task.volume.array.size)
        try:
            return segmented(task.volume, self._segmenter, task.outcome, deadline)
        except Exception as error:
            task.error = in_one_line(error, task.outcome.case.image)
            return None

    def _finish(self, task: _Task, labels: npt.NDArray[np.uint8] | None) -> None:
        """Write a case's output and its record, and leave it to others again."""
        outcome, case = task.outcome, task.outcome.case
        try:
            if labels is None or task.volume is None:
                raise InputError(task.error)
            task.shape = labels.shape
            beside = write_scan(outcome, task.volume, labels, self._after)
            task.beside = None if beside is None else {path.name: _described([path]) for path in beside}
        except Exception as error:
            outcome.report("error", in_one_line(error, case.image))
        task.volume, outcome.headers = None, []
        try:
            self.manifest.append(self._record(task))
        except OSError as error:
            found = f"could not be written ({error.strerror or error}), the next run will do {case.output} again"
            outcome.complete = False
            say(f"error: {self.manifest.path}: {found}", sys.stderr)
        self.manifest.release(self.plan.key(case))
        progress = self._close(outcome)
        if labels is not None and outcome.written:
            report_written(outcome, labels.shape, sum(outcome.record.seconds.values()), progress)

    def _record(self, task: _Task) -> dict[str, Any]:
        outcome, case = task.outcome, task.outcome.case
        return {
            "output": self.plan.key(case),
            "status": outcome.status,
            "image": str(case.image),
            "scan": task.scan and asdict(task.scan),
            "click_file": case.clicks and str(case.clicks),
            "clicks": task.clicks and asdict(task.clicks),
            "model": asdict(self.plan.model),
            "asked": self.plan.asked,
            "asked_sha256": self.plan.asked_sha256,
            "settings": self.settings,
            "shape": task.shape,
            "written": _described([case.output]) if outcome.written else None,
            "beside": task.beside,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
            **asdict(outcome.record),
            "warnings": outcome.problems,
        }

    def _close(self, outcome: Outcome, worked: bool = True) -> str:
        self.outcomes.append(outcome)
        return self._progress.step(worked)


def summary(outcomes: list[Outcome]) -> str:
    """How many cases were done, skipped, done with doubts, and failed, and which failed."""
    skipped = [outcome for outcome in outcomes if outcome.skipped]
    new = [outcome.status for outcome in outcomes if not outcome.skipped]
    doubtful = sum(outcome.status == "degraded" for outcome in skipped)
    old = f"{len(skipped)} skipped" + (f" ({doubtful} of them degraded)" if doubtful else "")
    return f"{new.count('done')} done, {old}, {new.count('degraded')} degraded, {new.count('failed')} failed"


def _described(files: list[Path]) -> dict[str, Any] | None:
    """The fingerprint of files as a record holds it; None if one is missing."""
    found = fingerprint(files)
    return None if found is None else asdict(found)


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _room(voxels: int) -> bool:
    """Whether there is memory for another scan of so many voxels beside the network."""
    return memory.available() >= HEADROOM + BYTES_PER_VOXEL * voxels
