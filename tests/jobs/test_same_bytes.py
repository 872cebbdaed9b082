"""The same scan, settings and number of threads give the same bytes, whichever process and whenever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from challenge_names import MULTICLASS
from small_models import make_model
from stand_in import write_image

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("seconds", "peak_memory")  # of a case


def predict(folder, model, scan, threads):
    """The files that a process of its own leaves, by name, and the record without what it measured."""
    for ending in (".nii.gz", ".mha"):
        write_image(folder / f"in/a{ending}", scan)
    command = [sys.executable, "-m", "umamba2", "predict", "-i", "in", "-o", "out", "-m", str(model), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = {path.name: path.read_bytes() for path in (folder / "out").glob("a.*")}
    record = json.loads((folder / "out/run.json").read_text())
    for case in record["cases"]:
        for name in TIMES:
            assert case.pop(name)
    return files, record


def twice(tmp_path, model, scan, threads):
    """Each run takes longer than the second in which gzip states its time."""
    first, second = (predict(tmp_path / name, model, scan, threads) for name in ("first", "second"))
    assert set(first[0]) == {"a.nii.gz", "a.mha"}
    assert first == second


def test_a_small_network_gives_the_same_bytes(tmp_path):
    model = make_model(tmp_path / "model", classes=5, mirror_axes=(1, 2), folds=(0, 1))
    scan = np.random.default_rng(0).normal(600, 900, (14, 40, 24)).astype(np.int16)
    twice(tmp_path, model, scan, "1")


@pytest.mark.slow
def test_a_demo_model_gives_the_same_bytes(tmp_path):
    from umamba2.synthetic import make_phantom

    scan = make_phantom(3, (40, 64, 80), (1.2, 1.2, 1.2)).image
    twice(tmp_path, ROOT / "resources" / MULTICLASS, scan, "2")
