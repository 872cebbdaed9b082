"""The slices of DICOM files: of a file with one, of a file with many, wherever their headers keep what is said of them.

Places are in mm in the patient, (x, y, z) as DICOM has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.dicom.headers import (
    Header,
    columns_of,
    is_stated,
    item,
    number,
    numbers,
    rows_of,
    text,
    value,
    whole,
)
from umamba2.scans.dicom.pixels import check_size
from umamba2.scans.geometry import Array

if TYPE_CHECKING:
    from pydicom import Dataset

_MOST_FRAMES = 1 << 14  # ten times what the finest scanners make
_FARTHEST = 1e6  # mm
_NEAR_ONE = 0.02  # how far a direction's length and the cosine between two of them may be from what they should be


@dataclass(frozen=True)
class Frame:
    """A slice.

    Attributes:
        header: The header of its file.
        index: Which of the file's slices it is.
        position: Of the centre of its first voxel, or None.
        axes: The directions (2, 3) in which its columns and its rows follow each other, or None.
        spacing: Of rows and of columns in mm, or None.
        scale: Slope and intercept of its grey values; None for what is not stated.
        location: Its place along the direction of slices, as the file puts it, or None.
        acquisition: What tells apart the passes of a scanner over the same places.
        stack: What tells apart the stacks in a file with many slices.
        time: What tells apart the times of a scan that was taken over and over.
    """

    header: Header
    index: int
    position: tuple[float, ...] | None
    axes: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    scale: tuple[float | None, float | None]
    location: float | None
    acquisition: str
    stack: str
    time: str

    @property
    def axes_array(self) -> Array:
        """The two directions, each of length 1."""
        rows = np.reshape(np.array(self.axes, float), (2, 3))
        unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


class Lookup:
    """Where a file with many slices keeps what it says of one: in an item of its own, a shared one, or at the top."""

    def __init__(self, values: Dataset):
        self._top, self._shared = values, item(values, "SharedFunctionalGroupsSequence")
        has_own = item(values, "PerFrameFunctionalGroupsSequence") is not None
        self._own = value(values, "PerFrameFunctionalGroupsSequence") if has_own else ()

    @cached_property
    def count(self) -> int:
        """Of the items of single slices."""
        return len(self._own)

    def has_own(self, group: str) -> bool:
        """Whether each slice says something of its own."""
        return self.count > 0 and all(item(own, group) is not None for own in self._own)

    def groups(self, group: str, index: int) -> list[Dataset]:
        """The data sets that may say something on a slice, the nearest first."""
        own = self._own[index] if index < self.count else None
        return [found for found in (item(own, group), item(self._shared, group), self._top) if found is not None]

    def contradicts(self, group: str, keyword: str, count: int, index: int) -> bool:
        """Whether so many numbers of a slice are stated in several places, and differ."""
        stated = [f for d in self.groups(group, index) if (f := numbers(d, keyword, count)) is not None]
        return len(stated) > 1 and not np.allclose(stated[1:], stated[0], rtol=1e-4, atol=1e-6)

    def numbers(self, group: str, keyword: str, count: int, index: int = 0) -> tuple[float, ...] | None:
        """So many finite numbers of a slice, or None."""
        return next((f for d in self.groups(group, index) if (f := numbers(d, keyword, count)) is not None), None)

    def number(self, group: str, keyword: str, index: int = 0) -> float | None:
        """A finite number of a slice, or None."""
        return (self.numbers(group, keyword, 1, index) or (None,))[0]

    def text(self, group: str, keyword: str, index: int) -> str:
        """A text of a slice, "" if there is none."""
        return next((found for d in self.groups(group, index) if (found := text(d, keyword))), "")


def frame_count(header: Header) -> int:
    """How many slices a file says it holds.

    Raises:
        InputError: That is no number of slices.
    """
    stated = value(header.values, "NumberOfFrames")
    count = 1 if stated is None else whole(header.values, "NumberOfFrames")
    if count is None or not 1 <= count <= _MOST_FRAMES:
        found = f"found {str(stated)[:40]!r} as its number of slices"
        raise InputError(f"{header.label}: {found}, expected 1 to {_MOST_FRAMES}")
    return count


def frames_of(header: Header) -> list[Frame]:
    """The slices of a file, in its order.

    Raises:
        InputError: Directions are stated that are none, or more slices than the file can hold.
    """
    look, count = Lookup(header.values), frame_count(header)
    if count > 1:
        check_size(header, rows_of(header), columns_of(header), count)
    if look.count not in (0, count):
        found = f"found what is said of {look.count} slices"
        raise InputError(f"{header.label}: {found}, expected it of the {count} that the file holds")
    offsets = _offsets(header.values, count)
    acquisition, time = (text(header.values, what) for what in ("AcquisitionNumber", "TemporalPositionIdentifier"))
    frames = []
    for index in range(count):
        position = look.numbers("PlanePositionSequence", "ImagePositionPatient", 3, index)
        if position is not None and max(map(abs, position)) > _FARTHEST:
            raise InputError(f"{header.label}: found the position {position} mm, expected one on the scanner")
        axes = look.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6, index)
        slope = look.number("PixelValueTransformationSequence", "RescaleSlope", index)
        intercept = look.number("PixelValueTransformationSequence", "RescaleIntercept", index)
        spacing = _positive(look.numbers("PixelMeasuresSequence", "PixelSpacing", 2, index))
        location = offsets[index] if offsets else number(header.values, "SliceLocation") if count == 1 else None
        known, stack = _checked(header, axes), look.text("FrameContentSequence", "StackID", index)
        scale, when = (slope, intercept), look.text("FrameContentSequence", "TemporalPositionIndex", index) or time
        frames.append(Frame(header, index, position, known, spacing, scale, location, acquisition, stack, when))
    if count > 1 and look.has_own("PlanePositionSequence") and len({frame.position for frame in frames}) == 1:
        raise InputError(f"{header.label}: found {count} slices at one place, expected a stack of them")
    return frames


def other_spacing(values: Dataset) -> tuple[str, tuple[float, ...]] | None:
    """The spacing of rows and columns of a file that does not state it where it should, and where it does."""
    for keyword in ("NominalScannedPixelSpacing", "ImagerPixelSpacing"):
        if (mm := _positive(numbers(values, keyword, 2))) is not None:
            return keyword, mm
    return None


def stated_spacing(header: Header) -> str:
    """The spacing of rows and columns as a file writes it, whatever that is; "" where it writes none."""
    for values in Lookup(header.values).groups("PixelMeasuresSequence", 0):
        if is_stated(values, "PixelSpacing"):
            raw = values.get_item("PixelSpacing").value
            parts = raw.decode("ascii", "replace").split("\\") if isinstance(raw, bytes) else raw
            listed = parts if isinstance(parts, Sequence) and not isinstance(parts, str) else [parts]
            return ", ".join(ascii(str(part)) for part in listed)[:60]
    return ""


def slice_step(header: Header) -> tuple[str, float] | None:
    """The distance of slices in mm that a header states in so many words, negative for the other way; and where."""
    look = Lookup(header.values)
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        mm = look.number("PixelMeasuresSequence", keyword)
        if mm:
            return keyword, mm if keyword == "SpacingBetweenSlices" else abs(mm)
    return None


def _offsets(values: Dataset, count: int) -> tuple[float, ...] | None:
    """The places of a file's slices along their direction where it lists them (radiotherapy, secondary capture)."""
    if count == 1:
        return None
    for keyword in ("GridFrameOffsetVector", "SliceLocationVector"):
        found = numbers(values, keyword, count)
        if found is not None and len(set(found)) == count:
            return found
    return None


def _positive(mm: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return mm if mm is not None and min(mm) > 0 else None


def _checked(header: Header, axes: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Directions as they are stated; None for zeros, which some programs write for want of better."""
    if axes is None or not any(axes):
        return None
    rows = np.reshape(axes, (2, 3))
    lengths = np.linalg.norm(rows, axis=1)
    if np.abs(lengths - 1).max() > _NEAR_ONE or abs(rows[0] @ rows[1]) > _NEAR_ONE:
        found = "\\".join(f"{one:g}" for one in axes)
        raise InputError(f"{header.label}: found the directions {found}, expected two at right angles, of length 1")
    return axes
