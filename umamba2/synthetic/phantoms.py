"""Synthetic dental cone-beam CT with exact labels: every class of ToothFairy3 and of STSR, from one seed.

A phantom is a list of shapes in a patient frame in millimetres: x grows to the patient's left, y to the back, z
upwards; the origin lies between the central incisors on the biting plane. Each shape is an implicit function, roughly
the signed distance to its surface (negative inside), evaluated only where the grid meets it. All anatomy is drawn
from the seed before any grid exists, so one seed is the same mouth on every grid; only noise differs.

Arrays are (z, y, x); incisors lie at small y and the patient's left at large x (DICOM LPS, identity direction).

The STSR challenge names its root-canal classes without defining them. Our interpretation: 2 is the pulp chamber; the
canals are 3 (single-rooted upper teeth), 11 (second canal of an upper premolar), 4, 7, 9 (mesiobuccal, distobuccal and
palatal canal of an upper molar), 10 (single-rooted lower teeth), 5, 6, 8 (mesial, distal and third canal of a lower
molar) and 12 (every canal of a wisdom tooth).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from umamba2.scans.clicks import click_json, simulate_clicks
from umamba2.synthetic.appearance import MANDIBLE, MAXILLA, PHARYNX, draw_greys, expose

if TYPE_CHECKING:
    from umamba2.synthetic.tooth_shapes import ToothShape

BRIDGE, CROWN, IMPLANT, LINGUAL_CANAL = 8, 9, 10, 105
IAC = {"left": 3, "right": 4}
SINUS = {"left": 5, "right": 6}
INCISIVE_CANAL = {"left": 103, "right": 104}
SIDES = {"left": 1.0, "right": -1.0}  # sign of x
WIDER = 1.5  # how much wider the ranges of a randomised phantom's anatomy are
ENDLESS = 1e6  # radius in mm of an ellipsoid that is a cylinder

# Typical textbook sizes in mm of the permanent teeth, central incisor (1) to wisdom tooth (8):
# crown height, root length, mesiodistal width, buccolingual width.
TOOTH_SIZES = {
    "upper": [(10.5, 13.0, 8.5, 7.0), (9.0, 13.0, 6.5, 6.0), (10.0, 16.5, 7.5, 8.0), (8.5, 13.5, 7.0, 9.0),
              (8.5, 13.5, 7.0, 9.0), (7.5, 12.5, 10.0, 11.0), (7.0, 11.5, 9.5, 11.0), (6.5, 10.5, 8.5, 10.0)],
    "lower": [(9.0, 12.5, 5.0, 6.0), (9.5, 13.5, 5.5, 6.2), (11.0, 15.5, 7.0, 7.5), (8.5, 14.0, 7.0, 7.5),
              (8.0, 14.0, 7.0, 8.0), (7.5, 13.5, 11.0, 10.5), (7.0, 12.5, 10.5, 10.0), (7.0, 10.5, 10.0, 9.5)],
}  # fmt: skip

# Outward lean of the crowns in degrees (negative: inwards), same order.
LEAN = {"upper": [24, 22, 12, 5, 4, 5, 6, 8], "lower": [15, 13, 8, -2, -6, -10, -13, -15]}

# Roots: position of the root at the neck and at its apex, and its half widths, all as fractions of the tooth's half
# widths (distal, buccal), then its length as a fraction of the root length and the STSR class of its canal.
ROOTS = {
    "upper single": [((0.0, 0.0), (0.10, 0.0), (0.82, 0.86), 1.0, 3)],
    "lower single": [((0.0, 0.0), (0.20, 0.0), (0.72, 0.86), 1.0, 10)],
    "upper premolar": [((0.0, 0.38), (0.05, 0.50), (0.74, 0.46), 1.0, 3),
                       ((0.0, -0.38), (0.05, -0.45), (0.74, 0.46), 0.97, 11)],
    "upper molar": [((-0.38, 0.40), (-0.45, 0.60), (0.44, 0.46), 0.95, 4),
                    ((0.38, 0.40), (0.55, 0.52), (0.40, 0.42), 0.90, 7),
                    ((0.02, -0.42), (0.10, -0.80), (0.50, 0.46), 1.05, 9)],
    "lower molar": [((-0.42, 0.0), (-0.45, 0.0), (0.44, 0.82), 1.0, 5),
                    ((0.42, 0.0), (0.55, 0.0), (0.42, 0.74), 0.95, 6)],
}  # fmt: skip

# Half widths of a crown (mesiodistal, buccolingual) from neck to tip, as fractions of the greatest half width.
CROWN_PROFILES = {
    "incisor": ((0.78, 0.90, 0.98, 1.00, 0.99, 0.93), (0.92, 1.00, 0.86, 0.62, 0.42, 0.24)),
    "canine": ((0.80, 0.92, 1.00, 0.97, 0.74, 0.30), (0.92, 1.00, 0.95, 0.78, 0.55, 0.25)),
    "posterior": ((0.84, 0.92, 0.98, 1.00, 0.96, 0.76), (0.90, 0.98, 1.00, 0.95, 0.82, 0.58)),
}


@dataclass(frozen=True)
class Phantom:
    """A synthetic scan with its exact labels.

    ``image`` int16 (z, y, x), HU-like; ``labels`` uint8 (z, y, x), ToothFairy3 dataset ids; ``stsr_labels`` uint8
    (z, y, x), STSR classes 0-12; ``spacing`` mm (z, y, x); ``clicks`` ("Left_IAC" or "Right_IAC", (z, y, x) voxel)
    pairs, five left then five right, none for a canal outside the field of view.
    """

    image: np.ndarray
    labels: np.ndarray
    stsr_labels: np.ndarray
    spacing: tuple[float, float, float]
    clicks: tuple[tuple[str, tuple[int, int, int]], ...]


# ---------------------------------------------------------------------------------------------------------------------
# The mouth: everything random about the anatomy, in mm, before any grid.


@dataclass
class _Tooth:
    fdi: int
    jaw: str
    kind: str  # incisor, canine or posterior
    roots: list
    third_canal: bool
    crown: float  # height, mm
    root: float  # length, mm
    half: tuple[float, float]  # half widths distal, buccal, mm
    neck: np.ndarray  # patient position (x, y, z) of the centre of the neck
    axes: np.ndarray  # rows: distal, buccal, towards the tip
    bow: float  # sideways bend of the roots, mm
    enamel: float  # thickness, mm
    place: str = "tooth"  # tooth, missing, implant or pontic
    cap: int = 0  # CROWN or BRIDGE over it
    cap_value: float = 0.0
    filling: float = 0.0  # radius of an amalgam filling, mm
    treated: bool = False  # canals filled with bright material
    brightness: float = 1.0  # of its dentine and enamel
    shape: ToothShape | None = None  # the form of a real tooth, at this one's sizes


@dataclass
class _Canal:
    label: int
    points: np.ndarray  # (n, 3) patient frame
    radii: np.ndarray  # (n,)
    contrast: np.ndarray  # (n - 1,) visibility 0-1 of each segment


@dataclass
class _Mouth:
    rotation: np.ndarray
    scale: float
    shift: np.ndarray  # mm (x, y, z) of the scanner
    bite: float  # opening between the jaws, mm
    arches: dict
    teeth: list
    canals: list
    shape: dict = field(default_factory=dict)  # sizes and positions of the large structures
    grey: dict = field(default_factory=dict)  # grey values and image quality


def _arch(width: float, power: float, front: float, flare: float) -> np.ndarray:
    """Right half of a dental arch as points (n, 2) from the midline to the back, x positive.

    ``width`` is the half width 30 mm behind the front; ``flare`` spreads the line towards the back.
    """
    x = np.linspace(0, 48, 600)
    y = front + 30 * (x / width) ** power
    spread = np.maximum(y - 25, 0)
    x = x + flare * np.where(spread < 20, spread**2 / 40, spread - 10)
    return np.stack([x, y], axis=1)[y < 110]


def _arc_length(line: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])


class _Draw(np.random.Generator):
    """Random numbers whose ranges are ``width`` times as wide as asked for, about the same middle."""

    def __init__(self, seed: int, width: float):
        super().__init__(np.random.PCG64([seed, 0]))
        self.extra = width - 1

    def uniform(self, low=0.0, high=1.0, size=None):
        spread = self.extra * (high - low) / 2
        return super().uniform(low - spread, high + spread, size)

    def normal(self, loc=0.0, scale=1.0, size=None):
        return super().normal(loc, np.multiply(scale, 1 + self.extra), size)


def _draw_mouth(seed: int, randomised: bool = False) -> _Mouth:
    rng = _Draw(seed, WIDER if randomised else 1.0)
    uniform, normal = rng.uniform, rng.normal
    rotation = Rotation.from_euler("xyz", np.clip(normal(0, 3.5, 3), -8, 8), degrees=True).as_matrix()
    width, power = uniform(22.5, 26.0), uniform(2.4, 3.0)
    arches = {
        "upper": _arch(width, power, 0.0, 0.0),
        "lower": _arch(width - uniform(0.5, 2.0), power - 0.2, uniform(1.5, 3.0), 0.0),
        "mandible": _arch(width - 0.5, power - 0.3, uniform(7.0, 9.0), uniform(0.20, 0.30)),
    }
    shape = {
        "crest": uniform(1.5, 3.0),  # alveolar bone starts this far from the neck, mm
        "lower edge": uniform(-36, -32),
        "cortex": uniform(1.4, 2.4),
        "palate": uniform(17, 22),
        "sinus": {s: ((s_x * uniform(23, 26), uniform(34, 40), 0.0), uniform(9, 12), uniform(13, 17), uniform(15, 20),
                      uniform(13.5, 18)) for s, s_x in SIDES.items()},
        "opaque sinus": {s: rng.random() < 0.15 for s in SIDES},
        "pharynx": (uniform(9, 14), uniform(5, 9), uniform(60, 66)),
        "mouth air": uniform(0, 5) * (rng.random() < 0.5),
        "vestibule": 0.0,  # air between cheeks and teeth, mm
        "bite block": 0.0,  # something held between the front teeth, mm
        "fat": uniform(5, 14),
        "skin": (uniform(58, 68), uniform(9, 12)),
        "texture": np.clip(ndimage.gaussian_filter(normal(size=(32, 32, 32)), 0.9, mode="wrap") * 4.5, -2, 2),
    }  # fmt: skip
    grey = {
        "soft": uniform(0, 90), "trabecular": uniform(320, 620), "cortical": uniform(1100, 1600),
        "dentine": uniform(1300, 1750), "enamel": uniform(2000, 2600), "pulp": uniform(350, 800),
        "canal": uniform(0, 200), "metal": uniform(4000, 7000),
        "gain": uniform(0.88, 1.12), "offset": uniform(-50, 50), "noise": uniform(25, 110), "blur": uniform(0.2, 0.45),
        "bias": normal(0, 40, 4), "cylinder": uniform(0.9, 1.0) if rng.random() < 0.25 else 0.0,
        "streaks": normal(size=(32, 2, 40)), "streak": uniform(150, 450),
        "air": -980.0, "fat": -120.0, "texture": 130.0, "mottle": 0.0, "ceiling": 12000.0, "block": 0.0,
    }  # fmt: skip
    mouth = _Mouth(rotation, uniform(0.9, 1.1), np.array([normal(0, 2), uniform(-3, 3), uniform(-2.5, 2.5)]),
                   max(0.0, uniform(-2.0, 3.0)), arches, [], [], shape, grey)  # fmt: skip
    mouth.teeth = [t for quadrant in (1, 2, 3, 4) for t in _draw_quadrant(rng, quadrant, arches)]
    _draw_restorations(rng, mouth)
    for side in SIDES:
        teeth = [t for t in mouth.teeth if t.fdi // 10 == (3 if side == "left" else 4)]
        mouth.canals += _draw_canals(rng, side, arches["mandible"], teeth)
    mouth.canals.append(_draw_lingual_canal(rng, arches["mandible"]))
    if randomised:
        _randomise(np.random.default_rng([seed, 4]), mouth)
    return mouth


def _randomise(rng, mouth: _Mouth) -> None:
    """Give every structure a grey value of its own, in place, and the mouth what plain phantoms lack."""
    uniform = rng.uniform
    mouth.grey.update(draw_greys(rng))
    if rng.random() < 0.5:
        mouth.shape["mouth air"] = uniform(2, 16)
    if rng.random() < 0.4:
        mouth.shape["vestibule"] = uniform(1, 7)
    if rng.random() < 0.3:
        mouth.shape["bite block"] = uniform(2, 7)
        mouth.bite = max(mouth.bite, mouth.shape["bite block"] - uniform(0, 2))
    elif rng.random() < 0.3:
        mouth.bite = uniform(2, 10)
    # waves in mm that bend the whole head: pushed axis, axis along which, (amplitude, wavelength, phase)
    mouth.shape["bends"] = np.stack(
        [rng.normal(0, 2.0, (3, 3)), uniform(50, 160, (3, 3)), uniform(0, 2 * np.pi, (3, 3))], axis=-1
    )
    gone = rng.choice([0.0, 0.1, 0.3], p=[0.4, 0.4, 0.2])
    for tooth in mouth.teeth:
        if tooth.place == "tooth" and not tooth.cap and rng.random() < gone:
            tooth.place = "missing"
        tooth.brightness = uniform(0.88, 1.12)
        tooth.treated |= rng.random() < 0.08
    for canal in mouth.canals:
        canal.contrast[:] = canal.contrast.clip(0, 1)
        canal.points += rng.normal(0, (0.7, 0.7, 1.5))


def _draw_quadrant(rng, quadrant: int, arches: dict) -> list[_Tooth]:
    """The eight teeth of one quadrant, each touching the next along its arch."""
    jaw, sign = ("upper" if quadrant < 3 else "lower"), (-1.0 if quadrant in (1, 4) else 1.0)
    line, up = arches[jaw], (-1.0 if jaw == "upper" else 1.0)
    length = _arc_length(line)
    size = rng.normal(1.0, 0.03)
    overbite = rng.uniform(0.5, 2.5)
    gone = rng.integers(4, 8) if rng.random() < 0.06 else 9  # an edentulous run starts at this position
    teeth, reached = [], 0.0
    for position, sizes in enumerate(TOOTH_SIZES[jaw], start=1):
        crown, root, distal, buccal = np.array(sizes) * size * rng.normal(1, 0.03, 4).clip(0.92, 1.08)
        kind = "incisor" if position < 3 else "canine" if position == 3 else "posterior"
        missing = rng.random() < (0.4 if position == 8 else 0.06) or gone <= position <= gone + 2
        two_rooted = rng.random() < {4: 0.5, 5: 0.15}.get(position, 0)
        roots = ROOTS[f"{jaw} molar"] if position > 5 else ROOTS[f"{jaw} single"]
        if jaw == "upper" and two_rooted:
            roots = ROOTS["upper premolar"]
        if position == 8:
            roots = [(*r[:4], 12) for r in roots]
        along = reached + distal / 2
        reached += distal - 0.15  # neighbours overlap a little at their contact
        here = np.array([np.interp(along, length, line[:, i]) for i in (0, 1)])
        ahead = np.array([np.interp(along + 1, length, line[:, i]) for i in (0, 1)]) - here
        turn, lean, tip = np.deg2rad(rng.normal(0, (4, 2.5, 3)))
        lean += np.deg2rad(LEAN[jaw][position - 1])
        if position == 8:
            tip += np.deg2rad(-up * rng.uniform(0, 25) * (rng.random() < 0.4))
        forward = ahead / np.linalg.norm(ahead)
        forward = forward @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        along_arch = np.array([sign * forward[0], forward[1], 0.0])
        outward = np.array([sign * forward[1], -forward[0], 0.0])
        axis = np.array([0, 0, up]) + np.tan(lean) * outward - np.tan(abs(tip)) * along_arch * np.sign(tip)
        axis /= np.linalg.norm(axis)
        buccal_axis = outward - (outward @ axis) * axis
        buccal_axis /= np.linalg.norm(buccal_axis)
        distal_axis = np.cross(buccal_axis, axis)
        distal_axis *= np.sign(distal_axis @ along_arch)
        # the curve of Spee lifts the molars; upper front teeth bite over the lower ones
        height = 0.0008 * here[1] ** 2 + rng.normal(0, 0.25)
        height += (-overbite if jaw == "upper" else 0.6) * max(0.0, 1 - along / 28)
        height += 0.0 if jaw == "upper" else -0.2
        if position == 8:
            height -= up * rng.uniform(0, 3)
        tip_point = np.array([sign * here[0], here[1], height])
        teeth.append(_Tooth(
            fdi=10 * quadrant + position, jaw=jaw, kind=kind, roots=roots, third_canal=rng.random() < 0.6,
            crown=crown, root=0.94 * root, half=(distal / 2, buccal / 2), neck=tip_point - crown * axis,
            axes=np.stack([distal_axis, buccal_axis, axis]), bow=rng.normal(0.5, 0.5), enamel=rng.uniform(0.9, 1.3),
            place="missing" if missing else "tooth", filling=rng.uniform(1, 2.2) * (rng.random() < 0.1),
            treated=rng.random() < 0.04,
        ))  # fmt: skip
    return teeth


def _draw_restorations(rng, mouth: _Mouth) -> None:
    """Turn some teeth into crowns, implants and three-unit bridges, in place."""
    metal = mouth.grey["metal"]
    level = rng.choice([0.0, 0.6, 2.0], p=[0.4, 0.4, 0.2])  # many mouths have no metal, some have much
    for tooth in mouth.teeth:
        position, luck, value = tooth.fdi % 10, rng.random(), metal * rng.uniform(0.8, 1.0)
        if position == 8:
            continue
        if tooth.place == "missing" and luck < 0.35 * level:
            tooth.place, tooth.cap, tooth.cap_value = "implant", CROWN, value
        elif tooth.place == "tooth" and luck < 0.05 * level:
            tooth.cap, tooth.cap_value = CROWN, value
        tooth.filling *= level > 0
    for quadrant in range(4):
        first, luck = int(rng.integers(3, 6)), rng.random()
        if luck < 0.12 * level:
            left, middle, right = mouth.teeth[8 * quadrant + first - 1 : 8 * quadrant + first + 2]
            if left.place == right.place == "tooth":
                middle.place = "pontic"
                for tooth in (left, middle, right):
                    tooth.cap, tooth.cap_value = BRIDGE, metal


def _take_shapes(rng, mouth: _Mouth, shapes: dict[int, list[ToothShape]]) -> None:
    """Give most teeth the form of a real one, in place: the same tooth of either side, or else one of its kind."""
    for tooth in mouth.teeth:
        takes, choice = rng.random() < 0.7, rng.random()
        # widths along the arch keep to the drawn ones, for neighbours touch; the canals make way for 1.05 of a root
        crown, root, distal, buccal = rng.uniform((0.95, 0.9, 0.97, 0.9), (1.05, 1.05, 1.03, 1.1))
        position, quadrants = tooth.fdi % 10, (1, 2) if tooth.jaw == "upper" else (3, 4)
        kind = next(k for k in ((1, 2), (3,), (4, 5), (6, 7, 8)) if position in k)
        for positions in ((position,), kind):
            real = [s for p in positions for q in quadrants for s in shapes.get(10 * q + p, [])]
            if real and takes:
                half = (distal * tooth.half[0], buccal * tooth.half[1])
                form = real[int(choice * len(real))]
                tooth.shape = form.stretched(crown * tooth.crown, root * tooth.root, half)
                break


def _smooth_line(points, count: int) -> np.ndarray:
    """A polyline (count, 3) that follows ``points`` (n, 3) with its corners rounded."""
    points = np.asarray(points, float)
    at = _arc_length(points) / _arc_length(points)[-1]
    fine = np.stack([np.interp(np.linspace(0, 1, count), at, p) for p in points.T], axis=1)
    return ndimage.gaussian_filter1d(fine, count / (2.5 * len(points)), axis=0, mode="nearest")


def _beside(line: np.ndarray, y: float, offset: float) -> np.ndarray:
    """The point (x, y) ``offset`` mm outside the jaw line where it reaches ``y``."""
    i = int(np.argmin(np.abs(line[:, 1] - y)).clip(1, len(line) - 2))
    tangent = line[i + 1] - line[i - 1]
    return line[i] + offset * np.array([tangent[1], -tangent[0]]) / np.linalg.norm(tangent)


def _draw_canals(rng, side: str, line: np.ndarray, teeth: list) -> list[_Canal]:
    """The inferior alveolar canal of one side and the incisive canal that continues it."""
    depth, bend = rng.normal(0, 1.2), rng.normal(0, 1.0, 6)
    mental = rng.uniform(13, 18)  # y of the mental foramen
    stops = [  # y, offset from the middle of the bone (buccal positive), height
        (66, -2.5, rng.uniform(0, 5)), (57, -1.5, -8), (47, -1.0, -17), (37, -0.5, -22.5), (27, 0.2, -24.5),
        (mental + 4, 1.2, -24), (mental, 3.0, -21.5), (mental + 1.5, 6.0, -19.5),
    ]  # fmt: skip
    points = []
    for i, (y, offset, z) in enumerate(stops):
        inner = 0 < i < 6
        x, y = _beside(line, y, offset + (0.6 * bend[i - 1] if inner else 0))
        points.append((SIDES[side] * x, y, z + (depth + 0.8 * bend[-i] if inner else depth)))
    path = _smooth_line(points, 28)
    radius = rng.uniform(1.35, 1.75)
    # the canal gives way to the roots above it, wherever it would meet them
    for tooth in teeth[3:]:
        apex = tooth.neck - 1.05 * tooth.root * tooth.axes[2]
        near = np.linalg.norm(path[:, :2] - apex[:2], axis=1) < tooth.half[0] + 3
        path[near, 2] = np.minimum(path[near, 2], apex[2] - radius - 0.3)
    path[:, 2] = np.minimum(path[:, 2], ndimage.gaussian_filter1d(path[:, 2], 2, mode="nearest"))
    contrast = rng.choice([0.15, 0.5, 0.9]) * np.ones(27)
    start = int(rng.integers(0, 20))
    contrast[start : start + 8] *= rng.uniform(0.05, 1.0)  # a stretch where the canal fades
    alveolar = _Canal(IAC[side], path, np.full(28, radius), contrast)
    x, y, z = path[-5]
    forward = [path[-5]] + [
        (SIDES[side] * _beside(line, f, 0.5)[0], _beside(line, f, 0.5)[1], z - 0.5 * k + rng.normal(0, 0.4))
        for k, f in enumerate((max(mental - 4, 8), 7.0, 4.9))
    ]
    incisive = _Canal(INCISIVE_CANAL[side], _smooth_line(forward, 10), np.linspace(0.9, 0.55, 10),
                      np.full(9, rng.uniform(0.3, 0.9)))  # fmt: skip
    return [alveolar, incisive]


def _draw_lingual_canal(rng, line: np.ndarray) -> _Canal:
    front, z = line[0, 1], rng.uniform(-26, -22)
    start, end = rng.normal(0, 0.5, 2)
    path = _smooth_line([(start, front + 5.5, z + 1.5), (0, front + 2.5, z), (end, front - 0.5, z - 1.5)], 6)
    return _Canal(LINGUAL_CANAL, path, np.linspace(0.75, 0.5, 6), np.full(5, rng.uniform(0.4, 0.9)))


# ---------------------------------------------------------------------------------------------------------------------
# The grid: where it lies in the patient, and painting on it.


class _Canvas:
    """Image and label maps on one grid, painted by implicit functions given in the patient frame."""

    pivot = np.array([0.0, 29.0, -5.5])  # the patient point in the middle of the field of view, before the shift

    def __init__(self, mouth: _Mouth, shape, spacing):
        self.shape, self.spacing = tuple(shape), np.array(spacing, float)
        self.image = np.full(self.shape, -1000, np.float32)
        self.labels = np.zeros(self.shape, np.uint8)
        self.stsr = np.zeros(self.shape, np.uint8)
        # patient = matrix @ index + offset, with index and patient both in (x, y, z) order
        centre = (np.array(self.shape[::-1]) - 1) / 2 * self.spacing[::-1] + mouth.shift
        inverse = mouth.rotation.T / mouth.scale
        self.matrix = inverse * self.spacing[::-1]
        self.offset = self.pivot - inverse @ centre
        # how far each coordinate (rows x, y, z) is pushed, in voxels, depending on the position along each axis
        self.bends = mouth.shape.get("bends")
        self.pixel = float(np.cbrt(self.spacing.prod())) / mouth.scale  # voxel edge in patient mm

    def box(self, points, margin: float):
        """Slices (z, y, x) of the grid around patient ``points`` (n, 3), or None when outside."""
        index = np.linalg.solve(self.matrix, (np.atleast_2d(points) - self.offset).T)
        reach = margin / np.linalg.norm(self.matrix, axis=0) + 1
        if self.bends is not None:
            reach = reach + np.abs(self.bends[..., 0]).sum(axis=1) / self.spacing[::-1]
        low = np.floor(index.min(axis=1) - reach)[::-1].astype(int)
        high = np.ceil(index.max(axis=1) + reach)[::-1].astype(int) + 1
        slices = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, self.shape, strict=True))
        return slices if all(s.start < s.stop for s in slices) else None

    def coordinates(self, slices, origin=(0, 0, 0), axes=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates of the voxels in ``slices`` along ``axes`` (rows) from ``origin``: three float32 arrays."""
        axes = np.eye(3) if axes is None else axes
        matrix, offset = axes @ self.matrix, axes @ (self.offset - origin)
        z, y, x = (np.arange(s.start, s.stop, dtype=np.float32) for s in slices)
        pushes = [self._pushed(n, along) for n, along in enumerate((x, y, z))]
        first, second, third = (
            (np.float32(m[2]) * z + np.float32(o) + m.astype(np.float32) @ pushes[2])[:, None, None]
            + (
                (np.float32(m[1]) * y + m.astype(np.float32) @ pushes[1])[:, None]
                + (np.float32(m[0]) * x + m.astype(np.float32) @ pushes[0])
            )
            for m, o in zip(matrix, offset, strict=True)
        )
        return first, second, third

    def _pushed(self, axis: int, index: np.ndarray) -> np.ndarray:
        """By how many voxels x, y and z are pushed at every index along one axis (x, y, z), (3, n)."""
        if self.bends is None:
            return np.zeros((3, len(index)), np.float32)
        amplitude, wavelength, phase = self.bends[:, axis].T[..., None]
        waves = amplitude * np.sin(2 * np.pi * index * self.spacing[2 - axis] / wavelength + phase)
        return (waves / self.spacing[::-1, None]).astype(np.float32)

    def paint(self, slices, distance, value, label=None, stsr=None, strength=1.0, only=None):
        """Cover the shape ``distance`` < 0 with ``value`` and label it; edge voxels are mixed by their coverage."""
        cover = np.clip(0.5 - distance / self.pixel, 0, 1)
        if only is not None:
            cover *= only
        cover *= strength
        image = self.image[slices]
        image += cover * (value - image)
        inside = distance < 0 if only is None else (distance < 0) & only
        if label is not None:
            self.labels[slices][inside] = label
        if stsr is not None:
            self.stsr[slices][inside] = stsr


