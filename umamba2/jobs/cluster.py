"""A batch on many workers: Dask hands out the cases, and each worker does its own as a batch of one.

What was done is read from the manifest and never from what Dask says: a worker may die after its output is written.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from umamba2.errors import InputError, needing
from umamba2.jobs.batch import Batch, Plan, Tools
from umamba2.jobs.job import Case, in_one_line
from umamba2.jobs.manifest import Manifest
from umamba2.messages import making_locks

TRIES = 2  # for a scan whose worker dies, beside others; then it gets one more with all other workers idle
LOCAL_WAIT, REMOTE_WAIT = 300, 3600  # seconds without any worker before giving up
_START = 120  # seconds that a local worker may take to start, on a machine that is busy with something else
_CONNECT, _RECONNECT = 5, 30  # seconds until a scheduler answers, at first and after the connection broke
_LOOK = 1.0  # seconds between looks at the workers
_NEWS = 30  # seconds that a network drive may take until a record is to be seen here

_alone = threading.Lock()
_held: dict[bytes, Tools] = {}


@contextmanager
def local_workers(count: int, device: str) -> Iterator[Any]:
    """A client of workers on this machine, each a process; they share its processors, and take turns at its GPUs.

    Args:
        count: Workers.
        device: As for `umamba2.load`.

    Raises:
        MissingExtra: Dask distributed is not installed.
    """
    with needing("cluster", "--workers"):
        from dask import config
        from distributed import Client, Nanny, Scheduler, SpecCluster
    with making_locks(count):
        get_context("spawn").Lock()  # without one, Dask would say no more than that its workers do not start
    quiet = logging.CRITICAL + 1
    host = {"host": "127.0.0.1", "dashboard": False}
    options = {"nthreads": 1, "memory_limit": None, "death_timeout": _START, "silence_logs": quiet, **host}
    # A worker that is lost for longer would be given up for good, be it about to start: 15 s unless told otherwise.
    patience = {"distributed.deploy.lost-worker-timeout": f"{LOCAL_WAIT}s"}
    workers = {
        number: {"cls": Nanny, "options": {**options, "env": environment}}
        for number, environment in enumerate(_environments(count, device))
    }
    scheduler = {"cls": Scheduler, "options": {"port": 0, "allowed_failures": TRIES - 1, **host}}
    with (
        config.set(patience),
        SpecCluster(workers, scheduler, silence_logs=quiet) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _environments(count: int, device: str) -> Iterator[dict[str, str]]:
    """The environment of each local worker: its share of the processors, and its GPU."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, processors // count))
    gpus: list[str] = []
    if device in ("auto", "cuda"):
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    for number in range(count):
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        yield {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **gpu}


