"""Shapes of real teeth, taken from label maps with FDI numbers, for the phantoms to wear.

A shape lies in the tooth's own frame in mm: a distal, b buccal, c towards the tip, with c = 0 at the neck. The frame
says nothing about left or right, so a tooth stands in for its mirror image as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from umamba2.anatomy.structures import FDI_TEETH
from umamba2.errors import InputError
from umamba2.scans.orientation import orientation
from umamba2.scans.volumes import read_labels
from umamba2.synthetic.textbook import FDI_OF, TOOTH_SIZES, Array, Labels, Mask

CELL = 0.3  # mm, the grid of a shape
MARGIN = 2.0  # mm around the tooth
APEX = 0.8  # mm of root beyond the end of its canal


@dataclass(frozen=True)
class ToothShape:
    """One tooth: distances in mm, negative inside, to its surface and to its pulp in its own frame, and its sizes."""

    fdi: int
    surface: Array  # grid (a, b, c) of distances
    pulp: Array  # the same grid
    low: Array  # where its first cell lies, mm
    crown: float  # height above the neck, mm
    root: float  # height below the neck, mm
    half: tuple[float, float]  # half widths of the crown, distal and buccal, mm
    scale: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # stretches a, b, the crown and the root

    def stretched(self, crown: float, root: float, half: tuple[float, float]) -> ToothShape:
        """The same tooth at other sizes in mm: heights of crown and root, half widths of the crown."""
        return replace(
            self, scale=(half[0] / self.half[0], half[1] / self.half[1], crown / self.crown, root / self.root)
        )

    def distance(self, a: Array, b: Array, c: Array) -> Array:
        """Roughly the distance in mm to the tooth's surface, negative inside."""
        return self._look(self.surface, a, b, c)

    def core(self, a: Array, b: Array, c: Array) -> Array:
        """Roughly the distance in mm to the wall of the pulp: a chamber about the neck and thin canals in the roots."""
        return self._look(self.pulp, a, b, c)

    def _look(self, grid: Array, a: Array, b: Array, c: Array) -> Array:
        wide, deep, crown, root = self.scale
        scaled = a / wide, b / deep, np.where(c > 0, c / crown, c / root)
        cells = np.stack([(v - low) / CELL for v, low in zip(scaled, self.low, strict=True)], dtype=np.float32)
        last = np.reshape(grid.shape, (3, *[1] * np.ndim(a))) - 1
        inside = np.clip(cells, 0, last)
        beyond = np.sqrt(np.square(cells - inside).sum(axis=0)) * CELL
        near = ndimage.map_coordinates(grid, inside, order=1, mode="nearest", output=np.float32)
        distance: Array = (near + beyond) * np.float32((wide + deep) / 2)  # most of the surface faces sideways
        return distance


def read_tooth_shapes(paths: Iterable[str | Path]) -> dict[int, list[ToothShape]]:
    """The shapes of the whole teeth in label maps, by FDI number.

    The teeth show which way the jaws face, so maps that are upside down or mirrored are read too. Teeth cut by the
    border, fragments, and teeth alone in their jaw, which do not show their front, are left out.

    Args:
        paths: Label maps in any format that `read_labels` reads: 11-48 are teeth, 111-148, if there are any, their
            pulps; other ids are ignored.

    Raises:
        InputError: A file cannot be read, or has no FDI numbers.
    """
    shapes: dict[int, list[ToothShape]] = {}
    for path in paths:
        labels, spacing = _read(path)
        for shape in _tooth_shapes(labels, spacing):
            shapes.setdefault(shape.fdi, []).append(shape)
    return shapes


def _read(path: str | Path) -> tuple[Labels, Array]:
    """A label map of FDI numbers and 0 alone, (z, y, x) growing upwards, backwards and to the left, and its spacing."""
    labels, geometry = read_labels(path)
    ids = [int(i) for i in np.unique(labels) if FDI_TEETH[0] <= i <= FDI_TEETH[-1]]
    odd = [i for i in ids if i not in FDI_TEETH]
    if odd or not ids:
        raise InputError(f"{path}: found {f'the id {odd[0]}' if odd else 'no tooth'}, expected FDI numbers (11-48)")
    upright = orientation(geometry)
    return upright.upright(FDI_OF[np.where((labels > 0) & (labels < 256), labels, 0)]), np.array(upright.spacing)


