"""Every way to write a file that ITK reads: array and grid must be ITK's, for it is the oracle."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from stand_in import OBLIQUE, write_image

from umamba2.errors import InputError
from umamba2.scans.volumes import from_image, read_array, read_labels, read_volume, to_image

SHAPE = OBLIQUE.size[::-1]
TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float32, np.float64]
# Every way to lie along the patient's axes, each a little turned.
OBLIQUES = [
    tuple((np.eye(3)[list(order)] * signs @ Rotation.from_rotvec([0.2, -0.1, 0.15]).as_matrix()).ravel().tolist())
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
ENDINGS = [".mha", ".nii", ".nii.gz", ".nrrd", ".tif", ".MHA", ".Nii.GZ", ".NRRD", ".TIFF"]


def noise(kind=np.int16):
    return np.random.default_rng(3).integers(0, 100, SHAPE).astype(kind)


def same_as_itk(path, image_io):
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    expected, grid = from_image(reader.Execute())
    array, geometry = read_array(path)
    assert array.dtype == expected.dtype
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, expected)
    assert geometry == grid
    return array


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("ending", "image_io"),
    [
        (".mha", "MetaImageIO"),
        (".mhd", "MetaImageIO"),
        (".nii", "NiftiImageIO"),
        (".nii.gz", "NiftiImageIO"),
        (".nrrd", "NrrdImageIO"),
        (".tif", "TIFFImageIO"),
    ],
)
def test_every_type_in_every_format(tmp_path, compress, ending, image_io):
    for kind in TYPES:
        if ending == ".tif" and np.dtype(kind).itemsize == 8:
            continue  # ITK does not write them
        image = to_image(noise(kind), OBLIQUE)
        sitk.WriteImage(image, str(tmp_path / f"a{ending}"), compress)
        np.testing.assert_array_equal(same_as_itk(tmp_path / f"a{ending}", image_io), noise(kind))


@pytest.mark.parametrize("ending", ENDINGS)
def test_capitals_in_endings(tmp_path, ending):
    path = write_image(tmp_path / f"a{ending.lower()}", noise())
    path = path.rename(tmp_path / f"a b{ending}")
    np.testing.assert_array_equal(read_volume(path).array, noise())


PACKED_SIZE = str(len(zlib.compress(noise().tobytes())))
META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "0 1 0 -1 0 0 0 0 1", "Offset": "1.5 -2 3e1",
    "ElementSpacing": "0.31 0.27 0.55", "DimSize": "13 11 7", "ElementType": "MET_SHORT",
}  # fmt: skip


def write_meta(path, voxels, name="LOCAL", drop=(), **fields):
    lines = {key: value for key, value in (META | fields).items() if key not in drop}
    header = "".join(f"{key} = {value}\n" for key, value in lines.items()) + f"ElementDataFile = {name}\n"
    path.write_bytes(header.encode() + voxels)
    return path


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda a: a.tobytes(), {}),
        (lambda a: a.astype(">i2").tobytes(), {"BinaryDataByteOrderMSB": "True"}),
        (lambda a: a.tobytes(), {"BinaryDataByteOrderMSB": "False", "ElementByteOrderMSB": "true"}),
        (lambda a: b"rubbish" + a.tobytes(), {"HeaderSize": "-1"}),
        (lambda a: zlib.compress(a.tobytes()), {"CompressedData": "True"}),
        (lambda a: zlib.compress(a.tobytes()) + b"x", {"CompressedData": "True", "CompressedDataSize": PACKED_SIZE}),
        (lambda a: a.tobytes() + b"rubbish", {"Comment": "a: b = c"}),
        (lambda a: a.tobytes(), {"NDims": "4", "DimSize": "13 11 7 1", "ElementSpacing": "0.31 0.27 0.55 1",
                                 "Offset": "1.5 -2 3e1 0", "TransformMatrix": "0 1 0 0 -1 0 0 0 0 0 1 0 0 0 0 1"}),
    ],
    ids=["plain", "big", "big element", "at the end", "zlib", "zlib of a size", "comment", "4-D"],
)  # fmt: skip
def test_headers_of_metaimage(tmp_path, change, fields):
    path = write_meta(tmp_path / "a.mha", change(noise()), **fields)
    array, geometry = read_array(path)
    np.testing.assert_array_equal(array, noise())
    assert geometry.direction == (0, -1, 0, 1, 0, 0, 0, 0, 1)  # MetaImage goes column by column
    assert geometry.spacing == (0.31, 0.27, 0.55)
    assert geometry.origin == (1.5, -2, 30)
    # ITK reads rubbish where the compressed size is not stated, and a fourth axis needs other calls.
    if (fields.get("NDims") != "4" and fields.get("CompressedData") != "True") or "CompressedDataSize" in fields:
        np.testing.assert_array_equal(same_as_itk(path, "MetaImageIO"), noise())


@pytest.mark.parametrize("keys", [("ElementSize",), ("Position",), ("Origin",), ("Orientation",), ("Rotation",)])
def test_other_names_of_fields_of_metaimage(tmp_path, keys):
    twins = {"ElementSize": "ElementSpacing", "Position": "Offset", "Origin": "Offset"}
    (key,) = keys
    first = twins.get(key, "TransformMatrix")
    path = write_meta(tmp_path / "a.mha", noise().tobytes(), drop=(first,), **{key: META[first]})
    same_as_itk(path, "MetaImageIO")
    volume = read_volume(path)
    assert volume.oriented
    assert volume.warnings == ()


def test_of_several_names_of_a_field_the_same_counts_as_for_itk(tmp_path):
    turn, other = "0 0 1 0 1 0 1 0 0", "-1 0 0 0 -1 0 0 0 1"
    for fields in (
        {"Position": "7 8 9"},
        {"Origin": "7 8 9"},
        {"ElementSize": "2 2 2"},
        {"Rotation": turn},
        {"Orientation": turn},
    ):
        same_as_itk(write_meta(tmp_path / "a.mha", noise().tobytes(), **fields), "MetaImageIO")
    names = {"Orientation": turn, "Rotation": other}
    same_as_itk(write_meta(tmp_path / "a.mha", noise().tobytes(), drop=("TransformMatrix",), **names), "MetaImageIO")


def test_defaults_of_metaimage(tmp_path):
    neither = ("BinaryData", "BinaryDataByteOrderMSB")
    path = write_meta(tmp_path / "a.mha", noise(">i2").tobytes(), drop=neither, ElementByteOrderMSB="1")
    np.testing.assert_array_equal(same_as_itk(path, "MetaImageIO"), noise())
    with pytest.raises(InputError, match="found voxels written as text, expected BinaryData = True"):
        read_array(write_meta(path, b"1 2 3", BinaryData="False"))


def test_voxels_of_metaimage_in_another_file(tmp_path):
    (tmp_path / "v x.raw").write_bytes(b"12345678" + noise().tobytes())
    path = write_meta(tmp_path / "a.mhd", b"", "v x.raw", HeaderSize="8")
    np.testing.assert_array_equal(same_as_itk(path, "MetaImageIO"), noise())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoding": "raw"},
        {"encoding": "raw", "endian": "big"},
        {"encoding": "gzip", "endian": "big"},
        {"space": "right-anterior-superior", "space directions": np.diag([0.3, 0.4, 0.5]), "space origin": [1, 2, 3]},
        {"spacings": [0.3, 0.4, 0.5]},
    ],
)
@pytest.mark.parametrize("detached", [False, True])
def test_headers_of_nrrd(tmp_path, options, detached):
    nrrd = pytest.importorskip("nrrd")
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), noise().transpose(2, 1, 0), options)
    if detached:
        header, voxels = path.read_bytes().split(b"\n\n", 1)
        path.write_bytes(header + b"\ndata file: a.raw\n")
        (tmp_path / "a.raw").write_bytes(voxels)
    np.testing.assert_array_equal(same_as_itk(path, "NrrdImageIO"), noise())
    volume = read_volume(path)
    assert volume.oriented == ("space" in options)
    assert (volume.warnings == ()) == ("spacings" in options or "space" in options)


def test_grey_values_of_nrrd_that_stand_for_others_are_said(tmp_path):
    path = tmp_path / "a.nrrd"
    space = b"space: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
    head = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n" + space
    for more, says in (
        (b"old min: -1000\nold max: 3000\n", ["stood for others (oldmin -1000, oldmax 3000)"]),
        (b"", []),
    ):
        path.write_bytes(head + more + b"\n12345678")
        said = [line for line in read_volume(path).warnings if "field of view" not in line]
        assert len(said) == len(says)
        assert all(text in line for text, line in zip(says, said))


matrices = st.tuples(*[st.floats(-180, 180)] * 3, *[st.sampled_from([0.1, 0.3, 0.7])] * 3, st.booleans())


def matrix_of(a, b, c, x, y, z, mirrored):
    turns = []
    for axis, degrees in enumerate((a, b, c)):
        one, other = (i for i in range(3) if i != axis)
        turn, radians = np.eye(3), np.radians(degrees)
        turn[one, one] = turn[other, other] = np.cos(radians)
        turn[one, other], turn[other, one] = -np.sin(radians), np.sin(radians)
        turns.append(turn)
    matrix = np.eye(4)
    matrix[:3, :3] = turns[0] @ turns[1] @ turns[2] @ np.diag([-1 if mirrored else 1, 1, 1]) * [x, y, z]
    matrix[:3, 3] = a, b, c
    return matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nifti")


@settings(max_examples=60, deadline=None)
@given(
    matrices,
    st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 2), (0, 2), (2, 1)]),
    st.sampled_from("<>"),
    st.sampled_from([(1, 0), (0, 0), (0.1, 3), (2, 0)]),
    st.sampled_from(["i2", "u1", "f4", "f8", "i4"]),
)
def test_nifti_places_are_itks(folder, parts, codes, order, scale, kind):
    """The grid that is computed here for what ITK refuses is the one that it finds where it does not."""
    nib = pytest.importorskip("nibabel")
    from umamba2.scans.nifti import nifti_header

    path, matrix = folder / "a.nii", matrix_of(*parts)
    image = nib.Nifti1Image(noise(kind).transpose(2, 1, 0), matrix, nib.Nifti1Header(endianness=order))
    image.set_qform(matrix, codes[0])
    image.set_sform(matrix, codes[1])
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    struct.pack_into(f"{order}2f", content, 112, *scale)
    path.write_bytes(content)
    same_as_itk(path, "NiftiImageIO")
    _, expected = read_array(path)
    # Near half a turn the fourth part of a quaternion in single precision is good to 0.03 degrees only.
    found, angle = nifti_header(path).geometry()
    assert angle < 1e-4
    for name in ("size", "spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-3)
    second_image = nib.Nifti2Image(noise(kind).transpose(2, 1, 0), matrix)
    second_image.set_qform(matrix, codes[0])
    second_image.set_sform(matrix, codes[1])
    nib.save(second_image, folder / "b.nii.gz")
    array, second = read_array(folder / "b.nii.gz")
    np.testing.assert_allclose(array, noise(kind), rtol=1e-6)
    for name in ("size", "spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(second, name), getattr(expected, name), atol=1e-3)


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (4, 3)])
def test_of_two_places_that_differ_the_same_counts_as_for_itk(tmp_path, codes):
    nib = pytest.importorskip("nibabel")
    from umamba2.scans.nifti import nifti_header

    one, other = matrix_of(10, 20, 30, 0.3, 0.3, 0.7, False), matrix_of(-40, 5, 70, 0.3, 0.3, 0.7, True)
    image = nib.Nifti1Image(noise().transpose(2, 1, 0), one)
    image.set_qform(one, codes[0])
    image.set_sform(other, codes[1])
    nib.save(image, tmp_path / "a.nii")
    _, expected = read_array(tmp_path / "a.nii")
    found, _ = nifti_header(tmp_path / "a.nii").geometry()
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5)
    same_as_itk(tmp_path / "a.nii", "NiftiImageIO")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_file_whose_name_is_wrong_about_compression(tmp_path, ending):
    other = write_image(tmp_path / ("a.nii" if ending == ".nii.gz" else "a.nii.gz"), noise())
    path = other.rename(tmp_path / f"b{ending}")
    np.testing.assert_array_equal(read_volume(path).array, noise())


def test_units_of_nifti(tmp_path):
    path = write_image(tmp_path / "a.nii", noise())
    content = bytearray(path.read_bytes())
    for unit, factor in ((1, 1000), (2, 1), (3, 0.001)):
        content[123] = unit
        path.write_bytes(content)
        grid = from_image(sitk.ReadImage(str(path)))[1]
        np.testing.assert_allclose(grid.spacing, np.array(OBLIQUE.spacing) * factor, rtol=1e-6)
        assert read_array(path)[1] == grid


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (2, 1)])
@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 0.001)])
def test_places_of_nifti_are_in_the_units_of_its_voxel_sizes(tmp_path, kind, codes, unit, factor):
    nib = pytest.importorskip("nibabel")
    from umamba2.scans.nifti import nifti_header

    path = tmp_path / "a.nii"
    matrix = np.diag([-0.4, -0.4, 0.5, 1])
    matrix[:3, 3] = -10, -20, 30
    matrix[:3] /= factor
    image = getattr(nib, kind)(np.zeros((80, 80, 80), np.int16), matrix)
    image.set_qform(matrix, codes[0])
    image.set_sform(matrix, codes[1])
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    volume = read_volume(path)
    assert not [line for line in volume.warnings if "voxel" not in line or "two" in line]
    for grid in (volume.geometry, nifti_header(path).geometry()[0]):
        np.testing.assert_allclose(grid.spacing, (0.4, 0.4, 0.5), rtol=1e-6)
        np.testing.assert_allclose(grid.origin, (10, 20, 30), rtol=1e-6)


@pytest.mark.parametrize(("length", "odd"), [(1, False), (1.00001, False), (1.001, True), (1.5, True), (50, True)])
def test_a_quaternion_that_is_none_is_said(tmp_path, length, odd):
    path = write_image(tmp_path / "a.nii", noise())
    content = bytearray(path.read_bytes())
    for code in (1, 0):
        struct.pack_into("<2h", content, 252, code, 1 - code)
        struct.pack_into("<3f", content, 256, 0.0, 0.6 * length, 0.8 * length)
        path.write_bytes(content)
        warnings = [line for line in read_volume(path).warnings if "quaternion" in line]
        assert len(warnings) == (odd and code == 1)
        assert all(f"found a quaternion of length {length:.4g}, expected at most 1" in line for line in warnings)


def test_sheared_axes(tmp_path):
    nib = pytest.importorskip("nibabel")
    for degrees, ok in ((0.11, True), (0.9, True), (1.1, False)):
        matrix = np.diag([-0.5, -0.5, 0.5, 1.0])
        matrix[1, 2] = 0.5 * np.tan(np.radians(degrees))
        image = nib.Nifti1Image(noise().transpose(2, 1, 0), matrix)
        image.set_sform(matrix, 1)
        image.header["qform_code"] = 0
        nib.save(image, tmp_path / "a.nii.gz")
        if ok:
            volume = read_volume(tmp_path / "a.nii.gz")
            np.testing.assert_array_equal(volume.array, noise())
            assert f"found axes that miss right angles by {degrees:.2g} degrees" in volume.warnings[0]
            direction = np.reshape(volume.geometry.direction, (3, 3))
            np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-9)
            np.testing.assert_allclose(direction, np.eye(3), atol=0.02)
        else:
            with pytest.raises(InputError, match=r"found axes that miss right angles by 1.1 degrees, expected less"):
                read_volume(tmp_path / "a.nii.gz")


def test_labels_of_nifti_2(tmp_path):
    nib = pytest.importorskip("nibabel")
    nib.save(nib.Nifti2Image(noise(np.uint8).transpose(2, 1, 0), np.diag([-0.5, -0.5, 0.5, 1])), tmp_path / "a.nii.gz")
    labels, geometry = read_labels(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(labels, noise(np.uint8))
    assert labels.dtype == np.uint8
    assert geometry.spacing == (0.5, 0.5, 0.5)
    assert geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_a_compressed_header_that_is_cut_off(tmp_path):
    path = write_image(tmp_path / "a.nii.gz", noise())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:200]))
    with pytest.raises(InputError, match="could not be read"):
        read_volume(path)


@pytest.mark.parametrize("letters", ["RAI", "LPS", "???", "ASL", "RAS", "PSR"])
@pytest.mark.parametrize("matrix", ["1 0 0 0 1 0 0 0 1", "0 1 0 0 0 1 -1 0 0"])
def test_letters_and_matrix_of_a_metaimage_must_not_contradict(tmp_path, matrix, letters):
    """MetaIO names where axes come from, others where they go to; the second matrix is ASL or PIR to them."""
    place = f"TransformMatrix = {matrix}\nOffset = 0 0 0\nAnatomicalOrientation = {letters}\n"
    write_metaimage(tmp_path / "a.mha", place)
    said = read_volume(tmp_path / "a.mha").warnings
    goes = "LPS" if matrix[0] == "1" else "PSR"
    comes = "RAI" if matrix[0] == "1" else "AIL"
    if letters in (goes, comes, "???"):
        assert said == ()
    else:
        (line,) = said
        assert f"found AnatomicalOrientation = {letters}, but a TransformMatrix of {comes}, expected the same" in line


@pytest.mark.parametrize("turn", OBLIQUES)
def test_the_letters_that_itk_writes_are_right(tmp_path, turn):
    write_image(tmp_path / "a.mha", noise(), replace(OBLIQUE, direction=turn))
    assert read_volume(tmp_path / "a.mha").warnings == ()


def test_directions_without_an_origin_are_said(tmp_path):
    write_metaimage(tmp_path / "a.mha", "TransformMatrix = 1 0 0 0 1 0 0 0 1\n")
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nendian: little\n"
    lies = "space: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
    unknown = f"{header}{lies}space origin: (nan,nan,nan)\n"
    for name, text in (("a", header + lies), ("nan", unknown), ("bare", header)):
        (tmp_path / f"{name}.nrrd").write_bytes(f"{text}\n".encode() + bytes(128))
    fields = {"a.mha": "Offset", "a.nrrd": "space origin", "nan.nrrd": "space origin"}
    for path, field in ((tmp_path / name, field) for name, field in fields.items()):
        (line,) = read_volume(path).warnings
        assert line == f"{path}: found no {field}, expected where the first voxel lies; taken as 0, 0, 0"
    assert not any("first voxel" in line for line in read_volume(tmp_path / "bare.nrrd").warnings)


def write_metaimage(path, place):
    size = "NDims = 3\nDimSize = 4 4 4\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n"
    path.write_bytes(f"ObjectType = Image\n{size}{place}ElementDataFile = LOCAL\n".encode() + bytes(128))
