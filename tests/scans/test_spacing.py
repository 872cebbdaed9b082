"""Voxel sizes that cannot be right, that are missing, and that are stated twice."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from stand_in import write_image

from umamba2.errors import InputError
from umamba2.scans.geometry import Geometry
from umamba2.scans.spacing import check_spacing
from umamba2.scans.volumes import as_volume, read_labels, read_volume

SIZE = (160, 170, 120)  # x, y, z: 0.5 mm make it 80 x 85 x 60 mm
EXPECTED = "expected 0.05 to 1.5 mm and a field of view of 20 to 400 mm"
ORIGIN = (-10.0, 20.0, 30.0)


def blank() -> np.ndarray:
    return np.zeros(SIZE[::-1], np.int16)


@pytest.mark.parametrize(
    ("stated", "used", "says"),
    [
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), None),
        ((0.25, 0.3, 1.5), (0.25, 0.3, 1.5), None),
        ((0.0005, 0.0005, 0.0005), (0.5, 0.5, 0.5), "taken for 0.5 x 0.5 x 0.5 mm, as if in metres"),
        ((0.03, 0.03, 0.03), (0.3, 0.3, 0.3), "taken for 0.3 x 0.3 x 0.3 mm, as if in centimetres"),
        ((400.0, 400.0, 500.0), (0.4, 0.4, 0.5), "taken for 0.4 x 0.4 x 0.5 mm, as if in microns"),
        ((20.0, 20.0, 20.0), (20, 20, 20), "taken for 20 x 20 x 20 mm all the same"),
        ((0.5, 0.5, 0.01), (0.5, 0.5, 0.01), "taken for 0.5 x 0.5 x 0.01 mm all the same"),
        ((0.5, 0.5, 3.0), (0.5, 0.5, 3), "taken for 0.5 x 0.5 x 3 mm all the same"),
        ((1.0, 1.0, 4.0), (1, 1, 4), "all the same"),
        ((0.06, 0.06, 0.06), (0.06, 0.06, 0.06), "field of view of 9.6 x 10.2 x 7.2 mm, .*are these centimetres"),
    ],
)
def test_units(tmp_path, stated, used, says):
    path = write_image(tmp_path / "a.mha", blank(), Geometry(SIZE, stated, ORIGIN))
    volume = read_volume(path)
    assert volume.geometry == Geometry(SIZE, stated, ORIGIN)
    np.testing.assert_allclose(volume.spacing, used[::-1])
    factor = used[0] / stated[0]
    np.testing.assert_allclose(volume.grid.origin, np.multiply(ORIGIN, factor))
    assert (volume.corrected is None) == (factor == 1)
    if says is None:
        assert volume.warnings == ()
    else:
        (warning,) = volume.warnings
        shown = " x ".join(f"{mm:g}" for mm in stated)
        assert warning.startswith(f"{path}: found a voxel size of {shown} mm")
        assert EXPECTED in warning
        assert re.search(says, warning)
    again = as_volume(blank(), volume.geometry, str(path))
    assert (again.warnings, again.spacing, again.geometry) == (volume.warnings, volume.spacing, volume.geometry)


@pytest.mark.parametrize("size", [(160, 170, 18), (13, 11, 7), (1, 1, 1)])
def test_a_small_scan_is_no_reason_to_doubt(size):
    # A crop of 9 mm may well be one; only where another unit would make it a whole scan is there a question.
    assert check_spacing("a", Geometry(size, (0.3, 0.3, 0.3)), None)[1] == []


def header(**fields) -> bytes:
    lines = {"NDims": "3", "BinaryData": "True", "DimSize": "160 170 120", "ElementType": "MET_SHORT"} | fields
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode() + b"ElementDataFile = LOCAL\n"


@pytest.mark.parametrize(
    ("fields", "spacing", "says"),
    [
        ({}, (1, 1, 1), f"found no voxel size, {EXPECTED}; taken for 1 x 1 x 1 mm"),
        ({"ElementSpacing": "0 0 0"}, (1, 1, 1), "voxel size of 0 x 0 x 0 mm, .*; taken for 1 x 1 x 1 mm all the same"),
        ({"ElementSpacing": "0.3 0.3 0"}, (0.3, 0.3, 1), "0.3 x 0.3 x 0 mm, .*; taken for 0.3 x 0.3 x 1 mm"),
    ],
)
def test_missing_or_zero(tmp_path, fields, spacing, says):
    path = tmp_path / "a.mha"
    path.write_bytes(header(**fields) + blank().tobytes())
    volume = read_volume(path)
    (warning,) = volume.warnings
    assert re.search(says, warning)
    assert volume.spacing == spacing[::-1]
    assert volume.geometry.spacing == spacing  # what is written must have one, too
    assert not volume.oriented
    said: list[str] = []
    read_labels(path, said)
    assert said == [warning]


def nifti(path, *changes, spacing=(0.5, 0.5, 0.5)):
    """A NIfTI file whose header is changed: (offset, format, values...)."""
    write_image(path, blank(), Geometry(SIZE, spacing, ORIGIN))
    content = bytearray(path.read_bytes())
    for offset, kind, *values in changes:
        struct.pack_into(f"<{kind}", content, offset, *values)
    path.write_bytes(content)
    return path


NO_QFORM, NO_SFORM = (252, "h", 0), (254, "h", 0)
TWICE = "found two voxel sizes, {} \\(pixdim\\) and 0.5 x 0.5 x 0.5 mm \\(sform\\), expected one; taken for {}"


@pytest.mark.parametrize(
    ("pixdim", "used", "says"),
    [
        ((1, 1, 1), 0.5, TWICE.format("1 x 1 x 1 mm", "0.5 x 0.5 x 0.5 mm")),
        ((0, 0, 0), 0.5, TWICE.format("0 x 0 x 0 mm", "0.5 x 0.5 x 0.5 mm")),
        ((float("nan"), 1, 1), 0.5, TWICE.format("0 x 1 x 1 mm", "0.5 x 0.5 x 0.5 mm")),
        ((500, 500, 500), 0.5, TWICE.format("500 x 500 x 500 mm", "0.5 x 0.5 x 0.5 mm")),
        ((0.5, 0.503, 0.5), 0.5, TWICE.format("0.5 x 0.503 x 0.5 mm", "0.5 x 0.5 x 0.5 mm")),
        ((0.5, 0.5, 0.4994), 0.5, TWICE.format("0.5 x 0.5 x 0.4994 mm", "0.5 x 0.5 x 0.5 mm")),
        ((0.5004, 0.5, 0.4996), None, None),
    ],
)
def test_stated_twice(tmp_path, pixdim, used, says):
    path = nifti(tmp_path / "a.nii", (80, "3f", *pixdim), NO_QFORM)
    volume = read_volume(path)
    if says is None:
        assert volume.warnings == ()
        return
    assert volume.spacing == (used,) * 3
    assert re.search(says, volume.warnings[-1])
    if len(volume.warnings) == 1:
        assert np.allclose(pixdim, 0.5, rtol=0.01)
        return
    # ITK's own remark is passed on, too.
    assert "has unexpected scales in sform" in volume.warnings[0]
    assert volume.warnings[0].startswith(f"{path}: found that its reader remarks")
    assert "0x" not in volume.warnings[0]


def test_the_one_of_two_that_can_be_right(tmp_path):
    # Here the sform is the odd one.
    path = nifti(tmp_path / "a.nii", (280, "f", -50.0), (300, "f", -50.0), (320, "f", 50.0), NO_QFORM)
    volume = read_volume(path)
    assert volume.spacing == (0.5, 0.5, 0.5)
    assert "50 x 50 x 50 mm (sform), expected one; taken for 0.5 x 0.5 x 0.5 mm" in volume.warnings[-1]
    assert volume.corrected is None


def test_orientation_that_is_not_stated(tmp_path):
    assert read_volume(nifti(tmp_path / "a.nii")).oriented
    assert read_volume(nifti(tmp_path / "a.nii", NO_QFORM)).oriented
    assert read_volume(nifti(tmp_path / "a.nii", NO_SFORM)).oriented
    volume = read_volume(nifti(tmp_path / "a.nii", NO_QFORM, NO_SFORM))
    assert not volume.oriented
    assert volume.spacing == (0.5, 0.5, 0.5)
    assert volume.warnings == ()
    (warning,) = read_volume(nifti(tmp_path / "a.nii", NO_QFORM, NO_SFORM, (80, "3f", 0, 0, 0))).warnings
    assert "found no voxel size" in warning
    write_image(tmp_path / "a.tif", blank(), None)
    volume = read_volume(tmp_path / "a.tif")
    assert not volume.oriented
    assert "found no voxel size" in volume.warnings[0]


def test_qform_and_sform_that_disagree(tmp_path):
    assert read_volume(nifti(tmp_path / "a.nii", (268, "f", 10.5))).warnings == ()  # half a millimetre
    (warning,) = read_volume(nifti(tmp_path / "a.nii", (268, "f", 22.0))).warnings
    assert "found a qform and an sform that are 0 degrees and 12 mm apart, expected one place" in warning
    (warning,) = read_volume(nifti(tmp_path / "a.nii", (256, "3f", 0, 0, 0))).warnings
    assert "found a qform and an sform that are 180 degrees and 0 mm apart" in warning


@pytest.mark.parametrize(("offset", "name"), [(280, "sform"), (292, "sform"), (256, "qform"), (276, "qform")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path, offset, name, value):
    path = nifti(tmp_path / "a.nii", (offset, "f", value))
    with pytest.raises(InputError, match=f"a.nii: found NaN or infinity in its {name}, expected finite numbers"):
        read_volume(path)
