"""Files that contradict themselves or each other: read as their makers meant them, or with a word, or not at all."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from dicom_series import (
    ORIGIN,
    SHAPE,
    SPACING,
    enhanced,
    header,
    jpeg_2000,
    lossless_jpeg,
    many_slices,
    place,
    plane,
    rle,
    save,
    truth,
    write_slices,
)
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate

from umamba2.errors import InputError
from umamba2.scans.dicom import series
from umamba2.scans.volumes import read_volume

JPEG, J2K, LOSSLESS, RLE = (f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.90", "4.70", "5"))
MANY_BITS = "numbers of more bits than stated"


def read(path, *words, wanted=None):
    """Read a volume, which must be right, with these warnings."""
    volume = read_volume(path, wanted)
    np.testing.assert_allclose(volume.array, truth(volume.geometry), atol=0.51)
    said = [line for line in volume.warnings if "field of view" not in line]
    assert len(said) == len(words), said
    assert all(word in line for word, line in zip(words, said)), said
    return volume


def refused(path, word, wanted=None):
    with pytest.raises(InputError, match=word) as caught:
        read_volume(path, wanted)
    assert "\n" not in str(caught.value)


# --- bits of stored numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [11, 15])
def test_bits_count_in_all_slices_or_in_none(tmp_path, high):
    """Slices of one scan whose numbers fit what is stated, if they were shifted or given a sign, between others."""

    def change(ds, k):
        ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 12, high, 0
        numbers = plane(place(k)).astype(int)
        if k % 2:
            numbers = np.abs(numbers) & ~15 if high == 15 else np.abs(numbers) + 1000
        ds.PixelData = numbers.astype("<i2").tobytes()

    volume = read_volume(write_slices(tmp_path / "a", change))
    numbers = np.stack([plane(place(k)) for k in range(SHAPE[0])]).astype(int)
    numbers[1::2] = np.abs(numbers[1::2]) & ~15 if high == 15 else np.abs(numbers[1::2]) + 1000
    np.testing.assert_array_equal(volume.array, numbers)
    assert any(MANY_BITS in line for line in volume.warnings)


@pytest.mark.parametrize("high", [11, 15])
def test_run_lengths_of_more_bits_than_stated(tmp_path, high):
    """The codec would take these bits away, where those of other packings are left."""

    def change(ds, k):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, high, 0, -5000

    def pack(stored):
        return rle(stored.astype(int) + 5000)

    read(write_slices(tmp_path / "a", change, pack=pack, syntax=RLE), MANY_BITS)


# --- packed pixels ----------------------------------------------------------------------------------------------------


def test_colours_in_a_file_that_states_grey_values(tmp_path):
    def pack(stored):
        content = io.BytesIO()
        Image.fromarray((stored // 16).astype(np.uint8)).convert("RGB").save(content, "JPEG", quality=95)
        return content.getvalue()

    def change(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0

    folder = write_slices(tmp_path / "a", change, pack=pack, syntax=JPEG)
    refused(folder, "IM0000: found 3 values for each packed voxel, expected 1")


@pytest.mark.parametrize("bits", [17, 24])
def test_jpeg_2000_of_more_bits_than_its_codec_takes(tmp_path, bits):
    """As it unpacks them, nearly all would be wrong."""

    def pack(stored):
        packed = bytearray(jpeg_2000(stored.astype(np.uint16)))
        packed[packed.index(b"\xff\x51") + 40] = bits - 1
        return bytes(packed)

    def change(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, bits, bits - 1

    folder = write_slices(tmp_path / "a", change, pack=pack, syntax=J2K)
    refused(folder, f"IM0000: found packed numbers of {bits} bits, expected 1 to 16")


@pytest.mark.parametrize(("allocated", "stored"), [(8, 5), (8, 7), (16, 12), (32, 8), (32, 12), (32, 17), (32, 32)])
def test_run_lengths_of_any_bits(tmp_path, allocated, stored):
    kept = {}

    def change(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, stored, stored - 1, 0
        kept[k] = (plane(place(k)).astype(np.int64) + 5000) * 997 % (1 << min(stored, 31))
        ds.PixelData = encapsulate([rle(kept[k], allocated)])
        ds["PixelData"].VR = "OB"

    folder = write_slices(tmp_path / "a", change, pack=rle, syntax=RLE)
    expected = np.stack([kept[k] for k in range(SHAPE[0])])
    np.testing.assert_array_equal(read_volume(folder).array, expected.astype(np.float32 if stored > 15 else np.int64))


def test_run_lengths_that_begin_behind_their_end(tmp_path):
    def pack(stored):
        packed = rle(stored)
        return packed[: len(packed) // 3]

    refused(write_slices(tmp_path / "a", pack=pack, syntax=RLE), "IM0000: found damaged pixels")


def test_run_lengths_that_look_like_a_second_stream(tmp_path):
    """The marks of JPEG mean nothing in them."""

    def change(ds, k):
        numbers = plane(place(k)).copy()
        numbers.view(np.uint8)[:5, 0] = 0
        high, low = b"\xff\xd9\xff\xd8\xff", bytes(5)
        numbers[0, :5] = np.frombuffer(bytes(b for pair in zip(low, high) for b in pair), "<i2")
        kept[k] = numbers
        ds.PixelData = encapsulate([rle(numbers)])
        ds["PixelData"].VR = "OB"

    kept = {}
    folder = write_slices(tmp_path / "a", change, pack=rle, syntax=RLE)
    np.testing.assert_array_equal(read_volume(folder).array, [kept[k] for k in range(SHAPE[0])])


def test_bytes_of_no_voxel_in_lossless_jpeg_are_said(tmp_path):
    """The codec reads on behind them, at the wrong place, and says so nowhere else."""

    def pack(stored):
        packed = lossless_jpeg(stored)
        at = packed.index(b"\xff\xda") + 10  # 8 voxels like those before them, and all others behind their places
        return packed[:at] + bytes(5) + packed[at:] if stored[0, 0] == plane(place(5))[0, 0] else packed

    volume = read_volume(write_slices(tmp_path / "a", pack=pack, syntax=LOSSLESS))
    assert any("IM0005: found bytes in its packed pixels that belong to no voxel" in line for line in volume.warnings)


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "element"),
    [
        ("RescaleSlope", struct.pack("<HH2sH2s", 0x28, 0x1053, b"DS", 2, b"2 ")),
        ("ImagePositionPatient", struct.pack("<HH2sH6s", 0x20, 0x32, b"DS", 6, b"1\\2\\3 ")),
        ("PixelRepresentation", struct.pack("<HH2sHH", 0x28, 0x103, b"US", 2, 0)),
    ],
)
def test_an_element_twice_is_refused(tmp_path, keyword, element):
    """One program takes the first, another the last."""
    folder = write_slices(tmp_path / "a")
    file = folder / "IM0003"
    content = file.read_bytes()
    at = content.index(element[:6])
    end = at + 8 + struct.unpack("<H", content[at + 6 : at + 8])[0]
    file.write_bytes(content[:end] + element + content[end:])
    refused(folder, rf"IM0003: found the element \({element[1::-1].hex()},{element[3:1:-1].hex().upper()}\) twice")


@pytest.mark.parametrize("tag", [0x52009230, 0x00081140])
def test_sequences_of_items_without_end(tmp_path, tag):
    """Of a stated length, so that they are taken apart only when they are asked for, in a minute and more."""
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 200_000
    element = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(items)) + items
    folder = write_slices(tmp_path / "a")
    content = (folder / "IM0003").read_bytes()
    before = b"\x10\0\x10\0" if tag < 0x00100000 else b"\xe0\x7f\x10\0"
    (folder / "IM0003").write_bytes(content.replace(before, element + before, 1))
    refused(folder, "IM0003: found items without end")


@pytest.mark.parametrize("wanted", ["\u00b2", "9" * 5000])
def test_numbers_of_series_that_are_none(tmp_path, wanted):
    refused(write_slices(tmp_path / "a"), "found none of series", wanted)


def test_groups_and_lists_that_are_numbers(tmp_path):
    ds = enhanced([*range(SHAPE[0])])
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    ds.SharedFunctionalGroupsSequence[0].add_new(0x00289110, "UL", [1, 2])
    save(ds, tmp_path / "a.dcm")
    assert read_volume(tmp_path / "a.dcm").geometry.size[2] == SHAPE[0]
    del ds.PerFrameFunctionalGroupsSequence
    ds.add_new(0x52009230, "UL", 7)
    save(ds, tmp_path / "b.dcm")
    assert read_volume(tmp_path / "b.dcm").geometry.size[2] == SHAPE[0]
    directory, record = header(), Dataset()
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    record.add_new(0x00041500, "US", 1)
    directory.DirectoryRecordSequence = [record]
    folder = write_slices(tmp_path / "c")
    save(directory, folder / "DICOMDIR")
    read(folder, "found 1 files that its DICOMDIR lists and that are not there")


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_numbers_that_only_python_takes_for_some(tmp_path):
    def change(ds, k):
        ds.RescaleSlope = "1"
        ds.RescaleIntercept = "1_0"

    refused(write_slices(tmp_path / "a", change), "found a RescaleIntercept that is no number")


def test_every_second_number_in_place_of_positions(tmp_path):
    """The distance is what is stated, not twice that."""

    def change(ds, k):
        del ds.ImagePositionPatient, ds.SliceLocation
        ds.InstanceNumber = 2 * k + 1

    volume = read_volume(write_slices(tmp_path / "a", change))
    assert volume.geometry.spacing[2] == pytest.approx(SPACING[0])
    np.testing.assert_array_equal(volume.array, [plane(place(k)) for k in range(SHAPE[0])])


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_large_headers_in_a_zip(tmp_path, packing):
    """What is said of each slice in more than a megabyte."""
    ds = enhanced([3, 1, 0, 2, *range(4, 12)])
    for own in ds.PerFrameFunctionalGroupsSequence:
        own.add_new(0x00211010, "OB", bytes(100_000))
    save(ds, tmp_path / "a.dcm")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packing) as archive:
        archive.write(tmp_path / "a.dcm", "a.dcm")
        archive.writestr("more", np.random.default_rng(0).bytes(20_000))  # or it would swell beyond measure
    read(tmp_path / "a.dcm")
    read(tmp_path / "a.zip")


# --- which slices belong together -------------------------------------------------------------------------------------


def test_the_last_part_of_a_volume_may_be_one_slice(tmp_path):
    for number, part in enumerate((range(6), range(6, 11), range(11, 12)), start=1):
        ds = enhanced(list(part))
        ds.ConcatenationUID, ds.InConcatenationNumber, ds.InConcatenationTotalNumber = "1.2.3", number, 3
        save(ds, tmp_path / f"a/{number}")
    assert read(tmp_path / "a").geometry.shape == SHAPE


def test_a_file_that_is_there_twice_is_no_second_pass(tmp_path):
    """Where every slice is an acquisition of its own, as some scanners have it."""

    def change(ds, k):
        ds.AcquisitionNumber = k + 1

    folder = write_slices(tmp_path / "a", change)
    (folder / "copy").write_bytes((folder / "IM0004").read_bytes())
    assert read(folder, "found 1 slices twice").geometry.shape == SHAPE


def test_directions_without_end_take_no_time(tmp_path, monkeypatch):
    """Each of thousands of slices in a direction of its own: compared with all others in one go, not each with each."""
    compare, compared = series._are_alike, list[int]()
    monkeypatch.setattr(series, "_are_alike", lambda grids, grid: compared.append(1) or compare(grids, grid))
    ds = enhanced([0] * 2000)
    for k, own in enumerate(ds.PerFrameFunctionalGroupsSequence):
        own.PlaneOrientationSequence = [header()]
        own.PlaneOrientationSequence[0].ImageOrientationPatient = [np.cos(k / 300), np.sin(k / 300), 0, 0, 0, 1]
        own.PlanePositionSequence[0].ImagePositionPatient = [0, 0, k]
    ds.Rows = ds.Columns = 2
    ds.NumberOfFrames, ds.PixelData = 2000, bytes(2000 * 4 * 2)
    file = save(ds, tmp_path / "a.dcm")
    refused(file, "found 1[0-9]+ slices that do not belong together|found slices|found positions")
    assert 0 < len(compared) <= 3 * 2000


def _far(ds):
    ds.ImagePositionPatient = [1e7, 0, 0]


def _at_one_place(ds):
    ds.SharedFunctionalGroupsSequence[0].PlanePositionSequence = [header()]
    for own in ds.PerFrameFunctionalGroupsSequence:
        own.PlanePositionSequence[0].ImagePositionPatient = list(ORIGIN)


@pytest.mark.parametrize(("make", "spoil"), [(many_slices, _far), (enhanced, _at_one_place)])
def test_files_of_other_series_need_not_be_readable_where_one_is_asked_for(tmp_path, make, spoil):
    folder = write_slices(tmp_path / "a")
    other = make([*range(SHAPE[0])], **({"series": "other"} if make is many_slices else {}))
    other.SeriesInstanceUID, other.SeriesNumber = "1.2.3", 7
    spoil(other)
    save(other, folder / "other.dcm")
    refused(folder, "other.dcm: found")
    refused(folder, "other.dcm: found", wanted="7")
    read(folder, wanted="1")
    read(folder, wanted=str(header().SeriesInstanceUID))


@pytest.mark.parametrize("name", ["DICOMDIR-old", "dicomdir.dcm"])
def test_the_directory_of_a_disc_under_another_name(tmp_path, name):
    """It says what it is in the group before its data set alone."""
    folder = write_slices(tmp_path / "a")
    ds = header()
    for element in list(ds):
        if element.keyword not in ("SOPClassUID", "SOPInstanceUID"):
            del ds[element.tag]
    ds.SOPClassUID = "1.2.840.10008.1.3.10"
    ds.FileSetID = "DISC"
    content = save(ds, folder / name).read_bytes()
    at = content.index(b"\x08\0\x16\0")
    (folder / name).write_bytes(content[:at] + content[content.index(b"\x04\0\x30\x11") :])
    read(folder)


# --- slices that are lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1.2.840.77.{}", "IM.{}", "CT.1.{}.img"])
@pytest.mark.parametrize("how", ["checksum", "packing"])
def test_a_last_slice_in_a_zip_that_cannot_be_unpacked(tmp_path, name, how):
    """Whatever it is called: the slices beside it are called like it."""
    files = [path.read_bytes() for path in sorted(write_slices(tmp_path / "a").iterdir())]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for k, content in enumerate(files):
            last = k == len(files) - 1 and how == "packing"
            archive.writestr(name.format(k + 1), content, zipfile.ZIP_BZIP2 if last else None)
    if how == "checksum":
        content = bytearray((tmp_path / "a.zip").read_bytes())
        at = content.rindex(b"PK\3\4")
        content[at + 30 + len(name.format(12)) : at + 60] = b"\xff" * (at + 60 - (at + 30 + len(name.format(12))))
        (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "a.zip: file 12: could not be read")


def test_zips_beside_slices_are_said(tmp_path):
    folder = write_slices(tmp_path / "a", count=9)
    with zipfile.ZipFile(tmp_path / "rest.zip", "w") as archive:
        archive.writestr("IM0009", b"x" * 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in [*sorted(folder.iterdir()), tmp_path / "rest.zip"]:
            archive.write(path, path.name if path.parent == folder else f"more/{path.name}")
    read(tmp_path / "a.zip", "found 1 zips in the zip")
    (tmp_path / "rest.zip").rename(folder / "rest.zip")
    read(folder, "found 1 packed or unfinished files beside slices (rest.zip)")


@pytest.mark.parametrize("ending", [".gz", ".part", ".zip"])
@pytest.mark.parametrize("as_zip", [False, True])
def test_slices_that_are_packed_or_unfinished_are_said(tmp_path, ending, as_zip):
    folder = write_slices(tmp_path / "a", count=9, name="IM{:04d}.dcm")
    (folder / f"IM0009.dcm{ending}").write_bytes(b"\x1f\x8b" + bytes(100) if ending == ".gz" else b"")
    (folder / "IM0003.dcm.json").write_text("{}")  # which may lie there
    given = folder
    if as_zip:
        given = tmp_path / "a.zip"
        with zipfile.ZipFile(given, "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
    read(given, "found 1 packed or unfinished files beside slices")
