from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_cases import ct_headers
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag
from stand_in import DIRECTION

from umamba2.anatomy.codes import PRIVATE_SCHEME, coding
from umamba2.anatomy.groups import title
from umamba2.anatomy.structures import unknown_structure
from umamba2.challenges import MULTICLASS, STSR
from umamba2.errors import InputError
from umamba2.exports.dicom_seg import write_dicom_seg
from umamba2.scans.geometry import Geometry
from umamba2.scans.orientation import to_patient
from umamba2.scans.volumes import read_labels

SHAPE = (9, 11, 13)
ALL = MULTICLASS.with_tooth_pulps()
TABLE = {s.platform: s for s in ALL.structures}
TITLES = {title(s): number for number, s in TABLE.items()}
EIGHT = [tuple(np.diag(signs).ravel().astype(float)) for signs in product((1, -1), repeat=3)]  # four are left-handed
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # x to the back, y down, z to the left
LEFT_HANDED_OBLIQUE = tuple((np.reshape(DIRECTION, (3, 3)) * (1, 1, -1)).ravel())


def grid(direction, shape=SHAPE):
    return Geometry(shape[::-1], (0.31, 0.27, 0.55), (-12.25, 40.5, 7.125), tuple(direction))


def label_map(seed=0, ids=(1, 3, 7, 9, 11, 36, 50, 53, 136)):
    """Random ids in the inner part; the first and the last slices are empty."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:7, 1:10, 3:12] = np.random.default_rng(seed).choice([0, *ids], (5, 9, 9))
    return labels


def in_patient(seg, geometry):
    """What highdicom reads at the places of the grid's voxels, in the ids of the label map; 0 beyond the frames."""
    read = seg.get_volume(combine_segments=True)
    numbers = {d.SegmentNumber: TITLES[d.SegmentLabel] for d in seg.SegmentSequence if d.SegmentNumber}
    ids = np.zeros(256, np.uint8)
    ids[list(numbers)] = list(numbers.values())
    voxels = np.argwhere(np.ones(geometry.shape, bool))
    places = np.c_[to_patient(geometry, voxels), np.ones(len(voxels))] @ np.linalg.inv(read.affine).T
    nearest = np.rint(places[:, :3]).astype(int)
    assert np.abs(places[:, :3] - nearest).max() < 1e-3
    inside = ((nearest >= 0) & (nearest < read.spatial_shape)).all(axis=1)
    found = np.zeros(geometry.shape, np.uint8)
    found[tuple(voxels[inside].T)] = ids[read.array[tuple(nearest[inside].T)]]
    return found


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("direction", [*EIGHT, SAGITTAL, DIRECTION, LEFT_HANDED_OBLIQUE])
def test_every_voxel_lies_where_it_lay(tmp_path, direction, kind):
    geometry, labels = grid(direction), label_map()
    for name, headers in (("alone", []), ("of_scan", ct_headers(geometry))):
        path = tmp_path / f"{name}.dcm"
        remarks = write_dicom_seg(path, labels, geometry, TABLE, headers, kind)
        assert len(remarks) == (not headers)
        seg = hd.seg.segread(path)
        assert seg.SegmentationType == kind.upper()
        np.testing.assert_array_equal(in_patient(seg, geometry), labels)
        spacing = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        np.testing.assert_allclose([*spacing.PixelSpacing, spacing.SpacingBetweenSlices], (0.27, 0.31, 0.55), rtol=1e-6)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_segmentation_belongs_to_its_scan(tmp_path, kind):
    geometry, labels = grid(EIGHT[0]), label_map()
    headers = ct_headers(geometry)
    write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE, headers, kind)
    seg = hd.seg.segread(tmp_path / "a.dcm")
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
        "AccessionNumber", "FrameOfReferenceUID",
    ):  # fmt: skip
        assert seg[keyword].value == headers[0][keyword].value, keyword
    assert seg.SeriesInstanceUID != headers[0].SeriesInstanceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == headers[0].SeriesInstanceUID
    images = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert images == {header.SOPInstanceUID for header in headers}
    slices = {header.SOPInstanceUID: k for k, header in enumerate(headers)}
    seen = set()
    for group in seg.PerFrameFunctionalGroupsSequence:
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        position = group.PlanePositionSequence[0].ImagePositionPatient
        k = slices[source.ReferencedSOPInstanceUID]
        np.testing.assert_allclose(position, headers[k].ImagePositionPatient)
        seen.add(k)
    assert seen == {2, 3, 4, 5, 6}  # empty frames are left out
    frames = sum((labels == number).any(axis=(1, 2)).sum() for number in np.unique(labels)[1:])
    assert seg.NumberOfFrames == (frames if kind == "binary" else 5)


