from __future__ import annotations

import gzip
import os
from contextlib import suppress

import numpy as np
import pytest
import SimpleITK as sitk

from umamba2.errors import InputError
from umamba2.scans.itk import captured_stderr
from umamba2.scans.volumes import list_volumes, read_labels, read_volume, write_labels

SHAPE = (7, 11, 13)


def write(path, array, compress=True):
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=compress)
    return path


def noise(dtype):
    return np.random.default_rng(0).integers(0, 3000, SHAPE).astype(dtype)


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nii.gz", ".nii", ".nrrd", ".tif"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("compress", [True, False])
def test_a_truncated_file_is_refused(tmp_path, ending, dtype, compress, capfd):
    path = write(tmp_path / f"a{ending}", noise(dtype), compress)
    np.testing.assert_array_equal(read_volume(path).array, noise(dtype))
    data = path if ending != ".mhd" else next(tmp_path.glob("*.*raw"))
    data.write_bytes(data.read_bytes()[:-300])
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "expected" in message
    assert "\n" not in message
    assert "0x" not in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaps_of_a_nifti_file(tmp_path, ending, dtype):
    array = noise(dtype)
    path = write(tmp_path / f"a{ending}", array)
    array[1, 2, 3], array[6, 10, 12], array[0, 0, 0] = np.nan, np.inf, -np.inf
    write(path, array)
    volume = read_volume(path)
    assert "found 3 NaN or infinite voxels" in volume.warnings[0]
    np.testing.assert_array_equal(volume.array, np.where(np.isfinite(array), array, array[np.isfinite(array)].min()))


def test_a_gzip_file_of_several_members_is_complete(tmp_path):
    # bgzip and the like: the last member's size says nothing about the whole
    path = write(tmp_path / "a.nii.gz", noise(np.int16))
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]) + gzip.compress(b""))
    np.testing.assert_array_equal(read_volume(path).array, noise(np.int16))
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:-1]) + gzip.compress(b""))
    with pytest.raises(InputError, match="found the end of the file before that of the image"):
        read_volume(path)


def test_captured_stderr_hears_file_descriptors_and_gives_them_back(capfd):
    with captured_stderr() as heard:
        os.write(2, b"one\ntwo\n")
    assert heard == ["one", "two"]
    os.write(2, b"three\n")
    assert capfd.readouterr().err == "three\n"
    with suppress(ValueError), captured_stderr() as heard:
        os.write(2, b"x" * 1_000_000)  # more than a pipe holds
        raise ValueError
    assert len(heard) == 1
    os.write(2, b"four\n")
    assert capfd.readouterr().err == "four\n"


@pytest.mark.parametrize("offset", [0, 100])
def test_an_offset_within_the_header_means_behind_it(tmp_path, offset):
    path = write(tmp_path / "a.nii", noise(np.int16))
    content = bytearray(path.read_bytes())
    content[108:112] = np.float32(offset).tobytes()
    path.write_bytes(bytes(content[:348] + content[352:]))
    np.testing.assert_array_equal(read_volume(path).array, noise(np.int16))


def test_messages_keep_the_reason(tmp_path):
    path = write(tmp_path / "a.mhd", noise(np.int16), compress=False)
    header = path.read_text()
    path.write_text(header.replace("TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 0 0 0 0 1 0 0 0 1"))
    with pytest.raises(
        InputError, match=r"a\.mhd: found directions .* of determinant 0, expected three different ones"
    ):
        read_volume(path)
    path.write_text(header)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(InputError, match=r"a\.mhd: found no a\.raw, expected the file that it names as its voxels"):
        read_volume(path)


NOT_UTF8 = os.fsdecode(b"caf\xe9")


def test_names_that_are_not_utf8_do_not_end_the_process(tmp_path):
    good = write(tmp_path / "a.nii", noise(np.uint8))
    (tmp_path / f"{NOT_UTF8}.nii").write_bytes(good.read_bytes())
    labels, geometry = read_labels(good)
    for use in (read_volume, lambda path: write_labels(path, labels, geometry)):
        with pytest.raises(InputError, match=r"found a file name that is not UTF-8, expected one that is"):
            use(tmp_path / f"{NOT_UTF8}.nii")


@pytest.mark.filterwarnings("error")
def test_doubles_beyond_the_range_of_single_precision(tmp_path):
    array = np.zeros(SHAPE)
    array[0, 0, :4] = 1e300, -1e300, np.inf, np.nan
    volume = read_volume(write(tmp_path / "a.mha", array))
    assert "found 2 voxels beyond 1e+30" in volume.warnings[0]
    assert "found 2 NaN or infinite voxels" in volume.warnings[1]
    np.testing.assert_array_equal(volume.array[0, 0, :5], np.float32([1e30, -1e30, -1e30, -1e30, 0]))


def test_links_to_nowhere_are_listed(tmp_path):
    (tmp_path / "a.mha").symlink_to(tmp_path / "gone.mha")
    (tmp_path / "b.mha").symlink_to(tmp_path / "b.mha")
    (tmp_path / "c.mha").mkdir()
    assert [path.name for path in list_volumes(tmp_path)] == ["a.mha", "b.mha"]
    with pytest.raises(InputError, match="found a link that leads nowhere"):
        read_volume(tmp_path / "a.mha")
