"""Learning rates by epoch, against nnU-Net's scheduler and the published end points; options of a run."""

import json
import os
from dataclasses import replace

import pytest
import torch
from challenge_names import INTERACTIVE, MULTICLASS, STSR

from umamba2.challenges import CHALLENGES
from umamba2.challenges.recipe import Pretraining, Stage
from umamba2.errors import InputError
from umamba2.training.nnunet import OPTIONS, environment, options_of_run
from umamba2.training.options import NNUNET_DEFAULTS, Options, challenge_for
from umamba2.training.schedules import Rates, pretraining_rate, stage_at, stage_rate


def test_poly_is_nnunets():
    scheduler = pytest.importorskip("nnunetv2.training.lr_scheduler.polylr")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.01)
    theirs = scheduler.PolyLRScheduler(optimizer, 0.01, 1500)
    for epoch in (0, 1, 700, 1499):
        theirs.step(epoch)
        expected = optimizer.param_groups[0]["lr"]
        assert stage_rate(CHALLENGES[MULTICLASS].recipe.train, epoch) == pytest.approx(expected, rel=1e-12)
        Rates(optimizer, lambda e: stage_rate(CHALLENGES[MULTICLASS].recipe.train, e)).step(epoch)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("challenge", [MULTICLASS, INTERACTIVE, STSR])
def test_fine_tuning_is_a_line_that_its_last_epoch_ends(challenge):
    """As torch's own schedule, in the settings of the released code: from 1e-3 to a hundredth of it."""
    stage = CHALLENGES[challenge].recipe.finetune
    assert (stage.epochs, stage.learning_rate, stage.final_rate) == (500, 1e-3, 1e-5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-3)
    theirs = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=499)
    for epoch in range(500):
        assert stage_rate(stage, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        theirs.step()
    assert stage_rate(stage, 499) == pytest.approx(1e-5)
    assert stage_rate(replace(stage, epochs=1), 0) == 1e-3


def test_the_published_lengths():
    lengths = {name: challenge.recipe.train.epochs for name, challenge in CHALLENGES.items()}
    assert {name: lengths[name] for name in (MULTICLASS, INTERACTIVE, STSR)} == {
        MULTICLASS: 1500,
        INTERACTIVE: 1500,
        STSR: 1000,
    }
    for name in (MULTICLASS, INTERACTIVE, STSR):
        recipe = Options().applied_to(CHALLENGES[name].recipe)
        assert (recipe.iterations, recipe.accumulate, recipe.validation_iterations) == (250, 2, 10)
        assert recipe.mirror_axes == (0, 1, 2)
    assert NNUNET_DEFAULTS.validation_iterations == 50
    assert Options(validation_iterations=3).applied_to(NNUNET_DEFAULTS).validation_iterations == 3


def test_stages_follow_each_other():
    stages = [Stage(3, 0.01), Stage(2, 1e-3, "linear")]
    assert [stage_at(stages, epoch) for epoch in range(5)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_pretraining_warms_up_and_cools_down():
    settings = Pretraining()
    assert pretraining_rate(settings, 0, 200) == pytest.approx(5e-7)
    assert pretraining_rate(settings, 2, 200) == pytest.approx((5e-7 + 5e-5) / 2)
    assert pretraining_rate(settings, 4, 200) == pytest.approx(5e-5)
    assert pretraining_rate(settings, 102, 200) == pytest.approx((5e-5 + 5e-6) / 2)
    assert pretraining_rate(settings, 200, 200) == pytest.approx(5e-6)
    assert pretraining_rate(settings, 0, 1) == pytest.approx(5e-5)  # no room to warm up


def test_options_travel_through_the_environment(monkeypatch):
    options = Options(preset=STSR, epochs=3, finetune_epochs=2, iterations=7, fp32=True)
    monkeypatch.delenv(OPTIONS, raising=False)
    assert options_of_run() == Options()
    with environment(**{OPTIONS: options.to_json()}):
        assert options_of_run() == options
    assert OPTIONS not in os.environ
    preset = options.applied_to(challenge_for("x", STSR).recipe)
    assert (preset.train.epochs, preset.finetune.epochs, preset.iterations) == (3, 2, 7)
    assert preset.finetune.learning_rate == CHALLENGES[STSR].recipe.finetune.learning_rate


def test_without_options_the_preset_holds():
    preset = Options().applied_to(CHALLENGES[MULTICLASS].recipe)
    assert (preset.train.epochs, preset.iterations, preset.accumulate) == (1500, 250, 2)
    assert preset.finetune is None
    assert (
        Options(finetune_epochs=0).applied_to(CHALLENGES[MULTICLASS].recipe).finetune
        == CHALLENGES[MULTICLASS].recipe.finetune
    )


@pytest.mark.parametrize(
    ("challenge", "name", "message"),
    [
        (STSR, MULTICLASS, "x: found a dataset for stsr, expected one for toothfairy3-multiclass"),
        ("liver", None, "x: found the challenge liver, expected --preset toothfairy3-multiclass or"),
        (None, None, "x: found the challenge None, expected --preset"),
    ],
)
def test_presets_that_are_not_there(challenge, name, message):
    with pytest.raises(InputError, match=message):
        challenge_for("x", challenge, name)


def test_a_stage_that_a_preset_does_not_have():
    with pytest.raises(InputError, match="found a preset that has no such stage"):
        Options(finetune_epochs=5).applied_to(replace(CHALLENGES[INTERACTIVE].recipe, finetune=None))


@pytest.mark.parametrize("text", ["{", "[1]", json.dumps({"epoch": 3})])
def test_a_bad_environment_is_named(monkeypatch, text):
    monkeypatch.setenv(OPTIONS, text)
    with pytest.raises(InputError, match=rf"{OPTIONS}: found .*expected a JSON object of preset, epochs"):
        options_of_run()
