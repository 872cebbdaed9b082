"""Files that were made, or damaged, to do harm: each costs one line, no memory worth speaking of, and no time."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
from stand_in import OBLIQUE, write_image

from umamba2.errors import InputError
from umamba2.scans import memory, volumes
from umamba2.scans import tiff as tiff_files
from umamba2.scans.volumes import check_size, read_array, read_labels, read_volume

SHAPE = OBLIQUE.size[::-1]
BIG = "20000 20000 50"


def noise():
    return np.random.default_rng(5).integers(-1000, 3000, SHAPE).astype(np.int16)


def meta(name="LOCAL", voxels=b"", **fields):
    lines = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "DimSize": "13 11 7",
             "ElementSpacing": "1 1 1", "ElementType": "MET_SHORT"} | fields  # fmt: skip
    header = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    return header.encode() + f"ElementDataFile = {name}\n".encode() + voxels


def nrrd(voxels=b"", **fields):
    lines = {"type": "short", "dimension": "3", "sizes": "13 11 7", "spacings": "1 1 1", "encoding": "raw",
             "endian": "little"} | {key.replace("_", " "): value for key, value in fields.items()}  # fmt: skip
    return b"NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in lines.items() if v).encode() + b"\n" + voxels


def nifti(*changes, size=2 * 13 * 11 * 7):
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 13, 11, 7, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    header[344:347] = b"n+1"
    for offset, kind, *values in changes:
        struct.pack_into(f"<{kind}", header, offset, *values)
    return bytes(header) + bytes(size)


def tiff(*directories, big=False):
    """TIFF directories without entries, one behind the other; each number says where the next one is."""
    if big:
        start = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
        return start + b"".join(struct.pack("<QQ", 0, place) for place in directories)
    start = struct.pack("<2sHI", b"II", 42, 8)
    return start + b"".join(struct.pack("<HI", 0, place) for place in directories)


RAW = bytes(2 * 13 * 11 * 7)
KINDS = {
    "MetaImage": meta(voxels=RAW), "NRRD": nrrd(RAW), "NIfTI": nifti(), "TIFF": tiff(0), "gzip": gzip.compress(RAW),
    "zip": b"PK\3\4" + meta(voxels=RAW), "PNG": b"\x89PNG\r\n\x1a\n" + RAW, "DICOM": bytes(128) + b"DICM" + RAW,
    "HTML": b"<!DOCTYPE html>\n" + RAW, "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
}  # fmt: skip
NAMES = {"MetaImage": ("mha", "mhd"), "NRRD": ("nrrd",), "NIfTI": ("nii", "nii.gz"), "TIFF": ("tif",)}
PARTS = gzip.compress(b"") * 1700
FILES = {
    # a format string in MetaIO: SIGSEGV
    "format.mha": (meta("%s%s%s%s%s.raw 1 24 1", RAW), "several files"),
    "format.mhd": (meta("%s%s%s%s%s.raw 1 24 1"), "several files"),
    "list.mhd": (meta("LIST\nx.raw\n"), "several files"),
    "format.nrrd": (nrrd(data_file="x%03d.raw 1 20 1"), "several files"),
    # files that are none of its business
    "up.mhd": (meta("../secret.raw"), "expected one in the same folder"),
    "absolute.mhd": (meta("/etc/hostname"), "expected one in the same folder"),
    "dots.mhd": (meta(".."), "found .., which is no regular file"),
    "nothing.mhd": (meta(""), "expected one in the same folder"),
    "itself_as_a_folder.mhd": (meta("."), "expected one in the same folder"),
    "up.nrrd": (nrrd(data_file="../secret.raw"), "expected one in the same folder"),
    "pipe.mhd": (meta("pipe.raw"), "found pipe.raw, which is no regular file"),
    "pipe.nrrd": (nrrd(data_file="pipe.raw"), "found pipe.raw, which is no regular file"),
    "folder.mhd": (meta("folder.raw"), "found folder.raw, which is no regular file"),
    "gone.mhd": (meta("gone.raw"), "found no gone.raw"),
    # 20 GB in some 100 bytes
    "huge.mha": (meta(DimSize=BIG), "end of the file too early"),
    "huge packed.mha": (meta(DimSize=BIG, CompressedData="True", voxels=zlib.compress(RAW)), "compressed bytes"),
    "huge.nrrd": (nrrd(sizes=BIG), "end of the file too early"),
    "huge packed.nrrd": (nrrd(gzip.compress(RAW), sizes=BIG, encoding="gzip"), "compressed bytes"),
    "huge.nii": (nifti((42, "3h", 20000, 20000, 50)), "end of the file too early"),
    "huge.nii.gz": (gzip.compress(nifti((42, "3h", 20000, 20000, 50))), "compressed bytes"),
    "huge at the end.mha": (meta(DimSize=BIG, HeaderSize="-1"), "end of the file too early"),
    # directories in a circle: for ever
    "itself.tif": (tiff(8), "leads back to itself"),
    "circle.tif": (tiff(14, 20, 8), "leads back to itself"),
    "big itself.tif": (tiff(16, big=True), "leads back to itself"),
    "away.tif": (tiff(2**32 - 2), "could not be read"),
    "big away.tif": (tiff(2**64 - 1, big=True), "could not be read"),
    "short.tif": (b"II", "could not be read"),
    # numbers that are none, or make no sense
    "spacing.mha": (meta(ElementSpacing="nan 1 1", voxels=RAW), "found ElementSpacing = nan 1 1"),
    "spacing inf.mha": (meta(ElementSpacing="1 inf 1", voxels=RAW), "found ElementSpacing = 1 inf 1"),
    "spacing negative.mha": (meta(ElementSpacing="1 -1 1", voxels=RAW), "the spacing"),
    "origin.mha": (meta(Offset="nan 0 0", voxels=RAW), "found Offset = nan 0 0"),
    "origin none.mha": (meta(Offset="here", voxels=RAW), "found Offset = here"),
    "direction.mha": (meta(TransformMatrix="nan 0 0 0 1 0 0 0 1", voxels=RAW), "found TransformMatrix = nan"),
    "flat.mha": (meta(TransformMatrix="1 0 0 1 0 0 0 0 1", voxels=RAW), "determinant 0"),
    "flat.nii": (nifti((252, "2h", 0, 1)), "determinant 0"),
    "sform.nii": (nifti((252, "2h", 0, 1), (280, "f", float("nan"))), "found NaN or infinity in its sform"),
    "offset.nii": (nifti((108, "f", float("nan"))), "found voxels from byte nan on"),
    "offset minus.nii": (nifti((108, "f", -1)), "found voxels from byte -1 on"),
    "offset far.nii": (nifti((108, "f", 1e30)), "found voxels from byte 1e+30 on"),
    "offset far.nii.gz": (gzip.compress(nifti((108, "f", 1e9))), "compressed bytes"),
    "size.nii": (nifti((42, "3h", -5, 11, 7)), "found size (-5, 11, 7)"),
    "axes.nii": (nifti((40, "h", 8)), "found 8 dimensions"),
    "type.nii": (nifti((70, "h", 128)), "NIfTI's type 128"),
    "one as two.nii": (nifti((344, "4s", b"n+2")), "with the mark b'n+2\\x00', expected b'n+1\\x00'"),
    "mark.nii.gz": (gzip.compress(nifti((344, "4s", b"n+1x"))), "with the mark b'n+1x', expected"),
    **{
        f"line ends {number}.nii": (struct.pack("<i8s", 540, mark) + bytes(6000), "a header of 540 bytes with the mark")
        for number, mark in enumerate((b"n+2\0\n\x1a\n", b"n+2\0\r\n\x1a\r\n", b"n+1\0\r\n\x1a\n"))
    },
    "pair.nii": (nifti((344, "4s", b"ni1")), "found a header without its voxels"),
    "header size.mha": (meta(HeaderSize="-5", voxels=RAW), "HeaderSize = -5"),
    "header size far.mha": (meta(HeaderSize="1000000000000000000000", voxels=RAW), "end of the file too early"),
    "header size none.mha": (meta(HeaderSize="many", voxels=RAW), "'many'"),
    "size.mha": (meta(DimSize="-13 -11 7", voxels=RAW), "expected"),
    "size none.mha": (meta(DimSize=None, voxels=RAW), "expected"),
    "dimensions.mha": (meta(NDims="100", voxels=RAW), "expected"),
    "dimensions none.mha": (meta(NDims="0", voxels=RAW), "expected"),
    "type.mha": (meta(ElementType="MET_STRING", voxels=RAW), "found voxels of the type 'MET_STRING'"),
    "dimensions.nrrd": (nrrd(RAW, dimension="17"), "expected"),
    "encoding.nrrd": (nrrd(RAW, encoding="bzip2"), "found the encoding 'bzip2', expected raw or gzip"),
    "lines.nrrd": (nrrd(RAW, line_skip="3"), "found a line skip"),
    "skip.nrrd": (nrrd(gzip.compress(RAW), encoding="gzip", byte_skip="-1"), "found a line skip, or a byte skip of -1"),
    "endless.nrrd": (b"NRRD0004\ntype: short\nencoding: raw\n", "found no end of the header"),
    "newlines.mha": (b"\n" * (1 << 22), "no ElementDataFile"),
    "newlines.nrrd": (b"NRRD0004\n" + b"a\n" * (1 << 21), "expected"),
    "long line.nrrd": (nrrd(RAW, unknown="x" * 2000), "found a line of 2,009 bytes in its header"),
    "tiny.nii": (nifti((252, "2h", 0, 1), (280, "12f", 1e-38, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)), "determinant 0"),
    "keys.nrrd": (
        nrrd(RAW).replace(b"\n\n", b"\n" + b"".join(b"k%d:=v\n" % n for n in range(20_000)) + b"\n", 1),
        "found 20,000 key/value lines in its header, expected at most 5,000",
    ),
    "long.nrrd": (
        nrrd(data_file="gone.raw").replace(b"\n\n", b"\n" + b"# a\n" * (1 << 17)),
        "found no end of the header within 262,144 bytes",
    ),
    "zeros.nii.gz": (gzip.compress(bytes(1 << 24)), "no NIfTI header"),
    # numbers said twice, or half
    "half.mha": (meta(DimSize="13.9 11 7", voxels=RAW), "found DimSize = 13.9 11 7, expected 3 whole numbers"),
    "long size.mha": (meta(DimSize="1e300 1e300 1e300", voxels=RAW), "found DimSize = 1e300"),
    "twice.mha": (meta(voxels=RAW).replace(b"DimSize", b"DimSize = 7 11 13\nDimSize"), "found 'DimSize' twice ('7"),
    "long direction.mha": (meta(TransformMatrix="9 0 0 0 9 0 0 0 9", voxels=RAW), "expected three of length 1"),
    # small files that keep a reader busy
    "parts.mha": (meta(CompressedData="True", voxels=PARTS + gzip.compress(RAW)), "parts of next to nothing"),
    "parts.nrrd": (nrrd(PARTS + gzip.compress(RAW), encoding="gzip"), "parts of next to nothing"),
    "parts before.nii.gz": (PARTS * 2 + gzip.compress(nifti()), "no NIfTI header"),
    "parts behind.nii.gz": (gzip.compress(nifti(size=0)) + PARTS + gzip.compress(RAW), "parts of next to nothing"),
    "name.nii.gz": (
        b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * (1 << 17) + b"\0" + gzip.compress(nifti())[10:], "no NIfTI header"
    ),
    "chain.tif": (tiff(*range(14, 8 + 6 * 70_000, 6), 0), "more than 65,536 directories"),
    "wide.tif": (
        struct.pack("<2sHIH", b"II", 42, 8, 2) + struct.pack("<HHII", 256, 4, 1, 13)
        + struct.pack("<HHIII", 257, 4, 1, 2**31, 0), "more than 65,536 voxels along an axis"
    ),
    "goes on.mha": (
        meta(CompressedData="True", voxels=zlib.compress(bytes(1 << 27))), "or more besides the voxels"
    ),
    "bytes.mha": (b"\x01\x80\n" * 2 + b"\xff=\x80\n\xff=\x81\n", "found '\\udcff' twice"),
    # files of another kind, of which only NIfTI may be packed
    **{
        f"is {kind}.{ending}": (content, f"found a file that is {kind} by its first bytes, expected {name}")
        for name, endings in NAMES.items() for ending in endings for kind, content in KINDS.items()
        if kind != name and (kind, name) != ("gzip", "NIfTI")
    },
}  # fmt: skip

READ_ALL = """
import sys
from pathlib import Path
from umamba2.errors import InputError
from umamba2.scans import tiff as tiff_files
from umamba2.scans.volumes import read_array
for path in sorted(Path(sys.argv[1]).iterdir()):
    if path.suffix != ".raw":
        try:
            print(path.name, "read", read_array(path)[0].shape, sep="\\t")
        except InputError as error:
            print(path.name, "refused", error, sep="\\t")
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1], file=sys.stderr)
"""


def test_hostile_files_cost_a_line_each(tmp_path):
    """In a process of their own, for what this is about is that it survives."""
    folder = tmp_path / "in"
    (folder / "folder.raw").mkdir(parents=True)
    (tmp_path / "secret.raw").write_bytes(RAW)
    os.mkfifo(folder / "pipe.raw")
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == sorted(FILES)
    for name, what, message in lines:
        assert what == "refused", (name, message)
        assert message.startswith(f"{folder / name}: "), message
        assert FILES[name][1] in message
        assert "expected" in message
        assert len(message) < len(str(folder)) + 400
    assert int(done.stderr.split()[-1]) < 500_000  # kB


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_file_that_is_cut_within_or_behind_its_header_is_refused(tmp_path, ending):
    content, path = nifti((108, "f", 352)), tmp_path / f"a{ending}"
    for size in range(1, 400):
        path.write_bytes(gzip.compress(content[:size], 1) if ending == ".nii.gz" else content[:size])
        with pytest.raises(InputError):
            read_volume(path)


def test_extensions_of_nifti_files_are_not_gone_through(tmp_path, monkeypatch):
    """ITK compares each with all others: 200,000 of them, 3 MB, took half a minute."""
    extensions = b"\1\0\0\0" + struct.pack("<ii8x", 16, 4) * 2000
    content = nifti((108, "f", 348 + len(extensions)), size=0)[:348] + extensions + noise().tobytes()
    for name in ("a.nii", "a.nii.gz"):
        (tmp_path / name).write_bytes(content if name == "a.nii" else gzip.compress(content))
        monkeypatch.setattr(volumes, "opened", lambda path: pytest.fail("ITK was asked"))
        array, grid = read_array(tmp_path / name)
        monkeypatch.undo()
        np.testing.assert_array_equal(array, noise())
        monkeypatch.setattr(volumes, "_MOST_EXTENSIONS", 10**6)
        assert read_array(tmp_path / name)[1] == grid  # as ITK has it
        monkeypatch.undo()


def test_many_parts_with_voxels_in_them_are_read(tmp_path):
    """As bgzip writes them."""
    content = nifti()[:352] + noise().tobytes()
    parts = b"".join(gzip.compress(content[at : at + 100]) for at in range(0, len(content), 100))
    (tmp_path / "a.nii.gz").write_bytes(parts)
    np.testing.assert_array_equal(read_array(tmp_path / "a.nii.gz")[0], noise())


def test_an_origin_far_away_is_doubted(tmp_path):
    (tmp_path / "a.mha").write_bytes(meta(Offset="1e7 0 0", voxels=RAW))
    assert any("found the origin (10000000.0" in line for line in read_volume(tmp_path / "a.mha").warnings)


def test_what_the_hostile_ones_are_made_of_can_be_read(tmp_path):
    for name, content in (("a.mha", meta(voxels=RAW)), ("a.nrrd", nrrd(RAW)), ("a.nii", nifti()),
                          ("b.nii.gz", gzip.compress(nifti()))):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        assert read_array(tmp_path / name)[0].shape == SHAPE


def test_a_tiff_file_that_would_end_its_reader(tmp_path):
    """ITK counts pages by another rule than it reads them, and so writes behind its buffer."""
    path = write_image(tmp_path / "a.tif", noise(), None)
    kind = struct.pack("<HHII", 254, 4, 1, 2)  # "a page of several"
    pages = path.read_bytes().split(kind)
    assert len(pages) == SHAPE[0] + 1
    path.write_bytes(kind.join(pages[:4]) + struct.pack("<HHII", 254, 4, 1, 102) + kind.join(pages[4:]))
    with pytest.raises(InputError, match=r"a.tif: found the subfile type 2 in the first slice and 102 in slice 4"):
        read_array(path)


def test_a_tiff_file_that_takes_for_ever(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.tif", noise(), None)
    monkeypatch.setattr(tiff_files, "_CHILD", "import time; time.sleep(1000)")
    monkeypatch.setattr(tiff_files, "_SECONDS", 0.1)
    with pytest.raises(InputError, match=r"its reader was ended by signal 9"):
        read_array(path)


@pytest.mark.parametrize("ending", [".mha", ".nii", ".nii.gz", ".nrrd", ".tif"])
def test_more_voxels_than_memory(tmp_path, monkeypatch, ending):
    path = write_image(tmp_path / f"a{ending}", noise())
    monkeypatch.setattr(memory, "available", lambda: noise().nbytes)
    read_array(path)
    monkeypatch.setattr(memory, "available", lambda: noise().nbytes - 1)
    with pytest.raises(InputError, match=r"found 0.0 GB of voxels, expected at most the 0.0 GB of memory"):
        read_array(path)


@pytest.mark.parametrize("ending", [".mha", ".nii", ".nii.gz", ".nrrd", ".tif"])
def test_a_scan_needs_more_memory_than_its_voxels(tmp_path, monkeypatch, ending):
    """Labels and masks are as many; a NIfTI file with a slope is held twice."""
    path = write_image(tmp_path / f"a{ending}", noise())
    for spare, fits in ((2 * noise().size, True), (2 * noise().size - 1, False)):
        monkeypatch.setattr(memory, "available", lambda spare=spare: noise().nbytes + spare)
        read_array(path)
        if fits:
            check_size(path)
            read_volume(path)
            continue
        for read in (check_size, read_volume):
            with pytest.raises(
                InputError, match=r"found 0.0 GB of voxels, which need 0.0 GB besides, expected at most"
            ):
                read(path)
    (tmp_path / "b.nii").write_bytes(nifti((112, "2f", 2, 0)))
    for spare, fits in ((4, True), (3, False)):
        monkeypatch.setattr(memory, "available", lambda spare=spare: noise().nbytes + spare * noise().size)
        with nullcontext() if fits else pytest.raises(InputError, match="of memory that are free"):
            read_array(tmp_path / "b.nii")


def sparse(path, start, size):
    """A file of so many bytes that takes no room on the disk."""
    path.write_bytes(start)
    os.truncate(path, len(start) + size)
    return path


def pages(count, side):
    """A BigTIFF file of square slices of one byte a voxel, without the voxels."""
    length = 8 + 20 * 9 + 8
    behind, content = 16 + count * length, struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
    for page in range(count):
        at = behind + page * side * side
        fields = ((256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, at), (277, 1), (278, side),
                  (279, side * side))  # fmt: skip
        content += struct.pack("<Q", 9) + b"".join(struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in fields)
        content += struct.pack("<Q", 0 if page == count - 1 else 16 + (page + 1) * length)
    return content


@pytest.mark.parametrize("ending", ["mha", "nii", "nrrd", "tif", "nii.gz", "packed.mha", "packed.nrrd"])
def test_gigabytes_are_refused_by_the_header_alone(tmp_path, monkeypatch, ending):
    size = "2000 2000 2500"
    start = {
        "mha": meta(DimSize=size, ElementType="MET_UCHAR"),
        "nii": nifti((42, "3h", 2000, 2000, 2500), (70, "2h", 2, 8), size=0),
        "nrrd": nrrd(sizes=size, type="uchar"),
        "tif": pages(25, 20_000),
        "nii.gz": gzip.compress(nifti((42, "3h", 2000, 2000, 2500), (70, "2h", 2, 8), size=0)),
        "packed.mha": meta(DimSize=size, ElementType="MET_UCHAR", CompressedData="True"),
        "packed.nrrd": nrrd(sizes=size, type="uchar", encoding="gzip"),
    }[ending]
    path = sparse(tmp_path / f"a.{ending}", start, 10**10)
    monkeypatch.setattr(memory, "available", lambda: 3 * 10**10 - 1)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a child was started"))
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("memory was taken"))
    for read in (check_size, read_volume):
        with pytest.raises(InputError, match=r"found 10.0 GB of voxels, which need 20.0 GB besides, expected at most"):
            read(path)


@pytest.mark.parametrize("ending", [".mha", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("read", [read_volume, read_labels])
def test_every_flipped_bit_of_compressed_voxels_is_noticed(tmp_path, ending, read):
    path = write_image(tmp_path / f"a{ending}", noise())
    content = path.read_bytes()
    start = (
        content.index(b"LOCAL\n") + 6 if ending == ".mha" else content.index(b"\n\n") + 2 if ending == ".nrrd" else 0
    )
    rng = np.random.default_rng(0)
    for byte, bit in zip(rng.integers(start, len(content), 150), rng.integers(0, 8, 150)):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            array = read(path)
        except InputError:
            continue
        assert byte - start < 10  # the time, system and flags of a gzip header are no voxels
        np.testing.assert_array_equal(array.array if read is read_volume else array[0], noise())


def test_a_checksum_that_is_wrong_or_missing(tmp_path):
    packed = zlib.compress(noise().tobytes())
    path = tmp_path / "a.mha"
    for voxels, says in (
        (packed[:-1] + bytes([packed[-1] ^ 1]), r"found damaged voxels \(incorrect data check\)"),
        (packed[:-4], "found the end of the file before that of the image"),
        (b"", "found the end of the file"),
    ):
        path.write_bytes(meta(CompressedData="True", voxels=voxels))
        with pytest.raises(InputError, match=says):
            read_array(path)
