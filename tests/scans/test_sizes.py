"""What a header says is held against what the file holds; what it says and nobody applies is said."""

from __future__ import annotations

import gzip
import re
import struct
import zlib

import numpy as np
import pytest
from scans.test_hostile import RAW, meta, nifti, noise, nrrd

from umamba2.errors import InputError
from umamba2.scans.volumes import read_labels, read_volume, write_volume

VOXELS = noise().tobytes()
LAYER = 2 * 11 * 7  # bytes of the smallest: one more along the longest axis


def mha(size="13 11 7", kind="short", voxels=VOXELS, **fields):
    return {"a.mha": meta(DimSize=size, ElementType=f"MET_{kind.upper()}", voxels=voxels, **fields)}


def mhd(size, kind, voxels, **fields):
    return {"a.mhd": meta("a.raw", DimSize=size, ElementType=f"MET_{kind.upper()}", **fields), "a.raw": voxels}


def nii(size="13 11 7", kind="short", voxels=VOXELS, *changes):
    types = {"short": (4, 16), "char": (256, 8)}
    changes = ((42, "3h", *map(int, size.split())), (70, "2h", *types[kind]), *changes)
    return {"a.nii": nifti(*changes, size=0) + voxels}


def nii_gz(*stated, parts=1):
    content = nii(*stated)["a.nii"]
    return {
        "a.nii.gz": b"".join(
            gzip.compress(part) for part in ([content] if parts == 1 else [content[:900], content[900:]])
        )
    }


def nrrd_of(size, kind, voxels, **fields):
    return {"a.nrrd": nrrd(voxels, sizes=size, type="signed char" if kind == "char" else kind, **fields)}


FORMATS = {
    "mha": mha,
    "mha zlib": lambda size, kind, voxels: mha(size, kind, zlib.compress(voxels), CompressedData="True"),
    "mha, last": lambda *stated: mha(*stated, HeaderSize="-1"),
    "mhd": mhd,
    "mhd, later": lambda size, kind, voxels: mhd(size, kind, b"012345678" + voxels, HeaderSize="9"),
    "nii": nii,
    "nii.gz": nii_gz,
    "nii.gz of two parts": lambda *stated: nii_gz(*stated, parts=2),
    "nrrd": nrrd_of,
    "nrrd gzip": lambda size, kind, voxels: nrrd_of(size, kind, gzip.compress(voxels), encoding="gzip"),
    "nrrd detached": lambda size, kind, voxels: nrrd_of(size, kind, b"", data_file="a.raw") | {"a.raw": voxels},
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(files))


def warnings_of(folder, files):
    """What is said about a file whose voxels are right."""
    volume = read_volume(write(folder, files))
    np.testing.assert_array_equal(volume.array, noise())
    return volume.warnings


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_that_needs_less_than_there_is(tmp_path, name):
    make = FORMATS[name]
    assert warnings_of(tmp_path, make("13 11 7", "short", VOXELS)) == ()
    for size, kind in (("12 11 7", "short"), ("13 10 7", "short"), ("13 11 6", "short"), ("13 11 7", "char"),
                       ("1 1 1", "short")):  # fmt: skip
        for read in (read_volume, read_labels):
            with pytest.raises(InputError, match=r"bytes or more besides the voxels, expected just"):
                read(write(tmp_path, make(size, kind, VOXELS)))


@pytest.mark.parametrize("name", FORMATS)
def test_padding_is_said(tmp_path, name):
    make = FORMATS[name]
    for more in (1, 16, LAYER - 1):
        padding = bytes(more) + VOXELS if name == "mha, last" else VOXELS + bytes(more)
        path = write(tmp_path, make("13 11 7", "short", padding))
        (warning,) = warnings_of(tmp_path, make("13 11 7", "short", padding))
        expected = f"found {more} bytes or more besides the voxels, expected just 13 x 11 x 7 voxels of 2 bytes"
        assert warning == f"{path}: {expected}; passed over"
        said = []
        read_labels(path, said)
        assert said == [warning]
    with pytest.raises(InputError, match=f"found {LAYER} bytes or more besides the voxels"):
        read_volume(write(tmp_path, make("13 11 7", "short", VOXELS + bytes(LAYER))))


