"""Every kind of series against the truth in the patient: wherever a voxel lies, it has the grey value of that place."""

from __future__ import annotations

import io
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_series import (
    ORIGIN,
    SHAPE,
    SPACING,
    enhanced,
    header,
    jpeg_2000,
    jpeg_ls,
    lossless_jpeg,
    many_slices,
    place,
    plane,
    rle,
    save,
    truth,
    voxels,
    write_slices,
)
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate

from umamba2.errors import InputError
from umamba2.scans.orientation import code
from umamba2.scans.volumes import read_volume

SHUFFLED = np.random.default_rng(3).permutation(SHAPE[0]).tolist()
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
MULTI_FRAME_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.3"
PACKED = {
    "1.2.840.10008.1.2.4.90": jpeg_2000,
    "1.2.840.10008.1.2.4.70": lossless_jpeg,
    "1.2.840.10008.1.2.4.57": lossless_jpeg,
    "1.2.840.10008.1.2.4.80": jpeg_ls,
    "1.2.840.10008.1.2.5": rle,
}


def agrees(path, *warnings, tolerance=0.51, series=None):
    """Read a scan, compare all of it with the truth and its warnings with these words; the volume."""
    volume = read_volume(path, series)
    np.testing.assert_allclose(volume.array, truth(volume.geometry), atol=tolerance)
    warned(volume, *warnings)
    return volume


def warned(volume, *words):
    said = [line for line in volume.warnings if "field of view" not in line]  # these scans are small
    assert len(said) == len(words), said
    assert all(word in line for word, line in zip(words, said)), said
    assert all(line.startswith(f"{volume.name}: found ") for line in said)


def without(*keywords):
    def change(ds, k):
        for keyword in keywords:
            delattr(ds, keyword)

    return change


def setting(**values):
    def change(ds, k):
        for keyword, value in values.items():
            setattr(ds, keyword, value(k) if callable(value) else value)

    return change


def test_plain(tmp_path):
    volume = agrees(write_slices(tmp_path / "a"))
    assert volume.array.dtype == np.int16
    assert volume.oriented
    assert volume.geometry.shape == SHAPE
    np.testing.assert_allclose(volume.geometry.zyx_spacing, SPACING, rtol=1e-9)
    np.testing.assert_allclose(volume.geometry.origin, ORIGIN, rtol=1e-9)


