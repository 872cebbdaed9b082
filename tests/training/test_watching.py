"""What a training says about memory, time and machine, and its curves and summary where a class is absent."""

import json
import math
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR
from downloads import write

pytest.importorskip("nnunetv2")

from toy_training import SHAPE, environment, make_trainer, started

from umamba2.training import semi_supervised, watching
from umamba2.training.nnunet import summary_without_nan
from umamba2.training.workers import TooLittle

TRAINER, SEMI, PRETRAINER = "UMamba2Trainer", "UMamba2SemiSupervisedTrainer", "UMamba2Pretrainer"
pytestmark = pytest.mark.usefixtures("no_plots")


def test_what_a_training_takes_is_said_before_and_after_it(multiclass, tmp_path):
    with environment(multiclass, tmp_path, epochs=2, iterations=1):
        trainer = make_trainer(TRAINER)
        trainer.run_training()
    log = Path(trainer.log_file).read_text()
    needed, free = map(
        float, re.search(r"memory: at least ([\d.]+) GB for this training, ([\d.]+) GB free", log).groups()
    )
    (most,) = map(float, re.findall(r"memory: ([\d.]+) GB at most \(cpu\)", log))
    assert 0.01 < needed < 0.1
    assert needed < most
    assert free > 0
    assert len(re.findall(r"time left: \d+ min", log)) == 1  # after the first of two epochs
    assert log.index("memory: at least") < log.index("Epoch 0") < log.index("time left")


@pytest.mark.parametrize(
    ("challenge", "name"), [(MULTICLASS, TRAINER), (INTERACTIVE, TRAINER), (STSR, SEMI), (STSR, PRETRAINER)]
)
def test_a_dry_run_does_a_little_of_everything(multiclass, interactive, stsr, tmp_path, challenge, name):
    kinds = []

    def noted(function, kind):
        return lambda *arguments: kinds.append(kind) or function(*arguments)

    root = {MULTICLASS: multiclass, INTERACTIVE: interactive, STSR: stsr}[challenge]
    with environment(root, tmp_path, dry_run=True, epochs=700, iterations=None):
        trainer = make_trainer(name)
        with (
            mock.patch.object(semi_supervised, "consistency", noted(semi_supervised.consistency, "consistency")),
            mock.patch.object(semi_supervised, "pseudo_labels", noted(semi_supervised.pseudo_labels, "pseudo")),
            mock.patch.object(trainer, "validation_step", noted(trainer.validation_step, "validation")),
            mock.patch.object(trainer, "_step", lambda b, step=trainer._step: kinds.append("step") or step(b)),
        ):
            trainer.run_training()
            trainer.perform_actual_validation()
    stages = 1 if name == PRETRAINER else 2
    assert kinds.count("step") == 2 * stages
    assert kinds.count("validation") == stages
    if name == SEMI:  # of two micro-batches a step, one is unlabelled
        assert kinds.count("consistency") == 3  # in the second stage one of the two has pseudo-labels
        assert kinds.count("pseudo") == 1
    assert not list(tmp_path.rglob("*.pth"))
    log = Path(trainer.log_file).read_text()
    said = [line.partition("dry run: ")[2].rstrip() for line in log.splitlines() if "dry" in line]
    steps = 3 if name == PRETRAINER else 250  # two patches a step, of five scans
    lengths = [
        re.fullmatch(r"(.*)a step takes [\d.]+ s, (\d+) epochs of (\d+) steps about \d+ .*", s) for s in said[:-1]
    ]
    expected = [("", "700", str(steps)), ("second stage (--finetune): ", "500", "250")]
    assert [found.groups() for found in lengths] == expected[:stages]
    assert re.fullmatch(r"this machine suffices; memory: [\d.]+ GB at most \(cpu\)", said[-1])
    assert log.index("memory: at least") < log.index("Epoch 0")


def test_the_time_of_a_stage_is_that_of_its_last_step(multiclass, tmp_path):
    with environment(multiclass, tmp_path, dry_run=True, epochs=10, iterations=100):
        trainer = started(make_trainer(TRAINER))
    for name in ("train_losses", "val_losses", "ema_fg_dice", "mean_fg_dice", "dice_per_class_or_region"):
        trainer.logger.log(name, [0.5] if "per" in name else 0.5, 0)
    trainer.logger.log("epoch_start_timestamps", 0.0, 0)
    trainer.step_ends = [60.0, 63.6]
    trainer.on_epoch_end()
    said = "dry run: a step takes 3.60 s, 10 epochs of 100 steps about 1 h 0 min"
    assert said in Path(trainer.log_file).read_text()


