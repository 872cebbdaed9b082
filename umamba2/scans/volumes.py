"""Images in and out, with their geometry.

Arrays are (z, y, x); spacing is in mm in the same order. SimpleITK speaks (x, y, z); the swap happens here and
nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba2.errors import InputError
from umamba2.files import replacing
from umamba2.scans.itk import listening, missing_data, nifti_gaps, reason

SUFFIXES = (".mha", ".mhd", ".nii.gz", ".nii", ".nrrd", ".tiff", ".tif")


@dataclass(frozen=True)
class Geometry:
    """Where a grid lies in the patient: size in voxels, spacing and origin in mm, direction cosines, all in ITK's
    (x, y, z) order."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Volume:
    """A CBCT scan: ``array`` float32 (z, y, x) with its ``geometry``; ``warnings`` says what had to be mended."""

    array: np.ndarray
    geometry: Geometry
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing in mm, (z, y, x)."""
        x, y, z = self.geometry.spacing
        return (z, y, x)


def suffix(path: str | Path) -> str | None:
    """The image suffix of a file name (``.nii.gz`` counts as one), or None if it is no known image format."""
    name = Path(path).name.lower()
    return next((s for s in SUFFIXES if name.endswith(s)), None)


def stem(path: str | Path) -> str:
    """The file name without its image suffix."""
    name = Path(path).name
    return name[: len(name) - len(suffix(path) or "")]


def list_volumes(folder: str | Path) -> list[Path]:
    """The image files of a folder, sorted by name, links to nowhere too; hidden files are left out."""
    return sorted(p for p in Path(folder).iterdir() if suffix(p) and not p.name.startswith(".") and not p.is_dir())


def read_volume(path: str | Path) -> Volume:
    """Read a 3-D image.

    Voxels that are NaN or infinite become the smallest finite value of the image (air), with a warning.
    Raises InputError, naming the file, for a missing, empty or unreadable file, an image that is not 3-D with one
    channel, a zero-size image, or one without a single finite voxel.
    """
    path = Path(path)
    return as_volume(*read_array(path), str(path))


def as_volume(array: np.ndarray, geometry: Geometry, name: str) -> Volume:
    """Make a volume of intensities (z, y, x), mended as in `read_volume`; ``name`` is what messages call it."""
    if np.iscomplexobj(array):
        raise InputError(f"{name}: found complex voxels, expected real intensities")
    finite = np.isfinite(array)
    if array.dtype == np.float64:  # float32 ends earlier; beyond that, finite values would become infinite
        array = np.clip(array, np.finfo(np.float32).min, np.finfo(np.float32).max)
    array = array.astype(np.float32, copy=False)
    count = array.size - int(np.count_nonzero(finite))
    if count == 0:
        return Volume(array, geometry)
    if count == array.size:
        raise InputError(f"{name}: found only NaN or infinite voxels, expected intensities")
    array = np.where(finite, array, array[finite].min())
    return Volume(array, geometry, (f"{name}: found {count} NaN or infinite voxels, expected finite intensities",))


def read_labels(path: str | Path) -> tuple[np.ndarray, Geometry]:
    """Read a label map: (z, y, x) array in an integer type, and its geometry.

    Whole numbers stored as floating point get a signed type that holds them. Raises InputError as
    `read_volume` does, and for values that are no whole numbers of 64 bits.
    """
    array, geometry = read_array(path)
    if not np.issubdtype(array.dtype, np.integer):
        odd = first_odd(array)
        if odd is not None:
            raise InputError(f"{path}: found the value {odd}, expected whole numbers (a label map)")
        extremes = int(array.min()), int(array.max())
        array = array.astype(np.result_type(np.int8, *map(np.min_scalar_type, extremes)))
    return array, geometry


def first_odd(array: np.ndarray) -> float | None:
    """The first value that cannot be a label, being no whole number of 64 bits, or None."""
    if np.issubdtype(array.dtype, np.integer):
        return None
    fits = (np.abs(array) < 2.0**63) & (np.rint(array) == array)  # False for NaN
    return None if fits.all() else array[np.unravel_index(np.argmin(fits), fits.shape)].item()


def write_labels(path: str | Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map as compressed uint8 on the given grid, complete or not at all.

    The file appears under its name only when it is whole, so a crash never leaves half an answer.
    Raises InputError if the array's shape is not the grid's, or the folder cannot be written.
    """
    write_volume(path, labels.astype(np.uint8, copy=False), geometry)


