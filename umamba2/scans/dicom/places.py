"""The order of slices, their distance, and where a volume of them lies, from what is said of each.

Whatever is put right here is said: a wrong order of slices looks like a scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from umamba2.errors import InputError
from umamba2.scans.dicom.frames import Frame, other_spacing, slice_step, stated_spacing
from umamba2.scans.dicom.headers import whole
from umamba2.scans.dicom.series import Series
from umamba2.scans.geometry import Array

MOST_MISSING = 0.1  # of all slices; more is no gap but another scan
_SAME_PLACE = 0.05  # of the distance of slices, or 1 micron: two slices nearer than that are at one place
_ONE_PLACE = 1e-3  # mm between the positions of slices that are nowhere in particular
_UNEVEN = 0.01  # of the distance of slices: worth a word
_MOST_UNEVEN = 0.2  # of it: no common distance
_MOST_SHIFT = 0.5  # voxels that a slice may lie beside where the others put it
_DISAGREE = 0.05  # of the distance of slices, between what is stated and where they lie


@dataclass(frozen=True)
class Stack:
    """Slices in order, on a grid.

    Attributes:
        frames: The slices there are, in order.
        layers: The index of each along the volume's z axis; missing ones leave gaps.
        copies: Slices at the place of another one: the index of that one in ``frames``, and the slice.
        spacing: Of x and y in mm.
        axes: The directions (2, 3) of x and y, at right angles.
        step: From one layer to the next in mm, (3,); leans where the gantry did.
        origin: Of the first voxel, (3,).
        sized: Whether any spacing is stated.
        oriented: Whether it is stated how the slices lie in the patient.
    """

    frames: list[Frame]
    layers: Array
    copies: list[tuple[int, Frame]]
    spacing: tuple[float, float]
    axes: Array
    step: Array
    origin: Array
    sized: bool
    oriented: bool


def stacked(series: Series, name: str, warnings: list[str]) -> Stack:
    """Put slices in order.

    Args:
        series: The slices.
        name: What messages call the scan.
        warnings: Gets a line for everything that was not as it should be.

    Raises:
        InputError: They are no volume: at one place, too many missing, no common distance, no way to tell the order.
    """
    frames = series.frames
    oriented = frames[0].axes is not None
    axes = np.mean([frame.axes_array for frame in frames], axis=0) if oriented else np.eye(3)[:2]
    axes = _orthonormal(axes)
    normal = np.cross(*axes)
    if not oriented:
        found = "found no ImageOrientationPatient, expected how the slices lie in the patient"
        warnings.append(f"{name}: {found}; taken for axial, and sides, top and bottom are not certain")
    spacing, step, sized = _spacing(series, name, warnings)
    positions = _positions(frames, normal, name)
    if positions is None:
        along = _other_places(series, step, name, warnings, oriented)
        # In one file the position is that of its first slice; several have it from the first slice there was.
        index = 0 if len({frame.header.label for frame in frames}) == 1 else int(np.argmin(along))
        first = frames[index].position
        anchor = np.array(first or (0.0, 0.0, 0.0)) - (0.0 if first is None else along[index]) * normal
        positions = anchor + np.outer(along, normal)
    kept, copies = _in_order(positions @ normal, name, warnings)
    places = (positions @ normal)[kept]
    layers, distance = _layers(places, name, warnings)
    _compare_numbers([frames[i] for i in kept], name, warnings)
    _compare_distance(series, distance, name, warnings)
    _compare_parts([frames[i] for i in kept], name, warnings)
    leaning, origin = _line(positions[kept], layers, axes, spacing, name)
    vector = leaning + normal * (distance - leaning @ normal)
    inside = {index: place for place, index in enumerate(kept)}
    return Stack(
        [frames[i] for i in kept],
        layers,
        [(inside[of], frames[copy]) for of, copy in copies],
        spacing,
        axes,
        vector,
        origin,
        sized,
        oriented,
    )


def _orthonormal(axes: Array) -> Array:
    """The nearest two directions at right angles, of length 1."""
    u, _, v = np.linalg.svd(axes, full_matrices=False)
    nearest: Array = u @ v
    return nearest


def _spacing(series: Series, name: str, warnings: list[str]) -> tuple[tuple[float, float], float | None, bool]:
    """Spacing of x and y in mm; the distance of slices in mm as stated, or None; whether any of them is stated."""
    stated = slice_step(series.header)
    step = stated[1] if stated else None
    mm = series.frames[0].spacing
    if mm is not None:
        return (mm[1], mm[0]), step, True
    odd = stated_spacing(series.header)
    lacking = f"found {f'the PixelSpacing {odd}' if odd else 'no PixelSpacing'}, expected two positive numbers"
    other = other_spacing(series.header.values)
    if other is not None:
        keyword, mm = other
        warnings.append(f"{name}: {lacking}; took {keyword} ({mm[1]:.4g} x {mm[0]:.4g} mm)")
        return (mm[1], mm[0]), step, True
    if stated is not None:
        keyword, along = stated[0], abs(stated[1])
        warnings.append(f"{name}: {lacking}; took {keyword} ({along:.4g} mm) for all axes")
        return (along, along), step, True
    if odd:
        warnings.append(f"{name}: {lacking}; took 1 mm")
    return (1.0, 1.0), step, False  # said where the spacing is checked


def _positions(frames: list[Frame], normal: Array, name: str) -> Array | None:
    """The positions (n, 3), or None where one is missing or all slices are at one place."""
    stated = [frame.position for frame in frames]
    if any(position is None for position in stated):
        return None
    positions = np.array(stated, float)
    if np.ptp(positions @ normal) > _ONE_PLACE:
        return positions
    if np.ptp(positions, axis=0).max() > _ONE_PLACE:
        raise InputError(f"{name}: found positions side by side in one plane, expected slices above each other")
    return None


def _other_places(series: Series, step: float | None, name: str, warnings: list[str], oriented: bool) -> Array:
    """Places along the direction of slices in mm where positions do not say them."""
    frames, doubt = series.frames, "" if not oriented else ", and top and bottom are not certain"
    locations = [frame.location for frame in frames]
    lacking = "found no position of each slice, expected ImagePositionPatient"
    if None not in locations and len(set(locations)) > 1:
        warnings.append(f"{name}: {lacking}; took SliceLocation{doubt}")
        return np.array(locations, float)
    counts = [frame.index for frame in frames]
    if len({frame.header.label for frame in frames}) > 1:
        numbers = [whole(frame.header.values, "InstanceNumber") for frame in frames]
        if any(number is None for number in numbers) or len(set(numbers)) < 2:
            raise InputError(f"{name}: found no position, location or number of each slice, expected what orders them")
        counts = [int(number or 0) for number in numbers]
        step_of_counts = int(np.gcd.reduce(np.diff(np.sort(counts))))  # of every second number, say
        counts = [count // step_of_counts for count in counts]
        order = "the order of InstanceNumber"
    else:
        order = "the order in the file"
    found = slice_step(series.header)
    if found is not None:
        how = f"{found[0]} ({found[1]:.4g} mm)"
    elif series.frames[0].spacing or other_spacing(series.header.values):
        mm = (series.frames[0].spacing or (other_spacing(series.header.values) or ("", (1.0,)))[1])[0]
        step, how = mm, f"the spacing of pixels ({mm:.4g} mm) as the distance"
    else:
        step, how = 1.0, "a distance of 1 mm"
    warnings.append(f"{name}: {lacking}; took {order} and {how}{doubt}")
    return np.array(counts, float) * (step or 1.0)


def _in_order(places: Array, name: str, warnings: list[str]) -> tuple[list[int], list[tuple[int, int]]]:
    """The slices to keep, in order, and those at a place that one of these has: (of which, which)."""
    order = np.argsort(places, kind="stable")
    gaps = np.diff(places[order])
    apart = gaps[gaps > 1e-3]
    near = max(1e-3, _SAME_PLACE * float(np.median(apart))) if len(apart) else np.inf
    kept, copies = [int(order[0])], list[tuple[int, int]]()
    for index, gap in zip(order[1:], gaps):
        if gap > near:
            kept.append(int(index))
        else:
            copies.append((kept[-1], int(index)))
    if len(kept) < 2:
        raise InputError(f"{name}: found all slices at one place, expected a stack of them")
    if copies:
        warnings.append(f"{name}: found {len(copies)} slices twice, expected each once; left out")
    return kept, copies


def _layers(places: Array, name: str, warnings: list[str]) -> tuple[Array, float]:
    """The layer of each slice, and the distance of layers in mm, from rising places."""
    gaps = np.diff(places)
    step = float(np.median(gaps))
    layers = np.concatenate([[0], np.cumsum(np.maximum(1, np.rint(gaps / step)))]).astype(int)
    missing = int(layers[-1]) + 1 - len(layers)
    step = float(np.polyfit(layers, places, 1)[0])
    off = places - places[0] - layers * step
    spread = float(np.abs(off - off.mean()).max()) / step
    if missing > MOST_MISSING * (layers[-1] + 1) or spread > _MOST_UNEVEN:
        apart = f"found slices {gaps.min():.4g} to {gaps.max():.4g} mm apart"
        if spread <= _MOST_UNEVEN:
            raise InputError(f"{name}: {apart}, {missing} missing, expected at most {MOST_MISSING:.0%} of them missing")
        raise InputError(f"{name}: {apart}, expected one distance")
    if missing:
        gone = sorted(set(range(layers[-1] + 1)) - set(layers.tolist()))
        which = ", ".join(str(layer + 1) for layer in gone[:8]) + (", ..." if missing > 8 else "")
        warnings.append(
            f"{name}: found {missing} missing slices ({which} of {layers[-1] + 1}), expected all; "
            "filled in from their neighbours"
        )
    if spread > _UNEVEN:
        shortest, longest = (np.diff(places) / np.diff(layers)).min(), (np.diff(places) / np.diff(layers)).max()
        apart = f"found slices {shortest:.4g} to {longest:.4g} mm apart"
        warnings.append(f"{name}: {apart}, expected one distance; took {step:.4g} mm")
    return layers, step


def _compare_numbers(frames: Sequence[Frame], name: str, warnings: list[str]) -> None:
    """Say where the numbers of slices and their places make different orders."""
    if len({frame.header.label for frame in frames}) < len(frames) or any(f.position is None for f in frames):
        return
    numbers = [whole(frame.header.values, "InstanceNumber") for frame in frames]
    known = [number for number in numbers if number is not None]
    if len(known) == len(frames) and len(set(known)) > 1:
        steps = np.sign(np.diff(known))
        if not (np.all(steps > 0) or np.all(steps < 0)):
            found = "found numbers of slices in another order than their positions, expected the same"
            warnings.append(f"{name}: {found}; took the positions")


def _compare_distance(series: Series, distance: float, name: str, warnings: list[str]) -> None:
    """Say where the stated distance of slices is not that of their positions."""
    stated = slice_step(series.header)
    if stated is None or stated[0] != "SpacingBetweenSlices" or series.frames[0].position is None:
        return
    if abs(abs(stated[1]) - distance) > _DISAGREE * distance:
        found = f"found slices {distance:.4g} mm apart and a SpacingBetweenSlices of {stated[1]:.4g} mm"
        warnings.append(f"{name}: {found}, expected the same; took the positions")


def _compare_parts(frames: Sequence[Frame], name: str, warnings: list[str]) -> None:
    """Say where slices of one acquisition or stack lie between those of another: they may be two scans."""
    for what, parts in {
        "acquisitions (AcquisitionNumber)": [frame.acquisition for frame in frames],
        "stacks (StackID)": [frame.stack for frame in frames],
        "times (TemporalPositionIdentifier)": [frame.time for frame in frames],
    }.items():
        count = len(set(parts))
        if count > 1 and sum(a != b for a, b in pairwise(parts)) >= count:
            found = f"found slices of {count} {what} between each other, expected one behind the other"
            warnings.append(f"{name}: {found}; taken for one scan")


def _line(positions: Array, layers: Array, axes: Array, spacing: tuple[float, float], name: str) -> tuple[Array, Array]:
    """The step (3,) from layer to layer and the place (3,) of layer 0, by the straight line next to the positions."""
    design = np.c_[layers, np.ones(len(layers))]
    (step, origin), *_ = np.linalg.lstsq(design, positions, rcond=None)
    beside = (positions - design @ np.array([step, origin])) @ axes.T / spacing
    if np.abs(beside).max() > _MOST_SHIFT:
        found = f"found slices up to {np.abs(beside).max():.2g} voxels beside a straight line"
        raise InputError(f"{name}: {found}, expected at most {_MOST_SHIFT}")
    return step, origin
