"""What is said of models that can be used all the same, and what is not worth a word."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import make_model

import umamba2
from umamba2.models.folder import facts, load_model, slim
from umamba2.models.labels import labels_of
from umamba2.models.network import build_network
from umamba2.nets.umamba2 import VARIANTS

CLICKS = "umamba2.nets.UMamba2Click"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("whole") / "model", CLICKS, 3, folds=(0, 1))


@pytest.fixture
def folder(tmp_path, whole):
    return Path(shutil.copytree(whole, tmp_path / "m"))


def rewrite(path, change):
    text = json.loads(path.read_text())
    change(text)
    path.write_text(json.dumps(text))


def own(text):
    return text["configurations"]["3d_umamba"]


def network(text):
    return own(text)["architecture"]["arch_kwargs"]


def test_a_sound_model_has_none(tmp_path, folder):
    assert load_model(folder).doubts == ()
    assert facts(folder)["warnings"] == "none"
    assert load_model(slim(folder, tmp_path / "slim")).doubts == ()
    demos = Path(__file__).parents[2] / "resources"
    assert [load_model(path.parent).doubts for path in demos.glob("*/model.json")] == [()] * 3


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda p: own(p).update(spacing=[0.3, 0.3, 0.4]), r"spacing \(0.3, 0.3, 0.4\), expected \(0.3, 0.3, 0.3\)"),
        (lambda p: own(p).update(patch_size=[12, 32, 32]), "patch_size"),
        (lambda p: own(p).update(normalization_schemes=["HarmonisedCTNormalization"]), "harmonise True"),
        (lambda p: own(p)["architecture"].update(network_class_name="UMambaBot2"), "network_class_name UMambaBot2"),
        (lambda p: network(p).update(strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]]), "strides"),
        (lambda p: network(p).pop("conv_bias"), "conv_bias None, expected True"),
        (lambda p: network(p).update(patch_size=[12, 32, 32]), ""),  # the checkpoint's network has its own
        (lambda p: p.update(transpose_forward=[0, 2, 1], transpose_backward=[0, 2, 1]), "transpose"),
        (lambda p: p.update(image_reader_writer="NibabelIOWithReorient"), "orientation RAS, expected None"),
        (lambda p: p["foreground_intensity_properties_per_channel"]["0"].update(mean=800.0), "mean 800.0"),
        (lambda p: own(p).update(normalization_schemes=["ZScoreNormalization"]), "normalization .* which count"),
        (lambda p: p["configurations"].pop("3d_umamba"), "configuration '3d_umamba' missing .* which count"),
        (lambda p: p.clear(), "which count"),
        # What nnU-Net and people change.
        (lambda p: p.update(plans_name="mine", dataset_name="Dataset002_Mine", experiment_planner_used="other"), ""),
        (lambda p: p["configurations"].update({"mine": {"inherits_from": "3d_umamba", "spacing": [1, 1, 1]}}), ""),
        (lambda p: own(p).update(batch_size=7, batch_dice=False, data_identifier="mine"), ""),
        (lambda p: own(p)["architecture"].update(network_class_name="here.nets.UMamba2Click"), ""),
        (lambda p: p.update(image_reader_writer="NibabelIO", original_median_shape_after_transp=[1, 2, 3]), ""),
    ],
)  # fmt: skip
def test_plans_beside_the_folds_that_are_others(folder, change, found):
    """nnU-Net reads those, and here the checkpoint's count."""
    before = load_model(folder).plan
    rewrite(folder / "plans.json", change)
    model = load_model(folder)
    assert model.plan == before
    assert len(model.doubts) == bool(found)
    if found:
        assert re.match(f"{folder / 'plans.json'}: found .*{found}", model.doubts[0])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda d: d["labels"].update({"class 1": 2, "class 2": 1}), "labels {.*'class 1': 2.*which counts"),
        (lambda d: d.update(orientation="RAS"), "orientation RAS, expected None"),
        (lambda d: d.update(challenge="stsr"), "challenge stsr"),
        (lambda d: d.update(fix_numbers=True), "fix_numbers True"),
        (lambda d: d.update(dental_field=[[30, 30]] * 3), "dental_field"),
        (lambda d: d.update(channel_names={"0": "CT", "1": "CT"}), "channels 2, expected 1"),
        (lambda d: d.update(channel_names={"0": "MRI"}), "a channel .*MRI"),
        (lambda d: d.update(numTraining=99, file_ending=".mha", name="mine", channel_names={"0": "CBCT"}), ""),
        (lambda d: d.update(overwrite_image_reader_writer="SimpleITKIO", reference="", licence="none"), ""),
    ],
)
def test_descriptions_beside_the_folds_that_are_others(folder, change, found):
    rewrite(folder / "dataset.json", change)
    doubts = load_model(folder).doubts
    assert len(doubts) == bool(found)
    if found:
        assert re.match(f"{folder / 'dataset.json'}: found {found}", doubts[0])


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1, "a": 2}', ""])
def test_files_beside_the_folds_that_cannot_be_read(folder, name, content):
    (folder / name).write_text(content)
    (doubt,) = load_model(folder).doubts
    assert doubt.startswith(f"{folder / name}: found ")
    assert doubt.endswith("(the checkpoint has its own, which count)")


