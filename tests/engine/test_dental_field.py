"""The dental field: where it is, what is done with clicks and without teeth, and two looks that make one answer."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from small_models import PATCH, make_model

from umamba2.anatomy.structures import ANATOMY, Structure
from umamba2.challenges import CHALLENGES
from umamba2.engine.dental_field import (
    BLUR,
    CELL,
    CLICK_MARGIN,
    MOST_TEETH,
    TEETH_REACH,
    TOLERANCE,
    DentalField,
    densest,
    field_for,
    sides_of,
)
from umamba2.engine.keeping import Keeper
from umamba2.engine.predict import Predictor
from umamba2.engine.record import Record
from umamba2.engine.tiles import Sweep
from umamba2.errors import Cancelled, InputError, Terminated
from umamba2.scans import memory
from umamba2.scans.clicks import Clicks, no_clicks
from umamba2.synthetic.textbook import TOOTH_SIZES

MULTICLASS, INTERACTIVE, STSR = CHALLENGES.values()
DEMO = ((32.0, 32.0), (30.0, 60.0), (57.0, 57.0))
SPACING = (0.3, 0.3, 0.3)  # of the small models
# 9 x 12 x 9.6 mm of a model whose tiles are 3.6 x 9.6 x 4.8 mm; class 2 marks it, 2 and 3 are lost without it.
FIELD = DentalField(((4.5, 4.5), (4.0, 8.0), (4.8, 4.8)), ((2,),), (2, 3), "teeth", 1.0)
SHAPE = (50, 64, 60)  # 15 x 19.2 x 18 mm
MADE_UP = [  # classes of no challenge
    Structure(name, number, number, number, (number,), group, (0, 0, 0))
    for number, (name, group) in enumerate((("jaw", "jaws"), ("pulp", "pulp"), ("milk tooth", "teeth")), start=1)
]


@pytest.fixture(autouse=True)
def plenty(monkeypatch):
    """Whoever else uses the machine: memory that is short changes what is predicted, with a warning."""
    monkeypatch.setattr(memory, "available", lambda: 2.0**40)


# --- where it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.8, 1.3)])
def test_the_densest_place_is_the_peak_of_the_blurred_marks(spacing):
    rng = np.random.default_rng(3)
    labels = np.zeros((40, 50, 45), np.uint8)
    labels[8:20, 10:30, 12:22] = np.where(rng.random((12, 20, 10)) < 0.6, rng.choice([3, 5], (12, 20, 10)), 0)
    labels[30, 40, 40], labels[25:39, 30:49, 25:44] = 3, 7  # far off, and another class
    blurred = ndimage.gaussian_filter(
        np.isin(labels, (3, 5)).astype(float), [BLUR / mm for mm in spacing], mode="constant", truncate=8
    )
    expected = np.unravel_index(blurred.argmax(), labels.shape)
    found, _ = densest(labels, (3, 5), spacing)
    off = np.abs(np.subtract(found, expected)) * spacing
    assert (off <= np.maximum(CELL, spacing)).all(), (found, expected)


def test_two_canals_have_the_field_between_them_and_one_alone_around_it():
    field = replace(FIELD, marks=((1,), (2,)), sides=((20, 20), (20, 20), (34, 34)))
    labels = np.zeros((100, 100, 140), np.uint8)
    labels[40:44, 30:60, 40:43], labels[50:54, 30:60, 100:103] = 1, 2
    both = field.find(labels, (1, 1, 1), Record()).box
    assert [(side.start + side.stop) / 2 for side in both] == pytest.approx([47, 45, 71.5], abs=2)
    labels[labels == 2] = 0
    labels[90, 90, 130] = 2  # a speck
    alone = field.find(labels, (1, 1, 1), Record()).box
    assert [(side.start + side.stop) / 2 for side in alone] == pytest.approx([42, 45, 41.5], abs=2)


def test_a_box_reaches_as_far_as_the_sides_and_the_scan():
    field = replace(FIELD, sides=DEMO)
    spacing = (0.5, 1.0, 2.0)
    box = field.around((200, 100, 60), (400, 300, 200), spacing)
    assert box == (slice(136, 264), slice(70, 160), slice(31, 89))
    assert field.around((10, 295, 0), (400, 300, 200), spacing) == (slice(0, 74), slice(265, 300), slice(0, 29))


@pytest.mark.parametrize(
    ("code", "sides"),
    [
        ("LPS", DEMO),
        (None, DEMO),
        ("RAI", ((32, 32), (60, 30), (57, 57))),
        ("PSR", ((57, 57), (32, 32), (30, 60))),
        ("SLA", ((60, 30), (57, 57), (32, 32))),
    ],
)
def test_the_usual_sides_follow_the_patient(code, sides):
    assert sides_of(TEETH_REACH, code) == sides


@pytest.mark.parametrize(
    ("size", "exceeded"),
    [
        ((51, 81.6, 103.5), False),  # dental scans
        ((38, 66, 68), False),
        ((64, 90, 114), False),
        ((80, 112.5, 142.5), False),  # a quarter more
        ((80.3, 90, 114), True),
        ((64, 113, 114), True),
        ((64, 90, 143), True),
        ((170, 170, 170), True),
    ],
)
def test_scans_that_are_not_much_larger_are_left_alone(size, exceeded):
    field = replace(FIELD, sides=DEMO)
    for spacing in ((0.1, 0.1, 0.1), (0.05, 0.1, 0.25)):
        assert field.is_exceeded([round(mm / s) for mm, s in zip(size, spacing)], spacing) == exceeded


def test_what_is_no_scan_is_for_others_to_say():
    assert not FIELD.is_exceeded((900, 900), SPACING)
    assert not FIELD.is_exceeded((900, 900, 900), (0.3, 0.3))
    assert not FIELD.is_exceeded((900, 900, 900), (np.nan, np.nan, np.nan))


def test_teeth_mark_it_where_a_model_knows_teeth_and_everything_where_not():
    def names(challenge, numbers):
        return {s.name for s in challenge.structures if s.training in numbers}

    field = field_for("auto", DEMO, None, MULTICLASS.structures)
    teeth = {s.name for s in ANATOMY if s.fdi} | {"crown", "bridge", "implant"}
    assert (names(MULTICLASS, *field.marks), names(MULTICLASS, field.lost)) == (teeth, teeth | {"pulp"})
    stsr = field_for("on", None, None, STSR.structures)
    assert (names(STSR, *stsr.marks), len(stsr.lost)) == ({"tooth"}, 12)
    canals = field_for("on", None, None, INTERACTIVE.structures)
    assert (canals.marks, canals.lost) == (((1,), (2,)), (1, 2))
    assert canals.sides == ((32, 32), (45, 45), (57, 57))
    assert not field.asked
    assert canals.asked


def test_it_is_looked_for_where_the_model_states_it_or_somebody_asks():
    assert field_for("auto", None, "LPS", ANATOMY) is None
    assert field_for("off", DEMO, "LPS", ANATOMY) is None
    assert field_for("auto", ((1, 2), (3, 4), (5, 6)), "LPS", ANATOMY).sides == ((1, 2), (3, 4), (5, 6))
    assert field_for("on", None, "RAI", ANATOMY).sides == sides_of(TEETH_REACH, "RAI")
    with pytest.raises(InputError, match="dental field: found 'yes', expected one of auto, off, on"):
        field_for("yes", DEMO, None, ANATOMY)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_click_is_inside_and_the_field_stays_as_small_as_that_allows(data):
    spacing = data.draw(st.tuples(*[st.sampled_from([0.3, 0.5, 1.1])] * 3))
    shape = data.draw(st.tuples(*[st.integers(20, 90)] * 3))
    field = replace(FIELD, sides=((8, 8), (6, 12), (9, 10)))
    place = data.draw(st.tuples(*[st.integers(0, n - 1) for n in shape]))
    found = data.draw(st.sampled_from([None, field.around(place, shape, spacing)]))
    points = data.draw(st.lists(st.tuples(*[st.integers(0, n - 1) for n in shape]), min_size=1, max_size=4))
    clicks = Clicks(np.array(points, np.float32), np.zeros(len(points), np.int64))
    box = field.holding(found, clicks, shape, spacing)
    for axis, (side, n, mm) in enumerate(zip(box, shape, spacing)):
        at = np.array(points)[:, axis]
        assert 0 <= side.start <= at.min() <= at.max() < side.stop <= n
        before = field.around((at.min() + at.max()) / 2 * np.ones(3), shape, spacing)[axis] if found is None else None
        before = found[axis] if found else before
        if before.start <= at.min() and at.max() < before.stop:
            assert side == before
            continue
        # What lies on the other side of the clicks is given up only for a field that would be too long.
        span, most = (np.ptp(at) + 1) * mm + 2 * CLICK_MARGIN, TOLERANCE * field.size[axis]
        assert (side.stop - side.start) * mm <= max(most, span) + 3 * mm
        if at.min() < before.start:
            assert side.start == max(0, np.floor(at.min() - CLICK_MARGIN / mm))
        if at.max() >= before.stop:
            assert side.stop == min(n, np.ceil(at.max() + 1 + CLICK_MARGIN / mm))


def test_clicks_that_count_for_nothing_move_nothing():
    box = FIELD.around((20, 20, 20), SHAPE, SPACING)
    outside = Clicks(np.array([[-9.0, 3, 3], [20, 20, 20], [49, 63, 59]]), np.array([0, 1, -1]))
    assert FIELD.holding(box, outside, SHAPE, SPACING) == box
    assert FIELD.holding(None, no_clicks(), SHAPE, SPACING) is None


# --- two looks --------------------------------------------------------------------------------------------------------


class Sight:
    """In place of the networks: intensity ``unit`` c is class c; notes what was run, takes time on its own clock."""

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0, unit: float = 1000):
        self.passes: list[int] = []  # for each tile
        self.clicks: list = []
        self.now, self.error, self.at = 1000.0, Terminated("SIGTERM"), -1
        intensity = predictor.plan.intensity
        for module in ("budget", "coarse", "window", "predict"):
            monkeypatch.setattr(f"umamba2.engine.{module}.time", self)

        def logits(tile, clicks, passes, *rest):
            if len(self.passes) == self.at:
                raise self.error
            self.now += seconds * len(passes) * np.prod(tile.shape) / np.prod(PATCH)
            self.passes.append(len(passes))
            self.clicks.append(clicks)
            classes = (tile * intensity["std"] + intensity["mean"]) / unit
            return torch.stack([-((classes - c) ** 2) for c in range(predictor.num_classes)])

        monkeypatch.setattr(predictor.runner, "logits", logits)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("m") / "m", classes=4, folds=(0, 1), mirror_axes=(2,))


@pytest.fixture(scope="module")
def clickable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "m"
    return make_model(folder, "umamba2.nets.UMamba2Click", 4, folds=(0, 1), mirror_axes=(2,))


def load(folder, field: DentalField | None = FIELD) -> Predictor:
    return Predictor.load(folder, device="cpu", precision="fp32", tile_step=1.0, dental_field=field)


def head(teeth: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A scan of bone with teeth in a corner and a false one far off, and the classes in it."""
    truth = np.ones(SHAPE, np.uint8)
    truth[40:44, 50:56, 5:9] = 3
    truth[33:34, 16:20, 42:44] = 3
    if teeth:
        truth[30:36, 14:22, 38:48] = 2
        truth[2:3, 60:62, 3:5] = 2
    return (1000.0 * truth + np.random.default_rng(1).normal(0, 50, SHAPE)).astype(np.float32), truth


