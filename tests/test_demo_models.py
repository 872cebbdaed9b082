"""The demo models on a phantom from a seed that training never saw, through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR, TASKS

import umamba2
from umamba2 import Predictor
from umamba2.anatomy.numberings import to_training
from umamba2.anatomy.structures import ANATOMY, FDI_TEETH
from umamba2.challenges import CHALLENGES
from umamba2.engine import window
from umamba2.engine.postprocess import postprocess
from umamba2.engine.record import Record
from umamba2.evaluation.metrics import dice
from umamba2.models.locate import find_model
from umamba2.scans.clicks import NAMES, Clicks, no_clicks
from umamba2.segmenter import check_model
from umamba2.synthetic.phantoms import make_phantom

RESOURCES = Path(__file__).parents[1] / "resources"
SEED = 20_000


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(SEED, (86, 136, 172), (0.6, 0.6, 0.6))


def segment(task, phantom, clicks=None):
    challenge = CHALLENGES[task]
    settings = {
        **challenge.predictor_settings(),
        "mirror_axes": (),
    }  # mirrors: four times the work, in test.sh
    predictor = Predictor.load(find_model(task, [RESOURCES]), device="cpu", precision="fp32", **settings)
    labels = predictor.predict(phantom.image.astype(np.float32), phantom.spacing, clicks)
    return postprocess(labels, challenge, phantom.spacing, clicks)


def mean_dice(found, truth, ids):
    return np.mean([dice(found == i, truth == i) for i in ids if (truth == i).any()])


@pytest.mark.slow
def test_multiclass(phantom):
    found, truth = segment(MULTICLASS, phantom), to_training(ANATOMY, "dataset")[phantom.labels]
    assert mean_dice(found, truth, (1, 2)) > 0.8
    assert mean_dice(found, truth, range(11, 11 + len(FDI_TEETH))) > 0.75
    assert mean_dice(found, truth, (3, 4)) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize(("contrast", "rise"), [(1.0, 0.03), (0.0, 0.06)], ids=["visible canals", "invisible canals"])
def test_interactive_gets_better_with_clicks(contrast, rise):
    phantom = make_phantom(SEED, (86, 136, 172), (0.6, 0.6, 0.6), contrast)
    truth = to_training(CHALLENGES[INTERACTIVE].structures, "dataset")[phantom.labels]
    clicks = Clicks(
        np.array([point for _, point in phantom.clicks], np.float32),
        np.array([NAMES[name] for name, _ in phantom.clicks]),
    )
    without = mean_dice(segment(INTERACTIVE, phantom, no_clicks()), truth, (1, 2))
    with_clicks = mean_dice(segment(INTERACTIVE, phantom, clicks), truth, (1, 2))
    assert with_clicks > 0.58
    assert with_clicks > without + rise


@pytest.mark.slow
def test_a_phantom_in_a_box_of_air_as_large_as_a_head_has_nearly_the_same_teeth():
    phantom = make_phantom(SEED, (51, 82, 104), (1.0, 1.0, 1.0))
    segmenter = umamba2.load(MULTICLASS, device="cpu", mirror=False, numbering="training")
    alone = segmenter.segment((phantom.image, phantom.spacing))
    assert alone.record.dental_field == {}
    assert "first look" not in alone.record.seconds
    margins = [(40, 79), (20, 68), (50, 16)]
    padded = np.pad(phantom.image, margins, constant_values=-1000)
    found = segmenter.segment((padded, phantom.spacing))
    assert found.record.dental_field["mm"] == pytest.approx([64, 90, 114], abs=2)
    where = tuple(slice(before, before + n) for (before, _), n in zip(margins, phantom.image.shape))
    teeth = range(11, 11 + len(FDI_TEETH))
    assert dice(np.isin(found.labels[where], teeth), np.isin(alone.labels, teeth)) > 0.9
    beside = np.isin(found.labels, teeth)
    beside[where] = False
    assert beside.sum() < 100


@pytest.mark.slow
def test_stsr(phantom):
    found = segment(STSR, phantom)
    assert mean_dice(found, phantom.stsr_labels, (1,)) > 0.8


@pytest.mark.parametrize("task", TASKS)
def test_models_fit_their_challenge_and_the_image(task):
    folder = find_model(task, [RESOURCES])
    predictor = Predictor.load(folder, device="cpu")
    check_model(predictor, CHALLENGES[task], folder)
    assert predictor.challenge == task


def test_all_together_stay_under_25_mb():
    assert sum(p.stat().st_size for p in RESOURCES.rglob("*") if p.is_file()) < 25e6


def test_leaving_out_tiles_of_air_only_takes_away_what_was_wrong(monkeypatch):
    """A phantom beside as much of nothing as a tile is wide, as outside of a round field of view.

    Norms make something out of the constant, so the network sees bone there; where the scan shows anything, no label
    changes.
    """
    phantom = make_phantom(SEED, (48, 80, 112), (1.0, 1.0, 1.0))
    image = np.pad(phantom.image.astype(np.float32), ((0, 0), (0, 0), (0, 130)), constant_values=-1000)
    predictor = Predictor.load(
        find_model(STSR, [RESOURCES]), device="cpu", precision="fp32", tile_step=0.9, mirror_axes=()
    )
    monkeypatch.setattr("umamba2.engine.preprocess.without_air", lambda volume, box, padding: box)
    record = Record()
    found = predictor.predict(image, phantom.spacing, record=record)
    assert record.tiles_of_air > 0
    monkeypatch.setattr(window, "AIR_TOLERANCE", -1.0)  # nothing is air
    record = Record()
    with_air = predictor.predict(image, phantom.spacing, record=record)
    assert record.tiles_of_air == 0
    changed = found != with_air
    assert (image[changed] == -1000).all()
    assert (found[changed] == 0).all()
