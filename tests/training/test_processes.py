"""Trainings that have processes of their own: stock nnU-Net's command, kill -9, and several processes at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from challenge_names import INTERACTIVE, MULTICLASS, STSR

pytest.importorskip("nnunetv2")

from toy_training import CONFIGURATION, DATASET, PLANS, make_dataset, output_folder, settings

from umamba2.models.checkpoint import open_checkpoint
from umamba2.models.folder import load_model

TESTS = Path(__file__).parents[1]
# nnUNetv2_train's entry point; see `make_torchvision_importable` for why not the command itself.
STOCK = (
    "from umamba2.training.nnunet import make_torchvision_importable; make_torchvision_importable(); "
    "from nnunetv2.run.run_training import run_training_entry; run_training_entry()"
)
CLICK_NETWORK = "nnunetv2.nets.UMambaBot2_CrossAttn_Click2"


def environment(root: Path, results: Path, **options) -> dict[str, str]:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return {**os.environ, **settings(root, results, **options), **own}


def stock(*arguments: str, env: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-c", STOCK, DATASET, CONFIGURATION, "0", *arguments, "-p", PLANS, "-device", "cpu"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output


@pytest.mark.slow
def test_stock_nnunet_trains_published_plans_and_goes_on_after_kill_9(tmp_path):
    """nnUNetv2_train finds the trainer; killed and resumed, it has the losses of a run that was left alone."""
    root = make_dataset(tmp_path / "data", MULTICLASS)
    options = {"epochs": 4, "iterations": 2}
    whole = environment(root, tmp_path / "whole", **options)
    said = finished(stock("-tr", "UMamba2Trainer", env=whole))
    assert "Using trainer 'UMamba2Trainer' from: " in said
    assert "Mean Validation Dice" in said
    expected = open_checkpoint(output_folder(tmp_path / "whole", "UMamba2Trainer") / "fold_0" / "checkpoint_final.pth")
    assert (output_folder(tmp_path / "whole", "UMamba2Trainer") / "fold_0" / "progress.png").is_file()

    parts = environment(root, tmp_path / "parts", **options)
    folder = output_folder(tmp_path / "parts", "UMamba2Trainer") / "fold_0"
    process = stock("-tr", "UMamba2Trainer", env=parts)
    deadline = time.monotonic() + 300
    while not (folder / "checkpoint_latest.pth").is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "checkpoint_final.pth").exists()
    finished(stock("-tr", "UMamba2Trainer", "--c", env=parts))
    resumed = open_checkpoint(folder / "checkpoint_final.pth")
    assert resumed["current_epoch"] == expected["current_epoch"] == 4
    for curve in ("train_losses", "val_losses", "lrs"):
        assert resumed["logging"][curve] == pytest.approx(expected["logging"][curve], rel=1e-4), curve
    assert load_model(folder.parent).challenge == MULTICLASS


SPAWNED = """
import multiprocessing, sys
multiprocessing.set_start_method("spawn")
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from toy_training import make_trainer
MetaLogger.plot_progress_png = lambda *_: None
make_trainer(sys.argv[1], sys.argv[2]).run_training()
"""


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["UMamba2SemiSupervisedTrainer", "UMamba2Pretrainer"])
def test_patches_are_made_by_processes_that_start_afresh(tmp_path, trainer):
    """As on macOS and Windows: what they need travels as a pickle."""
    root = make_dataset(tmp_path / "data", STSR)
    env = {**environment(root, tmp_path / "results", epochs=1, iterations=2), "nnUNet_n_proc_DA": "1"}
    command = [sys.executable, "-c", SPAWNED, trainer, "all"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert "Training done." in finished(process)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "challenge", "network", "fold"),
    [
        ("UMamba2Trainer", MULTICLASS, "nnunetv2.nets.UMambaBot2", 0),
        ("UMamba2Trainer", INTERACTIVE, CLICK_NETWORK, 0),
        ("UMamba2SemiSupervisedTrainer", STSR, "nnunetv2.nets.UMambaBot2", 0),
        ("UMamba2Pretrainer", STSR, "nnunetv2.nets.UMambaBot2", "all"),
    ],
)
def test_two_processes_train_one_network(tmp_path, trainer, challenge, network, fold):
    """Both end with the same weights, which are other than at the start; a step's patches are shared."""
    root = make_dataset(tmp_path / "data", challenge, network)
    env = environment(root, tmp_path / "results", epochs=2, iterations=4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    files = [tmp_path / f"rank_{rank}.pth" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, TESTS / "distributed_training.py", str(rank), "2", port, trainer, str(fold), file],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    for process in processes:
        finished(process)
    first, second = (open_checkpoint(file).read() for file in files)
    assert first["micro-batches"] == (1, 1)  # of the two patches of a step
    assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])
    assert first["losses"] == second["losses"]
    assert load_model(output_folder(tmp_path / "results", trainer)).folds[str(fold)].keys() == first["weights"].keys()
