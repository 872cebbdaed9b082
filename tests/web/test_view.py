"""The viewer's grid and the file's: places, boxes and voxels agree with what ITK says of them, however a scan lies."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

import umamba2
from umamba2.errors import InputError
from umamba2.scans.volumes import Volume, as_volume
from umamba2.web import view as viewing
from umamba2.web.view import View

CODES = ("LPS", "RAS", "PSR", "SLA", "AIR")


def scan(tmp_path, code: str = "LPS", angle: float = 0.0) -> tuple[sitk.Image, Volume]:
    array = np.arange(7 * 9 * 11, dtype=np.int16).reshape(7, 9, 11)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.3, 0.4, 0.5))
    image.SetOrigin((-5.0, 17.0, 3.25))
    image = sitk.DICOMOrient(image, code)
    if angle:
        turn = sitk.Euler3DTransform((0, 0, 0), angle, angle / 2, -angle)
        image.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))).ravel())
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    return image, umamba2.read_volume(tmp_path / "scan.nrrd")


@pytest.mark.parametrize("angle", [0.0, 0.2])
@pytest.mark.parametrize("code", CODES)
def test_a_position_is_the_voxel_that_itk_finds_there(tmp_path, code, angle):
    image, volume = scan(tmp_path, code, angle)
    view = View.of(volume)
    patient = np.array(view.facts()["patient"])
    voxels = np.array(view.facts()["voxels"])
    for zyx in ((0, 0, 0), (6, 8, 10), (2, 5, 7), (3.25, 1.5, 9.75)):
        zyx = tuple(min(place, n - 1) for place, n in zip(zyx, volume.array.shape))
        position = np.array(view.position(zyx))
        np.testing.assert_allclose(view.voxel(position), zyx, atol=1e-3)
        ras = patient[:9].reshape(3, 3) @ position + patient[9:]
        there = image.TransformPhysicalPointToContinuousIndex((-ras[0], -ras[1], ras[2]))
        np.testing.assert_allclose(there[::-1], zyx, atol=2e-3)
        np.testing.assert_allclose(voxels[:9].reshape(3, 3) @ position + voxels[9:], zyx[::-1], atol=2e-3)
        np.testing.assert_allclose(view.seen((-ras[0], -ras[1], ras[2])), position, atol=1e-3)


@pytest.mark.parametrize("code", CODES)
def test_what_the_viewer_reads_is_ras_from_zero(tmp_path, code):
    image, volume = scan(tmp_path, code)
    view = View.of(volume)
    view.write(volume.array, tmp_path / "shown.nii")
    shown = sitk.ReadImage(str(tmp_path / "shown.nii"))
    expected = sitk.DICOMOrient(image, "RAS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(shown), sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(shown.GetSpacing(), expected.GetSpacing(), rtol=1e-6)
    assert shown.GetOrigin() == (0, 0, 0)
    assert shown.GetDirection() == (-1, 0, 0, 0, -1, 0, 0, 0, 1)


@pytest.mark.parametrize("room", [0, 100, 352, 1000, 352 + 2 * 7 * 9 * 11 - 1])
def test_a_full_disk_leaves_no_half_of_an_image(tmp_path, room):
    """ITK's writer of NIfTI says nothing of it."""
    resource = pytest.importorskip("resource")
    _, volume = scan(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        with pytest.raises(InputError, match="scan: found no room on the disk"):
            View.of(volume).write(volume.array, tmp_path / "shown.nii")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "shown.nii").exists()
    View.of(volume).write(volume.array, tmp_path / "shown.nii")


@pytest.mark.parametrize("most", [10**9, 200])
@pytest.mark.parametrize("code", CODES)
def test_boxes_hold_what_changed_and_no_more_than_they_must(tmp_path, monkeypatch, code, most):
    monkeypatch.setattr(viewing, "MOST_SHOWN", most)
    _, volume = scan(tmp_path, code)
    view = View.of(volume)
    assert np.prod(view.shape) <= most
    assert view.shown(volume.array).shape == view.shape
    changed = np.zeros(volume.array.shape, bool)
    changed[1:4, 2:3, 5:7] = True
    low, high = view.box(((1, 2, 5), (4, 3, 7)))
    outside = view.shown(changed).copy()
    outside[tuple(slice(a, b) for a, b in zip(low, high))] = False
    assert not outside.any()
    part = view.file_box((low, high))
    np.testing.assert_array_equal(
        view.shown(volume.array[part]),
        view.shown(volume.array)[tuple(slice(a, b) for a, b in zip(low, high))],
    )
    if most > 1000:
        assert np.prod(np.subtract(high, low)) == changed.sum()


def test_a_scan_without_sides_says_so():
    volume = as_volume(np.zeros((3, 4, 5), np.int16), umamba2.Geometry((5, 4, 3), (1, 1, 1)), "scan")
    facts = View.of(Volume(volume.array, volume.geometry, oriented=False)).facts()
    assert facts["oriented"] is False
    assert facts["code"] is None
    assert View.of(volume).facts()["code"] == "LPS"