FOUND = FIELD.around(densest(head()[1], (2,), SPACING)[0], SHAPE, SPACING)


def in_field(labels: np.ndarray) -> np.ndarray:
    part = np.zeros_like(labels)
    part[FOUND] = labels[FOUND]
    return part


def test_the_field_alone_is_segmented(folder, monkeypatch):
    (image, truth), predictor, record = head(), load(folder), Record()
    sight = Sight(predictor, monkeypatch)
    labels = predictor.predict(image, SPACING, record=record)
    np.testing.assert_array_equal(labels, in_field(truth))
    assert np.count_nonzero(labels == 2) == np.count_nonzero(truth == 2) - 4
    assert record.dental_field == {"voxels": [[s.start, s.stop] for s in FOUND], "mm": [9.0, 12.3, 9.3]}
    # One pass for every tile of the scan, then all that there are for those of the field.
    assert sight.passes == [1] * (len(sight.passes) - record.tiles) + [4] * record.tiles
    assert len(sight.passes) > 2 * record.tiles
    assert record.seconds.keys() >= {"first look", "prepare", "network"}


def test_it_is_segmented_as_if_it_were_the_scan(folder):
    image, predictor = head()[0], load(folder)
    box = predictor._first_look(FIELD, image, SPACING, None, None).box
    labels = predictor.predict(image, SPACING, record=Record())
    np.testing.assert_array_equal(labels[box], load(folder, None).predict(image[box], SPACING, record=Record()))
    assert np.count_nonzero(labels) == np.count_nonzero(labels[box]) > 0