@pytest.mark.parametrize("dry_run", [False, True])
def test_too_little_memory_is_said_before_the_first_step(multiclass, tmp_path, monkeypatch, dry_run):
    monkeypatch.setattr(watching, "free_bytes", lambda device: 1e7)
    with environment(multiclass, tmp_path, dry_run=dry_run):
        trainer = make_trainer(TRAINER)
        if dry_run:  # which would be killed sooner or later
            with pytest.raises(
                TooLittle, match=r"^memory: at least [\d.]+ GB for this training, 0.01 GB free \(cpu\)$"
            ):
                trainer.initialize()
        else:
            trainer.initialize()
            assert "0.01 GB free (cpu): too little" in Path(trainer.log_file).read_text()


def test_memory_for_the_validation_is_part_of_the_verdict(multiclass, tmp_path, monkeypatch):
    """It needs a score of two bytes for each class and voxel."""
    needed = 2 * 47 * math.prod(SHAPE)
    with environment(multiclass, tmp_path, dry_run=True):
        trainer = started(make_trainer(TRAINER))
        trainer.dataloader_train = trainer.dataloader_val = None
        assert trainer.validation_bytes() == needed
        monkeypatch.setattr(watching, "available", lambda: needed - 1)
        with pytest.raises(TooLittle, match=r"found [1-9].*B free, expected at least [1-9].*B for the validation"):
            trainer.on_train_end()
        assert "suffices" not in Path(trainer.log_file).read_text()
        monkeypatch.setattr(watching, "available", lambda: needed)
        trainer.on_train_end()
    assert "dry run: this machine suffices" in Path(trainer.log_file).read_text()


def test_an_optimizer_with_two_momenta_needs_more(stsr, tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr("umamba2.training.trainer.check_disk", lambda folder, needed, title: wanted.append(needed))
    with environment(stsr, tmp_path):
        for name, numbers in (
            (TRAINER, 2),
            (PRETRAINER, 3),
        ):  # of each weight in a checkpoint, of which there are three
            trainer = started(make_trainer(name, fold="all"))
            weights = sum(weight.nbytes for weight in trainer.network.parameters())
            assert wanted.pop() == 3 * numbers * weights


def test_a_class_that_no_case_has_gives_no_nan(tmp_path):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet

    original = nnunet.compute_metrics_on_folder
    for folder, boxes in (("truth", {"a": 1, "b": 2}), ("found", {"a": 1, "b": 1})):
        for case, label in boxes.items():
            labels = np.zeros((4, 4, 4), np.uint8)
            labels[:2] = label
            write(tmp_path / folder / f"{case}.nii.gz", labels)
    with summary_without_nan():
        result = nnunet.compute_metrics_on_folder(
            str(tmp_path / "truth"), str(tmp_path / "found"), str(tmp_path / "summary.json"), SimpleITKIO(), ".nii.gz",
            [1, 2, 3], None, num_processes=1, chill=True,
        )  # fmt: skip
    assert nnunet.compute_metrics_on_folder is original
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    summary = json.loads(text)
    assert {label: values["Dice"] for label, values in summary["mean"].items()} == {"1": 0.5, "2": 0.0}
    assert summary["foreground_mean"]["Dice"] == result["foreground_mean"]["Dice"] == 0.25


def test_patches_without_any_class_do_not_end_the_search_for_the_best_checkpoint(stsr, tmp_path):
    nothing = {"loss": np.array(1.0), **{name: np.zeros(12) for name in ("tp_hard", "fp_hard", "fn_hard")}}
    something = {**nothing, "tp_hard": np.ones(12)}
    with environment(stsr, tmp_path):
        trainer = make_trainer(TRAINER)
    for trainer.current_epoch, outputs in enumerate((nothing, something, nothing, something)):
        trainer.on_validation_epoch_end([outputs])
    assert trainer.logger.get_value("mean_fg_dice", step=None) == [0, 1, 1, 1]
    assert trainer.logger.get_value("ema_fg_dice", step=None) == pytest.approx([0, 0.1, 0.1, 0.19])
