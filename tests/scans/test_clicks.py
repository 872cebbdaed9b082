from __future__ import annotations

import json
import math

import numpy as np
import pytest
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from stand_in import write_clicks

from umamba2.errors import InputError
from umamba2.scans.clicks import (
    MOST_CLICKS,
    NAMES,
    Clicks,
    click_file,
    find_click_file,
    mirrored,
    no_clicks,
    read_clicks,
    simulate_clicks,
)

SHAPE = (20, 30, 40)


def test_reads_the_platforms_file(tmp_path):
    path = write_clicks(tmp_path / "c.json", ("Left_IAC", [1, 2, 3]), ("Right_IAC", [19.25, 29, 39]))
    clicks, warnings = read_clicks(path, SHAPE)
    assert warnings == ()
    assert clicks.coordinates.dtype == np.float32
    assert clicks.labels.dtype == np.int64
    np.testing.assert_array_equal(clicks.coordinates, [[1, 2, 3], [19.25, 29, 39]])
    np.testing.assert_array_equal(clicks.labels, [0, 1])


def test_no_points_are_no_clicks(tmp_path):
    clicks, warnings = read_clicks(write_clicks(tmp_path / "c.json"), SHAPE)
    assert clicks.coordinates.shape == (0, 3)
    assert clicks.labels.shape == (0,)
    assert warnings == ()


@pytest.mark.parametrize(
    ("bad", "found", "expected"),
    [
        ({"point": [20, 0, 0], "name": "Left_IAC"}, "[20, 0, 0]", "shape (20, 30, 40)"),
        ({"point": [0, -1, 0], "name": "Left_IAC"}, "[0, -1, 0]", "inside"),
        ({"point": [0, 0, 10**400], "name": "Left_IAC"}, "[0, 0, 1000", "inside"),
        ({"point": [0, 0, float("nan")], "name": "Left_IAC"}, "nan", "finite"),
        ({"point": [0, 0, float("-inf")], "name": "Left_IAC"}, "-inf", "finite"),
        ({"point": [0, 0], "name": "Left_IAC"}, "[0, 0]", "three numbers"),
        ({"point": [0, 0, 0, 0], "name": "Left_IAC"}, "[0, 0, 0, 0]", "three numbers"),
        ({"point": [0, 0, "1"], "name": "Left_IAC"}, "'1'", "three numbers"),
        ({"point": [0, 0, True], "name": "Left_IAC"}, "True", "three numbers"),
        ({"point": {"z": 1}, "name": "Left_IAC"}, "{'z': 1}", "three numbers"),
        ({"name": "Left_IAC"}, "None", "three numbers"),
        ({"point": [0, 0, 0], "name": "Middle_IAC"}, "'Middle_IAC'", "Left_IAC or Right_IAC"),
        ({"point": [0, 0, 0]}, "None", "Left_IAC or Right_IAC"),
        ({"point": [0, 0, 0], "name": ["Left_IAC"]}, "['Left_IAC']", "Left_IAC or Right_IAC"),
        ([0, 0, 0], "[0, 0, 0]", "object"),
        ("x\ny" * 100, "x\\ny", "object"),
    ],
)
def test_a_bad_click_is_left_out_with_one_line(tmp_path, bad, found, expected):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"points": [{"point": [5, 6, 7], "name": "Right_IAC"}, bad]}))
    clicks, warnings = read_clicks(path, SHAPE)
    np.testing.assert_array_equal(clicks.coordinates, [[5, 6, 7]])
    (warning,) = warnings
    assert warning.startswith(f"{path}: click 2 left out, found ")
    assert found in warning
    assert "expected" in warning
    assert expected in warning
    assert "\n" not in warning
    assert len(warning) < len(str(path)) + 250


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"3", b"{}", b'{"points": 3}', b"[" * 100_000, b'{"points": null}']
)
def test_a_file_that_is_no_click_file_is_refused(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_clicks(path, SHAPE)
    message = str(caught.value)
    assert message.startswith(f"{path}: found")
    assert "expected" in message
    assert "\n" not in message


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no\.json: found no such file, expected the clicks"):
        read_clicks(tmp_path / "no.json", SHAPE)


def test_search_order(tmp_path):
    case = "P_12_left_3"
    assert find_click_file(tmp_path, case) is None
    assert click_file(tmp_path, case) == tmp_path / "iac_clicks_P_3.json"
    for name in ("my-clicks-5.json", f"iac_clicks_{case}.json", "iac_clicks_P_3.json"):  # each beats the one before
        write_clicks(tmp_path / name)
        assert find_click_file(tmp_path, case) == tmp_path / name


def test_what_is_in_the_place_of_a_click_file(tmp_path):
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "folder.json").mkdir()
    for name, found in (("loop", "a link that leads nowhere"), ("folder", "a folder"), ("no", "no such file")):
        with pytest.raises(InputError, match=rf"{name}\.json: found {found}, expected the clicks of this case"):
            read_clicks(tmp_path / f"{name}.json", SHAPE)