@pytest.mark.parametrize("shape", [(30, 40, 32), (37, 50, 40)])
def test_a_scan_that_fits_is_looked_at_once(folder, shape):
    part, record, off = head()[0][tuple(slice(0, n) for n in shape)], Record(), Record()
    labels = load(folder).predict(part, SPACING, record=record)
    np.testing.assert_array_equal(labels, load(folder, None).predict(part, SPACING, record=off))
    assert record.dental_field == {}
    assert (set(record.seconds), record.tiles, record.warnings) == (set(off.seconds), off.tiles, off.warnings)


@pytest.mark.parametrize("asked", [False, True])
def test_what_was_cut_off_is_said_unless_it_was_asked_for(folder, monkeypatch, asked):
    predictor, record = load(folder, replace(FIELD, asked=asked)), Record()
    Sight(predictor, monkeypatch)
    predictor.predict(head()[0], SPACING, record=record)
    found = "found a scan of 15x19x18 mm, expected at most 11x15x12 mm; only 9x12x9 mm were segmented"
    assert record.warnings == ([] if asked else [f"dental field: {found}"])
    z, y, x = (f"{side.start} to {side.stop - 1}" for side in FOUND)
    assert record.part == f"only the dental field was segmented, 9x12.3x9.3 mm (voxels z {z}, y {y}, x {x})"