def test_what_follows_a_compressed_stream(tmp_path):
    for packed, more in (
        (gzip.compress(VOXELS) + bytes(5000), 0),  # as on tapes
        (gzip.compress(VOXELS) + gzip.compress(b""), 0),
        (gzip.compress(VOXELS) + gzip.compress(b"xyz"), 3),
        (gzip.compress(VOXELS) + b"xyz", 3),
        (gzip.compress(VOXELS) + b"xyz" + bytes(50), 3),
        (zlib.compress(VOXELS) + b"xyz", 3),
    ):
        for files in ({"a.nrrd": nrrd(packed, encoding="gzip")}, {"a.mha": meta(CompressedData="True", voxels=packed)}):
            said = warnings_of(tmp_path, files)
            assert [re.search(r"found (\d+) bytes or more besides", line)[1] for line in said] == [str(more)] * bool(
                more
            )
    for bad in (gzip.compress(b"xyz")[:-1], gzip.compress(b"xyz")[:-1] + b"?"):
        with pytest.raises(InputError, match="found"):
            read_volume(write(tmp_path, {"a.nrrd": nrrd(gzip.compress(VOXELS) + bad, encoding="gzip")}))


@pytest.mark.parametrize(("more", "said"), [(0, False), (-500, True), (500, True)])
def test_a_compressed_size_that_is_not_that_of_the_stream(tmp_path, more, said):
    packed = zlib.compress(VOXELS)
    for behind in (b"", bytes(9)):
        fields = {"CompressedData": "True", "CompressedDataSize": str(len(packed) + more)}
        warnings = warnings_of(tmp_path, mha(voxels=packed + behind, **fields))
        assert len(warnings) == said
        assert all(f"found {len(packed)} bytes of compressed voxels and a header that" in line for line in warnings)


def test_more_behind_a_header_that_names_another_file(tmp_path):
    files = mhd("13 11 7", "short", VOXELS)
    for behind in (b" \n", b"Offset = 9 9 9\n", VOXELS):
        warnings = warnings_of(tmp_path, files | {"a.mhd": files["a.mhd"] + behind})
        assert len(warnings) == (behind != b" \n")
        assert all("found 'a.raw' as the file of voxels and more behind the header" in line for line in warnings)


def test_text_for_voxels(tmp_path):
    text = " ".join(map(str, noise().ravel())).encode()
    for stated, says in (
        (None, "besides the voxels"),
        ("False", "written as text"),
        ("Fa1se", "expected True or False"),
    ):
        with pytest.raises(InputError, match=says):
            read_volume(write(tmp_path, mha(voxels=text, BinaryData=stated)))


def test_a_place_of_voxels_that_is_wrong(tmp_path):
    with pytest.raises(InputError, match="too early"):
        read_volume(write(tmp_path, nii("13 11 7", "short", VOXELS, (108, "f", 354))))
    with pytest.raises(InputError, match=r"found HeaderSize = 20, expected at least the \d+ bytes of the header"):
        read_volume(write(tmp_path, mha(HeaderSize="20")))


def extended(*extensions, flag=1, version=1):
    """NIfTI without voxels, with extensions of so many bytes behind the header."""
    header = nii(voxels=b"")["a.nii"][:348]
    if version == 2:
        header = bytearray(540)
        struct.pack_into("<i8s2h", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16)
        struct.pack_into("<8q", header, 16, 3, 13, 11, 7, 1, 1, 1, 1)
        struct.pack_into("<8d", header, 104, 1, 1, 1, 1, 0, 0, 0, 0)
    return (
        bytes(header) + bytes([flag, 0, 0, 0]) + b"".join(struct.pack("<2i", n, 4) + bytes(n - 8) for n in extensions)
    )


def from_byte(content, place):
    """The same, its voxels stated to begin there."""
    kind, at = ("<f", 108) if content[:2] == b"\x5c\x01" else ("<q", 168)
    return content[:at] + struct.pack(kind, place) + content[at + struct.calcsize(kind) :]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("extensions", "flag"), [((), 0), ((), 1), ((16,), 1), ((32, 48), 1), ((32, 48), 0)])
