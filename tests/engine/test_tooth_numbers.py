"""Tidied teeth: the truth is that of phantoms, and of ellipsoids along the average arch."""

from __future__ import annotations

import json
import re
from functools import cache

import cc3d
import numpy as np
import pytest
from challenge_names import MULTICLASS as NAME
from challenge_names import STSR
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from stand_in import use_stand_in, write_image, write_model

from umamba2 import cli
from umamba2.anatomy.arches import LOWER_ARCH, UPPER_ARCH, average_place
from umamba2.anatomy.numberings import to_training
from umamba2.challenges import MULTICLASS
from umamba2.engine import tooth_numbers
from umamba2.engine.record import Record
from umamba2.engine.tooth_numbers import CRUMB, MOST_NOTES, Fixed, _contacts, fix_numbers, with_fixed_numbers
from umamba2.scans.geometry import Geometry
from umamba2.scans.volumes import read_labels
from umamba2.synthetic import make_phantom

TEETH = {s.fdi: s.training for s in MULTICLASS.structures if s.fdi}
BONE = 1
SPACING = (1.0, 0.9, 0.8)
CORNER = np.array([-27.0, -8.0, -36.0])  # of the ellipsoids' grid, mm (z, y, x)
SHAPE = (40, 74, 90)
HALF = {1: (3.2, 8), 2: (2.6, 8), 3: (3, 9), 4: (3.1, 8), 5: (3.1, 8), 6: (4.6, 8), 7: (4.6, 8), 8: (4.3, 7)}  # mm
WHOLE = [n for n in (*UPPER_ARCH, *LOWER_ARCH) if n % 10 < 8]


def ellipsoid(fdi: int) -> np.ndarray:
    """Where one tooth of the average arch lies."""
    x, y, z = average_place(fdi)
    across, tall = HALF[fdi % 10]
    grid = [CORNER[axis] + mm * np.arange(n) for axis, (mm, n) in enumerate(zip(SPACING, SHAPE))]
    zz, yy, xx = np.meshgrid(*grid, indexing="ij", sparse=True)
    across *= 0.72 if fdi in (31, 32, 41, 42) else 1
    return ((zz - z) / (tall * 0.85)) ** 2 + ((yy - y) / across) ** 2 + ((xx - x) / across) ** 2 <= 1


@cache
def _arch(numbers: tuple[int, ...]) -> np.ndarray:
    labels = np.full(SHAPE, BONE, np.uint8)
    labels[:5] = labels[-5:] = 0
    for fdi in numbers:
        labels[ellipsoid(fdi)] = TEETH[fdi]
    return labels


def teeth(numbers=WHOLE) -> np.ndarray:
    """Ellipsoids along the average arches, in training ids, within bone."""
    return _arch(tuple(numbers)).copy()


def fixed(labels: np.ndarray, spacing=SPACING) -> Fixed:
    before = labels.copy()
    result = fix_numbers(labels, MULTICLASS.structures, spacing)
    np.testing.assert_array_equal(labels, before)  # the input is left alone
    return result


def renamed(labels: np.ndarray, **new: int) -> np.ndarray:
    """Teeth under other numbers: ``n14=15``."""
    table = np.arange(256, dtype=np.uint8)
    for old, number in new.items():
        table[TEETH[int(old[1:])]] = TEETH[number]
    return table[labels]


# --- what is right stays -----------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.booleans(), st.sampled_from([0, 40, 60]), st.integers(0, 7), st.booleans())
@example(533, True, 0, 0, False)  # a premolar pressed to a molar
@example(534, True, 0, 0, False)  # a small incisor around a canine
def test_right_phantoms_come_out_untouched(seed, randomised, cut, flips, turned):
    """Whole, cut by the field of view, mirrored and turned. Where a true tooth is in parts, the largest stays."""
    phantom = make_phantom(seed, (44, 70, 88), (1.15, 1.15, 1.15), randomised=randomised)
    labels = to_training(MULTICLASS.structures, "dataset")[phantom.labels][:, :, cut:]
    labels = np.flip(labels, [axis for axis in range(3) if flips >> axis & 1])
    if turned:
        labels = labels.transpose(1, 2, 0)
    result = fixed(labels, phantom.spacing)
    assert result.problem == ""
    changed = result.labels != labels
    for tooth in np.unique(labels[changed]):
        parts, count = ndimage.label(labels == tooth, np.ones((3, 3, 3)))
        assert count > 1
        largest = np.bincount(parts.ravel())[1:].argmax() + 1
        assert not changed[parts == largest].any()


@pytest.mark.parametrize("lost", [(), (16,), (36, 37, 46, 47), (11, 21, 31, 41), tuple(range(31, 49))])
def test_arches_with_gaps_come_out_untouched(lost):
    labels = teeth([n for n in WHOLE if n not in lost])
    result = fixed(labels)
    assert result == Fixed(labels)
    assert result.labels is labels


