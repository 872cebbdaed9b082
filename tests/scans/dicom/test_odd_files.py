"""Files that are damaged, odd, or made to do harm: the true reason in one line, no wrong volume, no time, no memory."""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import struct
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest
from dicom_cases import write_series
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
from pydicom import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended

from umamba2.errors import InputError, MissingExtra
from umamba2.scans import memory
from umamba2.scans.dicom import pixels, sources
from umamba2.scans.dicom import read as dicom_read
from umamba2.scans.find import find_scans
from umamba2.scans.geometry import Geometry
from umamba2.scans.volumes import read_volume

SAGITTAL = [0, 1, 0, 0, 0, -1]
J2K, LOSSLESS, LS, RLE = (f"1.2.840.10008.1.2.{end}" for end in ("4.90", "4.70", "4.80", "5"))


def setting(**values):
    def change(ds, k):
        for keyword, value in values.items():
            setattr(ds, keyword, value(k) if callable(value) else value)

    return change


def damaged(folder, change, which=3):
    """A series of which one file's bytes are changed."""
    path = sorted(write_slices(folder).iterdir())[which]
    path.write_bytes(change(path.read_bytes()))
    return folder


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read_volume(path)
    line = str(caught.value)
    assert "\n" not in line
    assert ": found " in line or ": could not be read" in line
    assert all(word in line for word in words), line


def read(path, *words, tolerance=0.51):
    """Read a volume, which must be right, with these warnings."""
    volume = read_volume(path)
    np.testing.assert_allclose(volume.array, truth(volume.geometry), atol=tolerance)
    said = [line for line in volume.warnings if "field of view" not in line]
    assert len(said) == len(words), said
    assert all(word in line for word, line in zip(words, said)), said
    return volume


PIXELS = b"\xe0\x7f\x10\0"
BEFORE_STUDY = b"\x20\0\x0d\0"


def inserted(element):
    return lambda content: content.replace(BEFORE_STUDY, element + BEFORE_STUDY, 1)


def nested(depth):
    start = struct.pack("<HH2sHIHHI", 0x18, 0x9999, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return inserted(start * depth + end * depth)


ENDLESS = (
    struct.pack("<HH2sHI", 0x18, 0x9999, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) * 2000
)


@pytest.mark.parametrize(
    ("change", "which", "words"),
    [
        (lambda c: b"", -1, ["IM0011", "found no size of its image"]),
        (lambda c: c[:-100], 3, ["IM0003", "end of the file too early", "1 slices of 24 x 20"]),
        (lambda c: c[:300], 3, ["IM0003", "expected a complete DICOM file"]),
        (lambda c: c[: c.index(PIXELS)], -1, ["IM0011", "end of the file too early"]),
        (lambda c: c[:132] + bytes(range(256)) * 20, 3, ["IM0003", "expected a"]),
        (lambda c: c[:140] + b"\xff" * 2000, 3, ["IM0003", "expected a"]),
        (nested(5000), 3, ["IM0003", "could not be read (RecursionError)"]),
        (inserted(ENDLESS), 3, ["IM0003", "could not be read"]),
        (inserted(struct.pack("<HH2sHI", 0x19, 0x1010, b"OB", 0, 0xFFFFFFF0)), 3, ["IM0003", "complete DICOM file"]),
    ],
)
def test_one_bad_slice_and_its_file_is_named(tmp_path, change, which, words):
    refused(damaged(tmp_path / "a", change, which), *words)


def test_a_deep_header_is_none_of_ours_to_refuse(tmp_path):
    read(damaged(tmp_path / "a", nested(100)))


def zipped(path, *members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def given(folder, as_zip):
    """A folder, or a zip of it."""
    if not as_zip:
        return folder
    inner = [
        (path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    return zipped(folder.with_suffix(".zip"), *inner)


@pytest.mark.parametrize("size", [0, 100, 2000])
@pytest.mark.parametrize("name", ["IM.dcm", "IM", "IM.011"])
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_file_of_nothing_or_of_zeros_is_a_slice_that_was_lost(tmp_path, name, size, as_zip):
    folder = write_slices(
        tmp_path / "a", name="{:03d}.dcm" if "dcm" in name else "IM.{:03d}" if "." in name else "IM{}"
    )
    (folder / name).write_bytes(bytes(size))
    which = 1 + sorted(path.name for path in folder.iterdir()).index(name)
    refused(given(folder, as_zip), f"a.zip: file {which}:" if as_zip else name, "expected a complete DICOM file")
    (folder / "IM.dcm").write_bytes(b"")
    (tmp_path / "a.zip").unlink(missing_ok=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/swap").write_bytes(bytes(size))
    assert find_scans(tmp_path) == [folder]  # and anybody's where there is nothing else


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("name", ["s{:03d}", "s.{:03d}", "1.2.840.{}", "dir/00a{:x}f", "s{:03d}.img", "letters"])
@pytest.mark.parametrize(
    "change",
    [
        lambda c: bytes(200) + c[200:],
        lambda c: bytes(700) + c[700:],
        lambda c: b"\xff" * len(c),
        lambda c: c.replace(b"DICM", b"DICL"),
        lambda c: b"\0\0" + c,
    ],
)
def test_a_last_slice_whose_start_is_damaged(tmp_path, change, name, as_zip):
    """By its name it is one, or by its size."""
    folder = write_slices(tmp_path / "a", name="{}" if name == "letters" else name)
    last = folder / ("11" if name == "letters" else name.format(SHAPE[0] - 1))
    if name == "letters":
        for path in list(folder.iterdir()):
            path.rename(folder / ("slice" + "ghijklmnopqrstuv"[int(path.name)] * 3))
        last = folder / "slicerrr"
    last.write_bytes(change(last.read_bytes()))
    (last.parent / "readme").write_bytes(b"0" * 200)
    read(given(folder, as_zip), "found 1 files called, or as large, as the slices beside them that are no DICOM")


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_a_slice_that_changes_between_its_header_and_its_voxels(tmp_path, monkeypatch, change):
    folder = write_slices(tmp_path / "a")
    path = folder / "IM0005"
    whole = dicom_read.check_whole

    def changing(*arguments):
        whole(*arguments)
        content = path.read_bytes()
        path.unlink()
        if change != "gone":
            path.write_bytes(content[:-2] + b"\7\7" + bytes(change == "size"))

    monkeypatch.setattr(dicom_read, "check_whole", changing)
    if change == "gone":
        refused(folder, "IM0005: could not be read (No such file or directory), expected a file that stays")
    else:
        refused(folder, "IM0005: found a file that changed while it was read")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"Rows": 65535, "Columns": 65535}, ["end of the file too early", "65535 x 65535"]),
        ({"BitsAllocated": 12}, ["16 bits stored in 12"]),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.9, 0]}, ["found the directions 1\\0\\0\\0.5", "right angles"]),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, ["of length 1"]),
        ({"ImagePositionPatient": lambda k: [0, 0.25 * k, 0]}, ["positions side by side in one plane"]),
        ({"ImagePositionPatient": lambda k: [k == 5, 0, 0.25 * k]}, ["beside a straight line"]),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ["found no slice"]),
    ],
)
def test_values_that_make_no_volume(tmp_path, values, words):
    refused(write_slices(tmp_path / "a", setting(**values)), *words)