def test_without_teeth_there_is_no_field_and_nothing_that_needs_one(folder, monkeypatch):
    image, truth = head(teeth=False)
    truth[10, 20:26, 20:26] = truth[11, 20, 20] = 2  # 37 voxels, one less than 1 mm3
    image = np.where(truth == 2, 2000 + image % 7, image)
    predictor, record = load(folder), Record()
    sight = Sight(predictor, monkeypatch)
    labels = predictor.predict(image, SPACING, record=record)
    np.testing.assert_array_equal(labels, truth == 1)  # neither the marks nor class 3, which is lost with them
    found = "found 1 mm3 of teeth in 15x19x18 mm, expected at least 1"
    assert record.warnings == [f"dental field: {found}; no teeth labelled, and all else is the first look's"]
    assert (record.dental_field, record.part) == ({}, "")
    assert sight.passes == record.passes_done == [1] * record.tiles
    truth[11, 20, 21] = 2
    image = np.where(truth == 2, 2000 + image % 7, image)
    assert (predictor.predict(image, SPACING, record=Record()) == 2).any()


@pytest.mark.parametrize(
    "structures",
    [*(c.structures for c in CHALLENGES.values() if any(s.group == "teeth" for s in c.structures)), MADE_UP],
    ids=lambda structures: f"{len(structures)} classes",
)
def test_whatever_has_teeth_among_its_classes_says_that_there_are_none(structures, tmp_path, monkeypatch):
    """By the groups of the classes alone: no challenge is named anywhere."""
    folder = make_model(tmp_path / "m", classes=len(structures) + 1)
    predictor, record = load(folder, field_for("auto", FIELD.sides, None, structures)), Record()
    Sight(predictor, monkeypatch, unit=50)
    truth = np.zeros(SHAPE, np.uint8)
    for number, structure in enumerate(structures):  # a little of everything: 3 mm3 of each class
        truth[3 + number, 10:14, 5:33] = structure.training
    labels = predictor.predict(truth * np.float32(50), SPACING, record=record)
    teeth = [s.training for s in structures if s.group in ("teeth", "restorations")]
    lost = [*teeth, *(s.training for s in structures if s.group == "pulp")]
    np.testing.assert_array_equal(labels, np.where(np.isin(truth, lost), 0, truth))
    (said,) = (line for line in record.warnings if "in all voxels" not in line)  # a drawing it is
    found = re.fullmatch(
        r"dental field: found (\d+) mm3 of teeth in 15x19x18 mm, expected at least 500; "
        "no teeth labelled, and all else is the first look's",
        said,
    )
    assert 0 < int(found[1]) <= round(np.isin(truth, teeth).sum() * 0.027)
    assert record.dental_field == {}


