"""Painting a mouth on a grid: the grey values and the labels of every form that the grid meets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.structures import PULP_OFFSET
from umamba2.synthetic.mouth import Canal, Mouth, Tooth, map_cells, map_jaws
from umamba2.synthetic.solids import ENDLESS, block, crown, ellipsoid, pulp, roots, slab, smooth_min, tube
from umamba2.synthetic.textbook import DATASET_ID, STSR_ID, Array, Mask

Box = tuple[slice, slice, slice]  # box (z, y, x) of the grid

MANDIBLE, MAXILLA = DATASET_ID["lower jawbone"], DATASET_ID["upper jawbone"]
TOOTH = STSR_ID["tooth"]


class Canvas:
    """Image and label maps of a mouth on one grid, of ``shape`` voxels and ``spacing`` mm, both (z, y, x)."""

    pivot = np.array([0.0, 29.0, -5.5])  # the patient point in the middle of the field of view, before the shift

    def __init__(self, mouth: Mouth, shape: Sequence[int], spacing: Sequence[float], pivot: Array | None = None):
        self.mouth, self.grey, self.shape, self.spacing = mouth, mouth.grey, tuple(shape), np.array(spacing, float)
        self.image = np.full(self.shape, -1000, np.float32)
        self.labels = np.zeros(self.shape, np.uint8)  # ToothFairy3's dataset ids
        self.stsr = np.zeros(self.shape, np.uint8)
        # patient = matrix @ index + offset, with index and patient both in (x, y, z) order
        centre = (np.array(self.shape[::-1]) - 1) / 2 * self.spacing[::-1] + mouth.shift
        inverse = mouth.rotation.T / mouth.scale
        self.matrix = inverse * self.spacing[::-1]
        self.offset = (self.pivot if pivot is None else pivot) - inverse @ centre
        # how far each coordinate (rows x, y, z) is pushed, in voxels, depending on the position along each axis
        self.bends: Array = mouth.shape["bends"]
        self.pixel = float(np.cbrt(self.spacing.prod())) / mouth.scale  # voxel edge in patient mm

    def box(self, points: Array, margin: float) -> Box | None:
        """The part of the grid within ``margin`` mm of patient ``points`` (n, 3), or None when outside."""
        index = np.linalg.solve(self.matrix, (np.atleast_2d(points) - self.offset).T)
        reach = margin / np.linalg.norm(self.matrix, axis=0) + 1
        reach += np.abs(self.bends[..., 0]).sum(axis=1) / self.spacing[::-1]
        low = np.floor(index.min(axis=1) - reach)[::-1].astype(int)
        high = np.ceil(index.max(axis=1) + reach)[::-1].astype(int) + 1
        z, y, x = (slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, self.shape, strict=True))
        return (z, y, x) if all(s.start < s.stop for s in (z, y, x)) else None

    def coordinates(self, box: Box, origin: Array | float = 0, axes: Array | None = None) -> tuple[Array, Array, Array]:
        """Coordinates of the voxels in a box along ``axes`` (rows) from ``origin``: three float32 arrays (z, y, x)."""
        index = [np.arange(s.start, s.stop, dtype=np.float32) for s in reversed(box)]
        pushes = []  # by how many voxels x, y and z are pushed at every index along one axis, (3, n)
        for n, mm in enumerate(self.spacing[::-1]):
            amplitude, wavelength, phase = self.bends[:, n].T[..., None]
            waves = amplitude * np.sin(2 * np.pi * index[n] * mm / wavelength + phase)
            pushes.append((waves / self.spacing[::-1, None]).astype(np.float32))
        axes, found = np.eye(3) if axes is None else axes, []
        for row, start in zip((axes @ self.matrix).astype(np.float32), axes @ (self.offset - origin), strict=True):
            x, y, z = (row[n] * index[n] + np.float32(start if n == 2 else 0) + row @ pushes[n] for n in range(3))
            found.append(z[:, None, None] + (y[:, None] + x))
        return found[0], found[1], found[2]

    def paint(self, box: Box, distance: Array, value: npt.ArrayLike, label: int | None = None,
              stsr: int | None = None, strength: float | Array = 1.0, only: Mask | None = None) -> None:  # fmt: skip
        """Cover a form with a grey value and label it; voxels at its edge are mixed by how much of them it covers.

        Args:
            box: The part of the grid.
            distance: To the form's surface at every voxel of the box, mm, negative inside.
            value: Grey value, one or one per voxel.
            label: Its dataset id, if it gets one; ``stsr`` likewise its STSR class.
            strength: How much of what was there it hides, 0-1.
            only: The voxels that may change.
        """
        cover = np.clip(0.5 - distance / self.pixel, 0, 1)
        if only is not None:
            cover *= only
        cover *= strength
        image = self.image[box]
        image += cover * (np.asarray(value, np.float32) - image)
        inside = distance < 0 if only is None else (distance < 0) & only
        for labels, name in ((self.labels, label), (self.stsr, stsr)):
            if name is not None:
                labels[box][inside] = name


def paint_bone(
    canvas: Canvas, box: Box, distance: Array, label: int | None, cortex: float, xyz: Sequence[Array]
) -> None:
    """Cancellous bone with texture inside a cortical shell."""
    inside = distance < canvas.pixel
    if not inside.any():
        return
    texture = canvas.mouth.shape["texture"].astype(np.float32)
    cells = [(v[inside] * np.float32(1.4)).astype(np.int32) & 31 for v in xyz]
    value = np.full(distance.shape, canvas.grey["trabecular"], np.float32)
    value[inside] += np.float32(canvas.grey["texture"]) * texture[tuple(cells)]
    canvas.paint(box, distance, value, label=label)
    canvas.paint(box, np.maximum(distance, -distance - cortex), canvas.grey["cortical"])


@dataclass(frozen=True)
class Around:
    """What is different where the mouth is part of a whole head: where skin, pharynx and jaws end."""

    skin: Callable[[Array, Array, Array, Array], Array]  # from the endless face and x, y, z to the distance to the skin
    pharynx: tuple[float, float]  # lowest and highest z, mm
    septum: float = 0.0  # how far the wall in the nose bends, mm
    swelling: float = 2.0  # half width of its turbinates, mm


class _Slab(NamedTuple):
    """Some slices of the grid, with what all forms in them need."""

    box: Box
    xyz: tuple[Array, Array, Array]  # patient coordinates
    jaws: dict[str, Array]  # the maps of the jaws
    cells: npt.NDArray[np.int32]  # where they hold the values of the voxels

    def of(self, name: str) -> Array:
        """A map at the voxels."""
        return self.jaws[name].take(self.cells)


def _slabs(canvas: Canvas) -> Iterator[_Slab]:
    """The grid slab by slab, so that temporaries stay small."""
    jaws = map_jaws(canvas.mouth)
    step = max(1, 1_000_000 // (canvas.shape[1] * canvas.shape[2]))
    for start in range(0, canvas.shape[0], step):
        box = (slice(start, min(start + step, canvas.shape[0])), slice(0, canvas.shape[1]), slice(0, canvas.shape[2]))
        x, y, z = canvas.coordinates(box)
        yield _Slab(box, (x, y, z), jaws, map_cells(x, y))


def paint_field(canvas: Canvas) -> None:
    """A dental field: soft tissue, airways, jaws and sinuses, and of the head around them a block of flesh alone."""
    for part in _slabs(canvas):
        _paint_flesh(canvas, part, None)
        _paint_within(canvas, part, None)


def paint_head(canvas: Canvas, around: Around, paint_bones: Callable[[], None]) -> None:
    """The same in a whole head, whose other bones ``paint_bones`` paints before the airways and the jaws."""
    for part in _slabs(canvas):
        _paint_flesh(canvas, part, around)
    paint_bones()
    for part in _slabs(canvas):
        _paint_within(canvas, part, around)


def _paint_flesh(canvas: Canvas, part: _Slab, around: Around | None) -> None:
    """Soft tissue, and a layer of fat under the skin."""
    shape, grey, box, (x, y, z) = canvas.mouth.shape, canvas.grey, part.box, part.xyz
    soft = np.float32(grey["soft"])
    # lips and chin: the front of the face waves with height
    half, lips = shape["skin"]
    wave = np.float32(1.5) * np.cos(z * np.float32(2 * np.pi / 34)) + lips
    face = ellipsoid(x, y + wave, z, (0, 80, 0), (half, 80, ENDLESS))
    if around is not None:
        face = around.skin(face, x, y, z)
    canvas.paint(box, face, soft)
    # a layer of fat under the skin, with the masseters in it
    fat = np.maximum(np.maximum(face + 2.5, -face - shape["fat"]), 9 - part.of("upper"))
    masseter = slab(part.of("mandible") - 10, 6.0, y, 42, 74)
    if around is not None:
        masseter = np.maximum(masseter, np.abs(z - 8) - 42)
    canvas.paint(box, np.maximum(fat, -masseter), soft + np.float32(grey["fat"]))


def _paint_within(canvas: Canvas, part: _Slab, around: Around | None) -> None:
    """Airways, jaws and sinuses."""
    mouth, shape, grey, box, (x, y, z) = canvas.mouth, canvas.mouth.shape, canvas.grey, part.box, part.xyz
    soft, air, upper, jaw = np.float32(grey["soft"]), grey["air"], part.of("upper"), part.of("mandible")
    lower_z = z + np.float32(mouth.bite)

    # airways
    wide, deep, back = shape["pharynx"]
    centre = back + np.float32(2.0) * np.sin(z / 12)
    pharynx = ellipsoid(x, y - centre, z, (0, 0, 0), (wide, deep, ENDLESS))
    if around is not None:
        lowest, highest = around.pharynx
        pharynx = np.maximum(pharynx, z - np.float32(highest))
        canvas.paint(box, pharynx, air)  # the windpipe is no part of it
        pharynx = np.maximum(pharynx, np.float32(lowest) - z)
    canvas.paint(box, pharynx, air, label=DATASET_ID["pharynx"])
    palate = np.float32(shape["palate"])
    if shape["mouth air"] > 0.5:
        vault = palate - 2.5 - np.maximum(upper + 16, 0) * np.float32(0.7)
        gap = slab(z - vault + shape["mouth air"] / 2, shape["mouth air"] / 2, y, 12, 44, 1.0)
        canvas.paint(box, np.maximum(gap, upper + 8), air)
    if shape["vestibule"]:
        half = np.float32(shape["vestibule"] / 2)
        gap = slab(upper - 6.0 - half, half, z + np.float32(mouth.bite / 2), -13 - mouth.bite, 13, 1.0)
        canvas.paint(box, np.maximum(gap, y - 50), air)
    if shape["bite block"]:
        middle = z + np.float32(mouth.bite / 2)
        block = slab(np.abs(x), 16, middle, -shape["bite block"] / 2, shape["bite block"] / 2, 0.5)
        canvas.paint(box, np.maximum(block, np.abs(y) - 14), grey["block"])
    side, height = np.abs(x), z - palate
    if around is None:
        nose = slab(side - 7, 5.5, z, palate + 2, palate + 40)
    else:  # narrow at the top, lower in front and behind, and a bent septum
        half = np.float32(5.5) * np.clip(np.float32(1.35) - height / 38, 0.3, 1)
        septum = np.abs(x - np.float32(around.septum) * np.sin(z / 9)) - np.float32(1.1)
        nose = np.maximum(slab(side - half - 1, half, height, 2, 40 - np.abs(y - 36) / 2), -septum)
    canvas.paint(box, np.maximum(nose, np.abs(y - 34) - 30), air)
    turbinate = ellipsoid(side, y, z, (8, 36, palate + 9), (3.5, 24, 5.5))
    canvas.paint(box, turbinate, soft)
    if around is not None:
        middle = ellipsoid(side - height / 9, y, height, (3.5, 40, 22), (around.swelling, 20, 6.5))
        canvas.paint(box, middle, soft, strength=np.float32(0.9))

    # upper jaw: alveolar process along the arch, palate, and the walls of the sinuses
    crest = part.of("upper crest")
    lean = upper + part.of("upper shear") * np.clip(z, 0, palate)
    half = part.of("upper half") * np.clip(1 - (z - palate - 3) / 12, 0.3, 1)
    bone = slab(lean, half, z, crest, palate + 30)
    bone = -smooth_min(-bone, 50 - y, 8.0)
    plate = np.maximum(np.abs(z - palate) - np.float32(1.4), np.maximum(upper + 3, y - 46))
    bone = smooth_min(bone, plate, 6.0)
    sinuses = {}
    for side, (sideways, back, wide, deep, tall, floor) in shape["sinus"].items():
        sinuses[side] = ellipsoid(x, y, z, (sideways, back, floor + tall), (wide, deep, tall))
        bone = np.minimum(bone, sinuses[side] - np.float32(1.3))
    paint_bone(canvas, box, bone, MAXILLA, 0.6 * shape["cortex"], (x, y, z))
    for side, distance in sinuses.items():
        value = soft if shape["opaque sinus"][side] else air
        canvas.paint(box, distance, value, label=DATASET_ID[f"{side} maxillary sinus"])

    # lower jaw: alveolar process under the teeth on a wider body that rises into the ramus
    crest = -part.of("lower crest")
    lateral = part.of("lower") - part.of("lower shear") * np.clip(lower_z, -22, 0)
    ramus = part.of("ramus")
    edge = np.float32(shape["lower edge"])
    alveolar = slab(lateral, part.of("lower half") - 0.6, lower_z, edge + 8, crest)
    alveolar += 12 * ramus
    body = slab(jaw, part.of("mandible half"), lower_z,
                 part.of("mandible base"), part.of("mandible top"))  # fmt: skip
    bone = smooth_min(alveolar, body, 6.0)
    if around is not None:  # the jaw ends in its condyles
        condyle = ellipsoid(jaw, y, lower_z, (0, 81, 44), (9, 5, 7))
        bone = smooth_min(np.maximum(bone, y - 87), condyle, 4.0)
    paint_bone(canvas, box, bone, MANDIBLE, shape["cortex"], (x, y, lower_z))

    if around is None:
        spine = ellipsoid(x, y, z, (0, 92, 0), (13, 9, ENDLESS))
        canvas.paint(box, spine, grey["trabecular"])


def paint_canal(canvas: Canvas, canal: Canal) -> None:
    """A nerve canal: dark lumen, thin bright wall, each as visible as its segment's contrast."""
    points, label = canal.points - [0, 0, canvas.mouth.bite], DATASET_ID[canal.name]
    # short pieces keep the boxes, and so the work, small
    for i in range(0, len(points) - 1, 4):
        piece = slice(i, min(i + 5, len(points)))
        box = canvas.box(points[piece], canal.radii.max() + 1.5)
        if box is None:
            continue
        distance, nearest = tube(*canvas.coordinates(box), points[piece], canal.radii[piece])
        contrast = canal.contrast[piece][: len(points[piece]) - 1].astype(np.float32)[nearest]
        bone = canvas.labels[box] == MANDIBLE
        wall = np.maximum(distance - 0.5, -distance)
        canvas.paint(box, wall, canvas.grey["cortical"] * 0.8, strength=0.5 * contrast, only=bone)
        bone |= canvas.labels[box] == label  # the piece before reaches into this box
        canvas.paint(box, distance, canvas.grey["canal"], label=label, strength=contrast, only=bone)


