"""Teeth out of line, and what is glued on them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from umamba2.synthetic.dentistry import disturb_teeth, paint_appliances
from umamba2.synthetic.mouth import draw_mouth
from umamba2.synthetic.painting import Canvas


class Always(np.random.Generator):
    """A generator whose luck is 0, so that everything that may happen does."""

    def random(self, size=None):
        return 0.0 if size is None else np.zeros(size)


def disturbed(seed):
    before, after = (draw_mouth(seed, randomised=True) for _ in range(2))
    disturb_teeth(np.random.default_rng(seed), after)
    return before, after


def test_teeth_stay_rigid_and_of_their_hand():
    for seed in range(40):
        before, after = disturbed(seed)
        for old, new in zip(before.teeth, after.teeth, strict=True):
            assert np.allclose(new.axes @ new.axes.T, np.eye(3), atol=1e-6)
            assert np.linalg.det(new.axes) * np.linalg.det(old.axes) > 0
            assert (new.crown, new.root, new.half) == (old.crown, old.root, old.half)
            assert np.linalg.norm(new.neck - old.neck) < 45


def test_everything_happens_to_some_teeth_and_nothing_to_many():
    kept = lost = turned = lying = moved = total = 0
    for seed in range(60):
        for old, new in zip(*(mouth.teeth for mouth in disturbed(seed)), strict=True):
            total += 1
            lost += new.place == "missing" and old.place != "missing"
            lying += bool(new.axes[2] @ old.axes[2] < np.cos(np.deg2rad(45)))
            turned += bool(new.axes[0] @ old.axes[0] < np.cos(np.deg2rad(20)))
            away = np.linalg.norm(new.neck - old.neck)
            moved += bool(away > 4)
            kept += bool(away < 0.5)
    for few in (lost, lying, turned, moved):
        assert 0.005 < few / total < 0.25
    assert kept / total > 0.3


def test_teeth_that_are_not_moved_on_keep_their_order():
    """Whatever gaps close, along the arch the numbers of a quadrant still count up, but for those that lie or lean."""
    for seed in range(40):
        _, after = disturbed(seed)
        for quadrant in (1, 2, 3, 4):
            teeth = [
                t for t in after.teeth if t.quadrant == quadrant and t.place != "missing" and abs(t.axes[2, 2]) > 0.9
            ]
            along = [t.neck[1] + abs(t.neck[0]) for t in teeth if abs(t.neck[2]) < 14]
            assert all(two - one > -2.5 for one, two in pairwise(along))


def test_gaps_close_more_than_they_open():
    """Molars behind a lost premolar have come forward on the average."""
    ahead = []
    for seed in range(40):
        before, after = disturbed(seed)
        for start in range(0, 32, 8):
            if any(tooth.place == "missing" for tooth in after.teeth[start + 3 : start + 5]):
                molars = slice(start + 5, start + 7)
                pairs = zip(before.teeth[molars], after.teeth[molars], strict=True)
                ahead += [old.neck[1] - new.neck[1] for old, new in pairs]
    assert np.mean(ahead) > 0.8


@pytest.mark.parametrize("seed", [0, 1])
def test_braces_are_metal_beside_the_teeth_and_change_no_label(seed):
    mouth = draw_mouth(seed)
    canvas = Canvas(mouth, (60, 90, 110), (0.8, 0.8, 0.8))
    canvas.labels[:] = 0
    before = canvas.labels.copy()
    paint_appliances(canvas, Always(np.random.PCG64(seed)))
    metal = np.argwhere(canvas.image > 0)
    assert 20 < len(metal) * 0.8**3 < 3000  # mm3
    assert np.array_equal(canvas.labels, before)
    low, high = metal.min(axis=0) * 0.8, metal.max(axis=0) * 0.8
    assert np.all(high - low < (35, 65, 85))


def test_many_mouths_have_none():
    plain = 0
    for seed in range(8):
        canvas = Canvas(draw_mouth(seed), (30, 45, 55), (1.6, 1.6, 1.6))
        paint_appliances(canvas, np.random.default_rng(seed))
        plain += not (canvas.image > -1000).any()
    assert 2 < plain < 8
