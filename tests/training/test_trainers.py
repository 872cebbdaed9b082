"""The trainers on tiny datasets: gradients, NaN, stages, clicks, unlabelled steps, pretraining, checkpoints."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from challenge_names import MULTICLASS, STSR

pytest.importorskip("nnunetv2")

from toy_training import DATASET, PATCH, PLANS, SHAPE, environment, make_trainer, output_folder, started

from umamba2.anatomy.structures import ANATOMY, left_right_pairs
from umamba2.challenges.recipe import Pretraining
from umamba2.engine.predict import Predictor
from umamba2.errors import InputError
from umamba2.models.folder import load_model, slim
from umamba2.training import losses, semi_supervised
from umamba2.training.options import Options
from umamba2.training.pretrain import disrupt, draw, masked_blocks
from umamba2.training.pretrained import read_weights
from umamba2.training.resuming import LossNotFinite
from umamba2.training.trainer import UMamba2Trainer

TRAINER, SEMI, PRETRAINER = "UMamba2Trainer", "UMamba2SemiSupervisedTrainer", "UMamba2Pretrainer"
pytestmark = pytest.mark.usefixtures("no_plots")


def batch_of(classes, seed, batch=1):
    """A batch as nnU-Net's loader gives it to a network of three stages."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.randint(0, classes, (batch, 1, *PATCH), generator=generator).short()
    return {
        "data": torch.randn(batch, 1, *PATCH, generator=generator),
        "target": [full, full[:, :, ::2, ::2, ::2]],
        "keys": [f"made_up_{seed}"] * batch,
    }


def gradients(trainer):
    return torch.cat([p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None])


# --- supervised -------------------------------------------------------------------------------------------------------


def test_two_micro_batches_give_the_gradient_of_the_batch(multiclass, tmp_path):
    parts = [batch_of(47, seed) for seed in (1, 2)]
    whole = {key: torch.cat([part[key] for part in parts]) for key in ("data",)}
    whole["target"] = [torch.cat(levels) for levels in zip(*(part["target"] for part in parts))]
    with environment(multiclass, tmp_path, fp32=True):
        trainer = started(make_trainer(TRAINER))
    trainer.network.zero_grad()
    loss = trainer.loss(trainer.network(whole["data"]), whole["target"])
    loss.backward()
    expected = gradients(trainer).clone()
    trainer.clip = math.inf
    weights = _copy(trainer.network)
    assert np.mean(trainer._step(parts)) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float((gradients(trainer) - expected).norm() / expected.norm()) < 1e-5
    # clipped once, on the sum
    trainer.network.load_state_dict(weights)
    trainer.clip = 0.5 * float(expected.norm())
    trainer._step(parts)
    assert float((gradients(trainer) - expected / 2).norm() / expected.norm()) < 1e-5


def test_a_step_draws_as_many_micro_batches_as_the_preset_says(multiclass, tmp_path):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
    assert (trainer.batch_size, trainer.accumulate) == (1, 2)
    trainer.dataloader_train = iter([batch_of(47, 2), batch_of(47, 3)])
    seen = []
    with mock.patch.object(
        trainer, "_step", lambda batches: seen.append([b["keys"][0] for b in batches]) or [1.0, 3.0]
    ):
        assert trainer.train_step(batch_of(47, 1))["loss"] == 2.0
    assert seen == [["made_up_1", "made_up_2"]]


def test_the_multiclass_recipe(multiclass, tmp_path):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
        trainer.get_dataloaders()
    loss = trainer.loss.loss
    assert isinstance(loss, losses.SoftDiceCE)
    torch.testing.assert_close(loss.table, losses.soft_targets(ANATOMY, 0.1))
    assert [i for i, weight in enumerate(loss.weights) if weight == 10] == [43, 44, 45]
    assert trainer.pairs == left_right_pairs(ANATOMY)
    assert trainer.inference_allowed_mirroring_axes == (0, 1, 2)
    optimizer = trainer.optimizer.param_groups[0]
    assert (optimizer["momentum"], optimizer["nesterov"], optimizer["weight_decay"]) == (0.99, True, 3e-5)
    assert trainer.clip == 12
    mirror = next(t for t in trainer._training_transforms()[0].transforms if "Mirror" in type(t).__name__)
    assert (mirror.allowed_axes, mirror.left_right_axis, mirror.pairs) == ((0, 1, 2), 2, trainer.pairs)


def test_training_and_fine_tuning(multiclass, tmp_path):
    """Two stages in one run: learning rates, a fresh optimizer, and a checkpoint that everything reads."""
    with environment(multiclass, tmp_path, epochs=1, finetune_epochs=1, iterations=1):
        trainer = make_trainer(TRAINER)
        momenta = []
        start = trainer.on_train_epoch_start

        def recorded():
            start()
            momenta.append(len(trainer.optimizer.state))

        trainer.on_train_epoch_start = recorded
        trainer.run_training()
        assert momenta == [0, 0]
        assert trainer.logger.get_value("lrs", step=None) == pytest.approx([0.01, 1e-3])
    folder = output_folder(tmp_path, TRAINER)
    predictor = Predictor.load(folder, device="cpu", precision="fp32")
    assert predictor.challenge == MULTICLASS
    assert predictor.mirror_axes == (0, 1, 2)
    volume = np.random.default_rng(0).normal(size=PATCH).astype(np.float32) * 500
    slim(folder, tmp_path / "slim")
    other = Predictor.load(tmp_path / "slim", device="cpu", precision="fp32")
    first, second = (p.predict(volume, (3.0, 3.0, 3.0)) for p in (predictor, other))
    np.testing.assert_array_equal(first, second)
    assert load_model(tmp_path / "slim").challenge == MULTICLASS


