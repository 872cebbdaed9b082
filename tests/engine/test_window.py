"""Streaming against holding everything; too little time, too little memory, NaN: an answer always comes out."""

from __future__ import annotations

import errno
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import PATCH, make_model
from windows import CPU, hold_everything, window_of

from umamba2 import Predictor
from umamba2.engine import blend as accumulate
from umamba2.engine import runner as runner_module
from umamba2.engine import window
from umamba2.engine.blend import Accumulator
from umamba2.engine.budget import Budget
from umamba2.engine.coarse import CoarseLook
from umamba2.engine.faults import DeviceChanged, is_out_of_memory
from umamba2.engine.labelmap import OtherGrid, SameGrid, _Rows, best_class
from umamba2.engine.network import PRECISIONS
from umamba2.engine.record import Record
from umamba2.engine.runner import Runner
from umamba2.engine.subtiles import _split, halved, run_in_subtiles
from umamba2.engine.tiles import Sweep, all_classes, padding
from umamba2.errors import Terminated
from umamba2.nets import ClickTensors
from umamba2.scans import memory
from umamba2.scans.clicks import Clicks

SPACING = (0.3, 0.3, 0.3)
CLASSES = 3
SHAPE = (22, 60, 30)


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "model", folds=(0, 1), mirror_axes=(1, 2))


@pytest.mark.parametrize("classes", [1, 2, 47, 256])
def test_best_is_the_first_of_the_highest(classes):
    scores = torch.randn(classes, 3, 20, 30)
    ties = torch.randint(-2, 3, scores.shape).float()
    for some in (scores, ties, ties[:, :, ::2], -ties.abs()):
        assert torch.equal(best_class(some), torch.from_numpy(some.numpy().argmax(0).astype(np.uint8)))


def load(folder, **options):
    return Predictor.load(folder, **{"device": "cpu", "precision": "fp32", **options})