def test_without_a_scan_in_dicom_nothing_is_claimed(tmp_path):
    geometry = grid(EIGHT[0])
    uids = set()
    for name in ("a.dcm", "b.dcm"):
        (warning,) = write_dicom_seg(tmp_path / name, label_map(), geometry, TABLE)
        assert "found a scan that is no DICOM" in warning
        seg = pydicom.dcmread(tmp_path / name)
        assert seg.PatientName == seg.PatientID == seg.PatientBirthDate == seg.StudyDate == ""
        assert "ReferencedSeriesSequence" not in seg
        assert "SourceImageSequence" not in seg
        assert all("DerivationImageSequence" not in group for group in seg.PerFrameFunctionalGroupsSequence)
        own = {seg.StudyInstanceUID, seg.SeriesInstanceUID, seg.SOPInstanceUID, seg.FrameOfReferenceUID}
        assert len(own) == 4
        assert not own & uids
        uids |= own


def test_segments_say_what_they_are(tmp_path):
    labels = np.zeros((1, 9, 10), np.uint8)
    labels.ravel()[: len(TABLE)] = list(TABLE)
    geometry = Geometry((10, 9, 1), (0.3, 0.3, 0.3))
    write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE)
    seg = hd.seg.segread(tmp_path / "a.dcm")
    assert [d.SegmentNumber for d in seg.SegmentSequence] == list(range(1, len(TABLE) + 1))
    for segment, (number, structure) in zip(seg.SegmentSequence, sorted(TABLE.items())):
        assert segment.SegmentLabel == title(structure)
        assert TITLES[segment.SegmentLabel] == number
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentAlgorithmName == "umamba2"
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
        assert algorithm.AlgorithmVersion
        colour = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb(clip=True)
        np.testing.assert_allclose(colour, structure.colour, atol=1)
        expected, (kind,) = coding(structure), segment.SegmentedPropertyTypeCodeSequence
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == (expected.kind.value, expected.kind.scheme)
        modifiers = [code.CodeValue for code in kind.get("SegmentedPropertyTypeModifierCodeSequence", [])]
        assert modifiers == ([expected.modifier.value] if expected.modifier else [])
        regions = [code.CodeValue for code in segment.get("AnatomicRegionSequence", [])]
        assert regions == ([expected.region.value] if expected.region else [])
    by_label = {segment.SegmentLabel: segment for segment in seg.SegmentSequence}
    tooth = by_label["36 lower left first molar"].SegmentedPropertyTypeCodeSequence[0]
    assert (tooth.CodeValue, tooth.CodingSchemeDesignator) == ("866006002", "SCT")
    assert by_label["pulp of tooth 36"].AnatomicRegionSequence[0].CodeValue == "866006002"
    (scheme,) = seg.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == PRIVATE_SCHEME


def test_label_maps_keep_their_ids(tmp_path):
    write_dicom_seg(tmp_path / "a.dcm", label_map(), grid(EIGHT[0]), TABLE, kind="labelmap")
    seg = hd.seg.segread(tmp_path / "a.dcm")
    assert [d.SegmentNumber for d in seg.SegmentSequence if d.SegmentNumber] == [1, 3, 7, 9, 11, 36, 50, 53, 136]