def test_files_that_count_themselves_are_not_compared(folder):
    for path in folder.glob("fold_*/*.pth"):
        content = torch.load(path, weights_only=False)
        torch.save({**content, "init_args": {"configuration": "3d_umamba"}}, path)
    rewrite(folder / "plans.json", lambda p: own(p).update(spacing=[0.4, 0.4, 0.4]))
    model = load_model(folder)
    assert (model.plan.spacing, model.doubts) == ((0.4, 0.4, 0.4), ())


def test_a_patch_of_clicks_that_is_another(folder):
    for path in folder.glob("fold_*/*.pth"):
        content = torch.load(path, weights_only=False)
        network(content["init_args"]["plans"])["patch_size"] = [12, 32, 32]
        torch.save(content, path)
    (doubt,) = load_model(folder).doubts
    assert doubt == f"{folder}: found clicks that refer to a patch of [12, 32, 32], expected the plans' [12, 32, 16]"


CONV, NORM, BIAS = (f"decoder.stages.1.convs.0.{part}" for part in ("conv.weight", "norm.weight", "conv.bias"))


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize(
    ("names", "change"),
    [
        ("", lambda w: w.zero_()),
        ("", lambda w: w.fill_(0.25)),
        ("", lambda w: w.mul_(1e-40)),
        (CONV, lambda w: w.zero_()),
        (CONV, lambda w: w[3].zero_()),
        (CONV, lambda w: w.copy_(w[:1].clone().expand_as(w))),
        (CONV, lambda w: w[3].fill_(0.25)),
        (CONV, lambda w: w[3].mul_(1e-42)),
        (NORM, lambda w: w.zero_()),
        (NORM, lambda w: w.fill_(1e-42)),
        (NORM, lambda w: w.normal_().mul_(1e-35)),
        (NORM, lambda w: w.fill_(2)),
        (BIAS, lambda w: w.fill_(-0.5)),
        (BIAS, lambda w: w.fill_(1e-42)),
    ],
)  # fmt: skip
def test_weights_that_no_training_leaves_so(tmp_path, folder, fold, names, change):
    path = folder / f"fold_{fold}" / "checkpoint_best.pth"
    content = torch.load(path, weights_only=False)
    for name, weight in content["network_weights"].items():
        if name.startswith(names):
            change(weight)
    torch.save(content, path)
    (doubt,) = load_model(folder).doubts
    found = rf"{'1' if names else '[0-9]{2,}'} of \d+ tensors of fold {fold}, such as {names}"
    assert re.search(f"found filters of one number, next to nothing or twice in {found}", doubt)
    assert len(load_model(slim(folder, tmp_path / "slim")).doubts) == 1


@pytest.mark.parametrize("layout", ["copy", "link", "slim"])
def test_folds_that_are_copies(tmp_path, folder, layout):
    """One training would count twice."""
    if layout == "link":
        (folder / "fold_2").symlink_to("fold_1")
    else:
        shutil.copytree(folder / "fold_1", folder / "fold_2")
    if layout == "slim":
        folder = slim(folder, tmp_path / "slim")
    same = f"{folder}: found the same weights in the folds 1 and 2, expected a training each"
    assert load_model(folder).doubts == (same,)
    assert load_model(folder, (0, 2)).doubts == ()


