"""Label maps and intensities in and out."""

from __future__ import annotations

import importlib
import os
import re

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import many_slices, save
from stand_in import OBLIQUE, write_image

from umamba2.errors import InputError
from umamba2.scans.volumes import Geometry, first_odd, read_grid, read_labels, read_volume, write_labels

SHAPE = OBLIQUE.size[::-1]


def values(kind, *several):
    array = np.zeros(SHAPE, kind)
    array[0, 0, : len(several)] = several
    return array


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (values(np.float32, 1, 148), np.int16),
        (values(np.float64, -3, 2), np.int16),
        (values(np.float64, 4_000_000_000), np.int64),  # 32 bits would make it -294,967,296
        (values(np.float32, -(2.0**62)), np.int64),
        (values(np.uint32, 4_000_000_000), np.uint32),
        (values(np.int16, -3), np.int16),
    ],
)
def test_labels_keep_their_numbers(tmp_path, array, kind):
    found, _ = read_labels(write_image(tmp_path / "a.mha", array))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("odd", [1.5, -0.25, 1e20, -1e20, 2.0**63, np.inf, np.nan])
@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_numbers_that_are_no_labels(tmp_path, odd, ending):
    path = write_image(tmp_path / f"a{ending}", values(np.float64, 1, odd))
    with pytest.raises(InputError, match="^" + re.escape(f"{path}: found the value {odd}, expected whole numbers")):
        read_labels(path)
    assert first_odd(np.array([[1, 2.0], [odd, 3]])) == pytest.approx(odd, nan_ok=True)


def test_one_file_of_metaimage_whatever_it_is_called(tmp_path):
    labels = np.random.default_rng(1).integers(0, 50, SHAPE).astype(np.uint8)
    write_labels(tmp_path / "a.mhd", labels, OBLIQUE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mhd"]
    found, geometry = read_labels(tmp_path / "a.mhd")
    np.testing.assert_array_equal(found, labels)
    assert geometry == OBLIQUE


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (values(np.uint8, 255), np.uint8),
        (values(np.int8, -128), np.int16),
        (values(np.int16, -32768, 32767), np.int16),
        (values(np.uint16, 32767), np.int16),
        (values(np.uint16, 32768), np.float32),
        (values(np.int32, -32769), np.float32),
        (values(np.int64, 3000), np.int16),
        (values(np.float32, 3), np.float32),
        (values(np.float64, 1.5), np.float32),
    ],
)
def test_intensities_take_no_more_memory_than_they_need(tmp_path, array, kind):
    volume = read_volume(write_image(tmp_path / "a.mha", array))
    assert volume.array.dtype == kind
    np.testing.assert_array_equal(volume.array, array)
    assert volume.geometry == volume.grid == OBLIQUE
    assert volume.spacing == OBLIQUE.spacing[::-1] == OBLIQUE.zyx_spacing
    assert (volume.warnings, volume.mended, volume.oriented) == ((), False, True)


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64, np.uint64])
def test_whole_numbers_that_single_precision_does_not_hold_are_said(tmp_path, kind):
    for largest, said in ((1 << 24, False), ((1 << 24) + 1, True)):
        array = values(kind, 0, largest)
        volume = read_volume(write_image(tmp_path / "a.mha", array))
        assert [f"values from 0 to {largest}, expected" in line for line in volume.warnings] == [True] * said
        assert np.array_equal(volume.array, array) != said


@pytest.mark.parametrize(
    ("scale", "offset", "odd", "is_said"),
    [
        (1, 0, 0, False),
        (0.1, 0.1, np.nan, False),
        (1, 0, np.inf, False),
        (1, 0, 1e-300, False),  # among others it is as good as 0
        (1e-30, 0, 0, False),
        (1e-300, 0, 0, True),
        (1e-46, 0, np.nan, True),
        (1, 1e9, 0, False),
        (1, 1e9, 1e9, True),
        (0, 0.1, 0.1, False),  # one value: others say that
    ],
)
def test_differences_that_single_precision_does_not_hold_are_said(tmp_path, scale, offset, odd, is_said):
    array = np.random.default_rng(0).integers(0, 1000, SHAPE) * np.float64(scale) + offset
    array[1, 2, 3] = odd
    volume = read_volume(write_image(tmp_path / "a.mha", array))
    assert ("; single precision rounds them by" in str(volume.warnings)) == is_said