def test_a_resumed_run_goes_on_where_it_was(multiclass, tmp_path):
    with environment(multiclass, tmp_path, epochs=3, iterations=1):
        whole = make_trainer(TRAINER)
        whole.run_training()
        expected = {key: whole.logger.get_value(key, step=None) for key in ("train_losses", "val_losses", "lrs")}
    shutil.rmtree(tmp_path / DATASET)
    with environment(multiclass, tmp_path, epochs=3, iterations=1):
        killed = make_trainer(TRAINER)
        with mock.patch.object(killed, "on_epoch_start", _until(killed, 2)), pytest.raises(KeyboardInterrupt):
            killed.run_training()
        resumed = make_trainer(TRAINER, resume=True)
        resumed.load_checkpoint(str(output_folder(tmp_path, TRAINER) / "fold_0" / "checkpoint_latest.pth"))
        assert resumed.current_epoch == 2
        resumed.run_training()
    for key, values in expected.items():
        assert resumed.logger.get_value(key, step=None) == pytest.approx(values, rel=1e-5), key
    for key, value in _copy(whole.network).items():
        torch.testing.assert_close(resumed.network.state_dict()[key], value, rtol=1e-3, atol=1e-5)


def killed_at(epoch, resume=False):
    """Train up to an epoch, as if the process had been killed then, going on where an earlier one was if asked to."""
    from nnunetv2.run.run_training import maybe_load_checkpoint

    trainer = make_trainer(TRAINER, resume=resume)
    maybe_load_checkpoint(trainer, resume, validation_only=False)
    began = trainer.current_epoch
    with mock.patch.object(trainer, "on_epoch_start", _until(trainer, epoch)), pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    return began


def test_a_killed_fine_tuning_goes_on_where_it_was(multiclass, tmp_path):
    """nnU-Net would begin with the first stage's end each time."""
    with environment(multiclass, tmp_path, epochs=1, iterations=1):
        make_trainer(TRAINER).run_training()
    with environment(multiclass, tmp_path, epochs=1, finetune_epochs=4, iterations=1):
        assert killed_at(3, resume=True) == 1
        assert killed_at(4, resume=True) == 3


def test_weights_to_start_from_are_taken_where_there_is_no_checkpoint_to_go_on_from(multiclass, tmp_path):
    with environment(multiclass, tmp_path / "source"):
        source = started(make_trainer(TRAINER))
        source.save_checkpoint(str(tmp_path / "weights.pth"))
    with environment(multiclass, tmp_path, pretrained=str(tmp_path / "weights.pth"), seed=1):
        killed_at(0, resume=True)
        log = next(output_folder(tmp_path, TRAINER).glob("fold_0/training_log*")).read_text()
        assert "weights loaded" in log
        killed_at(1)
        (tmp_path / "weights.pth").unlink()  # no longer needed
        assert killed_at(1, resume=True) == 1


def _until(trainer, epoch):
    start = trainer.on_epoch_start

    def stop():
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt
        start()

    return stop


def test_a_killed_save_leaves_the_checkpoint_before(multiclass, tmp_path):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
        file = Path(trainer.output_folder, "checkpoint_latest.pth")
        trainer.save_checkpoint(str(file))
        before = file.read_bytes()

        def half(checkpoint, path):
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt

        with mock.patch("torch.save", half), pytest.raises(KeyboardInterrupt):
            trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before


def test_a_full_disk_is_named_before_and_while_training(multiclass, tmp_path, monkeypatch):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
        file = Path(trainer.output_folder, "checkpoint_best.pth")

        def full(checkpoint, path):
            Path(path).write_bytes(b"half")
            raise RuntimeError(said)

        usage = shutil.disk_usage(tmp_path)
        for said in (
            "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598\nmore",
            "PytorchStreamWriter failed writing file data/0: file write failed",
        ):
            for free, reason in ((0, "the disk is full"), (10**15, said.splitlines()[0])):
                monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
                expected = re.escape(f"checkpoint_best.pth: could not be written ({reason}), expected")
                with mock.patch("torch.save", full), pytest.raises(InputError, match=expected):
                    trainer.save_checkpoint(str(file))
                assert not list(file.parent.glob("checkpoint*"))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(InputError, match=r"fold_0: found 1.0 kB free, expected at least [1-9].* for the checkp"):
            make_trainer(TRAINER).initialize()


def test_a_training_that_dies_leaves_what_other_folds_need(multiclass, tmp_path, monkeypatch):
    """Plans, description and picture are written by nnU-Net, in place: half of them, and the process dies."""
    from nnunetv2.training.logging.nnunet_logger import MetaLogger
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

    def half(content, file, **_):
        Path(file).write_text(json.dumps(content)[:20])
        if Path(file).name == "dataset.json":
            raise KeyboardInterrupt

    def picture(_, folder):
        Path(folder, "progress.png").write_bytes(b"half")
        raise KeyboardInterrupt

    with environment(multiclass, tmp_path):
        trainer = make_trainer(TRAINER)
        monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda _, at: Path(at, "progress.png").write_bytes(b"it"))
        trainer.on_train_start()
        trainer.logger.plot_progress_png(trainer.output_folder)
        base, drawn = Path(trainer.output_folder_base), Path(trainer.output_folder, "progress.png")
        before = {path: path.read_bytes() for path in [*base.glob("*.json"), drawn]}
        assert {path.name for path in before} == {"plans.json", "dataset.json", "dataset_fingerprint.json", drawn.name}
        assert json.loads((base / "plans.json").read_text())["plans_name"] == PLANS
        monkeypatch.setattr(module, "save_json", half)
        monkeypatch.setattr(MetaLogger, "plot_progress_png", picture)
        again = make_trainer(TRAINER)
        with pytest.raises(KeyboardInterrupt):
            again.on_train_start()
        assert {path: path.read_bytes() for path in before} == before
        assert (again.output_folder_base, Path(again.output_folder).parent) == (str(base), base)
        monkeypatch.undo()
        monkeypatch.setattr(MetaLogger, "plot_progress_png", picture)
        again.on_train_start()
        with pytest.raises(KeyboardInterrupt):
            again.logger.plot_progress_png(again.output_folder)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.rglob(".unfinished*"))


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer_state": None}, {"network_weights": {}}, {"current_epoch": None}, {"current_epoch": "x"},
        {"current_epoch": 1.5}, {"current_epoch": 10**30}, {"current_epoch": -1}, {"logging": {}}, {"logging": "x"},
        {"init_args": 5}, {"init_args": {"fold": 1}}, {"init_args": {"plans": {"plans_name": "other"}}},
        {"init_args": {"configuration": "2d"}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["checkpoint_latest.pth", "checkpoint_final.pth"])