def scan(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(600, 900, shape).astype(np.float32)


def random_logits(patch, scale=5.0, shift=0.0):
    def logits(tile):
        generator = torch.Generator().manual_seed(hash(tile.index) % 2**31)
        return torch.randn(CLASSES, *patch, generator=generator) * scale + shift

    return logits


def streamed(sweep, patch, blend, logits_of, argmax_only=False):
    """What an accumulator hands on, put together."""
    shape = [max(tile.box[axis].stop for tile in sweep.tiles) for axis in range(3)]
    out = torch.full((CLASSES, *shape), torch.nan)

    def finish(box, part):
        out[all_classes(box)] = 0 if part is None else part

    accumulator = Accumulator(sweep, patch, CLASSES, blend, argmax_only, CPU, finish)
    for tile in sweep.tiles:
        logits = logits_of(tile)
        accumulator.add(tile, None if logits is None else logits.clone())
    assert not accumulator._pending
    return out


def test_scores_are_kept_in_half_precision_from_a_size_on_and_stay_finite(monkeypatch):
    most = accumulate.FULL_PRECISION_BYTES // 4
    assert [accumulate.score_dtype(n) for n in (most, most + 1)] == [torch.float32, torch.float16]
    assert [accumulate.score_bytes(n, 2) for n in (most // 2, most)] == [4 * most, 4 * most]
    kept = accumulate.relative_scores(torch.tensor([[3.0], [-1e6]]), torch.float16).half()
    assert kept.flatten().tolist() == [0.0, -60000.0]  # -inf would become NaN when it is resampled
    sweep = Sweep((12, 16, 16), (8, 8, 8), 0.5)
    monkeypatch.setattr(accumulate, "FULL_PRECISION_BYTES", 4 * CLASSES * sweep.pending_voxels - 1)
    assert Accumulator(sweep, (8, 8, 8), CLASSES, "nnunet", True, CPU, lambda *_: None).dtype == torch.float16


sizes = st.tuples(*[st.integers(4, 20)] * 3)
patches = st.tuples(*[st.integers(2, 9)] * 3)
steps = st.sampled_from([0.3, 0.5, 0.95, 1.0])


@settings(max_examples=60, deadline=None)
@given(shape=sizes, patch=patches, step=steps, how=st.sampled_from(Accumulator.METHODS), lost=st.integers(0, 7))
def test_sums_equal_those_of_the_whole_volume(shape, patch, step, how, lost):
    """Also with tiles left out; where none is left, nothing is handed on."""
    shape = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
    sweep = Sweep(shape, patch, step)
    draw = random_logits(patch)

    def logits_of(tile):
        return None if lost and sum(tile.index) % 7 == lost - 1 else draw(tile)

    total, weights = hold_everything(sweep, patch, CLASSES, how, logits_of)
    expected = total / weights.clamp(min=1e-30) if how == "nnunet" else total
    torch.testing.assert_close(streamed(sweep, patch, how, logits_of), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [-50.0, -3.2, 0.0])
def test_published_blend_never_flips_or_explodes_a_tile(shift):
    """A tile whose largest logit is negative or next to nothing keeps its order and its size."""
    patch = (4, 4, 4)
    tile = torch.rand(3, *patch) * 3.2 + shift - 3.2 * (shift == 0.0) + 1e-6
    result = streamed(Sweep(patch, patch, 1.0), patch, "published", lambda _: tile)
    assert torch.equal(result.argmax(0), tile.argmax(0))
    assert (result / 10).abs().max() <= 100 * max(tile.abs().max().item(), 1.0) * 1.001


@pytest.mark.parametrize("chunk", [1, 700, 2**24])
@pytest.mark.parametrize("how", Accumulator.METHODS)
def test_half_precision_and_small_chunks_give_the_same_labels(monkeypatch, how, chunk):
    shape, patch = (12, 16, 16), (8, 8, 8)
    sweep, logits = Sweep(shape, patch, 0.5), random_logits(patch, scale=600.0, shift=300.0)
    full = streamed(sweep, patch, how, logits, argmax_only=True)
    monkeypatch.setattr(accumulate, "FULL_PRECISION_BYTES", 0)
    monkeypatch.setattr(accumulate, "CHUNK_ELEMENTS", chunk)
    half = streamed(sweep, patch, how, logits, argmax_only=True)
    assert half.isfinite().all()
    assert (half.argmax(0) == full.argmax(0)).float().mean() > 0.999


@pytest.mark.parametrize("shift", [-5000.0, 5000.0])
def test_half_precision_keeps_differences_whatever_all_classes_share(monkeypatch, shift):
    """Tens of thousands in fp16 are multiples of 16 or more, and infinite soon: what is kept must be relative."""
    sweep, patch = Sweep((12, 16, 16), (8, 8, 8), 0.5), (8, 8, 8)
    monkeypatch.setattr(accumulate, "FULL_PRECISION_BYTES", 0)
    expected, half = (
        streamed(sweep, patch, "nnunet", random_logits(patch, 1.0, s), argmax_only=True) for s in (0.0, shift)
    )
    assert half.isfinite().all()
    assert (half.argmax(0) == expected.argmax(0)).float().mean() > 0.99


@settings(max_examples=40, deadline=None)
@given(
    shape=sizes, patch=patches, step=steps, target=st.tuples(*[st.integers(1, 25)] * 3), lead=st.integers(0, 2),
    nearest=st.booleans(), half=st.booleans(),
)  # fmt: skip
def test_labels_equal_those_of_everything_resampled_at_once(shape, patch, step, target, lead, nearest, half):
    lead = lead if nearest else 0
    pads = padding(shape, patch)
    padded = tuple(n + sum(pad) for n, pad in zip(shape, pads, strict=True))
    sweep, logits = Sweep(padded, patch, step, lead), random_logits(patch)
    everything = streamed(sweep, patch, "nnunet", logits)
    inside = everything[all_classes(tuple(slice(b, b + n) for (b, _), n in zip(pads, shape, strict=True)))]
    if nearest:  # rows apart, the planes bilinear
        rows = inside.movedim(1 + lead, 1)
        plane = [n for axis, n in enumerate(target) if axis != lead]
        index = ((torch.arange(target[lead]) + 0.5) * (shape[lead] / target[lead])).long()
        expected = F.interpolate(rows[:, index], plane, mode="bilinear").movedim(1, 1 + lead)
    else:
        expected = F.interpolate(inside[None], target, mode="trilinear")[0]
    original = accumulate.FULL_PRECISION_BYTES
    accumulate.FULL_PRECISION_BYTES = 0 if half else original
    try:
        labels = OtherGrid(shape, pads, target, lead, nearest, sweep.rows(), CLASSES, CPU)
        accumulator = Accumulator(sweep, patch, CLASSES, "nnunet", False, CPU, labels.finish)
        for tile in sweep.tiles:
            accumulator.add(tile, logits(tile))
    finally:
        accumulate.FULL_PRECISION_BYTES = original
    best, second = expected.topk(2, dim=0).values
    clear = best - second > (0.3 if half else 1e-4)  # of scores that spread over some 15
    assert torch.equal(labels.labels[clear], expected.argmax(0).to(torch.uint8)[clear])
    assert not labels._pending


def test_a_part_that_no_tile_answers_is_background():
    for labels in (
        SameGrid((4, 4, 4), [(0, 0)] * 3),
        OtherGrid((4, 4, 4), [(0, 0)] * 3, (4, 4, 4), 0, False, [(0, 4)], 3, CPU),
    ):
        labels.finish((slice(0, 4), slice(0, 2), slice(0, 4)), None)
        labels.finish((slice(0, 4), slice(2, 4), slice(0, 4)), torch.eye(3)[2][:, None, None, None].expand(3, 4, 2, 4))
        assert (labels.labels[:, :2] == 0).all()
        assert (labels.labels[:, 2:] == 2).all()
    between = OtherGrid((4, 1, 1), [(0, 0)] * 3, (8, 1, 1), 0, False, [(0, 4)], 3, CPU)
    between.finish((slice(0, 2), slice(0, 1), slice(0, 1)), None)
    between.finish((slice(2, 4), slice(0, 1), slice(0, 1)), torch.eye(3)[2][:, None, None, None].expand(3, 2, 1, 1))
    assert between.labels.flatten().tolist() == [0, 0, 0, 0, 0, 2, 2, 2]  # interpolated, too, as far as it reaches


def test_resampling_goes_on_in_the_hosts_memory(monkeypatch):
    labels, tried = OtherGrid((2, 1, 1), [(0, 0)] * 3, (4, 1, 1), 0, False, [(0, 2)], 3, CPU), []
    on_host = torch.eye(3)[2][:, None, None, None].expand(3, 2, 1, 1)
    on_device = SimpleNamespace(device=torch.device("cuda"), cpu=lambda: on_host)
    resample = labels._resample

    def sick(scores):
        tried.append(scores)
        if scores is on_device:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        resample(scores)

    monkeypatch.setattr(labels, "_resample", sick)
    labels._label(_Rows(0, 2, 0, on_device))
    assert len(tried) == 2
    assert (labels.labels == 2).all()


@pytest.mark.parametrize("spacing", [SPACING, (0.25, 0.3, 0.2)])
@pytest.mark.parametrize("blend", Accumulator.METHODS)
def test_the_whole_way_equals_holding_everything_to_the_last_label(folder, spacing, blend):
    """In fp32, with folds and mirrors, on both kinds of grid; the oracle blends, resamples and labels all at once."""
    from umamba2.engine.preprocess import prepare
    from umamba2.engine.resample import resample

    predictor = load(folder, blend=blend, tile_step=0.8, mirror_axes=(2,), left_right_pairs=((1, 2),))
    prepared = prepare(scan(), spacing, predictor.plan)
    sweep = Sweep(prepared.tensor.shape[1:], PATCH, 0.8)

    @torch.inference_mode()
    def logits_of(tile):
        engine = predictor.runner
        return engine.logits(prepared.tensor[0][tile.box], None, engine.passes, pytest.fail).clone()

    total, weights = hold_everything(sweep, PATCH, 5, blend, logits_of)
    everything = total / weights if blend == "nnunet" else total
    expected = resample(everything, prepared.box_shape).argmax(0).numpy()
    record = Record()
    labels = predictor.predict(scan(), spacing, record=record)
    np.testing.assert_array_equal(labels, expected)
    assert not record.warnings
    assert record.passes_done == [4] * record.tiles


# --- time -------------------------------------------------------------------------------------------------------------


class Clock:
    """time, in which nothing takes time but what says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("budget", "coarse", "window"):
        monkeypatch.setattr(f"umamba2.engine.{module}.time", clock)
    return clock


def timed(predictor, clock, monkeypatch, seconds=1.0):
    """In place of the networks: logits from nowhere, each pass taking so many seconds of the clock per patch."""
    calls = []

    def logits(tile, clicks, passes, *rest):
        clock.now += seconds * len(passes) * np.prod(tile.shape) / np.prod(PATCH)
        calls.append(len(passes))
        return torch.randn(5, *tile.shape, generator=torch.Generator().manual_seed(len(passes)))

    monkeypatch.setattr(predictor.runner, "logits", logits)
    return calls


def run_in(predictor, clock, seconds):
    record = Record()
    labels = predictor.predict(scan(), SPACING, deadline=clock.now + seconds, record=record)
    return labels, record


def test_with_plenty_of_time_nothing_is_given_up(folder, clock, monkeypatch):
    predictor = load(folder, tile_step=0.5)
    timed(predictor, clock, monkeypatch)
    expected = predictor.predict(scan(), SPACING)
    labels, record = run_in(predictor, clock, 1e6)
    np.testing.assert_array_equal(labels, expected)
    assert not record.warnings


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3, 0.2])
def test_passes_are_given_up_evenly_and_the_time_is_kept(folder, clock, monkeypatch, share):
    predictor = load(folder, tile_step=0.5)
    timed(predictor, clock, monkeypatch)
    tiles = len(Sweep(SHAPE, PATCH, 0.5).tiles)
    began, limit = clock.now, share * 8 * tiles
    labels, record = run_in(predictor, clock, limit)
    assert clock.now - began <= limit
    assert len(record.passes_done) == tiles
    assert max(record.passes_done) - min(record.passes_done) <= 1
    assert sum(record.passes_done) > 0.8 * limit - 8
    assert any("passes over tiles" in w for w in record.warnings)
    assert len(np.unique(labels)) > 1


def test_mirror_images_go_before_folds(folder):
    passes = load(folder).runner.passes
    assert [(p.fold, p.axes) for p in passes[:3]] == [("0", ()), ("1", ()), ("0", (1,))]
    assert len(passes) == 8


def test_overlap_goes_when_one_pass_for_each_tile_is_too_much(folder, clock, monkeypatch):
    predictor = load(folder, tile_step=0.5)
    timed(predictor, clock, monkeypatch)
    fewest, asked = (len(Sweep(SHAPE, PATCH, step).tiles) for step in (1.0, 0.5))
    _, record = run_in(predictor, clock, fewest + 5)
    assert record.tiles < asked
    assert record.tile_step > 0.5
    assert len(record.passes_done) == record.tiles
    assert min(record.passes_done) == 1
    assert any("tile step" in w for w in record.warnings)


def test_detail_goes_last_and_everything_still_gets_an_answer(folder, clock, monkeypatch):
    predictor = load(folder, tile_step=0.5)
    timed(predictor, clock, monkeypatch)
    began, limit = clock.now, 6.0
    labels, record = run_in(predictor, clock, limit)
    assert clock.now - began <= limit
    assert record.tiles_coarse > 0
    assert record.tiles_coarse + len(record.passes_done) == record.tiles
    assert any("coarser spacing" in w for w in record.warnings)
    assert len(np.unique(labels[-6:])) > 1  # far beyond the last tile that had a pass of its own


def test_a_machine_that_slows_down_is_noticed(folder, clock, monkeypatch):
    predictor = load(folder, tile_step=0.5)
    calls = timed(predictor, clock, monkeypatch)
    original, tiles = predictor.runner.logits, len(Sweep(SHAPE, PATCH, 0.5).tiles)

    def logits(*arguments):
        clock.now += 4.0 if len(calls) > tiles // 2 else 0.0
        return original(*arguments)

    monkeypatch.setattr(predictor.runner, "logits", logits)
    began, limit = clock.now, 8.0 * tiles
    _, record = run_in(predictor, clock, limit)
    assert clock.now - began <= limit
    assert record.passes_done[0] > record.passes_done[-1]
    assert record.tiles_lost == 0


@pytest.mark.parametrize("limit", [-np.inf, -1e9, 0.0, 0.01])
def test_without_any_time_there_is_a_coarse_answer(folder, clock, monkeypatch, limit):
    """For the price of a small part of one pass."""
    predictor = load(folder)
    timed(predictor, clock, monkeypatch)
    began = clock.now
    labels, record = run_in(predictor, clock, limit)
    assert clock.now - began < 0.2
    assert (record.tiles_coarse, record.tiles_lost, record.passes_done) == (record.tiles, 0, [])
    assert len(np.unique(labels)) > 1
    assert any("coarser spacing" in w for w in record.warnings)


def test_a_coarse_look_keeps_places_and_is_refined_once(folder, monkeypatch):
    """Clicks and cells lie where their centres lie."""
    predictor = load(folder, folds=0)
    clicks = Clicks(np.array([[23.0, -0.5, 31.5]]), np.array([0]))
    look = CoarseLook(predictor.runner, torch.zeros(24, 32, 32), clicks, Budget(None, 1), pytest.fail)
    np.testing.assert_allclose(look.clicks.coordinates, [[11.25, -0.5, 15.5]])
    looks = []
    monkeypatch.setattr(look, "_predict_coarse", looks.append)
    look.refine()
    look.refine()
    assert looks == [PATCH]
    look._coarse_logits = torch.arange(2.0).view(1, 2, 1, 1)
    look.volume = torch.zeros(3, 1, 1)
    assert look.part((slice(0, 3), slice(0, 1), slice(0, 1))).flatten().tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("deadline", [None, np.inf])
def test_a_budget_without_a_deadline_gives_what_is_asked(deadline):
    budget = Budget(deadline, 4)
    budget.spent(1, 1e9)
    assert budget.passes(10**6) == 4
    assert budget.affords(10**6)


def test_a_budget_shares_what_is_left_after_what_every_tile_takes_besides(clock):
    budget = Budget(clock.now + 10, 8)
    assert budget.passes(1000) == 8  # nothing is known yet
    budget.spent(2, 2.0, 1.0)
    assert [budget.passes(tiles) for tiles in (1, 2, 3, 4, 5, 6)] == [8, 4, 2, 1, 1, 1]
    assert [budget.affords(tiles) for tiles in (5, 6)] == [True, False]
    clock.now += 7.1  # for the next tile and its pass two seconds, and another for a look at all that follow
    assert [budget.passes(tiles) for tiles in (1, 2)] == [1, 0]
    clock.now -= 0.2
    assert budget.passes(2) == 1
    assert Budget(clock.now, 8).passes(1) == 0


def test_a_budget_expects_the_last_time_or_the_recent_average_if_that_was_longer():
    budget, found = Budget(None, 1), []
    for seconds in (1.0, 4.0, 1.0, 1.0, 1.0):
        budget.spent(1, seconds)
        found.append(budget.pace)
    assert found == [1.0, 4.0, 2.0, 2.0, 1.0]


# --- memory and numbers -----------------------------------------------------------------------------------------------


def failing(predictor, monkeypatch, error, when):
    """The networks raise an error whenever ``when(input)`` holds."""
    engine = predictor.runner

    def wrapped(net):
        def run(x, clicks):
            if when(x):
                raise error
            return net(x, clicks)

        return run

    monkeypatch.setattr(engine, "nets", {fold: wrapped(net) for fold, net in engine.nets.items()})


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("std::bad_alloc"),
    # What CUDA's libraries say where they cannot get their workspaces and handles.
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_memory_runs_out_under_many_names(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
        OSError(errno.ENOENT, "No such file"),
        ValueError("std::bad_alloc"),
    ],
    ids=str,
)
def test_what_is_no_want_of_memory(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OUT_OF_MEMORY[:1] + OUT_OF_MEMORY[5:6], ids=str)
def test_out_of_memory_makes_tiles_smaller_and_goes_on(folder, monkeypatch, error):
    predictor = load(folder, folds=0, mirror_axes=(1,), tile_step=1.0)
    expected = predictor.predict(scan(), SPACING)
    tiles, seen = np.prod(PATCH), []
    failing(predictor, monkeypatch, error, lambda x: seen.append(x.shape[2:]) or x[0, 0].numel() >= tiles)
    record = Record()
    labels = predictor.predict(scan(), SPACING, record=record)
    assert predictor.runner.halvings == 1
    assert seen.count(torch.Size(PATCH)) == 1  # never tried again
    assert [w for w in record.warnings if "going on with tiles in 2 pieces" in w]
    assert record.tiles_lost == 0
    # Norms over part of a tile are other norms, so not all labels are the same.
    assert (labels == expected).mean() > 0.4


def test_memory_that_runs_out_in_the_middle_leaves_finished_tiles_alone(folder, monkeypatch):
    predictor = load(folder, folds=0, mirror_axes=(), tile_step=1.0)
    expected = predictor.predict(scan(), SPACING)
    calls = []
    failing(predictor, monkeypatch, MemoryError(), lambda x: calls.append(1) or len(calls) == 4)
    record = Record()
    labels = predictor.predict(scan(), SPACING, record=record)
    first = Sweep(SHAPE, PATCH, 1.0).tiles[0].box
    inner = tuple(slice(s.start, s.start + 4) for s in first)
    np.testing.assert_array_equal(labels[inner], expected[inner])
    assert record.tiles_lost == 0


def test_too_little_for_all_scores_costs_overlap(folder, monkeypatch):
    predictor = load(folder, tile_step=0.3)
    waiting = {step: 4 * predictor.num_classes * Sweep(SHAPE, PATCH, step).pending_voxels for step in (0.3, 0.5)}
    assert waiting[0.5] < waiting[0.3]
    room = window.RESERVED_BYTES + predictor.runner.tile_bytes(8) + waiting[0.5]
    monkeypatch.setattr(memory, "available", lambda: room)
    record = Record()
    labels = predictor.predict(scan(), SPACING, record=record)
    assert 0.3 < record.tile_step <= 0.5
    assert (record.tiles_lost, predictor.runner.halvings) == (0, 0)
    assert [w for w in record.warnings if w.startswith("memory: found ") and "tile step 0.3), going on" in w]
    expected = load(folder, tile_step=record.tile_step).predict(scan(), SPACING)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("spacing", [SPACING, (0.3, 0.2, 0.25)])
def test_too_little_for_a_tile_makes_tiles_smaller(folder, monkeypatch, spacing):
    predictor, small = load(folder, folds=0, mirror_axes=()), scan((20, 40, 24))
    monkeypatch.setattr(runner_module, "MOST_HALVINGS", 3)
    monkeypatch.setattr(memory, "available", lambda: 0)
    record = Record()
    labels = predictor.predict(small, spacing, record=record)
    assert predictor.runner.halvings > 0
    assert predictor.runner.halve() is None
    assert (record.tiles_lost, len(record.passes_done)) == (0, record.tiles)
    assert len(np.unique(labels)) > 1
    pieces = 2**predictor.runner.halvings
    assert [w for w in record.warnings if w.startswith("memory: found 0.0 GB") and w.endswith(f"in {pieces} pieces")]
    again = Record()
    predictor.predict(small, spacing, record=again)  # smaller for good: nothing new to tell
    assert not [w for w in again.warnings if "pieces" in w]


def test_scores_that_wait_for_resampling_count(folder, monkeypatch):
    predictor, shape = load(folder), (40, 60, 60)
    window = window_of(predictor, torch.zeros(1, *shape))
    same, other = (window._host_bytes(Sweep(shape, PATCH, 0.5, 0), outer) for outer in (None, 0))
    rows = max(b - a for a, b in Sweep(shape, PATCH, 0.5, 0).rows())
    assert other - same == 4 * predictor.num_classes * rows * 60 * 60


def test_memory_that_never_suffices_is_an_error(folder, monkeypatch):
    predictor = load(folder)
    failing(predictor, monkeypatch, MemoryError(), lambda x: True)
    with pytest.raises(MemoryError, match="found too little memory"):
        predictor.predict(scan(), SPACING)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x")])
def test_other_errors_are_not_taken_for_it(folder, monkeypatch, error):
    predictor = load(folder)
    failing(predictor, monkeypatch, error, lambda x: True)
    with pytest.raises(type(error)):
        predictor.predict(scan(), SPACING)
    assert predictor.runner.halvings == 0


def test_an_unforeseen_error_keeps_what_is_done_so_far(folder, monkeypatch):
    predictor = load(folder, folds=0, mirror_axes=(), tile_step=1.0)
    expected, calls = predictor.predict(scan(), SPACING), []
    failing(predictor, monkeypatch, RuntimeError("lost the device"), lambda x: calls.append(1) or len(calls) > 3)
    record = Record()
    labels = predictor.predict(scan(), SPACING, record=record)
    tiles = Sweep(SHAPE, PATCH, 1.0).tiles
    assert len(calls) == 4
    assert record.tiles_lost == len(tiles) - 3
    assert any("lost the device" in w for w in record.warnings)
    inner = tuple(slice(s.start, s.start + 4) for s in tiles[0].box)
    np.testing.assert_array_equal(labels[inner], expected[inner])
    assert (labels[tuple(slice(s.stop - 4, s.stop) for s in tiles[-1].box)] == 0).all()


def test_with_a_time_limit_what_a_failure_leaves_open_has_a_coarse_answer(folder, monkeypatch):
    """The first look at everything is there already."""
    predictor, calls = load(folder, folds=0, mirror_axes=(), tile_step=1.0), []
    whole = lambda x: x[0, 0].numel() == np.prod(PATCH)  # noqa: E731
    lost = lambda x: whole(x) and (calls.append(1) or len(calls) > 3)  # noqa: E731
    failing(predictor, monkeypatch, RuntimeError("lost the device"), lost)
    record = Record()
    labels = predictor.predict(scan(), SPACING, deadline=time.monotonic() + 1000, record=record)
    assert (record.tiles_lost, record.tiles_coarse) == (0, record.tiles - 3)
    assert any("lost the device" in w for w in record.warnings)
    assert labels[-4:].any()


@pytest.mark.parametrize("stop_at", [2, 5])
def test_who_is_asked_to_end_answers_from_the_first_look(folder, monkeypatch, stop_at):
    """Whether the second look or a tile is interrupted, no other pass begins."""
    predictor, calls = load(folder, folds=0, mirror_axes=(), tile_step=1.0), []
    failing(predictor, monkeypatch, Terminated("SIGTERM"), lambda x: calls.append(1) or len(calls) >= stop_at)
    record = Record()
    labels = predictor.predict(scan(), SPACING, deadline=time.monotonic() + 1000, record=record)
    assert len(calls) == stop_at
    assert (record.tiles_lost, record.tiles_coarse) == (0, record.tiles)
    assert labels.any()


@pytest.mark.parametrize("spacing", [SPACING, (0.25, 0.3, 0.2)])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("lost the device")])
def test_a_failure_of_the_blending_keeps_what_is_finished(folder, monkeypatch, spacing, error):
    predictor = load(folder, folds=0, mirror_axes=(), tile_step=1.0)
    expected, add, calls = predictor.predict(scan(), spacing), Accumulator.add, []

    def sick(self, *arguments):
        calls.append(1)
        if len(calls) > tiles - 2:
            raise error
        return add(self, *arguments)

    record = Record()
    predictor.predict(scan(), spacing, record=record)
    tiles = record.tiles
    monkeypatch.setattr(Accumulator, "add", sick)
    record = Record()
    labels = predictor.predict(scan(), spacing, record=record)
    assert len(calls) == tiles - 1
    assert record.tiles_lost == 2
    assert any(w.startswith("blending: found") for w in record.warnings)
    np.testing.assert_array_equal(labels[:6], expected[:6])
    assert labels[:6].any()


def test_a_failure_of_the_blending_at_the_first_tile_is_the_error(folder, monkeypatch):
    def sick(*_):
        raise RuntimeError("lost the device")

    monkeypatch.setattr(Accumulator, "add", sick)
    with pytest.raises(RuntimeError, match="lost the device"):
        load(folder, folds=0, mirror_axes=(), tile_step=1.0).predict(scan(), SPACING)


@pytest.mark.parametrize("step", ["_empty_sums", "_weighted", "_keep", "finish"])
@pytest.mark.parametrize("how", Accumulator.METHODS)
def test_blending_goes_on_in_the_hosts_memory(monkeypatch, how, step):
    """Wherever a device's memory runs out, nothing is added twice and nothing is lost."""
    shape, patch = (12, 16, 16), (8, 8, 8)
    sweep, logits, out, moves, calls = Sweep(shape, patch, 0.5), random_logits(patch), {}, [], []
    accumulator = Accumulator(sweep, patch, CLASSES, how, False, CPU, lambda box, part: out.update({str(box): part}))
    monkeypatch.setattr(accumulator, "to_host", lambda: moves.append(1) or "scores in the host's memory")
    original = getattr(accumulator, step)

    def sick(*arguments):
        calls.append(1)
        if len(calls) % 5 == 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(*arguments)

    monkeypatch.setattr(accumulator, step, sick)
    for tile in sweep.tiles:
        accumulator.add(tile, logits(tile).clone())
    expected = streamed(sweep, patch, how, logits)
    assert moves
    for tile in sweep.tiles:
        for cell in sweep.cells(tile):
            if cell.last:
                torch.testing.assert_close(out[str(cell.box)], expected[all_classes(cell.box)])


class OnDevice:
    """A runner whose device is said to be a GPU: it computes on the CPU as long as its memory lasts."""

    def __init__(self, predictor, monkeypatch, lasts=lambda runner: False):
        runner = self.runner = predictor.runner
        self.tried, gpu, mean = [], torch.device("cuda"), Runner._mean
        monkeypatch.setattr("umamba2.engine.window.SlidingWindow._to_device_if_it_fits", lambda self, volume: volume)
        monkeypatch.setattr("umamba2.engine.window.SlidingWindow._score_device", lambda self, size: CPU)
        runner.device = gpu

        def run(runner, *arguments):
            self.tried.append((runner.device.type, runner.dtype))
            if runner.device.type == "cpu":
                return mean(runner, *arguments)
            if not lasts(runner):
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            runner.device = CPU
            try:
                return mean(runner, *arguments)
            finally:
                runner.device = gpu

        monkeypatch.setattr(Runner, "_mean", run)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_cpu_takes_over_and_keeps_fp32(folder, monkeypatch, precision):
    predictor = load(folder, folds=0, mirror_axes=(), precision=precision)
    monkeypatch.setattr("umamba2.engine.network._cpu_has_bf16", lambda: True)
    expected = predictor.predict(scan(), SPACING)
    OnDevice(predictor, monkeypatch)
    record = Record()
    labels = predictor.predict(scan(), SPACING, record=record)
    assert predictor.settings["device"] == "cpu"
    assert predictor.settings["precision"] == str(PRECISIONS[precision])[6:]
    assert [w for w in record.warnings if w.endswith("going on with the CPU")]
    np.testing.assert_array_equal(labels, expected)


def test_who_planned_for_the_gpu_is_told(folder, monkeypatch):
    predictor, tile, warnings = load(folder, folds=0, mirror_axes=()), torch.zeros(PATCH), []
    runner = predictor.runner
    OnDevice(predictor, monkeypatch)
    with pytest.raises(DeviceChanged):
        runner.logits(tile, None, runner.passes, warnings.append)
    assert warnings[-1].endswith("going on with the CPU")
    assert runner.logits(tile, None, runner.passes, pytest.fail).shape[1:] == PATCH


def test_tiles_are_halved_so_often_and_no_more(folder, monkeypatch):
    monkeypatch.setattr(runner_module, "MOST_HALVINGS", 1)
    runner = load(folder).runner
    assert [runner.halve(), runner.halve()] == ["tiles in 2 pieces", None]
    assert runner.halvings == 1


def test_networks_that_move_or_run_in_fp32_have_their_weights(folder, monkeypatch):
    predictor = load(folder, folds=0, mirror_axes=(), precision="bf16", tile_step=1.0)
    OnDevice(predictor, monkeypatch)
    record = Record()
    predictor.predict(scan(), SPACING, record=record)
    assert predictor.settings["device"] == "cpu"
    net, calls = predictor.runner.nets["0"], []
    sick = lambda x, clicks: net(x) * (torch.nan if calls.append(1) or len(calls) == 1 else 1)  # noqa: E731
    monkeypatch.setitem(predictor.runner.nets, "0", sick)
    record = Record()
    predictor.predict(scan(), SPACING, record=record)
    assert [w for w in record.warnings if "running that tile again in fp32" in w]
    assert record.tiles_lost == 0


def test_the_cpu_that_takes_over_gets_a_plan_of_its_own(folder, clock, monkeypatch):
    """It is a hundred times slower: what was planned for the GPU is forgotten before the tile is tried again."""
    predictor = load(folder)
    calls = timed(predictor, clock, monkeypatch, 0.01)
    fast = predictor.runner.logits

    def logits(tile, *rest):
        if moved:
            clock.now += np.prod(tile.shape) / np.prod(PATCH) * len(rest[1])
        elif len(calls) == 20:
            moved.append(calls.count(8))  # tiles that the GPU has answered
            raise DeviceChanged
        return fast(tile, *rest)

    moved: list[int] = []
    monkeypatch.setattr(predictor.runner, "logits", logits)
    began, limit = clock.now, 16.0
    labels, record = run_in(predictor, clock, limit)
    assert moved
    assert clock.now - began <= limit
    assert record.tiles_lost == 0
    assert record.passes_done.count(8) == moved[0]
    assert record.passes_done[-1] < 8
    assert labels[-4:].any()


def test_networks_that_do_not_fit_run_on_the_cpu(folder, monkeypatch):
    """When a model is loaded, and when one tile needs it in fp32: there in fp32 indeed."""
    ready = runner_module.ready_network

    def refusing(model, fold, device, dtype):
        if device.type != "cpu" and (dtype == torch.float32 or not loaded):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return ready(model, fold, CPU, dtype)

    loaded: list[int] = []
    monkeypatch.setattr(runner_module, "ready_network", refusing)
    monkeypatch.setattr("umamba2.engine.predict.resolve_device", lambda name: torch.device("cuda", 0))
    record, predictor = Record(), load(folder, folds=0, mirror_axes=())
    predictor.predict(scan(), SPACING, record=record)
    assert predictor.settings["device"] == "cpu"
    (warning,) = record.warnings
    assert warning == "memory: found too little for the network on cuda:0, going on with the CPU"

    predictor = load(folder, folds=0, mirror_axes=())
    loaded.append(1)
    predictor.runner.dtype = torch.bfloat16
    predictor.runner.nets = predictor.runner._ready()
    device = OnDevice(predictor, monkeypatch, lasts=lambda runner: True)
    net, calls = predictor.runner.nets["0"], []
    sick = lambda x, clicks: net(x) * (torch.nan if calls.append(1) or len(calls) == 1 else 1)  # noqa: E731
    monkeypatch.setitem(predictor.runner.nets, "0", sick)
    record = Record()
    predictor.predict(scan(), SPACING, record=record)
    assert device.tried[:2] == [("cuda", torch.bfloat16), ("cpu", torch.float32)]
    assert {where for where, _ in device.tried[2:]} == {"cuda"}
    assert record.tiles_lost == 0


def test_a_scan_that_does_not_fit_on_the_device_stays_on_the_host(folder, monkeypatch):
    class Refusing(torch.Tensor):
        def to(self, *_):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    record, predictor = Record(), load(folder)
    window = window_of(predictor, torch.zeros(1, *PATCH), record=record)
    volume = torch.zeros(2, 2, 2).as_subclass(Refusing)
    assert window._to_device_if_it_fits(volume) is volume
    assert "in the host's" in record.warnings[0]


def test_nan_in_a_tile_is_run_again_in_fp32(folder, monkeypatch):
    """bf16 gives NaN now and then; the labels are those of fp32 there, and of bf16 elsewhere."""
    predictor = load(folder, folds=0, mirror_axes=(), precision="bf16", tile_step=1.0)
    exact = load(folder, folds=0, mirror_axes=(), tile_step=1.0).predict(scan(), SPACING)
    net, calls = predictor.runner.nets["0"], []

    def sick(x, clicks):
        calls.append(1)
        return net(x, clicks) * (torch.nan if len(calls) == 1 else 1)

    monkeypatch.setitem(predictor.runner.nets, "0", sick)
    record = Record()
    labels = predictor.predict(scan(), SPACING, record=record)
    assert [w for w in record.warnings if "NaN or infinite logits in bf16" in w]
    inner = tuple(slice(s.start, s.start + 4) for s in Sweep(SHAPE, PATCH, 1.0).tiles[0].box)
    np.testing.assert_array_equal(labels[inner], exact[inner])
    assert record.tiles_lost == 0


def test_a_tile_that_stays_nan_is_left_to_its_neighbours(folder, monkeypatch):
    predictor = load(folder, folds=0, mirror_axes=(), tile_step=0.5)
    net, calls = predictor.runner.nets["0"], []

    def sick(x, clicks):
        calls.append(1)
        return net(x, clicks) * (torch.nan if len(calls) == 1 else 1)

    monkeypatch.setitem(predictor.runner.nets, "0", sick)
    with pytest.warns(UserWarning, match="NaN or infinite logits"):
        labels = predictor.predict(scan(), SPACING)
    assert (labels[0, 0, :5] == 0).all()  # only the lost tile covers the corner
    assert len(np.unique(labels)) > 1


def test_pieces_meet_in_the_middle_and_are_smaller_than_what_they_are_of():
    whole = (slice(0, 12), slice(0, 40), slice(0, 24))
    (low, kept_low), (high, kept_high) = _split(whole, whole, 1, (4, 4, 4))
    assert [side[1] for side in (low, high, kept_low, kept_high)] == [
        slice(0, 28), slice(12, 40), slice(0, 20), slice(20, 40),
    ]  # fmt: skip
    assert halved((4, 8, 4), (4, 4, 4)) is None  # two thirds of 8, in steps of 4, is 8


@torch.inference_mode()
def test_pieces_are_joined_where_they_belong():
    """With a network that looks at one voxel at a time, pieces make no difference at all."""
    x = torch.randn(2, 1, 12, 40, 24)
    seen = []

    def net(x, clicks=None):
        seen.append(tuple(x.shape[2:]))
        return torch.cat([x, x * 2, x.square()], 1)

    for halvings in (1, 2, 3):
        torch.testing.assert_close(run_in_subtiles(net, x, None, halvings, (4, 4, 4)), net(x))
    assert max(np.prod(s) for s in seen[-8:-1]) < 12 * 40 * 24 / 2.5


def test_clicks_follow_the_pieces():
    seen = []

    def net(x, clicks):
        seen.append((x.shape[3], clicks.coordinates[0, :, 1].tolist(), clicks.labels.tolist()))
        return x

    clicks = ClickTensors(torch.tensor([[[1.0, 3.0, 2.0], [1.0, 36.0, 2.0]]]), torch.tensor([[0, 1]]))
    run_in_subtiles(net, torch.zeros(1, 1, 8, 40, 24), clicks, 1, (4, 4, 4))
    (low, at_low, labels_low), (high, at_high, labels_high) = seen
    assert (low, labels_low) == (28, [[0, -1]])
    assert (high, labels_high) == (28, [[-1, 1]])
    # The point encoder divides by the patch of 40: the place within the piece of 28 must come out.
    assert (at_low[0] + 0.5) / 40 == pytest.approx(3.5 / 28)
    assert (at_high[1] + 0.5) / 40 == pytest.approx((36 - 12 + 0.5) / 28)


def test_batched_mirror_images_equal_one_after_the_other(folder, tmp_path):
    clicks = make_model(tmp_path / "c", network="umamba2.nets.UMamba2Click", classes=3, mirror_axes=(0, 1, 2))
    for model, points in ((folder, None), (clicks, (np.array([[5, 30, 10], [9, 3, 20]]), np.array([0, 1])))):
        predictor = load(model, folds=0, tile_step=1.0)
        expected = predictor.predict(scan(), SPACING, points)
        predictor.runner.batch = 3
        agreement = (predictor.predict(scan(), SPACING, points) == expected).mean()
        assert agreement > 0.9999


@torch.inference_mode()
def test_a_mirror_image_is_mirrored_back_a_few_rows_at_a_time(folder, monkeypatch):
    predictor, tile = load(folder, folds=0, mirror_axes=()), torch.randn(PATCH)
    passes = [runner_module.Pass("0", axes) for axes in ((), (0,), (0, 2))]
    at_once = predictor.runner.logits(tile, None, passes, pytest.fail).clone()
    monkeypatch.setattr(accumulate, "CHUNK_ELEMENTS", 5 * PATCH[1] * PATCH[2] * 5)  # five of twelve rows
    assert len(list(runner_module._row_slices(at_once))) == 3
    torch.testing.assert_close(predictor.runner.logits(tile, None, passes, pytest.fail), at_once, rtol=0, atol=0)


def test_the_sum_of_several_passes_takes_memory_too(folder):
    runner = load(folder).runner
    assert runner.tile_bytes(2) - runner.tile_bytes(1) == 4 * np.prod(PATCH) * runner.num_classes
    assert runner.tile_bytes(8) == runner.tile_bytes(2)


def test_the_mamba_layer_takes_memory_where_a_patch_is_halved_seldom(folder):
    """What it makes of its tokens, at the least, beside the finest feature maps."""
    runner = load(folder).runner
    (net, *_) = runner.nets.values()
    tokens, mixer = np.prod(PATCH) // np.prod(net.total_stride), net.mamba_layer.mamba
    least = mixer.in_proj.out_features + 2 * len(mixer.conv1d.weight) + 2 * mixer.d_inner
    maps = np.prod(PATCH) * 8 * runner_module.FINEST_MAPS * runner.dtype.itemsize
    assert runner.tile_bytes(1) > maps + 4 * tokens * least


def test_smaller_batches_come_before_smaller_tiles(folder, monkeypatch):
    predictor = load(folder, folds=0, tile_step=1.0)
    predictor.runner.batch = 4
    failing(predictor, monkeypatch, MemoryError(), lambda x: len(x) > 1)
    record = Record()
    predictor.predict(scan(), SPACING, record=record)
    assert [w.split("going on with ")[1] for w in record.warnings] == [
        "2 mirror images at once",
        "1 mirror images at once",
    ]


@pytest.mark.parametrize(("precision", "exact"), [("fp32", True), ("bf16", False)])
def test_fp32_means_fp32_and_nothing_is_changed_for_others(folder, monkeypatch, precision, exact):
    """TF32 is what cuDNN's convolutions use by default on Ampere and newer."""
    predictor, seen = load(folder, folds=0, mirror_axes=(), precision=precision, tile_step=1.0), []

    def switches():
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        if hasattr(cudnn, "conv"):
            return cudnn.conv.fp32_precision, matmul.fp32_precision
        return cudnn.allow_tf32, matmul.allow_tf32

    before = switches()
    failing(predictor, monkeypatch, RuntimeError("stop"), lambda x: seen.append(switches()))
    predictor.predict(scan(), SPACING)
    assert switches() == before
    assert len(seen) > 1
    assert all(found in (("ieee", "ieee"), (False, False)) for found in seen) == exact
    assert exact or all(found == before for found in seen)


def test_a_gpus_free_memory_includes_what_torch_holds_unused(folder, monkeypatch):
    """Else scores go to the host for nothing from the second case on."""
    for name, found in (("mem_get_info", (3000, 16000)), ("memory_reserved", 9000), ("memory_allocated", 2000)):
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    gpu = torch.device("cuda", 0)
    assert memory.free_on_gpu(gpu) == 10000
    predictor = load(folder, folds=0)
    window = window_of(predictor, torch.zeros(1, *PATCH))
    predictor.runner.device = gpu
    assert (window._score_device(5000), window._score_device(5001)) == (gpu, CPU)


# --- air --------------------------------------------------------------------------------------------------------------


def test_tiles_of_air_are_left_out(folder, monkeypatch):
    predictor = load(folder, folds=0, mirror_axes=(), tile_step=1.0)
    volume = scan((24, 64, 48))
    volume[:, :, 16:] = -1000.0
    seen = []
    original = predictor.runner.logits
    monkeypatch.setattr(predictor.runner, "logits", lambda tile, *rest: seen.append(tile) or original(tile, *rest))
    record = Record()
    labels = predictor.predict(volume, SPACING, record=record)
    assert record.tiles_of_air == len(Sweep((24, 64, 48), PATCH, 1.0).tiles) * 2 // 3
    assert len(seen) == record.tiles - record.tiles_of_air
    assert (labels[:, :, 16:] == 0).all()
    assert not record.warnings


def test_the_slightest_structure_is_no_air(folder):
    """A thousandth of the training data's deviation is how exact constant air is; more than that is something."""
    tensor = torch.full((1, *PATCH), -1.0)
    for bright, of_air in ((0.0, 1), (0.9e-3, 1), (1.1e-3, 0)):
        tensor[0, 3, 3, 3] = -1.0 + bright
        record, predictor = Record(), load(folder, folds=0, mirror_axes=())
        window_of(predictor, tensor, record=record).labels(1.0)
        assert (record.tiles, record.tiles_of_air) == (1, of_air)


def test_a_small_scan_is_padded_around_it(folder):
    tensor = torch.randn(1, 9, 27, 11)
    window = window_of(load(folder, folds=0), tensor)
    assert window.pads == [(1, 2), (2, 3), (2, 3)]
    torch.testing.assert_close(window.volume[1:10, 2:29, 2:13], tensor[0])
    assert window.volume.count_nonzero() == tensor.numel()


def test_a_scan_of_nothing_but_air_is_background(folder):
    record = Record()
    labels = load(folder).predict(np.full((20, 40, 20), -1000.0, np.float32), SPACING, record=record)
    assert not labels.any()
    assert record.warnings == ["found 1 value in all voxels, expected a scan: a label map, or a mask?"]


def test_the_record_says_what_was_done(folder):
    record = Record()
    load(folder, folds=0, mirror_axes=(1,), tile_step=0.8).predict(scan(), SPACING, record=record)
    assert record.grid == SHAPE
    assert record.passes_asked == 2
    assert record.tile_step == 0.8
    assert set(record.seconds) == {"prepare", "network"}
    assert record.peak_memory["host"] > 2**26
