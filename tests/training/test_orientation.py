"""How label maps lie is told by the labels, not by the headers."""

from __future__ import annotations

import itertools
import json
import logging

import numpy as np
import pytest
import SimpleITK as sitk
from downloads import phantom, toothfairy3

from umamba2.challenges.stsr import STSR
from umamba2.challenges.toothfairy3 import INTERACTIVE, MULTICLASS
from umamba2.training.convert import convert
from umamba2.training.orientation import common_code, measured_code

CODES = [
    "".join(letters) for order in itertools.permutations(("LR", "PA", "SI")) for letters in itertools.product(*order)
]


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_is_measured(code):
    image = sitk.GetImageFromArray(phantom(0).labels)
    image.SetSpacing((2.0, 2.0, 2.0))
    array = sitk.GetArrayFromImage(sitk.DICOMOrient(image, code))
    assert measured_code(array, MULTICLASS.structures, (2, 2, 2)) == code


def test_what_does_not_show_it_is_not_guessed():
    labels = phantom(0).labels
    assert measured_code(labels[:, :, : labels.shape[2] // 2], MULTICLASS.structures, (2, 2, 2)) is None
    assert measured_code(np.where(labels < 5, labels, 0), MULTICLASS.structures, (2, 2, 2)) is None
    assert measured_code(phantom(0).stsr_labels, STSR.structures, (2, 2, 2)) is None
    assert measured_code(np.zeros_like(labels), MULTICLASS.structures, (2, 2, 2)) is None


def test_most_cases_decide():
    assert common_code(["LPS"] * 4 + ["RAS", None]) == "LPS"
    assert common_code(["LPS"] * 3 + ["RAS"]) is None
    assert common_code([None]) is common_code([]) is None


@pytest.mark.parametrize("challenge", [MULTICLASS, INTERACTIVE])
def test_a_dataset_says_how_its_arrays_lie_and_where_headers_contradict(tmp_path, caplog, challenge):
    source = toothfairy3(tmp_path / "in")
    liar = source / "imagesTr/ToothFairy3P_002_0000.nii.gz"
    for path in (liar, source / "labelsTr/ToothFairy3P_002.nii.gz"):
        image = sitk.ReadImage(str(path))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(path))
    with caplog.at_level(logging.INFO):
        folder = convert(challenge, source, tmp_path / "raw")
    assert json.loads((folder / "dataset.json").read_text())["orientation"] == "LPS"
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    warnings = [line for line in said if "found the orientation" in line]
    assert warnings == [f"{liar}: found the orientation RAS, expected LPS, as the labels lie"]