def test_structures_that_are_not_asked_for_are_left_out(tmp_path):
    labels = label_map()
    write_dicom_seg(tmp_path / "a.dcm", labels, grid(EIGHT[0]), {36: TABLE[36], 21: TABLE[21]})
    seg = hd.seg.segread(tmp_path / "a.dcm")
    assert [d.SegmentLabel for d in seg.SegmentSequence] == ["36 lower left first molar"]
    np.testing.assert_array_equal(in_patient(seg, grid(EIGHT[0])), np.where(labels == 36, 36, 0))


def test_another_challenge(tmp_path):
    table = {s.platform: s for s in STSR.structures}
    write_dicom_seg(tmp_path / "a.dcm", label_map(ids=tuple(table)), grid(EIGHT[0]), table)
    seg = hd.seg.segread(tmp_path / "a.dcm")
    types = {d.SegmentLabel: d.SegmentedPropertyTypeCodeSequence[0] for d in seg.SegmentSequence}
    assert types["tooth"].CodeValue == "38199008"
    assert types["upper molar root 1"].CodingSchemeDesignator == PRIVATE_SCHEME
    assert len({(code.CodingSchemeDesignator, code.CodeValue) for code in types.values()}) == len(STSR.structures)


@pytest.mark.parametrize(
    ("labels", "geometry", "says"),
    [
        (np.zeros(SHAPE, np.uint8), grid(EIGHT[0]), "found no structure, expected at least one"),
        (np.full(SHAPE, 99, np.uint8), grid(EIGHT[0]), "found no structure, expected at least one"),
        (label_map(), grid((1, 0.02, 0, 0, 1, 0, 0, 0, 1)), "found axes that miss right angles by 1.1 degrees"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, labels, geometry, says):
    with pytest.raises(InputError, match=says):
        write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"old")

    def half(self, place):
        pydicom.dcmwrite(place, self)
        place.write_bytes(place.read_bytes()[:-100])

    monkeypatch.setattr(hd.seg.Segmentation, "save_as", half)
    with pytest.raises(InputError, match="is the disk full"):
        write_dicom_seg(path, label_map(), grid(EIGHT[0]), TABLE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_a_model_may_have_are_one_text_each(tmp_path):
    """In DICOM a backslash parts values, and none may be empty."""
    names = {1: "back\\slash", 2: "new\nline\x1b[1m", 3: " ", 4: "x" * 80, 5: "É 1"}
    labels = np.resize(np.arange(6, dtype=np.uint8), SHAPE)
    table = {number: unknown_structure(number, name) for number, name in names.items()}
    write_dicom_seg(tmp_path / "a.dcm", labels, grid(EIGHT[0]), table)
    segments = pydicom.dcmread(tmp_path / "a.dcm").SegmentSequence
    expected = ["back slash", "new line [1m", "unnamed", "x" * 64, "É 1"]
    assert [segment.SegmentLabel for segment in segments] == expected
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
    assert [kind.CodeMeaning for kind in kinds] == expected
    assert [kind.CodeValue for kind in kinds[:3]] == ["1_BACK_SLASH", "2_NEW_LINE_[1M", "3_UNNAMED"]


@pytest.mark.parametrize("voxels", [1, 7, 8])
def test_slices_of_a_few_voxels(tmp_path, voxels):
    labels = np.resize(np.array([1, 0, 11, 1, 1], np.uint8), (5, 1, voxels))
    geometry = Geometry.of_array(labels.shape, (1, 1, 1))
    if voxels < 8:
        with pytest.raises(InputError, match=f"a.dcm: found slices of {voxels} voxels, expected at least 8 in one"):
            write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE)
        write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE, kind="labelmap")
        return
    write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE)
    content = np.frombuffer(pydicom.dcmread(tmp_path / "a.dcm").PixelData, np.uint8)
    bits = np.unpackbits(content, bitorder="little").reshape(-1, voxels)[:10]
    np.testing.assert_array_equal(bits, np.concatenate([labels[::-1, 0] == 1, labels[::-1, 0] == 11]))


