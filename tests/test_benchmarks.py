"""The benchmarks that nobody runs every day still run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from challenge_names import MULTICLASS, STSR

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # tiny networks gain nothing from more
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_gpu_benchmark_runs_on_a_cpu_and_claims_nothing():
    results = ROOT / "benchmarks/RESULTS.md"
    before = results.read_bytes()
    table = run("benchmarks/gpu.py", "--device", "cpu", "--small", "--repeats", "1")
    assert "| umamba2 |" in table
    assert "| the published loop |" in table
    assert "of the matrix rate" in table
    variants = [line for line in table.splitlines() if line.startswith("| forward pass, ")]
    assert len(variants) == 8
    assert all(line.count(" s") == 2 for line in variants)  # the median and the first pass
    assert results.read_bytes() == before


@pytest.mark.slow
def test_learning_benchmark_trains_and_tests(tmp_path):
    """With clicks, which takes the longest way; twenty steps say nothing about the Dice."""
    pytest.importorskip("nnunetv2")
    work, name = str(tmp_path / "work"), "task 2, ours"
    few = ["--steps", "20", "--seeds", "0", "--only", name, "--device", "cpu", "--results", str(tmp_path / "results")]
    run("benchmarks/learning.py", work, *few)
    for clicks in (0, 5):
        row = rf"\| {name}, {clicks} clicks \(1\) \| 0\.\d+ ± 0\.000"
        assert re.search(row, (tmp_path / "work/learning.md").read_text())
    assert (tmp_path / "work/learning.png").is_file()


@pytest.mark.slow
def test_cpu_benchmark_measures_speed_and_memory():
    small = ["--patch", "32", "64", "64", "--features", "4", *["8"] * 3, *["40"] * 3]
    table = run("benchmarks/cpu.py", "speed", *small, "--classes", "3", "--tiles", "1", "--repeats", "1")
    assert table.count("umamba2, ") == 2
    table = run("benchmarks/cpu.py", "shares", *small, "--classes", "3", "--repeats", "1")
    assert table.count(" s (") == 12  # two precisions of six variants
    table = run("benchmarks/cpu.py", "memory", *small, "--scale", "0.1")
    assert table.count(" GB |") == 12  # four numbers for each of three cases


@pytest.mark.slow
def test_demo_models_give_the_labels_of_nnunets_predictor():
    table = run("benchmarks/cpu.py", "agreement", "--phantoms", "1", "--scale", "0.3")
    rows = re.findall(r"^\| (\S+) \| 1 \| (\S+) % \| (\S+) % \| (\S+) % \| (\S+) % \|$", table, re.MULTILINE)
    assert [name for name, *_ in rows] == [MULTICLASS, STSR]
    for _, *shares in rows:
        single, half, single_structures, half_structures = map(float, shares)
        assert min(single, single_structures) >= 99.9
        assert min(half, half_structures) >= 99.5


@pytest.mark.slow
def test_a_mutant_is_noticed_and_the_package_left_as_it_is():
    tiles = ROOT / "umamba2/engine/tiles.py"
    before = tiles.read_bytes()
    assert run("benchmarks/mutants.py", "--only", "(PEAK * weight)").splitlines()[-1] == "1 killed"
    assert tiles.read_bytes() == before


@pytest.mark.slow
def test_batch_benchmark_measures_overlap_memory_and_skipping():
    table = run("benchmarks/batches.py", "overlap", "--edge", "24", "--cases", "3", "--network", "0.2")
    serial, overlapping = (float(row) for row in re.findall(r"^\| \w+ \| (\S+) \|$", table, re.MULTILINE))
    assert min(serial, overlapping) >= 0.19  # nothing is faster than the network
    table = run("benchmarks/batches.py", "memory", "--edge", "24", "--cases", "5")
    assert re.search(r"^growth from the second fifth to the last: -?\d+\.\d+ %$", table, re.MULTILINE)
    table = run("benchmarks/batches.py", "skip", "--cases", "5")
    assert "| nothing to do | " in table
