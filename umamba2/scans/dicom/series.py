"""Which slices belong together, and which of several volumes is read.

No message here holds anything of a patient: series are told apart by their number and size. Only who asks for a series
by --series and misses hears the UIDs that there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.dicom.frames import Frame, frame_count, frames_of
from umamba2.scans.dicom.headers import Header, columns_of, read_header, rows_of, text, whole
from umamba2.scans.dicom.sources import Source
from umamba2.scans.geometry import Array

if TYPE_CHECKING:
    from pydicom import Dataset

_SAME_DIRECTION = 2e-3  # cosines of slices that lie alike differ by at most that
_SAME_SPACING = 0.01  # of the smaller one
_COLOURS = ("RGB", "YBR", "PALETTE", "HSV", "ARGB", "CMYK")
_NO_SCANS = (  # images that are none of a patient: segmentations, maps, doses
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
    "1.2.840.10008.5.1.4.1.1.30",
    "1.2.840.10008.5.1.4.1.1.481.2",
)


@dataclass
class Series:
    """Slices that make a volume.

    Attributes:
        frames: The slices, in the order of the files.
        patient: Whose, as far as the files say; to compare, not to show.
        study: The UID of the visit; likewise.
        uid: Of the series; likewise.
        number: Of the series, or None.
        gathered: Whether each slice claims to be a series of its own.
    """

    frames: list[Frame]
    patient: str
    study: str
    uid: str
    number: int | None
    gathered: bool = False
    key: tuple[object, ...] = field(default=(), repr=False)

    @property
    def header(self) -> Header:
        """The first file's."""
        return self.frames[0].header

    @property
    def voxels(self) -> int:
        """How many."""
        return len(self.frames) * rows_of(self.header) * columns_of(self.header)

    def describe(self) -> str:
        """The series in a few words, none of them a patient's."""
        size = f"{columns_of(self.header)} x {rows_of(self.header)} x {len(self.frames)} voxels"
        return f"series {'without number' if self.number is None else self.number} ({size})"


def find_series(
    sources: Iterable[Source], warnings: list[str], name: str, wanted: str | None = None, complete: bool = False
) -> list[Series]:
    """All volumes in some files, the largest first. Localizers, pictures and what is no scan are left out.

    Args:
        sources: The files.
        warnings: Gets a line for what is odd.
        name: What messages call the scan.
        wanted: The UID or number of the series that will be chosen, or None; files of others need not be readable.
        complete: Whether headers are wanted with all values, whatever their size.

    Raises:
        InputError: A file cannot be read, or no two slices belong together.
    """
    groups = dict[tuple[object, ...], list[Frame]]()  # whose they are is looked at last
    left = dict[tuple[object, ...], list[Header]]()  # images that are no scans, by what they have in common
    unknown = 0
    for source in sources:
        try:
            header = read_header(source, complete=complete)
            image = _is_image(header)
        except InputError:
            if source.sure:
                raise
            continue  # it only looked like DICOM
        unknown += image is None
        if image and is_scan(header):
            try:
                groups.setdefault(_key(header), []).extend(frames_of(header))
            except InputError:
                if wanted is None or wanted in (text(header.values, "SeriesInstanceUID"), _number(header.values)):
                    raise
        elif image and text(header.values, "NumberOfFrames") in ("", "1"):
            left.setdefault(_key(header), []).append(header)
    found = [
        series
        for key, group in groups.items()
        for patient, frames in _by_patient(group).items()
        for series in _split(key, patient, frames)
    ]
    volumes = [series for series in found if len(series.frames) > 1]
    strays = [one for one in found if len(one.frames) == 1 and any(_akin(one, volume) for volume in volumes)]
    if not volumes:
        volumes = [series for series in _gathered(found) if len(series.frames) > 1]
        if volumes:
            said = f"found a series UID of its own for each of {len(volumes[0].frames)} slices, expected one for all"
            warnings.append(f"{name}: {said}; taken together")
    if unknown:
        found_files = f"found {unknown} DICOM files of an unknown kind and without an image"
        warnings.append(f"{name}: {found_files}, expected slices; left out")
    if not volumes:
        what = {0: "no slice", 1: "one slice"}.get(len(found), f"{len(found)} slices that do not belong together")
        raise InputError(f"{name}: found {what}, expected the slices of a volume (give the folder that holds them)")
    if strays:
        apart = "but of another series, size, spacing or direction"
        warnings.append(f"{name}: found {len(strays)} single slices like those of a volume {apart}; left out")
    odd = sum(_lies_like(header, one.frames[0]) for one in volumes for header in left.get(one.key, ()))
    if odd:
        found_files = f"found {odd} images that lie as the slices of their series do, but"
        kinds = "call themselves localizers, pictures in colours or segmentations"
        warnings.append(f"{name}: {found_files} {kinds}, expected slices; left out")
    return sorted(volumes, key=lambda series: -series.voxels)