def test_checkpoints_of_something_else_are_refused(multiclass, tmp_path, change, name):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
        file = Path(trainer.output_folder, name)
        trainer.save_checkpoint(str(file))
        if name == "checkpoint_final.pth":
            shutil.copy(file, file.with_name("checkpoint_latest.pth"))
        whole = torch.load(file, weights_only=False)
        if isinstance(arguments := change.get("init_args"), dict):
            change = {"init_args": {**whole["init_args"], **arguments}}
        torch.save({**whole, **change}, file)
        with pytest.raises(InputError, match=r"fold_0: found a checkpoint that does not fit \(.*\), expected one of"):
            make_trainer(TRAINER, resume=True).load_checkpoint(str(file))


def test_checkpoints_with_numbers_that_are_not_of_this_training_are_refused(multiclass, tmp_path):
    """Each would be gone on with: NaN in momenta becomes NaN in weights, and a rate of 1e9 noise."""
    with environment(multiclass, tmp_path, epochs=2, iterations=1):
        killed_at(1)
        file = output_folder(tmp_path, TRAINER) / "fold_0" / "checkpoint_latest.pth"
        whole = torch.load(file, weights_only=False)
        make_trainer(TRAINER, resume=True).load_checkpoint(str(file))

        def momenta(numbers):
            return {"optimizer_state": {**whole["optimizer_state"], "state": {0: {"momentum_buffer": numbers}}}}

        def group(**changes):
            (theirs,) = whole["optimizer_state"]["param_groups"]
            return {"optimizer_state": {**whole["optimizer_state"], "param_groups": [{**theirs, **changes}]}}

        shape = whole["optimizer_state"]["state"][0]["momentum_buffer"].shape
        name, weights = next(iter(whole["network_weights"].items()))
        for change, problem in (
            (momenta(torch.full(shape, math.nan)), "momentum_buffer of weight 0 of its optimizer that is not finite"),
            (momenta(torch.zeros(3)), "momentum_buffer of weight 0 .* of another shape"),
            (momenta("x"), "momentum_buffer of weight 0"),
            ({"optimizer_state": {**whole["optimizer_state"], "state": {10**6: {}}}}, "the state of a weight 1000000"),
            (group(weight_decay=1e9), "weight_decay 1000000000.0 of its optimizer where this training has 3e-05"),
            (group(params=whole["optimizer_state"]["param_groups"][0]["params"][::-1]), "params "),
            ({"network_weights": {**whole["network_weights"], name: weights / 0}}, f"not finite in {name}"),
            ({"logging": {**whole["logging"], "lrs": [1.0] * 5}}, "a curve lrs of 5 values after 1 epochs"),
        ):
            torch.save({**whole, **change}, file)
            with pytest.raises(InputError, match=rf"fold_0: found a checkpoint that does not fit \(.*{problem}"):
                make_trainer(TRAINER, resume=True).load_checkpoint(str(file))
        torch.save({**whole, **group(lr=1e9)}, file)  # which follows from the epoch
        trainer = make_trainer(TRAINER, resume=True)
        trainer.load_checkpoint(str(file))
        trainer.run_training()
    assert trainer.logger.get_value("lrs", step=None)[1] < 0.1
    assert (
        torch.load(file.with_name("checkpoint_final.pth"), weights_only=False)["network_weights"][name].abs().max() < 9
    )


def test_weights_that_are_not_finite_are_not_saved(multiclass, tmp_path):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
        file = Path(trainer.output_folder, "checkpoint_latest.pth")
        trainer.save_checkpoint(str(file))
        before = file.read_bytes()
        with torch.no_grad():
            trainer.network.decoder.seg_layers[0].bias[0] = math.inf
        with pytest.raises(InputError, match=r"latest.pth: found numbers that are not finite in decoder.seg_layers.0"):
            trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before


# --- NaN --------------------------------------------------------------------------------------------------------------


def poisoned(trainer, until_fp32):
    """Make the network answer NaN, until the trainer has changed to full precision or for ever."""

    def hook(module, inputs, outputs):
        if not (until_fp32 and trainer.full_precision):
            return [output * math.nan for output in outputs]
        return outputs

    trainer.network.register_forward_hook(hook)


def test_nan_is_named_and_retried_from_the_last_good_state(multiclass, tmp_path):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
        good = _copy(trainer.network)
        trainer.dataloader_train = iter([batch_of(47, seed) for seed in range(10)])
        trainer.train_step(batch_of(47, 20))
        assert not torch.equal(_copy(trainer.network)["decoder.seg_layers.1.bias"], good["decoder.seg_layers.1.bias"])
        poisoned(trainer, until_fp32=True)
        seen = []
        step = trainer._step
        with mock.patch.object(trainer, "_step", lambda batches: seen.append(_copy(trainer.network)) or step(batches)):
            loss = trainer.train_step(batch_of(47, 21))["loss"]
    assert np.isfinite(loss)
    assert trainer.full_precision
    assert len(seen) == 2
    assert all(torch.equal(seen[1][key], good[key]) for key in good)  # where the epoch began
    log = Path(trainer.log_file).read_text()
    assert "epoch 0, iteration 1, cases made_up_21: found nan in the network's output (resolution 0)" in log
    assert "going back to the start of the epoch and on in full precision" in log


