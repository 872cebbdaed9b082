"""``umamba2 serve`` as a process: what it prints, what it refuses, how it ends, and that its answers are predict's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import SimpleITK as sitk

from umamba2 import cli
from umamba2.scans.volumes import Geometry, to_image
from umamba2.synthetic import make_phantom

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def served(tmp_path: Path, *options: str):
    """A running server: the process, and the lines on its stdout so far."""
    command = [sys.executable, "-m", "umamba2", "serve", "--port", "0", *options]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "UMAMBA2_TOKEN": ""}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_prints_its_address_and_leaves_nothing_behind(tmp_path, ending):
    with served(tmp_path) as (process, address):
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)\?token=([\w-]{43})", address)
        assert found
        http = httpx.Client(base_url=found[1], headers={"authorization": f"Bearer {found[2]}"}, timeout=60)
        about = http.get("/api").json()  # it listens before it prints
        assert all(model["demo"] for model in about["models"])
        scan = http.post("/api/scans").json()["scan"]
        assert http.put(f"/api/scans/{scan}/files?name=a.mha", content=b"x").status_code == 201
        (folder,) = tmp_path.glob("umamba2-serve-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        process.send_signal(ending)
        assert process.wait(60) == 0
        assert "demo models for toothfairy3-multiclass" in process.stderr.read()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--no-token", "--host", "0.0.0.0"], "--no-token: found it with --host 0.0.0.0, expected a token"),
        (["--token", "short"], "--token: found 5 characters, expected at least 16"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--host", "no such host"], "--host no such host --port 8765: could not listen"),
        (["--port", "99999"], "--host 127.0.0.1 --port 99999: could not listen"),
    ],
)
def test_what_it_refuses(options, line, capsys, monkeypatch):
    monkeypatch.delenv("UMAMBA2_TOKEN", raising=False)
    assert cli.main(["serve", *options]) == 1
    assert line in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_saved_is_what_predict_gives(tmp_path):
    """The demo models on a phantom: both canals by clicks, saved; then the same from the saved click file."""
    phantom = make_phantom(5, (64, 102, 129), (0.8, 0.8, 0.8))
    upright = to_image(phantom.image, Geometry.of_array(phantom.image.shape, phantom.spacing, (10.0, -20.0, 5.0)))
    turned = sitk.DICOMOrient(upright, "RSA")
    sitk.WriteImage(turned, str(tmp_path / "phantom.nii.gz"))
    places = {}
    for side in ("left", "right"):
        z, y, x = next(place for name, place in phantom.clicks if name.startswith(side.title()))
        places[side] = turned.TransformPhysicalPointToIndex(upright.TransformIndexToPhysicalPoint((x, y, z)))[::-1]
    (tmp_path / "temporary").mkdir()
    with served(tmp_path / "temporary", "--no-token") as (_, address):
        http = httpx.Client(base_url=address, timeout=600)

        def done(answer: httpx.Response) -> dict:
            task = answer.json()
            while task["state"] in ("queued", "running"):
                asked = {"after": task["version"], "place": task["place"]}
                task = http.get(f"/api/tasks/{task['task']}", params=asked).json()
            assert task["state"] == "done", task
            return task["result"]

        scan = http.post("/api/scans").json()["scan"]
        content = (tmp_path / "phantom.nii.gz").read_bytes()
        http.put(f"/api/scans/{scan}/files?name=phantom.nii.gz", content=content)
        facts = done(http.post(f"/api/scans/{scan}/open", json={}))
        to_voxel = np.array(facts["voxels"])
        for side, place in places.items():
            position = np.linalg.solve(to_voxel[:9].reshape(3, 3), np.array(place[::-1]) - to_voxel[9:])
            click = {"side": side, "position": position.tolist()}
            assert done(http.post(f"/api/scans/{scan}/clicks", json=click))["clicks"][-1]["voxel"] == list(place)
        done(http.post(f"/api/scans/{scan}/segment", json={"challenge": "toothfairy3-multiclass"}))
        for kind, what in (("canals", "labels"), ("canals", "clicks"), ("whole", "labels")):
            name = done(http.post(f"/api/scans/{scan}/saved", json={"kind": kind, "what": what}))["saved"]
            (tmp_path / name).write_bytes(http.get(f"/api/scans/{scan}/saved/{name}").content)
    files = ["predict", "-i", str(tmp_path / "phantom.nii.gz"), "-o"]
    clicks = ["--clicks", str(tmp_path / "iac_clicks_phantom.json")]
    for saved, options in (
        ("phantom.canals.nii.gz", ["-m", str(ROOT / "resources/toothfairy3-interactive"), *clicks]),
        ("phantom.labels.nii.gz", ["-m", str(ROOT / "resources/toothfairy3-multiclass")]),
    ):
        # In a process of its own: with another number of threads sums round otherwise.
        command = [sys.executable, "-m", "umamba2", *files, str(tmp_path / "out.nii.gz"), *options]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
        ours, theirs = (sitk.ReadImage(str(tmp_path / name)) for name in (saved, "out.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
        assert set(np.unique(sitk.GetArrayFromImage(ours))) >= {0, 1, 2}
        assert ours.GetDirection() == theirs.GetDirection()
