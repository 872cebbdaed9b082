"""Scans as other people's programs write them: the same labels as for the plain file, or a word about why not.

Each kind was reported in public by somebody who segments CT or CBCT; docs/elsewhere.md lists the addresses.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import umamba2
from umamba2.synthetic.phantoms import make_phantom

pytestmark = pytest.mark.slow
SPACING = (0.8, 0.8, 0.8)  # mm; coarse, so that one scan takes a second
RESOURCES = Path(__file__).resolve().parents[1] / "resources"


@pytest.fixture(scope="module")
def segmenter():
    return umamba2.load(RESOURCES / "toothfairy3-multiclass", device="cpu", tile_step=0.9, mirror=False)


@pytest.fixture(scope="module")
def scan():
    """A mouth with grey values as a calibrated CT has them, (z, y, x) int16."""
    return make_phantom(31, (80, 106, 125), SPACING).image


@pytest.fixture(scope="module")
def plain(segmenter, scan):
    found = segmenter.segment((scan, SPACING))
    assert len(np.unique(found.labels)) > 30
    return found.labels


def image_of(array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    return image


def same(a, b):
    """Share of the voxels of either label map's structures that have the same label in both."""
    anything = (a > 0) | (b > 0)
    return (a == b)[anything].mean()


def with_header(path, **fields):
    """Change fields of a NIfTI-1 header: name = (offset, format, values)."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    for offset, form, *values in fields.values():
        struct.pack_into(form, raw, offset, *values)
    path.write_bytes(gzip.compress(bytes(raw), 1))


def test_slope_and_intercept_that_are_no_numbers(segmenter, scan, plain, tmp_path):
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(image_of(scan), str(path))
    with_header(path, slope=(112, "<2f", np.nan, np.nan))
    found = segmenter.segment(path)
    assert same(found.labels, plain) > 0.99


@pytest.mark.parametrize(("low", "high", "dtype"), [(0, 1, np.float32), (0, 255, np.uint8), (0, 255, np.float64)])
def test_grey_values_scaled_to_a_fixed_range(segmenter, scan, plain, tmp_path, low, high, dtype):
    """Of CT values from -1000 to 3000, as networks and pictures have them: the gain is another, and found."""
    scaled = (np.clip(scan, -1000, 3000) + 1000.0) / 4000 * (high - low) + low
    sitk.WriteImage(image_of(scaled.astype(dtype)), str(tmp_path / "a.mha"))
    found = segmenter.segment(tmp_path / "a.mha")
    assert same(found.labels, plain) > (0.9 if dtype == np.uint8 else 0.97)  # 256 values: 16 HU each


@pytest.mark.parametrize("offset", [1000, 1024, 32768])
def test_unsigned_values_with_an_offset(segmenter, scan, plain, tmp_path, offset):
    sitk.WriteImage(image_of((scan.astype(np.int32) + offset).clip(0).astype(np.uint16)), str(tmp_path / "a.mha"))
    found = segmenter.segment(tmp_path / "a.mha")
    assert same(found.labels, plain) > 0.97


def test_background_far_below_air(segmenter, scan, plain, tmp_path):
    _, y, x = scan.shape
    yy, xx = np.mgrid[:y, :x]
    outside = np.hypot((yy - y / 2) / (y / 2), (xx - x / 2) / (x / 2)) > 1
    padded = scan.copy()
    padded[:, outside] = -8192
    sitk.WriteImage(image_of(padded), str(tmp_path / "a.mha"))
    found = segmenter.segment(tmp_path / "a.mha")
    assert (found.labels[:, outside] > 0).mean() < 0.01
    assert same(found.labels[:, ~outside], plain[:, ~outside]) > 0.95
    assert any("-8192" in warning for warning in found.warnings)


def test_one_volume_in_four_dimensions(segmenter, scan, plain, tmp_path):
    sitk.WriteImage(sitk.JoinSeries([image_of(scan)]), str(tmp_path / "a.nii.gz"))
    found = segmenter.segment(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(found.labels, plain)


@pytest.mark.parametrize("space", ["right-anterior-superior", "left-posterior-superior", "left-anterior-superior"])
def test_nrrd_in_another_space(segmenter, scan, plain, tmp_path, space):
    """The same array, stored so that its voxels lie where they lay, with directions told in that space."""
    nrrd = pytest.importorskip("nrrd")
    sign = np.array([1.0 if word in ("left", "posterior", "superior") else -1.0 for word in space.split("-")])
    header = {
        "space": space,
        "space directions": np.diag(sign * SPACING[::-1]),
        "space origin": np.zeros(3),
        "kinds": ["domain"] * 3,
    }
    nrrd.write(str(tmp_path / "a.nrrd"), np.ascontiguousarray(scan.transpose(2, 1, 0)), header)
    found = segmenter.segment(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(found.labels, plain)


def test_slices_from_head_to_feet(segmenter, scan, plain, tmp_path):
    image = image_of(scan[::-1])
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    image.SetOrigin((0, 0, SPACING[0] * (scan.shape[0] - 1)))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(segmenter.segment(tmp_path / "a.mha").labels[::-1], plain)


@pytest.mark.parametrize("code", ["LPI", "RAS"])
def test_a_qform_alone_with_its_handedness(segmenter, scan, plain, tmp_path, code):
    """pixdim[0] is -1 where the axes are left-handed, and some programs write the quaternion alone."""
    turned = sitk.DICOMOrient(image_of(scan), code)
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(turned, str(path))
    with_header(path, sform_code=(254, "<h", 0))
    segmenter.segment(path).write(tmp_path / "out.nii.gz")
    back = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "out.nii.gz")), "LPS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), plain)


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_order_of_bytes(segmenter, scan, plain, tmp_path, order):
    z, y, x = scan.shape
    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = {order == '>'}\n"
        f"DimSize = {x} {y} {z}\n"
        f"ElementSpacing = {SPACING[2]} {SPACING[1]} {SPACING[0]}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "a.mha").write_bytes(header.encode() + scan.astype(f"{order}i2").tobytes())
    np.testing.assert_array_equal(segmenter.segment(tmp_path / "a.mha").labels, plain)


def test_thick_slices_keep_left_and_right_and_jaws(segmenter, scan, plain, tmp_path):
    """CT with slices of 2.4 mm: what such a scan does not show is not found, but nothing changes sides."""
    thick = scan[: 3 * (len(scan) // 3)].reshape(-1, 3, *scan.shape[1:]).mean(1).astype(np.int16)
    image = sitk.GetImageFromArray(thick)
    image.SetSpacing((0.8, 0.8, 2.4))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    found = segmenter.segment(tmp_path / "a.mha").labels
    truth = plain[1 : 3 * (len(scan) // 3) : 3]
    for jaw in (1, 2):
        assert 2 * ((found == jaw) & (truth == jaw)).sum() / ((found == jaw).sum() + (truth == jaw).sum()) > 0.8
    teeth = (found > 10) & (found < 49) & (truth > 10) & (truth < 49)
    assert (found[teeth] // 10 == truth[teeth] // 10).mean() > 0.97  # the quadrant
