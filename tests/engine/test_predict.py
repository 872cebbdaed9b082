"""The predictor against nnU-Net's own, a naive loop over mirrors and folds, and every kind of volume."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from small_models import PATCH, make_model
from windows import scores

from umamba2 import InputError, Predictor
from umamba2.engine import network
from umamba2.engine.window import SlidingWindow, _inside
from umamba2.models.folder import load_model
from umamba2.scans.clicks import Clicks

SPACING = (0.3, 0.3, 0.3)
CLICKS = Clicks(np.array([[5.0, 30.0, 10.0], [9.0, 3.0, 20.0]]), np.array([0, 1]))


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "model", folds=(0, 1), mirror_axes=(1, 2))


@pytest.fixture
def click_folder(tmp_path):
    return make_model(tmp_path / "clicks", network="umamba2.nets.UMamba2Click", classes=3, mirror_axes=(1, 2))


def load(folder, **options):
    return Predictor.load(folder, **{"device": "cpu", "precision": "fp32", "mirror_axes": (), **options})


def scan(shape=(16, 40, 24), seed=0):
    return np.random.default_rng(seed).normal(600, 900, shape).astype(np.float32)


def normalised(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32))


class TorchWithWideHalf:
    """torch, except that what asks for half precision gets single."""

    half = torch.float32

    def __getattr__(self, name):
        return getattr(torch, name)


def test_logits_equal_nnunets_predictor(tmp_path, monkeypatch):
    """Same folder, same network, fp32, no mirrors; nnU-Net's fp16 sums are widened to compare what is summed."""
    nnunet = pytest.importorskip("nnunetv2.inference.predict_from_raw_data")
    weights = partial(nnunet.compute_gaussian, dtype=torch.float32)
    monkeypatch.setattr(nnunet, "torch", TorchWithWideHalf())
    monkeypatch.setattr(nnunet, "compute_gaussian", weights)
    folder = make_model(tmp_path / "model", folds=(0, 1))
    theirs = nnunet.nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=False, perform_everything_on_device=False,
        device=torch.device("cpu"), allow_tqdm=False,
    )  # fmt: skip
    theirs.initialize_from_trained_model_folder(str(folder), (0, 1), "checkpoint_best.pth")
    tensor = normalised((20, 45, 30))
    expected = theirs.predict_logits_from_preprocessed_data(tensor).float()
    ours = scores(load(folder), tensor)
    assert ours.shape == expected.shape
    inside = (slice(None), slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(ours[inside], expected[inside], atol=1e-3, rtol=0)
    assert (ours.argmax(0) == expected.argmax(0)).float().mean() > 0.999


@torch.no_grad()
def test_mirrors_and_folds_equal_a_naive_loop(folder):
    predictor = load(folder, mirror_axes=(1, 2), left_right_pairs=((1, 2),))
    tile = normalised(PATCH)
    swap = [0, 2, 1, 3, 4]
    expected = []
    for net in predictor.runner.nets.values():
        expected.append(net(tile[None])[0])
        expected.append(net(tile[None].flip(3))[0].flip(2))
        expected.append(net(tile[None].flip(4))[0].flip(3)[swap])
        expected.append(net(tile[None].flip(3, 4))[0].flip(2, 3)[swap])
    torch.testing.assert_close(scores(predictor, tile), torch.stack(expected).mean(0), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_clicks_are_mirrored_with_the_tile(click_folder):
    predictor = load(click_folder, mirror_axes=(2,), left_right_pairs=((1, 2),))
    tile, net = normalised(PATCH), predictor.runner.nets["0"]
    where = torch.tensor([[[4.0, 20.0, 3.0], [6.0, 7.0, 15.0]]])
    seen = where.clone()
    seen[..., 2] = PATCH[2] - 1 - seen[..., 2]
    straight = net(tile[None], (where, torch.tensor([[0, 1]])))[0]
    mirrored = net(tile[None].flip(4), (seen, torch.tensor([[1, 0]])))[0].flip(3)[[0, 2, 1]]
    ours = scores(predictor, tile, Clicks(where[0].numpy(), np.array([0, 1])))
    torch.testing.assert_close(ours, (straight + mirrored) / 2, atol=1e-4, rtol=1e-4)


def test_without_pairs_clicks_keep_their_side(click_folder):
    predictor = load(click_folder, mirror_axes=(2,))
    _, labels = predictor.runner._click_tensors(Clicks(np.zeros((1, 3)), np.array([0])), [(2,)])
    assert labels.tolist() == [[0]]


def test_a_tile_sees_only_its_own_clicks():
    tile = (slice(0, 12), slice(8, 40), slice(8, 24))
    inside = _inside(CLICKS, tile)
    np.testing.assert_array_equal(inside.coordinates, [[5.0, 22.0, 2.0]])
    assert inside.labels.tolist() == [0]
    # A voxel reaches half-way to the next, so that of two tiles that meet one has the click, never both or none.
    for at, own in ((-0.5, 0), (-0.4, 0), (11.4, 0), (11.5, 1)):
        tiles = [(slice(start, start + 12), slice(0, 8), slice(0, 8)) for start in (0, 12)]
        counts = [len(_inside(Clicks(np.array([[at, 3.0, 3.0]]), np.array([1])), tile).labels) for tile in tiles]
        assert counts == [1 - own, own]


def test_mirror_axes_are_those_the_model_was_trained_for(tmp_path):
    folder = make_model(tmp_path / "m", mirror_axes=(2,))
    for asked, used in ((None, (2,)), ((1, 2), (2,)), ((1,), ()), ((), ())):
        assert load(folder, mirror_axes=asked).mirror_axes == used
    assert load(make_model(tmp_path / "n", mirror_axes=None), mirror_axes=(1, 2)).mirror_axes == ()


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (12, 32, 16), (13, 33, 17), (30, 20, 40)])
@pytest.mark.parametrize("spacing", [SPACING, (0.2, 0.25, 0.25), (1.0, 0.3, 0.3)])
def test_any_size_and_spacing(folder, shape, spacing):
    labels = load(folder, folds=0).predict(scan(shape), spacing)
    assert labels.shape == shape
    assert labels.dtype == np.uint8
    assert labels.max() < 5


