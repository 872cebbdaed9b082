"""Slices of a scan in three planes, with the structures drawn over them.

Pictures follow the radiological convention: the patient's right is on the left of axial and coronal slices, and
sagittal slices look to the left of the picture. All have one scale, in millimetres, whatever the spacing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from umamba2.reports import texts
from umamba2.reports.reading import Labels, ReportCase, span
from umamba2.scans.geometry import Triple
from umamba2.scans.orientation import orientation

Mask = npt.NDArray[np.bool_]

_LONGEST = 720  # pixels along the longest side of what is shown
_MARGIN = 15.0  # mm shown around the structures
_FILL = 0.32  # opacity of a structure; its outline is opaque
_DASH = 6  # pixels; length of the dashes that outline the truth
SHOWN = (0.15, 0.5, 0.85)  # slices lie where this share of the labelled voxels is behind them
_GREY = (1.0, 98.5)  # percentiles of intensity around the structures that become black and white; metal beyond


@dataclass(frozen=True)
class Plane:
    """A family of slices.

    Attributes:
        name: What readers call it.
        axis: The axis of the upright array (S, P, L) that they cut.
        marks: The patient's sides at the top, right, bottom and left of the picture.
    """

    name: str
    axis: int
    marks: tuple[str, str, str, str]


PLANES = (
    Plane(texts.AXIAL, 0, ("A", "L", "P", "R")),
    Plane(texts.CORONAL, 1, ("S", "L", "I", "R")),
    Plane(texts.SAGITTAL, 2, ("S", "P", "I", "A")),
)


@dataclass(frozen=True)
class Slice:
    """One slice; its pictures have one size.

    Attributes:
        plane: Its family.
        place: Where it lies, as in "z = 85".
        width_mm: How much of the patient it shows from left to right.
        base: The intensities, grey.
        overlay: The structures, RGBA.
        truth: Outlines of the ground truth, RGBA; None without one.
    """

    plane: Plane
    place: str
    width_mm: float
    base: Image.Image
    overlay: Image.Image
    truth: Image.Image | None


def cut_slices(case: ReportCase, shown: Sequence[float] = SHOWN) -> Iterator[Slice]:
    """Cut a case where its structures are.

    Args:
        case: The case.
        shown: For each slice of a plane, the share of the labelled voxels that lies before it (0 to 1).
    """
    upright, frame = case.upright, orientation(case.geometry)
    spacing, shape = upright.geometry.zyx_spacing, upright.labels.shape
    box = _around(upright, spacing)
    palette = np.array([(0, 0, 0)] + [s.colour for s in case.challenge.structures], np.uint8)
    lengths = [(side.stop - side.start) * mm for side, mm in zip(box, spacing)]
    black, white = _window(upright)
    for plane in PLANES:
        width, height = (lengths[axis] for axis in (1 if plane.axis == 2 else 2, 1 if plane.axis == 0 else 0))
        size = max(1, round(width / max(lengths) * _LONGEST)), max(1, round(height / max(lengths) * _LONGEST))
        for index in _places(upright.profiles[plane.axis][upright.inner_ids].sum(axis=0), shown):
            grey = (_cut(upright.image, plane, index, box) - black) / (white - black)
            base = Image.fromarray((255 * grey.clip(0, 1)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
            drawn = _enlarged(_cut(upright.labels, plane, index, box), size)
            lines = None
            if upright.truth is not None:
                lines = _outlined(_enlarged(_cut(upright.truth, plane, index, box), size))
            axis, number = frame.stored(plane.axis, index, shape[plane.axis])
            yield Slice(plane, f"{axis} = {number}", width, base, _painted(drawn, palette), lines)


def _around(upright: ReportCase, spacing: Triple) -> tuple[slice, ...]:
    """The box that the pictures show: what is labelled and a margin."""
    box = []
    for profile, truth, mm in zip(upright.profiles, upright.truth_profiles, spacing):
        side, margin = span((profile + truth)[1:].sum(axis=0)), round(_MARGIN / mm)
        box.append(slice(max(0, side.start - margin), min(profile.shape[1], side.stop + margin)))
    return tuple(box)


def _window(upright: ReportCase) -> tuple[float, float]:
    """The intensities that become black and white."""
    sides = [span(profile[upright.inner_ids].sum(axis=0)) for profile in upright.profiles]
    inner = upright.image[tuple(slice(side.start, side.stop, 2) for side in sides)]
    black, white = (float(value) for value in np.percentile(inner, _GREY))
    return black, max(white, black + 1e-6)


def _places(mass: npt.NDArray[np.int64], shown: Sequence[float]) -> list[int]:
    so_far = np.cumsum(mass) / mass.sum()
    return sorted({int(np.searchsorted(so_far, share)) for share in shown})


def _cut(array: npt.NDArray[Any], plane: Plane, index: int, box: tuple[slice, ...]) -> npt.NDArray[Any]:
    """The slice as (down, right) of the picture."""
    cut = array[tuple(index if axis == plane.axis else side for axis, side in enumerate(box))]
    return cut if plane.axis == 0 else cut[::-1]  # S is at the top, but grows with the index


def _enlarged(labels: Labels, size: tuple[int, int]) -> Labels:
    """A label slice at the size of the picture, each pixel with the label that has the largest share there."""
    best = np.full(size[::-1], 127, np.uint8)
    enlarged = np.zeros(size[::-1], np.uint8)
    for label in np.unique(labels[labels > 0]):
        mask = Image.fromarray(((labels == label) * 255).astype(np.uint8))
        share = np.asarray(mask.resize(size, Image.Resampling.BILINEAR))
        more = share > best
        enlarged[more], best[more] = label, share[more]
    return enlarged


def _edges(labels: Labels) -> Mask:
    """Where a label ends, a line two pixels wide on its own side."""
    edge = np.zeros(labels.shape, bool)
    for step in (1, 2):
        for axis in (0, 1):
            here, there = np.swapaxes(labels, 0, axis), np.swapaxes(edge, 0, axis)
            there[step:] |= here[step:] != here[:-step]
            there[:-step] |= here[step:] != here[:-step]
    edge &= labels > 0
    return edge


def _painted(labels: Labels, palette: Labels) -> Image.Image:
    alpha = np.where(labels > 0, round(255 * _FILL), 0).astype(np.uint8)
    alpha[_edges(labels)] = 255
    return Image.fromarray(np.concatenate([palette[labels], alpha[..., None]], axis=2))


def _outlined(labels: Labels) -> Image.Image:
    lines = np.zeros((*labels.shape, 4), np.uint8)
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    dashes = (rows + columns) // _DASH % 2 == 0  # between them the outline of what was found shows
    lines[_edges(labels) & dashes] = 255
    return Image.fromarray(lines)