def test_any_names_in_any_folders(tmp_path):
    write_slices(tmp_path / "a/b", names=[k if k % 2 else -1 for k in SHUFFLED])
    write_slices(tmp_path / "a/c/d", names=[-1 if k % 2 else k for k in SHUFFLED], name="{}.1.2.840.dcm")
    (tmp_path / "a/notes.txt").write_text("not a slice")
    (tmp_path / "a/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    agrees(tmp_path / "a")


def test_numbers_that_contradict_positions(tmp_path):
    folder = write_slices(tmp_path / "a", setting(InstanceNumber=lambda k: SHUFFLED[k]))
    agrees(folder, "numbers of slices in another order")


def test_descending(tmp_path):
    agrees(write_slices(tmp_path / "a", places=lambda k: (ORIGIN[0], ORIGIN[1], ORIGIN[2] - SPACING[0] * k)))


def test_sagittal(tmp_path):
    folder = write_slices(tmp_path / "a", places=lambda k: (3 - 0.25 * k, -2, 8), axes=SAGITTAL)
    assert code(agrees(folder).geometry) == "PIR"


def test_oblique(tmp_path):
    turn = np.deg2rad(25)
    right, down = np.array([math.cos(turn), math.sin(turn), 0]), np.array([-math.sin(turn), math.cos(turn), 0])
    normal = np.cross(right, down)
    agrees(write_slices(tmp_path / "a", places=lambda k: np.array(ORIGIN) + 0.2 * k * normal, axes=(*right, *down)))


@pytest.mark.parametrize("degrees", [12, -20, 5])
def test_tilted_gantry(tmp_path, degrees):
    tilt = np.deg2rad(degrees)
    axes = (1, 0, 0, 0, math.cos(tilt), -math.sin(tilt))
    folder = write_slices(tmp_path / "a", axes=axes)
    volume = read_volume(folder)
    warned(volume, f"lean by {abs(degrees)}.0 degrees")
    expected = truth(volume.geometry)
    there = np.zeros(volume.array.shape, bool)  # outside of the slices there is air
    columns = np.reshape(volume.geometry.direction, (3, 3))
    inverse = np.linalg.inv(columns * volume.geometry.spacing)
    for k in range(SHAPE[0]):
        x, y, z = inverse @ (np.array(place(k)) - volume.geometry.origin)
        assert z == pytest.approx(k, abs=1e-6)
        there[k, math.ceil(y - 1e-6) : int(y + 1e-6) + SHAPE[1], math.ceil(x - 1e-6) : int(x + 1e-6) + SHAPE[2]] = True
    assert there.sum() > 0.9 * np.prod(SHAPE)
    np.testing.assert_allclose(volume.array[there], expected[there], atol=12)  # of 4000: it is interpolated
    assert volume.array[~there].max() <= volume.array[there].max()


def test_slices_that_lean_further_than_any_gantry(tmp_path):
    folder = write_slices(tmp_path / "a", places=lambda k: (ORIGIN[0], ORIGIN[1] + 0.5 * k, ORIGIN[2] + 0.25 * k))
    with pytest.raises(InputError, match="found slices that lean by 63 degrees, expected at most 45"):
        read_volume(folder)


def test_a_missing_slice_is_filled_in(tmp_path):
    volume = agrees(
        write_slices(tmp_path / "a", names=[-1 if k == 5 else k for k in range(SHAPE[0])]),
        "1 missing slices (6 of 12), expected all; filled in",
        tolerance=30,
    )
    assert volume.geometry.shape == SHAPE
    rest = np.arange(SHAPE[0]) != 5
    np.testing.assert_allclose(volume.array[rest], truth(volume.geometry)[rest], atol=0.51)


@pytest.mark.parametrize("gone", [(4, 5), (3, 5, 7)])
def test_too_many_missing_slices(tmp_path, gone):
    folder = write_slices(tmp_path / "a", names=[-1 if k in gone else k for k in range(SHAPE[0])])
    with pytest.raises(InputError, match=rf"{len(gone)} missing, expected at most 10% of them missing"):
        read_volume(folder)


def test_slices_without_a_common_distance(tmp_path):
    folder = write_slices(tmp_path / "a", places=lambda k: (0, 0, 0.25 * k + 0.1 * (k % 3)))
    with pytest.raises(InputError, match=r"mm apart, expected one distance"):
        read_volume(folder)


def test_slices_nearly_at_one_distance(tmp_path):
    folder = write_slices(tmp_path / "a", places=lambda k: (0, 0, round(0.26 * k, 1 if k % 2 else 2)))
    agrees(folder, "mm apart, expected one distance; took 0.2587", tolerance=90)


def test_enhanced(tmp_path):
    path = save(enhanced(range(SHAPE[0])), tmp_path / "a/scan")
    agrees(path.parent)
    agrees(path)


def test_enhanced_with_its_slices_shuffled(tmp_path):
    agrees(save(enhanced(SHUFFLED), tmp_path / "scan.dcm"))


def test_enhanced_with_a_missing_slice(tmp_path):
    agrees(save(enhanced([k for k in SHUFFLED if k != 5]), tmp_path / "scan.dcm"), "1 missing slices", tolerance=30)


def test_enhanced_with_grey_values_of_each_slice(tmp_path):
    ds = enhanced(range(SHAPE[0]))
    del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    frames = []
    for k, own in enumerate(ds.PerFrameFunctionalGroupsSequence):
        values = type(own)()
        values.RescaleSlope, values.RescaleIntercept = 1, -5000 - 10 * k
        own.PixelValueTransformationSequence = [values]
        frames.append((voxels()[k].astype(np.int32) + 5000 + 10 * k).astype("<u2").tobytes())
    ds.PixelData = b"".join(frames)
    agrees(save(ds, tmp_path / "scan.dcm"))


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({}, "order in the file and SliceThickness (0.25 mm)"),
        ({"SpacingBetweenSlices": SPACING[0], "SliceThickness": 2}, "SpacingBetweenSlices (0.25 mm)"),
        ({"SOPClassUID": MULTI_FRAME_CAPTURE, "Modality": "OT"}, "SliceThickness (0.25 mm)"),
        ({"GridFrameOffsetVector": [SPACING[0] * k for k in range(SHAPE[0])]}, "took SliceLocation"),
    ],
)
def test_many_slices_in_one_file_without_positions(tmp_path, change, warning):
    ds = many_slices()
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    volume = agrees(save(ds, tmp_path / "scan.dcm"), warning)
    assert "top and bottom are not certain" in volume.warnings[-1] or len(volume.warnings) > 1
    assert volume.oriented


