"""Fillings, crowns, implants and root rests: they look like what they are, and no label says anything else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from umamba2.synthetic import heads
from umamba2.synthetic.dentistry import disturb_teeth, erupted
from umamba2.synthetic.mouth import Filling, draw_mouth
from umamba2.synthetic.painting import Canvas, paint_tooth
from umamba2.synthetic.restorations import KINDS, draw_blocks, keep_root, leave_root, restore_teeth
from umamba2.synthetic.solids import _root_canals, block, roots
from umamba2.synthetic.textbook import DATASET_ID, FDI_OF, STSR_ID

EDGE = 0.4  # mm
TEETH = (11, 16, 24, 33, 36, 45)


def whole_tooth(fdi, **changes):
    """A sound tooth of a plain mouth, and the mouth."""
    mouth = draw_mouth(5)
    mouth.shift = np.zeros(3)
    tooth = next(t for t in mouth.teeth if t.fdi == fdi)
    return mouth, replace(tooth, place="tooth", cap="", filling=0.0, treated=False, **changes)


def painted(mouth, tooth):
    """A canvas with one tooth alone and its coordinates in the tooth's frame."""
    canvas = Canvas(mouth, (80, 50, 50), (EDGE,) * 3, mouth.neck(tooth))
    metal = paint_tooth(canvas, tooth)
    whole = tuple(slice(0, n) for n in canvas.shape)
    return canvas, np.stack(canvas.coordinates(whole, mouth.neck(tooth), tooth.axes)), metal


def test_a_block_is_a_box_with_rounded_edges():
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, (3, 500)).astype(np.float32)
    low, high = np.array((-2.0, 0, -3)), np.array((1.0, 2, 3))
    nearest = np.clip(points.T, low + 0.5, high - 0.5).T
    away = np.linalg.norm(points - nearest, axis=0)
    distance = block(*points, low, high, 0.5)
    assert distance[away > 0] == pytest.approx(away[away > 0] - 0.5, abs=1e-5)
    assert np.all(distance[away == 0] <= -0.5)
    thin = block(*points, (-2, -2, 0), (2, 2, 0.2), 0.5)  # thinner than its edges are round
    assert np.all((thin < 0) <= ((points[2] > 0) & (points[2] < 0.2)))


@pytest.mark.parametrize(
    ("fdi", "place", "kind"), [(f, p, k) for f, p in ((36, "posterior"), (11, "front")) for k in KINDS[p]]
)
def test_a_filling_lies_where_its_kind_does_in_its_own_tooth_and_changes_no_label(fdi, place, kind):
    for seed in range(4):
        mouth, sound = whole_tooth(fdi)
        filling = Filling(9000.0, draw_blocks(np.random.default_rng(seed), kind, place))
        before, abc, none = painted(mouth, sound)
        after, _, metal = painted(mouth, replace(sound, fillings=[filling]))
        assert np.array_equal(after.labels, before.labels)
        assert np.array_equal(after.stsr, before.stsr)
        changed = after.image - before.image > 500
        assert not (after.image != before.image)[before.labels != fdi].any()
        assert changed.sum() * EDGE**3 > 2
        assert after.image.max() > 8500
        a, b, c = (abc[:, changed].T / (*sound.half, sound.crown)).T
        assert none is None
        assert metal is not None
        if kind == "neck":
            assert abs(b.mean()) > 0.45
            assert c.min() > -0.2
            assert c.max() < 0.45
        elif kind == "occlusal":
            assert c.min() > 0.45
            assert max(abs(a.mean()), abs(b.mean())) < 0.15
        elif place == "front":
            assert abs(a.mean()) > 0.45
            assert c.min() > 0.15
            assert c.max() < 0.9
        else:  # down along the contact, and over the top
            assert np.abs(a).max() > 0.85
            assert np.all(np.abs(a[c < 0.4]) > 0.4)
            assert c.min() < 0.4
            assert c.max() > 0.7
            if kind == "inlay":
                assert np.abs(b[c > 0.7]).max() > 0.35


@pytest.mark.parametrize("fdi", TEETH)
def test_a_root_rest_is_labelled_as_what_the_tooth_was_there_and_nothing_else(fdi):
    """The oracle: the labels of the whole tooth, up to the fracture, pulp and canals included."""
    mouth, sound = whole_tooth(fdi)
    rest = (-0.2 * sound.root, 0.3, -0.2)
    whole, (a, b, c), _ = painted(mouth, sound)
    left, _, metal = painted(mouth, replace(sound, rest=rest))
    above = c - (rest[0] + rest[1] * a + rest[2] * b)
    sure = np.abs(above) > 1e-3
    for name in ("labels", "stsr"):
        expected = np.where(above < 0, getattr(whole, name), 0)
        assert np.array_equal(getattr(left, name)[sure], expected[sure])
    assert set(np.unique(left.labels)) == {0, fdi, fdi + 100}
    assert (left.stsr > STSR_ID["pulp"]).any()
    assert metal is None
    air = (above > 1) & (whole.labels > 0)
    assert air.any()
    assert np.all(left.image[air] == -1000)


@pytest.mark.parametrize(("fdi", "number"), [(f, n) for f, roots in ((16, 3), (46, 2), (38, 2)) for n in range(roots)])
def test_one_root_alone_keeps_its_number_and_the_classes_of_its_own_canals(fdi, number):
    mouth, sound = whole_tooth(fdi, third_canal=True)
    rest = replace(sound, rest=(-0.45 * sound.root, 0.0, 0.0))
    keep_root(rest, number)
    whole, left = painted(mouth, sound)[0], painted(mouth, rest)[0]
    assert np.all((left.labels == 0) | (left.labels == whole.labels))
    assert 20 < (left.labels == fdi).sum() * EDGE**3 < 0.25 * (whole.labels == fdi).sum() * EDGE**3
    classes = {sound.roots[number].canal} | ({"lower molar root 3"} if (fdi, number) == (46, 0) else set())
    assert set(np.unique(left.stsr[left.labels == fdi + 100])) == {STSR_ID[name] for name in classes}
    assert np.all(left.stsr[left.labels == fdi] == STSR_ID["tooth"])