def test_any_number_of_scans_one_after_the_other_gives_the_same(folder):
    predictor = load(folder, folds=0)
    first = predictor.predict(scan(seed=1), SPACING)
    predictor.predict(scan((7, 50, 20), seed=2), SPACING)
    np.testing.assert_array_equal(predictor.predict(scan(seed=1), SPACING), first)


def test_folds_are_averaged(folder):
    tensor = normalised((12, 40, 20))
    one, two, both = (scores(load(folder, folds=f), tensor) for f in (0, 1, None))
    torch.testing.assert_close(both, (one + two) / 2, atol=1e-4, rtol=1e-4)


def test_published_blend_runs_end_to_end(folder):
    labels = load(folder, blend="published", tile_step=0.95, mirror_axes=(1, 2)).predict(scan(), SPACING)
    assert len(np.unique(labels)) > 1


def test_bf16_agrees_with_fp32(folder):
    tensor = normalised((12, 40, 20))
    full, low = (scores(load(folder, precision=p), tensor) for p in ("fp32", "bf16"))
    assert low.dtype == torch.float32
    assert (full.argmax(0) == low.argmax(0)).float().mean() > 0.95


def test_clicks_in_scan_voxels_reach_the_network_on_its_grid(click_folder, monkeypatch):
    seen = []

    def labels(self, step):
        seen.append(self.clicks.coordinates - [before for before, _ in self.pads])
        return np.zeros(self.prepared.box_shape, np.uint8)

    monkeypatch.setattr(SlidingWindow, "labels", labels)
    load(click_folder).predict(scan((24, 40, 32)), (0.15, 0.15, 0.15), CLICKS)
    np.testing.assert_allclose(seen[0], (CLICKS.coordinates + 0.5) / 2 - 0.5)


