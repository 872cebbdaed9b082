"""Images in and out, with their geometry.

Arrays are (z, y, x), and so are their shapes and spacings. SimpleITK and `Geometry` speak (x, y, z), as the files do;
the swap happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from umamba2.errors import InputError
from umamba2.files import replacing
from umamba2.scans.itk import captured_stderr, missing_data, nifti_gaps, reason

SUFFIXES = (".mha", ".mhd", ".nii.gz", ".nii", ".nrrd", ".tiff", ".tif")

Array = np.ndarray[Any, Any]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Where a grid lies in the patient.

    Attributes:
        size: In voxels, (x, y, z), as all of these.
        spacing: In mm.
        origin: Where the centre of the first voxel lies, in mm: x to the patient's left, y to the back, z to the top.
        direction: The nine direction cosines, row by row; column k is the direction in which grid axis k grows.
    """

    size: tuple[int, int, int]
    spacing: Triple
    origin: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def of_array(cls, shape: Sequence[int], spacing: Sequence[float], origin: Triple = (0.0, 0.0, 0.0)) -> Geometry:
        """The grid of an array whose axes run along the patient's.

        Args:
            shape: (z, y, x) in voxels.
            spacing: (z, y, x) in mm.
            origin: (x, y, z) in mm.
        """
        (depth, height, width), (z, y, x) = shape, spacing
        return cls((width, height, depth), (x, y, z), origin)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an array on this grid, (z, y, x)."""
        x, y, z = self.size
        return (z, y, x)

    @property
    def zyx_spacing(self) -> Triple:
        """The spacing in the order of an array's axes, (z, y, x), in mm."""
        x, y, z = self.spacing
        return (z, y, x)