def test_wisdom_teeth_of_their_own_come_out_untouched():
    labels = teeth([*WHOLE, 18, 28, 38, 48])
    assert fixed(labels) == Fixed(labels)


@pytest.mark.parametrize("fill", [0, BONE])
def test_maps_without_teeth_come_out_untouched(fill):
    labels = np.full((5, 6, 7), fill, np.uint8)
    assert fixed(labels).labels is labels
    empty = np.zeros((0, 4, 4), np.uint8)
    assert fixed(empty).labels is empty


# --- pieces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tooth", "false"), [(37, 38), (47, 48), (17, 18), (27, 28)])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.38])
def test_a_wisdom_tooth_split_off_the_second_molar_goes_back(tooth, false, share):
    truth = teeth()
    labels = truth.copy()
    inside = np.argwhere(truth == TEETH[tooth])
    behind = inside[np.argsort(-inside[:, 1], kind="stable")[: int(share * len(inside))]]
    labels[tuple(behind.T)] = TEETH[false]
    result = fixed(labels)
    np.testing.assert_array_equal(result.labels, truth)
    size = len(behind) * np.prod(SPACING)
    assert result.notes == (f"a part of tooth {tooth} of {size:.0f} mm3 named {false} was given to {tooth}",)


def test_the_first_half_of_a_molar_goes_to_the_larger_half():
    """By a premolar's number, as on a real map of teeth."""
    labels = teeth()
    inside = np.argwhere(labels == TEETH[27])
    front = inside[np.argsort(inside[:, 1], kind="stable")[: int(0.36 * len(inside))]]
    labels[tuple(front.T)] = TEETH[14]
    np.testing.assert_array_equal(fixed(labels).labels, teeth())


@pytest.mark.parametrize(("behind", "radius", "least", "most"), [(5.3, 4.5, 0.2, 0.25), (5.9, 3.5, 0.14, 0.18)])
def test_a_ball_too_near_to_a_molar_to_be_another_one_is_a_part_of_it(behind, radius, least, most):
    """As on a real scan, by two models: smaller, and touching with a fifth or a seventh of its surface."""
    labels = teeth()
    x, y, z = average_place(37)
    zz, yy, xx = (np.arange(n).reshape(np.roll((-1, 1, 1), a)) for a, n in enumerate(SHAPE))
    away = ((v * mm + c - at) ** 2 for v, mm, c, at in zip((zz, yy, xx), SPACING, CORNER, (z, y + behind, x)))
    ball = (sum(away) <= radius**2) & (labels == BONE)
    labels[ball] = TEETH[38]
    surface, contact = _contacts((labels == TEETH[37]) + 2 * ball.astype(np.uint8), 3, SPACING)
    assert least < contact[1, 2] / surface[2] < most
    expected = np.where(ball, TEETH[37], labels)
    np.testing.assert_array_equal(fixed(labels).labels, expected)


def test_a_tooth_that_the_field_of_view_cuts_stays():
    y = int((average_place(18)[1] - CORNER[1]) / SPACING[1])
    labels = teeth([*WHOLE, 18, 28])[:, : y - 2]
    assert 0 < np.count_nonzero(labels == TEETH[18]) * np.prod(SPACING) < 300
    assert fixed(labels) == Fixed(labels)


def test_crumbs_go_to_the_tooth_that_they_touch_or_away():
    truth = teeth()
    labels = truth.copy()
    rim = np.argwhere(truth == TEETH[36])
    bottom = rim[rim[:, 0] == rim[:, 0].min()]
    labels[tuple(bottom.T)] = TEETH[37]  # the tip of a root under the neighbour's number
    assert len(bottom) * np.prod(SPACING) < CRUMB
    labels[7:9, 2:4, 2:4] = TEETH[21]  # alone in the bone
    result = fixed(labels)
    expected = truth.copy()
    expected[7:9, 2:4, 2:4] = 0
    np.testing.assert_array_equal(result.labels, expected)
    touching, alone = len(bottom) * np.prod(SPACING), 8 * np.prod(SPACING)
    assert result.notes == (
        f"1 small piece of teeth, {touching:.1f} mm3, given to the teeth that they touch",
        f"1 small piece of teeth, {alone:.1f} mm3, removed",
    )


@pytest.mark.parametrize("at_border", [True, False])
def test_a_crumb_that_is_all_of_its_tooth_stays_at_the_border(at_border):
    labels = teeth([n for n in WHOLE if n != 11])
    labels[0 if at_border else 3, 5:7, 40:42] = TEETH[11]
    assert (fixed(labels).labels == TEETH[11]).any() == at_border


