"""One look at everything: the surfaces of the structures, shaded, as seen from the front, the sides and the bite.

A view looks along one axis of the upright label map. For each pixel the first voxel of a structure is what the eye
meets; the gradient of the smoothed mask there is the surface's normal. Bones and air spaces lie over the rest like a
veil, so that roots and canals show through. Plain numpy and scipy: no GPU, no window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from umamba2.reports import texts
from umamba2.reports.reading import SURROUNDINGS, Labels, ReportCase, span

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_LONGEST = 320  # voxels along the longest side of what is rendered
_ENLARGE = 2  # output pixels per voxel
_SMOOTH = 1.1  # voxels; hides the staircase of the voxels
_VEIL = {"over": 0.30, "alone": 0.62}  # opacity of bone in front of something, and of bone with nothing behind it
_LIGHT = np.array([0.74, -0.56, -0.38]) / np.linalg.norm([0.74, 0.56, 0.38])  # towards the eye, up, left


@dataclass(frozen=True)
class View:
    """A direction to look in.

    Attributes:
        name: What readers call it.
        axis: The axis of the upright array (S, P, L) to look along.
        from_end: Whether from its end.
        rows: The axis that runs down in the picture, and whether backwards.
        columns: The axis that runs to the right, and whether backwards.
        marks: The patient's sides at the top, right, bottom and left.
        quadrants: Show only the teeth of these; of all structures if there are none.
    """

    name: str
    axis: int
    from_end: bool
    rows: tuple[int, bool]
    columns: tuple[int, bool]
    marks: tuple[str, str, str, str]
    quadrants: tuple[int, ...] = ()

    @property
    def is_arch(self) -> bool:
        """Whether it shows one arch of teeth alone."""
        return bool(self.quadrants)


VIEWS = (
    View(texts.FROM_RIGHT, 2, False, (0, True), (1, True), ("S", "A", "I", "P")),
    View(texts.FROM_FRONT, 1, False, (0, True), (2, False), ("S", "L", "I", "R")),
    View(texts.FROM_LEFT, 2, True, (0, True), (1, False), ("S", "P", "I", "A")),
    View(texts.FROM_BELOW, 0, False, (1, False), (2, False), ("A", "L", "P", "R"), (1, 2)),
    View(texts.FROM_ABOVE, 0, True, (1, True), (2, False), ("P", "L", "A", "R"), (3, 4)),
)


def render_views(case: ReportCase) -> Iterator[tuple[View, Image.Image]]:
    """The views of a case that have something to show: RGBA pictures on a transparent ground, one scale for all."""
    labels, structures = _reduced(case.upright), case.challenge.structures
    palette = np.array([(0, 0, 0)] + [s.colour for s in structures], np.float32)
    veil = np.zeros(len(palette), bool)
    veil[[s.training for s in structures if s.group in SURROUNDINGS]] = True
    for view in VIEWS:
        seen = labels
        if view.quadrants:
            teeth = [s.training for s in structures if (s.fdi or 0) // 10 in view.quadrants]
            seen = np.where(np.isin(labels, teeth), labels, np.uint8(0))
        if seen.any():
            picture = _render(_towards_the_eye(seen, view), palette, veil)
            yield view, picture.crop(picture.getbbox()) if view.quadrants else picture


def _reduced(upright: ReportCase) -> Labels:
    """The labels cut to what is labelled, with cubic voxels and not more of them than a picture needs."""
    spacing = upright.geometry.zyx_spacing
    box = [span(profile[1:].sum(axis=0)) for profile in upright.profiles]
    lengths = [(side.stop - side.start) * mm for side, mm in zip(box, spacing)]
    step = max(min(spacing), max(lengths) / _LONGEST)
    grids = []
    for side, length, mm in zip(box, lengths, spacing):
        places = (np.arange(max(1, round(length / step))) + 0.5) * step / mm
        grids.append(np.minimum(side.start + places.astype(int), side.stop - 1))
    return np.pad(upright.labels[np.ix_(*grids)], 4)  # room for the smoothing


def _towards_the_eye(labels: Labels, view: View) -> Labels:
    """The upright labels as (depth away from the eye, down, right)."""
    turned = labels.transpose(view.axis, view.rows[0], view.columns[0])
    backwards = (view.from_end, view.rows[1], view.columns[1])
    seen: Labels = turned[tuple(slice(None, None, -1 if back else 1) for back in backwards)]
    return seen


def _render(labels: Labels, palette: Floats, veil: Mask) -> Image.Image:
    solid_colour, solid, solid_depth = _surface(labels, ~veil & (np.arange(len(veil)) > 0), palette)
    veil_colour, veiled, veil_depth = _surface(labels, veil, palette)
    colour, alpha = solid_colour, solid.astype(np.float32)
    in_front = veiled & (veil_depth < solid_depth)
    opacity = np.where(in_front, np.where(solid, _VEIL["over"], _VEIL["alone"]), 0).astype(np.float32)
    colour = np.where(solid[..., None], colour, veil_colour)
    colour += opacity[..., None] * solid[..., None] * (veil_colour - colour)
    alpha = np.maximum(alpha, opacity)
    # Colour runs on beyond the edge of the surface, or enlarging would fringe it with black.
    nearest = ndimage.distance_transform_edt(alpha == 0, return_distances=False, return_indices=True)
    colour = colour[tuple(nearest)]
    pixels = np.concatenate([colour, 255 * alpha[..., None]], axis=2).clip(0, 255).round().astype(np.uint8)
    size = pixels.shape[1] * _ENLARGE, pixels.shape[0] * _ENLARGE
    rgb = Image.fromarray(pixels[..., :3]).resize(size, Image.Resampling.BICUBIC)
    rgb.putalpha(Image.fromarray(pixels[..., 3]).resize(size, Image.Resampling.BICUBIC))
    return rgb


def _surface(labels: Labels, wanted: Mask, palette: Floats) -> tuple[Floats, Mask, npt.NDArray[np.int64]]:
    """What the eye meets first of the wanted labels: shaded colour (h, w, 3), where there is any, and its depth."""
    mask = wanted[labels]
    hit: Mask = np.asarray(mask.any(axis=0))
    depth = np.where(hit, mask.argmax(axis=0), len(mask))
    if not hit.any():
        return np.zeros((*hit.shape, 3), np.float32), hit, depth
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), _SMOOTH)
    rows, columns = np.nonzero(hit)
    at = depth[hit]
    normal = np.stack([_difference(smooth, axis, at, rows, columns) for axis in range(3)], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    # Depth grows away from the eye, so the normal's first component is turned round.
    facing = normal * (-1, 1, 1) @ _LIGHT
    shade = 0.42 + 0.62 * np.clip(facing, 0, 1) + 0.10 * np.clip(-normal[:, 0], 0, 1)
    # Hollows get less light: what lies behind its surroundings is darker.
    around = np.where(hit, depth, depth[hit].max())
    hollow = np.clip((around - ndimage.gaussian_filter(around.astype(np.float32), 6))[hit] / 22, 0, 0.35)
    glint = 60 * np.clip(facing, 0, 1) ** 24
    met = labels[at, rows, columns]
    picture = np.zeros((*hit.shape, 3), np.float32)
    picture[hit] = palette[met] * (shade * (1 - hollow))[:, None] + glint[:, None]
    # A fine line where one structure ends and the next begins.
    ids = np.zeros(hit.shape, np.int16)
    ids[hit] = met
    picture[_borders(ids) & hit] *= 0.72
    return picture, hit, depth


def _difference(volume: Floats, axis: int, *at: npt.NDArray[np.int64]) -> Floats:
    before, after = list(at), list(at)
    before[axis] = np.maximum(at[axis] - 1, 0)
    after[axis] = np.minimum(at[axis] + 1, volume.shape[axis] - 1)
    return volume[tuple(before)] - volume[tuple(after)]


def _borders(ids: npt.NDArray[np.int16]) -> Mask:
    border = np.zeros(ids.shape, bool)
    border[:, 1:] |= (ids[:, 1:] != ids[:, :-1]) & (ids[:, :-1] > 0)
    border[1:] |= (ids[1:] != ids[:-1]) & (ids[:-1] > 0)
    return border