def test_a_slope_that_is_no_number(tmp_path):
    folder = write_slices(tmp_path / "a", setting(RescaleSlope="1.0"))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\x52\x10DS\x04\0", b"\x53\x11DS\x04\0"))
        content = path.read_bytes()
        assert b"\x53\x10DS\x04\x001.0 " in content
        path.write_bytes(content.replace(b"\x53\x10DS\x04\x001.0 ", b"\x53\x10DS\x04\0abc "))
    refused(folder, "found a RescaleSlope that is no number")


def test_a_slope_beyond_all_measure(tmp_path):
    folder = write_slices(tmp_path / "a", setting(RescaleSlope="1e300"))
    volume = read_volume(folder)
    assert np.isfinite(volume.array).all()
    assert any("NaN or infinite" in line for line in volume.warnings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"NumberOfFrames": 2**31 - 1}, ["'2147483647' as its number of slices"]),
        ({"NumberOfFrames": -3}, ["'-3' as its number of slices"]),
        ({"NumberOfFrames": 16000}, ["end of the file too early", "16000 slices"]),
    ],
)
def test_numbers_of_slices_that_cannot_be(tmp_path, values, words):
    ds = many_slices()
    setting(**values)(ds, 0)
    refused(save(ds, tmp_path / "a.dcm"), *words)
    ds.PixelData = encapsulate([rle(voxels()[0])])
    ds["PixelData"].VR = "OB"
    refused(save(ds, tmp_path / "b.dcm", RLE), *words[:1])


@pytest.mark.parametrize(
    "values", [{"SeriesInstanceUID": "1.2.3"}, {"StudyInstanceUID": "1.2.3"}, {"PixelSpacing": [0.4, 0.4]}]
)
def test_a_last_slice_that_went_astray(tmp_path, values):
    """Without it the others are a volume without a gap."""
    folder = write_slices(tmp_path / "a", lambda ds, k: setting(**values)(ds, k) if k == SHAPE[0] - 1 else None)
    read(folder, "found 1 single slices like those of a volume")


@pytest.mark.parametrize(
    "values",
    [
        {"SamplesPerPixel": 3},
        {"PhotometricInterpretation": "RGB"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"},
    ],
)
@pytest.mark.parametrize("elsewhere", [{}, {"SeriesInstanceUID": "1.2.3"}, {"ImageOrientationPatient": SAGITTAL}])
def test_a_last_slice_that_calls_itself_no_slice(tmp_path, values, elsewhere):
    """True localizers and pictures are of another series, or lie in another way."""
    odd = setting(**values, **elsewhere)
    folder = write_slices(tmp_path / "a", lambda ds, k: odd(ds, k) if k == SHAPE[0] - 1 else None)
    read(folder, *([] if elsewhere else ["found 1 images that lie as the slices of their series do"]))


def test_a_last_slice_of_another_size(tmp_path):
    def change(ds, k):
        if k == SHAPE[0] - 1:
            ds.Rows, ds.PixelData = 10, ds.PixelData[:480]

    read(write_slices(tmp_path / "a", change), "found 1 single slices like those of a volume")


def test_slices_that_store_numbers_in_several_ways(tmp_path):
    folder = write_slices(tmp_path / "a", setting(PixelRepresentation=lambda k: int(k != 5)))
    volume = read_volume(folder)
    assert any("found numbers stored in 2 ways" in line for line in volume.warnings)


def test_an_intercept_without_a_slope(tmp_path):
    def change(ds, k):
        del ds.RescaleSlope

    read(write_slices(tmp_path / "a", change), "found one of RescaleSlope and RescaleIntercept")


def test_more_pixels_than_slices(tmp_path):
    ds = many_slices()
    ds.PixelData += bytes(960)
    read(save(ds, tmp_path / "a.dcm"), "order in the file", "found 12480 bytes of pixels, expected 11520")


def test_more_pixels_than_slices_in_every_file_are_one_line(tmp_path):
    def change(ds, k):
        ds.PixelData += bytes(4)

    folder = write_slices(tmp_path / "a", change)
    read(folder, "found 964 bytes of pixels, expected 960; the others left out, and so are those of 11 more files")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", J2K])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 4) + bytes(4), []),
        (struct.pack("<HH2sH", 0x7FE1, 0x10, b"LO", 2) + b"AB", []),
        (bytes(1), []),
        (bytes(5000), []),
        (bytes(70_000), ["IM0003: found bytes behind its pixels, expected the end of the file; left out"]),
        (b"another slice", ["IM0003: found bytes behind its pixels, expected the end of the file; left out"]),
        (b"", []),
        (
            None,
            ["IM0000: found bytes behind its pixels, expected the end of the file; left out, and so are those of 11"],
        ),
    ],
)
def test_bytes_behind_the_pixels(tmp_path, syntax, more, words):
    def swap(ds, k):
        if syntax.endswith("2"):
            ds.PixelData = plane(place(k)).astype(">i2").tobytes()

    if syntax.endswith("2") and more:
        more = more[1::-1] + more[3:1:-1] + more[4:]
    folder = write_slices(tmp_path / "a", swap, pack=jpeg_2000 if syntax == J2K else None, syntax=syntax)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content + (content if more is None else more if path.name == "IM0003" else b""))
    read(folder, *words)