def test_large_parts_of_a_tooth_stay_and_far_small_ones_go():
    labels = teeth()
    whole = labels == TEETH[46]
    planes = np.flatnonzero(whole.any(axis=(1, 2)))
    labels[planes[len(planes) // 2]][whole[planes[len(planes) // 2]]] = BONE  # two root rests
    assert fixed(labels) == Fixed(labels)
    stray = labels.copy()
    stray[8:11, 60:64, 40:44] = TEETH[46]
    result = fixed(stray)
    labels[8:11, 60:64, 40:44] = 0
    np.testing.assert_array_equal(result.labels, labels)
    assert len(result.notes) == 1
    assert "named 46" in result.notes[0]
    assert "was removed" in result.notes[0]


def test_noise_costs_no_time_and_a_bounded_number_of_notes():
    rng = np.random.default_rng(0)
    labels = teeth()
    speckled = np.where(rng.random(SHAPE) < 0.02, rng.integers(11, 43, SHAPE), labels).astype(np.uint8)
    for tooth, false in ((37, 48), (47, 38), (17, 28), (27, 18)):
        inside = np.argwhere(labels == TEETH[tooth])
        speckled[tuple(inside[np.argsort(-inside[:, 1])[:60]].T)] = TEETH[false]
    result = fixed(speckled)
    assert len(result.notes) <= MOST_NOTES + 1
    for fdi in WHOLE:
        own, true = result.labels == TEETH[fdi], labels == TEETH[fdi]
        assert 2 * (own & true).sum() / (own.sum() + true.sum()) > 0.97
        assert ndimage.label(own, np.ones((3, 3, 3)))[1] == 1


def test_many_changes_end_in_one_note():
    labels = teeth()
    for fdi in WHOLE:
        inside = np.argwhere(teeth() == TEETH[fdi])
        if fdi % 10 > 3:
            part = inside[np.argsort(inside[:, 0], kind="stable")[: int(0.14 * len(inside))]]
            labels[tuple(part.T)] = TEETH[fdi - 2]
    result = fixed(labels)
    np.testing.assert_array_equal(result.labels, teeth())
    assert len(result.notes) == MOST_NOTES + 1
    assert re.fullmatch(r"and [1-9] changes more to teeth", result.notes[-1])


# --- numbers -----------------------------------------------------------------------------------------------------

WRONG = [
    ({"n15": 14}, ("two teeth were called 14; the one behind became 15",)),
    ({"n14": 15}, ("two teeth were called 15; the one in front became 14",)),
    ({"n13": 23}, ("two teeth were called 23; the other one became 13",)),
    ({"n16": 46}, ("two teeth were called 46; the other one became 16",)),
    ({"n24": 25, "n25": 24}, tuple(f"the tooth called {a} became {b}, by its place in the arch"
                                   for a, b in ((24, 25), (25, 24)))),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "notes"), WRONG, ids=[str(wrong) for wrong, _ in WRONG])
@pytest.mark.parametrize("lie", ["as is", "mirrored", "turned"])
def test_numbers_are_settled_by_the_arch(wrong, notes, lie):
    truth = teeth()
    turn = {
        "as is": lambda one: one,
        "mirrored": lambda one: one[:, :, ::-1],
        "turned": lambda one: one.transpose(2, 0, 1)[:, ::-1],
    }[lie]
    spacing = SPACING if lie != "turned" else (SPACING[2], SPACING[0], SPACING[1])
    result = fixed(turn(renamed(truth, **wrong)), spacing)
    np.testing.assert_array_equal(result.labels, turn(truth))
    assert result.notes == notes
    assert result.problem == ""


def test_numbers_are_settled_around_a_gap():
    truth = teeth([n for n in WHOLE if n not in (22, 36)])
    np.testing.assert_array_equal(fixed(renamed(truth, n23=18, n35=34)).labels, truth)


def test_numbers_given_twice_without_other_teeth_are_doubted():
    labels = renamed(teeth([14, 17]), n14=17)
    result = fixed(labels)
    assert result.labels is labels
    assert result.problem == "tooth numbers: found 17 twice and too few other teeth to tell; left as they are"


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 2**20))
def test_nothing_but_teeth_is_touched_and_a_second_time_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    labels = teeth()
    table = np.arange(256, dtype=np.uint8)
    some = rng.choice(list(TEETH.values()), 4, replace=False)
    table[some] = rng.choice(list(TEETH.values()), 4)
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) > 0.12
    labels = np.where(smooth & (labels > 10), table[labels], labels)
    result = fixed(labels).labels
    was, now = np.isin(labels, list(TEETH.values())), np.isin(result, list(TEETH.values()))
    np.testing.assert_array_equal(result[~was], labels[~was])
    assert ((result[was] == 0) | now[was]).all()


