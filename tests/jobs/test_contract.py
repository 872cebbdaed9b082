from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR, TASKS
from stand_in import StandIn, image_folder, scan, write_clicks, write_image, write_model

from umamba2.challenges import CHALLENGES
from umamba2.engine.postprocess import postprocess
from umamba2.errors import InputError
from umamba2.jobs import find_images, list_cases, recognise, run
from umamba2.jobs import locate as locate_module
from umamba2.models.locate import find_model
from umamba2.scans.clicks import Clicks
from umamba2.scans.volumes import read_labels, read_volume
from umamba2.segmenter import Segmenter, check_model

# --- recognising ------------------------------------------------------------------------------------------------------


def test_recognises_each_platforms_mount(tmp_path):
    for task in TASKS:
        write_image(image_folder(task, tmp_path / task) / "a_0.nii.gz", scan())
    write_clicks(tmp_path / INTERACTIVE / "iac_clicks_a_0.json")
    for task in TASKS:
        assert recognise(tmp_path / task).name == task


def test_recognises_flat_folders(tmp_path):
    write_image(tmp_path / "flat" / "a.mha", scan())
    assert recognise(tmp_path / "flat").name == MULTICLASS
    write_clicks(tmp_path / "flat" / "clicks.json")
    assert recognise(tmp_path / "flat").name == INTERACTIVE


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("key", ["socket", "interface"])
def test_recognises_sockets(tmp_path, key, encoding):
    image = {key: {"slug": "cbct-image", "relative_path": "images/scan"}}
    clicks = {key: {"slug": "iac-clicks", "relative_path": "c.json"}}
    (tmp_path / "inputs.json").write_text(json.dumps([image]), encoding=encoding)
    assert recognise(tmp_path).name == MULTICLASS
    (tmp_path / "inputs.json").write_text(json.dumps([image, clicks]), encoding=encoding)
    assert recognise(tmp_path).name == INTERACTIVE
    path = write_image(tmp_path / "images/scan/a.mha", scan())
    assert find_images(CHALLENGES[INTERACTIVE], tmp_path) == [path]


def test_recognises_whichever_mount_is_in_use(tmp_path, monkeypatch):
    grand, codabench = tmp_path / "input", tmp_path / "inputs"
    mounted = {
        name: replace(c, mounts=(str(codabench if name == STSR else grand), str(tmp_path / "out")))
        for name, c in CHALLENGES.items()
    }
    monkeypatch.setattr(locate_module, "CHALLENGES", mounted)
    with pytest.raises(InputError, match=r"input or .*inputs: found no input of a known challenge, expected"):
        recognise()
    grand.mkdir()  # the image has both folders
    write_image(codabench / "a.nii.gz", scan())
    assert recognise().name == STSR
    write_image(grand / "images/cbct/a.mha", scan())
    assert recognise().name == MULTICLASS


def test_mixed_endings_are_no_bare_challenge_and_hidden_files_are_nothing(tmp_path):
    write_image(tmp_path / "a.nii.gz", scan())
    assert recognise(tmp_path).name == STSR
    (tmp_path / "._b.mha").write_bytes(b"what an archive from a Mac leaves")
    assert recognise(tmp_path).name == STSR
    write_image(tmp_path / "b.mha", scan())
    assert recognise(tmp_path).name == MULTICLASS


def test_nothing_to_recognise(tmp_path):
    with pytest.raises(InputError, match="found no input of a known challenge"):
        recognise(tmp_path)
    with pytest.raises(InputError, match="found no input of a known challenge"):
        recognise(tmp_path / "absent")


# --- finding images ---------------------------------------------------------------------------------------------------


def test_images_are_sorted_and_hidden_ones_left_out(tmp_path):
    folder = tmp_path / "images/cbct"
    for name in ("b.mha", "a_2.nii.gz", "a_10.nrrd", "c.tif"):
        write_image(folder / name, scan(), None)
    (folder / ".hidden.mha").touch()
    (folder / "notes.txt").touch()
    found = find_images(CHALLENGES[MULTICLASS], tmp_path)
    assert [path.name for path in found] == ["a_10.nrrd", "a_2.nii.gz", "b.mha", "c.tif"]


