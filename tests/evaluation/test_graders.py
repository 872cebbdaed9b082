"""The three graders on small label files: file names, aggregation, bad input and the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk

from umamba2 import InputError
from umamba2.cli import main
from umamba2.evaluation import evaluate
from umamba2.evaluation.metrics import surface_dice
from umamba2.evaluation.stsr import score_case
from umamba2.evaluation.toothfairy3 import summary

evaluate_multiclass = partial(evaluate, "toothfairy3-multiclass")
evaluate_interactive = partial(evaluate, "toothfairy3-interactive")
evaluate_stsr = partial(evaluate, "stsr")
SHAPE = (6, 8, 10)
DIAGONAL = float(np.sqrt(36 + 64 + 100))


def write(path, labels, spacing=(0.3, 0.3, 0.3), origin=(0, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(labels))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def volume(shape=SHAPE, dtype=np.uint8, **blocks):
    """Labels with cubes of side 2: ``a1=(z, y, x)`` puts label 1 there (the letter only makes keywords unique)."""
    labels = np.zeros(shape, dtype)
    for name, (z, y, x) in blocks.items():
        labels[z : z + 2, y : y + 2, x : x + 2] = int(name[1:])
    return labels


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "g").mkdir()
    return tmp_path / "p", tmp_path / "g"


# ---------------------------------------------------------------------------------------------------------------------
# ToothFairy3, multi-class


def test_multiclass_scores_and_shape(folders):
    predictions, truths = folders
    write(truths / "A.mha", volume(a1=(0, 0, 0), a11=(2, 2, 2), a51=(4, 4, 4)))
    write(predictions / "A.mha", volume(a1=(0, 0, 1), a11=(2, 2, 2), a50=(0, 6, 0)))
    write(truths / "B.nii.gz", volume(a3=(0, 0, 0)))
    write(predictions / "B.mha", volume(a3=(0, 0, 0)))  # the other format will do
    report = evaluate_multiclass(predictions, truths)
    # A: lower jawbone Dice 0.5 and HD95 1, tooth 11 perfect, 51 and pulp in one mask only, 42 classes in neither
    dice_a, hd95_a = (0.5 + 1 + 0 + 0 + 42) / 46, (1 + 0 + 2 * DIAGONAL) / 46
    assert list(report) == ["case", "aggregates", "per_class", "problems"]
    assert list(report["case"]) == ["Dice Average", "HD95 Average", "pred_fname", "gt_fname"]
    assert report["case"]["Dice Average"] == {"0": pytest.approx(dice_a), "1": 1.0}
    assert report["case"]["HD95 Average"] == {"0": pytest.approx(hd95_a), "1": 0.0}
    assert report["case"]["pred_fname"] == {"0": str(predictions / "A.mha"), "1": str(predictions / "B.mha")}
    assert report["case"]["gt_fname"] == {"0": str(truths / "A.mha"), "1": str(truths / "B.nii.gz")}
    assert report["aggregates"]["Dice Average"]["mean"] == pytest.approx((dice_a + 1) / 2)
    assert report["aggregates"]["gt_fname"] == {"count": 2.0, "freq": 1.0}
    assert len(report["per_class"]) == 46
    rows = {row["id"]: row for row in report["per_class"]}
    assert rows[1] == {"id": 1, "name": "lower jawbone", "Dice": 0.75, "HD95": 0.5, "count": 1}
    assert rows[50]["Dice"] == 0.5
    assert rows[50]["count"] == 0
    assert rows[51]["count"] == 1
    assert report["problems"] == []


def test_label_maps(folders):
    predictions, truths = folders
    # The dataset's ids in the ground truth: canals 103-105, a pulp for each tooth.
    write(truths / "A.mha", volume(a103=(0, 0, 0), a105=(2, 2, 2), a111=(4, 4, 4), b148=(0, 6, 6)))
    write(predictions / "A.mha", volume(a51=(0, 0, 0), a53=(2, 2, 2), a50=(4, 4, 4), b50=(0, 6, 6)))
    assert evaluate_multiclass(predictions, truths)["aggregates"]["Dice Average"]["mean"] == 1
    public = evaluate_multiclass(predictions, truths, "public")
    assert public["aggregates"]["Dice Average"]["mean"] == pytest.approx(43 / 46)
    write(predictions / "A.mha", volume(a103=(0, 0, 0), a105=(2, 2, 2), a150=(4, 4, 4), b148=(0, 6, 6)))
    public = evaluate_multiclass(predictions, truths, "public")
    assert public["aggregates"]["Dice Average"]["mean"] == 1
    assert {row["id"] for row in public["per_class"]} >= {103, 104, 105, 150}
    write(predictions / "A.mha", volume(a43=(0, 0, 0), a45=(2, 2, 2), a46=(4, 4, 4), b46=(0, 6, 6)))
    write(truths / "A.mha", volume(a43=(0, 0, 0), a45=(2, 2, 2), a46=(4, 4, 4), b46=(0, 6, 6)))
    assert evaluate_multiclass(predictions, truths, "training")["aggregates"]["Dice Average"]["mean"] == 1
    with pytest.raises(InputError, match="numbering: found 'fdi', expected one of platform, public, training"):
        evaluate_multiclass(predictions, truths, "fdi")


def test_ids_outside_the_numbering_are_listed_with_the_one_that_fits(folders):
    predictions, truths = folders
    write(truths / "A.mha", volume(a1=(0, 0, 0), a28=(2, 2, 2), a50=(4, 4, 4)))
    write(predictions / "A.mha", volume(a1=(0, 0, 0), a26=(2, 2, 2), a46=(4, 4, 4)))
    assert evaluate_multiclass(predictions, truths)["problems"] == []  # 26 and 46 are teeth in both numberings
    write(predictions / "A.mha", volume(a1=(0, 0, 0), a29=(2, 2, 2), a46=(4, 4, 4)))
    (problem,) = evaluate_multiclass(predictions, truths)["problems"]
    expected = "expected ids of the platform numbering (all ids fit the training numbering)"
    assert problem == f"{predictions / 'A.mha'}: found unknown ids 29, {expected}"
    write(predictions / "A.mha", volume(dtype=np.int16, a1=(0, 0, 0), a256=(2, 2, 2), a257=(4, 4, 4)))
    report = evaluate_multiclass(predictions, truths)
    assert report["problems"] == [
        f"{predictions / 'A.mha'}: found unknown ids 256, 257, expected ids of the platform numbering"
    ]
    assert report["per_class"][0]["Dice"] == 1  # 257 has not become 1
    write(truths / "A.mha", volume(a1=(0, 0, 0), a49=(2, 2, 2)))
    write(predictions / "A.mha", volume(a1=(0, 0, 0)))
    (problem,) = evaluate_multiclass(predictions, truths)["problems"]
    assert problem == f"{truths / 'A.mha'}: found unknown ids 49, expected ids of the platform numbering"
    write(predictions / "A.mha", volume(a1=(0, 0, 0), a103=(2, 2, 2)))  # no id of the grader's, so no canal
    report = evaluate_multiclass(predictions, truths)
    assert "found unknown ids 103," in report["problems"][1]
    assert report["aggregates"]["Dice Average"]["mean"] == 1


def test_the_typing_errors_of_the_release_are_the_teeth_that_they_mean(folders):
    predictions, truths = folders
    write(truths / "S_0048.mha", volume(a60=(0, 0, 0), a160=(4, 4, 4)))
    write(predictions / "S_0048.mha", volume(a38=(0, 0, 0), a50=(4, 4, 4)))
    report = evaluate_multiclass(predictions, truths)
    assert report["aggregates"]["Dice Average"]["mean"] == 1
    assert report["problems"] == []
    assert [row["id"] for row in report["per_class"] if row["count"]] == [38, 50]


@pytest.mark.parametrize("challenge", [evaluate_multiclass, evaluate_stsr])
def test_a_mirrored_grid_is_named(folders, challenge):
    predictions, truths = folders
    write(truths / "a_01_Mask.mha", volume(a1=(0, 0, 0)))
    image = sitk.GetImageFromArray(volume(a1=(0, 0, 0)))
    image.SetSpacing((0.3, 0.3, 0.3))
    image.SetOrigin((3, 0, 2))  # as it would be for the same place
    for direction, says in (
        ((-1, 0, 0, 0, 1, 0, 0, 0, 1), "found a grid that is mirrored along x (direction (-1.0, "),
        ((-1, 0, 0, 0, 1, 0, 0, 0, -1), "found a grid that is mirrored along x and z (direction (-1.0, "),
        ((0, 1, 0, 1, 0, 0, 0, 0, 1), "found direction (0.0, 1.0, "),
    ):
        image.SetDirection(direction)
        sitk.WriteImage(image, str(predictions / "a_01_Mask.mha"))
        (problem,) = challenge(predictions, truths)["problems"]
        assert says in problem
        assert problem.endswith("compared voxel by voxel all the same")


def test_results_json_says_which_file_belongs_to_which(tmp_path):
    labels = volume(a1=(0, 0, 0))
    write(tmp_path / "g/A.mha", labels)
    write(tmp_path / "g/B.nii.gz", labels)
    images = tmp_path / "out/images/oral-pharyngeal-segmentation"
    write(images / "first.nii.gz", labels)
    write(images / "second.mha", labels)
    entries = [
        {"inputs": [{"filename": "A_0000.nii.gz"}], "outputs": [{"filename": "first.mha"}]},  # but it is a .nii.gz
        {"inputs": [{"filename": "B.mha"}], "outputs": [{"filename": "second.mha"}]},
        {"inputs": [{"filename": "C.mha"}], "outputs": []},
    ]
    (tmp_path / "out/results.json").write_text(json.dumps(entries))
    report = evaluate_multiclass(tmp_path / "out", tmp_path / "g")
    assert report["problems"] == []
    assert report["aggregates"]["Dice Average"]["mean"] == 1
    for content, says in (('{"not": "a list"}', "found no list of results"), ("[", "found no readable JSON")):
        (tmp_path / "out/results.json").write_text(content)
        with pytest.raises(InputError, match=rf"results.json: {says}"):
            evaluate_multiclass(tmp_path / "out", tmp_path / "g")


def results(folder, *pairs):
    """Write results.json with (input, output) file names."""
    entries = [{"inputs": [{"filename": scan}], "outputs": [{"filename": output}]} for scan, output in pairs]
    (folder / "results.json").write_text(json.dumps(entries))


def test_entries_of_results_json_that_make_no_sense_are_listed(folders):
    predictions, truths = folders
    for case in "AB":
        write(truths / f"{case}.mha", volume(a1=(0, 0, 0)))
        write(predictions / f"{case}.mha", volume(a1=(0, 0, 0)))
    good = {"inputs": [{"filename": "A.mha"}], "outputs": [{"filename": "A.mha"}]}
    bad = [None, 7, "B.mha", [], {"inputs": 3, "outputs": 3}, {"inputs": [{}], "outputs": [{}]},
           {"inputs": {"filename": "B.mha"}, "outputs": [1]},
           {"inputs": [{"filename": 5}], "outputs": [{"filename": None}]}]  # fmt: skip
    (predictions / "results.json").write_text(json.dumps([*bad, good]))
    report = evaluate_multiclass(predictions, truths)
    assert list(report["case"]["Dice Average"].values()) == [1, 0]
    missing, line = report["problems"]
    assert missing == f"{predictions / 'B.mha'}: found no prediction, scored as missing"
    expected = "expected file names of an input and an output; left out"
    path = predictions / "results.json"
    assert line == f"{path}: found {len(bad)} entries, the first of them 0 = null, {expected}"
    path.write_text(json.dumps([good, 7]))
    assert evaluate_multiclass(predictions, truths)["problems"][-1] == f"{path}: found the entry 1 = 7, {expected}"
    path.write_text(json.dumps([7] * 20_000 + [good]))
    assert evaluate_multiclass(predictions, truths)["problems"][1].startswith(f"{path}: found 20,000 entries")
    results(predictions, *((f"{number}.mha", "A.mha") for number in range(3)))
    assert (
        f"{path}: found A.mha for 0.mha and 1.mha and 1 more of that kind, expected one; the last counts"
        in (evaluate_multiclass(predictions, truths)["problems"])
    )
    path.write_text('[{"inputs": [{"filename": "A.mha"}], "outputs": [{"filename": "A.mha", "filename": "B.mha"}]}]')
    with pytest.raises(InputError, match=r"results.json: found no readable JSON .it has 'filename' twice"):
        evaluate_multiclass(predictions, truths)
    strange = [("A.mha", "A.mha"), ("B.mha", "x" * 500), ("B\0.mha", "B\0.mha"), ("C.mha", ".."), ("D.mha", "")]
    results(predictions, *strange)
    assert list(evaluate_multiclass(predictions, truths)["case"]["Dice Average"].values()) == [1, 0]


def test_more_than_one_prediction_of_a_scan(folders):
    predictions, truths = folders
    write(truths / "A.mha", volume(a1=(0, 0, 0)))
    write(predictions / "A.mha", volume(a1=(0, 0, 0)))
    write(predictions / "A.nii.gz", volume())
    report = evaluate_multiclass(predictions, truths)
    assert report["aggregates"]["Dice Average"]["mean"] == 1
    left_out = "found A.mha for the same scan, expected one file; left out"
    assert report["problems"] == [f"{predictions / 'A.nii.gz'}: {left_out}"]
    write(truths / "A.nii.gz", volume())
    files = [folder / "A.nii.gz" for folder in (predictions, truths)]
    assert evaluate_multiclass(predictions, truths)["problems"] == [f"{path}: {left_out}" for path in files]
    files[1].unlink()
    # The grader's table has a row for every output that results.json names.
    write(predictions / "B.mha", volume())
    results(predictions, ("A.mha", "A.mha"), ("A.mha", "B.mha"))
    report = evaluate_multiclass(predictions, truths)
    assert list(report["case"]["Dice Average"].values()) == [1, pytest.approx(45 / 46)]
    assert report["problems"] == [
        f"{predictions / 'B.mha'}: found another prediction of A, expected one; it counts too"
    ]
    # But an output belongs to one scan alone.
    write(truths / "B.mha", volume(a1=(0, 0, 0)))
    results(predictions, ("A.mha", "A.mha"), ("B.mha", "A.mha"))
    report = evaluate_multiclass(predictions, truths)
    assert report["case"]["pred_fname"]["1"] == str(predictions / "A.mha")
    assert report["problems"][-1] == (
        f"{predictions / 'results.json'}: found A.mha for A.mha and B.mha, expected one; the last counts"
    )


def test_missing_and_unreadable_predictions_score_worst_and_are_listed(folders):
    predictions, truths = folders
    for case in "ABC":
        write(truths / f"{case}.mha", volume(a1=(0, 0, 0)))
    write(predictions / "A.mha", volume(a1=(0, 0, 0)))
    (predictions / "B.mha").write_bytes(b"not an image")
    write(predictions / "Z.mha", volume())
    report = evaluate_multiclass(predictions, truths)
    assert list(report["case"]["Dice Average"].values()) == [1, 0, 0]
    assert list(report["case"]["HD95 Average"].values()) == pytest.approx([0, DIAGONAL, DIAGONAL])
    assert [row["count"] for row in report["per_class"]] == [3] + [0] * 45
    unreadable, missing, extra = report["problems"]
    assert str(predictions / "B.mha") in unreadable
    assert missing == f"{predictions / 'C.mha'}: found no prediction, scored as missing"
    assert extra == f"{predictions / 'Z.mha'}: found no ground truth in {truths}, left out"


def test_another_shape_scores_as_missing_another_origin_is_a_remark(folders):
    predictions, truths = folders
    write(truths / "A.mha", volume())
    write(predictions / "A.mha", volume(), origin=(1, 2, 3))
    (problem,) = evaluate_multiclass(predictions, truths)["problems"]
    assert "found origin (1.0, 2.0, 3.0), expected (0.0, 0.0, 0.0)" in problem
    write(truths / "B.mha", volume())
    write(predictions / "B.mha", volume())
    (predictions / "A.mha").unlink()
    missing = evaluate_multiclass(predictions, truths)
    write(predictions / "A.mha", volume((6, 8, 9)))
    report = evaluate_multiclass(predictions, truths)
    (problem,) = report["problems"]
    assert f"A.mha: found shape (6, 8, 9), expected (6, 8, 10) as in {truths / 'A.mha'}; scored as missing" in problem
    assert report["case"] == missing["case"]
    assert report["case"]["Dice Average"]["1"] == 1


def test_truths_called_by_a_channel(folders):
    """As the phantoms are: ``_0000`` may be a channel or a number."""
    predictions, truths = folders
    for name in ("A_0000", "A_0001", "B", "B_0000"):
        write(truths / f"{name}.mha", volume())
    for name in ("A_0000", "A_0001", "B"):
        write(predictions / f"{name}.mha", volume())
    report = evaluate_multiclass(predictions, truths)
    assert list(report["case"]["Dice Average"].values()) == [1, 1, 1, 0]
    assert report["problems"] == [f"{predictions / 'B_0000.mha'}: found no prediction, scored as missing"]


def test_unusable_ground_truth_is_an_error(folders):
    predictions, truths = folders
    with pytest.raises(InputError, match=r"found no \.mha or \.nii\.gz files"):
        evaluate_multiclass(predictions, truths)
    (truths / "A.mha").write_bytes(b"")
    with pytest.raises(InputError, match=r"A.mha: found an empty file"):
        evaluate_multiclass(predictions, truths)
    with pytest.raises(InputError, match="found no such folder"):
        evaluate_multiclass(predictions / "nowhere", truths)


def test_other_integer_types_are_the_same_labels(folders):
    predictions, truths = folders
    write(truths / "A.mha", volume(dtype=np.uint16, a1=(0, 0, 0), a300=(4, 4, 4)))
    write(predictions / "A.mha", volume(dtype=np.int16, a1=(0, 0, 0)) - 7 * volume(dtype=np.int16, b1=(4, 4, 4)))
    assert evaluate_multiclass(predictions, truths)["aggregates"]["Dice Average"]["mean"] == 1


def test_numbers_that_are_no_labels_match_no_class_and_are_listed(folders):
    predictions, truths = folders
    write(truths / "A.mha", volume(a1=(0, 0, 0), a2=(2, 2, 2)))
    odd = volume(dtype=np.float64, a1=(0, 0, 0), a2=(2, 2, 2))
    odd[4:, 4:, 4:] = 1.5
    odd[5, 7, 7:] = np.nan, 257, -1
    write(predictions / "A.mha", odd)
    report = evaluate_multiclass(predictions, truths)
    assert report["aggregates"]["Dice Average"]["mean"] == 1
    (problem,) = report["problems"]
    assert problem == f"{predictions / 'A.mha'}: found the value 1.5, expected whole numbers; scored as it is"
    write(truths / "A.mha", odd)
    with pytest.raises(InputError, match=r"g.A.mha: found the value 1.5, expected whole numbers"):
        evaluate_multiclass(predictions, truths)


def test_summary_is_what_pandas_describes():
    values = [0.5, 0.25, 1.0, 0.75]
    assert summary(values) == pytest.approx(
        {"count": 4, "mean": 0.625, "std": (0.3125 / 3) ** 0.5, "min": 0.25, "25%": 0.4375, "50%": 0.625,
         "75%": 0.8125, "max": 1}
    )  # fmt: skip
    assert summary([0.5])["std"] is None
    assert summary(["a", "b", "a"]) == {"count": 3.0, "freq": 2.0}


# ---------------------------------------------------------------------------------------------------------------------
# ToothFairy3, interactive


def test_interactive_integrates_over_the_runs(folders):
    predictions, truths = folders
    truth = volume(a1=(0, 0, 0), a2=(4, 4, 4))
    write(truths / "S_01.mha", truth)
    for run in range(6):  # the right canal is right from the start, the left one from the third run on
        left = (0, 0, 0) if run >= 2 else (0, 0, 1)
        write(predictions / f"S_01_{run}.mha", volume(a1=left, a2=(4, 4, 4)))
    report = evaluate_interactive(predictions, truths)
    # Dice 0.75, 0.75, 1, 1, 1, 1 and HD95 0.5, 0.5, 0, 0, 0, 0
    case = str(truths / "S_01.mha")
    assert report["case"] == {
        "Dice_AUC": {case: 4.625},
        "Dice_Final": {case: 1.0},
        "HD95_AUC": {case: 0.75},
        "HD95_Final": {case: 0.0},
    }
    assert list(report["aggregates"]) == ["Dice_AUC", "Dice_Final", "HD95_AUC", "HD95_Final"]
    assert report["aggregates"]["Dice_AUC"]["mean"] == pytest.approx(4.625)
    left, right = report["per_class"]
    assert left == {"id": 1, "name": "left inferior alveolar canal", "Dice": pytest.approx(5 / 6),
                    "HD95": pytest.approx(1 / 3), "count": 6}  # fmt: skip
    assert right["Dice"] == 1
    assert report["problems"] == []


def test_interactive_runs_that_are_missing_score_worst(folders):
    predictions, truths = folders
    for case in ("S", "T"):
        write(truths / f"{case}.nii.gz", volume(a1=(0, 0, 0), a2=(4, 4, 4)))
    for run in (0, 1, 2, 3, 5):
        write(predictions / f"S_{run}.nii.gz", volume(a1=(0, 0, 0), a2=(4, 4, 4)))
    report = evaluate_interactive(predictions, truths)
    assert list(report["case"]["Dice_AUC"].values()) == [4, 0]
    assert list(report["case"]["Dice_Final"].values()) == [1, 0]
    assert list(report["case"]["HD95_AUC"].values()) == pytest.approx([DIAGONAL, 5 * DIAGONAL])
    assert list(report["case"]["HD95_Final"].values()) == pytest.approx([0, DIAGONAL])
    assert len(report["problems"]) == 7
    assert report["problems"][0] == f"{predictions / 'S_4.nii.gz'}: found no prediction, scored as missing"


def official_scores(dices, names):
    """AUC and Final as the published script has them: a data frame sorted by the number in the name, np.trapz."""
    numbers = [int(found[1]) if (found := re.search(r"_(\d+)\.(nii\.gz|mha)$", name)) else -1 for name in names]
    values = np.array([value for _, value in sorted(zip(numbers, dices), key=lambda pair: pair[0])])
    return float(((values[1:] + values[:-1]) / 2).sum()), float(values[-1])


@pytest.mark.parametrize("extra", [["S_6.mha"], ["S_01.mha"], ["S_x.mha"], ["S.mha"], ["S_7.nii.gz", "S_00.mha"]])
@pytest.mark.parametrize("listed", [True, False])
def test_interactive_runs_too_many_count_as_in_the_grader_and_are_listed(folders, extra, listed):
    predictions, truths = folders
    write(truths / "S.mha", volume(a1=(0, 0, 0), a2=(4, 4, 4)))
    names = [*(f"S_{run}.mha" for run in range(6)), *extra]
    dices = [0.75 if run % 2 else 1.0 for run in range(len(names))]
    for name, value in zip(names, dices):
        write(predictions / name, volume(a1=(0, 0, 0) if value == 1 else (0, 0, 1), a2=(4, 4, 4)))
    if listed:
        results(predictions, *((name, name) for name in names))
    report = evaluate_interactive(predictions, truths)
    auc, final = official_scores(dices, names)
    case = str(truths / "S.mha")
    assert (report["case"]["Dice_AUC"][case], report["case"]["Dice_Final"][case]) == pytest.approx((auc, final))
    found = sorted(
        re.findall(r"found a run too many \((.*?)\), expected S_0 to S_5, one each", str(report["problems"]))
    )
    if extra == ["S_01.mha"] and not listed:  # of two that are the same run, the second is one too many
        extra = ["S_1.mha"]
    assert found == sorted(name.partition(".")[0] for name in extra)


def test_interactive_outputs_may_have_other_names_than_the_scans(folders):
    predictions, truths = folders
    write(truths / "S.mha", volume(a1=(0, 0, 0)))
    for run in range(6):
        write(predictions / f"{'abcdef'[run]}.mha", volume(a1=(0, 0, 0) if run else (4, 4, 4)))
    results(predictions, *((f"S_{run}.mha", f"{'abcdef'[run]}.mha") for run in range(6)))
    report = evaluate_interactive(predictions, truths)
    assert report["aggregates"]["Dice_AUC"]["mean"] == 4.75
    assert report["problems"] == []


def test_interactive_results_json(tmp_path):
    write(tmp_path / "g/S.mha", volume(a1=(0, 0, 0)))
    names = [f"S_{run}.mha" for run in range(6)]
    for name in names:
        write(tmp_path / "out/images/iac-segmentation" / name, volume(a1=(0, 0, 0)))
    entries = [{"inputs": [{"filename": name}], "outputs": [{"filename": name}]} for name in reversed(names)]
    (tmp_path / "out/results.json").write_text(json.dumps(entries))
    report = evaluate_interactive(tmp_path / "out", tmp_path / "g")
    assert report["aggregates"]["Dice_AUC"]["mean"] == 5
    assert report["problems"] == []


# ---------------------------------------------------------------------------------------------------------------------
# STSR


def test_stsr_pools_instances_over_cases(folders):
    predictions, truths = folders
    write(truths / "STS25_Validation_01_Mask.nii.gz", volume(a1=(0, 0, 0), a2=(4, 4, 4)))
    write(predictions / "STS25_Validation_01_mask.nii.gz", volume(a1=(0, 0, 0), a2=(4, 4, 5), a3=(4, 0, 8)))
    write(truths / "STS25_Validation_02_Mask.nii.gz", volume(a1=(2, 2, 2)))
    write(predictions / "x_02_y.mha", volume(a1=(2, 2, 2)))
    report = evaluate_stsr(predictions, truths)
    # Case 01: foreground 16 against 24 voxels, 12 in common; label 2 overlaps with 4 of 12; 3 is in one map only.
    image_dice, image_iou = 24 / 40, 12 / 28
    expected = {
        "Dice_Image": (image_dice + 1) / 2,
        "IoU_Image": (image_iou + 1) / 2,
        "Dice_Instance": (1 + 0.5 + 1) / 3,
        "IoU_Instance": (1 + 1 / 3 + 1) / 3,
        "NSD_Instance": 1,  # nothing is 2 mm off
        "IA": (1 / 3 + 1) / 2,
    }
    for name, value in expected.items():
        assert report[name] == pytest.approx(value), name
    assert 0.5 < report["NSD_Image"] <= 1
    names = ["Dice_Image", "IoU_Image", "NSD_Image", "Dice_Instance", "IoU_Instance", "NSD_Instance", "IA"]
    assert list(report) == [*names, "All_Average", "case", "per_class", "problems"]
    assert report["All_Average"] == pytest.approx(np.mean([report[name] for name in names]))
    assert report["case"]["02"] == dict.fromkeys([*names, "All_Average"], 1.0)
    assert report["per_class"] == [
        {"id": 1, "name": "tooth", "Dice": 1.0, "IoU": 1.0, "NSD": 1.0, "count": 2},
        {"id": 2, "name": "pulp", "Dice": 0.5, "IoU": pytest.approx(1 / 3), "NSD": 1.0, "count": 1},
    ]
    assert report["problems"] == []


def test_stsr_measures_in_millimetres_along_each_axis(folders):
    surface_distance = pytest.importorskip("surface_distance")
    predictions, truths = folders
    truth, found = np.zeros((2, 12, 14, 16), bool)
    truth[2:7, 3:9, 4:10] = found[4:9, 4:10, 7:13] = True  # thick slices: most of the surface is over 2 mm off
    write(truths / "a_01_Mask.nii.gz", truth.astype(np.uint8), (0.2, 0.7, 1.5))
    write(predictions / "a_01_Mask.nii.gz", found.astype(np.uint8), (0.2, 0.7, 1.5))

    def official(spacing):
        distances = surface_distance.compute_surface_distances(truth, found, spacing)
        return surface_distance.compute_surface_dice_at_tolerance(distances, 2.0)

    assert abs(official((1.5, 0.7, 0.2)) - official((0.2, 0.7, 1.5))) > 0.05
    report = evaluate_stsr(predictions, truths)
    assert report["NSD_Image"] == report["NSD_Instance"] == pytest.approx(official((1.5, 0.7, 0.2)))


def test_stsr_tolerates_two_millimetres_and_lists_what_a_prediction_holds():
    truth, found = np.zeros((2, 16, 6, 6), np.uint8)
    truth[2:8], found[5:11] = 3, 3
    for mm in (0.65, 0.68):  # 1.95 and 2.04 mm apart
        same = score_case(truth, found, (mm, 5.0, 5.0))
        assert same.image[2] == surface_dice(truth > 0, found > 0, (mm, 5.0, 5.0), 2.0)
        assert (same.image[2] > 0.9) == (mm < 0.67)
    assert score_case(truth, np.zeros_like(truth), (1.0, 1.0, 1.0)).predicted == ()


def test_stsr_a_label_that_overlaps_by_half_is_identified(folders):
    predictions, truths = folders
    half = volume(a3=(2, 2, 2))
    half[3] = 0
    write(truths / "a_01_Mask.nii.gz", volume(a3=(2, 2, 2)))
    write(predictions / "a_01_Mask.nii.gz", half)
    report = evaluate_stsr(predictions, truths)
    assert (report["IoU_Instance"], report["IA"]) == (0.5, 1)
    half[2, 2, 2] = 0
    write(predictions / "a_01_Mask.nii.gz", half)
    assert evaluate_stsr(predictions, truths)["IA"] == 0


def test_stsr_ids_that_are_no_class_are_listed(folders):
    predictions, truths = folders
    write(truths / "a_01_Mask.nii.gz", volume(a12=(2, 2, 2)))
    write(predictions / "a_01_Mask.nii.gz", volume(a12=(2, 2, 2), a13=(4, 4, 4)))
    report = evaluate_stsr(predictions, truths)
    assert report["IA"] == 0.5
    assert report["per_class"][0]["name"] == "wisdom tooth"
    path = predictions / "a_01_Mask.nii.gz"
    assert report["problems"] == [f"{path}: found unknown ids 13, expected ids of the platform numbering"]


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.float32])
@pytest.mark.parametrize("which", ["prediction", "truth", "both", "neither"])
def test_stsr_says_that_values_below_0_are_background(folders, kind, which):
    predictions, truths = folders
    files = [truths / "a_01_Mask.nii.gz", predictions / "a_01_Mask.nii.gz"]
    odd = [path for path, name in zip(files, ("truth", "prediction")) if which in (name, "both")]
    for path in files:
        labels = volume(dtype=kind, a1=(0, 0, 0))
        write(path, np.where(labels == 0, kind(-1), labels) if path in odd else labels)
    report = evaluate_stsr(predictions, truths)
    assert (report["Dice_Image"], report["IA"]) == (1, 1)
    said = "found values down to -1, expected 0 or more; those below 0 are background"
    assert report["problems"] == [f"{path}: {said}" for path in odd]


def test_what_has_no_ground_truth_is_one_line(tmp_path):
    truths, predictions = tmp_path / "truths", tmp_path / "predictions"
    for suffix, grade in (("", evaluate_multiclass), ("_Mask", evaluate_stsr)):
        write(truths / f"a_0{suffix}.nii.gz", volume(a1=(0, 0, 0)))
        for number in range(4):
            write(predictions / f"a_{number}{suffix}.nii.gz", volume(a1=(0, 0, 0)))
        (line,) = grade(predictions, truths)["problems"]
        first = predictions / f"a_1{suffix}.nii.gz"
        assert line == f"{first} and 2 more: found no ground truth in {truths}, left out"
        for path in (*truths.iterdir(), *predictions.iterdir()):
            path.unlink()


def test_stsr_missing_and_unreadable_predictions(folders):
    predictions, truths = folders
    for case in ("01", "02", "03"):
        write(truths / f"a_{case}_Mask.nii.gz", volume(a1=(0, 0, 0)))
    write(predictions / "a_01_Mask.nii.gz", volume(a1=(0, 0, 0)))
    (predictions / "a_02_Mask.nii.gz").write_bytes(b"nothing")
    write(predictions / "a_04_Mask.nii.gz", volume())
    report = evaluate_stsr(predictions, truths)
    for name in ("Dice_Image", "IoU_Image", "NSD_Image", "IA"):
        assert report[name] == pytest.approx(1 / 3)
    assert report["Dice_Instance"] == 1  # as in the grader, there is no instance without a prediction
    assert len(report["problems"]) == 3
    assert report["problems"][1] == "case 03 (a_03_Mask.nii.gz): found no prediction, scored as missing"
    assert "a_04_Mask.nii.gz: found no ground truth" in report["problems"][2]


def test_stsr_resamples_another_grid(folders):
    predictions, truths = folders
    truth = volume((12, 12, 12), a1=(2, 2, 2), a5=(6, 6, 6))
    write(truths / "a_01_Mask.nii.gz", truth, (0.5, 0.5, 0.5))
    fine = truth.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    write(predictions / "a_01_Mask.nii.gz", fine, (0.25, 0.25, 0.25), (-0.125, -0.125, -0.125))
    report = evaluate_stsr(predictions, truths)
    assert report["All_Average"] == 1
    assert "resampled" in report["problems"][0]
    # Cut off in front: what is missing is background.
    write(predictions / "a_01_Mask.nii.gz", truth[5:], (0.5, 0.5, 0.5), (0, 0, 2.5))
    rows = evaluate_stsr(predictions, truths)["per_class"]
    assert [(row["id"], row["Dice"]) for row in rows] == [(1, 0), (5, 1)]


def test_stsr_grids_that_differ_in_origin_alone_are_compared_as_they_are(folders):
    predictions, truths = folders
    write(truths / "a_01_Mask.nii.gz", volume(a1=(0, 0, 0)))
    write(predictions / "a_01_Mask.nii.gz", volume(a1=(0, 0, 0)), origin=(5, 5, 5))
    report = evaluate_stsr(predictions, truths)
    assert report["All_Average"] == 1
    assert "found origin" in report["problems"][0]


def test_stsr_empty_maps_and_strange_labels(folders):
    predictions, truths = folders
    write(truths / "a_01_x.nii.gz", volume())
    write(predictions / "a_01_x.nii.gz", volume())
    report = evaluate_stsr(predictions, truths)
    assert report["Dice_Image"] == report["IoU_Image"] == report["NSD_Image"] == report["IA"] == 1
    assert report["per_class"] == []
    write(predictions / "a_01_x.nii.gz", volume(a1=(0, 0, 0)))
    report = evaluate_stsr(predictions, truths)
    assert report["Dice_Image"] == report["IoU_Image"] == report["NSD_Image"] == report["IA"] == 0
    strange = volume(dtype=np.int16, a400=(0, 0, 0)) - volume(dtype=np.int16, b1=(4, 4, 4))  # -1 is background
    write(truths / "a_01_x.nii.gz", strange)
    write(predictions / "a_01_x.nii.gz", strange)
    report = evaluate_stsr(predictions, truths)
    assert report["All_Average"] == 1
    assert report["per_class"][0]["name"] == "label 400"


def test_stsr_stray_ids_cost_no_memory_and_no_time(folders):
    predictions, truths = folders
    labels = volume(dtype=np.uint32, a1=(0, 0, 0), a2=(4, 4, 4))
    write(truths / "a_01_Mask.mha", labels)
    labels[5, 7, 9] = 4_000_000_000
    write(predictions / "a_01_Mask.mha", labels)
    report = evaluate_stsr(predictions, truths)
    assert report["IA"] == pytest.approx(2 / 3)
    assert [row["id"] for row in report["per_class"]] == [1, 2]
    write(truths / "a_01_Mask.mha", labels)
    report = evaluate_stsr(predictions, truths)
    assert report["All_Average"] == 1
    assert report["per_class"][-1]["id"] == 4_000_000_000
    # A scan in place of a label map: every grey value is a label too many.
    scan = np.arange(labels.size).reshape(labels.shape).astype(np.float32) + 0.5
    write(predictions / "a_01_Mask.mha", scan)
    report = evaluate_stsr(predictions, truths)
    assert report["IA"] == report["Dice_Instance"] == 0
    assert report["problems"][0].endswith("found the value 0.5, expected whole numbers; scored as it is")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_stsr_more_labels_than_any_map_has(folders, kind):
    """Each of a scan's grey values would be compared everywhere, for hours."""
    predictions, truths = folders
    labels = volume((12, 12, 12), a1=(0, 0, 0))
    scan = (np.arange(labels.size).reshape(labels.shape) * (100 if kind == np.int32 else 1)).astype(kind)
    write(truths / "a_01_Mask.nii.gz", labels)
    write(predictions / "a_01_Mask.nii.gz", scan)
    report = evaluate_stsr(predictions, truths)
    assert report["All_Average"] == 0
    (problem,) = report["problems"]
    assert problem.endswith(
        ": found more than 1,000 labels, expected a label map with at most 1,000; scored as missing"
    )
    write(truths / "a_01_Mask.nii.gz", scan)
    write(predictions / "a_01_Mask.nii.gz", labels)
    with pytest.raises(InputError, match=r"Mask\.nii\.gz: found more than 1,000 labels, expected a label map"):
        evaluate_stsr(predictions, truths)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_stsr_numbers_that_are_not_finite_cost_their_case_alone(folders, number):
    predictions, truths = folders
    labels = volume(a1=(0, 0, 0), a2=(4, 4, 4))
    for case in ("01", "02"):
        write(truths / f"a_{case}_Mask.nii.gz", labels)
        write(predictions / f"a_{case}_Mask.nii.gz", labels)
    write(predictions / "a_01_Mask.nii.gz", np.where(labels == 2, number, labels).astype(np.float32))
    report = evaluate_stsr(predictions, truths)
    assert report["case"]["01"]["Dice_Instance"] == pytest.approx(0.5)
    assert report["case"]["02"]["All_Average"] == 1
    (problem,) = report["problems"]
    assert f"a_01_Mask.nii.gz: found the value {number}, expected whole numbers" in problem


