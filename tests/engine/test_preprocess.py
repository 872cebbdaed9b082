"""Preprocessing against nnU-Net's own, and the way back against resampling everything at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import INTENSITY, make_plans

from umamba2.engine import resample as module
from umamba2.engine.preprocess import ct_normalise, nonzero_box, prepare
from umamba2.engine.resample import RowResampler, resample, separate_axis
from umamba2.errors import InputError
from umamba2.models.network import Plan
from umamba2.scans.volumes import Geometry, as_volume


def plan(spacing=(0.3, 0.3, 0.3), transpose=(0, 1, 2), separate_z=False) -> Plan:
    return Plan("UMamba2", {}, (8, 8, 8), tuple(spacing), tuple(transpose), INTENSITY, separate_z)


def scan(shape=(14, 21, 17), seed=0, margin=2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    volume = np.zeros(shape, np.float32)
    inner = tuple(slice(margin, n - margin - i) for i, n in enumerate(shape))
    volume[inner] = rng.normal(500, 1500, volume[inner].shape)
    return volume


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("separate_z", [False, None, True])
@pytest.mark.parametrize(
    ("spacing", "target"),
    [
        ((0.3, 0.3, 0.3), (0.3, 0.3, 0.3)),
        ((0.2, 0.2, 0.2), (0.3, 0.3, 0.3)),
        ((0.3, 0.25, 0.25), (0.3, 0.3, 0.4)),
        ((1.5, 0.3, 0.3), (0.3, 0.3, 0.3)),
        ((0.3, 0.3, 0.3), (1.3, 0.3, 0.3)),
    ],
)
def test_equals_nnunet(spacing, target, transpose, separate_z):
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    manager = handler.PlansManager(make_plans(spacing=target, transpose=transpose, separate_z=separate_z))
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    expected, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        scan()[None], None, {"spacing": list(spacing)}, manager, manager.get_configuration("3d_umamba"), dataset
    )
    ours = prepare(scan(), spacing, plan(target, transpose, separate_z)).tensor.numpy()
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("deviation", [0.25, 400.0])
def test_intensities_of_any_deviation_are_divided_by_it(deviation):
    """Training images between 0 and 1 are as good as those in HU."""
    values = np.linspace(-2, 2, 9, dtype=np.float32) * deviation
    limits = {"percentile_00_5": -deviation, "percentile_99_5": deviation, "mean": deviation / 2, "std": deviation}
    expected = np.clip(np.linspace(-2, 2, 9), -1, 1) - 0.5
    np.testing.assert_allclose(ct_normalise(values, limits), expected, atol=1e-6)


def test_an_axis_is_resampled_apart_beyond_the_threshold_and_not_at_it():
    fine = plan((1.0, 1.0, 1.0), separate_z=None)
    assert separate_axis((3.0, 1.0, 1.0), fine) is None
    assert separate_axis((1.0, 3.0625, 1.0), fine) == 1
    assert separate_axis((1.0, 1.0, 1.0), plan((1.0, 1.0, 3.0), separate_z=None)) is None
    assert separate_axis((1.0, 1.0, 1.0), plan((1.0, 1.0, 3.0625), separate_z=None)) == 2


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    new=st.tuples(*[st.integers(1, 20)] * 3),
    slab=st.sampled_from([1, 100, 2**20]),
)
def test_resampling_in_slabs_equals_trilinear_at_once(shape, new, slab):
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    original, module.SLAB_ELEMENTS = module.SLAB_ELEMENTS, slab
    try:
        ours = resample(data, new)
    finally:
        module.SLAB_ELEMENTS = original
    torch.testing.assert_close(ours, F.interpolate(data[None], new, mode="trilinear")[0], atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    new=st.tuples(*[st.integers(1, 20)] * 3),
    nearest=st.booleans(),
    cuts=st.lists(st.integers(1, 11), max_size=4, unique=True),
)
def test_rows_in_any_portions_give_what_all_at_once_gives(shape, new, nearest, cuts):
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    at_once = torch.cat(list(RowResampler(shape[0], new, nearest).push(data)), dim=1)
    edges = [0, *sorted(c for c in cuts if c < shape[0]), shape[0]]
    rows = RowResampler(shape[0], new, nearest)
    slabs = [slab for a, b in pairwise(edges) for slab in rows.push(data[:, a:b])]
    torch.testing.assert_close(torch.cat(slabs, dim=1), at_once, rtol=1e-6, atol=1e-6)
    assert at_once.shape == (2, *new)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_labels_come_back_on_the_scans_grid(transpose):
    volume = scan()
    prepared = prepare(volume, (0.3, 0.25, 0.2), plan((0.4, 0.4, 0.4), transpose))
    of_the_box = np.random.default_rng(1).integers(1, 5, prepared.box_shape).astype(np.uint8)
    labels = prepared.on_scan(of_the_box)
    expected = np.zeros(prepared.shape, np.uint8)
    expected[prepared.box] = of_the_box
    np.testing.assert_array_equal(labels, expected.transpose(np.argsort(transpose)))
    np.testing.assert_array_equal(
        labels > 0,
        np.pad(
            np.ones([s.stop - s.start for s in nonzero_box(volume)], bool),
            [(s.start, n - s.stop) for s, n in zip(nonzero_box(volume), volume.shape, strict=True)],
        ),
    )
    assert labels.dtype == np.uint8
    assert labels.flags.c_contiguous


def test_clicks_follow_their_voxel_through_crop_and_resampling():
    """Mark one voxel, resample the image of it, and see where its centre of mass lands."""
    volume = np.full((30, 40, 50), -500.0, np.float32)
    volume[:5] = 0
    click = np.array([[17.0, 21.0, 33.0]])
    volume[17, 21, 33] = 3000
    prepared = prepare(volume, (0.4, 0.4, 0.4), plan((0.2, 0.2, 0.2)))
    image = prepared.tensor[0].numpy() - prepared.tensor.min().item()
    centre = np.array([(np.indices(image.shape)[a] * image).sum() / image.sum() for a in range(3)])
    np.testing.assert_allclose(prepared.to_grid(click)[0], centre, atol=0.05)


def test_clicks_follow_the_transposition():
    prepared = prepare(np.ones((4, 5, 6), np.float32), (0.3, 0.3, 0.3), plan(transpose=(2, 0, 1)))
    np.testing.assert_allclose(prepared.to_grid(np.array([[1.0, 2.0, 3.0]])), [[3.0, 1.0, 2.0]], atol=1e-9)


def test_an_empty_scan_is_kept_whole():
    assert prepare(np.zeros((4, 5, 6), np.float32), (0.3, 0.3, 0.3), plan()).tensor.shape == (1, 4, 5, 6)


def test_a_tiny_scan_keeps_a_voxel_per_axis():
    assert prepare(np.ones((1, 1, 2), np.float32), (0.1, 0.1, 0.1), plan((0.8,) * 3)).tensor.shape == (1, 1, 1, 1)


def test_the_callers_volume_is_not_changed():
    volume = scan()
    before = volume.copy()
    prepare(volume, (0.3, 0.3, 0.3), plan())
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize(
    ("volume", "spacing", "message"),
    [
        (np.zeros((3, 4)), (1, 1, 1), r"found shape \(3, 4\)"),
        (np.zeros((0, 3, 4)), (1, 1, 1), r"found shape \(0, 3, 4\)"),
        (np.full((2, 2, 2), np.nan), (1, 1, 1), "found NaN"),
        (np.zeros((2, 2, 2)), (1, 1), "found .*three positive"),
        (np.zeros((2, 2, 2)), (1, 0, 1), "found .*three positive"),
        (np.zeros((2, 2, 2)), (1, np.inf, 1), "found .*three positive"),
    ],
)
def test_bad_input_is_named(volume, spacing, message):
    with pytest.raises(InputError, match=message):
        prepare(volume, spacing, plan())


def test_a_spacing_that_asks_for_a_giant_grid_is_refused():
    with pytest.raises(InputError, match=r"spacing: found \(400\.0.*which makes"):
        prepare(np.ones((60, 60, 60), np.float32), (400.0, 400.0, 400.0), plan())


LARGEST = float(np.finfo(np.float32).max)
EXTREMES = {
    "one voxel": lambda array: np.put(array, 0, LARGEST),
    "one of each": lambda array: np.put(array, [0, 1], [LARGEST, -LARGEST]),
    "dark padding": lambda array: array[:3].fill(-LARGEST),
    "bright padding": lambda array: array[:3].fill(LARGEST),
    "padding of both kinds": lambda array: (array[:3].fill(LARGEST), array[-3:].fill(-LARGEST)),
    "half and half": lambda array: np.copyto(array, np.where(array > 0, LARGEST, -LARGEST)),
    "all": lambda array: array.fill(-LARGEST),
    "noise": lambda array: np.copyto(array, np.random.default_rng(1).uniform(-3e38, 3e38, array.shape)),
    "next to nothing": lambda array: np.multiply(array, 1e-43, out=array),
    "next to nothing and one voxel": lambda array: (np.multiply(array, 1e-43, out=array), np.put(array, 0, LARGEST)),
    "small": lambda array: np.multiply(array, 1e-38, out=array),
    "large": lambda array: np.multiply(array, 1e26, out=array),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("harmonised", [False, True])
@pytest.mark.parametrize("name", EXTREMES)
def test_whatever_single_precision_holds_can_be_segmented(name, harmonised):
    """Once it is read: intensities of 1e30 and more are taken for that there."""
    rng = np.random.default_rng(0)
    array = rng.normal(-1000, 30, (20, 24, 28)).astype(np.float32)
    array[4:16, 5:20, 6:22] = rng.normal(40, 30, (12, 15, 16))
    EXTREMES[name](array)
    volume = as_volume(array, Geometry.of_array(array.shape, (0.3, 0.3, 0.3)), "scan")
    prepared = prepare(volume.array, volume.spacing, replace(plan(), harmonise=harmonised))
    assert prepared.tensor.isfinite().all()
    assert ("beyond 1e+30" in str(volume.warnings)) == (np.abs(array).max() > 1e30)