@pytest.mark.parametrize("fdi", [11, 24, 33, 36])
def test_thin_apices_are_thinner_as_long_and_closed(fdi):
    mouth, blunt = whole_tooth(fdi, third_canal=True)
    areas, ends = [], []
    for thin in (0.0, 0.5, 1.0):
        canvas, (_, _, c), _ = painted(mouth, replace(blunt, thin=thin))
        tooth = canvas.labels > 0
        areas.append(np.count_nonzero(tooth & (c < -0.85 * blunt.root)))
        ends.append(c[tooth].min())
        canal = (canvas.labels > 100) & (c < -2)
        open_ = canal & ~ndimage.binary_erosion(tooth)
        assert canal.any()
        assert open_.sum() <= 0.02 * canal.sum()
    assert areas[1] < 0.8 * areas[0]
    assert areas[2] < 0.45 * areas[0]
    assert max(ends) - min(ends) < 1.0


def test_the_middle_of_no_canal_leaves_its_root():
    for fdi in sorted(t.fdi for t in draw_mouth(5).teeth):
        for thin in (0.0, 0.5, 1.0):
            _, tooth = whole_tooth(fdi, thin=thin, third_canal=True)
            c = np.linspace(-1.05 * tooth.root, -1, 80, dtype=np.float32)
            for canal in _root_canals(tooth, c):
                within = c > -canal.length
                assert roots(tooth, canal.a, canal.b, c)[within].max() < 0


def restored(seed):
    mouth = draw_mouth(seed, randomised=True)
    disturb_teeth(np.random.default_rng(seed), mouth)
    before = [replace(tooth) for tooth in mouth.teeth]
    restore_teeth(np.random.default_rng([seed, 8]), mouth)
    return before, mouth


def test_everything_happens_to_some_teeth_and_nothing_to_many():
    counts, values, quiet, total = Counter(), [], 0, 0
    for seed in range(80):
        before, mouth = restored(seed)
        quiet += not any(t.fillings or t.rest for t in mouth.teeth)
        for old, new in zip(before, mouth.teeth, strict=True):
            total += 1
            assert (new.place, new.fdi) == (old.place, old.fdi)
            assert np.array_equal(new.neck, old.neck)
            counts["filled"] += bool(new.fillings)
            counts["rest"] += new.rest is not None
            counts["one root"] += len(new.roots) < len(old.roots)
            counts["bare implant"] += new.place == "implant" and not new.cap
            counts["implant"] += new.place == "implant"
            if new.rest or new.fillings:
                assert erupted(old)
                assert (new.cap, new.filling) == ("", 0)
                assert not (new.rest and new.fillings)
            if new.rest:
                assert not erupted(new)  # nobody glues a bracket on it
                assert -0.6 * new.root <= new.rest[0] < 0
            values += [filling.value / mouth.grey["dentine"] for filling in new.fillings]
        for quadrant in (1, 2, 3, 4):
            units = {t.cap_value for t in mouth.teeth if t.cap == "bridge" and t.quadrant == quadrant}
            assert len(units) <= 1
    assert 0.05 < counts["filled"] / total < 0.3
    assert 0.005 < counts["rest"] / total < 0.06
    assert 0 < counts["one root"] < counts["rest"]
    assert 0 < counts["bare implant"] < 0.5 * counts["implant"]
    assert min(values) < 0.95  # darker than dentine, and far brighter
    assert max(values) > 3
    assert 8 < quiet < 60


def test_an_implant_without_a_crown_is_a_screw_with_streaks_about_it():
    mouth, tooth = whole_tooth(36)
    canvas, (_, _, c), metal = painted(mouth, replace(tooth, place="implant", cap_value=7000.0))
    assert set(np.unique(canvas.labels)) == {0, DATASET_ID["implant"]}
    assert not canvas.stsr.any()
    assert c[canvas.labels > 0].max() <= 1.0
    away = (metal - mouth.neck(tooth)) @ tooth.axes.T
    assert -0.85 * tooth.root < away[2] < 0


def test_crowns_of_ceramics_streak_less():
    mouth, tooth = whole_tooth(36)
    assert painted(mouth, replace(tooth, cap="crown", cap_value=4000.0))[2] is not None
    assert painted(mouth, replace(tooth, cap="crown", cap_value=4000.0, streak=0.0))[2] is None


def test_heads_have_them(monkeypatch):
    def made():
        return heads.make_head(1, "dental field", (1.2,) * 3)

    usual = made()
    monkeypatch.setattr(heads, "restore_teeth", lambda rng, mouth: None)
    without = made()
    assert not np.array_equal(usual.image, without.image)

    def break_all(rng, mouth):
        for tooth in mouth.teeth:
            if erupted(tooth) and not tooth.cap:
                leave_root(rng, tooth)

    monkeypatch.setattr(heads, "restore_teeth", break_all)
    broken = made()
    numbers = [Counter(FDI_OF[phantom.labels].ravel().tolist()) for phantom in (without, broken)]
    lost = [numbers[1][fdi] / n for fdi, n in numbers[0].items() if fdi and n > 100]
    assert 0.2 < np.median(lost) < 0.7
    assert min(lost) > 0
    assert np.array_equal(broken.stsr_labels >= 2, (broken.labels > 110) & (broken.labels < 149))
    assert (broken.stsr_labels > 2).any()
