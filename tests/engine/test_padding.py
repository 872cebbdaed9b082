"""Padding of any value in any place is found, becomes air and is never labelled; what a scanner saw is left alone."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import INTENSITY, make_model

from umamba2 import Predictor
from umamba2.cli import main
from umamba2.engine.harmonise import AIR
from umamba2.engine.padding import find_padding
from umamba2.engine.preprocess import prepare
from umamba2.engine.record import Record
from umamba2.evaluation.metrics import dice
from umamba2.models.network import Plan
from umamba2.scans.volumes import Geometry, read_labels, read_volume, write_volume
from umamba2.synthetic import make_phantom

ROOT = Path(__file__).parents[2]
SCANS = Path(os.environ.get("UMAMBA2_SCANS", ROOT.parent / "shared/data"))  # as test.sh has it
REAL = ("cbct_A_jaws_0.30mm.mha", "cbct_C_jaws_0.20mm_8bit.nii.gz")
SHAPE, SPACING = (52, 100, 120), (0.8, 0.8, 0.8)


@lru_cache
def phantom(seed=0, randomised=False):
    return make_phantom(seed, SHAPE, SPACING, randomised=randomised)


@lru_cache
def real(name):
    path = SCANS / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return read_volume(path).array[::2, ::2, ::2].copy()


def everything(volume):
    return tuple(slice(0, n) for n in volume.shape)


def places(shape):
    """Where padding may lie in a volume, by name."""
    z, y, x = np.ogrid[[slice(-1, 1, n * 1j) for n in shape]]
    scattered = np.random.default_rng(0).random(shape)
    where = {
        "beside a cylinder": np.hypot(y, x) > 1,
        "beside a tilted box": np.abs(0.3 * z + 0.9 * y + 0.2 * x) > 0.9,
        "beside a ball": z**2 + y**2 + x**2 > 1.2,
        "a slab": z > 0.9,
        "a part of a face": (z < -0.9) & (np.hypot(y, x) < 0.7),
        "a corner": (z < -0.6) & (y < -0.6) & (x < -0.6),
        "scattered": scattered < 0.02,
        "scattered densely": scattered < 0.08,
    }
    return {name: np.broadcast_to(mask, shape) for name, mask in where.items()}


def padded(volume, where, value):
    volume = volume.copy()
    volume[places(volume.shape)[where]] = value
    return volume


def found(volume):
    padding = find_padding(volume)
    return np.zeros(volume.shape, bool) if padding is None else padding.mask(everything(volume))


@pytest.mark.parametrize("value", [-32768, -3024, 3071, 12000, 32767])
@pytest.mark.parametrize("where", places((2, 2, 2)))
def test_padding_is_found(where, value):
    volume = padded(phantom().image, where, value)
    expected = places(SHAPE)[where]
    mask = found(volume)
    assert np.count_nonzero(expected & ~mask) <= 0.01 * np.count_nonzero(expected)
    assert np.count_nonzero(mask & ~expected & (volume != value)) == 0
    assert np.count_nonzero(mask & ~expected) <= 1e-4 * mask.size
    assert find_padding(volume).values == {value: np.count_nonzero(mask)}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("where", ["beside a cylinder", "beside a tilted box", "a slab", "scattered"])
def test_padding_of_real_scans_is_found(name, where):
    scan = real(name)
    for value in (0, 255) if scan.dtype == np.uint8 else (-32768, -3024, 3071, 32767):
        mask, expected = found(padded(scan, where, value)), places(scan.shape)[where]
        if value == 0 and where == "beside a cylinder":  # 0 is nearly air here, and there is no other air left
            continue
        assert np.count_nonzero(expected & ~mask) <= 0.01 * np.count_nonzero(expected)
        assert np.count_nonzero(mask & ~expected) <= 1e-4 * mask.size


def test_bright_and_dark_padding_of_one_scan():
    volume = padded(padded(phantom().image, "beside a cylinder", 32767), "a slab", -32768)
    padding = find_padding(volume)
    assert set(padding.values) == {32767, -32768}
    np.testing.assert_array_equal(found(volume), np.isin(volume, (32767, -32768)))
    assert str(padding) == " and ".join(f"{(volume == v).sum()} voxels of {v}" for v in (32767, -32768))


def test_padding_of_floating_point_scans_is_found():
    volume = padded(phantom().image, "beside a cylinder", 3071).astype(np.float32) * np.float32(1.37) + np.float32(0.1)
    np.testing.assert_array_equal(found(volume), places(SHAPE)["beside a cylinder"])


def test_interpolated_borders_do_not_hide_padding():
    """Beside padding that somebody resampled lie all values up to its own."""
    volume = padded(phantom().image, "beside a cylinder", 3071).astype(np.float32)
    volume = (volume[:, :-1] + volume[:, 1:]) / 2
    assert np.count_nonzero(found(volume)) > 0.95 * np.count_nonzero(volume == 3071)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("randomised", [False, True])
def test_phantoms_are_not_padded(seed, randomised):
    scan = phantom(seed, randomised).image
    grey = np.clip((scan + 1000) / 14, 0, 255).astype(np.uint8)
    for volume in (scan, grey, scan.astype(np.float32) * np.float32(1.3) - 200):
        assert find_padding(volume) is None


@pytest.mark.parametrize("name", REAL)
def test_real_scans_are_not_padded(name):
    """Whether metal, enamel and bone, or air, end at the scanner's limits or not, nor in a small field of view."""
    scan = real(name)
    parts = [scan, scan[30:65, 10:60, 30:100], scan.max() - scan]
    parts += [np.minimum(scan, np.percentile(scan, rank).astype(scan.dtype)) for rank in (95, 99, 99.9, 99.99)]
    parts += [np.maximum(scan, np.percentile(scan, rank).astype(scan.dtype)) for rank in (1, 5, 10)]
    for part in parts:
        assert find_padding(part) is None