@dataclass(frozen=True)
class Volume:
    """A CBCT scan.

    Attributes:
        array: Intensities (z, y, x): uint8 or int16 where the file holds whole numbers that fit, else float32.
        geometry: The grid as the file states it; what is written for this scan lies on it too.
        warnings: What is odd about the file, one line each.
        oriented: Whether the file says how it lies in the patient.
        mended: Whether NaN or infinite voxels were replaced.
        corrected: The grid to measure with, where the stated spacing cannot be right.
        name: What messages call it.
    """

    array: Array
    geometry: Geometry
    warnings: tuple[str, ...] = ()
    oriented: bool = True
    mended: bool = False
    corrected: Geometry | None = None
    name: str = "scan"

    @property
    def grid(self) -> Geometry:
        """The grid to measure with: the stated one, corrected where it cannot be right."""
        return self.corrected or self.geometry

    @property
    def spacing(self) -> Triple:
        """Spacing to measure with in mm, (z, y, x)."""
        return self.grid.zyx_spacing


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

    Raises:
        InputError: The file is missing, empty or unreadable, or holds no 3-D image with one channel, no voxel, or no
            finite voxel.
    """
    array, geometry = read_array(path)
    return replace(as_volume(array, geometry, str(path)), oriented=suffix(path) not in (".tif", ".tiff"))


def as_volume(array: Array, geometry: Geometry, name: str) -> Volume:
    """Make a volume of an array, mended as in `read_volume`.

    Args:
        array: Intensities (z, y, x) of any real type.
        geometry: Their grid.
        name: What messages call it.

    Raises:
        InputError: The numbers are complex, or none is finite.
    """
    if np.iscomplexobj(array):
        raise InputError(f"{name}: found complex voxels, expected real intensities")
    if array.dtype.kind in "bui":
        return Volume(_compact(array), geometry, name=name)
    finite = np.isfinite(array)
    count = array.size - int(np.count_nonzero(finite))
    if count == array.size:
        raise InputError(f"{name}: found only NaN or infinite voxels, expected intensities")
    if array.dtype != np.float32:  # which ends earlier than float64: finite values must not become infinite
        largest = np.finfo(np.float32).max
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        np.clip(array, -largest, largest, out=array)
    if count == 0:
        return Volume(array, geometry, name=name)
    array = np.where(finite, array, array[finite].min())
    warning = f"{name}: found {count} NaN or infinite voxels, expected finite intensities"
    return Volume(array, geometry, (warning,), mended=True, name=name)


def _compact(array: Array) -> Array:
    """Whole numbers in the smallest of uint8 (if that is their type), int16 and float32 that holds them."""
    if array.dtype in (np.uint8, np.int16):
        return array
    limits = np.iinfo(np.int16)
    if array.dtype.kind == "b" or limits.min <= array.min() <= array.max() <= limits.max:
        return array.astype(np.int16)
    return array.astype(np.float32)


def read_labels(path: str | Path) -> tuple[Array, Geometry]:
    """Read a label map: (z, y, x) array in an integer type, and its geometry.

    Whole numbers stored as floating point get a signed type that holds them.

    Raises:
        InputError: As `read_volume`, and for values that are no whole numbers of 64 bits.
    """
    array, geometry = read_array(path)
    if not np.issubdtype(array.dtype, np.integer):
        odd = first_odd(array)
        if odd is not None:
            raise InputError(f"{path}: found the value {odd}, expected whole numbers (a label map)")
        extremes = int(array.min()), int(array.max())
        array = array.astype(np.result_type(np.int8, *map(np.min_scalar_type, extremes)))
    return array, geometry


def first_odd(array: Array) -> float | None:
    """The first value that cannot be a label, being no whole number of 64 bits, or None."""
    if np.issubdtype(array.dtype, np.integer):
        return None
    fits = (np.abs(array) < 2.0**63) & (np.rint(array) == array)  # False for NaN
    if fits.all():
        return None
    odd: float = array[np.unravel_index(np.argmin(fits), fits.shape)].item()
    return odd


def write_labels(path: str | Path, labels: Array, geometry: Geometry) -> None:
    """Write a label map as compressed uint8, complete or not at all.

    The file appears under its name only when it is whole, so a crash never leaves half an answer.

    Args:
        path: Where to; the name's ending says the format.
        labels: (z, y, x), 0 to 255.
        geometry: Their grid.

    Raises:
        InputError: The array's shape is not the grid's, or the file cannot be written.
    """
    write_volume(path, labels.astype(np.uint8, copy=False), geometry)


def write_volume(path: str | Path, array: Array, geometry: Geometry) -> None:
    """Write intensities (z, y, x) on their grid, compressed, in the array's own type; otherwise as `write_labels`."""
    if tuple(array.shape) != geometry.shape:
        raise InputError(f"{path}: found an array of shape {array.shape}, expected {geometry.shape}")
    write_image(path, to_image(array, geometry))


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
            with captured_stderr():
                sitk.WriteImage(image, str(whole), useCompression=True)
        except RuntimeError as error:
            raise OSError(reason(error)) from None
        whole.replace(partial)


def to_image(array: Array, geometry: Geometry) -> sitk.Image:
    """An array (z, y, x) on its grid as a SimpleITK image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def from_image(image: sitk.Image) -> tuple[Array, Geometry]:
    """A copy of a SimpleITK image's voxels as an array (z, y, x), and their grid."""
    grid = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return sitk.GetArrayFromImage(image), grid


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # SimpleITK would end the process
        raise InputError(f"{path}: found a file name that is not UTF-8, expected one that is") from None


def read_array(path: str | Path) -> tuple[Array, Geometry]:
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
        with captured_stderr():
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
        with captured_stderr() as remarks:
            image = reader.Execute()
    except RuntimeError as error:
        missing = missing_data(path)
        if missing is not None:
            raise InputError(f"{path}: found no {missing}, expected the file that it names as its voxels") from None
        raise InputError(f"{path}: could not be read ({reason(error)}), expected a complete image file") from None
    array, geometry = from_image(image)
    spacing = geometry.spacing
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise InputError(f"{path}: found spacing {spacing}, expected positive millimetres")
    if array.size == 0:
        raise InputError(f"{path}: found no voxels (shape {array.shape}), expected at least one")
    if any("Failed to read directory" in remark for remark in remarks):  # TIFF: slices are missing
        raise InputError(f"{path}: found only the first {size[2]} slices, expected a complete image file")
    if suffix(path) in (".nii", ".nii.gz"):
        gaps = nifti_gaps(path, array.shape)
        if gaps is not None:
            array = np.where(gaps, np.nan, array)
    return array, geometry