def test_nan_that_stays_ends_the_training(multiclass, tmp_path):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
        trainer.dataloader_train = iter([batch_of(47, seed) for seed in range(4)])
        poisoned(trainer, until_fp32=False)
        with pytest.raises(InputError, match=r"iteration 0, cases made_up_9: found nan .* in full precision too"):
            trainer.train_step(batch_of(47, 9))


def test_nan_in_a_case_is_named(multiclass, tmp_path):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
        batch = batch_of(47, 5)
        batch["data"][0, 0, 3, 3, 3] = math.nan
        with pytest.raises(LossNotFinite, match="cases made_up_5: found nan in the input"):
            trainer._step([batch])


def test_fp32_can_be_forced(multiclass, tmp_path):
    with environment(multiclass, tmp_path, fp32=True):
        trainer = make_trainer(TRAINER)
        assert trainer.full_precision
        trainer.device = torch.device("cuda")  # as far as one can without
        assert not isinstance(trainer._autocast(), torch.autocast)
        trainer.full_precision = False
        with mock.patch("torch.cuda.is_available", return_value=True):
            assert isinstance(trainer._autocast(), torch.autocast)


# --- clicks -----------------------------------------------------------------------------------------------------------


def test_clicks_belong_to_the_patch_they_are_given_with(interactive, tmp_path):
    with environment(interactive, tmp_path, epochs=1):
        trainer = make_trainer(TRAINER)
        calls, forward = [], None
        trainer.initialize()
        forward = trainer.bare_network.forward

        def watched(volume, clicks=None):
            calls.append((volume, clicks))
            return forward(volume, clicks)

        targets = []
        run = trainer._run
        trainer.bare_network.forward = watched
        with mock.patch.object(trainer, "_run", lambda n, d, t: targets.append(t[0]) or run(n, d, t)):
            trainer.run_training()
        assert len(calls) == len(targets) == 2 * 2 + 1  # steps of two micro-batches, and a validation
        given = 0
        for (_, (coordinates, sides)), target in zip(calls, targets):
            for point, side in zip(coordinates[0].long(), sides[0]):
                assert target[(0, 0, *point.tolist())] == side + 1
                given += 1
        assert given > 0
        assert trainer.inference_allowed_mirroring_axes == (0, 1, 2)


def test_validation_mirrors_no_sides_and_needs_no_clicks(interactive, tmp_path):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    with environment(interactive, tmp_path):
        trainer = make_trainer(TRAINER)
        trainer.initialize()
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        seen = []

        def validate(self, save_probabilities=False):
            seen.append(self.inference_allowed_mirroring_axes)

        with mock.patch.object(nnUNetTrainer, "perform_actual_validation", validate):
            trainer.perform_actual_validation()
        assert seen == [(0, 1)]  # x would need its labels swapped
        assert trainer.inference_allowed_mirroring_axes == (0, 1, 2)
        trainer.set_deep_supervision_enabled(False)
        assert trainer.network(torch.zeros(1, 1, *PATCH)).shape == (1, 3, *PATCH)


def test_validation_scores_no_label_map_of_an_earlier_run(multiclass, tmp_path):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    with environment(multiclass, tmp_path):
        trainer = make_trainer(TRAINER)
        folder = Path(trainer.output_folder, "validation")
        folder.mkdir(parents=True)
        for name in ("case_0.nii.gz", "case_of_other_splits.nii.gz", "summary.json", "notes.txt"):
            (folder / name).write_bytes(b"half")
        seen = []

        def validate(self, save_probabilities=False):
            seen.extend(path.name for path in folder.iterdir())

        with mock.patch.object(nnUNetTrainer, "perform_actual_validation", validate):
            trainer.perform_actual_validation()
    assert seen == ["notes.txt"]


# --- unlabelled scans -------------------------------------------------------------------------------------------------


def test_semi_supervised_training(stsr, tmp_path):
    """Both stages with many unlabelled steps: consistency first, then pseudo-labels among them."""
    kinds = {"consistency": 0, "pseudo": 0, "labelled": 0}

    def counted(kind, function):
        def call(*arguments):
            kinds[kind] += 1
            return function(*arguments)

        return call

    with environment(stsr, tmp_path, epochs=1, finetune_epochs=1, iterations=8):
        trainer = make_trainer(SEMI)
        assert trainer.accumulate == 2
        perturbed = []
        with (
            mock.patch.object(semi_supervised, "consistency", counted("consistency", semi_supervised.consistency)),
            mock.patch.object(semi_supervised, "pseudo_labels", counted("pseudo", semi_supervised.pseudo_labels)),
            mock.patch.object(semi_supervised, "unlabelled_probability", return_value=0.7),
            mock.patch.object(semi_supervised, "perturbed", lambda skips, _: perturbed.append(len(skips)) or skips),
        ):
            trainer.run_training()
    assert kinds["consistency"] > 0
    assert kinds["pseudo"] > 0
    assert 0 < kinds["consistency"] + kinds["pseudo"] < 32
    assert perturbed == [3] * kinds["consistency"]  # one perturbed pass per micro-batch, and none of a clean patch
    losses_seen = trainer.logger.get_value("train_losses", step=None)
    assert np.isfinite(losses_seen).all()
    assert "unlabelled batches: " in Path(trainer.log_file).read_text()
    assert Predictor.load(output_folder(tmp_path, SEMI), device="cpu").challenge == STSR