def _tooth_shapes(labels: Labels, spacing: Array) -> list[ToothShape]:
    boxes = ndimage.find_objects(labels)
    teeth = {fdi: box for fdi, box in enumerate(boxes, start=1) if box is not None}
    centres = {
        fdi: (np.argwhere(labels[box] == fdi).mean(axis=0) + [s.start for s in box]) * spacing
        for fdi, box in teeth.items()
    }
    signs = _facing(centres)
    found = []
    for quadrants in ((1, 2), (4, 3)):
        # along the arch from the right end to the left
        right, left = (sorted(f for f in teeth if f // 10 == q) for q in quadrants)
        order = right[::-1] + left
        if len(order) < 2:
            continue
        arch = np.array([centres[fdi] * signs for fdi in order])
        arch[:, 0] = 0  # seen from above
        steps = np.linalg.norm(np.diff(arch, axis=0), axis=1)
        at = np.concatenate([[0.0], steps.cumsum()])
        along = np.gradient(arch, at, axis=0, edge_order=2 if len(order) > 2 else 1)
        for fdi, forward in zip(order, along, strict=True):
            shape = _tooth_shape(labels, spacing, fdi, teeth[fdi], signs, -forward if fdi in right else forward)
            if shape is not None:
                found.append(shape)
    return found


def _facing(centres: dict[int, Array]) -> Array:
    """The sign (z, y, x) with which each axis grows upwards, backwards and to the patient's left, told by the teeth."""

    def towards(axis: int, *groups: Callable[[int], bool]) -> float:
        one, other = ([c[axis] for fdi, c in centres.items() if chosen(fdi)] for chosen in groups)
        return -1.0 if one and other and np.mean(one) < np.mean(other) else 1.0

    return np.array([
        towards(0, lambda fdi: fdi < 30, lambda fdi: fdi > 30),
        towards(1, lambda fdi: fdi % 10 > 3, lambda fdi: fdi % 10 < 4),
        towards(2, lambda fdi: fdi // 10 in (2, 3), lambda fdi: fdi // 10 in (1, 4)),
    ])  # fmt: skip


def _tooth_shape(labels: Labels, spacing: Array, fdi: int, box: Any, signs: Array, distal: Array) -> ToothShape | None:
    """One tooth in its own frame, or None if it is not whole. ``signs`` and ``distal`` are (z, y, x)."""
    if any(s.start == 0 or s.stop == n for s, n in zip(box, labels.shape, strict=True)):
        return None
    margin = np.ceil((MARGIN + 1) / spacing).astype(int)
    mask = np.pad(labels[box] == fdi, [(m, m) for m in margin])
    parts, count = ndimage.label(mask)
    if count > 1:
        mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    points = np.argwhere(mask) * spacing * signs
    middle = points.mean(axis=0)

    up = np.array([-1.0 if fdi < 30 else 1.0, 0, 0])  # from the root to the tip
    spread, principal = np.linalg.eigh(np.cov((points - middle).T))
    tip = principal[:, np.argmax(spread * np.abs(principal[0]))]  # the longest that is not lying
    tip = tip * np.sign(tip @ up)
    distal = distal - (distal @ tip) * tip
    distal /= np.linalg.norm(distal)
    buccal = np.cross(distal, tip) * (-1.0 if fdi // 10 in (1, 3) else 1.0)  # outwards; axes here are (z, y, x)
    axes = np.stack([distal, buccal, tip])

    own = (points - middle) @ axes.T
    bottom, top = own[:, 2].min(), own[:, 2].max()
    crown, root, width, _ = TOOTH_SIZES["upper" if fdi < 30 else "lower"][fdi % 10 - 1]
    if top - bottom < 0.6 * (crown + root):
        return None
    height = (top - bottom) * crown / (crown + root)
    over = own[own[:, 2] > top - height]
    if not 0.75 < np.ptp(over[:, 0]) / width < 1.35:
        return None  # broken, turned, or numbered as another kind of tooth
    origin = np.array([*(over.max(axis=0) + over.min(axis=0))[:2] / 2, top - height])
    own -= origin

    field = ndimage.distance_transform_edt(~mask, spacing) - ndimage.distance_transform_edt(mask, spacing)
    field -= np.sign(field) * spacing.mean() / 2  # the surface lies between the voxels
    field = ndimage.gaussian_filter(field, CELL / spacing)
    low = own.min(axis=0) - MARGIN
    grid = [np.arange(a, b, CELL) for a, b in zip(low, own.max(axis=0) + MARGIN, strict=True)]
    a, b, c = np.meshgrid(*grid, indexing="ij")
    cells = np.tensordot(axes.T, np.stack([a, b, c]) + origin[:, None, None, None], 1) + middle[:, None, None, None]
    cells = cells / (signs * spacing)[:, None, None, None]
    surface = ndimage.map_coordinates(field.astype(np.float32), cells, order=1, mode="nearest")
    pulp = _pulp(surface, c, height, top - bottom - height, fdi % 10)
    half = np.ptp(over, axis=0) / 2
    return ToothShape(fdi, surface, pulp, low, height, top - bottom - height, (float(half[0]), float(half[1])))


def _pulp(surface: Array, c: Array, crown: float, root: float, position: int) -> Array:
    """Distance to the pulp: what lies deeper in the tooth than a share of the greatest depth nearby.

    The share is least about the neck, where the chamber is, and grows towards the apex and, to 1, within the crown.
    Roots are wider from cheek to tongue than their canals, so the pulp keeps to the middle of their sections.
    """
    depth = np.maximum(-surface, 0)
    reach = 2 * round(1.8 / CELL) + 1
    ridge = ndimage.gaussian_filter(ndimage.maximum_filter(depth, (reach, reach, 1)), 1)
    molar = position > 5
    neck = 0.58 if molar else 0.68
    at = (-root, -0.5 * root, -0.25 * root, -0.1 * root, 0.15 * crown, 0.4 * crown, crown)
    share = np.interp(c[0, 0], at, (0.85, 0.80, 0.76, neck, neck, 1.1, 2.0))
    middle = _off_middle(surface < 0, 0.75 if molar else 0.35)
    pulp: Array = np.maximum(np.maximum(share * ridge + 0.05 - depth, middle), APEX - root - c).astype(np.float32)
    return pulp


def _off_middle(inside: Mask, part: float) -> Array:
    """Distance to the middle ``part`` (0-1) of every section across the tooth, each taken as an ellipse."""
    distance: Array = np.full(inside.shape, CELL, np.float32)
    for k in range(inside.shape[2]):
        sections, count = ndimage.label(inside[:, :, k])
        for number in range(1, count + 1):
            points = np.argwhere(sections == number)
            away = points - points.mean(axis=0)
            spread = away.T @ away / len(points) + 0.1 * np.eye(2)
            radius = np.sqrt((away @ np.linalg.inv(spread) * away).sum(axis=1)) / 2  # 1 at the rim of an ellipse
            longest = 2 * np.sqrt(np.linalg.eigvalsh(spread)[-1])
            distance[points[:, 0], points[:, 1], k] = (radius - part) * longest * CELL
    ndimage.gaussian_filter1d(distance, 1, axis=2, output=distance)
    return distance