def test_a_negative_distance_turns_the_stack_over(tmp_path):
    ds = many_slices(range(SHAPE[0] - 1, -1, -1))
    ds.SpacingBetweenSlices = -SPACING[0]
    ds.ImagePositionPatient = list(place(SHAPE[0] - 1))
    agrees(save(ds, tmp_path / "scan.dcm"), "SpacingBetweenSlices (-0.25 mm)")


def test_many_slices_without_any_place(tmp_path):
    ds = many_slices()
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    volume = read_volume(save(ds, tmp_path / "scan.dcm"))
    assert not volume.oriented
    warned(volume, "found no ImageOrientationPatient", "SliceThickness (0.25 mm)")
    np.testing.assert_array_equal(volume.array, voxels())
    assert volume.geometry.zyx_spacing == SPACING


@pytest.mark.parametrize(
    ("gone", "put", "spacing", "warning"),
    [
        (("PixelSpacing",), {"ImagerPixelSpacing": [0.3, 0.4]}, SPACING, "took ImagerPixelSpacing (0.4 x 0.3 mm)"),
        (("PixelSpacing",), {}, (0.25, 0.25, 0.25), "took SliceThickness (0.25 mm) for all axes"),
        (("SliceThickness",), {}, (0.3, 0.3, 0.4), "the spacing of pixels (0.3 mm) as the distance"),
        (("PixelSpacing", "SliceThickness"), {}, (1, 1, 1), "a distance of 1 mm"),
    ],
)
def test_captures_with_half_a_voxel_size_or_none(tmp_path, gone, put, spacing, warning):
    ds = many_slices()
    ds.SOPClassUID, ds.Modality = MULTI_FRAME_CAPTURE, "OT"
    for keyword in (*gone, "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(ds, keyword)
    for keyword, value in put.items():
        setattr(ds, keyword, value)
    volume = read_volume(save(ds, tmp_path / "scan.dcm"))
    np.testing.assert_array_equal(volume.array, voxels())
    assert volume.spacing == spacing
    assert any(warning in line for line in volume.warnings)
    if spacing == (1, 1, 1):
        assert any("found no voxel size" in line for line in volume.warnings)


@pytest.mark.parametrize("syntax", PACKED)
@pytest.mark.parametrize("many", [False, True])
def test_packed(tmp_path, syntax, many):
    if many:
        ds = many_slices()
        frames = (voxels().astype(np.int32) + 5000).astype(np.uint16).view(np.int16)
        ds.PixelData = encapsulate([PACKED[syntax](frame) for frame in frames])
        ds["PixelData"].VR = "OB"
        agrees(save(ds, tmp_path / "scan.dcm", syntax), "order in the file")
    else:
        agrees(write_slices(tmp_path / "a", pack=PACKED[syntax], syntax=syntax))


@pytest.mark.parametrize("syntax", [*PACKED][1:])
def test_packed_numbers_of_other_kinds(tmp_path, syntax):
    """Of 13 bits, signed or not, with the sign carried on or cut off; of 16 bits without a sign."""
    for name, stored, offset, cut in (
        ("a", 13, 0, False),
        ("b", 13, 0, True),
        ("c", 13, 4000, False),
        ("d", 16, 4000, False),
    ):

        def change(ds, k, stored=stored, offset=offset):
            ds.BitsStored, ds.HighBit, ds.PixelRepresentation = stored, stored - 1, int(not offset)
            ds.RescaleIntercept = -offset

        def pack(numbers, offset=offset, cut=cut):
            moved = numbers.astype(int) + offset
            return PACKED[syntax]((moved & 0x1FFF if cut else moved).astype(np.int16))

        agrees(write_slices(tmp_path / name, change, pack=pack, syntax=syntax, count=4))


@pytest.mark.parametrize(
    ("syntax", "kind", "options"),
    [
        ("1.2.840.10008.1.2.4.50", "JPEG", {"quality": 98}),
        ("1.2.840.10008.1.2.4.90", "JPEG2000", {"irreversible": False, "no_jp2": True}),
        ("1.2.840.10008.1.2.4.90", "JPEG2000", {"irreversible": False, "no_jp2": False}),
    ],
)
def test_packed_numbers_of_eight_bits(tmp_path, syntax, kind, options):
    def change(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.RescaleSlope, ds.RescaleIntercept = 20, -3000

    def pack(numbers):
        content = io.BytesIO()
        Image.fromarray(((numbers.astype(int) + 3000) // 20).astype(np.uint8)).save(content, kind, **options)
        return content.getvalue()

    agrees(write_slices(tmp_path / "a", change, pack=pack, syntax=syntax), tolerance=45)


def test_deflated_and_big_endian_and_implicit(tmp_path):
    for syntax in ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2"):
        agrees(write_slices(tmp_path / syntax, syntax=syntax))

    def swap(ds, k):
        ds.PixelData = plane(place(k)).astype(">i2").tobytes()

    agrees(write_slices(tmp_path / "big", swap, syntax="1.2.840.10008.1.2.2"))


@pytest.mark.parametrize("kind", ["OB", "OW"])
@pytest.mark.parametrize("columns", [24, 23])
def test_eight_bits_in_big_endian_words(tmp_path, kind, columns):
    """Where bytes are written as words of 16 bits, the second of two comes first, across rows and slices too."""
    numbers = np.random.default_rng(0).integers(0, 256, (4, 5, columns), np.uint8)
    ds = many_slices()
    ds.Rows, ds.Columns, ds.NumberOfFrames = numbers.shape[1:] + numbers.shape[:1]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 8, 8, 7, 0
    ds.PixelData = numbers.tobytes() if kind == "OB" else numbers.ravel().view("<u2").astype(">u2").tobytes()
    ds["PixelData"].VR = kind
    path = save(ds, tmp_path / "a.dcm", "1.2.840.10008.1.2.2")
    np.testing.assert_array_equal(read_volume(path).array, numbers)


def test_without_the_mark_at_the_beginning(tmp_path):
    folder = write_slices(tmp_path / "a", syntax="1.2.840.10008.1.2")
    for path in folder.iterdir():
        content = path.read_bytes()
        path.write_bytes(content[content.index(b"\x08\0\x08\0") :])  # where the data set begins
    agrees(folder)


def test_location_in_place_of_position(tmp_path):
    gone = without("ImagePositionPatient", "ImageOrientationPatient")
    volume = read_volume(write_slices(tmp_path / "a", gone, names=SHUFFLED))
    assert not volume.oriented
    warned(volume, "found no ImageOrientationPatient", "took SliceLocation")
    np.testing.assert_array_equal(volume.array, voxels())
    np.testing.assert_allclose(volume.geometry.zyx_spacing, SPACING)


def test_numbers_in_place_of_position(tmp_path):
    gone = without("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation")
    volume = read_volume(write_slices(tmp_path / "a", gone, names=SHUFFLED))
    warned(volume, "found no ImageOrientationPatient", "order of InstanceNumber and SliceThickness")
    np.testing.assert_array_equal(volume.array, voxels())


def test_nothing_to_order_slices_by(tmp_path):
    gone = without("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "InstanceNumber")
    with pytest.raises(InputError, match="found no position, location or number of each slice"):
        read_volume(write_slices(tmp_path / "a", gone))


def test_one_position_for_all_slices(tmp_path):
    folder = write_slices(tmp_path / "a", setting(ImagePositionPatient=list(ORIGIN)), names=SHUFFLED)
    agrees(folder, "found no position of each slice, expected ImagePositionPatient; took SliceLocation")


def test_low_values_shown_bright_are_values_all_the_same(tmp_path):
    agrees(write_slices(tmp_path / "a", setting(PhotometricInterpretation="MONOCHROME1")), "found MONOCHROME1")


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"RescaleType": "OD"}, "found a RescaleType of OD, expected grey values as of a CT"),
        ({"RescaleType": "US"}, None),
        ({"RescaleType": "HU"}, None),
        ({"RescaleType": ""}, None),
        ({"PixelIntensityRelationship": "LOG"}, "found a PixelIntensityRelationship of LOG"),
        ({"PixelIntensityRelationship": "LIN"}, None),
        ({"PresentationLUTShape": "INVERSE"}, "found a PresentationLUTShape of INVERSE"),
        ({"PresentationLUTShape": "IDENTITY"}, None),
        ({"FrameOfReferenceUID": "1.2.3"}, None),
    ],
)
def test_grey_values_of_another_meaning_are_said(tmp_path, stated, says):
    agrees(write_slices(tmp_path / "a", setting(**stated)), *([says] if says else []))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("group", "what", "told"),
    [
        ("PixelValueTransformationSequence", "RescaleType", "OD"),
        ("FramePixelDataPropertiesSequence", "PixelIntensityRelationship", "LOG"),
    ],
)
def test_grey_values_of_another_meaning_in_one_file_are_said(tmp_path, own, group, what, told):
    ds = enhanced(range(SHAPE[0]))
    for groups in (list(ds.PerFrameFunctionalGroupsSequence) if own else ds.SharedFunctionalGroupsSequence)[-1:]:
        found = groups[group].value[0] if group in groups else Dataset()
        if own and what == "RescaleType":
            found.RescaleSlope, found.RescaleIntercept = 1, -5000
        setattr(found, what, told)
        setattr(groups, group, [found])
    agrees(save(ds, tmp_path / "scan.dcm"), f"found a {what} of {told}, expected grey values")


