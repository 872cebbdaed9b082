"""Grids as ITK reads them from a header; voxels stay where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba2.errors import InputError
from umamba2.scans.geometry import Geometry
from umamba2.scans.headers import Header
from umamba2.scans.itk import captured_stderr, remarks

_READERS = {".nrrd": "NrrdImageIO", ".nii": "NiftiImageIO", ".gz": "NiftiImageIO"}  # by the ending of a file's name


def grid_of(path: Path, header: Header) -> tuple[Geometry, np.dtype[np.generic], list[str]]:
    """The grid of a MetaImage or NRRD file, the type of its voxels, and what its header has that is odd."""
    if header.geometry is not None and header.dtype is not None:
        return header.geometry, header.dtype, list(header.said)
    reader, remarked = opened(path)
    return geometry_of(path, reader), _dtype(reader), [*header.said, *remarked]


def opened(path: Path) -> tuple[sitk.ImageFileReader, list[str]]:
    """ITK's reader of a file, which has read the header, and what it remarked. A RuntimeError if it cannot."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[path.suffix.lower()])
    reader.SetFileName(str(path))
    with captured_stderr() as lines:
        reader.ReadImageInformation()
    return reader, remarks(path, lines)


def _dtype(reader: sitk.ImageFileReader) -> np.dtype[np.generic]:
    """The type of the voxels of an image whose header has been read."""
    dtype: np.dtype[np.generic] = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype
    return dtype


def geometry_of(path: Path, reader: sitk.ImageFileReader) -> Geometry:
    """The grid of an image whose header has been read, as the file states it."""
    dimension, size, components = reader.GetDimension(), reader.GetSize(), reader.GetNumberOfComponents()
    if dimension != 3 and (dimension != 4 or size[3] != 1):  # files of one time point
        raise InputError(f"{path}: found a {dimension}-D image of size {size}, expected 3-D")
    if components != 1:
        raise InputError(f"{path}: found {components} values per voxel, expected 1")
    if min(size) < 1:
        raise InputError(f"{path}: found size {size}, expected at least one voxel along each axis")
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    if dimension == 4:
        reader.SetExtractSize([*size[:3], 0])
    return Geometry(size[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(direction.ravel().tolist()))


def image_grid(image: sitk.Image) -> Geometry:
    """The grid of a SimpleITK image."""
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
