"""Images in and out, with their geometry.

Arrays are (z, y, x), and so are their shapes and spacings. SimpleITK and `Geometry` speak (x, y, z), as the files do;
the swap happens in `umamba2.scans` and nowhere else.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba2.errors import InputError
from umamba2.files import found_at, replacing
from umamba2.scans.dicom.files import has_dicom_ending, is_dicom, without_dicom_ending
from umamba2.scans.geometry import Array, Triple, check_written
from umamba2.scans.geometry import Geometry as Geometry
from umamba2.scans.grids import geometry_of, grid_of, image_grid, opened
from umamba2.scans.headers import metaimage_header, nrrd_header
from umamba2.scans.itk import captured_stderr, reason
from umamba2.scans.nifti import LARGEST_SHEAR, nifti_header, shear
from umamba2.scans.pages import check_pages
from umamba2.scans.spacing import check_spacing
from umamba2.scans.tiff import read_tiff
from umamba2.scans.voxels import blank_rows, check_voxels, coarse, compact, read_voxels, rounded

SUFFIXES = (".mha", ".mhd", ".nii.gz", ".nii", ".nrrd", ".tiff", ".tif")
_MOST_EXTENSIONS = 1 << 14  # bytes of a NIfTI file; ITK goes through all extensions again for each of them
_NEAR_ONE = 0.02  # how far the length of a direction may be from that
_FARTHEST = 1e6  # mm; no scanner puts its origin a kilometre away, and single precision has no more room
_BRIGHTEST = 1e30  # no intensity; differences, squares of gains and sums of larger ones leave single precision
_BESIDE = 2  # bytes for each voxel of a scan that whoever segments it takes at least besides: labels, and a mask
_LARGEST, _SMALLEST = 1e9, 1e-9  # of the numbers of a grid, and of a spacing: with others no writer can work
_INCOMPLETE = "the file is not complete; is the disk full?"


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
    """The file name without its image suffix, or that of DICOM; the name of a folder."""
    name = Path(path).name or Path(os.path.abspath(path)).name
    if suffix(name) is None:
        return without_dicom_ending(name)
    return name[: len(name) - len(suffix(name) or "")]


def list_volumes(folder: str | Path) -> list[Path]:
    """The image files of a folder, sorted by name, links to nowhere too; hidden files are left out."""
    return sorted(p for p in Path(folder).iterdir() if suffix(p) and not p.name.startswith(".") and not p.is_dir())


def read_volume(path: str | Path, series: str | None = None) -> Volume:
    """Read a 3-D image: a file, or DICOM in a folder, a zip or a file.

    Voxels that are NaN or infinite become the smallest finite value of the image (air), with a warning.

    Args:
        path: An image file; a folder of DICOM files, searched below; a zip of them; or a DICOM file with all slices.
        series: The UID or the number of a DICOM series; None: the largest of the one patient that there is.

    Raises:
        InputError: The file is missing, empty, incomplete or damaged, or holds no 3-D image with one channel, no
            voxel, or no finite voxel.
        MissingExtra: It is DICOM, and pydicom is not installed.
    """
    path = Path(path)
    if not is_dicom_scan(path):
        if series is not None:
            raise InputError(f"{path}: found an image and --series {series[:70]}, expected DICOM")
        return _mended(_read(path, _BESIDE))
    from umamba2.scans.dicom.read import read_dicom  # pydicom takes its time to import: not before it is needed

    _check_name(path)
    with _unchanged(path):
        scan = read_dicom(path, series)
    stated: dict[str, Triple] | None = None if scan.sized else {}
    return _mended(_volume(str(path), scan.array, scan.geometry, stated, scan.warnings, scan.oriented))


def is_dicom_scan(path: Path) -> bool:
    """Whether `read_volume` reads a path as DICOM: a folder, a zip, and files that are called so or are so."""
    if os.path.isdir(path):  # not Path.is_dir, which raises where a name is too long
        return True
    return suffix(path) is None and os.path.isfile(path) and (has_dicom_ending(path.name, zips=True) or is_dicom(path))


def as_volume(array: Array, geometry: Geometry, name: str) -> Volume:
    """Make a volume of an array, mended as in `read_volume`.

    Args:
        array: Intensities (z, y, x) of any real type.
        geometry: Their grid.
        name: What messages call it.

    Raises:
        InputError: The numbers are complex, or none is finite.
    """
    return _mended(_volume(name, array, geometry, None, []))


def _mended(volume: Volume) -> Volume:
    """A volume whose voxels are finite and have one of the types that `Volume` says."""
    array, name = volume.array, volume.name
    if np.iscomplexobj(array):
        raise InputError(f"{name}: found complex voxels, expected real intensities")
    if array.dtype.kind in "bui":
        kept = compact(array)
        said = rounded(name, int(array.min()), int(array.max())) if kept.dtype == np.float32 else []
        return replace(volume, array=kept, warnings=(*volume.warnings, *said, *blank_rows(name, array)))
    finite = np.isfinite(array)
    count = array.size - int(np.count_nonzero(finite))
    if count == array.size:
        raise InputError(f"{name}: found only NaN or infinite voxels, expected intensities")
    said = list(volume.warnings)
    pairs = zip(array, finite) if array.dtype.itemsize > 2 else ()
    beyond = sum(int(np.count_nonzero((np.abs(plane) > _BRIGHTEST) & known)) for plane, known in pairs)
    if beyond:
        said.append(f"{name}: found {beyond} voxels beyond {_BRIGHTEST:g}, expected intensities; taken for that")
        array = np.clip(array, -_BRIGHTEST, _BRIGHTEST)
    if array.dtype.itemsize > 4:
        said += coarse(name, array.min(initial=np.inf, where=finite), array.max(initial=-np.inf, where=finite))
    with np.errstate(over="ignore"):  # of what is infinite
        array = array.astype(np.float32, copy=False)
    if count:
        array = np.where(finite, array, array[finite].min())
        said.append(f"{name}: found {count} NaN or infinite voxels, expected finite intensities")
    return replace(volume, array=array, warnings=(*said, *blank_rows(name, array)), mended=count > 0)


def read_labels(path: str | Path, warnings: list[str] | None = None, as_taken: bool = False) -> tuple[Array, Geometry]:
    """Read a label map.

    Args:
        path: The file.
        warnings: Gets one line for everything that is odd about the file, as `Volume.warnings`.
        as_taken: Whether a grid that is doubtful shall be the one that it is taken for (`Volume.grid`).

    Returns:
        The labels (z, y, x) in an integer type, and their grid, as the file states it unless asked otherwise. Whole
        numbers stored as floating point get a signed type that holds them.

    Raises:
        InputError: As `read_volume`, and for values that are no whole numbers of 64 bits.
    """
    array, geometry = read_array(path, warnings, as_taken)
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
    # MetaImage's two files (.mhd) name each other and cannot be moved; with the voxels inside it is one file.
    with replacing(path, ".mha" if ending == ".mhd" else ending) as partial:
        try:
            with captured_stderr():
                sitk.WriteImage(image, str(partial), useCompression=True)
        except RuntimeError as error:
            # Each of ITK's writers has other words for a full disk, some with a name that nobody knows.
            full = shutil.disk_usage(partial.parent).free < sitk.GetArrayViewFromImage(image).nbytes
            said = reason(error)
            raise OSError(_INCOMPLETE if full or "disk" in said or partial.name in said else said) from None
        written = _verify(partial, sitk.GetArrayViewFromImage(image))
        if ending not in (".tif", ".tiff"):  # which have no place for a grid
            check_written(str(path), written, image_grid(image))


def _verify(path: Path, array: Array) -> Geometry:
    """A file's grid; OSError if it lacks these voxels: most of ITK's writers say nothing when a disk is full."""
    try:
        volume = _read(path)
    except InputError:
        raise OSError(_INCOMPLETE) from None
    written = volume.array
    # Byte by byte, so that NaN is equal to NaN.
    if written.dtype != array.dtype or not np.array_equal(written.view(np.uint8), array.view(np.uint8)):
        raise OSError(_INCOMPLETE)
    return volume.geometry


def to_image(array: Array, geometry: Geometry) -> sitk.Image:
    """An array (z, y, x) on its grid as a SimpleITK image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def from_image(image: sitk.Image) -> tuple[Array, Geometry]:
    """A copy of a SimpleITK image's voxels as an array (z, y, x), and their grid."""
    return sitk.GetArrayFromImage(image), image_grid(image)


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # SimpleITK would end the process
        raise InputError(f"{path}: found a file name that is not UTF-8, expected one that is") from None