class _Ground:
    """Maps over the patient's (x, y) plane, looked up by position: the jaws are thick lines seen from above."""

    low, high, fine = np.array([-64, -24]), np.array([64, 104]), 5  # mm, mm, cells per mm

    def __init__(self):
        self.x, self.y = (np.arange(a, b + 1, dtype=np.float32) for a, b in zip(self.low, self.high, strict=True))
        self.maps = {}

    def beside(self, line):
        """(offset, arc length) of every cell from an arch: offset in mm, positive outside the arch."""
        x, y = np.meshgrid(np.abs(self.x), self.y)
        distance, nearest = cKDTree(line).query(np.stack([x.ravel(), y.ravel()], axis=1))
        inside = np.interp(x, line[:, 0], line[:, 1], right=1e3) < y
        return np.where(inside, -1, 1) * distance.reshape(x.shape), _arc_length(line)[nearest].reshape(x.shape)

    def add(self, name, values):
        fine = values.astype(np.float32)
        part = (np.arange(self.fine, dtype=np.float32) / self.fine)[:, None]
        for _ in range(2):  # linear interpolation along one axis, then the other
            fine = (fine[:-1, None] + part * np.diff(fine, axis=0)[:, None]).reshape(-1, fine.shape[1]).T
        self.maps[name], self.width = fine.ravel(), fine.shape[1]

    def cells(self, x, y):
        column = np.clip((x - self.low[0]) * self.fine + 0.5, 0, self.width - 1).astype(np.int32)
        row = np.clip((y - self.low[1]) * self.fine + 0.5, 0, len(self.maps["upper"]) // self.width - 1)
        return row.astype(np.int32) * self.width + column

    def look(self, name, cells):
        return self.maps[name].take(cells)


def _survey(mouth: _Mouth) -> _Ground:
    """Draw the maps of the jaws: offsets from their lines, heights of their edges, half widths."""
    ground, shape = _Ground(), mouth.shape
    y = np.broadcast_to(ground.y[:, None], (len(ground.y), len(ground.x)))
    left = np.broadcast_to(ground.x > 0, y.shape)
    for jaw in ("upper", "lower"):
        offset, along = ground.beside(mouth.arches[jaw])
        crest, shear = np.zeros(y.shape), np.zeros(y.shape)
        for on_left in (True, False):
            quadrant = {"upper": (1, 2), "lower": (4, 3)}[jaw][on_left]
            teeth = [t for t in mouth.teeth if t.fdi // 10 == quadrant]
            edges = np.cumsum([2 * t.half[0] for t in teeth])
            necks = [abs(t.neck[2]) + shape["crest"] + (2.5 if t.place in ("missing", "pontic") else 0) for t in teeth]
            middles = edges - [t.half[0] for t in teeth]
            crest = np.where(left == on_left, np.interp(along, middles, necks), crest)
            shear = np.where(left == on_left, np.interp(along, middles, np.tan(np.deg2rad(LEAN[jaw]))), shear)
        ground.add(jaw, offset)
        ground.add(f"{jaw} crest", ndimage.gaussian_filter(crest, 1.5))
        ground.add(f"{jaw} shear", shear)
        ground.add(f"{jaw} half", np.interp(along, (0, 15, 30, 45), (4.6, 5.2, 5.8, 6.8)))
    offset, _ = ground.beside(mouth.arches["mandible"])
    edge = shape["lower edge"]
    ground.add("mandible", offset)
    ground.add("mandible top", np.interp(y, (40, 48, 54, 60, 72, 82), (-14, -8, 6, 24, 30, 45)))
    ground.add("mandible base", np.interp(y, (-30, 20, 55, 66, 76, 84), (edge, edge + 1, edge + 2, edge + 8, -8, 30)))
    ground.add("mandible half", np.interp(y, (0, 20, 40, 75), (6.2, 5.8, 6.0, 3.8)))
    ground.add("ramus", np.clip((y - 44) / 12, 0, 1))
    return ground


def _slab(lateral, half, z, low, high, rounding=2.5):
    """Distance to a thick curtain: ``|lateral| < half`` and ``low < z < high``, with rounded edges."""
    across = np.abs(lateral) - half + rounding
    along = np.abs(z - (low + high) / 2) - (high - low) / 2 + rounding
    outside = np.sqrt(np.square(np.maximum(across, 0)) + np.square(np.maximum(along, 0)))
    return outside + np.minimum(np.maximum(across, along), 0) - rounding


def _ellipsoid(x, y, z, centre, radii):
    x, y, z = ((v - c) / r for v, c, r in zip((x, y, z), centre, radii, strict=True))
    return (np.sqrt(x * x + y * y + z * z) - 1) * np.float32(min(radii))


def _smooth_min(a, b, width=2.0):
    blend = np.maximum(width - np.abs(a - b), 0)
    return np.minimum(a, b) - blend * blend / np.float32(4 * width)


def _paint_bone(canvas, mouth, slices, distance, label, cortex, xyz):
    """Cancellous bone with texture inside a cortical shell."""
    inside = distance < canvas.pixel
    if not inside.any():
        return
    texture = mouth.shape["texture"].astype(np.float32)
    cells = [(v[inside] * np.float32(1.4)).astype(np.int32) & 31 for v in xyz]
    value = np.full(distance.shape, mouth.grey["trabecular"], np.float32)
    value[inside] += np.float32(mouth.grey["texture"]) * texture[tuple(cells)]
    canvas.paint(slices, distance, value, label=label)
    canvas.paint(slices, np.maximum(distance, -distance - cortex), np.float32(mouth.grey["cortical"]))


def _paint_head(canvas: _Canvas, mouth: _Mouth) -> None:
    """Soft tissue, airways, jaws and sinuses, slab by slab so that temporaries stay small."""
    ground, shape, soft = _survey(mouth), mouth.shape, np.float32(mouth.grey["soft"])
    step = max(1, 1_000_000 // (canvas.shape[1] * canvas.shape[2]))
    for start in range(0, canvas.shape[0], step):
        stop = min(start + step, canvas.shape[0])
        slices = (slice(start, stop), slice(0, canvas.shape[1]), slice(0, canvas.shape[2]))
        x, y, z = canvas.coordinates(slices)
        cells = ground.cells(x, y)
        # lips and chin: the front of the face waves with height
        half, lips = shape["skin"]
        wave = np.float32(1.5) * np.cos(z * np.float32(2 * np.pi / 34)) + lips
        face = _ellipsoid(x, y + wave, z, (0, 80, 0), (half, 80, ENDLESS))
        canvas.paint(slices, face, soft)
        air = np.float32(mouth.grey["air"])
        upper, lower_z = ground.look("upper", cells), z + np.float32(mouth.bite)
        # a layer of fat under the skin, with the masseters in it
        jaw = ground.look("mandible", cells)
        fat = np.maximum(np.maximum(face + 2.5, -face - shape["fat"]), 9 - upper)
        masseter = _slab(jaw - 10, 6.0, y, 42, 74)
        canvas.paint(slices, np.maximum(fat, -masseter), soft + np.float32(mouth.grey["fat"]))

        # airways
        wide, deep, back = shape["pharynx"]
        centre = back + np.float32(2.0) * np.sin(z / 12)
        canvas.paint(slices, _ellipsoid(x, y - centre, z, (0, 0, 0), (wide, deep, ENDLESS)), air, label=PHARYNX)
        palate = np.float32(shape["palate"])
        if shape["mouth air"] > 0.5:
            vault = palate - 2.5 - np.maximum(upper + 16, 0) * np.float32(0.7)
            gap = _slab(z - vault + shape["mouth air"] / 2, shape["mouth air"] / 2, y, 12, 44, 1.0)
            canvas.paint(slices, np.maximum(gap, upper + 8), air)
        if shape["vestibule"]:
            half = np.float32(shape["vestibule"] / 2)
            gap = _slab(upper - 6.0 - half, half, z + np.float32(mouth.bite / 2), -13 - mouth.bite, 13, 1.0)
            canvas.paint(slices, np.maximum(gap, y - 50), air)
        if shape["bite block"]:
            middle = z + np.float32(mouth.bite / 2)
            block = _slab(np.abs(x), 16, middle, -shape["bite block"] / 2, shape["bite block"] / 2, 0.5)
            canvas.paint(slices, np.maximum(block, np.abs(y) - 14), np.float32(mouth.grey["block"]))
        nose = _slab(np.abs(x) - 7, 5.5, z, palate + 2, palate + 40)
        canvas.paint(slices, np.maximum(nose, np.abs(y - 34) - 30), air)
        turbinate = _ellipsoid(np.abs(x), y, z, (8, 36, palate + 9), (3.5, 24, 5.5))
        canvas.paint(slices, turbinate, soft)

        # upper jaw: alveolar process along the arch, palate, and the walls of the sinuses
        crest = ground.look("upper crest", cells)
        lean = upper + ground.look("upper shear", cells) * np.clip(z, 0, palate)
        half = ground.look("upper half", cells) * np.clip(1 - (z - palate - 3) / 12, 0.3, 1)
        bone = _slab(lean, half, z, crest, palate + 30)
        bone = -_smooth_min(-bone, 50 - y, 8.0)
        plate = np.maximum(np.abs(z - palate) - np.float32(1.4), np.maximum(upper + 3, y - 46))
        bone = _smooth_min(bone, plate, 6.0)
        sinuses = {}
        for side, (centre, wide, deep, tall, floor) in shape["sinus"].items():
            sinuses[side] = _ellipsoid(x, y, z, (centre[0], centre[1], floor + tall), (wide, deep, tall))
            bone = np.minimum(bone, sinuses[side] - np.float32(1.3))
        _paint_bone(canvas, mouth, slices, bone, MAXILLA, 0.6 * shape["cortex"], (x, y, z))
        for side, distance in sinuses.items():
            value = soft if shape["opaque sinus"][side] else air
            canvas.paint(slices, distance, value, label=SINUS[side])

        # lower jaw: alveolar process under the teeth on a wider body that rises into the ramus
        crest = -ground.look("lower crest", cells)
        lateral = ground.look("lower", cells) - ground.look("lower shear", cells) * np.clip(lower_z, -22, 0)
        ramus = ground.look("ramus", cells)
        edge = np.float32(shape["lower edge"])
        alveolar = _slab(lateral, ground.look("lower half", cells) - 0.6, lower_z, edge + 8, crest)
        alveolar += 12 * ramus
        body = _slab(jaw, ground.look("mandible half", cells), lower_z,
                     ground.look("mandible base", cells), ground.look("mandible top", cells))  # fmt: skip
        bone = _smooth_min(alveolar, body, 6.0)
        _paint_bone(canvas, mouth, slices, bone, MANDIBLE, shape["cortex"], (x, y, lower_z))

        spine = _ellipsoid(x, y, z, (0, 92, 0), (13, 9, ENDLESS))
        canvas.paint(slices, spine, np.float32(mouth.grey["trabecular"]))


def _tube(x, y, z, points, radii):
    """Distance to a tapered tube along a polyline, and the number of the nearest segment."""
    best, nearest = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, np.int16)
    for i, (a, b) in enumerate(pairwise(points)):
        a, d = a.astype(np.float32), (b - a).astype(np.float32)
        t = np.clip(((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / max(float(d @ d), 1e-6), 0, 1)
        gap = np.square(x - a[0] - t * d[0]) + np.square(y - a[1] - t * d[1]) + np.square(z - a[2] - t * d[2])
        distance = np.sqrt(gap) - (np.float32(radii[i]) + t * np.float32(radii[i + 1] - radii[i]))
        closer = distance < best
        best[closer], nearest[closer] = distance[closer], i
    return best, nearest


def _paint_canal(canvas: _Canvas, mouth: _Mouth, canal: _Canal) -> None:
    """A nerve canal: dark lumen, thin bright wall, each as visible as its segment's contrast."""
    points = canal.points - [0, 0, mouth.bite]
    # short pieces keep the boxes, and so the work, small
    for i in range(0, len(points) - 1, 4):
        piece = slice(i, min(i + 5, len(points)))
        slices = canvas.box(points[piece], canal.radii.max() + 1.5)
        if slices is None:
            continue
        distance, nearest = _tube(*canvas.coordinates(slices), points[piece], canal.radii[piece])
        contrast = canal.contrast[piece][: len(points[piece]) - 1].astype(np.float32)[nearest]
        bone = canvas.labels[slices] == MANDIBLE
        canvas.paint(slices, np.maximum(distance - 0.5, -distance), np.float32(mouth.grey["cortical"] * 0.8),
                     strength=0.5 * contrast, only=bone)  # fmt: skip
        bone |= canvas.labels[slices] == canal.label  # the piece before reaches into this box
        canvas.paint(slices, distance, np.float32(mouth.grey["canal"]), label=canal.label, strength=contrast, only=bone)


# ---------------------------------------------------------------------------------------------------------------------
# Teeth, in their own frame: a distal, b buccal, c towards the tip with c = 0 at the neck.


def _profile(t, values):
    """Linear interpolation of equally spaced ``values`` over t in [0, 1]."""
    table = np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(values)), values).astype(np.float32)
    return table.take(np.clip(t * 255, 0, 255).astype(np.int16))


def _crown_distance(tooth: _Tooth, a, b, c, trunk=0.0):
    """Distance to the crown, prolonged below the neck by ``trunk`` mm where the roots are still one."""
    along = c / np.float32(tooth.crown)
    half_a, half_b = (_profile(along, p) * np.float32(h) for p, h in
                      zip(CROWN_PROFILES[tooth.kind], tooth.half, strict=True))  # fmt: skip
    square_a, square_b = np.square(a / half_a), np.square(b / half_b)
    if tooth.kind == "posterior":  # boxier outline, and a fossa between the cusps
        radius = np.sqrt(np.sqrt(square_a * square_a + square_b * square_b + 0.6 * square_a * square_b))
        top = tooth.crown - np.float32(1.3) * np.maximum(1 - np.sqrt(square_a + square_b), 0)
    else:
        radius, top = np.sqrt(square_a + square_b), np.float32(tooth.crown)
    return np.maximum((radius - 1) * np.minimum(half_a, half_b), np.maximum(c - top, -np.float32(trunk) - c))


def _root_line(tooth: _Tooth, root, t):
    """Centre (a, b) of a root at depth fraction t, bending distally."""
    neck, apex = root[:2]
    return [
        np.float32(h) * (np.float32(n) + np.float32(e - n) * t) + np.float32(bow) * t * t
        for h, n, e, bow in zip(tooth.half, neck, apex, (tooth.bow, 0), strict=True)
    ]


def _root_distance(tooth: _Tooth, root, a, b, c):
    length = np.float32(tooth.root * root[3])
    t = np.clip(-c / length, 0, 1)
    taper = _profile(t, (1.0, 0.95, 0.86, 0.74, 0.58, 0.28))
    centre_a, centre_b = _root_line(tooth, root, t)
    half_a, half_b = (np.float32(w * h) * taper for w, h in zip(root[2], tooth.half, strict=True))
    radius = np.sqrt(np.square((a - centre_a) / half_a) + np.square((b - centre_b) / half_b))
    return np.maximum((radius - 1) * np.minimum(half_a, half_b), np.maximum(-length - c, c - 1))


def _canal_lines(tooth: _Tooth, c):
    """Of every root canal the centre (a, b) and the half width at the height c, its length and its STSR class."""
    many = _is_molar(tooth)
    for number, root in enumerate(tooth.roots):
        length = np.float32(tooth.root * root[3] - 0.8)
        t = np.clip(-c / length, 0, 1)
        centre_a, centre_b = _root_line(tooth, root, t)
        width = (np.float32(0.55) if many else np.float32(0.75)) - np.float32(0.3) * t
        split = tooth.jaw == "lower" and many and number == 0 and tooth.third_canal
        for sign in (1, -1) if split else (0,):
            offset = np.float32(sign * 0.35 * tooth.half[1]) * (1 - 0.4 * t)
            canal_class = 8 if sign == -1 and root[4] != 12 else root[4]
            yield centre_a, centre_b + offset, width, length, canal_class


def _is_molar(tooth: _Tooth) -> bool:
    return len(tooth.roots) > 1 and tooth.fdi % 10 > 5


def _pulp_shapes(tooth: _Tooth, a, b, c):
    """(distance, STSR class) of the pulp chamber and of every root canal."""
    if tooth.shape is not None:
        return _real_pulp_shapes(tooth, tooth.shape.core(a, b, c), a, b, c)
    spread = (0.42, 0.42, 0.24) if _is_molar(tooth) else (0.24, 0.26, 0.42)
    radii = (spread[0] * tooth.half[0], spread[1] * tooth.half[1], spread[2] * tooth.crown)
    canals = []
    for centre_a, centre_b, width, length, canal_class in _canal_lines(tooth, c):
        distance = np.sqrt(np.square(a - centre_a) + np.square(b - centre_b)) - width
        canals.append((np.maximum(distance, np.maximum(-length - c, c - 1)), canal_class))
    return [*canals, (_ellipsoid(a, b, c, (0, 0, 0.08 * tooth.crown), radii), 2)]


def _real_pulp_shapes(tooth: _Tooth, core, a, b, c):
    """The same for the pulp of a real form: the parametric canals only tell which class each part of it has."""
    floor = np.float32(-0.2 * tooth.crown)
    lines = list(_canal_lines(tooth, c))
    gaps = np.stack([np.square(a - line[0]) + np.square(b - line[1]) for line in lines])
    nearest, canals = gaps.argmin(axis=0), np.maximum(core, c - floor)
    shapes = [(np.where(nearest == n, canals, np.float32(1)), line[-1]) for n, line in enumerate(lines)]
    return [*shapes, (np.maximum(core, floor - c), 2)]


def _paint_tooth(canvas: _Canvas, mouth: _Mouth, tooth: _Tooth):
    """One tooth, implant or pontic with its restoration; returns the centre of its metal or None."""
    if tooth.place == "missing":
        return None
    grey, neck = mouth.grey, tooth.neck - [0, 0, mouth.bite if tooth.jaw == "lower" else 0]
    ends = neck + np.outer((tooth.crown, -1.05 * tooth.root), tooth.axes[2])
    slices = canvas.box(ends, 1.3 * max(tooth.half) + 1.5)
    if slices is None:
        return None
    a, b, c = canvas.coordinates(slices, neck, tooth.axes)
    crown = _crown_distance(tooth, a, b, c, 0.25 * tooth.root if len(tooth.roots) > 1 else 0.0)
    metal = np.float32(tooth.cap_value)
    if tooth.place == "tooth":
        if tooth.shape is None:
            roots = np.minimum.reduce([_root_distance(tooth, r, a, b, c) for r in tooth.roots])
            body = _smooth_min(crown, roots, 0.8)
        else:
            body = crown = tooth.shape.distance(a, b, c)
        bone = canvas.labels[slices] == (MAXILLA if tooth.jaw == "upper" else MANDIBLE)
        canvas.paint(slices, body - 0.3, np.float32(200), strength=0.5, only=bone)  # periodontal ligament
        canvas.paint(slices, body, np.float32(grey["dentine"] * tooth.brightness), label=tooth.fdi, stsr=1)
        own = canvas.labels[slices] == tooth.fdi
        rim = np.clip(c / 2.5, 0, 1) * np.float32(tooth.enamel)
        canvas.paint(slices, np.maximum(-body - rim, 0.5 - c), np.float32(grey["enamel"] * tooth.brightness), only=own)
        if tooth.filling > 0 and tooth.kind == "posterior":
            hole = _ellipsoid(a, b, c, (0, 0, tooth.crown - 0.5), (1.2 * tooth.filling, tooth.filling, 2.2))
            canvas.paint(slices, hole, np.float32(grey["metal"] * 0.7), only=own)
        for distance, canal_class in _pulp_shapes(tooth, a, b, c):
            value = 3000 if tooth.treated and canal_class != 2 else grey["pulp"]
            mine = own | (canvas.labels[slices] == tooth.fdi + 100)
            canvas.paint(slices, distance, np.float32(value), label=tooth.fdi + 100, stsr=canal_class, only=mine)
    elif tooth.place == "implant":
        thread = 2.0 + 0.2 * np.sin(c * np.float32(2 * np.pi / 0.9))
        screw = np.maximum(np.sqrt(a * a + b * b) - thread, np.maximum(c - 1.0, -0.85 * tooth.root - c))
        canvas.paint(slices, screw, metal, label=IMPLANT, stsr=0)
    if tooth.cap:
        cap = np.maximum(crown - 0.2, 0.3 * tooth.crown - c)
        canvas.paint(slices, cap, metal, label=tooth.cap, stsr=int(tooth.place == "tooth"))
    if tooth.cap or tooth.filling:
        return neck + 0.6 * tooth.crown * tooth.axes[2]
    return None


def _paint_connectors(canvas: _Canvas, mouth: _Mouth) -> None:
    """The bars that join the three units of a bridge."""
    for one, two in pairwise(mouth.teeth):
        if one.cap == two.cap == BRIDGE and one.fdi // 10 == two.fdi // 10:
            down = [0, 0, mouth.bite if one.jaw == "lower" else 0]
            ends = np.stack([t.neck + 0.6 * t.crown * t.axes[2] - down for t in (one, two)])
            slices = canvas.box(ends, 3.5)
            if slices is not None:
                distance, _ = _tube(*canvas.coordinates(slices), ends, (2.2, 2.2))
                stsr_free = canvas.stsr[slices] == 0
                canvas.paint(slices, distance, np.float32(one.cap_value), label=BRIDGE, only=stsr_free)


def _add_streaks(canvas: _Canvas, mouth: _Mouth, centre, number: int) -> None:
    """Bright and dark rays in the axial slices through a piece of metal."""
    x, y, z = np.linalg.solve(canvas.matrix, centre - canvas.offset)
    rows = (np.arange(canvas.shape[1], dtype=np.float32)[:, None] - y) * canvas.spacing[1]
    columns = (np.arange(canvas.shape[2], dtype=np.float32) - x) * canvas.spacing[2]
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    waves = mouth.grey["streaks"][number % 32]
    turns = np.linspace(-np.pi, np.pi, 720)
    order = np.arange(1, waves.shape[1] + 1)
    rays = (np.cos(np.outer(turns, order)) @ waves[0] + np.sin(np.outer(turns, order)) @ waves[1]) / len(order) ** 0.5
    rays = np.sign(rays) * np.maximum(np.abs(rays) - 0.5, 0)
    pattern = rays.astype(np.float32)[((angle + np.pi) * (719 / (2 * np.pi))).astype(np.int32)]
    pattern *= np.exp(-radius / 22) * np.clip(radius / 3, 0, 1) * mouth.grey["streak"]
    for k in range(max(0, int(z - 5 / canvas.spacing[0])), min(canvas.shape[0], int(z + 5 / canvas.spacing[0]) + 1)):
        away = (k - z) * canvas.spacing[0]
        canvas.image[k] += pattern * np.float32(np.exp(-((away / 2.5) ** 2)))


# ---------------------------------------------------------------------------------------------------------------------
# Public functions.


def make_phantom(
    seed: int,
    shape=(170, 272, 345),
    spacing=(0.3, 0.3, 0.3),
    canal_contrast: float = 1.0,
    randomised: bool = False,
    tooth_shapes: dict[int, list[ToothShape]] | None = None,
) -> Phantom:
    """Make the synthetic scan of one seed on a grid.

    ``shape`` voxels and ``spacing`` mm, both (z, y, x). The same arguments give the same bytes; the same seed on
    another grid gives the same mouth. ``canal_contrast``, from 0 to 1, dims the alveolar canals in the image and leaves
    their labels: at 0 only clicks and the anatomy around tell where they run. ValueError if the shape or spacing is not
    three positive numbers, or the contrast out of range.

    ``randomised`` is for training networks that work on scans of any scanner: anatomy from wider ranges, bent as a
    whole, and every grey value drawn at random. ``tooth_shapes``, what `tooth_shapes.read_tooth_shapes`
    returns, gives most teeth the form of a real one at about their sizes.
    """
    shape, spacing = tuple(shape), tuple(float(s) for s in spacing)
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"shape is {shape}, expected three positive whole numbers (z, y, x)")
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing is {spacing}, expected three positive numbers in mm (z, y, x)")
    if not 0 <= canal_contrast <= 1:
        raise ValueError(f"canal_contrast is {canal_contrast}, expected a number from 0 to 1")
    mouth = _draw_mouth(seed, randomised)
    if tooth_shapes:
        _take_shapes(np.random.default_rng([seed, 3]), mouth, tooth_shapes)
    for canal in mouth.canals:
        if canal.label in IAC.values():
            canal.contrast *= canal_contrast
    canvas = _Canvas(mouth, shape, spacing)
    _paint_head(canvas, mouth)
    for canal in mouth.canals:
        _paint_canal(canvas, mouth, canal)
    metal = [_paint_tooth(canvas, mouth, tooth) for tooth in mouth.teeth]
    _paint_connectors(canvas, mouth)
    for number, centre in enumerate(metal):
        if centre is not None:
            _add_streaks(canvas, mouth, centre, number)
    image = expose(canvas.image, canvas.spacing, mouth.grey, np.random.default_rng([seed, 1]))
    rng = np.random.default_rng([seed, 2])
    clicks = tuple(
        (f"{side.title()}_IAC", click) for side in SIDES for click in simulate_clicks(canvas.labels == IAC[side], rng)
    )
    return Phantom(image, canvas.labels, canvas.stsr, spacing, clicks)


def write_phantoms(folder, count: int, seed: int, shape=(170, 272, 345), spacing=(0.3, 0.3, 0.3)) -> list[str]:
    """Write ``count`` phantoms, seeds ``seed`` onwards, in ToothFairy3's training layout and return their case names.

    Writes ``images/<case>.mha``, ``labels/<case>.mha``, ``stsr/<case>_Mask.mha`` and, for n = 0..5,
    ``clicks/iac_clicks_<case>_<n>.json`` with the first n clicks of each side; case is ``phantom_<seed>``. Points are
    voxels in array order (z, y, x). ValueError if ``count`` is negative, and as `make_phantom`.
    """
    import SimpleITK as sitk  # only this function needs it

    if count < 0:
        raise ValueError(f"count is {count}, expected zero or more")
    folder = Path(folder)
    for name in ("images", "labels", "stsr", "clicks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cases = []
    for number in range(seed, seed + count):
        case, phantom = f"phantom_{number:04d}", make_phantom(number, shape, spacing)
        arrays = {
            f"images/{case}.mha": phantom.image,
            f"labels/{case}.mha": phantom.labels,
            f"stsr/{case}_Mask.mha": phantom.stsr_labels,
        }
        for name, array in arrays.items():
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(phantom.spacing[::-1])
            sitk.WriteImage(image, str(folder / name), useCompression=True)
        for n in range(6):
            left, right = ([c for c in phantom.clicks if c[0].startswith(side)][:n] for side in ("Left", "Right"))
            (folder / "clicks" / f"iac_clicks_{case}_{n}.json").write_text(click_json(left + right))
        cases.append(case)
    return cases
