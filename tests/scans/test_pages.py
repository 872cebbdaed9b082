"""The pages of TIFF files: alike, of a kind that is read as what it is, and each where its directory says."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image
from scans.test_hostile import tiff
from stand_in import write_image

from umamba2.errors import InputError
from umamba2.scans.pages import check_pages
from umamba2.scans.volumes import read_volume

SLICES = np.random.default_rng(1).integers(0, 3000, (5, 31, 17)).astype(np.uint16)
tifffile = pytest.importorskip("tifffile")


def write(path, slices, byteorder="<", bigtiff=False, photometric="minisblack", **options):
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as file:
        for page in slices:
            file.write(page, metadata=None, contiguous=False, photometric=photometric, **options)
    return path


def warnings_of(path):
    """What is said about a file with the right voxels, but for the voxel size that TIFF has no place for."""
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, SLICES)
    return [line.partition(": ")[2] for line in volume.warnings if "voxel size" not in line]


def test_every_way_to_write_the_same(tmp_path):
    """With tifffile as the oracle: nothing is doubted, all voxels are right."""
    path = tmp_path / "a.tif"
    for options in (
        {"byteorder": ">"},
        {"byteorder": ">", "bigtiff": True},
        {"byteorder": "<", "bigtiff": True, "rowsperstrip": 4},
        {"compression": "zlib", "predictor": 2, "rowsperstrip": 8},
        {"subfiletype": 2},
    ):
        assert warnings_of(write(path, SLICES, **options)) == [], options
    tifffile.imwrite(path, SLICES, photometric="minisblack")
    assert warnings_of(path) == []
    tifffile.imwrite(path, SLICES, imagej=True)
    assert warnings_of(path) == []


@pytest.mark.parametrize(
    ("slices", "options", "says"),
    [
        ([*SLICES[:3], SLICES[3, :9]], {}, "found the height 31 in the first slice and 9 in slice 4"),
        ([*SLICES[:3], SLICES[3, :, :9]], {}, "found the width 17 in the first slice and 9 in slice 4"),
        ([SLICES[0, :9], *SLICES[1:]], {}, "found the height 9 in the first slice and 31 in slice 2"),
        ([*SLICES[:2], SLICES[2].astype(np.uint8)], {}, "bits a voxel 16 in the first slice and 8 in slice 3"),
        ([*SLICES[:2], SLICES[2].astype(np.float32)], {}, "found the bits a voxel 16"),
        ([*SLICES[:2], SLICES[2].astype(np.int16)], {}, "sample format 1 in the first slice and 2 in slice 3"),
        (SLICES.astype(np.float16), {}, "found voxels of 16 bits and sample format 3, expected whole numbers"),
        (SLICES.astype(np.float64), {}, "found voxels of 64 bits and sample format 3"),
        (SLICES > 1000, {}, "found voxels of 1 bits"),
        (SLICES, {"tile": (16, 16)}, "found voxels in tiles, expected them in strips"),
        (SLICES, {"extratags": [(274, 3, 1, 2, True)]}, "found the orientation 2 of its slices, expected 1 or 4"),
        (SLICES, {"predictor": 2, "compression": "packbits"}, "the predictor 2 with compression 32773, expected"),
        (np.stack([SLICES] * 3, -1), {"photometric": "rgb"}, "found 3 values per voxel, expected 1"),
        (SLICES.astype(np.uint8), {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
         "found the photometric interpretation 3, expected grey values"),
    ],
)  # fmt: skip
def test_pages_that_are_refused(tmp_path, slices, options, says):
    with pytest.raises(InputError, match=says):
        read_volume(write(tmp_path / "a.tif", slices, **options))


def test_bits_in_another_order(tmp_path):
    path = write(tmp_path / "a.tif", SLICES, extratags=[(265, 3, 1, 2, True)])
    path.write_bytes(path.read_bytes().replace(struct.pack("<HHI", 265, 3, 1), struct.pack("<HHI", 266, 3, 1)))
    with pytest.raises(InputError, match="found the fill order 2, expected 1"):
        read_volume(path)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_calibration_is_said(tmp_path, byteorder):
    """As ImageJ stores signed numbers of 16 bits: read as they are, air would be brighter than any bone."""
    path = tmp_path / "a.tif"
    for lines, says in (
        ("cf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n", ["(cf=0, c0=-32768.0, c1=1.0)"]),
        ("max=4000.0\nmin=0.0\nloop=false\nunit=mm\n", []),
    ):
        description = f"ImageJ=1.54f\nimages={len(SLICES)}\nslices={len(SLICES)}\n{lines}"
        with tifffile.TiffWriter(path, byteorder=byteorder) as file:
            for number, page in enumerate(SLICES):
                text = None if number else description
                file.write(page, metadata=None, contiguous=False, photometric="minisblack", description=text)
        expected = [f"found grey values that need a calibration {what}, expected them as they are; it is not applied"
                    for what in says]  # fmt: skip
        assert warnings_of(path) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "metadata": {"axes": "ZCYX"}},
        {"imagej": True, "metadata": {"axes": "TZYX"}},
        {"ome": True, "metadata": {"axes": "CZYX"}},
        {"ome": True, "metadata": {"axes": "TZYX"}},
        {"ome": True, "metadata": {"axes": "TCYX"}},
        {},
    ],
)
def test_several_volumes_are_not_one(tmp_path, options):
    """Their pages alternate, or follow each other, and would be slices of one scan."""
    path, one = tmp_path / "a.tif", {**options}
    tifffile.imwrite(path, np.stack([SLICES, SLICES[::-1]]), photometric="minisblack", **options)
    with pytest.raises(InputError, match=r"found several volumes in it \(\d \w+.*, \d .*\), expected one"):
        read_volume(path)
    if options:
        one["metadata"] = {"axes": options["metadata"]["axes"][0] + "YX"}
    tifffile.imwrite(path, SLICES, photometric="minisblack", **one)
    assert warnings_of(path) == []


PLANES = "".join(
    f'<TiffData FirstZ="{n}" IFD="{n}"><UUID FileName="a.tif">urn:uuid:{n:020000}</UUID></TiffData>' for n in range(5)
)
OME = '<OME><Image><Pixels SizeX="17" SizeZ="{z}" SizeC="{c}" SizeT="1"/></Image></OME>'
# Ways to say that there are so many slices and channels.
TEXTS = {
    "plain": OME,
    "prefix": OME.replace("<", "<ome:").replace("<ome:/", "</ome:"),
    "spaces": OME.replace("=", " =\n"),
    "long": OME.replace("/></Im", f">{PLANES}</Pixels></Im"),
    "late": "<?xml?><!-- " + "a warning of many words " * 100 + "-->" + OME,
    "comment": '<!-- <Pixels SizeZ="5" SizeC="1"> -->' + OME,
    "ImageJ": "ImageJ=1.54f\nchannels={c}\nslices={z}\n",
    "ImageJ2": "SCIFIO=0.46.0\naxes=X,Y,Z,Channel\nlengths=17,31,{z},{c}\nimages=5\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_slices_of_a_description(tmp_path, text):
    """Several axes are several volumes; one must have as many slices as there are, or they are elsewhere or others."""
    path = tmp_path / "a.tif"
    for z, c in ((5, 1), (1, 5), (1, 1)):
        tifffile.imwrite(path, SLICES, photometric="minisblack", metadata=None, description=text.format(z=z, c=c))
        assert warnings_of(path) == []
    for z, c in ((4, 1), (1, 6)):
        tifffile.imwrite(path, SLICES, photometric="minisblack", metadata=None, description=text.format(z=z, c=c))
        (warning,) = warnings_of(path)
        assert f"found 5 slices and a description of {max(z, c)}, expected as many" in warning
    tifffile.imwrite(path, SLICES, photometric="minisblack", metadata=None, description=text.format(z=3, c=2))
    with pytest.raises(InputError, match=r"several volumes in it \((3 slices, 2 channels|2 channels, 3 slices)\)"):
        read_volume(path)


def planes(order, name="", uuid="2"):
    """Elements that say which page of a file lies in which plane."""
    owner = f'><UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>' if name else "/>"
    return "".join(f'<TiffData FirstZ="{z}" IFD="{page}" PlaneCount="1"{owner}' for z, page in enumerate(order))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ("<TiffData/>", []),
        ('<TiffData IFD="0" PlaneCount="5"/>', []),
        ('<TiffData IFD="3" FirstZ="3" PlaneCount="2"/><TiffData IFD="0" NumPlanes="3"/>', []),
        (planes(range(5)), []),
        (planes(range(5)).replace("FirstZ", "FirstT").replace('"', "'"), []),
        (planes(range(5), "a.tif"), []),
        (planes(range(5), "the name it had.tif", uuid="1"), []),
        (planes(range(4)), ["does not name each in its place"]),
        (planes([0, 1, 3, 4]), ["does not name each in its place"]),
        (planes([0, 1, 2, 3, 5]), ["does not name each in its place"]),
        ('<TiffData IFD="1"/>', ["does not name each in its place"]),
        (planes(range(5), "b.tif"), ["names other files for its slices ('b.tif')"]),
        (planes(range(3)) + planes(range(5), "b.tif"), ["names other files for its slices ('b.tif')"]),
        (planes([4, 3, 2, 1, 0]), None),
        (planes([3, 4, 0, 1, 2], "a.tif"), None),
        ('<TiffData IFD="2" PlaneCount="3"/><TiffData FirstZ="3" IFD="0" PlaneCount="2"/>', None),
    ],
)
@pytest.mark.parametrize("prefix", ["", "ome:"])
def test_pages_that_a_description_puts_in_another_order(tmp_path, prefix, parts, says):
    text = f'<OME UUID="urn:uuid:1"><Image><Pixels SizeX="17" SizeZ="5">{parts}</Pixels></Image></OME>'
    text = text.replace("<", f"<{prefix}").replace(f"<{prefix}/", f"</{prefix}")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SLICES, photometric="minisblack", metadata=None, description=text)
    if says is None:
        with pytest.raises(InputError, match="found slices in another order than its description"):
            read_volume(path)
    else:
        warnings = warnings_of(path)
        assert len(warnings) == len(says)
        assert all(word in line for word, line in zip(says, warnings))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('Type="uint16" SizeX="17" SizeY="31" SignificantBits="12"', []),
        ('Type="uint16" SignificantBits="16"', []),
        ('Type="int16"', ["Type int16 in its description and slices of uint16"]),
        ('Type="uint8"', ["Type uint8 in its description and slices of uint16"]),
        ('SizeX="31" SizeY="17"', ["SizeX 31 in its description and slices of 17", "SizeY 17"]),
        ('SignificantBits="8"', ["SignificantBits 8 in its description and slices of 16"]),
        ('SignificantBits="32"', ["SignificantBits 32"]),
        ('{"shape": [5, 31, 17]}', []),
        ('{"shape": [5, 17, 31]}', ["height 17 in its description and slices of 31", "width 31"]),
    ],
)
def test_pages_that_a_description_contradicts(tmp_path, text, says):
    text = text if text[0] == "{" else f"<OME><Image><Pixels {text}/></Image></OME>"
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SLICES, photometric="minisblack", metadata=None, description=text)
    warnings = warnings_of(path)
    assert len(warnings) == len(says)
    assert all(f"found {word}" in line for word, line in zip(says, warnings))


@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_of_different_resolutions_are_said(tmp_path, bigtiff):
    path = tmp_path / "a.tif"
    for resolutions, units, odd in (
        ([(50, 50)] * 5, ["CENTIMETER"] * 5, False),
        ([(50, 25)] * 4 + [(100, 50)], ["INCH"] * 5, True),
        ([(50, 50)] * 4 + [(50, 80)], ["CENTIMETER"] * 5, True),
        ([(50, 50)] * 5, ["CENTIMETER"] * 4 + ["INCH"], True),
    ):
        with tifffile.TiffWriter(path, bigtiff=bigtiff) as file:
            for page, resolution, unit in zip(SLICES, resolutions, units):
                options = {"resolution": resolution, "resolutionunit": unit, "photometric": "minisblack"}
                file.write(page, metadata=None, contiguous=False, **options)
        warnings = warnings_of(path)
        assert len(warnings) == odd
        assert all("found slices of different resolutions, expected one" in line for line in warnings)


@pytest.mark.parametrize("prefix", ["", "ome:"])
def test_several_images_of_a_description(tmp_path, prefix):
    """They are several volumes, but where the file holds just one of them."""
    image = '<Image><Pixels SizeX="17" SizeZ="{}" SizeC="1" SizeT="1"/></Image>'
    path = tmp_path / "a.tif"
    for slices, images, refused in ((3, 2, True), (5, 2, False), (1, 5, False)):
        text = f"<OME>{image.format(slices) * images}</OME>"
        text = text.replace("<", f"<{prefix}").replace(f"<{prefix}/", f"</{prefix}")
        tifffile.imwrite(path, SLICES, photometric="minisblack", metadata=None, description=text)
        if refused:
            with pytest.raises(InputError, match=r"several volumes in it \(3 slices, 2 images\)"):
                read_volume(path)
        else:
            assert warnings_of(path) == []


def test_page_numbers_out_of_order_are_said(tmp_path):
    for numbers, says in (((0, 1, 2, 3, 4), 0), ((7, 7, 7, 7, 7), 0), ((4, 3, 2, 1, 0), 1), ((0, 2, 1, 3, 4), 1)):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            for page, number in zip(SLICES, numbers):
                tag = (297, "H", 2, (number, 5), True)
                file.write(page, metadata=None, contiguous=False, photometric="minisblack", extratags=[tag])
        warnings = warnings_of(tmp_path / "a.tif")
        assert len(warnings) == says, numbers
        assert all("found page numbers that are out of order" in line for line in warnings)


def test_white_that_is_0_is_said(tmp_path):
    (warning,) = warnings_of(write(tmp_path / "a.tif", SLICES, photometric="miniswhite"))
    assert "found grey values of which 0 is white" in warning


@pytest.fixture
def written(tmp_path):
    """A file by ITK, with the places of its directories and of their entries: {page: {tag: place}}."""
    path = write_image(tmp_path / "a.tif", SLICES, None)
    entries = [{tag.code: tag.offset for tag in page.tags} for page in tifffile.TiffFile(path).pages]
    return path, bytearray(path.read_bytes()), entries


def refused(path, content, says):
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        check_pages(path)


def test_strips_that_are_elsewhere(written):
    path, content, entries = written
    assert check_pages(path) == []
    at = entries[2][273] + 8
    (place,) = struct.unpack_from("<I", content, at)
    assert struct.unpack_from("<I", content, at - 4) == (1,)  # one strip a page, so that its place stands here
    for other in (
        place + 4,
        place - 4,
        0,
        2,
        struct.unpack_from("<I", content, entries[1][273] + 8)[0],
        2**31,
        2**32 - 1,
    ):
        struct.pack_into("<I", content, at, other)
        refused(path, content, "lie on each other or beyond the end")
    struct.pack_into("<I", content, at, place)
    for tag, says in ((273, "found 0 places and 1 sizes of strips"), (279, "found 1 places and 0 sizes of strips")):
        (number,) = struct.unpack_from("<H", content, entries[2][tag])
        struct.pack_into("<H", content, entries[2][tag], 60000)
        refused(path, content, says)
        struct.pack_into("<H", content, entries[2][tag], number)
    struct.pack_into("<I", content, entries[2][278] + 8, 1)
    refused(path, content, "found 1 places and 1 sizes of strips in a slice, expected 31 each")


def test_fewer_or_more_bytes_than_voxels(tmp_path):
    path = write(tmp_path / "a.tif", SLICES)
    content = bytearray(path.read_bytes())
    tag = tifffile.TiffFile(path).pages[1].tags[279].offset
    for size in (31 * 17 * 2 - 2, 31 * 17, 0):
        struct.pack_into("<I", content, tag + 8, size)
        refused(path, content, f"found {size} bytes of voxels in a slice, expected 1054")


@pytest.mark.parametrize("page", [0, 2, 3])
def test_slices_that_are_left_out(written, page):
    """A chain of directories that skips slices, or ends before them."""
    path, content, _ = written
    pages = tifffile.TiffFile(path).pages
    places = [page.offset for page in pages]
    count = struct.unpack_from("<H", content, places[page])[0]
    following = [*places, 0][min(page + 2, len(places))]
    struct.pack_into("<I", content, places[page] + 2 + 12 * count, following)
    path.write_bytes(content)
    (warning,) = check_pages(path)
    assert f"bytes that none of its {len(pages) - 1} slices names, expected no more slices" in warning


def test_a_checksum_of_deflate(tmp_path):
    path = write(tmp_path / "a.tif", SLICES, compression="zlib")
    content = path.read_bytes()
    page = tifffile.TiffFile(path).pages[3]
    (start,), (size,) = page.dataoffsets, page.databytecounts
    for place in (start + 100, start + size // 2, start + size - 1):
        damaged = bytearray(content)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"found damaged voxels|found voxels that end too early"):
            read_volume(path)


@pytest.mark.parametrize(("tag", "less"), [(257, 30), (256, 16), (258, 8)])
@pytest.mark.parametrize("rows", [31, 8])
def test_strips_that_hold_more_than_belongs_there(tmp_path, tag, less, rows):
    """A size or type that is too small in all slices shows nowhere else: the slices would be sheared or cut."""
    path = write(tmp_path / "a.tif", SLICES, compression="zlib", rowsperstrip=rows)
    assert warnings_of(path) == []
    content = bytearray(path.read_bytes())
    for page in tifffile.TiffFile(path).pages:
        struct.pack_into("<H", content, page.tags[tag].offset + 8, less)
    refused(path, content, r"found \d+ bytes or more unpacked in a strip, expected \d+: is the size or type")


def test_directories_beyond_measure(tmp_path):
    path = tmp_path / "a.tif"
    refused(path, struct.pack("<2sHIH", b"II", 42, 8, 600) + bytes(12 * 600 + 4), "found a directory of 600 fields")
    path.write_bytes(tiff(2**32 - 2))
    assert check_pages(path) == []  # ITK says what is missing
    huge = struct.pack("<HHQQ", 273, 16, 2**60, 2**63)
    entries = struct.pack("<HHQQ", 256, 4, 1, 9) + struct.pack("<HHQQ", 257, 4, 1, 9) + huge
    refused(path, struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 3) + entries + bytes(8), "found")


def test_slices_that_begin_where_a_block_of_memory_does(tmp_path):
    """As programs write them that map a file into their memory; the gap is smaller than a slice."""
    path = tmp_path / "a.tif"
    tifffile.memmap(path, shape=(5, 80, 120), dtype="uint8")[:] = 7
    places = [page.offset for page in tifffile.TiffFile(path).pages]
    assert check_pages(path) == []
    content = bytearray(path.read_bytes())
    count = struct.unpack_from("<H", content, places[1])[0]
    struct.pack_into("<I", content, places[1] + 2 + 12 * count, 0)  # the others are not named
    path.write_bytes(content)
    warning, other = check_pages(path)
    assert "bytes that none of its 2 slices names" in warning
    assert "found 2 slices and a description of 5, expected as many" in other


def test_slices_that_jpeg_has_changed_are_said(tmp_path):
    voxels = np.random.default_rng(1).integers(0, 255, (4, 32, 32)).astype(np.uint8)
    slices = [Image.fromarray(plane) for plane in voxels]
    for packed in ("jpeg", "tiff_lzw"):
        slices[0].save(tmp_path / f"{packed}.tif", save_all=True, append_images=slices[1:], compression=packed)
    jpeg, exact = (read_volume(tmp_path / f"{packed}.tif") for packed in ("jpeg", "tiff_lzw"))
    assert (jpeg.array != voxels).any()
    assert any("jpeg.tif: found slices packed as JPEG" in line for line in jpeg.warnings)
    assert (exact.array == voxels).all()
    assert not any("JPEG" in line for line in exact.warnings)