def read_grid(path: str | Path) -> Geometry:
    """The grid to measure an image file with (`Volume.grid`), from its header; of TIFF, all of the file is read.

    Errors as `read_volume`, but for what only the voxels show.
    """
    return _read(Path(path), grid_only=True).grid


def read_array(path: str | Path, warnings: list[str] | None = None, as_taken: bool = False) -> tuple[Array, Geometry]:
    """Read a 3-D image of one channel as it is: (z, y, x), in the file's own type; otherwise as `read_labels`."""
    volume = _read(Path(path))
    if warnings is not None:
        warnings += volume.warnings
    return volume.array, volume.grid if as_taken else volume.geometry


def check_size(path: Path) -> None:
    """Refuse a scan that `read_volume` will refuse for its size, without reading its voxels; DICOM is passed over.

    Raises:
        InputError: As `read_volume`, as far as the header and the length of the file say so.
    """
    ending = suffix(path)
    if ending is None or not os.path.isfile(path):
        return
    if ending in (".tif", ".tiff"):
        check_pages(path, _BESIDE)
    elif ending in (".nii", ".nii.gz"):
        nifti = nifti_header(path)
        check_voxels(str(path), nifti.header, nifti.dtype, nifti.size[::-1], _BESIDE)
    else:
        header = nrrd_header(path) if ending == ".nrrd" else metaimage_header(path)
        geometry, dtype, _ = grid_of(path, header)
        check_voxels(str(path), header, dtype, geometry.shape, _BESIDE)