@pytest.mark.parametrize("value", [3071, 32767])
def test_metal_inside_the_head_is_no_padding(value):
    volume = phantom().image.copy()
    volume[20:26, 40:46, 50:56] = value  # with edges sharper than any scanner's
    volume[30, 40, 20:60] = value  # a wire
    assert np.count_nonzero(found(volume)) <= 2 * 3  # its ends


def test_metal_cut_off_by_the_border_is_no_padding():
    """What a scanner sees has blurred edges, its own limits or not."""
    from scipy import ndimage

    volume = phantom().image.astype(np.float32)
    volume[:9, 40:52, 50:62] = 20_000
    volume = np.minimum(ndimage.gaussian_filter(volume, 0.5), 3071).astype(np.int16)
    assert (volume[0] == 3071).sum() > 50
    assert find_padding(volume) is None


@pytest.mark.parametrize("value", [-1000, -1024])
def test_air_of_one_value_is_no_padding(value):
    scan = phantom().image
    assert find_padding(padded(np.maximum(scan, value), "beside a cylinder", value)) is None


@pytest.mark.parametrize(
    "volume",
    [
        np.zeros((4, 5, 6), np.int16),
        np.ones((1, 1, 1), np.float32),
        np.full((6, 6, 6), True),
        (np.indices((9, 9, 9)).sum(0) % 3).astype(np.uint8),
        np.random.default_rng(0).normal(size=(9, 9, 9)),
    ],
)
def test_drawings_and_noise_are_not_padded(volume):
    assert find_padding(volume) is None


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_mask_of_a_part_is_that_part_of_the_mask(data):
    volume = padded(phantom().image, "scattered", 32767)
    box = []
    for n in SHAPE:
        start = data.draw(st.integers(0, n - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, n))))
    np.testing.assert_array_equal(find_padding(volume).mask(tuple(box)), (volume == 32767)[tuple(box)])


def plan(harmonise=False, transpose=(0, 1, 2), spacing=SPACING):
    return Plan("UMamba2", {}, (8, 8, 8), spacing, transpose, INTENSITY, harmonise=harmonise)


@pytest.mark.parametrize("harmonise", [False, True])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("value", [-32768, 3071])
def test_padding_becomes_air_and_background(value, transpose, harmonise):
    volume = padded(phantom().image, "beside a cylinder", value)
    mask = places(SHAPE)["beside a cylinder"]
    volume[25, [0, -1], 60] = volume[25, 50, [0, -1]] = 40  # or the first and the last rows would be cut off
    mask = mask & (volume == value)
    prepared = prepare(volume, SPACING, plan(harmonise, transpose))
    count = np.count_nonzero(mask)
    assert prepared.warnings == (
        f"found padding ({count} voxels of {value}), expected none; taken as air, not labelled",
    )
    air = (max(AIR, INTENSITY["percentile_00_5"]) - INTENSITY["mean"]) / INTENSITY["std"]
    tensor = prepared.tensor[0].numpy().transpose(np.argsort(transpose))
    np.testing.assert_allclose(tensor[mask], air, atol=0.02)
    labels = prepared.on_scan(np.ones(prepared.box_shape, np.uint8))
    np.testing.assert_array_equal(labels == 0, mask)


@pytest.mark.parametrize("harmonise", [False, True])
def test_what_is_not_padding_is_prepared_as_without(harmonise):
    scan, mask = phantom().image.copy(), places(SHAPE)["beside a cylinder"].copy()
    for volume, value in ((scan, 40), (mask, False)):  # or the first and the last rows would be cut off
        volume[25, [0, -1], 60] = volume[25, 50, [0, -1]] = value
    expected = prepare(np.where(mask, -1000, scan).astype(np.int16), SPACING, plan(harmonise)).tensor.numpy()[0]
    for value in (-32768, 3071, 32767):
        tensor = prepare(np.where(mask, value, scan).astype(np.int16), SPACING, plan(harmonise)).tensor.numpy()[0]
        if harmonise:  # the histogram has less air now
            np.testing.assert_allclose(tensor[~mask], expected[~mask], atol=0.05)
        else:
            np.testing.assert_array_equal(tensor[~mask], expected[~mask])


