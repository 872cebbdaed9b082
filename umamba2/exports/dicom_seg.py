"""Label maps as DICOM Segmentation objects (SEG), which archives and viewers keep beside the scan.

highdicom writes them from the grid itself, never from slices in some order: every frame says where it lies in the
patient, whatever the order and the handedness of the array's axes. DICOM PS3.3 A.51 (BINARY: a frame for each structure
and slice) and A.96 (LABELMAP: a frame for each slice, of which few programs know yet).

With the headers of a DICOM scan the SEG belongs to its patient, study and frame of reference, and refers to its images.
Without, it gets a study of its own that names no patient and refers to nothing, because nothing is there to refer to.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.datadict import dictionary_description
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid
from pydicom.valuerep import DA, DT, TM

from umamba2 import __version__
from umamba2.anatomy.codes import PRIVATE_SCHEME, PRIVATE_SCHEME_NAME, Code, coding, dicom_text
from umamba2.anatomy.groups import title
from umamba2.anatomy.numberings import ids_in
from umamba2.anatomy.structures import Structure
from umamba2.errors import InputError
from umamba2.exports.formats import SEGMENT_TYPES
from umamba2.files import replacing
from umamba2.scans.dicom import source_headers
from umamba2.scans.geometry import Geometry, check_same_grid
from umamba2.scans.nifti import shear
from umamba2.scans.volumes import is_dicom_scan, read_volume

NAME = "umamba2"
# What highdicom copies from the scan, by DICOM's modules; all may be empty, but not missing.
_OF_PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_REFERENCE = ("StudyInstanceUID", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
_PATIENT_GROUP = 0x0010
_MOST_SHEAR = 0.01  # degrees
_FEWEST = 8  # voxels of a slice; highdicom writes bits of smaller ones where no reader looks for them


def write_dicom_seg(
    path: str | Path,
    labels: npt.NDArray[np.uint8],
    geometry: Geometry,
    table: Mapping[int, Structure],
    headers: Sequence[Dataset] = (),
    kind: str = SEGMENT_TYPES[0],
) -> list[str]:
    """Write a label map as a DICOM Segmentation, complete or not at all.

    Args:
        path: Where to.
        labels: (z, y, x).
        geometry: Their grid.
        table: What the ids in the label map mean. Those that are not in it become background; those that are, but not
            in the label map, no segment.
        headers: Of the scan's images, without pixels, in the order of its slices
            (`umamba2.scans.dicom.source_headers`); empty for a scan that is no DICOM.
        kind: "binary" or "labelmap".

    Returns:
        What is to be warned of, a line each.

    Raises:
        InputError: There is no structure, the grid's axes are not at right angles, slices are tiny, the headers cannot
            be used, or the file cannot be written.
    """
    if kind not in SEGMENT_TYPES:
        raise InputError(f"segment type: found {kind!r}, expected one of {', '.join(SEGMENT_TYPES)}")
    shown = {number: table[number] for number in ids_in(labels) if number in table}
    if not shown:
        raise InputError(f"{path}: found no structure, expected at least one: a DICOM Segmentation cannot be empty")
    if kind != "labelmap" and labels[0].size < _FEWEST:
        found = f"slices of {labels[0].size} voxels"
        raise InputError(f"{path}: found {found}, expected at least {_FEWEST} in one, or --seg-type labelmap")
    # A segment of a label map is known by its value in it, so that those can stay; others are counted.
    numbers = {label: label if kind == "labelmap" else n for n, label in enumerate(shown, start=1)}
    kept = np.zeros(256, np.uint8)
    kept[list(numbers)] = list(numbers.values())
    remarks: list[str] = []
    sources = _usable(path, headers, geometry, remarks)
    array, affine = kept[labels], _affine(path, geometry)
    segments = [_segment(numbers[label], structure) for label, structure in shown.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the values of others, which stay as they are
        try:
            seg = _segmentation(array, affine, segments, sources, kind)
        except Exception:  # headers have more forms than highdicom takes; where they are is known without it
            sources = [_stand_in(geometry, sources[0])]
            seg = _segmentation(array, affine, segments, sources, kind)
        _finish(seg, sources, headers)
        with replacing(path, ".dcm") as partial:
            try:
                seg.save_as(partial)
            except OSError as error:  # pydicom adds a traceback to what the system says
                raise OSError(error.errno, error.strerror or str(error).splitlines()[0]) from None
            _verify(partial, seg)
    return remarks


def _segmentation(
    array: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    segments: list[hd.seg.SegmentDescription],
    sources: Sequence[Dataset],
    kind: str,
) -> hd.seg.Segmentation:
    volume = hd.Volume(
        array=array,
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=sources[0].FrameOfReferenceUID,
    )
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=volume,
        segmentation_type=kind.upper(),
        segment_descriptions=segments,
        specific_character_set="ISO_IR 192",
        series_instance_uid=generate_uid(),
        series_number=_series_number(sources[0]),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=__version__,
        device_serial_number=__version__,  # must not be empty; programs have none
        content_label="SEGMENTATION",
        content_description="Structures of the mouth, found by a program",
        series_description=f"Segmentation by {NAME} {__version__}",
        # The bits of single structures cannot be compressed; whole label maps become a tenth or less.
        transfer_syntax_uid=RLELossless if kind == "labelmap" else ExplicitVRLittleEndian,
    )


def headers_of(scan: str | Path, geometry: Geometry, name: str, series: str | None = None) -> list[Dataset]:
    """The headers of the DICOM series that a label map is of.

    Args:
        scan: The series, as `umamba2.scans.volumes.read_volume` takes it.
        geometry: The grid of the label map.
        name: What messages call the label map.
        series: Which series, where there are several.

    Raises:
        InputError: It is no DICOM, cannot be read, or lies elsewhere.
    """
    scan = Path(scan)
    if not is_dicom_scan(scan):
        raise InputError(f"{scan}: found no DICOM, expected the series that {name} is of")
    check_same_grid(name, geometry, str(scan), read_volume(scan, series).geometry)
    return source_headers(scan, series)


def _segment(number: int, structure: Structure) -> hd.seg.SegmentDescription:
    codings = coding(structure)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=dicom_text(title(structure)),
        segmented_property_category=_code(codings.category),
        segmented_property_type=_code(codings.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=NAME, version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
        anatomic_regions=None if codings.region is None else [_code(codings.region)],
        display_color=hd.color.CIELabColor.from_rgb(*structure.colour),
    )
    if codings.modifier is not None:
        modifier = hd.sr.CodedConcept.from_code(_code(codings.modifier))
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def _code(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, code.meaning)


def _affine(path: str | Path, geometry: Geometry) -> npt.NDArray[np.float64]:
    """From indices (slice, row, column), the array's axes, to patient mm."""
    columns = np.reshape(geometry.direction, (3, 3))
    angle = shear(columns / np.linalg.norm(columns, axis=0))
    if angle > _MOST_SHEAR:
        found = f"axes that miss right angles by {angle:.2g} degrees"
        raise InputError(f"{path}: found {found}, expected right angles, as the frames of a DICOM Segmentation have")
    affine = np.eye(4)
    affine[:3, :3] = (columns * geometry.spacing)[:, ::-1]
    affine[:3, 3] = geometry.origin
    return affine


