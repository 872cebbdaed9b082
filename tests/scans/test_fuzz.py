"""Headers as nobody would write them: reading ends with an image or with an InputError, never with anything else."""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from stand_in import OBLIQUE, write_image

from umamba2.errors import InputError
from umamba2.scans.volumes import Volume, read_volume, to_image

VOXELS = np.random.default_rng(2).integers(-1000, 3000, OBLIQUE.size[::-1]).astype(np.int16)
numbers = st.sampled_from(
    [
        "0",
        "1",
        "-1",
        "3",
        "4",
        "0.3",
        "1e-30",
        "1e300",
        "nan",
        "inf",
        "2147483648",
        "99999999999999999999",
        "x",
        "",
        "%s",
    ]
)
rows = st.lists(numbers, max_size=10).map(" ".join)
META = {
    "ObjectType": st.sampled_from(["Image", "Mesh", ""]),
    "NDims": numbers | st.just("3"),
    "BinaryData": st.sampled_from(["True", "False", "1", ""]),
    "BinaryDataByteOrderMSB": st.sampled_from(["True", "False", "?"]),
    "CompressedData": st.sampled_from(["True", "False"]),
    "CompressedDataSize": numbers,
    "HeaderSize": numbers,
    "TransformMatrix": rows | st.just("1 0 0 0 1 0 0 0 1"),
    "Offset": rows | st.just("0 0 0"),
    "ElementSpacing": rows | st.just("1 1 1"),
    "ElementNumberOfChannels": numbers,
    "DimSize": rows | st.just("13 11 7"),
    "ElementType": st.sampled_from(["MET_SHORT", "MET_DOUBLE", "MET_UCHAR", "MET_OTHER", "MET_SHORT_ARRAY", ""]),
}
NRRD = {
    "type": st.sampled_from(["short", "double", "block", "unsigned char", ""]),
    "dimension": numbers | st.just("3"),
    "sizes": rows | st.just("13 11 7"),
    "space": st.sampled_from(["left-posterior-superior", "RAS", "scanner-xyz", "?"]),
    "space directions": st.sampled_from(
        ["(1,0,0) (0,1,0) (0,0,1)", "none none none", "(nan,0,0) (0,1,0) (0,0,1)", "(1"]
    ),
    "space origin": st.sampled_from(["(0,0,0)", "(nan,0,0)", "(0)", "x"]),
    "spacings": rows | st.just("1 1 1"),
    "endian": st.sampled_from(["little", "big", "?"]),
    "encoding": st.sampled_from(["raw", "gzip", "hex", ""]),
    "data file": st.sampled_from(["x.raw", "x%d.raw 1 3 1", "..", "LIST"]),
    "byte skip": numbers,
    "line skip": numbers,
    "kinds": st.sampled_from(["domain domain domain", "vector domain domain", "x"]),
}
voxels = st.sampled_from([VOXELS.tobytes(), zlib.compress(VOXELS.tobytes()), gzip.compress(VOXELS.tobytes()), b""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def read(path: Path) -> None:
    """Read what may be an image: a sound volume comes out, or one line."""
    try:
        volume = read_volume(path)
    except InputError as error:
        problem = str(error)
    else:
        sound(volume)
        return
    assert problem.startswith(f"{path}: ")
    assert "expected" in problem
    assert "\n" not in problem


def sound(volume: Volume) -> None:
    assert volume.array.shape == volume.geometry.shape
    assert np.isfinite(volume.array).all()
    for grid in (volume.geometry, volume.grid):
        assert np.isfinite([*grid.spacing, *grid.origin, *grid.direction]).all()
        assert min(grid.spacing) > 0
    for warning in volume.warnings:
        assert "\n" not in warning


@fuzzed(100)
@given(st.fixed_dictionaries({}, optional=META), st.sampled_from(["LOCAL", "LIST", "x.raw", "%s 1 2 1", ""]), voxels)
def test_metaimage(folder, fields, name, content):
    header = "".join(f"{key} = {value}\n" for key, value in fields.items()) + f"ElementDataFile = {name}\n"
    (folder / "a.mha").write_bytes(header.encode() + content)
    read(folder / "a.mha")


@fuzzed(100)
@given(st.fixed_dictionaries({}, optional=NRRD), voxels)
def test_nrrd(folder, fields, content):
    header = "NRRD0005\n" + "".join(f"{key}: {value}\n" for key, value in fields.items()) + "\n"
    (folder / "a.nrrd").write_bytes(header.encode() + content)
    read(folder / "a.nrrd")


changes_anywhere = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6)


@fuzzed(100)
@given(st.sampled_from([".mha", ".nii", ".nii.gz", ".nrrd"]), changes_anywhere, st.integers(0, 2**16), st.booleans())
def test_any_bytes(folder, ending, changes, end, header_only):
    damage(folder, ending, changes, end, header_only)


@fuzzed(5)  # each is read in a process of its own
@given(changes_anywhere)
def test_any_bytes_of_tiff(folder, changes):
    damage(folder, ".tif", changes, 2**16, False)


def damage(folder, ending, changes, end, header_only):
    path = folder / f"b{ending}"
    content = ORIGINALS.get(ending)
    if content is None:
        content = ORIGINALS[ending] = write_image(path, VOXELS).read_bytes()
    packed = ending == ".nii.gz"
    damaged = bytearray(gzip.decompress(content) if packed else content)
    for place, value in changes:
        damaged[place % (352 if header_only else len(damaged))] = value
    damaged = damaged[: end if end < len(damaged) else None]
    path.write_bytes(gzip.compress(damaged, 1) if packed else damaged)
    read(path)


ORIGINALS: dict[str, bytes] = {}

# Where headers state a grid, and NIfTI a scale: what a changed byte there says counts.
GRIDS = rb"(Offset|TransformMatrix|ElementSpacing|space directions|space origin)[^\n]*"
NIFTI_GRID, NIFTI_SCALE = {*range(76, 92), 123, *range(252, 328)}, range(112, 120)


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory):
    """A folder with a sound file of every kind, and in it a folder for what is made of them."""
    folder = tmp_path_factory.mktemp("sound")
    for name, packed in (("a.mha", False), ("z.mha", True), ("a.mhd", False), ("a.nii", False), ("a.nii.gz", True),
                         ("a.nrrd", False), ("z.nrrd", True)):  # fmt: skip
        sitk.WriteImage(to_image(VOXELS, OBLIQUE), str(folder / name), packed)
    header, content = (folder / "a.nrrd").read_bytes().split(b"\n\n", 1)
    (folder / "d.nrrd").write_bytes(header + b"\ndata file: d.raw\n")
    (folder / "d.raw").write_bytes(content)
    (folder / "changed").mkdir()
    for name in ("a.raw", "d.raw"):
        shutil.copy(folder / name, folder / "changed" / name)
    return folder