@pytest.mark.parametrize("challenge", ["toothfairy3-multiclass", "toothfairy3-interactive", "stsr"])
def test_what_is_odd_about_a_file_is_listed(folders, challenge):
    """In metres, all surfaces are within two millimetres of each other."""
    predictions, truths = folders
    run = "_0" if challenge == "toothfairy3-interactive" else ""
    paths = [truths / "a_01_Mask.mha", predictions / f"a_01_Mask{run}.mha"]
    for path in paths:
        write(path, volume((80, 80, 80), a1=(0, 0, 0)), (0.0003, 0.0003, 0.0003))
    problems = evaluate(challenge, predictions, truths)["problems"]
    for path in paths:
        assert sum(f"{path}: found a voxel size of 0.0003 x 0.0003 x 0.0003 mm" in problem for problem in problems) == 1


def test_stsr_ambiguous_or_nameless_files(folders):
    predictions, truths = folders
    write(truths / "nameless.nii.gz", volume())
    with pytest.raises(InputError, match="found no ground truth, expected files named like"):
        evaluate_stsr(predictions, truths)
    write(truths / "a_01_Mask.nii.gz", volume())
    problems = evaluate_stsr(predictions, truths)["problems"]
    assert f"{truths / 'nameless.nii.gz'}: found no case in the name, expected" in problems[1]
    write(truths / "b_01_Mask.nii.gz", volume())
    with pytest.raises(InputError, match="expected one file each"):
        evaluate_stsr(predictions, truths)


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def test_command_line(folders, capsys):
    predictions, truths = folders
    for case in "AB":
        write(truths / f"{case}.mha", volume(a1=(0, 0, 0), a103=(4, 4, 4)))
        write(predictions / f"{case}.mha", volume(a1=(0, 0, 0), a51=(4, 4, 4)))
    out = predictions.parent / "new/metrics.json"
    arguments = ["evaluate", "toothfairy3-multiclass", "-p", str(predictions), "-g", str(truths), "-o", str(out)]
    assert main([*arguments, "--workers", "2"]) == 0
    assert "Dice Average 1.0000  HD95 Average 0.0000" in capsys.readouterr().out
    assert json.loads(out.read_text()) == evaluate_multiclass(predictions, truths)
    capsys.readouterr()
    assert main([*arguments, "--label-map", "public"]) == 1
    warning = capsys.readouterr().err.splitlines()[0]
    assert warning.endswith("expected ids of the public numbering (all ids fit the platform numbering)")
    assert json.loads(out.read_text())["aggregates"]["Dice Average"]["mean"] == pytest.approx(45 / 46)
    (predictions / "B.mha").unlink()
    assert main(arguments) == 1
    assert "B.mha: found no prediction, scored as missing" in capsys.readouterr().err
    (truths / "A.mha").write_bytes(b"")
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_command_line_of_the_other_challenges(folders, capsys):
    predictions, truths = folders
    out = predictions.parent / "metrics.json"
    folder_arguments = ["-p", str(predictions), "-g", str(truths), "-o", str(out)]
    write(truths / "S.mha", volume(a1=(0, 0, 0)))
    for run in range(6):
        write(predictions / f"S_{run}.mha", volume(a1=(0, 0, 0)))
    assert main(["evaluate", "toothfairy3-interactive", *folder_arguments]) == 0
    assert "Dice_AUC 5.0000  Dice_Final 1.0000" in capsys.readouterr().out
    write(truths / "a_01_Mask.nii.gz", volume(a1=(0, 0, 0)))
    for run in range(6):
        (predictions / f"S_{run}.mha").unlink()
    (truths / "S.mha").unlink()
    write(predictions / "a_01_Mask.nii.gz", volume(a1=(0, 0, 0)))
    assert main(["evaluate", "stsr", *folder_arguments]) == 0
    assert "All_Average 1.0000" in capsys.readouterr().out
    assert json.loads(out.read_text())["All_Average"] == 1
    with pytest.raises(SystemExit):
        main(["evaluate", "stsr", *folder_arguments, "--workers", "0"])


