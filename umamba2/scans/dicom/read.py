"""A scan out of DICOM files: from the slices to one array on one grid."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from umamba2.errors import InputError
from umamba2.scans.dicom.decoder import Decoder
from umamba2.scans.dicom.frames import Frame, frame_count
from umamba2.scans.dicom.greys import Greys, check_scale
from umamba2.scans.dicom.headers import columns_of, need_pydicom, quiet, rows_of
from umamba2.scans.dicom.pixels import check_size, stored_slices
from umamba2.scans.dicom.places import Stack, stacked
from umamba2.scans.dicom.series import Series, choose, find_series
from umamba2.scans.dicom.sources import opened
from umamba2.scans.dicom.upright import upright
from umamba2.scans.dicom.whole import check_listed, check_whole
from umamba2.scans.geometry import Array, Geometry
from umamba2.scans.voxels import check_memory

if TYPE_CHECKING:
    from pydicom import Dataset

_BYTES = 6  # a voxel, at most, while a scan is read: its number, a copy in single precision where it needs one


@dataclass(frozen=True)
class Scan:
    """What DICOM files hold.

    Attributes:
        array: Intensities (z, y, x), int16 or float32.
        geometry: Their grid.
        warnings: What was odd, one line each.
        sized: Whether they state any voxel size.
        oriented: Whether they state how the scan lies in the patient.
    """

    array: Array
    geometry: Geometry
    warnings: list[str]
    sized: bool
    oriented: bool


def read_dicom(path: str | Path, series: str | None = None) -> Scan:
    """Read the scan in a folder of DICOM files, in a zip of them, or in one file.

    Args:
        path: The folder (searched below), the zip, or the file.
        series: The UID or the number of the series to read; None: the largest of the one patient that there is.

    Raises:
        InputError: There is no series to read, or one that cannot be read as it is.
        MissingExtra: pydicom is not installed.
    """
    path = Path(path)
    need_pydicom(str(path))
    with ExitStack() as kept:
        kept.enter_context(quiet())
        warnings = list[str]()
        stack = _stack(kept, path, series, warnings)
        array = _filled(stack, str(path), warnings)
    array, geometry = upright(array, stack, str(path), warnings)
    return Scan(array, geometry, warnings, stack.sized, stack.oriented)


def source_headers(path: str | Path, series: str | None = None) -> list[Dataset]:
    """The headers, without pixels, of the series that `read_volume` reads, in the order of the volume's slices.

    Args:
        path: A folder, a zip, or one file.
        series: Which series, as in `read_volume`.

    Returns:
        One header for each slice that there is, or for each file where files hold several.

    Raises:
        InputError: There is no series to read.
        MissingExtra: pydicom is not installed.
    """
    path = Path(path)
    need_pydicom(str(path))
    with ExitStack() as kept:
        kept.enter_context(quiet())
        stack = _stack(kept, path, series, [], complete=True)
    headers = {frame.header.label: frame.header.values for frame in stack.frames}
    return list(headers.values())


def _stack(kept: ExitStack, path: Path, series: str | None, warnings: list[str], complete: bool = False) -> Stack:
    name = str(path)
    files = kept.enter_context(opened(path, warnings))
    check_listed(files, path, warnings)
    volumes = find_series(files.sources, warnings, name, series, complete)
    candidates = volumes if series is not None or not path.is_dir() else _right_in(path, volumes, warnings)
    stack = stacked(choose(candidates, series, warnings, name), name, warnings)
    check_whole(stack, len(volumes) == 1, name, warnings)
    return stack


def _right_in(folder: Path, volumes: list[Series], warnings: list[str]) -> list[Series]:
    """The volumes whose slices lie right in a folder, where there are some beside those of other patients or studies.

    The folders below it, and files of many slices, are scans of their own then (`umamba2.scans.find`).
    """

    def lies_in(one: Series) -> bool:
        return all(frame_count(f.header) == 1 and Path(f.header.label).parent == folder for f in one.frames)

    own = [one for one in volumes if lies_in(one)]
    others = len(volumes) - len(own)
    if not own or not others or len({(one.patient, one.study) for one in volumes}) == 1:
        return volumes
    found = f"found {others} volumes in folders below or in files of their own"
    warnings.append(f"{folder}: {found}, and several patients or studies; took what lies right in the folder")
    return own


def _filled(stack: Stack, name: str, warnings: list[str]) -> Array:
    """The array (z, y, x) of a stack, missing slices filled in."""
    check_scale(stack.frames, name, warnings)
    header = stack.frames[0].header
    rows, columns, depth = rows_of(header), columns_of(header), int(stack.layers[-1]) + 1
    files = {frame.header.label: frame.header for frame in [*stack.frames, *(copy for _, copy in stack.copies)]}
    for one in files.values():
        check_size(one, rows, columns, frame_count(one))
    check_memory(name, _BYTES * rows * columns * depth)
    layers = {_key(frame): (frame, int(layer)) for frame, layer in zip(stack.frames, stack.layers)}
    copies = {_key(copy): (copy, int(stack.layers[of])) for of, copy in stack.copies}
    for all_bits in (False, True):
        greys = Greys((depth, rows, columns), name, warnings, all_bits)
        doubles, spare = list[tuple[Frame, int, Array]](), list[str]()
        with Decoder() as decoder:
            for one in files.values():
                for index, plane in enumerate(stored_slices(one, rows, columns, frame_count(one), decoder, spare)):
                    key = (one.label, index)
                    if key in layers:
                        frame, layer = layers[key]
                        greys.put(layer, plane, frame)
                    elif key in copies:
                        doubles.append((*copies[key], plane))
        if not greys.is_of_two_kinds:
            break
    kinds = dict[str, list[str]]()
    for line in spare:
        kinds.setdefault(line.rpartition("; ")[2], []).append(line)
    for first, *more in kinds.values():
        warnings.append(first + (f", and so are those of {len(more):,} more files" if more else ""))
    for copy, layer, plane in doubles:
        if not greys.has(layer, plane, copy):
            found = f"found two different slices at one place (layer {layer + 1})"
            raise InputError(f"{name}: {found}, expected one, or the same twice")
    return greys.finished()


def _key(frame: Frame) -> tuple[str, int]:
    return frame.header.label, frame.index