WEIGHTS = (2 / 3, 1 / 3)  # of resolutions


def semi_trainer():
    """A trainer whose losses look at both resolutions of the toy network; nnU-Net leaves the coarser one out."""
    trainer = make_trainer(SEMI)
    build = trainer._build_loss

    def weighted():
        loss = build()
        assert loss.weight_factors == (1, 0)
        loss.weight_factors = WEIGHTS
        return loss

    trainer._build_loss = weighted
    started(trainer).network.decoder.seg_layers[-1].weight.data *= 300  # sure of something
    return trainer


def unlabelled_batch(seed):
    batch = batch_of(13, seed)
    return {**batch, "data": torch.cat([batch["data"], batch["data"].flip(-1)], 1), "unlabelled": True}


def test_a_consistent_answer_is_asked_for_at_every_resolution(stsr, tmp_path):
    with environment(stsr, tmp_path, epochs=10, iterations=10):
        trainer = semi_trainer()
        trainer.current_epoch, trainer.iteration = 1, 5
        batch = unlabelled_batch(1)
        with mock.patch.object(semi_supervised, "perturbed", lambda skips, _: skips):
            loss, explain = trainer.loss_of(batch)
        network = trainer.network
        with torch.no_grad():
            clean, strong = ([o.softmax(1) for o in network(x)] for x in batch["data"].chunk(2, 1))
        t = (10 + 5) / 100 / 0.2
        differences = [float(((a - b) ** 2).mean()) for a, b in zip(clean, strong)]
        expected = 50 * math.exp(-5 * (1 - t) ** 2) * sum(w * d for w, d in zip(WEIGHTS, differences))
        assert loss.item() == pytest.approx(expected, rel=1e-4)
        assert explain() == "the consistency term"
        network.zero_grad()
        loss.backward()
        assert network.encoder.stem.convs[0].conv.weight.grad.abs().sum() > 0


def naive_pseudo_loss(outputs, confidence=0.75):
    """Dice without background and smoothing plus cross-entropy on the voxels that the finest output is sure of."""
    sure, label = outputs[0].double().softmax(1).max(1)
    label = torch.where(sure >= confidence, label, 0)  # background is left out too
    total = 0.0
    for level, (weight, output) in enumerate(zip(WEIGHTS, outputs)):
        step = 2**level
        wanted = label[:, ::step, ::step, ::step]  # the nearest voxel is the first of each cell
        seen = wanted > 0
        probabilities = output.double().softmax(1)
        scores = []
        for c in range(1, 13):
            p, t = probabilities[:, c][seen], (wanted == c)[seen].double()
            scores.append(2 * (p * t).sum() / (p.sum() + t.sum()).clamp_min(1e-8))
        chosen = probabilities.gather(1, wanted[:, None])[:, 0][seen]
        total += weight * float(-torch.stack(scores).mean() - chosen.log().mean())
    return total


def test_pseudo_labels_are_learnt_from_the_clean_patch(stsr, tmp_path):
    with environment(stsr, tmp_path, epochs=2, finetune_epochs=2, iterations=10):
        trainer = semi_trainer()
        trainer.current_epoch = 2  # the second stage
        batch, seen = unlabelled_batch(1), []
        trainer.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        trainer.shared_rng = mock.Mock(random=lambda: 0.2)
        with mock.patch.object(semi_supervised, "perturbed", side_effect=AssertionError):
            loss, explain = trainer.loss_of(batch)
        assert explain() == "the pseudo-label term"
        assert len(seen) == 1
        assert torch.equal(seen[0], batch["data"][:, :1])
        with torch.no_grad():
            outputs = trainer.network(batch["data"][:, :1])
        sure = (outputs[0].softmax(1).amax(1) >= 0.75).float().mean()
        assert 0.05 < sure < 0.999
        assert loss.item() == pytest.approx(0.1 * naive_pseudo_loss(outputs), rel=1e-3)
        trainer.shared_rng = mock.Mock(random=lambda: 0.26)
        assert trainer.loss_of(batch)[1]() == "the consistency term"


@pytest.mark.parametrize(("averaged", "factor"), [(False, 1.0), (True, 0.5)])
def test_unlabelled_gradients_are_not_halved_unless_asked_for(stsr, tmp_path, averaged, factor):
    """The released code divides a supervised loss by the two micro-batches of a step, an unlabelled one it does not."""
    labelled, unlabelled = batch_of(13, 1), unlabelled_batch(2)
    with environment(stsr, tmp_path, epochs=10, iterations=10, average_unlabelled=averaged, fp32=True):
        trainer = semi_trainer()
    trainer.iteration, trainer.clip = 90, math.inf
    trainer.loss.weight_factors = (0.01, 0.01)  # small enough for the other loss to matter
    weights = _copy(trainer.network)
    parts = []
    with mock.patch.object(semi_supervised, "perturbed", lambda skips, _: skips):
        for batch in (labelled, unlabelled):
            trainer.network.zero_grad()
            trainer.loss_of(batch)[0].backward()
            parts.append(gradients(trainer).clone())
        trainer.network.load_state_dict(weights)
        losses_seen = trainer._step([labelled, unlabelled])
    expected = 0.5 * parts[0] + factor * parts[1]
    assert float((gradients(trainer) - expected).norm() / expected.norm()) < 1e-5
    assert parts[1].norm() > 0.01 * parts[0].norm()  # it counts
    assert trainer._logged([labelled, unlabelled], losses_seen) == {False: losses_seen[:1], True: losses_seen[1:]}