def paint_tooth(canvas: Canvas, tooth: Tooth) -> Array | None:
    """One tooth, implant or pontic with its restoration; returns the patient position of its metal, or None."""
    if tooth.place == "missing":
        return None
    neck = canvas.mouth.neck(tooth)
    ends = neck + np.outer((tooth.crown, -1.05 * tooth.root), tooth.axes[2])
    box = canvas.box(ends, 1.3 * max(tooth.half) + 1.5)
    if box is None:
        return None
    a, b, c = canvas.coordinates(box, neck, tooth.axes)
    cap = crown(tooth, a, b, c, 0.25 * tooth.root if len(tooth.roots) > 1 else 0.0)
    if tooth.place == "tooth":
        if tooth.shape is not None:
            body = cap = tooth.shape.distance(a, b, c)
        else:
            body = smooth_min(cap, roots(tooth, a, b, c), 0.8)
        if tooth.rest is not None:
            start, along, across = map(np.float32, tooth.rest)
            body = np.maximum(body, c - (start + along * a + across * b))
        _paint_hard_tissue(canvas, tooth, box, body, (a, b, c))
    elif tooth.place == "implant":
        thread = 2.0 + 0.2 * np.sin(c * np.float32(2 * np.pi / 0.9))
        screw = np.maximum(np.sqrt(a * a + b * b) - thread, np.maximum(c - 1.0, -0.85 * tooth.root - c))
        canvas.paint(box, screw, tooth.cap_value, label=DATASET_ID["implant"], stsr=0)
        if not tooth.cap:
            middle: Array = neck - 0.4 * tooth.root * tooth.axes[2]
            return middle
    if tooth.cap:
        covered = np.maximum(cap - 0.2, 0.3 * tooth.crown - c)
        stsr = TOOTH if tooth.place == "tooth" else 0
        canvas.paint(box, covered, tooth.cap_value, label=DATASET_ID[tooth.cap], stsr=stsr)
    bright = tooth.cap or tooth.filling or tooth.fillings
    return neck + 0.6 * tooth.crown * tooth.axes[2] if bright and tooth.streak else None