@contextmanager
def remote_workers(address: str) -> Iterator[Any]:
    """A client of a scheduler that runs somewhere. Raises InputError if there is none."""
    with needing("cluster", "--scheduler"):
        from distributed import Client
    try:
        with Client(address, timeout=_CONNECT, set_as_default=False):
            pass
        client = Client(address, timeout=_RECONNECT)
    except (OSError, ValueError, TypeError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{address}: found no scheduler ({why}), expected the address of one of Dask's") from None
    with client:
        yield client


def do_case(plan: Plan, case: Case, load: Callable[[], Tools], seconds: float | None) -> None:
    """What a worker does: a batch of one case, with the model that it keeps.

    Args:
        plan: Of the whole batch.
        case: With paths that hold here, too.
        load: Loads the model; picklable.
        seconds: Until everything must be written; None: no limit.
    """
    until = None if seconds is None else time.monotonic() + seconds

    def held() -> Tools:
        key = pickle.dumps((load, plan.model))
        if key not in _held:
            _held.clear()
            _held[key] = load()
        return _held[key]

    # Who has asked for it says how it went.
    with _alone, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        manifest = Manifest(plan.folder)
        try:
            batch = Batch(plan, manifest, held, until)
            with batch.counting([case]):
                batch.run([case])
        finally:
            manifest.close()


@dataclass
class _Farm:
    """Cases on workers: never more of them than there are workers, so that a dying worker takes no other case along."""

    client: Any
    batch: Batch
    load: Callable[[], Tools]
    patience: float
    starting: Future[Any] | None = None

    def run(self, cases: list[Case]) -> None:
        from distributed import KilledWorker

        suspects = []
        for case, error in self._answers(cases, side_by_side=True):
            if isinstance(error, KilledWorker):
                suspects.append(case)  # it, or one that ran on the same worker
            else:
                self._settle(case, error)
        for case, error in self._answers(suspects, side_by_side=False):
            self._settle(case, error)

    def _settle(self, case: Case, error: BaseException | None) -> None:
        from distributed import KilledWorker

        if isinstance(error, InputError):  # the worker has no model: no other case would do better
            raise error
        end = time.monotonic() + _NEWS
        while error is None and not self.batch.is_recorded(case) and time.monotonic() < end:
            time.sleep(_LOOK)
        problem = f"{case.image}: found no record of it, expected one"
        if isinstance(error, KilledWorker):
            problem = f"{case.image}: found that workers die of it (out of memory?), expected a label map"
        elif error is not None:
            problem = in_one_line(error, case.image)
        self.batch.settle(case, problem)

    def _answers(self, cases: list[Case], side_by_side: bool) -> Iterator[tuple[Case, BaseException | None]]:
        """Each case with what it failed of, as far as Dask knows."""
        from distributed import wait

        left, running = list(reversed(cases)), dict[Any, Case]()
        seen = time.monotonic()  # workers
        while left or running:
            workers = len(self.client.nthreads())
            if workers:
                seen = time.monotonic()
            elif time.monotonic() - seen > self.patience:
                undone = f"expected at least one; {len(left) + len(running)} scans are left"
                raise InputError(f"workers: found none for {self.patience:.0f} s, {undone}")
            self._replace_lost()
            while left and len(running) < (workers if side_by_side else 1):
                case = left.pop()
                running[self._submit(case, len(left) + 1, workers)] = case
            if not running:
                time.sleep(_LOOK)
                continue
            try:
                done = wait(list(running), timeout=_LOOK, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in done:
                yield running.pop(future), future.exception() if future.status == "error" else None
                future.release()

    def _replace_lost(self) -> None:
        """Start local workers anew whose start has failed, which Dask does not do; slow ones are left alone."""
        cluster = self.client.cluster  # None: the workers are somebody else's
        if cluster is None or not (self.starting is None or self.starting.done()):
            return
        for name, nanny in list(cluster.workers.items()):
            if nanny.status.name in ("closed", "failed"):
                cluster.workers.pop(name, None)
        if len(cluster.workers) < len(cluster.worker_spec):
            self.starting = asyncio.run_coroutine_threadsafe(_complete(cluster), cluster.loop.asyncio_loop)

    def _submit(self, case: Case, left: int, workers: int) -> Any:
        until, seconds = self.batch.until, None
        if until is not None:
            seconds = (until - time.monotonic()) * min(1, workers / left)
        return self.client.submit(do_case, self.batch.plan, case, self.load, seconds, pure=False)


async def _complete(cluster: Any) -> None:
    """Start the workers that a cluster should have and has not."""
    await cluster


def run_on_workers(batch: Batch, cases: list[Case], load: Callable[[], Tools], client: Any, patience: float) -> None:
    """Do cases that are not finished on workers; the outcomes go to the batch.

    Args:
        batch: Says what is finished, and takes the outcomes.
        cases: With paths that hold for the workers, too.
        load: Loads the model; picklable.
        client: Dask's.
        patience: Seconds without any worker before giving up.

    Raises:
        InputError: There are no workers, or they cannot load the model.
    """
    _Farm(client, batch, load, patience).run(cases)