def test_a_place_of_voxels_within_what_comes_before_them(tmp_path, packed, version, extensions, flag):
    """With bytes left over the voxels begin later; without, they begin where the header says, or they are too few."""
    content = extended(*extensions, flag=flag, version=version)
    header = 348 if version == 1 else 540
    end = len(content)
    for place in sorted(
        {0, header, header + 3, header + 4, header + 5, header + 20, header + 36, end - 1, end, end + 2}
    ):
        stored = from_byte(content, place) + VOXELS
        files = {"a.nii.gz": gzip.compress(stored)} if packed else {"a.nii": stored}
        if place == end:
            assert warnings_of(tmp_path, files) == ()
            continue
        # Where the first of two extensions ends, the second might be voxels.
        certain = place < header + 4 or (flag and extensions and place != header + 4 + extensions[0])
        if place > end:
            expected = "before that of the image" if packed else "too early"
        elif end - max(place, header) >= LAYER:
            expected = "or more besides the voxels, expected just 13 x 11 x 7 voxels of 2 bytes: is its size"
        elif certain:
            expected = f"or more besides the voxels, .* and its voxels from byte {max(place, header)} on, expected"
        else:  # what nobody has announced may be padding in front of the voxels or behind them
            (warning,) = read_volume(write(tmp_path, files)).warnings[-1:]
            assert "bytes or more besides the voxels" in warning
            continue
        with pytest.raises(InputError, match=expected):
            read_volume(write(tmp_path, files))
    exact = from_byte(content[: header + 2], header + 2) + VOXELS  # as few bytes as there are: nothing is left over
    assert warnings_of(tmp_path, {"a.nii": exact}) == ()


def test_a_place_of_voxels_that_is_no_byte(tmp_path):
    with pytest.raises(InputError, match=r"found voxels from byte 352\.5 on"):
        read_volume(write(tmp_path, nii("13 11 7", "short", VOXELS, (108, "f", 352.5))))


@pytest.mark.parametrize("bits", [0, 8, 32])
def test_bits_of_nifti(tmp_path, bits):
    (warning,) = warnings_of(tmp_path, nii("13 11 7", "short", VOXELS, (72, "h", bits)))
    assert f"found {bits} bits a voxel, expected 16 as its type has" in warning


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("slope", "intercept", "used", "doubted"),
    [
        (1, 0, (1, 0), False),
        (2, 500, (2, 500), False),
        (-2, -500, (-2, -500), False),
        (0, 0, (1, 0), False),
        (0, NAN, (1, 0), False),
        (NAN, 0, (1, 0), False),
        (NAN, NAN, (1, 0), False),
        (0, 500, (1, 0), True),  # the standard: a slope of 0 means no scale
        (NAN, 500, (1, 0), True),
        (INF, 0, (1, 0), True),
        (-INF, 5, (1, 0), True),
        (0, INF, (1, 0), True),
        (1, INF, (1, 0), True),
        (2, -INF, (2, 0), True),
        (2, NAN, (2, 0), True),
    ],
)
@pytest.mark.filterwarnings("error")
def test_slopes_of_nifti(tmp_path, slope, intercept, used, doubted):
    volume = read_volume(write(tmp_path, nii("13 11 7", "short", VOXELS, (112, "2f", slope, intercept))))
    np.testing.assert_array_equal(volume.array, noise().astype(float) * used[0] + used[1])
    taken = f"found a slope of {slope:g} and an intercept of {intercept:g}, expected finite ones or none; taken for "
    assert [line.split(": ", 1)[1] for line in volume.warnings] == [f"{taken}{used[0]} and {used[1]}"] * doubted


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["double", "float"])
@pytest.mark.parametrize("largest", [1e32, 3e38, 1e300])
def test_what_nobody_can_compute_with_is_said(tmp_path, kind, largest):
    array = noise() * (largest / 3000)
    array[0, 0, :4] = np.nan, np.inf, -np.inf, 7
    array = np.clip(array, -3e38, 3e38, where=np.isfinite(array), out=array) if kind == "float" else array
    stored = array.astype(np.float32 if kind == "float" else np.float64)
    volume = read_volume(write(tmp_path, mha(kind=kind, voxels=stored.tobytes())))
    known = np.isfinite(stored)
    beyond = np.count_nonzero(abs(stored[known]) > 1e30)
    assert f"found {beyond} voxels beyond 1e+30, expected intensities; taken for that" in volume.warnings[0]
    assert "found 3 NaN or infinite voxels" in volume.warnings[1]
    expected = np.where(known, np.clip(stored, -1e30, 1e30), np.clip(stored[known].min(), -1e30, 1e30))
    np.testing.assert_array_equal(volume.array, expected.astype(np.float32))
    assert volume.array[0, 0, 3] == 7