@fuzzed(400)
@given(
    st.sampled_from(["a.mha", "z.mha", "a.mhd", "a.nii", "a.nii.gz", "a.nrrd", "z.nrrd", "d.nrrd"]),
    st.integers(0, 2**16),
    st.integers(1, 255) | st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]),
    st.sampled_from([None, *b"#\n\r 5:="]),
)
def test_one_byte_of_a_header_changes_nothing_unsaid(sound_files, name, place, flipped, other):
    """What is read without an error and a warning has the voxels, and a grid that differs as the header says."""
    path, content = sound_files / "changed" / name, (sound_files / name).read_bytes()
    packed = path.suffix == ".gz"
    changed = bytearray(gzip.decompress(content) if packed else content)
    texts = {".mha": b"LOCAL\n", ".nrrd": b"\n\n"}
    ends = [changed.index(end) + len(end) for suffix, end in texts.items() if path.suffix == suffix and end in changed]
    place %= min([*ends, 352 if ".nii" in path.name else len(changed)])
    if ".nii" in path.name:
        in_grid, in_scale = place in NIFTI_GRID, place in NIFTI_SCALE
    else:
        in_grid, in_scale = any(m.start() <= place < m.end() for m in re.finditer(GRIDS, changed)), False
    changed[place] = changed[place] ^ flipped if other is None else other
    path.write_bytes(gzip.compress(changed, 1) if packed else changed)
    try:
        volume = read_volume(path)
    except InputError:
        return
    if volume.warnings or not volume.oriented:  # which is said where it matters
        return
    if not in_scale:
        np.testing.assert_array_equal(volume.array, VOXELS)
    if not in_grid:
        for what in ("size", "spacing", "origin", "direction"):
            np.testing.assert_allclose(getattr(volume.geometry, what), getattr(OBLIQUE, what), atol=1e-5)
