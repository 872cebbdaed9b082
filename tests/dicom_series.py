"""Small DICOM series with known voxels and places, written for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (24, 40, 48)
SPACING = (0.25, 0.3, 0.3)  # mm, (z, y, x)
ORIGIN = (-7.0, -6.0, 10.0)
SECRETS = ("Roe^Jane", "MRN-4711", "19710203", "20240506", "ACC-99", "Dr^Who")  # what must not reach any output


def header(patient: str = SECRETS[1], study: str = "study", series: str = "series") -> Dataset:
    """The header of a CT slice, without its place and voxels."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = SECRETS[0], patient, SECRETS[2]
    ds.StudyDate, ds.AccessionNumber, ds.ReferringPhysicianName = SECRETS[3:]
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[patient, study])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[patient, study, series])
    ds.Modality, ds.SeriesNumber = "CT", 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns = SHAPE[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    return ds


def voxels(seed: int = 0) -> np.ndarray:
    """Grey values (z, y, x), int16, that differ from slice to slice."""
    return np.random.default_rng(seed).integers(-1000, 3000, SHAPE).astype(np.int16)


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a data set, and the folders above it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    ds.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_slices(folder: Path, array: np.ndarray | None = None, change=None, **of_header) -> Path:
    """Write a series of slices; ``change(ds, k)`` may alter the header of slice k. Returns the folder."""
    array = voxels() if array is None else array
    for k, plane in enumerate(array):
        ds = header(**of_header)
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * k]
        ds.Rows, ds.Columns = plane.shape
        ds.PixelData = np.ascontiguousarray(plane).astype("<i2").tobytes()
        if change is not None:
            change(ds, k)
        save(ds, folder / f"IM{k:04d}")
    return folder
