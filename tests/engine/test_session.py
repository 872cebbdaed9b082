"""Clicks that come one by one: places, sides, history, and what changed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from stand_in import OBLIQUE

from umamba2.engine.session import Click, Session
from umamba2.errors import Cancelled, InputError
from umamba2.scans.clicks import Clicks, read_clicks
from umamba2.scans.geometry import Geometry
from umamba2.scans.orientation import to_patient
from umamba2.scans.volumes import Volume

SHAPE = OBLIQUE.shape


def session(geometry: Geometry = OBLIQUE) -> Session:
    """Labels the clicked voxels, left 1 and right 2; ends with the clicks themselves."""

    def look(clicks, record, watch):
        if watch is not None:
            watch(0, 1)
        labels = np.zeros(geometry.shape, np.uint8)
        for place, label in zip(clicks.coordinates.astype(int), clicks.labels):
            labels[tuple(place)] = label + 1
        if len(clicks.labels) == 3:
            record.warn("three clicks")
        return labels

    volume = Volume(np.zeros(geometry.shape, np.int16), geometry, ("odd file",))
    return Session(volume, {1: "left", 2: "right"}, look, lambda clicks, watch: clicks)


def replayed(one: Session) -> np.ndarray:
    """What the clicks that a session says it has should give."""
    labels = np.zeros(SHAPE, np.uint8)
    for click in one.clicks:
        labels[click.voxel] = 1 if click.side == "left" else 2
    return labels


def test_clicks_come_go_and_move_and_each_answer_says_what_changed():
    one = session()
    assert one.clicks == ()
    assert not one.labels.any()
    assert one.look().changed is None
    answer = one.click("left", voxel=(1, 2, 3))
    assert answer.changed == ((1, 2, 3), (2, 3, 4))
    assert answer.labels.tolist() == [[[1]]]
    one.click("right", voxel=(5, 8, 11))
    assert one.clicks == (Click(1, "left", (1, 2, 3)), Click(2, "right", (5, 8, 11)))
    answer = one.move(1, voxel=(2, 2, 5))
    assert answer.changed == ((1, 2, 3), (3, 3, 6))
    np.testing.assert_array_equal(answer.labels, one.labels[1:3, 2:3, 3:6])
    assert one.move(1, voxel=(2, 2, 5), side="right").labels.tolist() == [[[2]]]
    assert one.remove(2).labels.tolist() == [[[0]]]
    assert one.clicks == (Click(1, "right", (2, 2, 5)),)
    for expected in (
        (Click(1, "right", (2, 2, 5)), Click(2, "right", (5, 8, 11))),
        (Click(1, "left", (2, 2, 5)), Click(2, "right", (5, 8, 11))),
        (Click(1, "left", (1, 2, 3)), Click(2, "right", (5, 8, 11))),
        (Click(1, "left", (1, 2, 3)),),
        (),
    ):
        one.undo()
        assert one.clicks == expected
        np.testing.assert_array_equal(one.labels, replayed(one))
    with pytest.raises(InputError, match="undo: found nothing to take back"):
        one.undo()
    assert one.click("left", voxel=(0, 0, 0)).changed
    assert one.clicks == (Click(3, "left", (0, 0, 0)),)  # no id comes twice


def test_what_changed_is_the_smallest_box_that_holds_it():
    rng, one = np.random.default_rng(0), session()
    for _ in range(60):
        before = one.labels
        if one.clicks and rng.random() < 0.4:
            answer = one.remove(int(rng.choice([click.id for click in one.clicks])))
        else:
            answer = one.click(str(rng.choice(["left", "right"])), voxel=rng.integers(0, SHAPE))
        where = np.argwhere(before != one.labels)
        if not len(where):
            assert (answer.changed, answer.labels) == (None, None)
            continue
        assert answer.changed == (tuple(where.min(0)), tuple(where.max(0) + 1))
        patched = before.copy()
        patched[tuple(slice(a, b) for a, b in zip(*answer.changed))] = answer.labels
        np.testing.assert_array_equal(patched, one.labels)
        assert answer.seconds >= 0


@pytest.mark.parametrize(
    "geometry",
    [
        OBLIQUE,
        Geometry((13, 11, 7), (0.3, 0.3, 0.3)),
        Geometry((13, 11, 7), (0.3, 0.4, 0.5), (5, -7, 9), (-1, 0, 0, 0, -1, 0, 0, 0, 1)),
        Geometry((13, 11, 7), (0.3, 0.4, 0.5), (5, -7, 9), (0, 0, 1, 1, 0, 0, 0, 1, 0)),
    ],
)
def test_millimetres_are_the_headers(geometry):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.zeros(geometry.shape, np.uint8))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    one = session(geometry)
    for z, y, x in np.random.default_rng(1).integers(0, geometry.shape, (20, 3)).tolist():
        one.click("left", position_mm=image.TransformIndexToPhysicalPoint((x, y, z)))
        assert one.clicks[-1].voxel == (z, y, x)
    corner = to_patient(geometry, np.array([[-0.49, -0.49, 12.49]]))[0]
    one.click("left", position_mm=corner)
    assert one.clicks[-1].voxel == (0, 0, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": "Left", "voxel": (1, 1, 1)}, "side: found 'Left', expected left or right"),
        ({"side": 0, "voxel": (1, 1, 1)}, "side: found 0"),
        ({"side": None, "voxel": (1, 1, 1)}, "side: found None"),
        ({"side": ["left"], "voxel": (1, 1, 1)}, "side: found"),
        ({"side": "left"}, "found neither of a position in mm and a voxel"),
        ({"side": "left", "voxel": (1, 1, 1), "position_mm": (1, 1, 1)}, "found both"),
        ({"side": "left", "voxel": (1, 1)}, r"voxel: found \(1, 1\), expected three finite numbers"),
        ({"side": "left", "voxel": (1, np.nan, 1)}, "voxel: found"),
        ({"side": "left", "voxel": (1, 10**400, 1)}, "voxel: found"),
        ({"side": "left", "voxel": "abc"}, "voxel: found 'abc'"),
        ({"side": "left", "voxel": 7}, "voxel: found 7"),
        ({"side": "left", "position_mm": (np.inf, 0, 0)}, "position: found"),
        ({"side": "left", "voxel": (-1, 0, 0)}, r"voxel: found voxel \(-1, 0, 0\), expected a place inside a scan of"),
        ({"side": "left", "voxel": (0, 0, 13)}, "inside a scan of shape"),
        ({"side": "left", "position_mm": (1000, 0, 0)}, r"position: found \(1000, 0, 0\) mm \(LPS\), voxel"),
    ],
)
def test_what_is_no_click(arguments, message):
    one = session()
    one.click("right", voxel=(1, 1, 1))
    before = one.labels
    with pytest.raises(InputError, match=message) as caught:
        one.click(**arguments)
    assert "\n" not in str(caught.value)
    if arguments["side"] == "left":
        with pytest.raises(InputError, match=message):
            one.move(1, **arguments)
    assert (len(one.clicks), one.labels is before) == (1, True)


def test_ids_that_are_not_there():
    one = session()
    with pytest.raises(InputError, match="found the id 1, expected one of none"):
        one.remove(1)
    one.click("left", voxel=(0, 0, 0))
    for wrong in (2, "1", None):
        with pytest.raises(InputError, match="expected one of 1"):
            one.move(wrong, voxel=(0, 0, 0))


def test_who_stops_a_click_leaves_everything_as_it_was():
    one = session()
    one.click("left", voxel=(1, 1, 1))
    one.click("left", voxel=(2, 2, 2))
    clicks, labels = one.clicks, one.labels

    def stop(done, total):
        raise Cancelled

    for call in (
        lambda: one.click("right", voxel=(3, 3, 3), watch=stop),
        lambda: one.move(1, voxel=(3, 3, 3), watch=stop),
        lambda: one.remove(1, watch=stop),
        lambda: one.undo(watch=stop),
        lambda: one.replace(watch=stop),
        lambda: one.look(watch=stop),
    ):
        with pytest.raises(Cancelled):
            call()
        assert one.clicks is clicks
        assert one.labels is labels
    one.undo()
    assert len(one.clicks) == 1


def test_the_click_file_comes_back_and_files_replace_clicks(tmp_path):
    one = session()
    one.click("right", voxel=(5, 8, 11))
    one.click("left", voxel=(1, 2, 3))
    (tmp_path / "a.json").write_text(one.click_file())
    saved, remarks = read_clicks(tmp_path / "a.json", SHAPE)
    assert remarks == ()
    np.testing.assert_array_equal(saved.coordinates, one.finish().coordinates)
    np.testing.assert_array_equal(saved.labels, one.finish().labels)
    assert saved.coordinates.dtype == one.finish().coordinates.dtype
    one.replace()
    assert one.clicks == ()
    one.replace(tmp_path / "a.json")
    assert [(click.side, click.voxel) for click in one.clicks] == [("right", (5, 8, 11)), ("left", (1, 2, 3))]
    one.undo()
    one.undo()
    assert [click.id for click in one.clicks] == [1, 2]
    one.replace(Clicks(np.array([[1, 1, 1]]), np.array([1])))
    assert one.clicks[0].side == "right"
    content = {"points": [{"point": [0, 0, 0], "name": "Left_IAC"}, {"point": [99, 0, 0], "name": "Left_IAC"}]}
    (tmp_path / "b.json").write_text(json.dumps(content))
    answer = one.replace(tmp_path / "b.json")
    assert len(one.clicks) == 1
    assert "click 2 left out" in answer.warnings[0]
    for wrong in (
        tmp_path / "none.json",
        Clicks(np.array([[99, 0, 0]]), np.array([1])),
        Clicks(np.array([[1, 0, 0]]), np.array([-1])),
        Clicks(np.zeros((1001, 3)), np.zeros(1001, np.int64)),
    ):
        with pytest.raises(InputError):
            one.replace(wrong)
    assert len(one.clicks) == 1


def test_there_is_an_end_to_clicks():
    one = session()
    one.replace(Clicks(np.zeros((1000, 3)), np.zeros(1000, np.int64)))
    with pytest.raises(InputError, match="found 1,000 already"):
        one.click("left", voxel=(0, 0, 0))


def test_warnings_are_kept_and_said_once():
    one = session()
    assert one.warnings == ("odd file",)
    for i in range(3):
        answer = one.click("left", voxel=(i, 0, 0))
    assert answer.warnings == ("three clicks",)
    one.undo()
    assert one.click("left", voxel=(4, 0, 0)).warnings == ("three clicks",)
    assert one.warnings == ("odd file", "three clicks")