def _read(path: Path, more: int = 0, grid_only: bool = False) -> Volume:
    """Read an image as it is, in the file's own type, if there are so many bytes more for each voxel.

    If only the grid is wanted, zeros are in place of the voxels.
    """
    _check_name(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: found {found_at(path)}, expected an image")
    ending = suffix(path)
    if ending is None:
        raise InputError(f"{path}: found an unknown file name ending, expected one of {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: found an empty file (0 bytes), expected an image")
    try:
        with _unchanged(path):
            if ending in (".nii", ".nii.gz"):
                return _read_nifti(path, more, grid_only)
            if ending in (".tif", ".tiff"):
                return _read_tiff(path, more)
            header = nrrd_header(path) if ending == ".nrrd" else metaimage_header(path)
            geometry, dtype, said = grid_of(path, header)
            with _unchanged(header.data):
                array = read_voxels(str(path), header, dtype, geometry.shape, said, more, grid_only)
        return _volume(str(path), array, geometry, None if header.sized else {}, said, header.oriented)
    except RuntimeError as error:
        raise InputError(f"{path}: could not be read ({reason(error)}), expected a complete image file") from None
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}), expected a readable file") from None


@contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    """Raise InputError if a file is another one at the end: half of each may have been read. Folders are passed over.

    What is written into the folder of a series while it is read, our outputs for one, need not belong to it.
    """

    def stamp() -> tuple[int, int, int] | None:
        found = os.stat(path)
        return None if stat.S_ISDIR(found.st_mode) else (found.st_ino, found.st_size, found.st_mtime_ns)

    before = stamp()
    yield
    if stamp() != before:
        raise InputError(f"{path}: found a file that changed while it was read, expected a complete one")