def test_more_teeth_than_a_mouth_can_have_are_said(folder, monkeypatch):
    (image, truth), predictor, record = head(), load(folder, replace(FIELD, asked=True)), Record()
    Sight(predictor, monkeypatch)
    teeth = np.count_nonzero(truth == 2) * 0.027
    predictor.dental_field = replace(FIELD, most=teeth + 0.01, asked=True)
    predictor.predict(image, SPACING, record=record)
    assert record.warnings == []
    predictor.dental_field = replace(FIELD, most=teeth - 0.01, asked=True)
    predictor.predict(image, SPACING, record=record)
    found = f"found {teeth:.0f} mm3 of teeth in 15x19x18 mm, expected at most {teeth:.0f}"
    assert record.warnings == [f"dental field: {found}; other things were taken for teeth, there may be none"]
    limits = {field_for("on", None, None, c.structures).most for c in (MULTICLASS, STSR)}
    assert limits == {MOST_TEETH}
    largest = sum(0.6 * 2 * a * b * (crown + root) for sizes in TOOTH_SIZES.values() for crown, root, a, b in sizes)
    assert 1.1**3 * largest < MOST_TEETH  # six tenths of the blocks about a textbook's teeth, in a large head


@pytest.mark.parametrize("seconds", [1e6, 60.0, 12.0, 4.0])
def test_the_first_look_leaves_half_of_the_time_to_the_second(folder, monkeypatch, seconds):
    predictor, record = load(folder), Record()
    sight = Sight(predictor, monkeypatch, seconds=1.0)
    began, ended, first_look = sight.now, [], predictor._first_look

    def noted(*arguments):
        look = first_look(*arguments)
        ended.append(sight.now)
        return look

    monkeypatch.setattr(predictor, "_first_look", noted)
    labels = predictor.predict(head()[0], SPACING, deadline=began + seconds, record=record)
    assert ended[0] - began <= seconds / 2 + 1  # a pass that has begun is ended
    assert sight.now - began <= seconds + 1
    assert (labels == 2).any()
    assert any("time:" in warning or "coarser" in warning for warning in record.warnings) == (seconds < 100)


@pytest.mark.parametrize("in_second", [False, True])
def test_who_is_asked_to_end_has_what_there_is(folder, monkeypatch, in_second):
    (image, truth), predictor, record = head(), load(folder), Record()
    sight = Sight(predictor, monkeypatch)
    predictor.predict(image, SPACING, record=Record())
    first = sight.passes.index(4)  # tiles of the first look
    sight.passes.clear()
    sight.at = first if in_second else first - 1
    labels = predictor.predict(image, SPACING, record=record)
    assert len(sight.passes) == sight.at  # nothing was run after it
    assert any("SIGTERM" in warning for warning in record.warnings)
    if in_second:
        np.testing.assert_array_equal(labels, in_field(truth))
    else:  # its last tile is not there
        assert (labels == in_field(labels)).all()
        assert np.isin(labels - in_field(truth), (0, 255, 254, 253)).all()
        assert record.stopped
    assert record.dental_field["voxels"] == [[side.start, side.stop] for side in FOUND]


def test_who_watches_sees_one_way_and_can_stop_it_anywhere(folder):
    predictor, seen = load(folder), []
    predictor.predict(head()[0], SPACING, record=Record(), watch=lambda *numbers: seen.append(numbers))
    done, total = zip(*seen)
    assert list(done) == sorted(done)
    assert all(d <= t for d, t in seen)
    assert done[-1] == total[-1] > total[0] / 2
    for at in (0, 3, done[-1] - 2):

        def stop(done, total, at=at):
            if done == at:
                raise Cancelled("enough")

        with pytest.raises(Cancelled, match="enough"):
            predictor.predict(head()[0], SPACING, record=Record(), watch=stop)


