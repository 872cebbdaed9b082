"""The head around the mouth, as implicit forms in the patient's frame (see `mouth`): skin, brain case, orbits, face,
skull base, spine and hyoid. None of it has a label: the challenges' tables end at the jaws, sinuses and the pharynx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from umamba2.synthetic.bone_meshes import BoneMesh
from umamba2.synthetic.mouth import Mouth
from umamba2.synthetic.painting import Box, Canvas, paint_bone
from umamba2.synthetic.solids import ENDLESS, ellipsoid, slab, smooth_min, tube
from umamba2.synthetic.textbook import Array, Mask

# Bars of bone on both sides, by name: points (x, y, z) and radii in mm.
BARS: dict[str, tuple[list[tuple[float, float, float]], list[float]]] = {
    "brow": ([(3, 7, 80), (20, 8, 84), (36, 13, 82), (47, 23, 74)], [4, 4, 4, 4]),
    "outer rim": ([(47, 23, 76), (48, 25, 60), (44, 21, 46)], [4, 3.5, 5]),
    "lower rim": ([(44, 21, 46), (30, 15, 43), (18, 11, 46)], [5, 3.5, 3]),
    "inner rim": ([(18, 11, 45), (13, 9, 60), (8, 7, 76)], [3, 2.5, 3]),
    "nasal bone": ([(2, 7, 78), (3, 2, 66), (4, -4, 56)], [3, 2, 1.2]),
    "cheek": ([(46, 22, 44), (38, 24, 34)], [7, 6]),
    "arch": ([(47, 24, 42), (60, 45, 42), (64, 64, 43), (60, 82, 47)], [5, 3.2, 3, 5]),
    "pterygoid": ([(14, 60, 52), (15, 60, 34), (17, 63, 14)], [5, 3, 2]),
    "wing": ([(14, 62, 72), (30, 54, 72), (46, 46, 66)], [3, 2.5, 3]),
    "clivus": ([(3, 72, 60), (3, 84, 45), (4, 97, 30)], [7, 6, 4]),
    "condyle of the occiput": ([(12, 100, 30), (14, 108, 27)], [5, 5]),
    "styloid": ([(42, 86, 32), (36, 80, 8)], [2.4, 1.0]),
    "hyoid": ([(0, 42, -50), (10, 44, -50), (18, 56, -48), (20, 66, -46)], [4, 3.5, 2, 2.4]),
    "thyroid cartilage": ([(1, 46, -64), (12, 58, -66), (17, 68, -68)], [2, 1.8, 2.2]),
}
PARTIAL = {"styloid": 0.6, "thyroid cartilage": 0.5}  # how often these are seen

LEVELS = 9  # vertebrae from the atlas down
STEP = 17.0  # mm from one to the next
# Bars that the mesh of a skull does not have: they belong to the upper jaw, or are no part of the skull.
BESIDE_MESH = ("lower rim", "cheek", "arch", "hyoid", "thyroid cartilage", "styloid")
WORN = 0.6  # how often a head takes the form of a mesh, where there are any


class Worn(NamedTuple):
    """A mesh of real bone, put in its place in the patient's frame."""

    mesh: BoneMesh
    origin: Array  # where the mesh's own origin goes, mm
    scale: Array  # along its axes
    tilt: float  # nod about its origin, radians
    thicker: float  # mm

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Roughly the distance to the bone in mm."""
        x, y, z = (v - np.float32(o) for v, o in zip((x, y, z), self.origin, strict=True))
        sine, cosine = np.float32(np.sin(self.tilt)), np.float32(np.cos(self.tilt))
        y, z = cosine * y + sine * z, cosine * z - sine * y
        own = self.mesh.distance(*(v / np.float32(s) for v, s in zip((x, y, z), self.scale, strict=True)))
        distance: Array = own * np.float32(self.scale.mean()) - np.float32(self.thicker)
        return distance

    def corners(self) -> Array:
        """The corners of its box in the patient's frame, (8, 3)."""
        ends = np.stack([self.mesh.low, self.mesh.high]) * self.scale
        sine, cosine = np.sin(self.tilt), np.cos(self.tilt)
        at = np.array([(x, y, z) for x in ends[:, 0] for y in ends[:, 1] for z in ends[:, 2]])
        turned: Array = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
        corners: Array = self.origin + at @ turned
        return corners


