"""Many cases at once: processes, progress, what goes wrong, and whether memory and disk will do.

What there is to say on the way goes to the logger ``umamba2.training``; the command line prints it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from umamba2.errors import InputError
from umamba2.messages import leave_quietly, pool_of_processes, unexpected
from umamba2.scans.memory import available

Result = TypeVar("Result")
Tasks = Mapping[str, tuple[Any, ...]]

LOG = logging.getLogger("umamba2.training")
GB = 1e9


class TooLittle(InputError):
    """This machine has too little memory or disk space."""


def run_all(work: Callable[..., Result], tasks: Tasks, workers: int, title: str) -> dict[str, Result]:
    """Do the same work for many cases, with a progress bar on a terminal.

    A case that fails is logged as an error and leaves the others alone.

    Args:
        work: A function of a module.
        tasks: Its arguments for each case, by name.
        workers: Number of processes.
        title: What it is, for the bar and for messages.

    Returns:
        The results by case.

    Raises:
        InputError: At the end, if any case has failed; at once, if a process dies.
    """
    results, failed = {}, 0
    with tqdm(total=len(tasks), desc=title, unit="case", disable=None) as bar:
        for case, call in _calls(work, tasks, workers):
            try:
                results[case] = call()
            except BrokenProcessPool:
                fewer = f"expected memory to suffice (try fewer than {workers} workers)"
                raise InputError(f"{title}: found a worker process killed, {fewer}") from None
            except InputError as error:
                failed += 1
                LOG.error("%s", error)
            except Exception as error:
                failed += 1
                LOG.error("%s: found %s, expected to finish", case, unexpected(error))
            bar.update()
    if failed:
        raise InputError(f"{title}: found {failed} of {len(tasks)} cases that failed, expected none")
    return {case: results[case] for case in tasks}


def _calls(work: Callable[..., Result], tasks: Tasks, workers: int) -> Iterator[tuple[str, Callable[[], Result]]]:
    if min(workers, len(tasks)) < 2:
        for case, arguments in tasks.items():
            yield case, lambda arguments=arguments: work(*arguments)  # type: ignore[misc]
        return
    pool = pool_of_processes(min(workers, len(tasks)), _one_thread)
    try:
        futures = {pool.submit(work, *arguments): case for case, arguments in tasks.items()}
        for future in as_completed(futures):
            yield futures[future], future.result
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    """The processes are the parallelism; libraries that start threads in each only get in each other's way."""
    leave_quietly()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def affordable(workers: int, each: float, title: str) -> int:
    """How many of some workers fit into memory; fewer than wanted are logged.

    Args:
        workers: How many are wanted.
        each: Bytes that one needs.
        title: What for, for messages.

    Raises:
        TooLittle: Not even one fits.
    """
    free = available()
    if workers * each <= free:
        return workers
    if each > free:
        raise TooLittle(f"memory: found {in_words(free)} free, expected {in_words(each)} for {title}")
    fewer = int(free // each)
    LOG.info("%s: %d workers instead of %d (%.1f GB each, %.1f GB free)", title, fewer, workers, each / GB, free / GB)
    return fewer


def check_disk(folder: Path, needed: float, title: str) -> None:
    """See that there is room on a disk.

    Args:
        folder: Where; it may be yet to be made.
        needed: Bytes.
        title: What for, for the message.

    Raises:
        TooLittle: Less than that is free.
    """
    there = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise TooLittle(f"{folder}: found {in_words(free)} free, expected at least {in_words(needed)} for {title}")


def in_words(size: float) -> str:
    """Bytes for people."""
    unit, factor = next((one for one in (("GB", GB), ("MB", 1e6)) if size >= one[1]), ("kB", 1e3))
    return f"{size / factor:.1f} {unit}"