def test_a_table_of_grey_values_beside_slope_and_intercept_is_said(tmp_path):
    def change(ds, k):
        if k == 5:
            table = Dataset()
            table.LUTDescriptor, table.LUTData = [256, 0, 16], bytes(512)
            ds.ModalityLUTSequence = [table]

    agrees(write_slices(tmp_path / "a", change), "(Modality LUT) beside slope and intercept in 1 slices")

    def alone(ds, k):
        change(ds, k)
        if k == 5:
            del ds.RescaleSlope, ds.RescaleIntercept

    with pytest.raises(InputError, match="found a table of grey values"):
        read_volume(write_slices(tmp_path / "b", alone))


def test_slices_that_were_packed_with_loss_are_said(tmp_path):
    agrees(write_slices(tmp_path / "a", setting(LossyImageCompression="00")))
    lossy = setting(LossyImageCompression=lambda k: "01" if k == 5 else "00")
    agrees(write_slices(tmp_path / "b", lossy), "packed with loss (LossyImageCompression), expected all values")


def test_a_range_of_padding_that_is_all_of_a_scan(tmp_path):
    change = setting(PixelPaddingValue=-32768, PixelPaddingRangeLimit=32767)
    said = f"found {np.prod(SHAPE)} voxels with the value of padding, which is all of them"
    agrees(write_slices(tmp_path / "a", change), said)