@pytest.mark.parametrize("near", [0, 3])
@pytest.mark.parametrize("syntax", [LS, J2K])
def test_loss_in_a_transfer_syntax_that_has_none(tmp_path, syntax, near):
    def pack(stored):
        import jpeg_ls as codec
        from PIL import Image

        numbers = np.ascontiguousarray((stored.astype(int) + 5000).astype(np.uint16))
        if syntax == LS:
            return bytes(codec.encode_array(numbers, near))
        content = io.BytesIO()
        Image.fromarray(numbers).save(content, "JPEG2000", irreversible=near > 0, no_jp2=True)
        return content.getvalue()

    folder = write_slices(
        tmp_path / "a", setting(RescaleIntercept=-5000, PixelRepresentation=0), pack=pack, syntax=syntax
    )
    words = "IM0000: found slices packed with loss in a transfer syntax that has none, expected all values as they were"
    read(folder, *([words] if near else []), tolerance=9 if near else 0.51)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"0.3\\0.4\\0.2 ", "'0.3', '0.4', '0.2'"),
        (b"0,3\\0,4 ", "'0,3', '0,4'"),
        (b"-.3\\-.4 ", "'-.3', '-.4'"),
        (b"0.3 ", "'0.3'"),
        (b"0\\0 ", "'0', '0'"),
        (b"a\nb ", "'a\\nb'"),
    ],
)
def test_a_pixel_spacing_that_is_none_is_said(tmp_path, written, words):
    folder = write_slices(tmp_path / "a")
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b"\x28\0\x30\0DS\x08\x000.3\\0.4 " in content
        element = b"\x28\0\x30\0DS" + struct.pack("<H", len(written)) + written
        path.write_bytes(content.replace(b"\x28\0\x30\0DS\x08\x000.3\\0.4 ", element))
    said = [line for line in read_volume(folder).warnings if "field of view" not in line]
    found = f"found the PixelSpacing {words}, expected two positive numbers"
    assert said == [f"{folder}: {found}; took SliceThickness (0.25 mm) for all axes"]


