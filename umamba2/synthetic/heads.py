"""Phantoms of whole heads, and any part of them that a scan may show: for networks that are to work on real scans.

The mouth is that of a randomised phantom with teeth that cannot be counted (`dentistry`), filled and broken ones
(`restorations`); around it is a head (`skull`), and around that air, what holds it, and padding as scanners leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from umamba2.synthetic.appearance import expose
from umamba2.synthetic.dentistry import disturb_teeth, paint_appliances
from umamba2.synthetic.mouth import Mouth, draw_mouth
from umamba2.synthetic.painting import Around, Canvas, paint_head
from umamba2.synthetic.phantoms import Phantom, clicks_on, paint_teeth
from umamba2.synthetic.restorations import restore_teeth
from umamba2.synthetic.skull import Skull, draw_skull, outline, paint_skull
from umamba2.synthetic.solids import tube
from umamba2.synthetic.textbook import FDI_OF, Array

if TYPE_CHECKING:
    from umamba2.synthetic.bone_meshes import BoneMesh
    from umamba2.synthetic.tooth_shapes import ToothShape

# What a scan may show: the ranges of its size in mm (z, y, x) and of its middle in the patient's frame (x, y, z).
# In the last ones no tooth is left: what shows teeth is cut off.
PARTS: dict[str, tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]]] = {
    "dental field": (((38, 66), (62, 96), (66, 118)), ((-2, 2), (26, 32), (-8, -3))),
    "head": (((120, 170), (130, 170), (130, 170)), ((-6, 6), (45, 70), (5, 40))),
    "half head": (((70, 130), (90, 160), (70, 130)), ((-45, 45), (25, 70), (-30, 40))),
    "upper head": (((50, 120), (100, 170), (100, 170)), ((-15, 15), (40, 95), (70, 110))),
    "back of the head": (((80, 170), (50, 110), (90, 160)), ((-15, 15), (105, 130), (-40, 50))),
    "side of the head": (((60, 140), (70, 150), (30, 60)), ((44, 64), (50, 95), (10, 50))),
}
TOOTHLESS = ("upper head", "back of the head", "side of the head")
LEAST_CONTRAST = 300.0  # of bone and teeth to soft tissue; that between soft tissue and air is about 1000
LEAST = 24  # voxels that are left of every axis


def make_head(
    seed: int,
    part: str = "head",
    spacing: Sequence[float] | None = None,
    canal_contrast: float = 1.0,
    tooth_shapes: dict[int, list[ToothShape]] | None = None,
    bone_meshes: Sequence[BoneMesh] = (),
) -> Phantom:
    """Make a randomised phantom of a head, or of a part of one, with labels of what the challenges' tables hold.

    Args:
        seed: Not negative. The same arguments give the same bytes.
        part: Which of `PARTS`; the field of view within it is drawn at random. Some of them show no teeth.
        spacing: mm (z, y, x); drawn from 0.8 to 1.2, or 0.35 to 0.65 for a dental field, if not given.
        canal_contrast: As of `make_phantom`.
        tooth_shapes: As of `make_phantom`.
        bone_meshes: What `read_bone_meshes` returns; many heads take the form of one of these skulls and spines.

    Raises:
        ValueError: There is no such part, or the spacing is not three positive numbers.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}, expected one of {', '.join(map(repr, PARTS))}")
    rng = np.random.default_rng([seed, 7])
    drawn = rng.uniform(0.35, 0.65) if part == "dental field" else rng.uniform(0.8, 1.2)
    edges = np.array([drawn] * 3 if spacing is None else spacing, float)
    if edges.shape != (3,) or not np.all(np.isfinite(edges) & (edges > 0)):
        raise ValueError(f"spacing is {spacing}, expected three positive numbers in mm (z, y, x)")
    sizes, middles = PARTS[part]
    shape = [max(LEAST, round(rng.uniform(*mm) / edge)) for mm, edge in zip(sizes, edges, strict=True)]
    pivot = np.array([rng.uniform(*mm) for mm in middles])
    if rng.random() < 0.5:
        pivot[0] *= -1
    mouth = draw_mouth(seed, randomised=True, tooth_shapes=tooth_shapes)
    _harden(rng, mouth)
    _pose(rng, mouth, part)
    disturb_teeth(rng, mouth)
    restore_teeth(np.random.default_rng([seed, 8]), mouth)
    skull = draw_skull(rng, mouth, bone_meshes)
    canvas = Canvas(mouth, shape, edges.tolist(), pivot)
    around = Around(partial(outline, skull), skull.pharynx, rng.normal(0, 1.5), rng.uniform(1.5, 4.0))
    _paint_holders(canvas, skull, rng)
    paint_head(canvas, around, lambda: paint_skull(canvas, skull))
    paint_teeth(canvas, canal_contrast)
    paint_appliances(canvas, rng)
    image = expose(canvas.image, edges, mouth.grey, np.random.default_rng([seed, 1]))
    labels, stsr = canvas.labels, canvas.stsr
    if part != "dental field":
        _pad(rng, image, [labels, stsr], edges)
    if part in TOOTHLESS:
        keep = _without_teeth(FDI_OF[labels] > 0, part, pivot[0])
        image, labels, stsr = image[keep].copy(), labels[keep].copy(), stsr[keep].copy()
    return Phantom(image, labels, stsr, (edges[0], edges[1], edges[2]), clicks_on(labels, seed))