def test_differences_that_single_precision_does_not_hold(tmp_path):
    """By slopes and intercepts that are no whole numbers, so that grey values are none either."""
    for name, slope, intercept, is_said in (("a", 1e-300, 0, 1), ("b", 1e-3, 1e6 + 0.5, 1), ("c", 0.5, 1000.5, 0)):
        folder = write_slices(tmp_path / name, setting(RescaleSlope=slope, RescaleIntercept=intercept))
        assert str(read_volume(folder).warnings).count("; single precision rounds them by up to") == is_said


def test_slices_of_several_frames_of_reference_are_said(tmp_path):
    folder = write_slices(tmp_path / "a", lambda ds, k: setattr(ds, "FrameOfReferenceUID", f"1.2.{k // 6}"))
    agrees(folder, "found 2 frames of reference (FrameOfReferenceUID), expected one for all slices")


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    from umamba2.scans.find import find_scans

    write_slices(tmp_path / "a")
    (tmp_path / "a/more").mkdir()
    (tmp_path / "a/lost+found").mkdir()
    there = os.scandir

    def refuse(place):
        if os.path.basename(place) in ("more", "lost+found"):
            raise PermissionError(13, "Permission denied", place)
        return there(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert tmp_path / "a/more" in find_scans(tmp_path)
    for which in ("a", "a/more"):
        with pytest.raises(InputError, match="more: could not be read, expected a folder that can be"):
            read_volume(tmp_path / which)


def test_slope_and_intercept_of_each_slice(tmp_path):
    def change(ds, k):
        ds.RescaleSlope, ds.RescaleIntercept = 1 + k % 2, -k
        ds.PixelData = ((plane(place(k)).astype(int) + k) // (1 + k % 2)).astype("<i2").tobytes()

    agrees(write_slices(tmp_path / "a", change), tolerance=1.51)


def test_a_slope_that_is_not_whole(tmp_path):
    def change(ds, k):
        ds.RescaleSlope, ds.RescaleIntercept = "0.5", "0.25"
        ds.PixelData = (plane(place(k)) * 2).astype("<i2").tobytes()

    volume = agrees(write_slices(tmp_path / "a", change), tolerance=0.8)
    assert volume.array.dtype == np.float32


def test_unsigned_values_that_only_fit_after_the_intercept(tmp_path):
    def change(ds, k):
        ds.PixelRepresentation, ds.RescaleIntercept = 0, -40000
        ds.PixelData = (plane(place(k)).astype(np.int32) + 40000).astype("<u2").tobytes()

    assert agrees(write_slices(tmp_path / "a", change)).array.dtype == np.int16


def test_padding_becomes_air(tmp_path):
    outside = np.hypot(*np.indices(SHAPE[1:])) < 8

    def change(ds, k):
        values = plane(place(k))
        values[outside] = -32768
        ds.PixelData = values.astype("<i2").tobytes()
        ds.add_new(0x00280120, "SS", -32768)

    volume = read_volume(write_slices(tmp_path / "a", change))
    warned(volume, f"{SHAPE[0] * outside.sum()} voxels with the value of padding (-32768)")
    expected = truth(volume.geometry)
    np.testing.assert_allclose(volume.array[:, ~outside], expected[:, ~outside], atol=0.51)
    assert (volume.array[:, outside] == volume.array[:, ~outside].min()).all()


def test_a_value_of_padding_that_tissue_has_too_is_left(tmp_path):
    assert (voxels() == 0).any()
    agrees(write_slices(tmp_path / "a", lambda ds, k: ds.add_new(0x00280120, "SS", 0)), "left as they are")


def test_the_same_slices_twice(tmp_path):
    write_slices(tmp_path / "a")
    write_slices(tmp_path / "a/copy", count=5)
    agrees(tmp_path / "a", "found 5 slices twice")


def test_different_slices_at_one_place(tmp_path):
    write_slices(tmp_path / "a")
    write_slices(tmp_path / "a/other", lambda ds, k: setattr(ds, "PixelData", bytes(2 * SHAPE[1] * SHAPE[2])), count=5)
    with pytest.raises(InputError, match=r"found two different slices at one place \(layer 1\)"):
        read_volume(tmp_path / "a")


def test_two_passes_over_the_same_places(tmp_path):
    write_slices(tmp_path / "a", setting(AcquisitionNumber=1))
    write_slices(tmp_path / "a/b", lambda ds, k: setting(AcquisitionNumber=2, PixelData=bytes(960))(ds, k), count=5)
    agrees(tmp_path / "a", "found 2 volumes, expected one; took the largest")


@pytest.mark.parametrize("part", [lambda k: k % 2, lambda k: int(3 <= k < 6)], ids=["alternating", "in the middle"])
def test_acquisitions_between_each_other(tmp_path, part):
    folder = write_slices(tmp_path / "a", lambda ds, k: setting(AcquisitionNumber=part(k) + 1)(ds, k))
    agrees(folder, "found slices of 2 acquisitions (AcquisitionNumber) between each other")


@pytest.mark.parametrize("part", [lambda k: k // 4, lambda k: k], ids=["of four slices", "of one slice"])
def test_acquisitions_behind_each_other(tmp_path, part):
    agrees(write_slices(tmp_path / "a", lambda ds, k: setting(AcquisitionNumber=part(k) + 1)(ds, k)))


@pytest.mark.parametrize("apart", [False, True], ids=["between each other", "behind each other"])
def test_stacks_in_one_file(tmp_path, apart):
    ds = enhanced(range(SHAPE[0]))
    for k, own in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content = Dataset()
        content.StackID = str(k // 4 if apart else k % 2)
        own.FrameContentSequence = [content]
    said = [] if apart else ["found slices of 2 stacks (StackID) between each other"]
    agrees(save(ds, tmp_path / "scan.dcm"), *said)


@pytest.mark.parametrize("apart", [False, True], ids=["between each other", "behind each other"])
@pytest.mark.parametrize("one_file", [False, True])
def test_times_of_a_scan(tmp_path, apart, one_file):
    times = [k // 4 + 1 if apart else k % 2 + 1 for k in range(SHAPE[0])]
    said = [] if apart else ["found slices of 2 times (TemporalPositionIdentifier) between each other"]
    if not one_file:
        agrees(write_slices(tmp_path / "a", lambda ds, k: setting(TemporalPositionIdentifier=times[k])(ds, k)), *said)
        return
    ds = enhanced(range(SHAPE[0]))
    for time, own in zip(times, ds.PerFrameFunctionalGroupsSequence):
        content = Dataset()
        content.TemporalPositionIndex = time
        own.FrameContentSequence = [content]
    agrees(save(ds, tmp_path / "scan.dcm"), *said)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(
    ("group", "what"),
    [
        ("PixelValueTransformationSequence", "RescaleSlope"),
        ("PixelValueTransformationSequence", "RescaleIntercept"),
        ("PixelMeasuresSequence", "PixelSpacing"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ],
)
def test_numbers_stated_in_a_group_and_at_the_top(tmp_path, group, what, same):
    ds = enhanced(range(SHAPE[0]))
    shared = ds.SharedFunctionalGroupsSequence[0]
    stated = getattr(shared[group][0], what)
    count = 1 if group == "PixelValueTransformationSequence" else 2
    setattr(
        ds, what, stated if same else (0.7 if count == 1 else [0.7, 0.7] if "Spacing" in what else [0, 1, 0, 1, 0, 0])
    )
    agrees(save(ds, tmp_path / "scan.dcm"), *([] if same else [f"found {what} twice with different numbers"]))


def test_a_photometric_interpretation_that_is_not_known_is_said(tmp_path):
    folder = write_slices(tmp_path / "a", lambda ds, k: setting(PhotometricInterpretation="FOO")(ds, k))
    agrees(folder, "found FOO, expected MONOCHROME2; values taken as they are")


@pytest.mark.parametrize("own_series", [False, True])
def test_localizers_are_left_out(tmp_path, own_series):
    folder = write_slices(tmp_path / "a")
    ds = header(series="scout" if own_series else "series")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 0, -1]
    ds.PixelData = bytes(2 * SHAPE[1] * SHAPE[2])
    save(ds, folder / "A_SCOUT.dcm")
    agrees(folder)


def test_other_images_are_left_out(tmp_path):
    folder = write_slices(tmp_path / "a")
    segmentation = many_slices()
    segmentation.SOPClassUID, segmentation.Modality = "1.2.840.10008.5.1.4.1.1.66.4", "SEG"
    save(segmentation, folder / "seg.dcm")
    colour = header()
    colour.SamplesPerPixel, colour.PhotometricInterpretation, colour.PixelData = 3, "RGB", bytes(3 * 480)
    save(colour, folder / "screenshot.dcm")
    text = header()
    text.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    del text.Rows, text.Columns
    save(text, folder / "report.dcm")
    panorama = header(series="panorama")
    panorama.Rows, panorama.Columns, panorama.PixelData = 5, 7, bytes(70)
    save(panorama, folder / "panorama.dcm")
    agrees(folder)


def test_the_largest_of_several_series_and_any_other_by_name(tmp_path):
    write_slices(tmp_path / "a/1")
    write_slices(tmp_path / "a/2", setting(SeriesNumber=7), count=5, series="other")
    uid = header(series="other").SeriesInstanceUID
    volume = agrees(tmp_path / "a", "series 1 (24 x 20 x 12 voxels), and left out series 7 (24 x 20 x 5 voxels)")
    assert uid not in str(volume.warnings)
    for series in ("7", uid):
        assert agrees(tmp_path / "a", series=series).geometry.size[2] == 5
    with pytest.raises(InputError, match=rf"found none of series 3, expected one of .*{uid} = series 7 \(24"):
        read_volume(tmp_path / "a", "3")


def test_a_number_that_several_series_have(tmp_path):
    write_slices(tmp_path / "a/1")
    write_slices(tmp_path / "a/2", count=5, series="other")
    with pytest.raises(InputError, match="found 2 of series 1, expected one of"):
        read_volume(tmp_path / "a", "1")


def test_two_patients(tmp_path):
    write_slices(tmp_path / "a/1", patient="1")
    write_slices(tmp_path / "a/2", patient="2", count=5)
    with pytest.raises(InputError, match=r"found scans of 2 patients, expected one \(--series UID chooses\)"):
        read_volume(tmp_path / "a")
    assert agrees(tmp_path / "a", series=str(header(patient="2").SeriesInstanceUID)).geometry.size[2] == 5


def test_a_series_of_its_own_for_each_slice(tmp_path):
    folder = write_slices(tmp_path / "a", setting(SeriesInstanceUID=lambda k: f"1.2.{k}"))
    agrees(folder, "found a series UID of its own for each of 12 slices")


def test_a_distance_that_contradicts_positions(tmp_path):
    agrees(write_slices(tmp_path / "a", setting(SpacingBetweenSlices=0.5)), "SpacingBetweenSlices of 0.5 mm")


def test_one_slice_is_no_volume(tmp_path):
    folder = write_slices(tmp_path / "a", count=1)
    for path in (folder, folder / "IM0000"):
        with pytest.raises(InputError, match="found one slice, expected the slices of a volume"):
            read_volume(path)


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"Roe Jane/{path.relative_to(folder)}")
    return archive


def test_a_zip(tmp_path):
    folder = write_slices(tmp_path / "a", names=SHUFFLED)
    assert agrees(zipped(folder, tmp_path / "Scan.ZIP")).name == str(tmp_path / "Scan.ZIP")