def test_numbers_as_large_as_intensities_get_are_kept(tmp_path):
    array = noise() * np.float32(3e26)
    volume = read_volume(write(tmp_path, mha(kind="float", voxels=array.tobytes())))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.warnings == ()


@pytest.mark.filterwarnings("error")
def test_a_slope_beyond_single_precision_is_said(tmp_path):
    volume = read_volume(write(tmp_path, nii("13 11 7", "short", VOXELS, (112, "2f", 1e38, 0))))
    assert "NaN or infinite voxels" in volume.warnings[-1]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"DistanceUnits": "mm"}, None),
        ({"DistanceUnits": "?"}, None),
        ({"DistanceUnits": "cm"}, "found DistanceUnits = 'cm', expected mm; it is not applied"),
        ({"ElementToIntensityFunctionSlope": "1.00", "ElementToIntensityFunctionOffset": "-0.0"}, None),
        ({"ElementToIntensityFunctionSlope": "10"}, "found ElementToIntensityFunctionSlope = '10', expected 1;"),
        ({"ElementToIntensityFunctionOffset": "-1024"}, "ElementToIntensityFunctionOffset = '-1024', expected 0;"),
        ({"Offset": "1 2 3", "Position": "1 2 3"}, None),
        ({"Offset": "1 2 3", "Position": "1 2 4"}, "found Offset = '1 2 3', Position = '1 2 4', expected one of them"),
        ({"BinaryDataByteOrderMSB": "False", "ElementByteOrderMSB": "True"}, "BinaryDataByteOrderMSB = 'False', Elem"),
        ({"Offsft": "1 2 3"}, "found a field 'Offsft', expected Offset?"),
        ({"offset": "1 2 3"}, "found a field 'offset', expected Offset?"),
        ({"TransformMatri": "1 0 0 0 1 0 0 0 1"}, "found a field 'TransformMatri', expected TransformMatrix?"),
        ({"SeriesDescription": "1 2 3", "UltrasoundImageOrientation": "MFA", "Seq_Frame0000_Status": "OK"}, None),
        ({"CompressedDataSize": "0\x0bTransformMatrix = 1 0 0"}, "found TransformMatrix within CompressedDataSize"),
        ({"Modality": "MET_MOD_OTHER"}, None),
        ({"Modality": "MET_MOD_MR"}, "found Modality = 'MET_MOD_MR', expected MET_MOD_CT"),
        ({"ObjectType": "Tube"}, "found ObjectType = 'Tube', expected Image"),
        ({"CompressedDataSize": "9"}, "found CompressedDataSize = 9, but no CompressedData = True"),
        ({"Modality": "MET_MOD_CT\n125"}, "found the line '125' in its header, expected NAME = VALUE"),
    ],
)  # fmt: skip
def test_fields_of_metaimage_that_nobody_applies(tmp_path, fields, says):
    said = warnings_of(tmp_path, mha(**fields))
    if says is None:
        assert said == ()
    else:
        (warning,) = said
        assert says in warning