@dataclass
class Skull:
    """What a seed decides about the head around the mouth."""

    bars: dict[str, tuple[Array, Array]]  # points (n, 3) and radii (n,), of the patient's left
    half: float  # width of the face, mm
    chin: float  # height of the skin under it
    vault: tuple[Array, Array]  # centre and radii of the inside of the brain case
    thickness: float  # of its bone, mm
    scalp: float
    spine: Array  # middles of the vertebrae (n, 3), atlas first
    tilt: Array  # of each, radians
    neck: tuple[float, float]  # half widths sideways and to the back
    nose: Array  # radii of its skin
    pharynx: tuple[float, float]  # its lower and upper end, as far as it is labelled
    dense: float  # grey value of the petrous bone
    brain: float
    frontal: tuple[float, float, float]  # radii of the sinus
    mastoid: float  # share of it that is air
    lattice: float  # mm from cell to cell of the ethmoid and the mastoid
    texture: Array = field(repr=False)  # the same noise that the jaws have
    worn: dict[str, Worn] = field(default_factory=dict)  # meshes of real bone, by kind


def draw_skull(rng: np.random.Generator, mouth: Mouth, meshes: Sequence[BoneMesh] = ()) -> Skull:
    """Draw the head around a mouth; it may wear one of the skulls and one of the spines of ``meshes``."""
    grey, bite = mouth.grey, mouth.bite
    uniform, normal = rng.uniform, rng.normal
    tall = uniform(0.9, 1.12)  # of the middle of the face
    stretch = np.array([uniform(0.92, 1.08), uniform(0.94, 1.06), 1.0])
    bars: dict[str, tuple[Array, Array]] = {}
    for name, (points, radii) in BARS.items():
        if rng.random() > PARTIAL.get(name, 1.0):
            continue
        at = np.array(points, float) + normal(0, 1.0, 3) + normal(0, 0.7, (len(points), 3))
        at[:, 2] = np.where(at[:, 2] > 20, 20 + (at[:, 2] - 20) * tall, at[:, 2])
        if name in ("hyoid", "thyroid cartilage"):
            at[:, 2] -= 0.6 * bite + uniform(-8, 6)
        at[:, 0] = np.maximum(at[:, 0], 0)
        bars[name] = (at * stretch, np.array(radii) * uniform(0.75, 1.3))
    slope, curve = uniform(-0.25, 0.3), uniform(-8, 14)
    down = np.arange(LEVELS)
    step = STEP * uniform(0.9, 1.1)
    turn = np.arctan(slope) + np.deg2rad(normal(0, 4, LEVELS))
    spine = np.stack([normal(0, 0.8, LEVELS), 93 - curve * np.sin(down / 3.0) + slope * step * down + normal(0, 2),
                      12 + normal(0, 2) - step * down], axis=1)  # fmt: skip
    skull = Skull(
        bars=bars, half=uniform(62, 72), chin=-(42 + bite + uniform(-2, 5)),
        vault=(np.array([0, 95, 108 * tall + normal(0, 2)]), np.array([68, 88, 64]) * uniform(0.93, 1.08, 3)),
        thickness=uniform(4, 9), scalp=uniform(3, 9), spine=spine, tilt=turn,
        neck=(uniform(50, 70), uniform(45, 70)), nose=np.array([14, 20, 20]) * uniform(0.8, 1.2, 3),
        pharynx=(-uniform(62, 75) - bite, mouth.shape["palate"] + uniform(16, 28)),
        dense=grey["cortical"] * uniform(0.9, 1.5), brain=grey["soft"] + uniform(-30, 30),
        frontal=(uniform(4, 18), uniform(3, 6), uniform(5, 14)), mastoid=uniform(0.0, 0.75), lattice=uniform(4, 9),
        texture=mouth.shape["texture"],
    )  # fmt: skip
    _wear(rng, skull, meshes)
    return skull


