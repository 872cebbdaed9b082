"""The engine on a CUDA device that is not there: the same labels as on a CPU, whatever fails and whenever."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from pretend_cuda import PretendCuda, why_not
from small_models import make_model

from umamba2 import Predictor
from umamba2.engine.determinism import FIXED, WORKSPACE
from umamba2.engine.keeping import Keeper
from umamba2.engine.record import Record

SPACING = (0.3, 0.3, 0.3)
OTHER = (0.25, 0.3, 0.2)
SHAPE = (12, 40, 16)  # two tiles
CLICKS = (np.array([[5, 30, 10], [9, 3, 20]]), np.array([0, 1]))


@pytest.fixture(scope="module", autouse=True)
def device(tmp_path_factory):
    if reason := why_not(tmp_path_factory.mktemp("guard")):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "plain": make_model(folder / "plain", folds=(0, 1), mirror_axes=(1, 2)),
        "one": make_model(folder / "one", mirror_axes=(2,)),
        "clicks": make_model(folder / "clicks", network="umamba2.nets.UMamba2Click", classes=3, mirror_axes=(2,)),
        "positions": make_model(folder / "positions", network="UMambaBot2PE"),
        "appended": make_model(folder / "appended", network="UMambaBot2_Click", classes=3),
    }


def scan(shape=SHAPE):
    return np.random.default_rng(0).normal(600, 900, shape).astype(np.float32)


def predict(folder, device, spacing=SPACING, clicks=None, limit=None, shape=SHAPE, **options):
    """Labels and record; with ``limit`` seconds to go."""
    predictor = Predictor.load(folder, device=device, precision="fp32", **options)
    record, deadline = Record(), None if limit is None else time.monotonic() + limit
    return predictor.predict(scan(shape), spacing, clicks, deadline, record), record


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("plain", {}),
        ("plain", {"blend": "published", "tile_step": 0.95}),
        ("plain", {"spacing": OTHER}),
        ("plain", {"deterministic": True}),
        ("one", {"limit": 1e4}),
        ("one", {"limit": 0.0, "spacing": OTHER}),
        ("one", {"shape": (5, 9, 7)}),
        ("clicks", {"clicks": CLICKS}),
        ("clicks", {"clicks": ([], []), "limit": 1e4}),
        ("clicks", {}),
        ("positions", {}),
        ("appended", {"clicks": CLICKS}),
    ],
)
def test_labels_are_those_of_the_cpu(models, monkeypatch, model, options):
    monkeypatch.setenv(WORKSPACE, FIXED[0])
    expected, _ = predict(models[model], "cpu", **{k: v for k, v in options.items() if k != "deterministic"})
    with PretendCuda() as gpu:
        labels, record = predict(models[model], "cuda", **options)
        gpu.memory.collect()
    assert (labels == expected).mean() > 0.999
    assert "gpu" in record.peak_memory
    assert record.tiles_lost == 0
    assert options.get("limit") == 0.0 or not record.warnings
    assert gpu.count > 100


@pytest.mark.parametrize(
    ("model", "spacing", "options"),
    [
        ("plain", SPACING, {}),
        ("one", OTHER, {"blend": "published"}),
        ("clicks", SPACING, {"clicks": CLICKS}),
        ("appended", OTHER, {"clicks": CLICKS}),
    ],
)
def test_the_host_waits_once_a_tile(models, model, spacing, options):
    """Each wait empties the queue of what the GPU has to do; that for whether all logits are finite must be."""
    counts, clicks = [], options.pop("clicks", None)
    with PretendCuda() as gpu:
        predictor = Predictor.load(
            models[model], device="cuda", precision="fp32", left_right_pairs=((1, 2),), **options
        )
        for shape in (SHAPE, SHAPE, (12, 40, 40)):  # the first makes what later ones have
            gpu.waits.clear()
            record = Record()
            predictor.predict(scan(shape), spacing, clicks, record=record)
            counts.append((record.tiles, sum(gpu.waits.values())))
    _, (tiles, waits), (more_tiles, more_waits) = counts
    assert more_tiles > tiles
    assert (more_waits - waits) / (more_tiles - tiles) == 1, gpu.waits


@pytest.mark.parametrize(("model", "clicks"), [("plain", None), ("clicks", CLICKS)])
def test_half_precision_gives_nearly_the_labels_of_fp32(models, model, clicks):
    """In fp16, as a GPU runs by itself; sums are those of a CPU."""
    expected, _ = predict(models[model], "cpu", clicks=clicks)
    with PretendCuda():
        predictor, record = Predictor.load(models[model], device="cuda"), Record()
        labels = predictor.predict(scan(), SPACING, clicks, record=record)
    assert predictor.settings["precision"] == "float16"
    assert not record.warnings
    assert (labels == expected).mean() > 0.97


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_left_and_right_trade_places_however_many_images_run_at_once(models, batch):
    options = {"left_right_pairs": ((1, 2), (3, 4)), "folds": 0}
    expected, _ = predict(models["plain"], "cpu", **options)
    with PretendCuda():
        predictor = Predictor.load(models["plain"], device="cuda", precision="fp32", **options)
        predictor.runner.batch = batch
        labels = predictor.predict(scan(), SPACING)
    assert (labels == expected).mean() > 0.999
    other, _ = predict(models["plain"], "cpu", left_right_pairs=(), folds=0)
    assert (other == expected).mean() < 0.99


def test_what_is_kept_between_clicks_changes_nothing(models):
    """With the mirror image in which left is right, whose network is another."""
    more = (np.array([[2, 10, 3]]), np.array([1]))
    with PretendCuda():
        predictor = Predictor.load(models["clicks"], device="cuda", precision="fp32", left_right_pairs=((1, 2),))
        keeper = Keeper()
        for clicks in (CLICKS, more):
            expected = predictor.predict(scan(), SPACING, clicks)
            labels = predictor.predict(scan(), SPACING, clicks, keeper=keeper)
            assert keeper.bytes
            np.testing.assert_array_equal(labels, expected)


def test_the_second_case_finds_as_much_memory_as_the_first(models):
    with PretendCuda(capacity=2**27) as gpu:
        predictor = Predictor.load(models["one"], device="cuda", precision="fp32")
        left = []
        for _ in range(3):
            predictor.predict(scan(), SPACING, record=Record())
            left.append(torch.cuda.memory_allocated())
        assert left[0] == left[1] == left[2]
        assert gpu.memory.reserved > left[-1]


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [SPACING, OTHER])
def test_memory_may_run_out_at_any_allocation(models, spacing):
    """Once, at one of 12 places spread over a case: the labels are those of the CPU or nearly so, none is lost."""
    expected, _ = predict(models["one"], "cpu", spacing)
    with PretendCuda() as gpu:
        predict(models["one"], "cuda", spacing)
    for place in np.linspace(1, gpu.memory.count, 12).astype(int):
        with PretendCuda(short=place):
            labels, record = predict(models["one"], "cuda", spacing)
        assert record.tiles_lost == 0, place
        pieces = any("pieces" in warning for warning in record.warnings)  # norms over less are other norms
        assert (labels == expected).mean() > (0.3 if pieces else 0.999), (place, record.warnings)


@pytest.mark.parametrize("capacity", [0, 2**16, 2**19, 2**21])
def test_any_capacity_gives_an_answer(models, capacity):
    with PretendCuda(capacity=capacity):
        labels, record = predict(models["one"], "cuda")
    assert record.tiles_lost == 0
    assert len(np.unique(labels)) > 1
    assert record.warnings


def test_an_error_that_sticks_leaves_finished_labels(models):
    expected, _ = predict(models["one"], "cpu", tile_step=1.0, shape=(24, 32, 16))
    with PretendCuda() as gpu:
        predict(models["one"], "cuda", tile_step=1.0, shape=(24, 32, 16))
    half = gpu.count * 3 // 4

    def fault(number):
        lost = RuntimeError("CUDA error: an illegal memory access was encountered (pretended)")
        return lost if number > half else None

    with PretendCuda(fault=fault):
        labels, record = predict(models["one"], "cuda", tile_step=1.0, shape=(24, 32, 16))
    assert record.tiles_lost == 1
    np.testing.assert_array_equal(labels[:10], expected[:10])
    assert (labels[12:] == 0).all()


def test_what_a_gpu_refuses_is_refused():
    """Of the pretending itself."""
    with PretendCuda() as gpu:
        there, here = torch.ones(2, device="cuda"), torch.ones(2)
        assert there.device == torch.device("cuda", 0)
        with pytest.raises(RuntimeError, match="on the same device"):
            there + here
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0]
        gpu.waits.clear()
        assert there.sum().item() == 2.0
        assert there[there > 0].numel() == 2
        assert sorted(kind for kind, _ in gpu.waits) == ["_local_scalar_dense", "a mask as an index"]
        gpu.memory.capacity = gpu.memory.live
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.zeros(1000, device="cuda")