def write_volume(path: str | Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write intensities (z, y, x) on the given grid, compressed, in the array's own type; otherwise `write_labels`."""
    if tuple(array.shape[::-1]) != tuple(geometry.size):
        raise InputError(f"{path}: found an array of shape {array.shape}, expected {tuple(geometry.size[::-1])}")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    write_image(path, image)


def write_image(path: str | Path, image: sitk.Image) -> None:
    """Write a SimpleITK image, compressed, complete or not at all; InputError if that is not possible."""
    path = Path(path)
    _check_name(path)
    ending = suffix(path)
    if ending is None:
        raise InputError(f"{path}: found an unknown image format, expected one of {', '.join(SUFFIXES)}")
    with replacing(path) as partial:
        # MetaImage's two files (.mhd) name each other and cannot be moved; with the voxels inside it is one file.
        whole = partial.with_suffix(".mha") if ending == ".mhd" else partial
        try:
            with listening():
                sitk.WriteImage(image, str(whole), useCompression=True)
        except RuntimeError as error:
            raise OSError(reason(error)) from None
        whole.replace(partial)


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # SimpleITK would end the process
        raise InputError(f"{path}: found a file name that is not UTF-8, expected one that is") from None


def read_array(path: str | Path) -> tuple[np.ndarray, Geometry]:
    """Read a 3-D image of one channel as it is: (z, y, x) array in the file's own type. Errors as `read_volume`."""
    path = Path(path)
    _check_name(path)
    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected an image")
    if suffix(path) is None:
        raise InputError(f"{path}: found an unknown file name ending, expected one of {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: found an empty file (0 bytes), expected an image")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with listening():
            reader.ReadImageInformation()
        dimension, size, components = reader.GetDimension(), reader.GetSize(), reader.GetNumberOfComponents()
        if dimension == 4 and size[3] == 1:  # NIfTI files of one time point
            reader.SetExtractSize([*size[:3], 0])
        elif dimension != 3:
            raise InputError(f"{path}: found a {dimension}-D image of size {size}, expected 3-D")
        if components != 1:
            raise InputError(f"{path}: found {components} values per voxel, expected 1")
        if min(size) < 1:
            raise InputError(f"{path}: found size {size}, expected at least one voxel along each axis")
        with listening() as remarks:
            image = reader.Execute()
    except RuntimeError as error:
        missing = missing_data(path)
        if missing is not None:
            raise InputError(f"{path}: found no {missing}, expected the file that it names as its voxels") from None
        raise InputError(f"{path}: could not be read ({reason(error)}), expected a complete image file") from None
    spacing = image.GetSpacing()
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise InputError(f"{path}: found spacing {spacing}, expected positive millimetres")
    array = sitk.GetArrayFromImage(image)
    if array.size == 0:
        raise InputError(f"{path}: found no voxels (shape {array.shape}), expected at least one")
    if any("Failed to read directory" in remark for remark in remarks):  # TIFF: slices are missing
        raise InputError(f"{path}: found only the first {size[2]} slices, expected a complete image file")
    if suffix(path) in (".nii", ".nii.gz"):
        gaps = nifti_gaps(path, array.shape)
        if gaps is not None:
            array = np.where(gaps, np.nan, array)
    return array, geometry_of(image)


def geometry_of(image: sitk.Image) -> Geometry:
    """The grid of a SimpleITK image."""
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