@pytest.mark.parametrize("length", [125, 240, 248])
def test_names_that_are_nearly_too_long(tmp_path, length):
    case, other = "a" * length, "b" * length
    expected = tmp_path / f"iac_clicks_{case}.json"  # the platform's name has all of it twice
    assert find_click_file(tmp_path, case, [case, other]) is None
    assert click_file(tmp_path, case, [case, other]) == expected
    with pytest.raises(InputError, match="found no such file, expected the clicks of this case"):
        read_clicks(expected, SHAPE)
    if length < 240:
        write_clicks(expected)
        assert find_click_file(tmp_path, case, [case, other]) == expected


def test_several_candidates_are_none(tmp_path):
    write_clicks(tmp_path / "iac_clicks_a_0.json")
    write_clicks(tmp_path / "iac_clicks_b_0.json")
    assert find_click_file(tmp_path, "c_0") is None


def test_files_of_other_cases_are_left_to_them(tmp_path):
    write_clicks(tmp_path / "iac_clicks_a_1.json")
    assert find_click_file(tmp_path, "a_0", ["a_0", "a_1"]) is None
    write_clicks(tmp_path / "clicks.json")
    assert find_click_file(tmp_path, "a_0", ["a_0", "a_1"]) == tmp_path / "clicks.json"


def test_six_runs_of_one_case_find_their_own_files(tmp_path):
    cases = [f"P5_{run}" for run in range(6)]
    for case in cases:
        write_clicks(tmp_path / f"iac_clicks_{case}.json")
    assert [find_click_file(tmp_path, case, cases).name for case in cases] == [f"iac_clicks_{c}.json" for c in cases]


def test_patients_who_share_the_short_name(tmp_path):
    cases = ["P_1_0", "P_2_0"]
    write_clicks(tmp_path / "iac_clicks_P_0.json")
    assert [find_click_file(tmp_path, case, cases) for case in cases] == [None, None]
    assert click_file(tmp_path, "P_2_0", cases) == tmp_path / "iac_clicks_P_2_0.json"
    own = write_clicks(tmp_path / "iac_clicks_P_1_0.json")
    assert [find_click_file(tmp_path, case, cases) for case in cases] == [own, None]
    assert find_click_file(tmp_path, "P_1_0", ["P_1_0"]) == tmp_path / "iac_clicks_P_0.json"


clicks_in_shape = st.lists(
    st.tuples(*(st.integers(0, n - 1) for n in SHAPE), st.sampled_from([-1, 0, 1])), max_size=6
).map(lambda rows: np.array(rows, dtype=np.int64).reshape(-1, 4))


@given(clicks_in_shape, st.sets(st.sampled_from([0, 1, 2])))
def test_mirrored_clicks_lie_on_the_same_voxels(rows, axes):
    clicks = Clicks(rows[:, :3].astype(np.float32), rows[:, 3])
    image = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    flipped = np.flip(image, sorted(axes))
    result = mirrored(clicks, axes, SHAPE)
    for before, after in zip(clicks.coordinates.astype(int), result.coordinates.astype(int)):
        assert image[tuple(before)] == flipped[tuple(after)]
    expected = np.array([{0: 1, 1: 0, -1: -1}[label] for label in rows[:, 3]], dtype=np.int64)
    np.testing.assert_array_equal(result.labels, expected if 2 in axes else rows[:, 3])
    twice = mirrored(result, axes, SHAPE)
    np.testing.assert_array_equal(twice.coordinates, clicks.coordinates)
    np.testing.assert_array_equal(twice.labels, clicks.labels)


def test_mirroring_leaves_its_input_alone():
    clicks = Clicks(np.array([[1, 2, 3]], np.float32), np.array([0]))
    mirrored(clicks, (0, 1, 2), SHAPE)
    np.testing.assert_array_equal(clicks.coordinates, [[1, 2, 3]])
    np.testing.assert_array_equal(clicks.labels, [0])


def test_empty_can_be_mirrored():
    assert mirrored(no_clicks(), (0, 1, 2), SHAPE).coordinates.shape == (0, 3)


def test_click_protocol():
    mask = np.zeros((100, 40, 40), bool)
    mask[10:90, 15:22, 15:22] = True
    rng = np.random.default_rng(0)
    for _ in range(50):
        clicks = simulate_clicks(mask, rng)
        assert all(mask[c] for c in clicks)
        z = np.array([c[0] for c in clicks])
        assert z[0] in range(10, 16)
        assert z[-1] in range(84, 90)
        assert np.all(np.abs(z - np.linspace(z[0], z[-1], 5)) <= 6)
        assert all(abs(c[i] - 18) <= 3 for c in clicks for i in (1, 2))


def test_clicks_fall_back_to_a_voxel_of_the_slice():
    mask = np.zeros((20, 40, 40), bool)
    mask[:, 5, 5] = mask[:, 35, 35] = True  # nothing near the median
    clicks = simulate_clicks(mask, np.random.default_rng(1), count=9)
    assert len(clicks) == 9
    assert {c[1:] for c in clicks} == {(5, 5), (35, 35)}