def test_a_disk_that_is_full_from_the_start_is_one_line(tmp_path):
    """pydicom adds a traceback to the system's word."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write_dicom_seg(tmp_path / "a.dcm", label_map(), grid(EIGHT[0]), TABLE)
    size = (tmp_path / "a.dcm").stat().st_size
    (tmp_path / "a.dcm").unlink()
    for room in (0, size // 3, size - 200):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            with pytest.raises(InputError, match="could not be written") as caught:
                write_dicom_seg(tmp_path / "a.dcm", label_map(), grid(EIGHT[0]), TABLE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        assert "Traceback" not in str(caught.value)
        assert not list(tmp_path.iterdir())


def test_the_scan_was_resampled(tmp_path):
    """A missing slice was filled in: the grid has one more than the series, and only shared ones refer to an image."""
    geometry, labels = grid(EIGHT[0]), label_map()
    headers = ct_headers(geometry)
    missing = headers.pop(4)
    write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE, headers)
    seg = hd.seg.segread(tmp_path / "a.dcm")
    np.testing.assert_array_equal(in_patient(seg, geometry), labels)
    text = (tmp_path / "a.dcm").read_bytes()
    assert missing.SOPInstanceUID.encode() not in text


# What makers leave out of their headers, or write into them.
def with_values(header, **values):
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        header[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=pydicom.config.IGNORE)


def no_positions(header, k):
    del header.ImagePositionPatient, header.ImageOrientationPatient


def no_frame_of_reference(header, k):
    del header.FrameOfReferenceUID


def no_patient(header, k):
    for keyword in ("PatientName", "PatientID", "PatientSex", "StudyDate", "AccessionNumber", "StudyID", "StudyTime"):
        delattr(header, keyword)


def odd_patient(header, k):
    with_values(header, PatientBirthDate="1.1.1970", PatientAge="56 years", StudyTime="25:61", PatientSex="D")


def two_orientations(header, k):
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0] if k % 2 else [1, 0, 0, 0, 0.9999, 0.01]


def japanese(header, k):
    header.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    header.PatientName = "Yamada^Tarou=山田^太郎"


def umlauts(header, k):
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientName = "Müller^Jürgen"


def no_series_number(header, k):
    header.SeriesNumber = None


def localised_uids(header, k):
    header.PositionReferenceIndicator = "SN"
    header.PatientComments = "x" * 2000


def kind_without_a_grid(header, k):
    header.SOPClassUID = "1.2.3.4"


def x_ray_3d(header, k):
    header.SOPClassUID, header.Modality = "1.2.840.10008.5.1.4.1.1.13.1.1", "XA"


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (no_positions, ["found images that do not say how they lie in the patient"]),
        (no_frame_of_reference, ["found images that do not say how they lie in the patient"]),
        (no_patient, []),
        (
            odd_patient,
            ["found a Patient's Age", "found a Patient's Birth Date", "found a Patient's Sex", "found a Study"],
        ),
        (two_orientations, []),
        (japanese, []),
        (umlauts, []),
        (no_series_number, []),
        (localised_uids, []),
        (kind_without_a_grid, []),
        (x_ray_3d, []),
    ],
)
def test_headers_that_are_not_as_they_should_be(tmp_path, odd, says):
    geometry, labels = grid(EIGHT[0]), label_map()
    headers = ct_headers(geometry, odd)
    remarks = write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE, headers)
    assert len(remarks) == len(says)
    assert all(any(text in remark for remark in remarks) for text in says), remarks
    assert not any("1970" in remark for remark in remarks)
    seg = hd.seg.segread(tmp_path / "a.dcm")
    np.testing.assert_array_equal(in_patient(seg, geometry), labels)
    assert (seg.FrameOfReferenceUID == headers[0].get("FrameOfReferenceUID")) == (len(says) != 1)
    assert seg.StudyInstanceUID == headers[0].StudyInstanceUID
    assert seg.PatientName == str(headers[0].get("PatientName", ""))
    (series,) = seg.ReferencedSeriesSequence
    assert {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence} == {
        header.SOPInstanceUID for header in headers
    }


def test_images_without_a_study_or_a_series(tmp_path):
    def without(keyword):
        return ct_headers(grid(EIGHT[0]), lambda header, k: delattr(header, keyword))

    for keyword, says in (("StudyInstanceUID", "images of no study"), ("SeriesInstanceUID", None)):
        remarks = write_dicom_seg(tmp_path / "a.dcm", label_map(), grid(EIGHT[0]), TABLE, without(keyword))
        assert [says in remark for remark in remarks] == ([] if says is None else [True])
        seg = hd.seg.segread(tmp_path / "a.dcm")
        np.testing.assert_array_equal(in_patient(seg, grid(EIGHT[0])), label_map())
        assert seg.PatientID == "PHANTOM-7"
        assert "ReferencedSeriesSequence" not in seg


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_values_that_cannot_be_read_are_left_out(tmp_path):
    headers = ct_headers(grid(EIGHT[0]))
    for header in headers:
        for keyword, value in (("PatientWeight", b"70 kg"), ("SeriesNumber", b"four")):
            tag = tag_for_keyword(keyword)
            header._dict[tag] = RawDataElement(Tag(tag), dictionary_VR(tag), len(value), value, 0, False, True)
    (remark,) = write_dicom_seg(tmp_path / "a.dcm", label_map(), grid(EIGHT[0]), TABLE, headers)
    assert "found a Patient's Weight that is not as DICOM has it, left out" in remark
    assert "70" not in remark.split(": ", 1)[1]
    assert "PatientWeight" not in pydicom.dcmread(tmp_path / "a.dcm")


@pytest.mark.parametrize("of_scan", [False, True])
def test_an_independent_program_finds_no_error(tmp_path, of_scan):
    """dciodvfy (David Clunie's dicom3tools, Debian's package of that name); it does not know LABELMAP yet."""
    validator = shutil.which("dciodvfy")
    if validator is None:
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")
    geometry = grid(LEFT_HANDED_OBLIQUE)
    headers = ct_headers(geometry) if of_scan else []
    write_dicom_seg(tmp_path / "a.dcm", label_map(ids=tuple(TABLE)), geometry, TABLE, headers)
    report = subprocess.run([validator, tmp_path / "a.dcm"], capture_output=True, text=True, check=False)
    lines = (report.stdout + report.stderr).splitlines()
    assert "Segmentation" in lines
    assert [line for line in lines if line.startswith("Error")] == []
    # The project's own codes, and what an anonymous scan lacks.
    known = (f"Unrecognized defined term <{PRIVATE_SCHEME}>", "needed to build DICOMDIR")
    assert [line for line in lines if line.startswith("Warning") and not any(text in line for text in known)] == []


def test_another_reader_finds_the_same(tmp_path):
    """segimage2itkimage (dcmqi, on DCMTK) writes a file for each segment."""
    program = shutil.which("segimage2itkimage", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("dcmqi is not installed")
    geometry, labels = grid(LEFT_HANDED_OBLIQUE), label_map(ids=(3, 36))
    write_dicom_seg(tmp_path / "a.dcm", labels, geometry, TABLE, ct_headers(geometry))
    command = [program, "--inputDICOM", tmp_path / "a.dcm", "--outputDirectory", tmp_path, "-t", "nrrd"]
    subprocess.run(command, capture_output=True, check=True)
    for number, ids in enumerate((3, 36), start=1):
        mask, read = read_labels(tmp_path / f"{number}.nrrd")
        places = to_patient(read, np.argwhere(mask))
        expected = to_patient(geometry, np.argwhere(labels == ids))
        order, own = np.lexsort(places.round(3).T), np.lexsort(expected.round(3).T)
        np.testing.assert_allclose(places[order], expected[own], atol=1e-3)