# --- clicks -----------------------------------------------------------------------------------------------------------

INSIDE, OUTSIDE = (30, 15, 40), (3, 60, 4)


def at(*places: tuple[int, int, int]) -> Clicks:
    return Clicks(np.array(places, np.float32).reshape(-1, 3), np.arange(len(places)) % 2)


def test_answers_to_clicks_come_from_the_field_whatever_was_kept(clickable, monkeypatch):
    """Clicks inside, outside, none: with what was kept and without, labels are the same; there is one first look."""
    predictor, looks, keeper = load(clickable), [], Keeper(2**30)
    first_look = predictor._first_look
    monkeypatch.setattr(predictor, "_first_look", lambda *given: looks.append(given) or first_look(*given))
    boxes = set()
    for clicks, passes in ((at(INSIDE), 1), (at(INSIDE, OUTSIDE), 1), (at(INSIDE), 1), (at(INSIDE), None), (at(), 1)):
        record, fresh = Record(), Record()
        labels = predictor.predict(head()[0], SPACING, clicks, None, record, passes, None, keeper)
        assert len(looks) == 1
        with pytest.MonkeyPatch.context() as patch:  # nothing kept, but what the look, the same every time, has shown
            patch.setattr(predictor, "_first_look", lambda *given: keeper.first_look)
            expected = predictor.predict(head()[0], SPACING, clicks, None, fresh, passes)
        np.testing.assert_array_equal(labels, expected)
        assert (record.warnings, record.dental_field) == (fresh.warnings, fresh.dental_field)
        box = record.dental_field["voxels"]
        assert all(a <= c < b for place in clicks.coordinates for c, (a, b) in zip(place, box))
        boxes.add(str(box))
        assert keeper.bytes > 0
    assert len(boxes) >= 2


def test_the_network_is_shown_the_clicks_where_they_are(clickable, monkeypatch):
    predictor, record = load(clickable, replace(FIELD, asked=True)), Record()
    sight = Sight(predictor, monkeypatch)
    predictor.predict(head()[0], SPACING, at(INSIDE), record=record)
    assert record.warnings == []
    looks = [clicks for clicks, passes in zip(sight.clicks, sight.passes) if passes == 1]
    assert [len(clicks.labels) for clicks in looks] == [0] * len(looks)  # the first look knows none
    shown = [clicks.coordinates.tolist() for clicks, passes in zip(sight.clicks, sight.passes) if passes == 4]
    tiles = Sweep([max(side.stop - side.start, n) for side, n in zip(FOUND, PATCH)], PATCH, 1.0).tiles
    corners = [[side.start for side in tile.box] for tile in tiles]
    own = np.subtract(INSIDE, [side.start for side in FOUND])
    expected = [[list(own - corner)] if (own >= corner).all() and (own < np.add(corner, PATCH)).all() else []
                for corner in corners]  # fmt: skip
    assert shown == expected
    assert [] in shown
    assert sum(map(len, shown)) > 0


def test_clicks_that_move_it_are_said(clickable, monkeypatch):
    predictor, record = load(clickable, replace(FIELD, asked=True)), Record()
    Sight(predictor, monkeypatch)
    predictor.predict(head()[0], SPACING, at(INSIDE, OUTSIDE), record=record)
    assert record.warnings == ["dental field: found clicks outside of it; placed by the clicks"]


def test_clicks_say_where_it_is_if_nothing_else_does(clickable, monkeypatch):
    predictor, record = load(clickable, replace(FIELD, asked=True)), Record()
    Sight(predictor, monkeypatch)
    predictor.predict(head(teeth=False)[0], SPACING, at(INSIDE, (34, 20, 42)), record=record)
    assert record.warnings == ["dental field: found 0 mm3 of teeth in 15x19x18 mm; placed by the clicks"]
    box = FIELD.around((32, 17.5, 41), SHAPE, SPACING)
    assert record.dental_field["voxels"] == [[side.start, side.stop] for side in box]