@pytest.mark.parametrize("network", [name for name in VARIANTS if not name.startswith("UMamba2")])
@pytest.mark.parametrize("steps", [0, 3])
def test_weights_that_training_begins_with(tmp_path, network, steps):
    """Norms of 1, biases of 0, and what gradients make of them; halved, some become 0."""
    model = load_model(make_model(tmp_path / "m", f"nets.{network}", 3))
    net = build_network(network, model.plan.arch_kwargs, 1, 3)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=3e-5, nesterov=True)
    scan, truth = torch.randn(1, 1, 12, 32, 16), torch.ones(1, 12, 32, 16).long()
    for _ in range(steps):
        torch.nn.functional.cross_entropy(net(scan), truth).backward()
        optimizer.step()
    weights = {name: weight.detach().clone() for name, weight in net.state_dict().items()}
    for name, weight in weights.items():
        weight.flatten()[: weight.numel() // 3 if name.endswith("norm.weight") else 1] = 0
    for kept in (net.state_dict(), weights, {name: weight.bfloat16() for name, weight in weights.items()}):
        assert replace(model, folds={"0": kept}).doubts == ()


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "left": 1.0, "right": 2.0},
        {"background": 0, "left": "1", "right": "2"},
        {"background": 0, "left": [1], "right": [2]},
        {"background": 0, "left": 1.5, "right": None},
    ],
)
def test_names_of_classes_that_are_not_understood(tmp_path, labels):
    """They would not be told apart as left and right either, which trade places in mirror images."""
    model = load_model(make_model(tmp_path / "m", CLICKS, 3, description={"labels": labels}))
    assert model.left_right_pairs == ()
    (doubt,) = model.doubts
    assert f"found the label left of {labels['left']!r}, expected a whole number: 2 names are not used" in doubt


def test_fewer_names_than_classes_and_more_channels(tmp_path):
    few = {"labels": {"background": 0, "left": 1}, "channel_names": {"0": "CT", "1": "CT"}}
    doubts = load_model(make_model(tmp_path / "m", CLICKS, 3, description=few)).doubts
    assert [doubt.split(": found ")[1] for doubt in doubts] == [
        "names for 2 of 3 classes, expected one for each",
        "2 channels in the description of the dataset, expected one",
    ]


def test_many_names_that_are_not_understood_are_looked_at_once(tmp_path, monkeypatch):
    labels = {"background": 0, **{f"name {n}": 0.5 for n in range(100)}}
    model, calls = load_model(make_model(tmp_path / "m", CLICKS, 3, description={"labels": labels})), []
    monkeypatch.setattr("umamba2.models.doubts.labels_of", lambda dataset: calls.append(1) or labels_of(dataset))
    assert "100 names are not used" in model.doubts[0]
    assert len(calls) < 10


@pytest.mark.parametrize("labels", [None, [3], {}, {"background": 0, "left": 1, "ignore": 3}])
def test_names_of_classes_that_are_not_there(tmp_path, labels):
    assert load_model(make_model(tmp_path / "m", CLICKS, 3, description={"labels": labels})).doubts == ()


def test_checkpoints_beside_a_slim_model(tmp_path, folder):
    """The slim one counts, whichever is newer."""
    place = slim(folder, tmp_path / "slim")
    shutil.copytree(folder / "fold_1", place / "fold_1")
    (doubt,) = load_model(place).doubts
    assert doubt.startswith(f"{place / 'fold_1/checkpoint_best.pth'}: found it beside a model.json, which counts")


def test_doubts_reach_the_record(folder):
    rewrite(folder / "plans.json", lambda p: own(p).update(spacing=[0.4, 0.4, 0.4]))
    (doubt,) = load_model(folder).doubts
    assert facts(folder)["warnings"] == doubt
    segmenter = umamba2.load(folder, challenge="none", device="cpu")
    array = np.random.default_rng(0).integers(-1000, 3000, (12, 32, 16)).astype(np.int16)
    assert [line for line in segmenter.segment((array, (0.3, 0.3, 0.3))).warnings if line.endswith(doubt)]