def test_many_fields_cost_little(tmp_path):
    many = {f"ElementSpacin{n}": "1" for n in range(10_000)}
    assert len(warnings_of(tmp_path, mha(**many))) == 5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"DimSize": "1_3 11 7"}, "found DimSize = 1_3 11 7, expected 3 finite numbers"),
        ({"DimSize": "13 11 7 2"}, "found DimSize = 13 11 7 2, expected 3 finite numbers"),
        ({"DimSize": "١٣ 11 7"}, "expected 3 finite numbers"),
        ({"NDims": "0_3"}, "found NDims '0_3', expected a whole number"),
        ({"NDims": "３"}, "expected a whole number"),
        ({"ElementSpacing": "1_0 1 1"}, "found ElementSpacing = 1_0 1 1, expected 3 finite numbers"),
        ({"ElementSpacing": "1 1"}, "found ElementSpacing = 1 1, expected 3 finite numbers"),
        ({"Offset": "1 2 3 4"}, "found Offset = 1 2 3 4, expected 3 finite numbers"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 1 0"}, "expected 9 finite numbers"),
        ({"HeaderSize": "-1_0"}, "found HeaderSize '-1_0', expected a whole number"),
        ({"HeaderSize": "-1", "CompressedData": "True"}, "found HeaderSize = -1 and compressed voxels, expected"),
        ({"HeaderSizePerSlice": "8"}, "found HeaderSizePerSlice = 8, expected 0"),
        ({"HeaderSizePerSlice": "-1"}, "found HeaderSizePerSlice = -1, expected 0"),
        ({"CompressedData": "Crue"}, "found CompressedData = crue, expected True or False"),
        ({"BinaryDataByteOrderMSB": "Falte"}, "found BinaryDataByteOrderMSB = falte, expected True or False"),
        ({"ElementSpacing": "1e-300 1e-300 1e-300"}, "found the spacing (1e-300, 1e-300, 1e-300), expected"),
        ({"ElementSpacing": "1e300 1 1"}, "found the spacing (1e+300, 1.0, 1.0), expected"),
        ({"Offset": "1e300 1 1"}, "found the origin (1e+300, 1.0, 1.0), expected"),
    ],
)
def test_numbers_that_are_none(tmp_path, fields, says):
    with pytest.raises(InputError, match=re.escape(says)):
        read_volume(write(tmp_path, {"a.mha": meta(voxels=VOXELS, **fields)}))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_whatever_grid_is_read_can_be_written(tmp_path, ending):
    for fields in ({"ElementSpacing": "2e-9 1 1"}, {"ElementSpacing": "1e9 1 1"}, {"Offset": "1e9 -1e9 0"},
                   {"ElementSpacing": "2e-9 2e-9 2e-9"}):  # fmt: skip
        volume = read_volume(write(tmp_path, mha(**fields)))
        write_volume(tmp_path / f"b{ending}", volume.array, volume.geometry)
        np.testing.assert_allclose(read_volume(tmp_path / f"b{ending}").geometry.spacing, volume.geometry.spacing, 1e-6)


def test_a_header_that_names_itself(tmp_path):
    for name, content in (
        ("a.mhd", meta("a.mhd", DimSize="2 2 2")),
        ("a.nrrd", nrrd(data_file="a.nrrd", sizes="2 2 2")),
    ):
        with pytest.raises(InputError, match=f"found {name}, which is itself, as the file of voxels"):
            read_volume(write(tmp_path, {name: content}))
    (tmp_path / "b.raw").symlink_to(tmp_path / "a.mhd")
    with pytest.raises(InputError, match=r"found b.raw, which is itself"):
        read_volume(write(tmp_path, {"a.mhd": meta("b.raw", DimSize="2 2 2")}))


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\x1d", "\x1e"])
def test_what_ends_no_line_of_nrrd(tmp_path, character):
    comment = f"# note{character}endian: big\n# note{character}byte skip: 2\n".encode()
    assert (
        warnings_of(tmp_path, {"a.nrrd": nrrd(RAW).replace(b"type:", comment + b"type:")[: -len(RAW)] + VOXELS}) == ()
    )


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"\r", b"\n\r"])
def test_what_ends_lines_of_nrrd(tmp_path, line):
    """A header that ends with any of them is as long as for teem, which reads what stands there."""
    header = nrrd().rstrip(b"\n")
    assert warnings_of(tmp_path, {"a.nrrd": header + (line if line == b"\n\r" else line * 2) + VOXELS}) == ()


