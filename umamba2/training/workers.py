"""Many cases at once: processes, progress, what goes wrong, and whether memory and disk will do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from umamba2.errors import InputError
from umamba2.messages import say, unexpected

Result = TypeVar("Result")

GB = 1e9


def run_all(work: Callable[..., Result], tasks: Mapping[str, tuple], workers: int, title: str) -> dict[str, Result]:
    """``work(*arguments)`` for every case, in that many processes, with a progress bar on a terminal; results by case.

    A case that fails costs one line on stderr and leaves the others alone. Raises InputError at the end if any has
    failed, at once if a process dies.
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
                say(f"error: {error}", sys.stderr)
            except Exception as error:
                failed += 1
                say(f"error: {case}: found {unexpected(error)}, expected to finish", sys.stderr)
            bar.update()
    if failed:
        raise InputError(f"{title}: found {failed} of {len(tasks)} cases that failed, expected none")
    return {case: results[case] for case in tasks}


def _calls(work: Callable, tasks: Mapping[str, tuple], workers: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    if min(workers, len(tasks)) < 2:
        for case, arguments in tasks.items():
            yield case, lambda arguments=arguments: work(*arguments)  # type: ignore[misc]
        return
    # Forked processes inherit the locks of torch's and ITK's threads, spawned ones do not.
    pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn"), _one_thread)
    try:
        futures: dict[Future, str] = {pool.submit(work, *arguments): case for case, arguments in tasks.items()}
        for future in as_completed(futures):
            yield futures[future], future.result
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    """The processes are the parallelism; libraries that start threads in each only get in each other's way."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def affordable(workers: int, each: float, title: str) -> int:
    """How many of the workers fit into memory at ``each`` bytes; says so if that is fewer.

    Raises InputError if not even one fits.
    """
    free = available_memory()
    if free is None or workers * each <= free:
        return workers
    if each > free:
        raise InputError(f"memory: found {free / GB:.1f} GB free, expected {each / GB:.1f} GB for {title}")
    fewer = int(free // each)
    say(f"{title}: {fewer} workers instead of {workers} ({each / GB:.1f} GB each, {free / GB:.1f} GB free)")
    return fewer


def available_memory() -> int | None:
    """Bytes of memory that are free for us on this machine and in this container; None where the system won't say."""
    values = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        values += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        cgroup = Path("/sys/fs/cgroup")
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
            used = int((cgroup / "memory.current").read_text()) - int(statistics["inactive_file"])
            values.append(int(limit) - used)
    except (OSError, ValueError, KeyError):
        pass  # not Linux, or no container
    return min(values, default=None)


def check_disk(folder: Path, needed: float, title: str) -> None:
    """Raise InputError if less than ``needed`` bytes are free where the folder is, or will be."""
    there = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(f"{folder}: found {free / GB:.1f} GB free, expected at least {needed / GB:.1f} GB for {title}")