def _lies_like(header: Header, slice_: Frame) -> bool:
    """Whether an image that is no scan lies as a slice of its series does: a true localizer lies across."""
    try:
        (frame,) = frames_of(header)
    except InputError:
        return False
    return frame.axes is not None and frame.position is not None and _alike(frame, slice_)


def _akin(one: Series, volume: Series) -> bool:
    """Whether a single slice may have been one of a volume's, before something in its header was damaged."""
    same_size = (one.key[2:], one.patient) == (volume.key[2:], volume.patient)
    return one.uid == volume.uid or (same_size and _alike(one.frames[0], volume.frames[0]))


def _is_image(header: Header) -> bool | None:
    """Whether a file holds an image; None where it does not say what it holds in a known way.

    Raises InputError for an image whose header ends too early to say its size, and for a header of nothing.
    """
    from pydicom.uid import UID

    kind = text(header.values, "SOPClassUID")
    kind = kind or text(getattr(header.values, "file_meta", None), "MediaStorageSOPClassUID")
    if rows_of(header) and columns_of(header):
        return True
    known = UID(kind).name
    if not kind or "Image Storage" in known:
        raise InputError(f"{header.label}: found no size of its image, expected a complete DICOM file")
    return None if known == kind else False


def is_scan(header: Header) -> bool:
    """Whether an image is grey and of a patient: no localizer, no picture in colours, no segmentation."""
    values = header.values
    if text(values, "SOPClassUID") in _NO_SCANS or whole(values, "SamplesPerPixel") in (3, 4):
        return False
    words = re.split(r"[^A-Z]+", text(values, "ImageType").upper())
    return "LOCALIZER" not in words and not text(values, "PhotometricInterpretation").startswith(_COLOURS)


def choose(volumes: list[Series], wanted: str | None, warnings: list[str], name: str) -> Series:
    """The volume to read: the one asked for, else the largest of the one patient that there is.

    Args:
        volumes: As `find_series` returns them.
        wanted: A series' UID or number, or None.
        warnings: Gets a line that names the others.
        name: What messages call the scan.

    Raises:
        InputError: There is none that was asked for, or there are several; or the files are of several patients.
    """
    if wanted is not None:
        volumes = _wanted(volumes, wanted, name)
    patients = {series.patient for series in volumes}
    if len(patients) > 1:
        expected = "one (--series UID chooses)" if wanted is None else "a UID that only one has"
        raise InputError(f"{name}: found scans of {len(patients)} patients, expected {expected}")
    chosen, *others = volumes
    if others:
        listed = ", ".join(series.describe() for series in others[:5]) + (", ..." if len(others) > 5 else "")
        taken = f"took the largest, {chosen.describe()}, and left out {listed}"
        warnings.append(f"{name}: found {len(volumes)} volumes, expected one; {taken}")
    return chosen


def _wanted(volumes: list[Series], wanted: str, name: str) -> list[Series]:
    found = [series for series in volumes if series.uid == wanted]
    if not found:
        found = [series for series in volumes if str(series.number) == wanted]
    uids = list(dict.fromkeys(series.uid for series in found or volumes))
    if not found or len(uids) > 1:
        listed = "; ".join(f"{s.uid} = {s.describe()}" for s in (found or volumes)[:20])
        count = f"{len(uids)} of series" if found else "none of series"
        raise InputError(f"{name}: found {count} {wanted[:70]}, expected one of {listed}")
    return found