def test_every_micro_batch_is_of_a_kind_of_its_own(stsr, tmp_path):
    with environment(stsr, tmp_path, epochs=2, iterations=30):
        trainer = started(make_trainer(SEMI))
        trainer.dataloader_train, _ = trainer.get_dataloaders()
        kinds = []
        with mock.patch.object(trainer, "_step", lambda b: kinds.append(["unlabelled" in x for x in b]) or [1.0] * 2):
            trainer.current_epoch = 1  # of two: as likely as not
            trainer.on_train_epoch_start()
            for _ in range(30):
                trainer.train_step(next(trainer.dataloader_train))
        assert trainer.accumulate == 2
    assert {tuple(kind) for kind in kinds} == {(False, False), (False, True), (True, False), (True, True)}


def test_semi_supervised_dice_is_not_smoothed(stsr, tmp_path):
    """Against a loop over classes."""
    with environment(stsr, tmp_path, fp32=True):
        trainer = started(make_trainer(SEMI))
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 13, 2, 3, 4), torch.randint(0, 3, (1, 1, 2, 3, 4))
    probabilities = logits.double().softmax(1)
    scores = []
    for c in range(1, 13):
        p, t = probabilities[:, c], (labels[:, 0] == c).double()
        scores.append(2 * (p * t).sum() / (p.sum() + t.sum()))
    entropy = -probabilities.gather(1, labels).log().mean()
    expected = float(entropy - torch.stack(scores).mean())
    assert trainer.loss.loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)
    assert trainer.loss.loss.dc.smooth == trainer.pseudo_loss.loss.dc.smooth == 0


def test_splits_without_unlabelled_cases(stsr, tmp_path, monkeypatch):
    """Said before any process is started, which would add its own words when the training ends."""
    monkeypatch.setattr(UMamba2Trainer, "get_dataloaders", lambda trainer: pytest.fail("processes were started"))
    root = tmp_path / "copy"
    shutil.copytree(stsr, root)
    file = root / "nnUNet_preprocessed" / DATASET / "splits_final.json"
    splits = json.loads(file.read_text())
    file.write_text(json.dumps([{key: split[key] for key in ("train", "val")} for split in splits]))
    with environment(root, tmp_path):
        trainer = make_trainer(SEMI)
        with pytest.raises(InputError, match=r"splits_final.json: found no unlabeled cases for fold 0"):
            trainer.run_training()


# --- pretraining ------------------------------------------------------------------------------------------------------


def test_disruption():
    settings, generator = Pretraining(), torch.Generator().manual_seed(0)
    clean = torch.zeros(2, 1, 48, 64, 80)
    spoilt = disrupt(clean, settings, generator)
    blocks = spoilt.view(2, 3, 16, 4, 16, 5, 16).permute(0, 1, 3, 5, 2, 4, 6).reshape(2, 60, -1)
    masked = (blocks == -2).all(-1)
    assert (masked | (blocks != -2).all(-1)).all()  # whole blocks or nothing
    assert masked.sum(1).tolist() == [18, 18]  # 30 %
    assert not torch.equal(masked[0], masked[1])
    assert float(blocks[~masked].var()) == pytest.approx(0.1, rel=0.05)
    cells = blocks[~masked].view(-1, 4, 4, 4, 4, 4, 4).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 64)
    assert torch.equal(cells, cells[:, :1].expand_as(cells))  # a quarter of the resolution


def test_patches_that_blocks_do_not_divide():
    masked = masked_blocks(1, (20, 32, 40), Pretraining(), torch.device("cpu"))
    assert masked.shape == (1, 1, 20, 32, 40)
    assert 0 < masked.float().mean() < 1


def test_a_picture_on_a_full_disk_leaves_the_one_before(tmp_path):
    resource, path = pytest.importorskip("resource"), tmp_path / "a/epoch_0000.png"
    volume = np.arange(60.0).reshape(3, 4, 5)
    draw([volume, volume], path)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
        with pytest.raises(InputError, match="could not be written"):
            draw([volume, -volume], path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path.read_bytes(), list(path.parent.iterdir())) == (before, [path])


def test_pretraining(stsr, tmp_path):
    from PIL import Image

    with environment(stsr, tmp_path, epochs=2, iterations=2):
        trainer = make_trainer(PRETRAINER, fold="all")
        trainer.run_training()
        trainer.perform_actual_validation()
        assert trainer.clip == 1
        assert isinstance(trainer.optimizer, torch.optim.AdamW)
        assert trainer.accumulate == 2
        assert trainer.logger.get_value("lrs", step=None) == pytest.approx([5e-7, 5e-5])
    folder = output_folder(tmp_path, PRETRAINER) / "fold_all"
    pictures = sorted((folder / "reconstructions").iterdir())
    assert [p.name for p in pictures] == ["epoch_0000.png", "epoch_0001.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (3 * PATCH[2], PATCH[1] + 2 * PATCH[0])  # clean, spoilt, restored
        assert np.ptp(np.array(picture)) > 100
    weights = read_weights(folder)
    assert weights["decoder.seg_layers.1.weight"].shape[0] == 1
    with environment(stsr, tmp_path, pretrained=str(folder)):
        fine = make_trainer(TRAINER)
        fine.initialize()
    own = fine.network.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in weights if ".seg_layers." not in key)
    log = Path(fine.log_file).read_text()
    assert "weights loaded" in log
    assert "segmentation heads of another task: decoder.seg_layers.0.weight" in log


def test_an_epoch_of_pretraining_is_the_whole_data_set(stsr, tmp_path):
    with environment(stsr, tmp_path, iterations=None):
        trainer = make_trainer(PRETRAINER, fold="all")
    assert trainer.num_iterations_per_epoch == 3  # two patches a step, of five scans
    description = {**trainer.dataset_json, "numTraining": 810}
    plans = {**trainer.plans_manager.plans, "continue_training": False}
    with environment(stsr, tmp_path, iterations=None):
        many = type(trainer)(plans, "3d_umamba", "all", description, torch.device("cpu"))
    assert many.num_iterations_per_epoch == 405  # the published number


