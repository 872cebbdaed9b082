"""Mouths whose teeth cannot be counted: moved, turned, tipped, impacted and lost ones, and what dentists glue on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from umamba2.synthetic.mouth import Mouth, Tooth
from umamba2.synthetic.painting import Canvas, add_streaks
from umamba2.synthetic.solids import tube
from umamba2.synthetic.textbook import Array


def disturb_teeth(rng: np.random.Generator, mouth: Mouth) -> None:
    """Change a mouth in place: lost teeth, gaps open or closed, crowding, teeth turned, tipped or not erupted."""
    if rng.random() < 0.04:  # no teeth at all, or a few
        for tooth in mouth.teeth:
            if rng.random() < 0.97 or tooth.cap:
                tooth.place, tooth.cap, tooth.filling = "missing", "", 0.0
    if rng.random() < 0.25:  # premolars taken out for room, alike on both sides
        position = 4 if rng.random() < 0.7 else 5
        jaws = [jaw for jaw in ("upper", "lower") if rng.random() < 0.7]
        for tooth in mouth.teeth:
            if tooth.position == position and tooth.jaw in jaws and not tooth.cap:
                tooth.place = "missing"
    crowded = rng.uniform(0, 1.2) * (rng.random() < 0.4)
    odd = rng.choice([0.02, 0.12])
    for quadrant in (1, 2, 3, 4):
        teeth = [tooth for tooth in mouth.teeth if tooth.quadrant == quadrant]
        _close_and_open(rng, teeth)
        for tooth in teeth:
            if tooth.place != "tooth" or tooth.cap:
                continue
            tooth.neck = tooth.neck + crowded * rng.normal() * tooth.axes[1]
            if rng.random() < odd:
                turn = rng.normal(0, (12, 12, 35))
            elif crowded:
                turn = rng.normal(0, (2, 2, 10 * crowded))
            else:
                continue
            tooth.axes = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ tooth.axes
        for tooth in teeth:
            chance = {8: 0.25, 3: 0.04, 5: 0.03}.get(tooth.position, 0.0)
            if tooth.place == "tooth" and not tooth.cap and rng.random() < chance:
                _impact(rng, tooth)


def _close_and_open(rng: np.random.Generator, teeth: list[Tooth]) -> None:
    """Move the teeth of a quadrant along its arch: into the room of lost ones, or apart."""
    widths = np.array([2 * tooth.half[0] for tooth in teeth])
    at = np.cumsum(widths) - widths / 2
    closing = rng.choice([0.0, 0.0, 0.5, 1.0])  # how much of a gap the teeth behind it have taken
    spaced = rng.uniform(0.3, 1.5) if rng.random() < 0.12 else 0.0
    shifts, shift = [], 0.0
    for tooth, width in zip(teeth, widths, strict=True):
        shifts.append(shift + spaced * (tooth.position - 0.5))
        if tooth.place == "missing" and tooth.position < 8:
            shift -= closing * width * rng.uniform(0.8, 1.0)
    if any(tooth.place == "pontic" for tooth in teeth) or not np.any(shifts):
        return
    places = np.array([[*tooth.neck, *tooth.axes.ravel()] for tooth in teeth])
    for tooth, along in zip(teeth, at + shifts, strict=True):
        moved = np.array([np.interp(along, at, column) for column in places.T])
        if along > at[-1]:  # beyond the last one, straight on
            moved[:3] += (along - at[-1]) * (places[-1, :3] - places[-2, :3]) / (at[-1] - at[-2])
        tooth.neck = tooth.neck * [0, 0, 0.5] + moved[:3] * [1, 1, 0.5]
        first, _, last = np.linalg.qr(moved[3:].reshape(3, 3)[::-1].T)[0].T  # the long axis keeps its direction
        signs = np.sign([first @ tooth.axes[2], last @ tooth.axes[0]])
        own = np.stack([signs[1] * last, np.zeros(3), signs[0] * first])
        own[1] = np.cross(own[2], own[0])
        own[1] *= np.sign(own[1] @ tooth.axes[1])
        tooth.axes = own


def _impact(rng: np.random.Generator, tooth: Tooth) -> None:
    """A tooth that has not erupted: deep in the bone and lying."""
    up = -1.0 if tooth.jaw == "upper" else 1.0
    deep = rng.uniform(5, 10) if tooth.jaw == "upper" else rng.uniform(4, 8)
    lean = rng.uniform(20, 90) * (1 if rng.random() < 0.85 else -1)
    middle = tooth.neck - 0.25 * tooth.root * tooth.axes[2] - [0, 0, up * deep]
    turn = np.deg2rad(lean)
    forward, tip = -tooth.axes[0], tooth.axes[2]
    tooth.axes = np.stack([tooth.axes[0] * np.cos(turn) + tip * np.sin(turn), tooth.axes[1],
                           tip * np.cos(turn) + forward * np.sin(turn)])  # fmt: skip
    tooth.neck = middle + 0.25 * tooth.root * tooth.axes[2]
    tooth.filling, tooth.treated = 0.0, False


def paint_appliances(canvas: Canvas, rng: np.random.Generator) -> None:
    """Braces, bands about molars, and wires behind front teeth: metal without a label."""
    fixed, chosen = rng.random() < 0.22, rng.random(2)
    value = canvas.grey["metal"] * rng.uniform(0.5, 1.0)
    ceramic = rng.random() < 0.2
    radius, height, streak = rng.uniform(0.22, 0.45), rng.uniform(0.4, 0.6), rng.uniform(0.1, 0.6)
    for jaw, luck in zip(("upper", "lower"), chosen, strict=True):
        quadrants = (1, 2) if jaw == "upper" else (4, 3)
        right, left = ([t for t in canvas.mouth.teeth if t.quadrant == q and erupted(t)] for q in quadrants)
        teeth = right[::-1] + left
        if fixed and luck < 0.8 and len(teeth) > 2:
            held = [t for t in teeth if t.position < 8]
            for number, tooth in enumerate(held):
                banded = tooth.position > 5
                _glue(canvas, tooth, height, 2500.0 if ceramic and not banded else value, banded)
                if streak > 0.25 and number % 2 == 0:
                    add_streaks(canvas, _spot(canvas, tooth, height), number, streak)
            _wire(canvas, [_spot(canvas, t, height, 1.6) for t in held], radius, value)
        elif luck > 0.92:  # a retainer
            front = [t for t in teeth if t.position < 4]
            _wire(canvas, [_spot(canvas, t, 0.35, 0.2, -1.0) for t in front], 0.4, value)


def erupted(tooth: Tooth) -> bool:
    """Whether a tooth stands in line, with a crown."""
    up = -1.0 if tooth.jaw == "upper" else 1.0
    return tooth.has_crown and bool(up * tooth.axes[2, 2] > 0.7) and abs(tooth.neck[2]) < 16


def _spot(canvas: Canvas, tooth: Tooth, height: float, off: float = 0.8, side: float = 1.0) -> Array:
    """A patient position before the cheek's (or, ``side`` -1, the tongue's) face of a crown."""
    depth = 0.92 * tooth.half[1] if tooth.position > 3 else 0.72 * tooth.half[1]
    spot: Array = canvas.mouth.neck(tooth) + height * tooth.crown * tooth.axes[2] + side * (depth + off) * tooth.axes[1]
    return spot


def _glue(canvas: Canvas, tooth: Tooth, height: float, value: float, banded: bool) -> None:
    """A bracket, or a band with its tube."""
    middle = _spot(canvas, tooth, height)
    box = canvas.box(middle + np.outer((-1, 1), 2.5 * tooth.axes.sum(axis=0)), 3.0)
    if box is not None:
        a, b, c = canvas.coordinates(box, middle, tooth.axes)
        slot = np.maximum(0.3 - np.abs(c), 0.1 - b)
        form = np.maximum(np.maximum(np.abs(a) - 1.6, np.abs(c) - 1.5), np.maximum(np.abs(b) - 0.9, slot))
        canvas.paint(box, form, value, only=canvas.labels[box] == 0)
    neck = canvas.mouth.neck(tooth)
    box = canvas.box(neck + np.outer((0, tooth.crown), tooth.axes[2]), 1.3 * max(tooth.half) + 1.0) if banded else None
    if box is not None:
        a, b, c = canvas.coordinates(box, neck, tooth.axes)
        round_ = (np.sqrt(np.sqrt((a / tooth.half[0]) ** 4 + (b / tooth.half[1]) ** 4)) - 1) * min(tooth.half)
        band = np.maximum(np.abs(round_ - 0.1) - 0.35, np.abs(c - height * tooth.crown) - 2.0)
        canvas.paint(box, band, value, strength=0.8, only=canvas.labels[box] < 11)


def _wire(canvas: Canvas, points: list[Array], radius: float, value: float) -> None:
    for one, two in pairwise(points):
        ends = np.stack([one, two])
        box = canvas.box(ends, radius + 1)
        if box is not None:
            distance, _ = tube(*canvas.coordinates(box), ends, np.array([radius, radius]))
            canvas.paint(box, distance, value, only=canvas.labels[box] == 0)
