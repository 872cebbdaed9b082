"""CT series for the tests of DICOM Segmentations."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from umamba2.scans.orientation import to_patient


def ct_headers(geometry, extra=None):
    """The headers of a CT series on a grid, in the order of its slices."""
    direction = np.reshape(geometry.direction, (3, 3))
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    headers = []
    for k in range(geometry.size[2]):
        header = Dataset()
        header.PatientName, header.PatientID, header.PatientBirthDate = "Synthetic^Phantom", "PHANTOM-7", "19700101"
        header.PatientSex, header.StudyDate, header.StudyTime, header.StudyID = "O", "20260101", "120000", "1"
        header.AccessionNumber, header.ReferringPhysicianName = "A1", ""
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.SOPClassUID, header.SOPInstanceUID, header.Modality = CTImageStorage, generate_uid(), "CT"
        header.SeriesNumber, header.InstanceNumber = 4, k + 1
        header.Columns, header.Rows = geometry.size[:2]
        header.PixelSpacing = [geometry.spacing[1], geometry.spacing[0]]
        header.SliceThickness = geometry.spacing[2]
        header.ImageOrientationPatient = [round(value, 9) for value in direction[:, :2].T.ravel().tolist()]
        position = to_patient(geometry, np.array([[k, 0, 0]]))[0]
        header.ImagePositionPatient = [round(value, 6) for value in position.tolist()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if extra is not None:
                extra(header, k)
            file = BytesIO()
            header.save_as(file, implicit_vr=False, little_endian=True)  # as they come from files
            file.seek(0)
            headers.append(pydicom.dcmread(file, force=True))
    return headers


def write_series(folder: Path, geometry, array=None) -> Path:
    """A series on a grid as files, of the given int16 voxels (z, y, x), else noise; the files' names say nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    if array is None:
        array = np.random.default_rng(0).integers(-1000, 3000, geometry.shape).astype(np.int16)
    for k, header in enumerate(ct_headers(geometry)):
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation = 15, 1
        header.RescaleSlope, header.RescaleIntercept = 1, 0
        header.PixelData = array[k].astype("<i2").tobytes()
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset("", header, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
        file.save_as(folder / f"{(k * 7) % 100:03d}{k:03d}.dcm", enforce_file_format=True)
    return folder