# --- how ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_surfaces_and_contacts_are_those_of_a_library(seed):
    rng = np.random.default_rng(seed)
    at = rng.integers(0, 5, (7, 8, 9)).astype(np.uint16)
    surface, contact = _contacts(at, 5, (1.0, 1.0, 1.0))
    expected = cc3d.contacts(np.pad(at, 1) + np.uint16(1), connectivity=6)  # with the outside as a label
    assert contact == {(a - 1, b - 1): area for (a, b), area in expected.items() if a > 1}
    for piece in range(1, 5):
        assert surface[piece] == sum(area for pair, area in expected.items() if piece + 1 in pair)


def test_areas_are_those_of_the_spacing():
    at = np.zeros((4, 4, 4), np.uint16)
    at[1, 1:3, 1:3], at[2, 1:3, 1:3] = 1, 2
    surface, contact = _contacts(at, 3, (2.0, 3.0, 5.0))
    assert contact == {(1, 2): 4 * 15.0}
    assert surface[1] == surface[2] == 2 * 4 * 15 + 4 * 10 + 4 * 6


def test_a_failure_costs_a_warning_and_nothing_else(monkeypatch):
    def fail(*_):
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(tooth_numbers, "fix_numbers", fail)
    labels, record = teeth(), Record()
    assert with_fixed_numbers(labels, MULTICLASS, SPACING, record) is labels
    assert record.warnings == ["tooth numbers: found RuntimeError (no memory), going on without"]


# --- from the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def predict(tmp_path, monkeypatch, capfd):
    """Runs `umamba2 predict` on teeth whose 15 is called 14, with a stand-in that finds what grey values say."""
    use_stand_in(monkeypatch)
    grid = Geometry.of_array(SHAPE, SPACING)
    wrong = renamed(teeth(), n15=14)
    image = write_image(
        tmp_path / "scan.nii.gz", np.where(wrong > 0, wrong.astype(np.int16) + 1000, -1000).astype(np.int16), grid
    )

    def run(*options, task=NAME, states=False):
        model = write_model(tmp_path / task, task, task, fix_numbers=states)
        arguments = ["-i", image, "-o", tmp_path / "out", "-m", model, "--numbering", "training", *options]
        code = cli.main(["predict", *map(str, arguments)])
        return code, capfd.readouterr().err

    return run


def test_predict_tells_what_was_changed(predict, tmp_path):
    code, errors = predict("--fix-numbers", "--report", "--statistics", "--strict", "--no-postprocess")
    assert code == 0, errors
    np.testing.assert_array_equal(read_labels(tmp_path / "out/scan.nii.gz")[0], teeth())
    said = "two teeth were called 14; the one behind became 15"
    case = json.loads((tmp_path / "out/run.json").read_text())
    assert case["cases"][0]["notes"] == [said]
    assert case["settings"]["fix_numbers"] is True
    assert f"Changed after the network: {said}." in (tmp_path / "out/scan.report.html").read_text()
    remarks = json.loads((tmp_path / "out/scan.statistics.json").read_text())["remarks"]
    assert {"level": "note", "text": f"Changed after the network: {said}."} in remarks


def test_numbers_stay_as_published_unless_asked(predict, tmp_path):
    code, _ = predict("--no-postprocess")
    assert code == 0
    np.testing.assert_array_equal(read_labels(tmp_path / "out/scan.nii.gz")[0], renamed(teeth(), n15=14))
    case = json.loads((tmp_path / "out/run.json").read_text())
    assert case["cases"][0]["notes"] == []
    assert case["settings"]["fix_numbers"] is False


@pytest.mark.parametrize(
    ("options", "fixed"),
    [
        ((), True), (("--fix-numbers",), True), (("--no-fix-numbers",), False), (("--no-postprocess",), False),
        (("--no-postprocess", "--fix-numbers"), True), (("--challenge", "none"), False),
    ],
)  # fmt: skip
def test_a_model_may_say_so_itself(predict, tmp_path, options, fixed):
    code, errors = predict(*options, states=True)
    assert code == 0, errors
    case = json.loads((tmp_path / "out/run.json").read_text())
    assert case["settings"]["fix_numbers"] is fixed
    assert any("called 14" in note for note in case["cases"][0]["notes"]) is fixed


@pytest.mark.parametrize(
    ("task", "options", "found"), [(STSR, (), "the challenge stsr"), (NAME, ("--challenge", "none"), "no challenge")]
)
def test_models_without_numbered_teeth_are_refused(predict, task, options, found):
    code, errors = predict("--fix-numbers", *options, task=task)
    assert code != 0
    assert f"fix numbers: found {found}, expected" in errors
