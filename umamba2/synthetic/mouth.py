"""The mouth of a seed: what is where, in millimetres, before any grid exists.

The patient frame: x grows to the patient's left, y to the back, z upwards; the origin lies between the central incisors
on the biting plane.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from umamba2.synthetic.appearance import draw_greys
from umamba2.synthetic.textbook import LEAN, ROOTS, TOOTH_SIZES, Array, Root

if TYPE_CHECKING:
    from umamba2.synthetic.tooth_shapes import ToothShape

SIDES = {"left": 1.0, "right": -1.0}  # sign of x
WIDER = 1.5  # how much wider the ranges of a randomised phantom's anatomy are


class Filling(NamedTuple):
    """What a dentist has put into a crown."""

    value: float  # grey value
    # the lowest and highest corner of every box of it (a, b, c), as shares of the crown's half widths and height
    blocks: list[tuple[tuple[float, float, float], tuple[float, float, float]]]


@dataclass
class Tooth:
    """One place in the arch and what is there. In a tooth's own frame, a grows to the back of the arch (distal), b to
    the cheek (buccal) and c to the tip; the origin is the middle of the neck."""

    quadrant: int  # upper right (1), upper left, lower left, lower right (4)
    position: int  # central incisor (1) to wisdom tooth (8)
    jaw: str  # upper or lower
    kind: str  # incisor, canine or posterior
    roots: list[Root]
    third_canal: bool
    crown: float  # height, mm
    root: float  # length, mm
    half: tuple[float, float]  # half widths distal, buccal, mm
    neck: Array  # patient position (x, y, z) of its middle, jaws closed
    axes: Array  # rows: a, b and c in the patient frame
    bow: float  # sideways bend of the roots, mm
    enamel: float  # thickness, mm
    place: str = "tooth"  # tooth, missing, implant or pontic
    cap: str = ""  # "crown" or "bridge" over it
    cap_value: float = 0.0  # its grey value
    filling: float = 0.0  # radius of an amalgam filling, mm
    treated: bool = False  # canals filled with bright material
    brightness: float = 1.0  # of its dentine and enamel
    shape: ToothShape | None = None  # the form of a real tooth, at this one's sizes
    fillings: list[Filling] = field(default_factory=list)  # beside the one of amalgam
    treatment: float = 3000.0  # grey value of filled canals
    streak: float = 1.0  # strength of the streaks of its metal
    thin: float = 0.0  # how far its roots taper to thin apices, 0-1
    rest: tuple[float, float, float] | None = None  # left without a crown: what is below c = first + second a + third b

    @property
    def has_crown(self) -> bool:
        """Whether anything of it shows in the mouth."""
        return bool(self.cap) or (self.place == "tooth" and self.rest is None)

    @property
    def fdi(self) -> int:
        """Its FDI number."""
        return 10 * self.quadrant + self.position


@dataclass
class Canal:
    """A nerve canal of the lower jaw, a polyline with jaws closed, whose radius changes along it."""

    name: str  # in the table of anatomy
    points: Array  # (n, 3) patient frame
    radii: Array  # (n,), mm
    contrast: Array  # (n - 1,) visibility 0-1 of each segment


@dataclass
class Mouth:
    """Everything that a seed decides, but for the noise."""

    rotation: Array  # of the head in the scanner, (3, 3)
    scale: float  # scanner mm for one mm of the patient frame
    shift: Array  # mm (x, y, z) of the scanner
    bite: float  # opening between the jaws, mm
    arches: dict[str, Array]  # lines of the upper and lower teeth and of the mandible
    shape: dict[str, Any]  # sizes and positions of the large structures
    grey: dict[str, Any]  # grey values and image quality
    teeth: list[Tooth] = field(default_factory=list)
    canals: list[Canal] = field(default_factory=list)

    def neck(self, tooth: Tooth) -> Array:
        """Where the neck of a tooth is with the mouth open, (x, y, z)."""
        neck: Array = tooth.neck - [0, 0, self.bite if tooth.jaw == "lower" else 0]
        return neck


def _arch(width: float, power: float, front: float, flare: float) -> Array:
    """Right half of a dental arch as points (n, 2) from the midline to the back, x positive.

    ``width`` is the half width 30 mm behind the front; ``flare`` spreads the line towards the back.
    """
    x = np.linspace(0, 48, 600)
    y = front + 30 * (x / width) ** power
    spread = np.maximum(y - 25, 0)
    x = x + flare * np.where(spread < 20, spread**2 / 40, spread - 10)
    return np.stack([x, y], axis=1)[y < 110]


def _arc_length(line: Array) -> Array:
    return np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])


class _Draw:
    """Random numbers whose ranges are ``width`` times as wide as asked for, about the same middle."""

    def __init__(self, seed: int, width: float):
        self._rng = rng = np.random.default_rng([seed, 0])
        self.random, self.choice, self.integers = rng.random, rng.choice, rng.integers
        self._extra = width - 1

    def uniform(self, low: float, high: float) -> float:
        spread = self._extra * (high - low) / 2
        return self._rng.uniform(low - spread, high + spread)

    def normal(self, mean: float = 0.0, deviation: npt.ArrayLike = 1.0, size: Any = None) -> Any:
        return self._rng.normal(mean, np.multiply(deviation, 1 + self._extra), size)


def draw_mouth(seed: int, randomised: bool = False, tooth_shapes: dict[int, list[ToothShape]] | None = None) -> Mouth:
    """Draw the anatomy, the grey values and the scanner of a seed.

    Args:
        seed: Not negative; the same seed gives the same mouth.
        randomised: Anatomy from wider ranges, bent as a whole, and every grey value at random.
        tooth_shapes: Forms of real teeth by FDI number, for most of the teeth to take.
    """
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
        "sinus": {side: (sign * uniform(23, 26), uniform(34, 40), uniform(9, 12), uniform(13, 17), uniform(15, 20),
                         uniform(13.5, 18)) for side, sign in SIDES.items()},
        "opaque sinus": {s: rng.random() < 0.15 for s in SIDES},
        "pharynx": (uniform(9, 14), uniform(5, 9), uniform(60, 66)),
        "mouth air": uniform(0, 5) * (rng.random() < 0.5),
        "vestibule": 0.0,  # air between cheeks and teeth, mm
        "bite block": 0.0,  # something held between the front teeth, mm
        "fat": uniform(5, 14),
        "skin": (uniform(58, 68), uniform(9, 12)),
        # waves in mm that bend the whole head: pushed axis, axis along which, (amplitude, wavelength, phase)
        "bends": np.tile((0.0, 1.0, 0.0), (3, 3, 1)),
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
    mouth = Mouth(rotation, uniform(0.9, 1.1), np.array([normal(0, 2), uniform(-3, 3), uniform(-2.5, 2.5)]),
                   max(0.0, uniform(-2.0, 3.0)), arches, shape, grey)  # fmt: skip
    mouth.teeth = [t for quadrant in (1, 2, 3, 4) for t in _draw_quadrant(rng, quadrant, arches)]
    _draw_restorations(rng, mouth)
    for side in SIDES:
        teeth = [t for t in mouth.teeth if t.quadrant == (3 if side == "left" else 4)]
        mouth.canals += _draw_canals(rng, side, arches["mandible"], teeth)
    mouth.canals.append(_draw_lingual_canal(rng, arches["mandible"]))
    if randomised:
        _randomise(np.random.default_rng([seed, 4]), mouth)
    if tooth_shapes:
        _take_shapes(np.random.default_rng([seed, 3]), mouth, tooth_shapes)
    return mouth


def _randomise(rng: np.random.Generator, mouth: Mouth) -> None:
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


def _draw_quadrant(rng: _Draw, quadrant: int, arches: dict[str, Array]) -> list[Tooth]:
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
            roots = [root._replace(canal="wisdom tooth") for root in roots]
        along = reached + distal / 2
        reached += distal - 0.15  # neighbours overlap a little at their contact
        here, ahead = (np.array([np.interp(at, length, axis) for axis in line.T]) for at in (along, along + 1))
        turn, lean, tip = np.deg2rad(rng.normal(0, (4, 2.5, 3)))
        lean += np.deg2rad(LEAN[jaw][position - 1])
        if position == 8:
            tip += np.deg2rad(-up * rng.uniform(0, 25) * (rng.random() < 0.4))
        forward = (ahead - here) / np.linalg.norm(ahead - here)
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
        teeth.append(Tooth(
            quadrant, position, jaw, kind, roots, third_canal=rng.random() < 0.6,
            crown=crown, root=0.94 * root, half=(distal / 2, buccal / 2), neck=tip_point - crown * axis,
            axes=np.stack([distal_axis, buccal_axis, axis]), bow=rng.normal(0.5, 0.5), enamel=rng.uniform(0.9, 1.3),
            place="missing" if missing else "tooth", filling=rng.uniform(1, 2.2) * (rng.random() < 0.1),
            treated=rng.random() < 0.04,
        ))  # fmt: skip
    return teeth


def _draw_restorations(rng: _Draw, mouth: Mouth) -> None:
    """Turn some teeth into crowns, implants and three-unit bridges, in place."""
    metal = mouth.grey["metal"]
    level = rng.choice([0.0, 0.6, 2.0], p=[0.4, 0.4, 0.2])  # many mouths have no metal, some have much
    for tooth in mouth.teeth:
        luck, value = rng.random(), metal * rng.uniform(0.8, 1.0)
        if tooth.position == 8:
            continue
        if tooth.place == "missing" and luck < 0.35 * level:
            tooth.place, tooth.cap, tooth.cap_value = "implant", "crown", value
        elif tooth.place == "tooth" and luck < 0.05 * level:
            tooth.cap, tooth.cap_value = "crown", value
        tooth.filling *= level > 0
    for quadrant in range(4):
        first, luck = int(rng.integers(3, 6)), rng.random()
        if luck < 0.12 * level:
            left, middle, right = mouth.teeth[8 * quadrant + first - 1 : 8 * quadrant + first + 2]
            if left.place == right.place == "tooth":
                middle.place = "pontic"
                for tooth in (left, middle, right):
                    tooth.cap, tooth.cap_value = "bridge", metal


def _take_shapes(rng: np.random.Generator, mouth: Mouth, shapes: dict[int, list[ToothShape]]) -> None:
    """Give most teeth the form of a real one, in place: the same tooth of either side, or else one of its kind."""
    for tooth in mouth.teeth:
        takes, choice = rng.random() < 0.7, rng.random()
        # widths along the arch keep to the drawn ones, for neighbours touch; the canals make way for 1.05 of a root
        crown, root, distal, buccal = rng.uniform((0.95, 0.9, 0.97, 0.9), (1.05, 1.05, 1.03, 1.1))
        quadrants = (1, 2) if tooth.jaw == "upper" else (3, 4)
        kind = next(k for k in ((1, 2), (3,), (4, 5), (6, 7, 8)) if tooth.position in k)
        for positions in ((tooth.position,), kind):
            real = [s for p in positions for q in quadrants for s in shapes.get(10 * q + p, [])]
            if real and takes:
                half = (distal * tooth.half[0], buccal * tooth.half[1])
                form = real[int(choice * len(real))]
                tooth.shape = form.stretched(crown * tooth.crown, root * tooth.root, half)
                break


def _smooth_line(points: npt.ArrayLike, count: int) -> Array:
    """A polyline (count, 3) that follows ``points`` (n, 3) with its corners rounded."""
    corners = np.asarray(points, float)
    at = _arc_length(corners) / _arc_length(corners)[-1]
    fine = np.stack([np.interp(np.linspace(0, 1, count), at, p) for p in corners.T], axis=1)
    smooth: Array = ndimage.gaussian_filter1d(fine, count / (2.5 * len(corners)), axis=0, mode="nearest")
    return smooth


def _beside(line: Array, y: float, offset: float) -> Array:
    """The point (x, y) ``offset`` mm outside the jaw line where it reaches ``y``."""
    i = int(np.argmin(np.abs(line[:, 1] - y)).clip(1, len(line) - 2))
    tangent = line[i + 1] - line[i - 1]
    point: Array = line[i] + offset * np.array([tangent[1], -tangent[0]]) / np.linalg.norm(tangent)
    return point


def _draw_canals(rng: _Draw, side: str, line: Array, teeth: list[Tooth]) -> list[Canal]:
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
    alveolar = Canal(f"{side} inferior alveolar canal", path, np.full(28, radius), contrast)
    x, y, z = path[-5]
    forward = [path[-5]] + [
        (SIDES[side] * _beside(line, f, 0.5)[0], _beside(line, f, 0.5)[1], z - 0.5 * k + rng.normal(0, 0.4))
        for k, f in enumerate((max(mental - 4, 8), 7.0, 4.9))
    ]
    incisive = Canal(f"{side} mandibular incisive canal", _smooth_line(forward, 10), np.linspace(0.9, 0.55, 10),
                     np.full(9, rng.uniform(0.3, 0.9)))  # fmt: skip
    return [alveolar, incisive]


def _draw_lingual_canal(rng: _Draw, line: Array) -> Canal:
    front, z = line[0, 1], rng.uniform(-26, -22)
    start, end = rng.normal(0, 0.5, 2)
    path = _smooth_line([(start, front + 5.5, z + 1.5), (0, front + 2.5, z), (end, front - 0.5, z - 1.5)], 6)
    return Canal("lingual canal", path, np.linspace(0.75, 0.5, 6), np.full(5, rng.uniform(0.4, 0.9)))


# The maps of the jaws, thick lines seen from above: one value for each mm of the patient's (x, y) plane when drawn, and
# _FINE times as many along both axes to look up.
_X, _Y = np.arange(-64, 65, dtype=np.float32), np.arange(-24, 105, dtype=np.float32)
_FINE = 5


def map_cells(x: Array, y: Array) -> npt.NDArray[np.int32]:
    """Where the maps of the jaws, as `map_jaws` returns them, hold the values for patient positions."""
    rows, columns = (_FINE * (len(axis) - 1) for axis in (_Y, _X))
    cells: npt.NDArray[np.int32] = np.clip((y.astype(float) - _Y[0]) * _FINE + 0.5, 0, rows - 1).astype(np.int32)
    cells *= columns
    cells += np.clip((x.astype(float) - _X[0]) * _FINE + 0.5, 0, columns - 1).astype(np.int32)
    return cells


def map_jaws(mouth: Mouth) -> dict[str, Array]:
    """The maps of the jaws by name: offsets from their lines, heights of their edges, half widths, all in mm."""
    y, left = np.broadcast_to(_Y[:, None], (len(_Y), len(_X))), _X > 0
    maps: dict[str, Array] = {}
    for jaw, quadrants in (("upper", (1, 2)), ("lower", (4, 3))):
        offset, along = _offsets(mouth.arches[jaw])
        crests, shears = [], []
        for teeth in ([t for t in mouth.teeth if t.quadrant == quadrant] for quadrant in quadrants):
            middles = np.cumsum([2 * t.half[0] for t in teeth]) - [t.half[0] for t in teeth]
            gaps = [2.5 if t.place in ("missing", "pontic") else 0 for t in teeth]
            necks = [abs(t.neck[2]) + mouth.shape["crest"] + gap for t, gap in zip(teeth, gaps, strict=True)]
            crests.append(np.interp(along, middles, necks))
            shears.append(np.interp(along, middles, np.tan(np.deg2rad(LEAN[jaw]))))
        maps[jaw] = offset
        maps[f"{jaw} crest"] = ndimage.gaussian_filter(np.where(left, *crests[::-1]), 1.5)
        maps[f"{jaw} shear"] = np.where(left, *shears[::-1])
        maps[f"{jaw} half"] = np.interp(along, (0, 15, 30, 45), (4.6, 5.2, 5.8, 6.8))
    edge = mouth.shape["lower edge"]
    maps["mandible"], _ = _offsets(mouth.arches["mandible"])
    maps["mandible top"] = np.interp(y, (40, 48, 54, 60, 72, 82), (-14, -8, 6, 24, 30, 45))
    maps["mandible base"] = np.interp(y, (-30, 20, 55, 66, 76, 84), (edge, edge + 1, edge + 2, edge + 8, -8, 30))
    maps["mandible half"] = np.interp(y, (0, 20, 40, 75), (6.2, 5.8, 6.0, 3.8))
    maps["ramus"] = np.clip((y - 44) / 12, 0, 1)
    part = (np.arange(_FINE, dtype=np.float32) / _FINE)[:, None]
    for name, values in maps.items():
        fine = values.astype(np.float32)
        for _ in range(2):  # linear interpolation along one axis, then the other
            fine = (fine[:-1, None] + part * np.diff(fine, axis=0)[:, None]).reshape(-1, fine.shape[1]).T
        maps[name] = fine.ravel()
    return maps


def _offsets(line: Array) -> tuple[Array, Array]:
    """Of every point of a map the distance from an arch in mm, positive outside, and the arc length up to there."""
    x, y = np.meshgrid(np.abs(_X), _Y)
    distance, nearest = cKDTree(line).query(np.stack([x.ravel(), y.ravel()], axis=1))
    inside = np.interp(x, line[:, 0], line[:, 1], right=1e3) < y
    return np.where(inside, -1, 1) * distance.reshape(x.shape), _arc_length(line)[nearest].reshape(x.shape)