# --- the scan that it belongs to ------------------------------------------------------------------------------------


def _usable(path: str | Path, headers: Sequence[Dataset], geometry: Geometry, remarks: list[str]) -> list[Dataset]:
    """Headers that highdicom can use: those given, mended, or in their place a single one that states the grid."""
    if not headers:
        remarks.append(
            f"{path}: found a scan that is no DICOM, expected a series: the DICOM Segmentation has a study of its own, "
            "without a patient"
        )
        return [_stand_in(geometry, Dataset())]
    first = deepcopy(headers[0])
    _mend(path, first, remarks)
    if not first.get("StudyInstanceUID"):
        remarks.append(f"{path}: found images of no study, expected one; the segmentation has one of its own")
        return [_stand_in(geometry, first)]
    if not first.get("FrameOfReferenceUID") or not _oriented(first):
        found, expected = "images that do not say how they lie in the patient", "orientation and frame of reference"
        remarks.append(f"{path}: found {found}, expected {expected}; the segmentation has a frame of its own")
        first.FrameOfReferenceUID = generate_uid()
        return [_stand_in(geometry, first)]
    return [first, *headers[1:]] if _places([first, *headers[1:]]) else [_stand_in(geometry, first)]


def _oriented(header: Dataset) -> bool:
    groups = [header, *(header.get("SharedFunctionalGroupsSequence") or [])]
    groups += (header.get("PerFrameFunctionalGroupsSequence") or [])[:1]
    groups += [item for group in groups for item in group.get("PlaneOrientationSequence") or []]
    return any(group.get("ImageOrientationPatient") for group in groups)