def test_numbers_that_single_precision_does_not_hold(tmp_path):
    def change(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 31
        ds.PixelData = ((1 << 24) + 1 + plane(place(k)) % np.int64(2)).astype("<i4").tobytes()

    said = read_volume(write_slices(tmp_path / "a", change)).warnings
    assert any("found values from 16777217 to 16777218, expected intensities" in line for line in said), said


def test_files_of_a_makers_own_kind(tmp_path):
    folder = write_slices(tmp_path / "a")
    ds = header()
    ds.SOPClassUID = "1.2.392.200036.9999.1"
    del ds.Rows, ds.Columns
    save(ds, folder / "raw")
    read(folder, "found 1 DICOM files of an unknown kind")


@pytest.mark.parametrize("many", [False, True])
def test_damage_anywhere_in_headers(tmp_path, many):
    """Whatever comes of it, it is a volume or one line: no other exception, no hang."""
    if many:
        save(enhanced(range(SHAPE[0])), tmp_path / "a/scan")
    else:
        write_slices(tmp_path / "a", count=4)
    rng = np.random.default_rng(7)
    files = sorted((tmp_path / "a").iterdir())
    for _ in range(60):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        content, end = bytearray(whole), whole.index(PIXELS) + 12
        for _ in range(rng.integers(1, 4)):
            at, noise = int(rng.integers(132, end)), rng.integers(0, 256, int(rng.integers(1, 9))).astype(np.uint8)
            content[at : at + int(rng.integers(0, 9))] = noise.tobytes()
        path.write_bytes(bytes(content))
        with suppress(InputError):
            read_volume(tmp_path / "a")
        path.write_bytes(whole)


def test_a_film_of_one_plane_is_no_volume(tmp_path):
    ds = enhanced(range(SHAPE[0]), positions=lambda k: ORIGIN)
    refused(save(ds, tmp_path / "a.dcm"), "found 12 slices at one place")


def test_another_modality(tmp_path):
    read(write_slices(tmp_path / "a", setting(Modality="MR")), "found the modality MR, expected CT")


def test_elements_without_kinds_in_a_file_that_states_them(tmp_path):
    folder = write_slices(tmp_path / "a", syntax="1.2.840.10008.1.2")
    for path in folder.iterdir():
        content = path.read_bytes()
        place = content.index(b"\x02\0\x10\0UI")
        assert content[place + 6 : place + 8] == b"\x12\0"
        length = struct.unpack("<I", content[140:144])[0] + 2
        stated = (
            content[:140] + struct.pack("<I", length) + content[144 : place + 6] + b"\x14\0" + b"1.2.840.10008.1.2.1\0"
        )
        path.write_bytes(stated + content[place + 8 + 18 :])
    read(folder)


def test_a_code_stream_that_asks_for_all_memory(tmp_path):
    def huge(stored):
        content = bytearray(jpeg_2000(stored))
        at = content.index(b"\xff\x51") + 6
        struct.pack_into(">2I", content, at, 200_000, 200_000)
        struct.pack_into(">2I", content, at + 16, 200_000, 200_000)
        return bytes(content)

    refused(write_slices(tmp_path / "a", pack=huge, syntax=J2K), "IM0000", "expected 24 x 20 voxels")


def test_a_reader_that_dies_is_one_bad_slice(tmp_path, monkeypatch):
    from umamba2.scans.dicom import decoder

    child = "import os, sys\nfor line in sys.stdin: os.abort()"
    monkeypatch.setattr(decoder, "_CHILD", child)
    refused(write_slices(tmp_path / "a", pack=jpeg_2000, syntax=J2K), "its reader was ended by signal 6")
    monkeypatch.setattr(decoder, "_CHILD", "import time\ntime.sleep(60)")
    monkeypatch.setattr(decoder, "_SECONDS", 0.2)
    refused(write_slices(tmp_path / "a", pack=jpeg_2000, syntax=J2K), "its reader was ended by signal 9")


def test_fewer_packed_slices_than_stated(tmp_path):
    ds = many_slices()
    ds.PixelData = encapsulate([rle(one) for one in voxels()[:5]])
    ds["PixelData"].VR = "OB"
    refused(save(ds, tmp_path / "b.dcm", RLE), "5 packed slices, expected 12")


@pytest.mark.parametrize(
    ("pack", "syntax", "has_table"), [(jpeg_2000, J2K, False), (jpeg_2000, J2K, True), (rle, RLE, True)]
)
def test_more_packed_slices_than_stated(tmp_path, pack, syntax, has_table):
    frames = [pack((one.astype(np.int32) + 5000).astype(np.int16)) for one in voxels()]
    for more, words in (([], []), (frames[:1], ["found more packed slices than 12; the others left out"])):
        ds = many_slices()
        ds.PixelData = encapsulate(frames + more, has_bot=has_table)
        ds["PixelData"].VR = "OB"
        volume = read_volume(save(ds, tmp_path / "b.dcm", syntax))
        assert [line for line in volume.warnings if "packed slices" in line] == [
            f"{volume.name}: {word}" for word in words
        ]
        np.testing.assert_array_equal(volume.array, voxels())


@pytest.mark.parametrize(("pack", "syntax"), [(jpeg_2000, J2K), (lossless_jpeg, LOSSLESS), (jpeg_ls, LS)])
@pytest.mark.parametrize("between", [b"", bytes(3)])
def test_two_packed_slices_in_a_file_of_one(tmp_path, pack, syntax, between):
    def change(ds, k):
        if k == 3:
            ds.PixelData = encapsulate([pack(plane(place(3))) + between, pack(plane(place(4)))], has_bot=False)
            ds["PixelData"].VR = "OB"

    folder = write_slices(tmp_path / "a", change, pack=pack, syntax=syntax)
    read(folder, "IM0003: found more packed slices than 1; the others left out")


@pytest.mark.parametrize(
    ("order", "cut"),
    [(range(12), 0), ([*range(11), 10], 0), ([1, 0, *range(2, 12)], 0), (range(11), 0), (range(12), 2)],
)
def test_a_table_that_names_other_packed_slices(tmp_path, order, cut):
    ds = many_slices()
    frames = [rle((one.astype(np.int32) + 5000).astype(np.int16)) for one in voxels()]
    ds.PixelData, *tables = encapsulate_extended(frames)
    ds["PixelData"].VR = "OB"
    offsets, lengths = (np.frombuffer(table, "<u8")[list(order)] for table in tables)
    ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = offsets.tobytes(), (lengths - cut).tobytes()
    path = save(ds, tmp_path / "a.dcm", RLE)
    if list(order) == list(range(12)) and not cut:
        read(path, "order in the file")
    else:
        refused(path, f"found an ExtendedOffsetTable of {len(order)} packed slices", "each of the 12 that there are")


@pytest.mark.parametrize("items", [9, 14])
def test_places_for_another_number_of_slices(tmp_path, items):
    ds = enhanced(range(SHAPE[0]))
    ds.PerFrameFunctionalGroupsSequence = (list(ds.PerFrameFunctionalGroupsSequence) * 2)[:items]
    refused(save(ds, tmp_path / "a.dcm"), f"of {items} slices, expected it of the 12")


@pytest.mark.parametrize(("pack", "syntax"), [(jpeg_2000, J2K), (lossless_jpeg, LOSSLESS), (jpeg_ls, LS), (rle, RLE)])
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_packed_pixels_that_end_too_early(tmp_path, pack, syntax, part):
    def cut(stored):
        content = pack(stored)
        return content[: int(len(content) * part)]

    refused(write_slices(tmp_path / "a", pack=cut, syntax=syntax), "IM0000", "damaged pixels, expected 24 x 20")


@pytest.mark.parametrize(("pack", "syntax"), [(jpeg_2000, J2K), (lossless_jpeg, LOSSLESS), (jpeg_ls, LS), (rle, RLE)])
@pytest.mark.parametrize(("rows", "columns"), [(10, 24), (16, 24), (24, 20), (20, 20), (12, 40), (21, 24)])
def test_packed_pixels_of_another_size(tmp_path, pack, syntax, rows, columns):
    """Of more voxels, of fewer, and of as many in other rows, which run lengths do not tell."""
    folder = write_slices(tmp_path / "a", setting(Rows=rows, Columns=columns), pack=pack, syntax=syntax)
    if pack is rle and rows * columns == 480:
        assert read_volume(folder).array.shape[1:] == (rows, columns)
    else:
        refused(folder, "IM0000", f"expected {columns} x {rows} voxels")


@pytest.mark.parametrize(("pack", "syntax"), [(jpeg_2000, J2K), (lossless_jpeg, LOSSLESS), (jpeg_ls, LS)])
@pytest.mark.parametrize(
    ("bits", "allocated", "stored", "signed", "words"),
    [
        (16, 8, 8, 0, None),
        (16, 8, 8, 1, None),
        (16, 16, 12, 0, ["found numbers of more bits than stated in 12 slices"]),
        (16, 16, 12, 1, ["found numbers of more bits than stated in 12 slices"]),
        (8, 16, 8, 0, []),
        (8, 16, 16, 0, []),
        (8, 16, 16, 1, ["found packed numbers of 8 bits without a sign, expected 16 bits with a sign"]),
    ],
)
def test_packed_numbers_of_other_bits_than_stated(tmp_path, pack, syntax, bits, allocated, stored, signed, words):
    """The values are those of the stream, or nothing is read; where its sign is not known, that is said."""
    scale = (20, -3000) if bits == 8 else (1, -5000)

    def change(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, stored, stored - 1, signed
        ds.RescaleSlope, ds.RescaleIntercept = scale

    def packed(plane):
        numbers = (plane.astype(int) - scale[1]) // scale[0]
        if bits == 16:
            return pack(numbers.astype(np.int16))
        if pack is lossless_jpeg:
            return lossless_jpeg(numbers, 8)
        return as_bytes(numbers.astype(np.uint8))

    def as_bytes(numbers):
        import jpeg_ls as codec
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(numbers).save(content, "JPEG2000", irreversible=False, no_jp2=True)
        return content.getvalue() if pack is jpeg_2000 else bytes(codec.encode_array(numbers, 0))

    folder = write_slices(tmp_path / "a", change, pack=packed, syntax=syntax)
    if words is None:
        refused(folder, "IM0000: found packed numbers of", f"expected 8 bits with{'out' * (not signed)} a sign")
    else:
        read(folder, *words, tolerance=0.51 if bits == 16 else 20)


def test_packed_pixels_of_anything(tmp_path):
    folder = write_slices(tmp_path / "a", pack=lambda stored: bytes(range(256)) * 3, syntax=J2K)
    refused(folder, "found damaged pixels")


def test_packed_pixels_that_claim_to_be_plain_and_plain_ones_that_claim_to_be_packed(tmp_path):
    refused(write_slices(tmp_path / "a", pack=rle, syntax="1.2.840.10008.1.2.1"), "found packed pixels")
    folder = write_slices(tmp_path / "b")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    refused(folder, "found plain pixels in a file that states packed ones")


def test_a_packing_that_nothing_here_unpacks(tmp_path):
    folder = write_slices(tmp_path / "a", pack=jpeg_2000, syntax="1.2.840.10008.1.2.4.201")
    refused(folder, "transfer syntax 1.2.840.10008.1.2.4.201", "JPEG 2000, RLE")


def test_pixels_of_floating_point(tmp_path):
    def change(ds, k):
        ds.FloatPixelData, ds.BitsAllocated = plane(place(k)).astype("<f4").tobytes(), 32
        del ds.PixelData

    refused(write_slices(tmp_path / "a", change), "found no pixels")


def test_eight_and_thirty_two_bits(tmp_path):
    def eight(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.RescaleSlope, ds.RescaleIntercept = 20, -3000
        ds.PixelData = ((plane(place(k)).astype(int) + 3000) // 20).astype(np.uint8).tobytes()

    def thirty_two(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 31
        ds.PixelData = plane(place(k)).astype("<i4").tobytes()

    read(write_slices(tmp_path / "a", eight), tolerance=20)
    read(write_slices(tmp_path / "b", thirty_two))


@pytest.mark.parametrize(
    ("stored", "signed", "high", "offset", "words"),
    [
        (13, 1, 12, 0, []),
        (13, 1, 12, None, []),  # the sign is not carried on
        (12, 1, 11, 0, ["more bits than stated"]),
        (12, 1, 15, 0, ["more bits than stated"]),  # numbers where that leaves none
        (12, 0, 11, 5000, ["more bits than stated"]),
    ],
)
def test_bits_as_stated_or_as_they_are(tmp_path, stored, signed, high, offset, words):
    def change(ds, k):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = stored, high, signed, -(offset or 0)
        numbers = plane(place(k)).astype(int) + (offset or 0)
        ds.PixelData = (
            (numbers & ((1 << stored) - 1) if offset is None else numbers).astype("<i8").astype("<u2").tobytes()
        )

    read(write_slices(tmp_path / "a", change), *words)


@pytest.mark.parametrize("stated", [None, 2])
def test_numbers_of_which_it_is_not_said_whether_they_have_a_sign(tmp_path, stated):
    """What was below 0 would be brighter than all else, wordlessly."""

    def change(ds, k):
        if stated is None:
            del ds.PixelRepresentation
        else:
            ds.PixelRepresentation = stated
        ds.RescaleIntercept = -5000
        ds.PixelData = (plane(place(k)).astype(int) + 5000).astype("<u2").tobytes()

    read(write_slices(tmp_path / "a", change), "found no PixelRepresentation of 0 or 1")


def test_high_bits_and_overlays(tmp_path):
    def high(ds, k):
        ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 13, 15, 0
        ds.PixelData = (plane(place(k)).astype(int) << 3).astype("<i8").astype("<u2").tobytes()

    def overlay(ds, k):
        ds.BitsStored, ds.HighBit = 13, 12
        ds.add_new(0x60000102, "US", 15)
        ds.PixelData = (plane(place(k)).astype(int) & 0x1FFF | 0x8000).astype("<u2").tobytes()

    read(write_slices(tmp_path / "a", high))
    read(write_slices(tmp_path / "b", overlay))


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("elements", [{0x60003000: ("OW", bytes(64)), 0x60000102: ("US", 0)}, {0x60000010: ("US", 8)}])
def test_overlays_elsewhere_leave_the_bits_of_voxels_alone(tmp_path, elements, signed):
    def change(ds, k):
        offset = 0 if signed else 5000
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, signed, -offset
        for tag, (kind, content) in elements.items():
            ds.add_new(tag, kind, content)
        ds.PixelData = (plane(place(k)).astype(int) + offset).astype("<i2").tobytes()

    read(write_slices(tmp_path / "a", change), "numbers of more bits than stated")


def test_bits_beside_those_of_an_overlay_are_not_taken_away(tmp_path):
    def change(ds, k):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, 0, -5000
        ds.add_new(0x60000102, "US", 15)
        ds.PixelData = (plane(place(k)).astype(int) + 5000 | 0x8000).astype("<u2").tobytes()

    read(write_slices(tmp_path / "a", change), "numbers of more bits than stated")


def test_several_values_a_voxel(tmp_path):
    def change(ds, k):
        ds.SamplesPerPixel, ds.PixelData = 2, np.repeat(plane(place(k)), 2).astype("<i2").tobytes()

    refused(write_slices(tmp_path / "a", change), "2 values per voxel")


def test_padding_with_the_wrong_sign(tmp_path):
    def change(ds, k):
        values = plane(place(k))
        values[:4] = -5000
        ds.PixelData = values.astype("<i2").tobytes()
        ds.add_new(0x00280120, "US", 65536 - 5000)

    volume = read_volume(write_slices(tmp_path / "a", change))
    assert any("value of padding (-5000)" in line for line in volume.warnings)
    assert volume.array.min() > -5000


def test_a_slice_without_the_name_of_its_patient(tmp_path):
    read(write_slices(tmp_path / "a", setting(PatientID=lambda k: "" if k == 3 else "A")))


def test_two_patients_in_one_series(tmp_path):
    refused(write_slices(tmp_path / "a", setting(PatientID=lambda k: "AB"[k % 2])), "scans of 2 patients")


def test_parts_of_a_volume_in_several_files(tmp_path):
    for number, part in enumerate((range(7, 12), range(7))):
        ds = enhanced(list(part))
        ds.ConcatenationUID, ds.InConcatenationNumber = "1.2.3", number + 1
        save(ds, tmp_path / f"a/{number}")
    assert read(tmp_path / "a").geometry.shape == SHAPE
    ds.InConcatenationTotalNumber = 2
    save(ds, tmp_path / "a/1")
    assert read(tmp_path / "a").geometry.shape == SHAPE
    (tmp_path / "a/0").unlink()
    save(ds, tmp_path / "a/2")  # a copy of a part is not another one
    volume = read_volume(tmp_path / "a")
    assert any("found 1 of the 2 parts of a concatenation" in line for line in volume.warnings), volume.warnings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"SOPInstanceUID": "1.2.3"}, ["found 12 slices that share a SOPInstanceUID"]),
        ({"SOPInstanceUID": lambda k: f"1.2.{max(k, 1)}"}, ["found 2 slices that share a SOPInstanceUID"]),
        ({"PatientName": lambda k: ["Roe^Jane", "Poe^Jane"][k > 5]}, ["found 2 different entries of PatientName"]),
        ({"PatientName": lambda k: ["Roe^Jane", "ROE^JANE^^", "", "Roe^Jane=X"][k % 4]}, []),
        ({"PatientBirthDate": lambda k: f"19{70 + k % 3}0101"}, ["found 3 different entries of PatientBirthDate"]),
        ({"NumberOfSlices": 40}, ["found 12 slices, expected the 40 of its NumberOfSlices"]),
        ({"ImagesInAcquisition": 13}, ["found 12 slices, expected the 13 of its ImagesInAcquisition"]),
        ({"ImagesInAcquisition": 24}, []),  # of which two series were computed
        ({"ImagesInAcquisition": 12, "NumberOfSlices": 11}, []),
        ({"ImagesInAcquisition": lambda k: 40 + k}, []),
    ],
)
def test_slices_that_state_to_be_of_more_or_of_several_scans(tmp_path, values, words):
    read(write_slices(tmp_path / "a", setting(**values)), *words)


def test_directions_that_differ_a_little(tmp_path):
    folder = write_slices(tmp_path / "a", setting(ImageOrientationPatient=lambda k: [1, 0.001 * (k % 2), 0, 0, 1, 0]))
    read(folder, tolerance=3)


def test_pipes_links_and_devices(tmp_path):
    folder = write_slices(tmp_path / "a")
    os.mkfifo(folder / "pipe.dcm")
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere.dcm").symlink_to(folder / "missing")
    (folder / "zero.dcm").symlink_to("/dev/zero")
    (folder / "IM0012.dcm").mkdir()
    read(folder, "found 4 links to nowhere, pipes or empty folders called as slices are (nowhere.dcm, ...)")
    with pytest.raises(InputError, match="found no regular file"):
        read_volume(folder / "pipe.dcm")


@pytest.mark.parametrize("name", ["IM0012", "IM0012.dcm", "1.2.840.12"])
def test_a_link_to_nowhere_is_a_slice_that_was_lost(tmp_path, name):
    folder = write_slices(tmp_path / "a")
    (folder / name).symlink_to(tmp_path / "missing")
    read(folder, f"found 1 links to nowhere, pipes or empty folders called as slices are ({name})")


@pytest.mark.parametrize("content", [b"", b"a,b\n" * 100, bytes(400), b"\0" * 128 + b"DICM"])
def test_files_that_are_called_dicom(tmp_path, content):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    refused(path, "a.dcm", "expected a complete DICOM file")


def test_folders_without_a_scan(tmp_path):
    (tmp_path / "a").mkdir()
    refused(tmp_path / "a", "found no slice")
    (tmp_path / "a/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    refused(tmp_path / "a/DICOMDIR", "found no slice")


def test_the_directory_of_a_disc(tmp_path):
    write_slices(tmp_path / "a/DICOM/0001")
    (tmp_path / "a/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    read(tmp_path / "a/DICOMDIR")


@pytest.mark.parametrize("gone", [0, 1, 3])
@pytest.mark.parametrize("name", ["IM{:04d}", "im{:04d}.dcm"])  # as it is listed, and as a copied disc has it
@pytest.mark.parametrize("directory_name", ["DICOMDIR", "dicomdir", "disc/DICOMDIR"])
def test_files_that_the_directory_of_a_disc_lists_and_that_are_not_there(tmp_path, gone, name, directory_name):
    disc = (tmp_path / "a" / directory_name).parent
    write_slices(disc / "DICOM/0001", name=name)
    directory = header()
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    directory.DirectoryRecordSequence = [Dataset() for _ in range(SHAPE[0] + 1)]  # the first is the patient's
    for k, record in enumerate(directory.DirectoryRecordSequence[1:]):
        record.ReferencedFileID = ["DICOM", "0001", f"IM{k:04d}"]
    save(directory, tmp_path / "a" / directory_name)
    for k in range(SHAPE[0] - gone, SHAPE[0]):
        (disc / "DICOM/0001" / name.format(k)).unlink()
    words = f"found {gone} files that its DICOMDIR lists and that are not there"
    first = f" ('DICOM/0001/IM{SHAPE[0] - gone:04d}'"
    for path in (tmp_path / "a", tmp_path / "a" / directory_name, given(tmp_path / "a", True)):
        read(path, *([words + first * (path.suffix != ".zip")] if gone else []))


def test_a_deflated_file_that_swells(tmp_path):
    path = sorted(write_slices(tmp_path / "a", syntax="1.2.840.10008.1.2.1.99").iterdir())[0]
    content = path.read_bytes()
    end = 144 + struct.unpack("<I", content[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    swollen = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    path.write_bytes(content[:end] + swollen)
    refused(path.parent, "IM0000", "expected at most 200 times its size")


def slices_of(folder):
    return [(path.name, path.read_bytes()) for path in sorted(write_slices(folder).iterdir())]


def test_a_zip_that_swells(tmp_path):
    bomb = zipped(tmp_path / "a.zip", ("a.dcm", bytes(128) + b"DICM" + bytes(150 << 20)))
    refused(bomb, "0.2 GB in a zip of 0.000 GB, expected at most 200 times its size")


def test_a_zip_beyond_the_memory(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", *slices_of(tmp_path / "s"))
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    refused(path, "expected at most the 0.0 GB of memory that are free")


def test_slices_beyond_the_memory(tmp_path, monkeypatch):
    folder = write_slices(tmp_path / "a")
    monkeypatch.setattr(memory, "available", lambda: 30_000)  # of 34,560
    refused(folder, "GB of voxels, expected at most")


def test_names_in_a_zip_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    members = [(f"../../evil/{name}", content) for name, content in slices_of(tmp_path / "s")]
    members[0] = ("/etc/evil", members[0][1])
    before = sorted(tmp_path.rglob("*"))
    path = zipped(tmp_path / "a.zip", *members)
    read(path)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


@pytest.mark.parametrize(
    ("name", "mode", "content", "is_lost"),
    [
        ("s012.dcm", 0o120777, "/etc/passwd", True),
        ("s012", 0o120777, "../a/nowhere", True),
        ("s012.dcm", 0o010777, "", True),
        ("s012.dcm/", 0o040777, "", True),
        ("link.dcm", 0o120777, "IM0003", False),
        ("notes.txt", 0o120777, "nowhere", False),
        ("folder/", 0o040777, "", False),
    ],
)
def test_links_pipes_and_empty_folders_in_a_zip_are_left_out(tmp_path, name, mode, content, is_lost):
    path = zipped(tmp_path / "a.zip", *slices_of(tmp_path / "s"))
    special = zipfile.ZipInfo(name)
    special.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(special, content)
    words = "found 1 links to nowhere, pipes or empty folders called as slices are (file 13), expected files"
    read(path, *([words] if is_lost else []))


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + bytes(100)])
def test_zips_that_are_none(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    refused(path, "found a damaged zip")


def test_a_damaged_slice_in_a_zip_is_named_by_its_number(tmp_path):
    path = zipped(tmp_path / "a.zip", *slices_of(tmp_path / "s"), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"IM0003") + 900] ^= 0xFF
    path.write_bytes(bytes(content))
    refused(path, "a.zip: file 4: could not be read (a checksum is wrong)")


def test_an_encrypted_zip(tmp_path):
    path = zipped(tmp_path / "a.zip", *slices_of(tmp_path / "s"))
    content = path.read_bytes()
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in reversed([match.start() for match in re.finditer(re.escape(mark), content)]):
            content = content[: found + at] + b"\x01" + content[found + at + 1 :]
    path.write_bytes(content)
    refused(path, "file 1: could not be read (it is encrypted)")


def test_a_zip_in_a_zip_and_one_of_other_things(tmp_path):
    inner = zipped(tmp_path / "inner.zip", *slices_of(tmp_path / "s"))
    refused(zipped(tmp_path / "a.zip", ("inner.zip", inner.read_bytes())), "found a zip in the zip")
    refused(zipped(tmp_path / "b.zip", ("readme.txt", b"hello")), "found no DICOM file")
    refused(zipped(tmp_path / "c.zip"), "found no DICOM file")


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    read(write_slices(tmp_path / "a", pack=jpeg_2000, syntax=J2K))
    refused(write_slices(tmp_path / "b", pack=lambda stored: b"\xff" * 90, syntax=J2K), "damaged")
    read(zipped(tmp_path / "c.zip", *slices_of(tmp_path / "s")))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_without_pydicom(tmp_path, monkeypatch):
    folder = write_slices(tmp_path / "a")
    monkeypatch.setitem(__import__("sys").modules, "pydicom.filereader", None)
    with pytest.raises(
        MissingExtra, match=re.escape(f"{folder}: found no pydicom") + r".*pip install 'umamba2\[dicom\]'"
    ):
        read_volume(folder)


def test_nothing_is_printed(tmp_path, capfd, recwarn):
    def odd(ds, k):
        ds["PatientBirthDate"]._value = "not a date"
        ds.add_new(0x00101010, "AS", "99 years")

    read(write_slices(tmp_path / "a", odd))
    refused(write_slices(tmp_path / "b", pack=lambda stored: b"\xff" * 90, syntax=J2K), "damaged")
    assert capfd.readouterr() == ("", "")


def test_origin_and_spacing_are_clean_numbers(tmp_path):
    volume = read(write_slices(tmp_path / "a"))
    assert volume.geometry.origin == ORIGIN
    assert volume.geometry.zyx_spacing == SPACING
    assert header() is not None


def test_a_header_of_elements_without_end(tmp_path):
    """16 MB of empty elements took a minute."""
    folder = damaged(tmp_path / "a", inserted(struct.pack("<HH2sH", 0x19, 0x1010, b"LO", 0) * 30_000))
    refused(folder, "IM0003", "found more than 20,000 elements, expected the header of a slice")
    assert find_scans(folder) == [folder]


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_grow_before_the_first_byte(tmp_path, monkeypatch, packing):
    """Some thousand bytes of bzip2 make 100 MB, and a header of LZMA asks for 4 GB."""
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in/a.zip", "w", packing) as archive:
        archive.writestr("IM0", bytes(1000))
    monkeypatch.setattr(zipfile, "_get_decompressor", lambda kind: pytest.fail("it was unpacked"))
    refused(tmp_path / "in/a.zip", "file 1: could not be read (a packing that is not known)")
    assert find_scans(tmp_path / "in") == [tmp_path / "in/a.zip"]  # whose reader says what is wrong


def test_a_zip_of_files_without_end(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(11):
            archive.writestr(f"{number}.txt", "")
    refused(tmp_path / "a.zip", "found no DICOM file")
    monkeypatch.setattr(sources, "_MOST_MEMBERS", 10)
    refused(tmp_path / "a.zip", "found 11 files in it, expected at most 10")
    monkeypatch.setattr(sources, "_LARGEST_DIRECTORY", 100)  # and no directory is read to count them
    monkeypatch.setattr(zipfile, "ZipFile", lambda path: pytest.fail("it was opened"))
    refused(tmp_path / "a.zip", "found a damaged zip (ValueError)")
    assert find_scans(tmp_path) == [tmp_path / "a.zip"]


def test_folders_within_folders_without_end(tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    back = os.getcwd()
    try:
        os.chdir(place)
        for _ in range(101):
            os.mkdir("b")
            os.chdir("b")
    finally:
        os.chdir(back)
    refused(place, "found folders more than 100 deep")
    with pytest.raises(InputError, match="found folders more than 100 deep"):
        find_scans(tmp_path)


def test_items_without_end(tmp_path):
    """3 MB of empty items took a minute, and 8 MB of empty fragments half of one."""
    items = (
        struct.pack("<HH2sHI", 0x19, 0x1010, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 320_000
    )
    folder = damaged(tmp_path / "a", inserted(items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)))
    refused(folder, "IM0003", "found items without end")
    ds = many_slices()
    ds.PixelData = encapsulate([rle(voxels()[0])] * SHAPE[0])
    ds["PixelData"].VR = "OB"
    path = save(ds, tmp_path / "b.dcm", RLE)
    at = path.read_bytes().rindex(b"\xfe\xff\xdd\xe0")
    content = path.read_bytes()
    start = content.index(b"\xfe\xff\0\xe0", content.rindex(PIXELS + b"OB")) + 8 + 4 * SHAPE[0]
    path.write_bytes(content[:start] + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 320_000 + content[start:])
    assert at > start
    refused(path, "b.dcm", "found ")


def test_a_position_beyond_all_measure(tmp_path):
    folder = write_slices(tmp_path / "a", setting(ImagePositionPatient=lambda k: [0, 0, "1e30" if k == 5 else k / 4]))
    refused(folder, "IM0005", "found the position (0.0, 0.0, 1e+30) mm")


def test_lossless_jpeg_that_is_cut_and_closed(tmp_path):
    """The codec makes up the second half, and says so on stderr alone."""

    def cut(stored):
        content = lossless_jpeg(stored)
        return content[: len(content) // 2] + b"\xff\xd9"

    refused(write_slices(tmp_path / "a", pack=cut, syntax=LOSSLESS), "IM0000", "found damaged pixels")
    read(write_slices(tmp_path / "b", pack=lossless_jpeg, syntax=LOSSLESS))


def test_jpeg_2000_without_some_of_its_tiles(tmp_path):
    """OpenJPEG makes zeros of them and says nothing."""

    def tiled(stored):
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(stored.view(np.uint16)).save(
            content, "JPEG2000", irreversible=False, no_jp2=True, tile_size=(24, 10)
        )
        return content.getvalue()

    def cut(stored):
        content = tiled(stored)
        return content[: content.rindex(b"\xff\x90\0\x0a")] + b"\xff\xd9"

    read(write_slices(tmp_path / "a", pack=tiled, syntax=J2K))
    refused(write_slices(tmp_path / "b", pack=cut, syntax=J2K), "IM0000", "found pixels with tiles missing")


@pytest.mark.parametrize("name", ["IM0000", "1.2.840.77"])
def test_a_slice_that_cannot_be_opened_is_not_left_out(tmp_path, monkeypatch, name):
    write_series(tmp_path / "s", Geometry((8, 9, 6), (0.3, 0.3, 0.4)), np.zeros((6, 9, 8), np.int16))
    files = sorted((tmp_path / "s").iterdir())
    for number, file in enumerate(files):
        file.rename(file.with_name(name if number == 0 else f"IM{number:04}"))
    assert len(read_volume(tmp_path / "s").array) == 6
    real = builtins.open

    def refusing(file, *arguments, **named):
        if str(file).endswith(name):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refusing)
        with pytest.raises(InputError, match=f"{name}: could not be read .Permission denied.*, expected a DICOM file"):
            read_volume(tmp_path / "s")
    (tmp_path / "s" / name).unlink()
    (tmp_path / "s" / name).symlink_to("/proc/self/mem")  # which opens, and fails at the first byte
    with pytest.raises(InputError, match=f"{name}: could not be read .Input/output error., expected a DICOM file"):
        read_volume(tmp_path / "s")


def test_the_slice_is_named_whose_voxels_cannot_be_read(tmp_path, monkeypatch):
    """The system says nothing but "Input/output error"."""
    write_series(tmp_path / "s", Geometry((8, 9, 6), (0.3, 0.3, 0.4)), np.zeros((6, 9, 8), np.int16))
    bad = sorted((tmp_path / "s").iterdir())[2]

    def failing(header, file):
        if header.label == str(bad):
            raise OSError(errno.EIO, "Input/output error")
        return whole(header, file)

    whole = pixels._start_of_pixels
    monkeypatch.setattr(pixels, "_start_of_pixels", failing)
    with pytest.raises(OSError, match="Input/output error") as error:
        read_volume(tmp_path / "s")
    assert error.value.filename == str(bad)