def _read_nifti(path: Path, more: int, grid_only: bool) -> Volume:
    nifti = nifti_header(path)
    if len(nifti.size) != 3:
        raise InputError(f"{path}: found a {len(nifti.size)}-D image of size {nifti.size}, expected 3-D")
    said = list(nifti.header.said)
    try:
        if nifti.extensions > _MOST_EXTENSIONS:
            raise RuntimeError
        reader, remarked = opened(path)
        geometry = geometry_of(path, reader)
        said += remarked
    except RuntimeError:  # NIfTI-2, axes that are not quite at right angles, many extensions
        geometry, angle = nifti.geometry()
        if angle >= LARGEST_SHEAR:
            found = f"axes that miss right angles by {angle:.2g} degrees"
            raise InputError(f"{path}: found {found}, expected less than {LARGEST_SHEAR:g}") from None
        if angle > 0.01:
            found = f"axes that miss right angles by {angle:.2g} degrees"
            said.append(f"{path}: found {found}, expected right angles; taken for the nearest")
    differ = nifti.disagreement()
    if differ:
        said.append(f"{path}: found a qform and an sform that are {differ}, expected one place in the patient")
    slope, intercept = nifti.scale
    is_scaled = (slope, intercept) != (1, 0)
    kind = np.dtype(np.float64 if nifti.dtype.itemsize == 8 and nifti.dtype.kind == "f" else np.float32)
    more += kind.itemsize if is_scaled else 0
    array = read_voxels(str(path), nifti.header, nifti.dtype, geometry.shape, said, more, grid_only)
    if is_scaled and not grid_only:
        scaled = np.empty(array.shape, kind)
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is found and said
            for z in range(len(array)):
                scaled[z] = array[z] * np.float64(slope) + intercept
        array = scaled
    return _volume(str(path), array, geometry, nifti.voxel_sizes, said, nifti.header.oriented)


def _read_tiff(path: Path, more: int) -> Volume:
    array, spacing, said = read_tiff(path, more)
    # TIFF has no place for the distance of slices, nor for how they lie.
    return _volume(str(path), array, Geometry(array.shape[::-1], spacing), {}, said, oriented=False)


def _volume(
    name: str,
    array: Array,
    geometry: Geometry,
    stated: dict[str, Triple] | None,
    said: list[str],
    oriented: bool = True,
) -> Volume:
    """A volume, once its grid is checked; ``stated`` as in `check_spacing`, ``said`` are warnings so far."""
    for what, values in (
        ("spacing", geometry.spacing),
        ("origin", geometry.origin),
        ("directions", geometry.direction),
    ):
        if not all(abs(value) <= _LARGEST for value in values):
            raise InputError(f"{name}: found the {what} {values}, expected finite numbers up to {_LARGEST:g}")
    if any(mm != 0 and mm < _SMALLEST for mm in geometry.spacing):
        raise InputError(f"{name}: found the spacing {geometry.spacing}, expected 0 or at least {_SMALLEST:g} mm")
    columns = np.reshape(geometry.direction, (3, 3))
    lengths = np.linalg.norm(columns, axis=0)
    if np.abs(lengths - 1).max() > _NEAR_ONE and lengths.min() > 0:
        raise InputError(f"{name}: found directions {geometry.direction}, expected three of length 1")
    if max(map(abs, geometry.origin)) > _FARTHEST:
        said.append(f"{name}: found the origin {geometry.origin} mm, expected one at most {_FARTHEST:g} away")
    if abs(np.linalg.det(columns)) < 1e-3:
        raise InputError(
            f"{name}: found directions {geometry.direction} of determinant 0, expected three different ones"
        )
    angle = shear(columns / np.linalg.norm(columns, axis=0))
    if angle >= LARGEST_SHEAR:
        said.append(f"{name}: found axes that miss right angles by {angle:.2g} degrees, expected right angles")
    grid, odd = check_spacing(name, geometry, stated)
    if min(geometry.spacing) == 0:
        geometry = grid  # nothing could be written with the stated one
    return Volume(array, geometry, (*said, *odd), oriented, corrected=None if grid == geometry else grid, name=name)