def _wear(rng: np.random.Generator, skull: Skull, meshes: Sequence[BoneMesh]) -> None:
    """Put a skull to the forehead and the top of the brain case, and a spine where the drawn one has its dens."""
    centre, radii = skull.vault
    for kind in ("skull", "spine"):
        luck, chosen, normal = rng.random(), rng.random(), rng.normal(size=6)
        fitting = [mesh for mesh in meshes if mesh.kind == kind]
        if not fitting or luck > WORN:
            continue
        mesh, scale = fitting[int(chosen * len(fitting))], 1 + 0.04 * normal[:3].clip(-2, 2)
        if kind == "skull":
            corner = centre + (radii + skull.thickness) * [0, -1, 1]
            origin, tilt = corner + np.array([0.7 * normal[4], 2 * normal[5], 0]), 0.03 * normal[3]
        else:
            top = skull.spine[1] + [0, -10, 21]
            origin, tilt = top, 0.08 * normal[3].clip(-2, 2)
            slope = 0.25 - np.tan(tilt)
            skull.spine[:, 1] = top[1] + 12 + slope * (top[2] - skull.spine[:, 2])
        skull.worn[kind] = Worn(mesh, origin, scale, float(tilt), 0.3 * rng.normal())


def outline(skull: Skull, face: Array, x: Array, y: Array, z: Array) -> Array:
    """The skin: the face as far as it goes, brain case, nose and neck."""
    below = np.float32(skull.chin) - np.float32(0.3) * y - z  # under the chin it goes back to the neck
    face = np.maximum(np.maximum(face, below), np.maximum(y - 110, z - 100))
    centre, radii = skull.vault
    head = ellipsoid(x, y, z, centre, radii + skull.thickness + skull.scalp)
    wide, deep = skull.neck
    middle = np.interp(z.ravel(), skull.spine[::-1, 2], skull.spine[::-1, 1] - 8).reshape(z.shape)
    neck = np.maximum(ellipsoid(x, y - middle.astype(np.float32), z, (0, 0, 0), (wide, deep, ENDLESS)), z - 15)
    ears = ellipsoid(np.abs(x), y, z, (46, 92, 38), (26, 34, 38))
    skin = smooth_min(smooth_min(smooth_min(face, head, 12.0), ears, 8.0), neck, 30.0)
    if "skull" in skull.worn:
        skin = smooth_min(skin, skull.worn["skull"].distance(x, y, z) - np.float32(skull.scalp), 6.0)
    return smooth_min(skin, ellipsoid(x, y, z, (0, -3, 32), skull.nose), 6.0)


def paint_skull(canvas: Canvas, skull: Skull) -> None:
    """Everything hard of the head but the jaws, and what is hollow or soft within it."""
    if "skull" not in skull.worn:
        _paint_brain_case(canvas, skull)
    for worn in skull.worn.values():
        _paint_worn(canvas, worn)
    for number in range(0 if "spine" not in skull.worn else LEVELS - 2, LEVELS):
        _paint_vertebra(canvas, skull, number)
    for name, (points, radii) in skull.bars.items():
        if "skull" in skull.worn and name not in BESIDE_MESH:
            continue
        for sign in (1.0, -1.0):
            ends = points * [sign, 1, 1]
            box = canvas.box(ends, radii.max() + 1)
            if box is not None:
                xyz = canvas.coordinates(box)
                distance, _ = tube(*xyz, ends, radii)
                paint_bone(canvas, box, distance, None, 1.6, xyz)
    for sign in (1.0, -1.0):
        _paint_ear(canvas, skull, sign)
        _paint_orbit(canvas, skull, sign)
    _paint_air_cells(canvas, skull)


def _inside(skull: Skull, x: Array, y: Array, z: Array) -> Array:
    """Distance to the inside of the brain case: a dome on the three steps of its floor."""
    centre, radii = skull.vault
    dome = ellipsoid(x, y, z, centre, radii)
    floor = np.interp(y.ravel(), (10, 52, 62, 84, 100, 125, 160), (86, 80, 60, 52, 30, 22, 40)).reshape(y.shape)
    high = np.where(y < 84, np.float32(12) * np.exp(-np.square(x / 14)), 0)  # between the hollows of the middle
    lift = np.float32(centre[2] - 108)
    return -smooth_min(-dome, z - (floor + high + lift).astype(np.float32), 6.0)