def test_pretraining_decays_weights_of_two_and_more_dimensions_only(stsr, tmp_path):
    with environment(stsr, tmp_path):
        trainer = started(make_trainer(PRETRAINER, fold="all"))
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    frozen = [name for name, p in trainer.network.named_parameters() if not p.requires_grad]
    assert frozen
    assert all("seg_layers" in name for name in frozen)
    for name, parameter in trainer.network.named_parameters():
        if name in frozen:
            assert id(parameter) not in decay
            continue
        last = name.rsplit(".", 1)[-1]
        free = last in {"bias", "A_log", "D", "dt_bias"} or ".norm." in name
        assert decay[id(parameter)] == (0 if free else 0.05), name
    assert sum(value == 0 for value in decay.values()) > 20


def test_pretraining_only_crops(stsr, tmp_path):
    """Its patches are pieces of the preprocessed scans as they are."""
    with environment(stsr, tmp_path, epochs=1, iterations=1):
        trainer = started(make_trainer(PRETRAINER, fold="all"))
        batches, _ = trainer.get_dataloaders()
        dataset, _ = trainer.get_tr_and_val_datasets()
    places = set()
    for _ in range(6):
        batch = next(batches)
        for patch, case in zip(batch["data"], batch["keys"]):
            scan = np.pad(
                np.asarray(dataset.load_case(case)[0][0]), [(max(0, n - s),) * 2 for n, s in zip(PATCH, SHAPE)]
            )
            views = np.lib.stride_tricks.sliding_window_view(scan, PATCH)
            found = np.argwhere((views == patch[0].numpy()).all((3, 4, 5)))
            assert len(found)
            places.add(tuple(found[0]))
    assert len(places) > 1


def test_the_best_checkpoint_of_pretraining_is_the_one_with_the_smallest_loss(stsr, tmp_path):
    values = iter([3.0, 1.0, 2.0, 1.5, 0.9, 2.0])
    saved = []
    with environment(stsr, tmp_path, epochs=6, iterations=1):
        trainer = make_trainer(PRETRAINER, fold="all")
        trainer.validation_step = lambda batch: {"loss": np.float32(next(values))}
        trainer.save_checkpoint = lambda path: saved.append((trainer.current_epoch, Path(path).name))
        trainer.run_training()
    assert [epoch for epoch, name in saved if "best" in name] == [0, 1, 4]
    assert trainer.logger.get_value("mean_fg_dice", step=None) == pytest.approx([-3, -1, -2, -1.5, -0.9, -2])


def test_autoencoders_learn(stsr, tmp_path):
    with environment(stsr, tmp_path, epochs=1, iterations=1):
        trainer = started(make_trainer(PRETRAINER, fold="all"))
        for group in trainer.optimizer.param_groups:
            group["lr"] = 3e-3
        batch = batch_of(2, 0)
        batch["data"] = batch["data"].mul(0.1).add(1)
        values = [trainer._step([batch])[0] for _ in range(25)]
    assert np.mean(values[-3:]) < 0.5 * np.mean(values[:3])


# --- bad input --------------------------------------------------------------------------------------------------------


def test_weights_to_start_from_that_do_not_exist(stsr, tmp_path):
    with environment(stsr, tmp_path, pretrained=str(tmp_path / "absent")):
        trainer = make_trainer(TRAINER)
        with pytest.raises(InputError, match="absent: found no such file, expected a model folder or a checkpoint"):
            trainer.initialize()


@pytest.mark.parametrize(("processes", "share"), [(1, (1, 2)), (2, (1, 1)), (3, None)])
def test_the_patches_of_a_step_are_shared_among_processes(stsr, tmp_path, processes, share):
    with environment(stsr, tmp_path):
        trainer = make_trainer(TRAINER)
    trainer.is_ddp = True
    with mock.patch("torch.distributed.get_world_size", return_value=processes):
        if share is None:
            with pytest.raises(InputError, match="GPUs: found 3, expected a divisor of the 2 patches of a step"):
                trainer._set_batch_size_and_oversample()
        else:
            trainer._set_batch_size_and_oversample()
            assert (trainer.batch_size, trainer.accumulate) == share


def test_the_last_good_state_can_be_returned_to_twice(multiclass, tmp_path):
    with environment(multiclass, tmp_path):
        trainer = started(make_trainer(TRAINER))
    trainer._step([batch_of(47, 1)])
    trainer.remember_state()
    ends = []
    for _ in range(2):
        trainer.recover(LossNotFinite("found nan"))
        trainer._step([batch_of(47, 2)])
        ends.append(_copy(trainer.network))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_gpus_that_are_not_there(stsr, tmp_path):
    from umamba2.training.run import train

    with (
        mock.patch("torch.cuda.device_count", return_value=0),
        pytest.raises(InputError, match="--gpus: found 0 GPUs, expected 2"),
    ):
        train(DATASET, 0, TRAINER, Options(), stsr, tmp_path, device="cpu", gpus=2)