def test_bare_images_count_for_toothfairy_too(tmp_path):
    path = write_image(tmp_path / "a.mha", scan())
    assert find_images(CHALLENGES[MULTICLASS], tmp_path) == [path]


@pytest.mark.parametrize("content", ["", "{", "3", "[3]", '[{"socket": 3}]', '[{"socket": {"relative_path": 3}}]'])
def test_a_useless_inputs_file_does_no_harm(tmp_path, content):
    (tmp_path / "inputs.json").write_text(content)
    path = write_image(tmp_path / "images/cbct/a.mha", scan())
    assert find_images(CHALLENGES[MULTICLASS], tmp_path) == [path]


def test_sockets_do_not_lead_out_of_the_input(tmp_path):
    write_image(tmp_path / "elsewhere/a.mha", scan())
    (tmp_path / "in").mkdir()
    for outside in ("../elsewhere", str(tmp_path / "elsewhere")):
        (tmp_path / "in/inputs.json").write_text(json.dumps([{"socket": {"slug": "x", "relative_path": outside}}]))
        with pytest.raises(InputError, match="found no images"):
            find_images(CHALLENGES[MULTICLASS], tmp_path / "in")


@pytest.mark.parametrize("path", ["images/\0", "x" * 5000, "loop/loop", "\ud800"])
def test_sockets_that_are_no_path_are_left_out(tmp_path, path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "inputs.json").write_text(json.dumps([{"socket": {"slug": "x", "relative_path": path}}]))
    image = write_image(tmp_path / "a.mha", scan())
    assert find_images(CHALLENGES[MULTICLASS], tmp_path) == [image]


def test_no_images(tmp_path):
    for task in TASKS:
        with pytest.raises(InputError, match=r"found no images, expected at least one of \.mha"):
            find_images(CHALLENGES[task], tmp_path)
        with pytest.raises(InputError, match="absent: found no such folder, expected one with images"):
            find_images(CHALLENGES[task], tmp_path / "absent")


# --- output names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "name", "output"),
    [
        (MULTICLASS, "P5.mha", "images/oral-pharyngeal-segmentation/P5.mha"),
        (MULTICLASS, "P5_0000.nii.gz", "images/oral-pharyngeal-segmentation/P5_0000.nii.gz"),
        (INTERACTIVE, "P5_3.mha", "images/iac-segmentation/P5_3.mha"),
        (STSR, "STS25_Validation_0001.nii.gz", "STS25_Validation_0001_Mask.nii.gz"),
        (STSR, "case.with.dots_0000.nii.gz", "case.with.dots_0000_Mask.nii.gz"),
    ],
)
def test_output_names(tmp_path, task, name, output):
    write_image(image_folder(task, tmp_path / "in") / name, scan())
    (case,) = list_cases(CHALLENGES[task], tmp_path / "in", tmp_path / "out")
    assert case.output == tmp_path / "out" / output


def test_the_suffix_is_an_option(tmp_path):
    write_image(tmp_path / "a.nii.gz", scan())
    for suffix in ("_mask", "_Masks", ""):
        (case,) = list_cases(CHALLENGES[STSR], tmp_path, tmp_path / "out", suffix)
        assert case.output == tmp_path / "out" / f"a{suffix}.nii.gz"
    with pytest.raises(InputError, match=r"suffix: found '/../../b', expected a part of a file name"):
        list_cases(CHALLENGES[STSR], tmp_path, tmp_path / "out", "/../../b")


def test_two_images_for_one_output(tmp_path):
    for name in ("a.nii", "a.nii.gz", "b.nii.gz"):
        write_image(tmp_path / name, scan((1, 2)))
    cases = list_cases(CHALLENGES[STSR], tmp_path, tmp_path / "out")
    outcomes = run(CHALLENGES[STSR], cases, Segmenter(StandIn(STSR), CHALLENGES[STSR]), tmp_path / "out")
    assert [outcome.written for outcome in outcomes] == [True, False, True]
    assert outcomes[1].problems == [
        f"{tmp_path / 'a.nii.gz'}: found {tmp_path / 'out/a_Mask.nii.gz'} taken by {tmp_path / 'a.nii'}, "
        "expected an output of its own"
    ]