@pytest.mark.parametrize(
    ("fields", "ok"),
    [
        ({"space": "LPS", "spacings": None, "space_directions": "(1,0,0) (0,1.,0) ( 0 , 0 , 1e0 )"}, True),
        ({"spacings": "nan .5 1"}, True),
        ({"spacings": "1#5 1 1"}, False),
        ({"sizes": "13 11 7x"}, False),
        ({"sizes": "1_3 11 7"}, False),
        ({"space": "LPS", "spacings": None, "space_directions": "(1,0,0) (0,1,0) (0,0,1#5)"}, False),
        ({"space": "LPS", "spacings": None, "space_directions": "(1,0,0) (0,1,0) (0,0,1 5)"}, False),
        ({"space": "LPS", "space_origin": "(1,2\xae5,3)"}, False),
    ],
)
def test_numbers_of_nrrd(tmp_path, fields, ok):
    """Teem reads 7x and 7#5 as 7."""
    path = write(tmp_path, {"a.nrrd": nrrd(VOXELS, **fields)})
    if ok:
        np.testing.assert_array_equal(read_volume(path).array, noise())
    else:
        with pytest.raises(
            InputError, match=r"found (spacings|sizes|spacedirections|spaceorigin) '.*', expected numbers"
        ):
            read_volume(path)


@pytest.mark.parametrize("first", ["none", "(nan,nan,nan)"])
def test_an_axis_without_direction(tmp_path, first):
    """ITK takes 1 mm for it, and a direction that no file has stated."""
    vectors = f"{first} (0,.5,0) (0,0,.5)"
    content = nrrd(VOXELS, space="left-posterior-superior", spacings=None, space_directions=vectors)
    volume = read_volume(write(tmp_path, {"a.nrrd": content}))
    assert not volume.oriented
    assert "found no voxel size" in volume.warnings[0]
    assert "taken for 1 x 0.5 x 0.5 mm" in volume.warnings[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (nrrd(VOXELS, units='"mm" "mm" ""'), None),
        (nrrd(VOXELS, units='"cm" "cm" "cm"'), 'found space units of \'"cm" "cm" "cm"\', expected mm'),
        (nrrd(VOXELS).replace(b"spacings", b"#pacings"), "found a field 'pacings', expected spacings?"),
        (nrrd(VOXELS, content="x:=y"), None),
        (nrrd(VOXELS, data_file="a.raw"), "found 'a.raw' as the file of voxels and more behind the header"),
        (nrrd(VOXELS, number="1001"), None),
        (nrrd(VOXELS, number="5"), "found the number 5, expected 1001"),
        (nrrd(VOXELS, kinds="domain space ???"), None),
        (nrrd(VOXELS, kinds="domain domain time"), "found an axis of the kind time, expected three of space"),
        (nrrd(VOXELS, axis_mins="0 0 0", axis_maxs="13 11 6"), None),  # of borders, and of middles
        (nrrd(VOXELS, axis_mins="nan 0 0", axis_maxs="nan 11 7", spacings="nan 1 1"), None),
        (nrrd(VOXELS, axis_mins="0 0 0", axis_maxs="26 11 7"), "found axis mins and maxs of 2 x 1 x 1 mm a voxel"),
        (nrrd(VOXELS, spacings=None, axis_mins="0 0 0", axis_maxs="2.6 2.2 1.4"), "mins and maxs of 0.2 x 0.2 x 0.2"),
    ],
)
def test_fields_of_nrrd_that_nobody_applies(tmp_path, content, says):
    (tmp_path / "a.raw").write_bytes(VOXELS)
    said = [line for line in warnings_of(tmp_path, {"a.nrrd": content}) if "no voxel size" not in line]
    assert len(said) == (says is not None)
    assert says is None or says in said[0]


def test_a_name_of_nrrd_data_with_a_colon(tmp_path):
    (tmp_path / "x:=y.raw").write_bytes(VOXELS)
    with pytest.raises(InputError):  # teem does not open it; what is behind the header are not the voxels
        read_volume(write(tmp_path, {"a.nrrd": nrrd(VOXELS[::-1], data_file="x:=y.raw")}))
