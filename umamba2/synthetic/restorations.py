"""What dentists have put into teeth, and what is left of teeth that they could not keep.

Of equal thickness, enamel absorbs about twice as much of X-rays as aluminium, and dentine about as much. Composites
that are to show absorb no less than aluminium (ISO 4049); others are in mouths, too. So composites lie anywhere between
what is darker than dentine and what is brighter than enamel; amalgam and gold are far brighter, ceramics in between.
No filling changes a label: it is part of its tooth.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from umamba2.synthetic.dentistry import erupted
from umamba2.synthetic.mouth import Filling, Mouth, Tooth

Point: TypeAlias = "tuple[float, float, float]"

KINDS = {"posterior": ("occlusal", "contact", "neck", "inlay"), "front": ("contact", "neck")}
OFTEN = {"posterior": (0.3, 0.35, 0.15, 0.2), "front": (0.65, 0.35)}


def restore_teeth(rng: np.random.Generator, mouth: Mouth) -> None:
    """Change a mouth in place: apices, fillings, materials of crowns, implants that wait for theirs, root rests."""
    grey, thin = mouth.grey, rng.uniform(0.2, 1.0)
    filled = rng.choice((0.0, 0.12, 0.45), p=(0.3, 0.45, 0.25))
    lost = rng.choice((0.0, 0.05, 0.2), p=(0.75, 0.2, 0.05))
    bridges = {quadrant: _material(rng, grey) for quadrant in (1, 2, 3, 4)}
    for tooth in mouth.teeth:
        tooth.thin = float(np.clip(thin + rng.normal(0, 0.15), 0, 1))
        tooth.treatment = rng.uniform(1.2, 2.5) * grey["dentine"]  # ISO 6876: sealers as three times the aluminium
        crown, luck, bare = _material(rng, grey), rng.random(), rng.random() < 0.2
        if tooth.place == "implant":
            tooth.cap_value, tooth.streak = _metal(rng, grey)
            tooth.cap = "" if bare else tooth.cap
        elif tooth.cap:
            tooth.cap_value, tooth.streak = bridges[tooth.quadrant] if tooth.cap == "bridge" else crown
        elif erupted(tooth) and luck < lost:
            leave_root(rng, tooth)
        elif erupted(tooth) and luck < lost + filled:
            fill(rng, tooth, grey)


def leave_root(rng: np.random.Generator, tooth: Tooth) -> None:
    """Break a tooth off below its neck, in place; of some with several roots one alone is left."""
    tooth.filling, tooth.fillings = 0.0, []
    several, one, high = len(tooth.roots) > 1, rng.random() < 0.4, rng.random() < 0.5
    if several and one:
        keep_root(tooth, int(rng.integers(len(tooth.roots))))
        deep, slope = rng.uniform(0.35, 0.6), 0.25
    elif several:  # above the fork or below it: no slivers between
        deep, slope = rng.uniform(0.03, 0.1) if high else rng.uniform(0.3, 0.45), 0.1
    else:
        deep, slope = rng.uniform(0.05, 0.4), 0.25
    along, across = (slope * rng.normal(0, 1, 2)).clip(-2 * slope, 2 * slope)
    tooth.rest = (-deep * tooth.root, along, across)


def keep_root(tooth: Tooth, number: int) -> None:
    """Leave a tooth one of its drawn roots, in place."""
    tooth.third_canal &= number == 0  # it runs in the first one
    tooth.roots, tooth.shape = [tooth.roots[number]], None


def fill(rng: np.random.Generator, tooth: Tooth, grey: dict[str, Any]) -> None:
    """Give a tooth a filling, some two, in place of what it had."""
    place = "posterior" if tooth.kind == "posterior" else "front"
    kinds = [str(kind) for kind in rng.choice(KINDS[place], 1 + (rng.random() < 0.15), replace=False, p=OFTEN[place])]
    tooth.filling, tooth.fillings, tooth.streak = 0.0, [], 0.0
    for kind in kinds:
        if place == "front" or (kind != "inlay" and rng.random() < 0.55):
            value, streak = rng.uniform(0.8 * grey["dentine"], 1.25 * grey["enamel"]), 0.0
        else:
            value, streak = _material(rng, grey) if kind == "inlay" else _metal(rng, grey)
        tooth.fillings.append(Filling(value, draw_blocks(rng, kind, place)))
        tooth.streak = max(tooth.streak, 0.6 * streak)


def draw_blocks(rng: np.random.Generator, kind: str, place: str) -> list[tuple[Point, Point]]:
    """The boxes of a filling: in the fossa (Black's class I), at a contact (II, III), at the neck (V), or an inlay."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    if kind == "neck":  # mostly on the cheek's side
        side = 1.0 if rng.random() < 0.8 else -1.0
        wide, low, high = rng.uniform((0.4, -0.08, 0.15), (0.75, 0.0, 0.3))
        return [_block((-wide, 0.6 * side, low), (wide, 1.4 * side, high))]
    if place == "front":
        low, high, deep, reach = rng.uniform((0.25, 0.6, 0.3, 0.4), (0.4, 0.8, 0.6, 0.65))
        return [_block((reach * side, -deep, low), (1.4 * side, deep, high))]
    floor, wide, deep = rng.uniform((0.55, 0.35, 0.2), (0.7, 0.6, 0.35))
    if kind == "inlay":
        deep = rng.uniform(0.45, 0.65)
    blocks = [_block((-wide, -deep, floor), (wide, deep, 1.4))]
    if kind != "occlusal":
        for end in (side, -side) if rng.random() < 0.35 else (side,):
            gum, broad, reach = rng.uniform((0.12, deep, 0.55), (0.3, 0.7, 0.7))
            blocks += [_block((0, -deep, floor), (1.4 * end, deep, 1.4)),
                       _block((reach * end, -broad, gum), (1.4 * end, broad, 1.4))]  # fmt: skip
    return blocks


def _block(one: Point, other: Point) -> tuple[Point, Point]:
    (a, d), (b, e), (c, f) = (sorted(pair) for pair in zip(one, other, strict=True))
    return (a, b, c), (d, e, f)


def _metal(rng: np.random.Generator, grey: dict[str, Any]) -> tuple[float, float]:
    """Grey value of amalgam, titanium or gold, and the strength of its streaks."""
    return max(rng.uniform(0.5, 1.0) * grey["metal"], 1.2 * grey["enamel"]), rng.uniform(0.3, 1.2)


def _material(rng: np.random.Generator, grey: dict[str, Any]) -> tuple[float, float]:
    """The same of a crown or inlay, which may be of ceramics."""
    ceramic = rng.uniform(0.9, 1.6) * grey["enamel"], rng.uniform(0, 0.25)
    return ceramic if rng.random() < 0.35 else _metal(rng, grey)