def test_clicks_as_a_plain_tuple_or_none_or_empty(click_folder):
    predictor = load(click_folder)
    volume = scan((12, 32, 16))
    none = predictor.predict(volume, SPACING)
    np.testing.assert_array_equal(predictor.predict(volume, SPACING, ([], [])), none)
    steered = predictor.predict(volume, SPACING, (np.array([[3, 3, 3], [8, 20, 9]]), np.array([0, 1])))
    assert not np.array_equal(steered, none)


def test_clicks_for_a_model_without_are_refused(folder):
    with pytest.raises(InputError, match="takes no clicks"):
        load(folder).predict(scan(), SPACING, CLICKS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_step": 0}, r"tile step: found 0, expected"),
        ({"tile_step": 1.5}, r"tile step: found 1\.5"),
        ({"blend": "max"}, r"blend: found 'max', expected one of nnunet, published"),
        ({"device": "tpu9"}, r"device: found 'tpu9'"),
        ({"device": "cuda:7"}, r"device: found 'cuda:7', which this machine does not have"),
        ({"precision": "fp8"}, r"precision: found 'fp8'"),
        ({"precision": "fp16"}, r"precision: found fp16 on a CPU"),
        ({"left_right_pairs": ((1, 9),)}, r"found a model of 5 classes, expected one with \(1, 9\)"),
    ],
)
def test_settings_out_of_range_are_named(folder, options, message):
    with pytest.raises(InputError, match=message):
        load(folder, **options)


def test_automatic_precision_follows_the_hardware(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(network, "_cpu_has_bf16", lambda: True)
    assert network.resolve_precision("auto", cpu) is torch.bfloat16
    monkeypatch.setattr(network, "_cpu_has_bf16", lambda: False)
    assert network.resolve_precision("auto", cpu) is torch.float32
    assert network.resolve_precision("auto", cuda) is torch.float16


def test_sides_trade_places_by_the_names_of_the_classes(tmp_path):
    """The README's plain call: a model that says left and right must not average the two."""
    folder = make_model(tmp_path / "m", mirror_axes=(2,))
    path = folder / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(path, weights_only=False)
    names = ("background", "Left canal", "jaw", "Right canal", "left tooth of the lower jaw")
    checkpoint["init_args"]["dataset_json"]["labels"] = {name: i for i, name in enumerate(names)}
    torch.save(checkpoint, path)
    predictor = Predictor.load(folder, device="cpu", precision="fp32")
    assert predictor.runner._swap.tolist() == [0, 3, 2, 1, 4]
    assert Predictor.load(folder, device="cpu", left_right_pairs=()).runner._swap.tolist() == [0, 1, 2, 3, 4]


def test_a_loaded_model_serves_too(folder):
    tensor = normalised(PATCH)
    torch.testing.assert_close(scores(load(load_model(folder)), tensor), scores(load(folder), tensor))


def test_mirror_axes_are_the_arrays_under_a_transposed_plan(tmp_path):
    folder = make_model(tmp_path / "m", transpose=(2, 0, 1), mirror_axes=(0, 1, 2))
    assert load(folder, mirror_axes=(2,)).mirror_axes == (0,)
    assert load(folder, mirror_axes=(0, 1)).mirror_axes == (1, 2)
    assert load(folder, left_right_pairs=((1, 2),)).runner.left_right_axis == 0
    assert load(folder).runner.left_right_axis is None


def test_nan_from_the_network_is_an_error_not_an_empty_mask(folder):
    predictor = load(folder)
    predictor.runner.nets["0"].mamba_layer.norm.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="found NaN or infinite logits"):
        predictor.predict(scan(), SPACING)


@pytest.mark.parametrize(
    "clicks",
    [
        ([[1, 2, 3]], []),
        ([[1, 2]], [0]),
        ([["a", 2, 3]], [0]),
        ([[1, 2, float("nan")]], [0]),
        ([[1, 2, 3]], [7]),
        (5,),
    ],
)
def test_what_is_no_click_is_refused(click_folder, clicks):
    with pytest.raises(InputError, match=r"clicks: found"):
        load(click_folder).predict(scan(), SPACING, clicks)