def _paint_hard_tissue(canvas: Canvas, tooth: Tooth, box: Box, body: Array, abc: Sequence[Array]) -> None:
    """Ligament, dentine, enamel, filling and pulp of a natural tooth whose surface is ``body``."""
    (a, b, c), grey, pulp_id = abc, canvas.grey, tooth.fdi + PULP_OFFSET
    bone = canvas.labels[box] == (MAXILLA if tooth.jaw == "upper" else MANDIBLE)
    canvas.paint(box, body - 0.3, 200, strength=0.5, only=bone)  # periodontal ligament
    canvas.paint(box, body, grey["dentine"] * tooth.brightness, label=tooth.fdi, stsr=TOOTH)
    own = canvas.labels[box] == tooth.fdi
    rim = np.clip(c / 2.5, 0, 1) * np.float32(tooth.enamel)
    canvas.paint(box, np.maximum(-body - rim, 0.5 - c), grey["enamel"] * tooth.brightness, only=own)
    if tooth.filling > 0 and tooth.kind == "posterior":
        hole = ellipsoid(a, b, c, (0, 0, tooth.crown - 0.5), (1.2 * tooth.filling, tooth.filling, 2.2))
        canvas.paint(box, hole, grey["metal"] * 0.7, only=own)
    for filling in tooth.fillings:
        size = (*tooth.half, tooth.crown)
        boxes = [block(a, b, c, np.multiply(low, size), np.multiply(high, size)) for low, high in filling.blocks]
        canvas.paint(box, np.minimum.reduce(boxes), filling.value, only=own)
    for distance, stsr in pulp(tooth, a, b, c):
        value = tooth.treatment if tooth.treated and stsr != STSR_ID["pulp"] else grey["pulp"]
        canvas.paint(box, distance, value, label=pulp_id, stsr=stsr, only=own | (canvas.labels[box] == pulp_id))


