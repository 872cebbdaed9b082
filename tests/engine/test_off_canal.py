"""Clicks that the answer passes by are said, and left out of another answer where there is time for one."""

from __future__ import annotations

import time

import numpy as np
import pytest

from umamba2.engine.off_canal import FAR, answered, is_off
from umamba2.engine.record import Record
from umamba2.errors import Cancelled, Terminated
from umamba2.scans.clicks import Clicks

SPACING, SHAPE, CANALS = (0.5, 0.4, 0.3), (20, 30, 60), (7, 4)
LEFT, RIGHT, PULLED = (slice(4, 8), slice(5, 25), slice(48, 52)), (slice(4, 8), slice(5, 25), slice(8, 12)), 5
GOOD, WRONG = ((6, 10, 50), 0), ((18, 28, 30), 0)


def clicks_of(*clicks):
    return Clicks(np.array([at for at, _ in clicks], np.float32).reshape(-1, 3), np.array([side for _, side in clicks]))


class Network:
    """Finds both canals, and the left one elsewhere as soon as a click of that side is high up."""

    def __init__(self, again=None, lost=()):
        self.asked, self.again, self.lost = [], again, lost

    def __call__(self, clicks, record, watch):
        self.asked.append(clicks)
        if len(self.asked) > 1 and self.again is not None:
            self.again(record)
        record.passes_done.append(len(self.asked))
        record.warn(f"answer {len(self.asked)}")
        record.seconds["network"] = record.seconds.get("network", 0.0) + 1.5
        for done in range(3):
            if watch is not None:
                watch(done, 2)
        labels = np.zeros(SHAPE, np.uint8)
        pulled = ((clicks.labels == 0) & (clicks.coordinates[:, 0] > 12)).any()
        labels[LEFT[0], LEFT[1], slice(48 - PULLED, 52 - PULLED) if pulled else LEFT[2]] = CANALS[0]
        labels[RIGHT] = CANALS[1]
        for side in self.lost:
            labels[labels == CANALS[side]] = 0
        return labels

    def answer(self, *clicks, record=None, watch=None, deadline=None, places=None):
        clicks, record = clicks_of(*clicks), Record() if record is None else record
        places = clicks.coordinates if places is None else places
        return answered(self, clicks, places, CANALS, SPACING, record, watch, deadline)


@pytest.mark.parametrize("spacing", [(0.5, 0.4, 0.3), (0.3, 0.3, 0.3), (5.0, 1.0, 2.0)])
def test_a_click_is_off_where_no_voxel_of_its_canal_is_near(spacing):
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((12, 14, 16)) < 0.004, rng.choice(CANALS, (12, 14, 16)), 0).astype(np.uint8)
    places = [tuple(rng.integers(0, labels.shape)) for _ in range(40)] + [(0, 0, 0), (11, 13, 15), (-3, 2, 40)]
    found = []
    for at in places:
        for side, number in enumerate(CANALS):
            steps = (np.argwhere(labels == number) - at) * spacing
            expected = bool(np.sqrt((steps**2).sum(1)).min() > FAR)
            assert is_off(labels, clicks_of((at, side)), 0, CANALS, spacing) == expected
            found.append(expected)
    assert set(found) == {True, False}
    assert is_off(np.zeros_like(labels), clicks_of((at, 0)), 0, CANALS, spacing)
    assert not is_off(labels, clicks_of(((-3, 2, 40), -1)), 0, CANALS, spacing)


@pytest.mark.parametrize("step", [(6, 0, 0), (-6, 0, 0), (0, 3, 0), (0, -3, 0), (0, 0, 1), (0, 0, -1)])
def test_a_voxel_just_that_far_is_near(step):
    labels = np.zeros((15, 15, 15), np.uint8)
    labels[tuple(np.add(step, 7))] = CANALS[1]
    assert FAR == 3
    assert not is_off(labels, clicks_of(((7, 7, 7), 1)), 0, CANALS, (0.5, 1.0, 3.0))
    assert is_off(labels, clicks_of(((7, 7, 7), 1)), 0, CANALS, (0.51, 1.01, 3.01))


