"""Ours against evalutils 0.4.2 itself, the library behind the organisers' templates."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from challenge_names import INTERACTIVE, MULTICLASS, STSR
from stand_in import StandIn, scan, write_clicks, write_image, write_model

from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError
from umamba2.jobs import list_cases, run
from umamba2.segmenter import Segmenter

evalutils = pytest.importorskip("evalutils", reason="evalutils is not installed (pip install evalutils==0.4.2)")
if not hasattr(evalutils, "SegmentationAlgorithm"):
    pytest.skip("this evalutils has no SegmentationAlgorithm (0.4.2 was the last)", allow_module_level=True)

from umamba2.jobs.evalutils import ToothFairy3Algorithm  # noqa: E402


@pytest.fixture
def mount(tmp_path):
    """Both tasks' input: three images, clicks for two of them, one of those unusable."""
    for i, name in enumerate(("P2_1.mha", "P10_0.mha", "P2_0.nii.gz")):
        write_image(tmp_path / "in/images/cbct" / name, scan((1, 1 + i), (46, 4 + i)))
    write_clicks(tmp_path / "in/iac_clicks_P2_1.json", ("Left_IAC", [1, 5, 5]))
    write_clicks(tmp_path / "in/iac_clicks_P10_0.json", ("Left_IAC", [99, 5, 5]))
    return tmp_path / "in"


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("task", [MULTICLASS, INTERACTIVE])
def test_the_subclass_equals_the_container(mount, tmp_path, task):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    challenge = CHALLENGES[task]
    first, second = StandIn(task), StandIn(task)
    run(challenge, list_cases(challenge, mount, ours), Segmenter(first, challenge), ours)
    ToothFairy3Algorithm(task, Segmenter(second, CHALLENGES[task]), input_path=mount, output_path=theirs).process()
    assert files(theirs) == files(ours) - {"metadata/run.json"}  # the record of the run is ours alone
    assert (theirs / "results.json").read_bytes() == (ours / "results.json").read_bytes()
    for name in files(theirs) - {"results.json"}:
        a, b = sitk.ReadImage(str(ours / name)), sitk.ReadImage(str(theirs / name))
        assert a.GetPixelID() == b.GetPixelID() == sitk.sitkUInt8
        assert a.GetSize() == b.GetSize()
        assert a.GetSpacing() == b.GetSpacing()
        assert a.GetOrigin() == b.GetOrigin()
        assert a.GetDirection() == b.GetDirection()
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(a), sitk.GetArrayViewFromImage(b))
    for (_, _, a), (_, _, b) in zip(first.calls, second.calls):
        if task == INTERACTIVE:
            np.testing.assert_array_equal(a.coordinates, b.coordinates)
            np.testing.assert_array_equal(a.labels, b.labels)


def test_results_equal_those_of_a_template(mount, tmp_path):
    # What participants' templates do, with none of our code in it.
    class Template(evalutils.SegmentationAlgorithm):
        def predict(self, *, input_image):
            return sitk.Cast(input_image > 0, sitk.sitkUInt8)

    theirs = tmp_path / "theirs"
    (theirs / "images").mkdir(parents=True)
    folder = theirs / CHALLENGES[MULTICLASS].output_folder
    Template(
        input_path=mount / "images/cbct", output_path=folder, output_file=theirs / "results.json", validators={}
    ).process()
    ours = tmp_path / "ours"
    challenge = CHALLENGES[MULTICLASS]
    run(challenge, list_cases(challenge, mount, ours), Segmenter(StandIn(MULTICLASS), challenge), ours)
    assert files(ours) - {"metadata/run.json"} == files(theirs)
    assert (ours / "results.json").read_bytes() == (theirs / "results.json").read_bytes()


def test_problems_become_error_messages(mount, tmp_path, capsys):
    segmenter = Segmenter(StandIn(INTERACTIVE), CHALLENGES[INTERACTIVE], all_clicks=True)
    ToothFairy3Algorithm(INTERACTIVE, segmenter, input_path=mount, output_path=tmp_path).process()
    messages = [entry["error_messages"] for entry in json.loads((tmp_path / "results.json").read_text())]
    assert [len(lines) for lines in messages] == [1, 1, 0]
    assert "expected voxels (z, y, x) inside an image" in messages[0][0]
    assert "found no such file" in messages[1][0]
    assert capsys.readouterr().err.splitlines() == [f"warning: {messages[0][0]}", f"warning: {messages[1][0]}"]


def test_wrong_challenges_and_models(tmp_path):
    with pytest.raises(InputError, match="found 'stsr', expected one of ToothFairy3's"):
        ToothFairy3Algorithm(STSR, Segmenter(StandIn(STSR), CHALLENGES[STSR]))
    with pytest.raises(InputError, match="found a segmenter for toothfairy3-interactive, expected one"):
        ToothFairy3Algorithm(MULTICLASS, Segmenter(StandIn(INTERACTIVE), CHALLENGES[INTERACTIVE]))
    with pytest.raises(InputError, match="found no model"):
        ToothFairy3Algorithm(MULTICLASS, model=write_model(tmp_path / "x" / STSR, STSR).parent)
