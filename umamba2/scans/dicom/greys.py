"""Grey values of a volume, slice by slice: slope and intercept, padding, and slices that are missing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.dicom.frames import Frame, Lookup
from umamba2.scans.dicom.headers import is_stated, text, whole
from umamba2.scans.dicom.pixels import Beside, Numbers, meant, numbers_of, padding_of
from umamba2.scans.geometry import Array
from umamba2.scans.voxels import coarse, rounded

# Of X-rays, and what programs state that do not know: CBCT comes as any of these.
_MODALITIES = ("CT", "CR", "DX", "IO", "OT", "PX", "RF", "SC", "XA")
# What says that grey values are no Hounsfield units or like them, and the item in which files of many slices say it:
# all but these, or (True) just these. CBCT often comes with units that are not specified (US).
_SCALE = "PixelValueTransformationSequence"
_MEANINGS = {
    "RescaleType": (_SCALE, ("HU", "HU_MOD", "US"), False),
    "PixelIntensityRelationship": ("FramePixelDataPropertiesSequence", ("LOG",), True),
    "PresentationLUTShape": ("", ("INVERSE",), True),
}
# Numbers of a slice that files with many slices may state at several places, by their group, and how many they are.
_ONCE = (
    (_SCALE, "RescaleSlope", 1),
    (_SCALE, "RescaleIntercept", 1),
    ("PixelMeasuresSequence", "PixelSpacing", 2),
    ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
)
_WHOLE = np.iinfo(np.int16)
_MOST_WHOLE = 1 << 30  # of a slope or an intercept that is taken as a whole number


class Greys:
    """The grey values of a volume, filled in slice by slice: int16 as long as they fit, else float32.

    Args:
        shape: (z, y, x) of the volume.
        name: What messages call the scan.
        warnings: Gets a line for everything that is odd.
        all_bits: Whether all bits of the stored numbers count, whatever the headers state.
    """

    def __init__(self, shape: tuple[int, int, int], name: str, warnings: list[str], all_bits: bool = False):
        self.array: Array = np.zeros(shape, np.int16)
        self._name, self._warnings = name, warnings
        self._how = dict[str, Numbers]()
        self._there = np.zeros(shape[0], bool)
        self._paddings = dict[int, Array]()  # by layer: which voxels are padding, packed
        self._padding, self._others = [np.inf, -np.inf], [np.inf, -np.inf]  # lowest and highest
        self._all_bits, self._beside = all_bits, Counter[Beside]()

    def put(self, layer: int, stored: Array, frame: Frame) -> None:
        """Put a slice into its layer.

        Args:
            layer: Index along z.
            stored: Numbers (y, x) as the file has them.
            frame: The slice they are of.
        """
        greys, padding = self._understood(stored, frame, count=True)
        if padding is not None:
            self._paddings[layer] = np.packbits(padding)
            _widen(self._padding, greys[padding])
            _widen(self._others, greys[~padding])
        else:
            _widen(self._others, greys)
        self._store(layer, greys, padding)
        self._there[layer] = True

    @property
    def is_of_two_kinds(self) -> bool:
        """Whether bits were left out in some slices that hold numbers or signs in others: all of them count."""
        beside = self._beside
        return bool(beside[Beside.LEFT_OUT] and (beside[Beside.NUMBERS] or beside[Beside.SIGN]))

    def has(self, layer: int, stored: Array, frame: Frame) -> bool:
        """Whether a layer holds the very grey values of a slice."""
        greys, padding = self._understood(stored, frame)
        if padding is not None:
            greys = _fitting(greys, padding)
        return np.array_equal(self.array[layer], greys.astype(self.array.dtype))

    def finished(self) -> Array:
        """The volume, once all slices are in it: padding made air, missing slices between others filled in."""
        if many := self._beside[Beside.NUMBERS]:
            found = f"found numbers of more bits than stated in {many} slices"
            self._warn(f"{found}, expected at most those; taken as they are")
        if self.array.dtype == np.float32:
            self._warnings += rounded(self._name, *self._others) or coarse(self._name, *self._others)
        self._replace_padding()
        there = np.flatnonzero(self._there)
        for layer in np.flatnonzero(~self._there):
            after = int(np.searchsorted(there, layer))
            low, high = int(there[after - 1]), int(there[after])
            part = (layer - low) / (high - low)
            mixed = self.array[low] * (1 - part) + self.array[high] * part
            self.array[layer] = np.rint(mixed) if self.array.dtype == np.int16 else mixed
        return self.array

    def _understood(self, stored: Array, frame: Frame, count: bool = False) -> tuple[Array, Array | None]:
        """Grey values of a slice in 64 bits, whole where slope and intercept are, and which of them are padding."""
        header = frame.header
        how = self._how.setdefault(header.label, numbers_of(header))
        numbers, beside = meant(stored, how, header.values, self._all_bits)
        self._beside[beside] += count
        ends = padding_of(header.values, how)
        padding = None if ends is None else (numbers >= ends[0]) & (numbers <= ends[1])
        slope, intercept = frame.scale[0] or 1.0, frame.scale[1] or 0.0
        is_whole = slope.is_integer() and intercept.is_integer() and max(abs(slope), abs(intercept)) < _MOST_WHOLE
        kind: Any = np.int64 if is_whole else np.float64
        greys = numbers.astype(kind)
        greys *= kind(slope)
        greys += kind(intercept)
        return greys, padding if padding is not None and padding.any() else None

    def _store(self, layer: int, greys: Array, padding: Array | None) -> None:
        if padding is not None:
            greys = _fitting(greys, padding)
        if self.array.dtype == np.int16:
            fits = greys.dtype.kind == "i" and _WHOLE.min <= greys.min() and greys.max() <= _WHOLE.max
            if not fits:
                self.array = self.array.astype(np.float32)
        with np.errstate(over="ignore"):  # what becomes infinite is said where the volume is made
            self.array[layer] = greys

    def _replace_padding(self) -> None:
        """Make padding the smallest other value, unless others have values below and above it: then it is none."""
        (low, high), (least, most) = self._padding, self._others
        if not self._paddings:
            return
        count = sum(int(np.unpackbits(packed).sum()) for packed in self._paddings.values())
        found = f"found {count} voxels with the value of padding"
        if least > most:
            self._warn(f"{found}, which is all of them, expected grey values; left as they are")
            return
        if least <= low and high <= most:
            self._warn(f"{found}, which others lie below and above; left as they are")
            return
        self._warn(f"{found} ({low:g}), expected grey values; made the smallest other one ({least:g})")
        size = self.array[0].size
        for layer, packed in self._paddings.items():
            padding = np.unpackbits(packed, count=size).astype(bool).reshape(self.array.shape[1:])
            self.array[layer][padding] = least

    def _warn(self, line: str) -> None:
        self._warnings.append(f"{self._name}: {line}")


def check_scale(series: list[Frame], name: str, warnings: list[str]) -> None:
    """Say what is odd about what makes grey values of stored numbers.

    Raises:
        InputError: Grey values need a table.
    """
    header = series[0].header
    tables = [frame for frame in series if text(frame.header.values, "ModalityLUTSequence")]
    if any(frame.scale == (None, None) for frame in tables):
        raise InputError(f"{name}: found a table of grey values (Modality LUT), expected slope and intercept")
    if tables:
        found = f"found a table of grey values (Modality LUT) beside slope and intercept in {len(tables)} slices"
        warnings.append(f"{name}: {found}, expected one of them; the table is not applied")
    if any(text(frame.header.values, "LossyImageCompression") == "01" for frame in series):
        found = "found slices that were packed with loss (LossyImageCompression)"
        warnings.append(f"{name}: {found}, expected all values as they were")
    for frame in series:
        if (count := whole(frame.header.values, "SamplesPerPixel") or 1) != 1:
            raise InputError(f"{frame.header.label}: found {count} values per voxel, expected 1")
    modality = text(header.values, "Modality")
    if modality and modality not in _MODALITIES:
        warnings.append(f"{name}: found the modality {modality[:16]}, expected CT")
    ways = {numbers_of(frame.header) for frame in series}
    if len(ways) > 1:
        warnings.append(f"{name}: found numbers stored in {len(ways)} ways, expected one; each taken as its file says")
    for shown in sorted(
        {text(frame.header.values, "PhotometricInterpretation") for frame in series} - {"", "MONOCHROME2"}
    ):
        found = f"found {shown[:16]}{' (low values shown bright)' * (shown == 'MONOCHROME1')}, expected MONOCHROME2"
        warnings.append(f"{name}: {found}; values taken as they are")
    files = {frame.header.label: Lookup(frame.header.values) for frame in series}
    for what, (group, named, doubtful) in _MEANINGS.items():
        stated = sorted({files[frame.header.label].text(group, what, frame.index) for frame in series} - {""})
        odd = [told for told in stated if (told in named) == doubtful]
        if odd:
            found = f"found a {what} of {odd[0][:16]}"
            warnings.append(f"{name}: {found}, expected grey values as of a CT; values taken as they are")
    for group, what, count in _ONCE:
        several = [f for f in series if files[f.header.label].contradicts(group, what, count, f.index)]
        if several:
            found = f"found {what} twice with different numbers in {len(several)} slices"
            warnings.append(f"{name}: {found}, expected it once; took what is nearest to the slice")
    origins = {text(frame.header.values, "FrameOfReferenceUID") for frame in series} - {""}
    if len(origins) > 1:
        found = f"found {len(origins)} frames of reference (FrameOfReferenceUID)"
        warnings.append(f"{name}: {found}, expected one for all slices; taken for one")
    if not {whole(frame.header.values, "PixelRepresentation") for frame in series} <= {0, 1}:
        found = "found no PixelRepresentation of 0 or 1, expected whether numbers have a sign"
        warnings.append(f"{name}: {found}; taken for numbers without")
    for which, what in enumerate(("RescaleSlope", "RescaleIntercept")):
        for frame in series:
            places = files[frame.header.label].groups(_SCALE, frame.index) if frame.scale[which] is None else []
            if any(is_stated(values, what) for values in places):
                raise InputError(f"{frame.header.label}: found a {what} that is no number, expected one")
        lacking = sum(frame.scale[which] is None for frame in series)
        if 0 < lacking < len(series):
            warnings.append(f"{name}: found no {what} in {lacking} of {len(series)} slices, expected it in all or none")
    lone = sum((frame.scale[0] is None) != (frame.scale[1] is None) for frame in series)
    if lone == len(series):
        found = "found one of RescaleSlope and RescaleIntercept"
        warnings.append(f"{name}: {found}, expected both or none; taken for 1 or 0")
    if any(frame.scale[0] == 0 for frame in series):
        warnings.append(f"{name}: found a RescaleSlope of 0, expected another; taken for 1")
    if modality == "CT" and all(frame.scale == (None, None) for frame in series):
        warnings.append(f"{name}: found no RescaleSlope and RescaleIntercept, expected them of a CT; taken for 1 and 0")


def _fitting(greys: Array, padding: Array) -> Array:
    """Grey values with those of padding brought into the range of int16, which says nothing about the image."""
    return np.where(padding, np.clip(greys, _WHOLE.min, _WHOLE.max), greys)


def _widen(ends: list[float], greys: Array) -> None:
    if greys.size:
        ends[0], ends[1] = min(ends[0], float(greys.min())), max(ends[1], float(greys.max()))