def _harden(rng: np.random.Generator, mouth: Mouth) -> None:
    """Scatter in a large field makes bone and teeth pale, and alike; the weaker of them still shows."""
    grey = mouth.grey
    weakest = min(grey["cortical"], grey["dentine"]) - grey["soft"]
    grey["trabecular"] = max(grey["trabecular"], grey["soft"] + 0.2 * (grey["cortical"] - grey["soft"]))
    if rng.random() < 0.5:
        pale = rng.uniform(min(0.9, max(0.3, LEAST_CONTRAST / weakest)), 0.9)
        for name in ("trabecular", "cortical", "dentine", "enamel", "metal"):
            grey[name] = grey["soft"] + pale * (grey[name] - grey["soft"])
        grey["texture"] *= pale
    if rng.random() < 0.4:
        grey["dentine"] = grey["cortical"] * rng.uniform(0.95, 1.25)
        grey["enamel"] = grey["dentine"] * rng.uniform(1.0, 1.4)
    grey["cylinder"] = 0.0  # padding comes later


def _pose(rng: np.random.Generator, mouth: Mouth, part: str) -> None:
    if part != "dental field":
        turn = Rotation.from_euler("xyz", rng.normal(0, (7, 4, 4)).clip(-20, 20), degrees=True)
        mouth.rotation = mouth.rotation @ turn.as_matrix()
    if rng.random() < 0.12:
        mouth.bite = max(mouth.bite, rng.uniform(6, 18))


def _paint_holders(canvas: Canvas, skull: Skull, rng: np.random.Generator) -> None:
    """What holds a head: a rest behind it, a table, a rod to bite on, bars at the temples."""
    whole = (slice(0, canvas.shape[0]), slice(0, canvas.shape[1]), slice(0, canvas.shape[2]))
    back = skull.vault[0][1] + skull.vault[1][1] + skull.thickness + skull.scalp
    rest, table, bars, cup, rod = rng.random(5) < (0.25, 0.2, 0.2, 0.15, 0.15)
    value, radius, thick, reach = rng.uniform((-700, 85, 1.5, 30), (400, 120, 6, 80))
    behind, plate, dense = rng.uniform((8, 1, -800), (25, 8, 900))
    if rest or table or cup:
        x, y, z = canvas.coordinates(whole)
    if rest:
        shell = np.abs(np.hypot(x, y - (back + 6 - radius)) - radius - thick) - thick
        canvas.paint(whole, np.maximum(shell, back - reach - y), value)
    if table:
        canvas.paint(whole, np.maximum(np.abs(y - back - behind) - plate, np.abs(x) - 200), dense)
    if cup:
        form = np.maximum(
            np.abs(z - (skull.chin - behind / 2)) - plate / 2, np.maximum(np.abs(y - 8) - 32, np.abs(x) - 45)
        )
        canvas.paint(whole, form, value)
    middle = -0.5 * canvas.mouth.bite
    ends = [[(sign * 82, reach, -60), (sign * 80, reach + 20, 120)] for sign in (-1, 1)] if bars else []
    for points in [*ends, *([[(0, -90, middle), (0, 3, middle)]] if rod else [])]:
        line = np.array(points, float)
        box = canvas.box(line, 6)
        if box is not None:
            canvas.paint(box, tube(*canvas.coordinates(box), line, np.array([4.5, 4.5]))[0], value)


def _pad(rng: np.random.Generator, image: Array | Any, labels: Sequence[Any], spacing: Array) -> None:
    """Set what lies outside the scanner's field to one value, in place: a cylinder, and slices above or below."""
    outside = np.zeros(image.shape, bool)
    if rng.random() < 0.4:
        y, x = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(image.shape[1:], spacing[1:], strict=True))
        radius = rng.uniform(0.88, 1.15) * max(y[-1], x[-1])
        outside |= np.hypot(y[:, None], x) > radius
    if rng.random() < 0.15:
        rows = int(rng.integers(1, max(2, image.shape[0] // 8)))
        outside[slice(rows) if rng.random() < 0.5 else slice(-rows, None)] = True
    values = (-1000, 0, -2000, -3024, int(image.min()), int(rng.integers(-1000, 200)))
    image[outside] = rng.choice(values, p=(0.4, 0.15, 0.1, 0.1, 0.15, 0.1))
    for array in labels:
        array[outside] = 0


def _without_teeth(teeth: Any, part: str, sideways: float) -> tuple[slice, slice, slice]:
    """What is left of a grid without the slices that show teeth, and 3 more."""
    keep = [slice(None)] * 3
    if not teeth.any():
        return keep[0], keep[1], keep[2]
    axis = {"upper head": 0, "back of the head": 1, "side of the head": 2}[part]
    shown = np.flatnonzero(teeth.any(axis=tuple({0, 1, 2} - {axis})))
    first, last = shown[0], shown[-1]
    if part == "side of the head" and sideways < 0:
        keep[axis] = slice(0, max(1, first - 3))
    else:
        keep[axis] = slice(min(last + 4, teeth.shape[axis] - 1), None)
    return keep[0], keep[1], keep[2]