def test_clicks_skip_empty_slices_and_empty_masks():
    mask = np.zeros((30, 8, 8), bool)
    mask[[3, 25], 4, 4] = True
    assert all(mask[c] for c in simulate_clicks(mask, np.random.default_rng(0)))
    assert simulate_clicks(np.zeros((3, 3, 3), bool), np.random.default_rng(0)) == []


@pytest.mark.parametrize(("axis", "size"), list(enumerate(SHAPE)))
def test_a_voxel_reaches_half_way_to_the_next(tmp_path, axis, size):
    """Clicks between the centre and the border of an outermost voxel are inside."""
    for place, inside in ((-0.3, True), (-0.5, True), (-0.51, False), (size - 0.7, True), (size - 0.5, False)):
        point = [5, 5, 5]
        point[axis] = place
        clicks, warnings = read_clicks(write_clicks(tmp_path / "c.json", ("Left_IAC", point)), SHAPE)
        assert (len(clicks.labels), len(warnings)) == ((1, 0) if inside else (0, 1)), place


def test_more_clicks_than_anybody_makes(tmp_path):
    many = [("Left_IAC", [1, 2, 3])] * MOST_CLICKS + [("Right_IAC", [4, 5, 6])] * 3
    path = write_clicks(tmp_path / "c.json", *many[:-3])
    clicks, warnings = read_clicks(path, SHAPE)
    assert (len(clicks.labels), warnings) == (MOST_CLICKS, ())
    clicks, warnings = read_clicks(write_clicks(path, *many), SHAPE)
    assert clicks.coordinates.shape == (MOST_CLICKS, 3)
    assert not clicks.labels.any()
    assert warnings == (f"{path}: found 1,003 clicks, expected at most 1,000; the others left out",)


def test_many_bad_clicks_cost_a_handful_of_lines(tmp_path):
    path = write_clicks(tmp_path / "c.json", *[("Left_IAC", [99, 0, 0])] * 12_345, ("Left_IAC", [1, 2, 3]))
    clicks, warnings = read_clicks(path, SHAPE)
    assert len(clicks.labels) == 1
    assert len(warnings) == 6
    assert warnings[4].startswith(f"{path}: click 5 left out")
    assert warnings[5] == f"{path}: found 12,340 more clicks of that kind, expected none; left out, too"


def test_a_click_file_of_absurd_size_is_not_read(tmp_path):
    path = tmp_path / "c.json"
    with open(path, "wb") as file:
        file.truncate(10**9)  # takes no space
    with pytest.raises(InputError, match=r"c.json: found 1,000,000,000 bytes, expected at most 8,000,000"):
        read_clicks(path, SHAPE)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
points = st.fixed_dictionaries(
    {},
    optional={
        "point": values | st.lists(st.integers(-2, 50) | st.floats(), min_size=3, max_size=3),
        "name": values | st.sampled_from(list(NAMES)),
    },
)


@fuzzed(200)
@given(content=values | st.fixed_dictionaries({"points": values | st.lists(points | values, max_size=5)}))
def test_whatever_a_click_file_holds(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    if not isinstance(content, dict) or not isinstance(content.get("points"), list):
        with pytest.raises(InputError, match=r"any\.json: found "):
            read_clicks(path, SHAPE)
        return
    clicks, warnings = read_clicks(path, SHAPE)
    assert clicks.coordinates.shape == (len(clicks.labels), 3)
    assert len(clicks.labels) + len(warnings) == len(content["points"])
    assert ((clicks.coordinates >= -0.5) & (clicks.coordinates <= np.array(SHAPE) - 0.5)).all()
    assert all("\n" not in warning for warning in warnings)


def test_clicks_that_are_stated_twice_are_not_half_read(tmp_path):
    path = tmp_path / "clicks.json"
    path.write_text('{"points": [{"point": [1, 2, 3], "name": "Left_IAC"}], "points": []}')
    with pytest.raises(InputError, match=r"found no readable JSON \(it has 'points' twice\), expected a click file"):
        read_clicks(path, (7, 11, 13))


@pytest.mark.parametrize("shape", [(12, 12, 12), (9, 512, 801), (1, 2, 65536)])
def test_clicks_at_the_very_edge_stay_in_the_image(tmp_path, shape):
    path = tmp_path / "clicks.json"
    points = [[math.nextafter(size - 0.5, 0) for size in shape], [-0.5, -0.5, -0.5], [size - 1 for size in shape]]
    path.write_text(json.dumps({"points": [{"point": point, "name": "Left_IAC"} for point in points]}))
    clicks, warnings = read_clicks(path, shape)
    assert warnings == ()
    last = [size - 1 for size in shape]
    np.testing.assert_array_equal(np.rint(clicks.coordinates), [last, [0, 0, 0], last])