@pytest.mark.parametrize("ending", [".mha", ".nii", ".nrrd"])
@pytest.mark.parametrize(
    ("bits", "kind", "blank"),
    [(0, "i2", 0), (0, "f4", 0), (255, "i2", -1), (255, "i4", -1), (255, "u1", 255), (255, "u2", 65535)],
)
def test_blocks_of_a_file_that_were_never_written_are_said(tmp_path, ending, bits, kind, blank):
    """A transfer that had taken its place on the disk and broke off, or a disk block that was lost."""
    path = tmp_path / f"scan{ending}"
    lowest, highest = (0, 255) if kind[0] == "u" else (-1000, 1000)
    scan = np.random.default_rng(0).integers(lowest, highest, (20, 64, 64)).astype(kind)

    def is_said() -> bool:
        return f"rows of voxels that are all {blank}, expected intensities: padding" in str(read_volume(path).warnings)

    sitk.WriteImage(sitk.GetImageFromArray(scan), str(path))
    content = path.read_bytes()
    assert not is_said()
    for start, size in ((len(content) * 2 // 3, 8192), (len(content) * 2 // 3, len(content))):
        end = min(start + size, len(content))
        path.write_bytes(content[:start] + bytes([bits]) * (end - start) + content[end:])
        assert is_said()
    if blank <= 0:  # where it is the darkest it may be air
        for air in (np.full_like(scan, blank), np.where(scan > 998, scan, blank).astype(kind)):
            sitk.WriteImage(sitk.GetImageFromArray(air), str(path))
            assert not is_said()


def test_the_grid_of_an_array():
    geometry = Geometry.of_array((7, 11, 13), (0.5, 0.4, 0.3), (1, 2, 3))
    assert geometry == Geometry((13, 11, 7), (0.3, 0.4, 0.5), (1, 2, 3), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert geometry.shape == (7, 11, 13)


@pytest.mark.parametrize("ending", [".mha", ".nii", ".nii.gz", ".nrrd", ".tif"])
def test_the_grid_alone_is_that_of_the_volume(tmp_path, ending):
    path = write_image(tmp_path / f"a{ending}", np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
    assert read_grid(path) == read_volume(path).grid
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=f"a{re.escape(ending)}: "):
        read_grid(path)


def test_the_grid_alone_needs_no_voxels(tmp_path):
    array = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    path = write_image(tmp_path / "a.mha", array)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + bytes(40))
    with pytest.raises(InputError, match=r"a\.mha: "):
        read_volume(path)
    assert read_grid(path) == OBLIQUE


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nii", "a.nii.gz", "a.tif", "a.dcm"])
@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch, name, how):
    """Half of the old one and half of the new one may have been read."""
    path = changed = tmp_path / name
    if name == "a.dcm":
        save(many_slices(), path)
    else:
        array = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    if name == "a.mhd":
        changed = tmp_path / "a.raw"
    there = read_volume(path)

    def reading(*arguments, **options):
        found = read(*arguments, **options)
        content, times = changed.read_bytes(), changed.stat()
        if how == "replaced":
            changed.rename(tmp_path / "old")
        changed.write_bytes(content)
        os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns + (how == "in place")))
        return found

    place = {"a.tif": "volumes.read_tiff", "a.dcm": "dicom.read.read_dicom"}.get(name, "volumes.read_voxels")
    module, _, function = f"umamba2.scans.{place}".rpartition(".")
    read = getattr(importlib.import_module(module), function)
    monkeypatch.setattr(f"{module}.{function}", reading)
    with pytest.raises(InputError, match=re.escape(f"{changed}: found a file that changed while it was read")):
        read_volume(path)
    monkeypatch.setattr(f"{module}.{function}", read)
    np.testing.assert_array_equal(read_volume(path).array, there.array)


@pytest.mark.parametrize("ending", ["", ".mha", ".nii.gz", ".dcm"])
def test_names_that_no_file_can_have(ending):
    with pytest.raises(InputError, match="found no such file"):
        read_volume("a" * 5000 + ending)