def test_followed_clicks_are_asked_about_once():
    network, record = Network(), Record()
    beside = ((6, 24 + int(FAR / 0.4), 50), 0)  # just near enough
    labels = network.answer(GOOD, ((5, 6, 9), 1), beside, ((19, 29, 0), -1), record=record)
    assert len(network.asked) == 1
    assert (labels[LEFT] == CANALS[0]).all()
    assert record.warnings == ["answer 1"]


def test_a_click_that_is_passed_by_is_left_out_of_another_answer_and_said():
    network, record, told = Network(), Record(), []
    record.warn("an odd file")
    record.seconds["network"] = 0.25
    good, right = GOOD, ((5, 6, 9), 1)
    labels = network.answer(
        good, WRONG, right, record=record, watch=lambda *at: told.append(at), places=[[0, 1, 2]] * 3
    )
    first, second = network.asked
    assert first.labels.tolist() == [0, 0, 1]
    assert second.coordinates.tolist() == [list(good[0]), list(right[0])]
    assert second.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(labels, Network().answer(good, right))
    # What is said is what the first answer showed, and what is noted of tiles is the second one's.
    mm = np.sqrt(((18 - 7) * 0.5) ** 2 + ((28 - 24) * 0.4) ** 2 + ((48 - PULLED - 30) * 0.3) ** 2)
    line = f"click 2 (left, voxel (0, 1, 2)) {mm:.1f} mm off the left canal, expected it on it; left out"
    assert record.warnings == ["an odd file", "answer 2", f"clicks: found {line}"]
    assert record.passes_done == [2]
    assert record.seconds["network"] == 3.25
    assert told == [(0, 2), (1, 2), (2, 2), (2, 4), (3, 4), (4, 4)]


def test_what_a_click_lies_on_is_said():
    record = Record()
    Network().answer(((6, 10, 10), 0), record=record)
    assert record.warnings[-1].startswith("clicks: found click 1 (left, voxel (6, 10, 10)) ")
    assert " mm off the left canal and on the right one, expected it on it; left out" in record.warnings[-1]
    record = Record()
    labels = Network(lost=(0,)).answer(GOOD, ((6, 10, 10), 1), record=record)
    assert "click 1 (left, voxel (6, 10, 50)) but no left canal, expected it on one; left out" in record.warnings[-1]
    assert set(np.unique(labels)) == {0, CANALS[1]}


def test_many_are_a_few_lines():
    record = Record()
    Network().answer(*[((19, 29, i), 1) for i in range(9)], record=record)
    lines = record.warnings[1:]
    assert len(lines) == 6
    assert lines[-1] == "clicks: found 4 more off their canals, expected them on them; left out"


def stop(record):
    record.stopped = True


def end(record):
    raise Terminated


def fail(record):
    raise RuntimeError("the accelerator\nfell over")


@pytest.mark.parametrize(
    ("again", "why"),
    [(stop, "the answer without was cut short"), (fail, "without, found RuntimeError"), (end, "without, found ")],
)
def test_where_the_other_answer_fails_the_first_stands(again, why):
    network, record = Network(again), Record()
    labels = network.answer(GOOD, WRONG, record=record)
    np.testing.assert_array_equal(labels, Network()(clicks_of(WRONG), Record(), None))
    assert len(network.asked) == 2
    assert record.warnings[0] == "answer 1"
    assert f"; counted, {why}" in record.warnings[1]
    assert record.passes_done == [1]


def test_without_time_all_clicks_count():
    for deadline, asked in ((time.monotonic() - 1, 1), (time.monotonic() + 1000, 2)):
        network, record = Network(), Record()
        network.answer(GOOD, WRONG, record=record, deadline=deadline)
        assert len(network.asked) == asked
        assert ("no time is left" in record.warnings[-1]) == (asked == 1)
    network, record = Network(), Record(stopped=True)
    network.answer(GOOD, WRONG, record=record)
    assert len(network.asked) == 1


def test_who_watches_can_stop_both():
    def watch(done, total):
        if total == 4:
            raise Cancelled("enough")

    network = Network()
    with pytest.raises(Cancelled, match="enough"):
        network.answer(GOOD, WRONG, watch=watch)
    assert len(network.asked) == 2