@pytest.mark.parametrize("value", [0, -32768, 32767])
@pytest.mark.parametrize("harmonise", [False, True])
def test_slabs_around_everything_are_cut_off(value, harmonise):
    scan = phantom().image
    wide = np.pad(scan, ((3, 5), (0, 7), (11, 2)), constant_values=value)
    prepared, expected = prepare(wide, SPACING, plan(harmonise)), prepare(scan, SPACING, plan(harmonise))
    assert prepared.box == (slice(3, 55), slice(0, 100), slice(11, 131))
    np.testing.assert_allclose(prepared.tensor, expected.tensor, atol=0.02 if harmonise else 0)
    assert bool(prepared.warnings) == (value != 0)  # which nnU-Net cuts off as well


def test_a_prediction_tells_of_padding_and_leaves_it_unlabelled(tmp_path):
    predictor = Predictor.load(make_model(tmp_path / "model", spacing=SPACING), device="cpu", precision="fp32")
    volume, record = padded(phantom().image, "beside a cylinder", 32767), Record()
    labels = predictor.predict(volume, SPACING, record=record)
    assert not labels[volume == 32767].any()
    assert labels[volume != 32767].any()
    assert [w for w in record.warnings if "voxels of 32767), expected none" in w]


# --- The demo model, on scans as other people's software writes them ------------------------------------------------

VALUES = (-32768, -3024, 3071, 32767)
AROUND = ((60, 60), (70, 70), (70, 70))  # voxels of air


def corners(shape):
    """What lies beside the scanner's cylinder."""
    _, y, x = shape
    rows, columns = np.mgrid[:y, :x]
    return np.broadcast_to(np.hypot(2 * rows / y - 1, 2 * columns / x - 1) > 1, shape)


@pytest.fixture(scope="module")
def mouth():
    return make_phantom(31, (128, 170, 200), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def segmented(mouth, tmp_path_factory):
    """Labels, by the name of the scan, and the warnings of the command line's record."""
    folder, (low, *_) = tmp_path_factory.mktemp("scans"), np.percentile(mouth.image, [1])
    scans = {"base": mouth.image, "much air": np.pad(mouth.image, AROUND, constant_values=int(low))}
    for value in VALUES:
        scans[str(value)] = np.where(corners(mouth.image.shape), value, mouth.image).astype(np.int16)
    for name, scan in scans.items():
        write_volume(folder / f"in/{name}.mha", scan, Geometry.of_array(scan.shape, mouth.spacing))
    model = str(ROOT / "resources/toothfairy3-multiclass")
    # What is compared are the scans themselves; the dental field of the larger one would be cut out.
    options = ["-m", model, "--device", "cpu", "--quiet", "--dental-field", "off"]
    main(["predict", "-i", str(folder / "in"), "-o", str(folder / "out"), *options])
    record = json.loads((folder / "out/run.json").read_text())
    labels = {name: read_labels(folder / f"out/{name}.mha")[0] for name in scans}
    return labels, {case["image"].removesuffix(".mha"): case["warnings"] for case in record["cases"]}


def scores(labels, truth, counted):
    """Mean Dice of teeth, canals and jaws, where voxels count."""
    groups = {"teeth": range(11, 49), "canals": (3, 4), "jaws": (1, 2)}
    truth, labels = truth[counted], labels[counted]
    return {name: np.mean([dice(labels == i, truth == i) for i in ids if i in truth]) for name, ids in groups.items()}


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
def test_as_much_is_found_in_padded_scans(segmented, mouth, value):
    labels, warnings = segmented
    padding = corners(mouth.image.shape)
    assert not labels[str(value)][padding].any()
    (warning,) = warnings[str(value)]
    assert f"{value}.mha: found padding ({np.count_nonzero(padding)} voxels of {value})" in warning
    expected, found = (scores(labels[name], mouth.labels, ~padding) for name in ("base", str(value)))
    assert expected["teeth"] > 0.8
    for name, score in expected.items():
        assert found[name] > score - 0.03, name


@pytest.mark.slow
def test_as_much_is_found_where_there_is_much_air(segmented, mouth):
    labels, warnings = segmented
    assert warnings["base"] == warnings["much air"] == []
    wide = labels["much air"].copy()
    inside = tuple(slice(before, n - after) for (before, after), n in zip(AROUND, wide.shape))
    everywhere = np.ones(mouth.image.shape, bool)
    expected, found = (scores(part, mouth.labels, everywhere) for part in (labels["base"], wide[inside]))
    for name, score in expected.items():
        assert found[name] > score - 0.02, name
    labelled = np.count_nonzero(wide)
    wide[inside] = 0
    assert np.count_nonzero(wide) < 0.04 * labelled  # what is cut off at the border of the field is continued a little