def _places(headers: Sequence[Dataset]) -> bool:
    """Whether the headers say where each of their frames lies, in the standard's way."""
    first = headers[0]
    if len(headers) == 1 and "NumberOfFrames" in first:
        groups = first.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
        shared = (first.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        return (
            all("PlanePositionSequence" in group for group in groups)
            and "PlaneOrientationSequence" in shared
            and "PixelMeasuresSequence" in shared
        )
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SOPClassUID", "SOPInstanceUID")
    alike = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns", needed[1])
    return all(header.get(keyword) for header in headers for keyword in needed) and all(
        header.get(keyword) == first.get(keyword) for header in headers for keyword in alike
    )


def _stand_in(geometry: Geometry, of: Dataset) -> Dataset:
    """A header that states the first slice of a grid, of the patient and study of another header, if that has them."""
    header, direction = Dataset(), np.reshape(geometry.direction, (3, 3))
    for keyword in _OF_PATIENT:
        setattr(header, keyword, of.get(keyword, ""))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(header, keyword, of.get(keyword) or generate_uid())
    header.SOPClassUID, header.SOPInstanceUID, header.SeriesInstanceUID = CTImageStorage, generate_uid(), generate_uid()
    header.Modality = "CT"
    header.Rows, header.Columns = geometry.size[1], geometry.size[0]
    header.ImagePositionPatient = [float(f"{value:.10g}") for value in geometry.origin]
    header.ImageOrientationPatient = [float(f"{value:.10g}") for value in direction[:, :2].T.ravel()]
    header.PixelSpacing = [float(f"{value:.10g}") for value in (geometry.spacing[1], geometry.spacing[0])]
    header.SliceThickness = float(f"{geometry.spacing[2]:.10g}")
    return header


def _mend(path: str | Path, header: Dataset, remarks: list[str]) -> None:
    """Add what a header lacks of patient and study, and leave out what must not be written again.

    Values are the patient's, so they are not said.
    """
    for tag in list(header.keys()):
        try:
            header[tag]
        except Exception:  # a value that cannot be one of its kind, such as a weight of "70 kg"
            del header[tag]
            if tag.group == _PATIENT_GROUP:
                remarks.append(f"{path}: found a {dictionary_description(tag)} that is not as DICOM has it, left out")
    header.decode()  # texts from whatever characters they were written in: a SEG has UTF-8
    for element in list(header):
        if element.keyword not in _OF_PATIENT and element.tag.group != _PATIENT_GROUP:
            continue
        try:
            if element.VR == "PN":
                element.value = str(element.value or "")  # not the bytes that were read
            kind = {"DA": DA, "TM": TM, "DT": DT}.get(element.VR)
            if kind is not None and element.value:
                kind(element.value)
            DataElement(element.tag, element.VR, element.value, validation_mode=config.RAISE)
            fine = element.keyword != "PatientSex" or element.value in (None, "", "M", "F", "O")
        except (ValueError, TypeError):
            fine = False
        if not fine:
            del header[element.tag]
            remarks.append(f"{path}: found a {element.name} that is not as DICOM has it, left out")
    for keyword in _OF_PATIENT:
        if keyword not in header:
            setattr(header, keyword, "")


def _series_number(header: Dataset) -> int:
    """One that the scan's own series does not have."""
    own = header.get("SeriesNumber")
    return 1000 + int(own) if own not in (None, "") and 0 <= int(own) < 10**6 else 1000


def _finish(seg: hd.seg.Segmentation, sources: Sequence[Dataset], headers: Sequence[Dataset]) -> None:
    """References to images that exist alone, and what the private codes are of."""
    if not headers or sources[0].SOPInstanceUID != headers[0].get("SOPInstanceUID"):
        for group in seg.PerFrameFunctionalGroupsSequence:
            if "DerivationImageSequence" in group:
                del group.DerivationImageSequence
        del seg.SourceImageSequence, seg.ReferencedSeriesSequence
        whole = [header for header in headers if all(header.get(uid) for uid in _REFERENCE)]
        images = [_reference(header) for header in whole if header.StudyInstanceUID == seg.StudyInstanceUID]
        if images:
            series = Dataset()
            series.SeriesInstanceUID, series.ReferencedInstanceSequence = whole[0].SeriesInstanceUID, images
            seg.SourceImageSequence, seg.ReferencedSeriesSequence = images, [series]
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = PRIVATE_SCHEME, PRIVATE_SCHEME_NAME
    seg.CodingSchemeIdentificationSequence = [scheme]


def _reference(header: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return reference


def _verify(path: Path, seg: Any) -> None:
    """Raise OSError if a file is not what was to be written."""
    try:
        same = dcmread(path).PixelData == seg.PixelData
    except Exception:
        same = False
    if not same:
        raise OSError("the file is not complete; is the disk full?")
