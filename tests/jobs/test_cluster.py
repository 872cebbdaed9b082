"""Cases on worker processes: what a dying worker costs, and that outputs are those of a serial run."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import farm_hands
import numpy as np
import pytest
from small_models import make_model
from stand_in import scan, write_image

from umamba2.errors import InputError
from umamba2.jobs import cluster as clusters
from umamba2.jobs.batch import Batch, Plan
from umamba2.jobs.cases import cases_of
from umamba2.jobs.cluster import do_case, local_workers, remote_workers, run_on_workers
from umamba2.jobs.fingerprint import Fingerprint
from umamba2.jobs.manifest import LOCKS, Manifest, _byte
from umamba2.models.folder import slim
from umamba2.scans.volumes import Geometry, read_labels

pytest.importorskip("distributed")
ROOT = Path(__file__).resolve().parents[2]


def write_scans(folder, count, kinds=None, broken=()):
    for number in range(count):
        array = scan((1 + number % 12, number % 7))
        if (kinds or {}).get(number):
            array[0, 0, 0] = kinds[number]
        path = folder / f"case{number:03}.mha"
        write_image(path, array)
        if number in broken:
            path.write_bytes(b"rubbish")


def holder(out, name):
    """The process that has a case, or None."""
    with open(out / LOCKS, "rb+") as file:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _byte(name), 1, 0)
        kind, *_, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else pid


def on_workers(folder, count=2, **plan):
    """A batch on local workers: its outcomes, and how often workers were started."""
    out, manifest, started = folder / "out", Manifest(folder / "out"), 0
    batch = Batch(Plan(out, Fingerprint(0, "", ""), {}, since=manifest.end, **plan), manifest, farm_hands.load)
    cases = cases_of(folder / "in", out)
    try:
        with batch.counting(cases):
            left = batch.unfinished(cases)
            if left:
                started = count
                with local_workers(count, "cpu") as client:
                    run_on_workers(batch, left, farm_hands.load, client, 600)
    finally:
        manifest.close()
    return batch.outcomes, started


def check(folder, outcomes, failed=()):
    assert [o.case.image.name for o in outcomes if not o.written] == [f"case{n:03}.mha" for n in failed]
    for number, outcome in enumerate(outcomes):
        if outcome.written:
            found = np.unique(read_labels(folder / f"out/case{number:03}.mha")[0]).tolist()
            assert found == [0, 1 + number % 12]


def records(folder):
    return [json.loads(line) for line in (folder / "out/manifest.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_worker_is_killed_in_the_middle_of_a_scan(tmp_path, capfd):
    """Two hundred scans, ten of them broken, as in a serial run: one killed worker changes nothing."""
    broken = range(5, 200, 20)
    write_scans(tmp_path / "in", 200, {40: farm_hands.SLOW}, broken)
    (tmp_path / "out").mkdir()
    killed = []

    def kill():
        (tmp_path / "out" / LOCKS).touch()
        while (pid := holder(tmp_path / "out", "case040.mha")) is None:
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    outcomes, _ = on_workers(tmp_path)
    killer.join(60)
    assert len(killed) == 1
    check(tmp_path, outcomes, broken)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sorted(line.split("case")[1][:3] for line in errors) == [f"{n:03}" for n in broken]
    done = [record["output"] for record in records(tmp_path) if record["status"] == "done"]
    assert len(done) == len(set(done)) == 190
    outcomes, _ = on_workers(tmp_path)
    check(tmp_path, outcomes, broken)
    assert sum(outcome.skipped for outcome in outcomes) == 190
    for number in broken:
        (tmp_path / f"in/case{number:03}.mha").unlink()
    assert on_workers(tmp_path)[1] == 0  # nothing to do: nobody is started


@pytest.mark.slow
def test_a_scan_that_kills_its_worker_is_reported_once(tmp_path, capfd):
    write_scans(tmp_path / "in", 12, {1: farm_hands.POISON, 2: farm_hands.SLOW, 3: farm_hands.POISON})
    outcomes, _ = on_workers(tmp_path)
    check(tmp_path, outcomes, [1, 3])
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    found = "found that workers die of it (out of memory?), expected a label map"
    assert sorted(errors) == [f"error: {tmp_path}/in/case{number:03}.mha: {found}" for number in (1, 3)]
    failed = [record for record in records(tmp_path) if record["status"] == "failed"]
    assert sorted(record["output"] for record in failed) == ["case001.mha", "case003.mha"]


@pytest.mark.slow
def test_workers_that_dask_has_given_up_are_started_again(tmp_path):
    """As on a busy machine where two die at once: each is lost for longer than Dask waits for it to come back."""
    import dask

    write_scans(tmp_path / "in", 4)
    manifest, cases = Manifest(tmp_path / "out"), cases_of(tmp_path / "in", tmp_path / "out")
    batch = Batch(Plan(tmp_path / "out", Fingerprint(0, "", ""), {}), manifest, farm_hands.load)
    with local_workers(2, "cpu") as client, batch.counting(cases):
        with dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}):
            for nanny in list(client.cluster.workers.values()):
                os.kill(nanny.pid, signal.SIGKILL)
            while client.cluster.workers:
                time.sleep(0.02)
        run_on_workers(batch, cases, farm_hands.load, client, 60)
        assert len(client.cluster.workers) == 2
    manifest.close()
    check(tmp_path, batch.outcomes)


def test_local_workers_are_lost_no_sooner_than_the_run_ends(monkeypatch):
    """Dask gives up a worker that is away for 15 s, which on a busy machine it may need to start."""
    import dask
    import distributed

    given = []

    def start(workers, *_, **__):
        given.append(dask.config.get("distributed.deploy.lost-worker-timeout"))
        given.extend(worker["options"]["death_timeout"] for worker in workers.values())
        raise OSError("enough")

    monkeypatch.setattr(distributed, "SpecCluster", start)
    with pytest.raises(OSError, match="enough"), local_workers(2, "cpu"):
        pass
    lost, *starts = given
    assert dask.utils.parse_timedelta(lost) >= clusters.LOCAL_WAIT
    assert len(starts) == 2
    assert max(starts) < clusters.LOCAL_WAIT


def test_workers_that_do_not_come_back_are_one_line(tmp_path):
    write_scans(tmp_path / "in", 3)
    manifest, cases = Manifest(tmp_path / "out"), cases_of(tmp_path / "in", tmp_path / "out")
    batch = Batch(Plan(tmp_path / "out", Fingerprint(0, "", ""), {}), manifest, farm_hands.load)
    client = SimpleNamespace(nthreads=dict, cluster=None)
    with pytest.raises(InputError, match=r"^workers: found none for 0 s, expected at least one; 3 scans are left$"):
        run_on_workers(batch, cases, farm_hands.load, client, 0)
    manifest.close()


def test_a_dead_scheduler_is_not_waited_for(monkeypatch):
    assert clusters._CONNECT <= 10  # seconds
    monkeypatch.setattr(clusters, "_CONNECT", 0.2)
    with (
        pytest.raises(InputError, match=r"^tcp://127\.0\.0\.1:1: found no scheduler \(.*after 0\.2 s\), expected"),
        remote_workers("tcp://127.0.0.1:1"),
    ):
        pass


def test_a_worker_loads_the_model_once(tmp_path):
    write_scans(tmp_path / "in", 3)
    before, manifest = farm_hands.loads, Manifest(tmp_path / "out")
    plan = Plan(tmp_path / "out", Fingerprint(0, "", ""), {})
    for case in cases_of(tmp_path / "in", tmp_path / "out"):
        do_case(plan, case, farm_hands.load, None)
    assert farm_hands.loads == before + 1
    do_case(
        replace(plan, model=Fingerprint(0, "other", ""), overwrite=True, since=manifest.end), case, farm_hands.load, 9
    )
    assert farm_hands.loads == before + 2
    assert len(records(tmp_path)) == 4


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder with a small network and some scans."""
    folder = tmp_path_factory.mktemp("real")
    slim(make_model(folder / "full", classes=13), folder / "model")
    rng = np.random.default_rng(0)
    for number in range(4):
        array = rng.normal(0, 500, (20, 40, 30)).astype(np.int16)
        write_image(folder / f"in/{number % 2}/{number}.nii.gz", array, Geometry((30, 40, 20), (0.3, 0.3, 0.3)))
    return folder