def _key(header: Header) -> tuple[object, ...]:
    """What slices that belong together have in common."""
    values = header.values
    study, series = text(values, "StudyInstanceUID"), text(values, "SeriesInstanceUID")
    # Volumes in one file are complete, unless the file says that others go on with it.
    alone = text(values, "ConcatenationUID") or (header.label if frame_count(header) > 1 else "")
    return study, series, rows_of(header), columns_of(header), alone


def _by_patient(frames: list[Frame]) -> dict[str, list[Frame]]:
    """The slices of a series apart by whose they say they are; those that do not say it are with the only one."""
    named = dict[str, list[Frame]]()
    for frame in frames:
        values = frame.header.values
        named.setdefault(text(values, "PatientID") or text(values, "PatientName"), []).append(frame)
    numbered = {text(frame.header.values, "PatientID") for frame in frames} - {""}
    return {next(iter(numbered), next(iter(named))): frames} if len(numbered) == 1 else named


def _split(key: tuple[object, ...], who: str, frames: list[Frame]) -> list[Series]:
    """The slices of a series apart by their direction and spacing, and by pass where there are several."""
    volumes = list[list[Frame]]()
    for part in _parts(frames):
        passes = [list(group) for _, group in groupby(sorted(part, key=_acquisition), key=_acquisition)]
        volumes += passes if len(passes) > 1 and _overlap(part) else [part]
    values = frames[0].header.values
    study, uid = (str(one) for one in key[:2])
    number = whole(values, "SeriesNumber")
    return [Series(volume, who or study, study, uid, number, key=key) for volume in volumes]


def _acquisition(frame: Frame) -> str:
    return frame.acquisition


def _overlap(frames: list[Frame]) -> bool:
    """Whether slices of several passes are at one place; of one and the same it is a file that is there twice."""
    places = {(frame.position, frame.acquisition) for frame in frames if frame.position is not None}
    return len({position for position, _ in places}) < len(places)


def _parts(frames: list[Frame]) -> list[list[Frame]]:
    """Slices apart by direction and spacing, as the first of each part has them."""
    parts, firsts = list[list[Frame]](), np.empty((len(frames), 8))
    for frame in frames:
        like = _grid(frame)
        alike = _are_alike(firsts[: len(parts)], like)
        if alike.any():
            parts[int(alike.argmax())].append(frame)
        else:
            firsts[len(parts)] = like
            parts.append([frame])
    return parts


def _grid(frame: Frame) -> Array:
    """Directions (6) and spacing (2) of a slice, NaN for what it does not state."""
    return np.array([*(frame.axes or [np.nan] * 6), *(frame.spacing or [np.nan] * 2)])


def _are_alike(grids: Array, grid: Array) -> Array:
    """Which of several (n, 8) are that of a slice."""
    both_lack = np.isnan(grids) & np.isnan(grid)
    same = np.abs(grids - grid) <= np.r_[[_SAME_DIRECTION] * 6, _SAME_SPACING * np.abs(grid[6:])]
    alike: Array = np.all(same | both_lack, axis=1)
    return alike


def _alike(one: Frame, other: Frame) -> bool:
    return bool(_are_alike(_grid(one)[None], _grid(other))[0])


def _gathered(singles: list[Series]) -> list[Series]:
    """Slices that claim to be a series each, together where all else is alike."""
    groups = dict[tuple[object, ...], list[Series]]()
    for one in singles:
        groups.setdefault((one.patient, one.key[0], *one.key[2:]), []).append(one)
    together = list[Series]()
    for group in groups.values():
        whose = {id(one.frames[0]): one for one in group}
        for frames in _parts([frame for one in group for frame in one.frames]):
            first = whose[id(frames[0])]
            together.append(Series(frames, first.patient, first.study, first.uid, first.number, True, first.key))
    return together


def _number(values: Dataset) -> str:
    """The number of a series as one may ask for it, "" where there is none."""
    number = whole(values, "SeriesNumber")
    return "" if number is None else str(number)
