"""What is kept between clicks changes no voxel, whatever the order of clicks and however little memory there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import make_model

from umamba2.engine import keeping
from umamba2.engine.keeping import Keeper
from umamba2.engine.predict import Predictor
from umamba2.engine.record import Record
from umamba2.engine.runner import Runner
from umamba2.errors import Cancelled
from umamba2.nets import UMamba2
from umamba2.scans import memory
from umamba2.scans.clicks import Clicks

CLICKABLE = "umamba2.nets.UMamba2Click"
LARGE, SMALL, ROW = (14, 40, 24), (9, 20, 12), (12, 32, 48)  # eight tiles, one, three with a tile step of 1


@pytest.fixture(autouse=True)
def plenty(monkeypatch):
    """Whoever else uses the machine: memory that is short changes what is predicted, with a warning."""
    monkeypatch.setattr(memory, "available", lambda: 2.0**40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "m", CLICKABLE, 3, folds=(0, 1), mirror_axes=(2,))


@pytest.fixture(scope="module")
def other_plans(tmp_path_factory):
    return make_model(
        tmp_path_factory.mktemp("model") / "m", CLICKABLE, 3, transpose=(1, 0, 2), spacing=(0.3, 0.35, 0.4)
    )


def load(folder, **options) -> Predictor:
    return Predictor.load(folder, device="cpu", **{"precision": "fp32", **options})


def scan(shape, seed=0):
    return np.random.default_rng(seed).normal(700, 900, shape).astype(np.int16)


def some_clicks(rng, shape, most=4) -> Clicks:
    """Clicks one after the other, as if some came, went or moved."""
    count = rng.integers(0, most + 1)
    return Clicks(rng.integers(0, shape, (count, 3)).astype(np.float32), rng.integers(0, 2, count))


def encoded(monkeypatch) -> list:
    """Notes every run of an encoder."""
    runs: list = []
    build = Runner._ready

    def ready(runner):
        nets = build(runner)
        for net in nets.values():
            net.encoder.register_forward_pre_hook(lambda *_: runs.append(1))
        return nets

    monkeypatch.setattr(Runner, "_ready", ready)
    return runs


@pytest.mark.parametrize("most", [None, 0, 300_000, 2_000_000])
@pytest.mark.parametrize(
    ("shape", "spacing", "options"),
    [
        (LARGE, (0.3, 0.3, 0.3), {}),
        (LARGE, (0.3, 0.3, 0.3), {"blend": "published", "tile_step": 0.9}),
        (LARGE, (0.36, 0.25, 0.33), {"blend": "published"}),
        (SMALL, (0.3, 0.3, 0.3), {}),
    ],
)
def test_answers_are_those_without_a_keeper(folder, shape, spacing, options, most):
    predictor, volume = load(folder, folds=0, **options), scan(shape)
    rng, keeper, seen = np.random.default_rng(1), Keeper(most), False
    clicks = some_clicks(rng, shape)
    for _ in range(3):
        record = Record()
        found = predictor.predict(volume, spacing, clicks, None, record, 1, None, keeper)
        expected = predictor.predict(volume, spacing, clicks, None, Record(), 1)
        assert record.warnings == []
        np.testing.assert_array_equal(found, expected)
        assert record.passes_done == [1] * record.tiles
        seen |= len(np.unique(found)) > 1
        assert keeper.bytes <= (np.inf if most is None else most)
        assert keeper.bytes > 0 or most in (0, 300_000)
        keep = rng.random(len(clicks.labels)) < 0.7
        new = some_clicks(rng, shape, 2)
        clicks = Clicks(*(np.concatenate([old[keep], more]) for old, more in zip(clicks, new)))
    assert seen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_axes_spacings_and_precisions(other_plans, precision):
    predictor, volume, keeper = load(other_plans, precision=precision), scan(LARGE, 3), Keeper()
    rng = np.random.default_rng(2)
    for _ in range(4):
        clicks = some_clicks(rng, LARGE)
        found = predictor.predict(volume, (0.3, 0.3, 0.3), clicks, None, Record(), 1, None, keeper)
        expected = predictor.predict(volume, (0.3, 0.3, 0.3), clicks, None, Record(), 1)
        np.testing.assert_array_equal(found, expected)


def test_all_folds_and_mirror_images_after_clicks(folder, monkeypatch):
    runs = encoded(monkeypatch)
    predictor, volume, keeper = load(folder, tile_step=0.9), scan(LARGE), Keeper()
    clicks = Clicks(np.array([[3, 4, 5], [12, 30, 20]], np.float32), np.array([0, 1]))
    expected = predictor.predict(volume, (0.3,) * 3, clicks, None, Record())
    predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1, None, keeper)
    runs.clear()
    record = Record()
    for expected_runs in (3, 0):  # of 4 for each tile: the first is there from clicking, then all are
        np.testing.assert_array_equal(
            predictor.predict(volume, (0.3,) * 3, clicks, None, record, None, None, keeper), expected
        )
        assert len(runs) == expected_runs * record.tiles
        runs.clear()


def test_only_tiles_with_other_clicks_are_run_again_and_their_encoders_not(folder, monkeypatch):
    encodings, answers = encoded(monkeypatch), []
    predictor, volume, keeper = (
        load(folder, folds=0, tile_step=1.0),
        scan(ROW),
        Keeper(),
    )  # three, side by side
    monkeypatch.setattr(UMamba2, "forward", lambda *_: pytest.fail("the whole network ran"))
    mean = Runner._mean
    monkeypatch.setattr(Runner, "_mean", lambda *arguments: answers.append(1) or mean(*arguments))

    def look(*clicks):
        encodings.clear()
        answers.clear()
        watched: list = []
        places = Clicks(np.array([c[:3] for c in clicks], np.float32).reshape(-1, 3), np.array([c[3] for c in clicks]))
        predictor.predict(volume, (0.3,) * 3, places, None, Record(), 1, lambda *n: watched.append(n), keeper)
        assert watched == [(done, len(answers)) for done in range(len(answers) + 1)]
        return len(encodings), len(answers)

    assert look() == (3, 3)
    assert look() == (0, 0)
    assert look((5, 5, 5, 0)) == (0, 1)
    assert look((5, 5, 5, 0), (5, 5, 20, 1)) == (0, 1)
    assert look((5, 5, 5, 1), (5, 5, 20, 1)) == (0, 1)  # the other side
    assert look((5, 5, 40, 1), (5, 5, 20, 1)) == (0, 2)
    assert look() == (0, 2)
    keeper.clear()
    assert look() == (3, 3)


def test_the_oldest_go_first_but_not_what_is_needed(folder, monkeypatch):
    encodings = encoded(monkeypatch)
    predictor, volume = load(folder, folds=0, tile_step=1.0), scan(ROW)
    measure = Keeper()
    none = Clicks(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    predictor.predict(volume, (0.3,) * 3, none, None, Record(), 1, None, measure)
    features = sum(kept.bytes for kept in measure._features.values()) // 3
    answers = sum(kept.bytes for kept in measure._answers.values())
    keeper = Keeper(answers + 2 * features)

    def look(*x):
        encodings.clear()
        clicks = Clicks(np.array([(5, 5, one) for one in x], np.float32).reshape(-1, 3), np.zeros(len(x), np.int64))
        found = predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1, None, keeper)
        np.testing.assert_array_equal(found, predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1))
        assert keeper.bytes <= answers + 2 * features
        return len(encodings) - 3  # of the prediction to compare with

    assert look() == 3  # the first two are kept: what this answer needs does not make room for more of it
    assert look(5) == 0
    assert look(20) == 0  # and the first again
    assert look(20, 40) == 1  # in place of one of the others
    assert look(20, 41) == 0
    everything = look(6, 21, 40)
    assert everything == 1  # two of three are there, whichever


def test_memory_is_asked_and_what_is_kept_makes_room(folder, monkeypatch):
    predictor, volume = load(folder, folds=0), scan(LARGE)
    none = Clicks(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    monkeypatch.setattr(memory, "available", lambda: predictor.runner.working_bytes() + keeping.RESERVED_BYTES - 1)
    keeper, record = Keeper(), Record()
    predictor.predict(volume, (0.3,) * 3, none, None, record, 1, None, keeper)
    assert keeper.bytes == 0
    monkeypatch.setattr(memory, "available", lambda: 2.0**40)
    predictor.predict(volume, (0.3,) * 3, none, None, record, 1, None, keeper)
    assert keeper.bytes > 0
    free = [1000]
    monkeypatch.setattr(memory, "available", lambda: free[0] if keeper.bytes else 10**6)
    keeping.make_room(1000)
    assert keeper.bytes > 0
    keeping.make_room(1001)
    assert keeper.bytes == 0


def test_who_stops_in_the_middle_keeps_what_is_right(folder):
    predictor, volume, keeper = load(folder, folds=0), scan(LARGE), Keeper()
    rng = np.random.default_rng(4)

    def stop(done, total):
        if done == min(2, total):
            raise Cancelled

    for _ in range(3):
        with pytest.raises(Cancelled):
            predictor.predict(volume, (0.3,) * 3, some_clicks(rng, LARGE), None, Record(), 1, stop, keeper)
        clicks = some_clicks(rng, LARGE)
        found = predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1, None, keeper)
        np.testing.assert_array_equal(found, predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1))


def test_tiles_in_pieces(folder):
    predictor, volume, keeper = load(folder, folds=0), scan(LARGE), Keeper()
    rng = np.random.default_rng(5)
    predictor.predict(volume, (0.3,) * 3, some_clicks(rng, LARGE), None, Record(), 1, None, keeper)
    assert predictor.runner.halve()
    for _ in range(2):
        clicks = some_clicks(rng, LARGE)
        found = predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1, None, keeper)
        np.testing.assert_array_equal(found, predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1))


def test_a_network_that_was_not_rebuilt_for_cpus(folder, monkeypatch):
    monkeypatch.setattr("umamba2.engine.network.optimize_for_cpu", lambda net: net)
    predictor, volume, keeper = load(folder, folds=0), scan(LARGE), Keeper()
    rng = np.random.default_rng(6)
    for _ in range(3):
        clicks = some_clicks(rng, LARGE)
        found = predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1, None, keeper)
        np.testing.assert_array_equal(found, predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1))


def test_where_numbers_fail_the_answer_is_the_same(folder, monkeypatch):
    """A tile whose logits are not finite in half precision is run again in fp32, with a keeper too."""
    predictor, volume, keeper = load(folder, folds=0, precision="bf16"), scan(LARGE), Keeper()
    run = Runner._mean

    def mean(runner, *arguments):
        logits = run(runner, *arguments)
        return logits * torch.nan if runner.dtype == torch.bfloat16 else logits

    monkeypatch.setattr(Runner, "_mean", mean)
    rng = np.random.default_rng(7)
    for _ in range(2):
        clicks, record = some_clicks(rng, LARGE), Record()
        found = predictor.predict(volume, (0.3,) * 3, clicks, None, record, 1, None, keeper)
        np.testing.assert_array_equal(found, predictor.predict(volume, (0.3,) * 3, clicks, None, Record(), 1))
        assert any("running that tile again in fp32" in warning for warning in record.warnings)