def predict(folder, out, *options):
    command = [sys.executable, "-m", "umamba2", "predict", "-i", "in", "-o", str(out), "-m", "model", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *options], cwd=folder, env=environment, start_new_session=True, **pipes)


def said(process, code=0):
    lines = process.communicate(timeout=300)[0].splitlines()
    assert process.returncode == code, lines
    return lines


@pytest.mark.slow
def test_outputs_are_those_of_a_serial_run(real, tmp_path):
    said(predict(real, tmp_path / "serial"))
    assert said(predict(real, tmp_path / "local", "--workers", "2"))[-1] == "4 done, 0 skipped, 0 degraded, 0 failed"
    with local_workers(1, "cpu") as client:
        options = "--scheduler", client.scheduler.address
        assert said(predict(real, tmp_path / "far", *options))[-1] == "4 done, 0 skipped, 0 degraded, 0 failed"
    for number in range(4):
        name = f"{number % 2}/{number}.nii.gz"
        assert (tmp_path / "serial" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
        assert (tmp_path / "serial" / name).read_bytes() == (tmp_path / "far" / name).read_bytes()
    # What is finished is finished for a run of any kind, and no worker is asked.
    assert said(predict(real, tmp_path / "local"))[-1] == "0 done, 4 skipped, 0 degraded, 0 failed"
    options = "--scheduler", "tcp://127.0.0.1:1"
    assert said(predict(real, tmp_path / "serial", *options))[-1] == "0 done, 4 skipped, 0 degraded, 0 failed"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_who_started_it(real, tmp_path, sent):
    psutil = pytest.importorskip("psutil")
    process = predict(real, tmp_path / "out", "--workers", "2", "--tile-step", "0.1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCKS).touch()
    while all(holder(tmp_path / "out", f"{n % 2}/{n}.nii.gz") is None for n in range(4)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.send_signal(sent)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    hidden = [path.name for path in (tmp_path / "out").rglob(".*")]
    assert hidden == [".umamba2.lock"]


@pytest.mark.slow
def test_what_is_wrong_with_the_workers_is_one_line(real, tmp_path):
    lines = said(predict(real, tmp_path / "out", "--scheduler", "nonsense"), 1)
    (error,) = (line for line in lines if line.startswith("error: "))  # a busy Dask may say more
    assert error.startswith("error: nonsense: found no scheduler (")
    (real / "clicks").mkdir()
    lines = said(predict(real, tmp_path / "out", "--workers", "2", "--clicks", "clicks"), 1)
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == ["error: model: found a model without clicks, expected one that takes them (or no --clicks)"]