def paint_connectors(canvas: Canvas) -> None:
    """The bars that join the three units of a bridge."""
    for one, two in pairwise(canvas.mouth.teeth):
        if one.cap == two.cap == "bridge" and one.quadrant == two.quadrant:
            ends = np.stack([canvas.mouth.neck(t) + 0.6 * t.crown * t.axes[2] for t in (one, two)])
            box = canvas.box(ends, 3.5)
            if box is not None:
                distance, _ = tube(*canvas.coordinates(box), ends, np.array([2.2, 2.2]))
                canvas.paint(box, distance, one.cap_value, label=DATASET_ID["bridge"], only=canvas.stsr[box] == 0)


def add_streaks(canvas: Canvas, centre: Array, number: int, strength: float = 1.0) -> None:
    """Bright and dark rays in the axial slices through a piece of metal; ``number`` picks a pattern of rays."""
    x, y, z = np.linalg.solve(canvas.matrix, centre - canvas.offset)
    rows = (np.arange(canvas.shape[1], dtype=np.float32)[:, None] - y) * canvas.spacing[1]
    columns = (np.arange(canvas.shape[2], dtype=np.float32) - x) * canvas.spacing[2]
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    waves = canvas.grey["streaks"][number % 32]
    turns = np.linspace(-np.pi, np.pi, 720)
    order = np.arange(1, waves.shape[1] + 1)
    rays = (np.cos(np.outer(turns, order)) @ waves[0] + np.sin(np.outer(turns, order)) @ waves[1]) / len(order) ** 0.5
    rays = np.sign(rays) * np.maximum(np.abs(rays) - 0.5, 0)
    pattern = rays.astype(np.float32)[((angle + np.pi) * (719 / (2 * np.pi))).astype(np.int32)]
    pattern *= np.exp(-radius / 22) * np.clip(radius / 3, 0, 1) * (strength * canvas.grey["streak"])
    for k in range(max(0, int(z - 5 / canvas.spacing[0])), min(canvas.shape[0], int(z + 5 / canvas.spacing[0]) + 1)):
        away = (k - z) * canvas.spacing[0]
        canvas.image[k] += pattern * np.float32(np.exp(-((away / 2.5) ** 2)))
