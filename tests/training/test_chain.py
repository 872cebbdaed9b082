"""From phantoms to scores, as the documentation has it: every command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from downloads import phantom, toothfairy3, write

from umamba2.models.folder import load_model
from umamba2.scans.volumes import read_labels

pytest.importorskip("nnunetv2")

SETTINGS = {
    "nnUNet_def_n_proc": "2",
    "nnUNet_compile": "false",
    "OMP_NUM_THREADS": "1",
}
SMALL = ("--network", "small", "--patch", 16, 32, 32)
BRIEF = ("--epochs", 2, "--iterations", 2, "--validation-iterations", 1, "--device", "cpu")


@pytest.fixture
def command(tmp_path):
    """`umamba2 ...` with nnU-Net's folders below `tmp_path`; returns what it printed."""
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])

    def run(*arguments, code: int = 0) -> str:
        # nnU-Net's planner does not take 0, with which patches are made in the training's own process.
        workers = {"nnUNet_n_proc_DA": "0"} if arguments[0] in ("train", "pretrain") else {}
        done = subprocess.run(
            [sys.executable, "-m", "umamba2", *map(str, arguments)],
            env={**os.environ, **SETTINGS, **workers, **folders, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_from_download_to_scores(command, tmp_path):
    toothfairy3(tmp_path / "download")
    command("convert", "toothfairy3", tmp_path / "download", tmp_path / "raw", "--workers", 1)
    (dataset,) = (tmp_path / "raw").iterdir()
    cases = sorted(p.name.removesuffix(".nii.gz") for p in (dataset / "labelsTr").iterdir())
    command("plan", dataset.name, *SMALL, "--spacing", 3, 3, 3, "--workers", 1)
    command("preprocess", dataset.name, "--workers", 1)
    splits = [{"train": [c for c in cases if c != left_out], "val": [left_out]} for left_out in cases[:2]]
    (tmp_path / "preprocessed" / dataset.name / "splits_final.json").write_text(json.dumps(splits))

    (plans,) = (tmp_path / "preprocessed" / dataset.name).glob("nnUNet*Plans*.json")
    pretrain = (
        "pretrain", dataset / "imagesTr", "-o", tmp_path / "pretrained", "--preset", "toothfairy3-multiclass",
        "--plans", plans, "--workers", 1, *BRIEF,
    )  # fmt: skip
    assert "dry run: this machine suffices; memory: " in command(*pretrain, "--dry-run")
    assert not (tmp_path / "pretrained").exists()
    said = command(*pretrain)
    weights = tmp_path / "pretrained" / "pretrained.safetensors"
    assert str(weights) in said
    assert weights.with_name("pretrained_best.safetensors").is_file()
    assert len(list((tmp_path / "pretrained").rglob("reconstructions/*.png"))) == 2

    said = command("train", dataset.name, "--pretrained", weights, *BRIEF, "--dry-run")
    assert said.index("a step takes") < said.index("second stage (--finetune): a step takes")
    assert said.index("second stage") < said.index("dry run: this machine suffices; memory: ")
    assert not list((tmp_path / "results").iterdir())
    for fold in (0, 1):
        said = command("train", dataset.name, "--fold", fold, "--pretrained", weights, *BRIEF)
        assert "weights loaded" in said
        assert "segmentation heads of another task" in said
        assert "Mean Validation Dice" in said
        assert said.index("memory: at least ") < said.index("Epoch 0") < said.index("time left: ")
    (model,) = (tmp_path / "results" / dataset.name).iterdir()
    for fold in (0, 1):
        files = {path.name for path in (model / f"fold_{fold}").iterdir()}
        assert {"checkpoint_best.pth", "checkpoint_final.pth", "progress.png", "debug.json", "validation"} <= files
        assert "NaN" not in (model / f"fold_{fold}" / "validation" / "summary.json").read_text()  # few of 46 classes
    problem = command("train", dataset.name, "--fold", 0, *BRIEF, code=1)
    assert "found checkpoint_best.pth, expected --continue" in problem

    command("slim", model, tmp_path / "slim")
    loaded = load_model(tmp_path / "slim")
    assert (list(loaded.folds), loaded.challenge) == (["0", "1"], "toothfairy3-multiclass")
    scan, truth = tmp_path / "scans" / "unseen.nii.gz", tmp_path / "truth" / "unseen.nii.gz"
    write(scan, phantom(9).image)
    write(truth, phantom(9).labels)
    command("predict", "-i", scan.parent, "-o", tmp_path / "out", "-m", tmp_path / "slim", "--device", "cpu", "--quiet")
    assert read_labels(tmp_path / "out" / "unseen.nii.gz")[0].shape == phantom(9).labels.shape
    scored = ("-p", tmp_path / "out", "-g", truth.parent, "-o", tmp_path / "scores.json")
    command("evaluate", "toothfairy3-multiclass", *scored, code=1)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["problems"]) == 2  # these phantoms are coarse
    assert all("found a voxel size of 2 x 2 x 2 mm" in problem for problem in scores["problems"])
    assert np.isfinite(scores["aggregates"]["Dice Average"]["mean"])


@pytest.mark.slow
def test_mistakes_cost_one_line(command, tmp_path):
    for name in ("preprocessed", "results"):
        (tmp_path / name).mkdir()
    said = command("train", "Dataset777_Nothing", code=1)
    assert "expected one called Dataset777_Nothing" in said
    (tmp_path / "empty").mkdir()
    said = command("pretrain", tmp_path / "empty", "-o", tmp_path / "out", "--preset", "stsr", code=1)
    assert f"{tmp_path / 'empty'}: found no scans, expected at least one of" in said
    assert "Traceback" not in said