# --- models -----------------------------------------------------------------------------------------------------------


def test_where_models_are_found(tmp_path):
    mounted, resources = tmp_path / "mounted", tmp_path / "resources"
    mounted.mkdir()
    (resources / "stsr/fold_all").mkdir(parents=True)
    assert find_model(STSR, [mounted, resources]) == resources / "stsr"
    with pytest.raises(InputError, match=r"mounted or .*resources: found no model, expected model\.json or fold_\*"):
        find_model(MULTICLASS, [mounted, resources])
    write_model(mounted, STSR)
    assert find_model(STSR, [mounted, resources]) == mounted
    write_model(mounted / STSR, STSR)
    assert find_model(STSR, [mounted, resources]) == mounted / STSR


def test_a_mounted_model_that_is_none_is_not_passed_over(tmp_path):
    mounted, resources = tmp_path / "mounted", write_model(tmp_path / "resources", STSR)
    (mounted / "my-model").mkdir(parents=True)
    with pytest.raises(InputError, match=r"mounted: found no model, expected model\.json or fold_\*"):
        find_model(STSR, [mounted, resources])
    write_model(mounted / "my-model", STSR)  # a model packed with its folder
    assert find_model(STSR, [mounted, resources]) == mounted / "my-model"
    write_model(mounted / "another", STSR)
    with pytest.raises(InputError, match="mounted: found no model"):
        find_model(STSR, [mounted, resources])


def test_the_model_must_not_state_another_challenge():
    check_model(StandIn(STSR, STSR), CHALLENGES[STSR], "m")
    with pytest.raises(InputError, match=r"^m: found a model for stsr-2026, expected one for stsr$"):
        check_model(StandIn(STSR, "stsr-2026"), CHALLENGES[STSR], "m")


@pytest.mark.parametrize("task", TASKS)
def test_the_model_must_be_one_for_the_challenge(task):
    for other in TASKS:
        if other == task:
            check_model(StandIn(other), CHALLENGES[task], "m")
        else:
            with pytest.raises(InputError, match=r"m: found a model of .* clicks, expected .* clicks for"):
                check_model(StandIn(other), CHALLENGES[task], "m")


def test_an_interactive_task_needs_a_model_with_clicks():
    predictor = StandIn(INTERACTIVE)
    predictor.takes_clicks = False
    with pytest.raises(InputError, match="3 classes without clicks, expected 3 classes with clicks"):
        check_model(predictor, CHALLENGES[INTERACTIVE], "m")


# --- segmenting -------------------------------------------------------------------------------------------------------


def volume_of(tmp_path, *blocks):
    return read_volume(write_image(tmp_path / "v.nrrd", scan(*blocks)))


def test_ids_follow_the_named_map(tmp_path):
    predictor = StandIn(MULTICLASS)
    volume = volume_of(tmp_path, (2, 0), (26, 2), (44, 4), (46, 6))
    for numbering, ids in (("platform", [0, 2, 28, 50, 52]), ("public", [0, 2, 28, 104, 150]), ("training", None)):
        labels = Segmenter(predictor, CHALLENGES[MULTICLASS], numbering, postprocess=False).segment(volume).labels
        assert labels.dtype == np.uint8
        assert np.unique(labels).tolist() == (ids or [0, 2, 26, 44, 46])
    labels = Segmenter(predictor, CHALLENGES[MULTICLASS], postprocess=False).segment(volume).labels
    assert np.unique(labels).tolist() == [0, 2, 28, 50, 52]


def test_small_components_go_where_the_challenge_says_so(tmp_path):
    # 21 voxels of 0.046 mm3 each: 36 reference voxels; the right incisive canal needs 33, the left one 75.
    volume = volume_of(tmp_path, (43, 1), (44, 3), (45, 5))
    labels = Segmenter(StandIn(MULTICLASS), CHALLENGES[MULTICLASS]).segment(volume).labels
    assert np.unique(labels).tolist() == [0, 52, 53]
    volume = volume_of(tmp_path, (1, 1), (12, 3))
    assert np.unique(Segmenter(StandIn(STSR), CHALLENGES[STSR]).segment(volume).labels).tolist() == [0, 1, 12]