def test_two_runs_do_not_share_a_folder(tmp_path):
    from umamba2.training.lock import alone_in

    hold = "import sys; from pathlib import Path; from umamba2.training.lock import alone_in\n"
    hold += "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True)\n    input()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "in\n"
    with pytest.raises(InputError, match="found another run at work in it, expected none"), alone_in(tmp_path):
        pass
    other.kill()  # no lock outlives its process
    other.wait()
    with alone_in(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_planted_for_a_lock_is_neither_followed_nor_waited_for(tmp_path, kind):
    from umamba2.training.lock import alone_in

    (tmp_path / "victim").write_text("precious")
    if kind == "link":
        (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(tmp_path / ".lock")
    with pytest.raises(InputError, match=r"\.lock: could not be written \("), alone_in(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_dataset_of_another_challenge(stsr, tmp_path):
    message = "found a dataset for stsr, expected one for toothfairy3-multiclass"
    with environment(stsr, tmp_path, preset=MULTICLASS), pytest.raises(InputError, match=message):
        make_trainer(TRAINER)


def test_a_patch_edited_by_hand_is_checked_before_the_first_step(stsr, interactive, tmp_path):
    for source, change, message in (
        (stsr, {"patch_size": [16, 30, 32]}, r"plans ToyPlans: found patches of 16x30x32 voxels .* divisible by 2x4x4"),
        (stsr, {"architecture": {"network_class_name": "os.system"}}, "plans ToyPlans: network class: found os.system"),
        (
            interactive,
            {"patch_size": [16, 32, 64]},
            r"found a network for patches of \[16, 32, 32\], expected the plans'",
        ),
    ):
        root = tmp_path / "data"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(source, root)
        file = root / "nnUNet_preprocessed" / DATASET / "ToyPlans.json"
        plans = json.loads(file.read_text())
        ours = plans["configurations"]["3d_umamba"]
        ours |= {**change, "architecture": {**ours["architecture"], **change.get("architecture", {})}}
        if source is interactive:
            plans["configurations"]["3d_umamba"]["architecture"]["arch_kwargs"]["patch_size"] = [16, 32, 32]
        file.write_text(json.dumps(plans))
        with environment(root, tmp_path), pytest.raises(InputError, match=message):
            started(make_trainer(TRAINER))


def test_labels_that_are_not_the_challenges(stsr, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(stsr, root)
    file = root / "nnUNet_preprocessed" / DATASET / "dataset.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "labels": {"background": 0, "tooth": 1}}))
    expected = r"Dataset901_Toy: found 2 labels up to 1, expected 0 to 12 \(stsr\)"
    with environment(root, tmp_path), pytest.raises(InputError, match=expected):
        make_trainer(TRAINER)


def test_cases_that_are_not_preprocessed(stsr, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(stsr, root)
    for path in (root / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_3d_fullres").glob("case_2*"):
        path.unlink()
    with environment(root, tmp_path):
        trainer = make_trainer(TRAINER)
        with pytest.raises(InputError, match="nnUNetPlans_3d_fullres: found no case_2, expected all cases"):
            trainer.run_training()


@pytest.mark.parametrize(
    ("fold", "splits", "message"),
    [
        (2, None, "fold 2: found 2 folds in .*splits_final.json, expected one of them"),
        (0, "[{", r"splits_final.json: found no readable JSON \(.*\), expected a list of folds as JSON"),
        (0, '{"train": []}', "splits_final.json: found None, expected folds: lists of cases by train and val"),
        (0, '[{"train": ["case_1"]}]', r"splits_final.json: found {'train': \['case_1'\]}, expected folds"),
        ("all", None, "nnUNetPlans_3d_fullres: found 4 cases, expected 5"),
    ],
)
def test_folds_that_are_not_there(multiclass, tmp_path, fold, splits, message):
    root = tmp_path / "copy"
    shutil.copytree(multiclass, root)
    folder = root / "nnUNet_preprocessed" / DATASET
    if splits:
        (folder / "splits_final.json").write_text(splits)
    if fold == "all":  # preprocessing was interrupted
        (folder / "nnUNetPlans_3d_fullres" / "case_2.b2nd").unlink()
    with environment(root, tmp_path), pytest.raises(InputError, match=message):
        make_trainer(TRAINER, fold).run_training()


def test_a_dataset_without_a_challenge_trains_like_nnunet(stsr, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(stsr, root)
    file = root / "nnUNet_preprocessed" / DATASET / "dataset.json"
    description = json.loads(file.read_text())
    del description["challenge"]
    names = {"background": 0, "left canal": 1, "right canal": 2, "other": 3}
    file.write_text(json.dumps({**description, "labels": names}))
    with environment(root, tmp_path):
        trainer = make_trainer(TRAINER)
        assert trainer.pairs == ((1, 2),)
        assert trainer.accumulate == 1
        trainer.initialize()
        assert not isinstance(trainer.loss.loss, losses.SoftDiceCE)


def _copy(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("patch", [(4, 32, 32), (6, 32, 32), (16, 8, 8)])
def test_gradients_are_those_of_full_precision_in_thin_patches(multiclass, tmp_path, patch):
    """Maps at the bottom of 2 slices, for which bf16 on CPUs gives anything, of 3, and of 2 rows and columns."""
    generator = torch.Generator().manual_seed(0)
    data, target = torch.randn(2, 1, *patch, generator=generator), torch.zeros(2, 1, *patch).short()
    target[:, :, : patch[0] // 2] = 1
    batch = {"data": data, "target": [target, target[:, :, ::2, ::2, ::2]], "keys": ["made_up", "made_up"]}
    found = {}
    for fp32 in (True, False):
        with environment(multiclass, tmp_path, fp32=fp32):
            trainer = make_trainer(TRAINER)
            trainer.configuration_manager.configuration["patch_size"] = patch
            started(trainer)
            trainer._step([batch])
            found[fp32] = {name: p.grad for name, p in trainer.network.named_parameters() if p.grad is not None}
            said = Path(trainer.log_file).read_text()
    for name, expected in found[True].items():
        assert float((found[False][name] - expected).norm()) <= 0.3 * float(expected.norm()) + 1e-4, name
    assert ("maps of 2x16x16 voxels and kernels of 3: training in full precision" in said) <= (patch[0] == 4)