def _paint_brain_case(canvas: Canvas, skull: Skull) -> None:
    centre, radii = skull.vault
    corners = centre + np.array([[-1, -1, -1], [1, 1, 1]]) * (radii + skull.thickness)
    corners[0, 2] = 10
    whole = canvas.box(np.array([[x, y, z] for x in corners[:, 0] for y in corners[:, 1] for z in corners[:, 2]]), 3)
    if whole is None:
        return
    texture = skull.texture.astype(np.float32)
    grey, step = canvas.grey, max(1, 1_000_000 // (canvas.shape[1] * canvas.shape[2]))
    for start in range(whole[0].start, whole[0].stop, step):
        box = (slice(start, min(start + step, whole[0].stop)), *whole[1:])
        x, y, z = canvas.coordinates(box)
        distance = _inside(skull, x, y, z)
        lumps = texture[tuple((v * np.float32(0.12)).astype(np.int32) & 31 for v in (x, y, z))]
        thick = np.float32(skull.thickness) * (1 + np.float32(0.06) * lumps)
        thick *= np.where(z < 70, np.float32(0.7), np.float32(1))
        shell = np.maximum(distance - thick, -distance)
        shell = np.maximum(shell, np.float32(16) - np.hypot(x, y - 110) - np.float32(0.3) * np.maximum(z - 40, 0))
        near = shell < canvas.pixel
        canvas.paint(box, distance, skull.brain)
        diploe = np.full(shell.shape, grey["trabecular"], np.float32)
        cells = tuple((v[near] * np.float32(1.4)).astype(np.int32) & 31 for v in (x, y, z))
        diploe[near] += np.float32(0.7 * grey["texture"]) * texture[cells]
        canvas.paint(box, shell, diploe)
        canvas.paint(box, np.maximum(shell, -shell - np.float32(1.6)), grey["cortical"])


def _paint_worn(canvas: Canvas, worn: Worn) -> None:
    whole = canvas.box(worn.corners(), 1.0)
    if whole is None:
        return
    step = max(1, 1_000_000 // (canvas.shape[1] * canvas.shape[2]))
    for start in range(whole[0].start, whole[0].stop, step):
        box = (slice(start, min(start + step, whole[0].stop)), *whole[1:])
        xyz = canvas.coordinates(box)
        distance = worn.distance(*xyz)
        if worn.mesh.kind == "skull":  # nose and upper jaw are the mouth's
            x, y, z = xyz
            distance = np.maximum(distance, -np.maximum(np.maximum(np.abs(x) - 40, y - 52), z - 42))
        paint_bone(canvas, box, distance, None, 1.5, xyz)


class _Frame(NamedTuple):
    """A box of the grid and the coordinates in a frame of its own."""

    box: Box
    a: Array
    b: Array
    c: Array


def _frame(canvas: Canvas, origin: Array, axes: Array, low: Sequence[float], high: Sequence[float]) -> _Frame | None:
    """The voxels between two corners in the frame of ``axes`` (rows) about ``origin``."""
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    box = canvas.box(origin + corners @ axes, 1.0)
    return None if box is None else _Frame(box, *canvas.coordinates(box, origin, axes))


def _paint_vertebra(canvas: Canvas, skull: Skull, number: int) -> None:
    turn = skull.tilt[number]
    axes = np.array([[1, 0, 0], [0, np.cos(turn), np.sin(turn)], [0, -np.sin(turn), np.cos(turn)]])
    frame = _frame(canvas, skull.spine[number], axes, (-34, -14, -14), (34, 56, 26 if number == 1 else 14))
    if frame is None:
        return
    box, a, b, c = frame
    side = np.abs(a)
    if number == 0:  # the atlas is a ring
        points = [(0, -7, 0), (9, -5, 0), (17, 6, 0), (22, 10, 0), (14, 24, 0), (0, 31, 0)]
        form, _ = tube(side, b, c, np.array(points, float), np.array([4, 4, 7, 5, 3.5, 3.5]))
        across, _ = tube(side, b, c, np.array([(18, 8, 0), (32, 9, -2)], float), np.array([4, 3.5]))
        form = np.minimum(form, across)
    else:
        spinous = 44.0 if number in (1, 6, 7, 8) else 34.0
        core = (np.sqrt(np.square(a / 10) + np.square(b / 8.5)) - 1) * np.float32(8.5)
        form = slab(core + 5, 5, c, -6.5, 6.5, 2.0)
        arch, _ = tube(side, b, c, np.array([(8, 5, 1), (15, 13, 0), (9, 23, -1), (0, 29, -3)], float),
                       np.array([4, 4, 3.2, 3.2]))  # fmt: skip
        process, _ = tube(side, b, c, np.array([(0, 28, -3), (1, spinous, -9)], float), np.array([3.5, 4.2]))
        pillar, _ = tube(side, b, c, np.array([(16, 11, 6), (17, 14, -7)], float), np.array([5.5, 5.5]))
        wing, _ = tube(side, b, c, np.array([(9, 1, 1), (24, 4, -1)], float), np.array([3.5, 3.5]))
        hole = np.float32(2.6) - np.hypot(side - 15, b - 2)
        for part in (arch, process, pillar, np.maximum(wing, hole)):
            form = smooth_min(form, part, 2.0)
        if number == 1:
            dens, _ = tube(a, b, c, np.array([(0, 1, 4), (0, -1, 21)], float), np.array([6, 4.6]))
            form = smooth_min(form, dens, 3.0)
    paint_bone(canvas, box, form, None, 1.5, (a, b, c))


def _paint_ear(canvas: Canvas, skull: Skull, sign: float) -> None:
    """Petrous bone with the inner ear, mastoid with its cells, ear canal and the flap of skin outside."""
    grey, lift = canvas.grey, skull.vault[0][2] - 108
    frame = _frame(canvas, np.array([0, 0, lift / 2]), np.diag([sign, 1.0, 1.0]), (4, 52, 4), (92, 128, 76))
    if frame is None:
        return
    box, a, b, c = frame
    petrous, _ = tube(a, b, c, np.array([(14, 70, 54), (34, 84, 48), (58, 95, 46)], float), np.array([5, 9, 12]))
    mastoid = ellipsoid(a, b, c, (57, 101, 34), (9, 12, 20))
    squama = ellipsoid(a, b, c, (62, 88, 56), (5, 18, 12))
    form = smooth_min(smooth_min(petrous, mastoid, 5.0), squama, 4.0)
    bone = _hard(canvas, box) if "skull" in skull.worn else None  # the mesh has the form already
    canvas.paint(box, form, skull.dense, only=bone)
    cells = np.maximum(np.minimum(mastoid, squama) + 2.0, _cells(a, b, c, skull.lattice, skull.mastoid))
    canvas.paint(box, cells, grey["air"], only=bone)
    canal, _ = tube(a, b, c, np.array([(42, 87, 47), (52, 88, 46), (78, 88, 47)], float), np.array([4.5, 3.2, 3.6]))
    canvas.paint(box, canal, grey["air"], only=a < 74)
    cochlea = ellipsoid(a, b, c, (27, 80, 49), (2.4, 2.4, 2.0))
    for at in ((31, 86, 50), (33, 88, 52)):
        cochlea = np.minimum(cochlea, ellipsoid(a, b, c, at, (3.2, 1.2, 3.2)))
    canvas.paint(box, cochlea, grey["soft"], strength=0.8)
    flap = np.maximum(ellipsoid(a, b, c, (77, 94, 48), (4, 15, 28)), -ellipsoid(a, b, c, (78, 90, 48), (5, 7, 9)))
    outside = canvas.image[box] < (grey["soft"] - 500)
    canvas.paint(box, flap, grey["soft"], only=outside & (a > 68))


def _hard(canvas: Canvas, box: Box) -> Mask:
    """Where bone has been painted."""
    grey = canvas.grey
    hard: Mask = canvas.image[box] > grey["soft"] + 0.5 * (grey["trabecular"] - grey["soft"])
    return hard


def _cells(x: Array, y: Array, z: Array, size: float, share: float) -> Array:
    """Rounded cells on a lattice, negative inside; ``share`` (0-1) of the room is theirs."""
    waves = np.sin(x * np.float32(5.1 / size) + np.sin(y * np.float32(3.1 / size)))
    waves = waves + np.sin(y * np.float32(5.7 / size) + np.sin(z * np.float32(2.7 / size)))
    waves += np.sin(z * np.float32(5.3 / size) + np.sin(x * np.float32(3.3 / size)))
    walls: Array = (np.float32(3 - 4.2 * share) / 2 - np.abs(waves)) * np.float32(size / 6)
    return walls


def _paint_orbit(canvas: Canvas, skull: Skull, sign: float) -> None:
    grey = canvas.grey
    rims = [skull.bars[name][0] for name in ("brow", "outer rim", "lower rim", "inner rim")]
    middle = np.concatenate(rims).mean(axis=0) * [sign, 1, 1] - [0, 0, 1]
    apex = np.array([sign * 11, 62.0, middle[2] + 4])
    ahead = (middle - apex) / np.linalg.norm(middle - apex)
    across = np.cross(ahead, [0, 0, 1.0])
    across /= np.linalg.norm(across)
    axes = np.stack([across, np.cross(across, ahead), ahead])
    length = float(np.linalg.norm(middle - apex))
    frame = _frame(canvas, apex, axes, (-25, -25, -3), (25, 25, length + 14))
    if frame is None:
        return
    box, a, b, c = frame
    along = np.clip(c / length, 0, 1.0)
    radius = np.float32(17.5) * along ** np.float32(0.65)
    cone = np.hypot(a, b * np.float32(1.08)) - radius
    wall = np.maximum(np.maximum(cone - np.float32(1.1), -cone), c - (length - 2))
    solid = _hard(canvas, box)
    if "skull" not in skull.worn:
        canvas.paint(box, np.maximum(wall, -c), grey["cortical"], strength=0.75)
    inside = np.maximum(np.maximum(cone, c - (length + 4)), -c)
    canvas.paint(box, inside, grey["soft"] + 0.7 * grey["fat"], only=~(solid & (cone > -2)))
    eye = ellipsoid(a, b, c, (0, 0, length - 1), (12, 12, 12))
    canvas.paint(box, eye, grey["soft"])
    canvas.paint(box, ellipsoid(a, b, c, (0, 0, length + 6), (5, 5, 2.2)), grey["soft"] + 60)
    for at in ((0, 11, 0.6), (0, -11, 0.6), (11, 0, 0.6), (-11, 0, 0.6), (0, 0, 0.5)):  # muscles and nerve
        end = np.array([at[0], at[1], at[2] * length + 5])
        muscle, _ = tube(a, b, c, np.array([(0, 0, 2.0), end]), np.array([1.2, 2.0]))
        canvas.paint(box, muscle, grey["soft"])


def _paint_air_cells(canvas: Canvas, skull: Skull) -> None:
    """Frontal, ethmoid and sphenoid sinuses: bone with cells of air, or of what fills them."""
    grey = canvas.grey
    frame = _frame(canvas, np.zeros(3), np.eye(3), (-32, -2, 52), (32, 84, 122))
    if frame is None:
        return
    box, x, y, z = frame
    top = skull.bars["brow"][0][0, 2]
    side = np.abs(x)
    soft = None
    if "skull" in skull.worn:  # its own walls stand between the cells
        near = skull.worn["skull"].distance(x, y, z)
        soft = near > 0.3
        top = min(top, skull.worn["skull"].origin[2] - 96)
    ethmoid = slab(side - 6, 5.5, z, top - 24, top - 3, 3.0)
    ethmoid = np.maximum(ethmoid, np.abs(y - 32) - 18)
    canvas.paint(box, ethmoid, grey["cortical"], strength=0.5)
    canvas.paint(box, np.maximum(ethmoid + 1.0, _cells(x, y, z, skull.lattice, 0.6)), grey["air"], only=soft)
    wide, deep, tall = skull.frontal
    for form in (
        ellipsoid(side, y, z, (wide / 2 + 4, 12, top + tall), (wide, deep, tall)),
        ellipsoid(side, y, z, (7, 64, top - 12), (8, 10, 9)),
    ):
        canvas.paint(box, np.maximum(form - np.float32(1.5), -form), grey["cortical"], strength=0.8)
        canvas.paint(box, form, grey["air"])
    septum = np.maximum(side - 0.7, np.maximum(np.abs(y - 34) - 30, np.abs(z - top + 20) - 14))
    canvas.paint(box, septum, grey["cortical"], strength=0.6)
