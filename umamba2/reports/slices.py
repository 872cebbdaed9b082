"""Slices of a scan in three planes, with the structures drawn over them.

Pictures follow the radiological convention: the patient's right is on the left of axial and coronal slices, and
sagittal slices look to the left of the picture. All have one scale, in millimetres, whatever the spacing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from umamba2.reports.overview import VEIL_GROUPS
from umamba2.reports.reading import Reading
from umamba2.scans.orientation import Orientation, orientation

_LONGEST = 720  # pixels along the longest side of what is shown
_MARGIN = 15.0  # mm shown around the structures
_FILL = 0.32  # opacity of a structure; its outline is opaque
_DASH = 6  # pixels; length of the dashes that outline the truth
_SHOWN = (0.15, 0.5, 0.85)  # slices lie where this share of the labelled voxels is behind them
_GREY = (1.0, 98.5)  # percentiles of intensity around the structures that become black and white; metal beyond


@dataclass(frozen=True)
class Plane:
    """A family of slices: the axis of the upright array (S, P, L) that they cut, and the patient's sides at the top,
    right, bottom and left of the picture."""

    name: str
    axis: int
    marks: tuple[str, str, str, str]


PLANES = (
    Plane("axial", 0, ("A", "L", "P", "R")),
    Plane("coronal", 1, ("S", "L", "I", "R")),
    Plane("sagittal", 2, ("S", "P", "I", "A")),
)


@dataclass(frozen=True)
class Slice:
    """One slice: ``base`` grey, ``overlay`` and ``truth`` (outlines of the ground truth, None without one) RGBA, all
    of one size; ``place`` says where it lies, as in "z = 85"."""

    plane: Plane
    place: str
    base: Image.Image
    overlay: Image.Image
    truth: Image.Image | None


def cut_slices(reading: Reading, shown: tuple[float, ...] = _SHOWN) -> list[Slice]:
    """Cut a case where its structures are: per plane one slice for each share in ``shown`` (0 to 1)."""
    frame = orientation(reading.geometry)
    whole = frame.upright(reading.labels)
    labelled = whole > 0 if reading.truth is None else (whole > 0) | (frame.upright(reading.truth) > 0)
    box = _around(labelled, frame)
    image, labels = frame.upright(reading.image)[box], whole[box]
    truth = None if reading.truth is None else frame.upright(reading.truth)[box]
    palette = np.array([(0, 0, 0)] + [s.colour for s in reading.challenge.structures], np.uint8)
    pixel = max(n * mm for n, mm in zip(image.shape, frame.spacing)) / _LONGEST
    interesting = _interesting(reading)[labels]
    black, white = _window(image, interesting)
    slices = []
    for plane in PLANES:
        mass = np.count_nonzero(interesting, axis=tuple(axis for axis in range(3) if axis != plane.axis))
        for index in _places(mass, shown):
            size = _size(plane, image.shape, frame, pixel)
            grey = (_cut(image, plane, index) - black) / (white - black)
            base = Image.fromarray((255 * grey.clip(0, 1)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
            drawn = _enlarged(_cut(labels, plane, index), size)
            lines = None
            if truth is not None:
                lines = _outlined(_enlarged(_cut(truth, plane, index), size))
            axis, number = frame.stored(plane.axis, box[plane.axis].start + index, whole.shape[plane.axis])
            slices.append(Slice(plane, f"{axis} = {number}", base, _painted(drawn, palette), lines))
    return slices


def _interesting(reading: Reading) -> np.ndarray:
    """Which labels decide where to cut: all but bones and air spaces, unless there is nothing else."""
    wanted = np.arange(reading.challenge.num_classes) > 0
    large = [s.training for s in reading.challenge.structures if s.group in VEIL_GROUPS]
    fine = wanted.copy()
    fine[large] = False
    counts = np.bincount(reading.labels.ravel(), minlength=len(wanted))
    return fine if counts[fine].any() else wanted


def _around(labelled: np.ndarray, frame: Orientation) -> tuple[slice, ...]:
    """The box that the pictures show: what is labelled and a margin."""
    lines = [np.flatnonzero(labelled.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    margins = [round(_MARGIN / spacing) for spacing in frame.spacing]
    return tuple(
        slice(max(0, int(line[0]) - margin), int(line[-1]) + 1 + margin) for line, margin in zip(lines, margins)
    )


def _window(image: np.ndarray, interesting: np.ndarray) -> tuple[float, float]:
    lines = [np.flatnonzero(interesting.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    inner = image[tuple(slice(line[0], line[-1] + 1, 2) for line in lines)]
    black, white = (float(value) for value in np.percentile(inner, _GREY))
    return black, max(white, black + 1e-6)


def _places(mass: np.ndarray, shown: tuple[float, ...]) -> list[int]:
    so_far = np.cumsum(mass) / mass.sum()
    return sorted({int(np.searchsorted(so_far, share)) for share in shown})


def _cut(array: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """The slice as (down, right) of the picture."""
    cut = array.take(index, axis=plane.axis)
    return cut if plane.axis == 0 else cut[::-1]  # S is at the top, but grows with the index


def _size(plane: Plane, shape: tuple[int, ...], frame: Orientation, pixel: float) -> tuple[int, int]:
    down, right = (axis for axis in range(3) if axis != plane.axis)
    width, height = (max(1, round(shape[axis] * frame.spacing[axis] / pixel)) for axis in (right, down))
    return width, height


def _enlarged(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label slice at the size of the picture, each pixel with the label that has the largest share there."""
    best = np.full(size[::-1], 127, np.uint8)
    enlarged = np.zeros(size[::-1], np.uint8)
    for label in np.unique(labels[labels > 0]):
        mask = Image.fromarray(((labels == label) * 255).astype(np.uint8))
        share = np.asarray(mask.resize(size, Image.Resampling.BILINEAR))
        more = share > best
        enlarged[more], best[more] = label, share[more]
    return enlarged


def _edges(labels: np.ndarray) -> np.ndarray:
    """Where a label ends, a line two pixels wide on its own side."""
    edge = np.zeros(labels.shape, bool)
    for step in (1, 2):
        for axis in (0, 1):
            here, there = np.swapaxes(labels, 0, axis), np.swapaxes(edge, 0, axis)
            there[step:] |= here[step:] != here[:-step]
            there[:-step] |= here[step:] != here[:-step]
    return edge & (labels > 0)


def _painted(labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    alpha = np.where(labels > 0, round(255 * _FILL), 0).astype(np.uint8)
    alpha[_edges(labels)] = 255
    return Image.fromarray(np.concatenate([palette[labels], alpha[..., None]], axis=2))


def _outlined(labels: np.ndarray) -> Image.Image:
    lines = np.zeros((*labels.shape, 4), np.uint8)
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    dashes = (rows + columns) // _DASH % 2 == 0  # between them the outline of what was found shows
    lines[_edges(labels) & dashes] = 255
    return Image.fromarray(lines)