def test_the_scores_never_overwrite_what_they_are_of(folders, capsys):
    predictions, truths = folders
    write(truths / "A.mha", volume())
    write(predictions / "images/oral-pharyngeal-segmentation/A.mha", volume())
    results(predictions, ("A.mha", "A.mha"))
    link = truths.parent / "scores.json"
    link.symlink_to(predictions / "results.json")
    files = [path for path in truths.parent.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    arguments = ["evaluate", "toothfairy3-multiclass", "-p", str(predictions), "-g", str(truths), "-o"]
    for path in files:
        assert main([*arguments, str(path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"error: {predictions}: found an input as its output ({path}), expected another place"
    assert {path: path.read_bytes() for path in files} == before
    assert link.is_symlink()
    assert main([*arguments, str(predictions / "metrics.json")]) == 0
    assert main([*arguments, str(predictions / "metrics.json")]) == 0  # earlier scores are no input
    capsys.readouterr()
    assert main([*arguments, str(predictions)]) == 1
    assert "found an input as its output" in capsys.readouterr().err
    assert main([*arguments, str(truths.parent)]) == 1
    assert "could not be written (it is no regular file), expected" in capsys.readouterr().err


def test_messages_reach_any_terminal(folders):
    predictions, truths = (folder / "Zähne\u2028" for folder in folders)
    write(truths / "A.mha", volume())
    code = "import sys; from umamba2.cli import main; sys.exit(main())"
    arguments = ["evaluate", "toothfairy3-multiclass", "-p", str(predictions), "-g", str(truths)]
    predictions.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "-o", str(predictions / "m.json")],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.decode("ascii").splitlines()
    assert line.startswith("warning: ")
    assert line.endswith("found no prediction, scored as missing")
    (line,) = done.stdout.decode("ascii").splitlines()
    assert "Dice Average 0.0000" in line


def test_an_interrupt_costs_one_line(folders, tmp_path):
    predictions, truths = folders
    for case in "ABC":
        write(truths / f"{case}.mha", volume())
        write(predictions / f"{case}.mha", volume())
    # Processes are spawned, so what they run has to be in a file.
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        f"def wait(*_, **__):\n    open({str(tmp_path / 'm.json.')!r} + str(os.getpid()), 'w')\n    time.sleep(60)\n"
    )
    code = (
        "import signal, sys, slow, umamba2.evaluation.toothfairy3 as grader; grader._score_case = slow.wait\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored by what is started in the background
        "from umamba2.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["evaluate", "toothfairy3-multiclass", "-p", str(predictions), "-g", str(truths), "--workers", "2"]
    out = tmp_path / "m.json"
    started = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "-o", str(out)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("m.json.*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)  # what a terminal does for Ctrl-C
    _, errors = started.communicate(timeout=30)
    assert started.returncode == 130
    assert errors == "error: interrupted\n"


def test_asking_for_help_loads_no_libraries():
    code = (
        "import sys, umamba2.cli; umamba2.cli._parser([]);"
        "print([m for m in ('scipy', 'edt', 'SimpleITK', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
