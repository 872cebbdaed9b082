"""The forms of the phantoms as implicit functions: roughly the distance in mm to a surface, negative inside.

Coordinates are float32 arrays of one shape, one value for each voxel: x, y and z in the patient frame, or a, b and c in
the frame of a tooth (see `mouth.Tooth`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from umamba2.synthetic.mouth import Tooth
from umamba2.synthetic.textbook import CROWN_PROFILES, ROOT_PROFILE, STSR_ID, THIN_PROFILE, Array, Root

Values = float | np.floating[Any] | Array  # one number, or one for each voxel

ENDLESS = 1e6  # radius in mm of an ellipsoid that is a cylinder


def slab(lateral: Array, half: Values, z: Array, low: Values, high: Values, rounding: float = 2.5) -> Array:
    """A thick curtain: ``|lateral| < half`` and ``low < z < high``, with edges rounded by ``rounding`` mm."""
    across = np.abs(lateral) - half + rounding
    along = np.abs(z - (low + high) / 2) - (high - low) / 2 + rounding
    distance: Array = np.sqrt(np.square(np.maximum(across, 0)) + np.square(np.maximum(along, 0)))
    return distance + np.minimum(np.maximum(across, along), 0) - rounding


def ellipsoid(x: Array, y: Array, z: Array, centre: Sequence[float] | Array, radii: Sequence[float] | Array) -> Array:
    """An ellipsoid along the axes."""
    x, y, z = ((v - c) / r for v, c, r in zip((x, y, z), centre, radii, strict=True))
    distance: Array = (np.sqrt(x * x + y * y + z * z) - 1) * np.float32(min(radii))
    return distance


def block(
    a: Array, b: Array, c: Array, low: Sequence[float] | Array, high: Sequence[float] | Array, rounding: float = 0.4
) -> Array:
    """A box along the axes between two corners, with edges rounded by up to ``rounding`` mm."""
    rounding = min(rounding, *(float(end - start) / 2 for start, end in zip(low, high, strict=True)))
    over = np.stack([
        np.abs(v - np.float32((start + end) / 2)) - np.float32((end - start) / 2 - rounding)
        for v, start, end in zip((a, b, c), low, high, strict=True)
    ])  # fmt: skip
    outside = np.sqrt(np.square(np.maximum(over, 0)).sum(axis=0))
    distance: Array = outside + np.minimum(over.max(axis=0), 0) - np.float32(rounding)
    return distance


def smooth_min(a: Array, b: Array, width: float = 2.0) -> Array:
    """The union of two forms, the seam between them filled over about ``width`` mm."""
    union: Array = np.minimum(a, b) - np.square(np.maximum(width - np.abs(a - b), 0)) / np.float32(4 * width)
    return union


def tube(x: Array, y: Array, z: Array, points: Array, radii: Array) -> tuple[Array, npt.NDArray[np.int16]]:
    """A tapered tube along the polyline ``points`` (n, 3), and the number of the segment that is nearest."""
    best, nearest = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, np.int16)
    for i, (a, b) in enumerate(pairwise(points)):
        a, d = a.astype(np.float32), (b - a).astype(np.float32)
        t = np.clip(((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / max(float(d @ d), 1e-6), 0, 1)
        gap = np.square(x - a[0] - t * d[0]) + np.square(y - a[1] - t * d[1]) + np.square(z - a[2] - t * d[2])
        distance = np.sqrt(gap) - (np.float32(radii[i]) + t * np.float32(radii[i + 1] - radii[i]))
        closer = distance < best
        best[closer], nearest[closer] = distance[closer], i
    return best, nearest


def _profile(t: Array, values: Sequence[float] | Array) -> Array:
    """Linear interpolation of equally spaced ``values`` over t in [0, 1]."""
    table = np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(values)), values).astype(np.float32)
    return table.take(np.clip(t * 255, 0, 255).astype(np.int16))


def crown(tooth: Tooth, a: Array, b: Array, c: Array, trunk: float = 0.0) -> Array:
    """The crown, prolonged below the neck by ``trunk`` mm where the roots are still one."""
    along = c / np.float32(tooth.crown)
    half_a, half_b = (_profile(along, p) * np.float32(h) for p, h in zip(CROWN_PROFILES[tooth.kind], tooth.half))
    square_a, square_b = np.square(a / half_a), np.square(b / half_b)
    if tooth.kind == "posterior":  # boxier outline, and a fossa between the cusps
        radius = np.sqrt(np.sqrt(square_a * square_a + square_b * square_b + 0.6 * square_a * square_b))
        top = tooth.crown - np.float32(1.3) * np.maximum(1 - np.sqrt(square_a + square_b), 0)
    else:
        radius, top = np.sqrt(square_a + square_b), np.float32(tooth.crown)
    distance: Array = np.maximum((radius - 1) * np.minimum(half_a, half_b), np.maximum(c - top, -np.float32(trunk) - c))
    return distance


def _middle(tooth: Tooth, root: Root, t: Array) -> tuple[Array, Array]:
    """Middle (a, b) of a root at depth fraction t, bending distally."""
    a, b = (
        np.float32(h) * (np.float32(n) + np.float32(e - n) * t) + np.float32(bow) * t * t
        for h, n, e, bow in zip(tooth.half, root.neck, root.apex, (tooth.bow, 0))
    )
    return a, b


def roots(tooth: Tooth, a: Array, b: Array, c: Array) -> Array:
    """All roots of a tooth."""
    distances: list[Array] = []
    for root in tooth.roots:
        length = np.float32(tooth.root * root.length)
        t = np.clip(-c / length, 0, 1)
        taper = _profile(t, ROOT_PROFILE + tooth.thin * (THIN_PROFILE - ROOT_PROFILE))
        middle_a, middle_b = _middle(tooth, root, t)
        half_a, half_b = (np.float32(w * h) * taper for w, h in zip(root.half, tooth.half))
        radius = np.sqrt(np.square((a - middle_a) / half_a) + np.square((b - middle_b) / half_b))
        distances.append(np.maximum((radius - 1) * np.minimum(half_a, half_b), np.maximum(-length - c, c - 1)))
    union: Array = np.minimum.reduce(distances)
    return union


class _RootCanal(NamedTuple):
    """A root canal at the heights of the voxels: its middle and half width there in mm, its length, its STSR class."""

    a: Array
    b: Array
    width: Array
    length: np.float32
    stsr: int


def _root_canals(tooth: Tooth, c: Array) -> Iterator[_RootCanal]:
    for number, root in enumerate(tooth.roots):
        length = np.float32(tooth.root * root.length - 0.8)
        t = np.clip(-c / length, 0, 1)
        a, b = _middle(tooth, root, t)
        width = (np.float32(0.55) if tooth.position > 5 else np.float32(0.75)) - np.float32(0.3) * t
        narrow = 1 - np.float32(0.6 * tooth.thin) * t * t
        split = tooth.jaw == "lower" and tooth.position > 5 and number == 0 and tooth.third_canal
        for sign in (1, -1) if split else (0,):
            offset = np.float32(sign * 0.35 * tooth.half[1]) * (1 - 0.4 * t) * narrow
            third = sign == -1 and root.canal != "wisdom tooth"
            stsr = STSR_ID["lower molar root 3" if third else root.canal]
            yield _RootCanal(a, b + offset, width * narrow, length, stsr)


def pulp(tooth: Tooth, a: Array, b: Array, c: Array) -> list[tuple[Array, int]]:
    """The parts of the pulp with their STSR classes: every root canal, and the chamber last.

    The pulp of a real form comes in one piece: the canals of a drawn tooth only tell which class each part of it has.
    """
    canals, chamber = list(_root_canals(tooth, c)), STSR_ID["pulp"]
    if tooth.shape is not None:
        core, floor = tooth.shape.core(a, b, c), np.float32(-0.2 * tooth.crown)
        nearest = np.stack([np.square(a - canal.a) + np.square(b - canal.b) for canal in canals]).argmin(axis=0)
        below = np.maximum(core, c - floor)
        parts = [(np.where(nearest == n, below, np.float32(1)), canal.stsr) for n, canal in enumerate(canals)]
        return [*parts, (np.maximum(core, floor - c), chamber)]
    spread = (0.42, 0.42, 0.24) if tooth.position > 5 else (0.24, 0.26, 0.42)
    radii = (spread[0] * tooth.half[0], spread[1] * tooth.half[1], spread[2] * tooth.crown)
    parts = []
    for canal in canals:
        distance = np.sqrt(np.square(a - canal.a) + np.square(b - canal.b)) - canal.width
        parts.append((np.maximum(distance, np.maximum(-canal.length - c, c - 1)), canal.stsr))
    return [*parts, (ellipsoid(a, b, c, (0, 0, 0.08 * tooth.crown), radii), chamber)]