def test_clicks_are_painted_after_small_components_went(tmp_path):
    challenge = CHALLENGES[INTERACTIVE]
    clicks = Clicks(np.array([[3, 5, 5]], np.float32), np.array([0]))
    small = np.zeros((7, 11, 13), np.uint8)
    small[3, 5, 5] = 1
    assert postprocess(small, challenge, (0.3,) * 3, clicks).sum() == 0
    assert postprocess(small, challenge, (8.0,) * 3, clicks).sum() == 7
    assert small.sum() == 1


def test_clicks_reach_the_predictor_as_they_were(tmp_path):
    write_image(tmp_path / "images/cbct/P5_2.mha", scan())
    write_clicks(tmp_path / "iac_clicks_P5_2.json", ("Right_IAC", [1, 2, 3]), ("Left_IAC", [6, 10, 12]))
    predictor = StandIn(INTERACTIVE)
    cases = list_cases(CHALLENGES[INTERACTIVE], tmp_path, tmp_path / "out")
    segmenter = Segmenter(predictor, CHALLENGES[INTERACTIVE], all_clicks=True)
    (outcome,) = run(CHALLENGES[INTERACTIVE], cases, segmenter, tmp_path / "out")
    assert outcome.problems == []
    shape, spacing, clicks = predictor.calls[0]
    assert shape == (7, 11, 13)
    np.testing.assert_allclose(spacing, (0.55, 0.27, 0.31))
    np.testing.assert_array_equal(clicks.coordinates, [[1, 2, 3], [6, 10, 12]])
    np.testing.assert_array_equal(clicks.labels, [1, 0])


def test_results_are_what_evalutils_writes(tmp_path):
    for name in ("b.mha", "a.mha"):
        write_image(tmp_path / "images/cbct" / name, scan())
    out = tmp_path / "out"
    cases = list_cases(CHALLENGES[MULTICLASS], tmp_path, out)
    run(CHALLENGES[MULTICLASS], cases, Segmenter(StandIn(MULTICLASS), CHALLENGES[MULTICLASS]), out)
    assert (out / "results.json").read_text() == (
        '[{"outputs": [{"type": "metaio_image", "filename": "a.mha"}],'
        ' "inputs": [{"type": "metaio_image", "filename": "a.mha"}], "error_messages": []},'
        ' {"outputs": [{"type": "metaio_image", "filename": "b.mha"}],'
        ' "inputs": [{"type": "metaio_image", "filename": "b.mha"}], "error_messages": []}]'
    )
    files = {str(path.relative_to(out)) for path in out.rglob("*")}
    folder = "images/oral-pharyngeal-segmentation"
    assert files == {
        "results.json",
        "metadata",
        "metadata/run.json",
        "images",
        folder,
        f"{folder}/a.mha",
        f"{folder}/b.mha",
    }


def test_evalutils_is_asked_for_only_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "evalutils", None)
    monkeypatch.delitem(sys.modules, "umamba2.jobs.evalutils", raising=False)
    with pytest.raises(ImportError, match=r"found no evalutils.SegmentationAlgorithm .*, expected evalutils 0\.4\.2"):
        importlib.import_module("umamba2.jobs.evalutils")


def test_stsr_gets_numberings_and_nothing_else(tmp_path):
    write_image(tmp_path / "in/a.nii.gz", scan((5, 3)))
    cases = list_cases(CHALLENGES[STSR], tmp_path / "in", tmp_path / "out")
    run(CHALLENGES[STSR], cases, Segmenter(StandIn(STSR), CHALLENGES[STSR]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a_Mask.nii.gz"]
    labels, _ = read_labels(tmp_path / "out/a_Mask.nii.gz")
    assert np.unique(labels).tolist() == [0, 5]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_device_as_inputs_json_is_not_waited_for(tmp_path):
    for name in ("pipe", "device"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe/inputs.json")
    (tmp_path / "device/inputs.json").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(InputError, match="found no input of a known challenge"):
            recognise(tmp_path / name)
