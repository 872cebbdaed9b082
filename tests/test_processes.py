"""Processes that a command starts: they end with it, however it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from umamba2.errors import InputError
from umamba2.evaluation import cases
from umamba2.jobs.cluster import local_workers
from umamba2.training import workers

TESTS = Path(__file__).parent
WORK = """
import os, sys, time
from pathlib import Path

def work(place):
    Path(place, f"{os.getpid()}.new").touch()
    os.rename(Path(place, f"{os.getpid()}.new"), Path(place, str(os.getpid())))
    time.sleep(600)
"""
COMMANDS = {
    "evaluation": "from umamba2.evaluation.cases import run_all; run_all(work, sys.argv[1:] * 2, 2)",
    "training": "from umamba2.training.workers import run_all; run_all(work, {n: sys.argv[1:] for n in 'ab'}, 2, 'it')",
    "patches": """
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from umamba2.training.loading import Loader

class Endless(Loader):
    def __init__(self):
        self.infinite = True

    def __next__(self):
        Path(sys.argv[1], str(os.getpid())).touch()
        return {}

batches = NonDetMultiThreadedAugmenter(Endless(), None, 2, num_cached=1, seeds=[0, 1], pin_memory=False)
next(batches)
time.sleep(600)
""",
}


def alive(process: int) -> bool:
    """Whether a process is there, and more than an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_worker_outlives_a_command_that_is_killed(tmp_path, command):
    if command != "evaluation":
        pytest.importorskip("nnunetv2")
    script, seen = tmp_path / "script.py", tmp_path / "seen"
    seen.mkdir()
    body = COMMANDS[command].strip().replace("\n", "\n    ")
    script.write_text(f"{WORK}\nif __name__ == '__main__':\n    {body}\n")
    paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen([sys.executable, script, seen], env=env, stderr=subprocess.DEVNULL)
    workers = []
    try:
        until = time.monotonic() + 300
        while len(workers := [int(path.name) for path in seen.iterdir() if path.name.isdigit()]) < 2:
            assert parent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        parent.kill()
        parent.wait()
        until = time.monotonic() + 60
        while any(map(alive, workers)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)


def test_no_place_for_the_locks_of_processes(monkeypatch):
    """As where /dev/shm is full, read-only or not there."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", full)
    said = r"^workers: found no shared memory for 2 processes \(No space left on device\), expected a /dev/shm that can"
    for run_all in (
        lambda: cases.run_all(abs, [1, 2], 2),
        lambda: workers.run_all(abs, {"a": (1,), "b": (2,)}, 2, "preprocessing"),
    ):
        with pytest.raises(InputError, match=said):
            run_all()
    assert cases.run_all(abs, [-1, 2], 1) == [1, 2]


def test_no_place_for_the_locks_of_local_workers(monkeypatch):
    pytest.importorskip("distributed")

    def full(context):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("multiprocessing.context.BaseContext.Lock", full)
    said = r"^workers: found no shared memory for 2 processes \(Read-only file system\), expected a /dev/shm that can"
    with pytest.raises(InputError, match=said), local_workers(2, "cpu"):
        pass
