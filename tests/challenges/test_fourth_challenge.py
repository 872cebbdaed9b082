"""A challenge is one file: this one adds STS 2026 task 1 (32 teeth, NIfTI in and out), and every command knows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from downloads import phantom, write
from small_models import make_model

from umamba2 import cli
from umamba2.anatomy.structures import ANATOMY, FDI_TEETH, tooth_name
from umamba2.challenges import CHALLENGES, Challenge, register
from umamba2.challenges.recipe import Recipe, Stage
from umamba2.scans.volumes import read_labels

ROOT = Path(__file__).resolve().parents[2]

STS26 = Challenge(
    name="sts26",
    title="STS 2026 task 1: 32 teeth",
    structures=tuple(replace(s, training=i) for i, s in enumerate((s for s in ANATOMY if s.fdi), start=1)),
    grading="classes",
    dataset_name="Dataset304_STS26",
    mounts=("/inputs", "/outputs"),
    output_name="{case}.nii.gz",
    tile_step=0.75,
    connectivity=26,
    recipe=Recipe(network="umamba2.nets.UMamba2", patch=(32, 48, 48), train=Stage(10, 0.01), soft_target=0.1),
)


@pytest.fixture(autouse=True)
def registered():
    assert register(STS26) is STS26
    yield
    del CHALLENGES[STS26.name]


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "models" / STS26.name, classes=33, mirror_axes=(0, 1, 2), spacing=(1.5, 1.5, 1.5))


@pytest.fixture
def scans(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 3000, (14, 40, 24)).astype(np.int16)
    for case in ("a_1", "b"):
        write(tmp_path / "in" / f"{case}.nii.gz", noise, (1.5, 1.5, 1.5))
    return tmp_path / "in"


def command(*arguments) -> int:
    return cli.main(list(map(str, arguments)))


def test_predict_evaluate_report_and_export(model, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert command("predict", "-i", scans, "-o", out, "-m", model, "--challenge", "sts26", "--device", "cpu") == 0
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["a_1.nii.gz", "b.nii.gz"]
    labels, _ = read_labels(out / "b.nii.gz")
    assert labels.any()
    assert set(np.unique(labels)) <= {0, *FDI_TEETH}
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert (settings["challenge"], settings["numbering"], settings["tile_step"]) == ("sts26", "platform", 0.75)

    scores = tmp_path / "scores.json"
    assert command("evaluate", "sts26", "-p", out, "-g", out, "-o", scores) == 0
    assert "Dice Average 1.0000  HD95 Average 0.0000" in capsys.readouterr().out
    assert [row["id"] for row in json.loads(scores.read_text())["per_class"]] == list(FDI_TEETH)

    page = tmp_path / "report.html"
    files = ("-i", scans / "b.nii.gz", "-s", out / "b.nii.gz")
    assert command("report", *files, "-o", page, "--challenge", "sts26") == 0
    assert tooth_name(int(labels.max())) in page.read_text()
    tables = tmp_path / "tables"
    assert command("export", out / "b.nii.gz", "-o", tables, "--format", "nii.gz", "--challenge", "sts26") == 0
    np.testing.assert_array_equal(read_labels(tables / "b.nii.gz")[0], labels)


def test_the_container_contract(model, scans, tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(ROOT))
    import inference

    out = tmp_path / "out"
    arguments = ["--challenge", "sts26", "--input", str(scans), "--output", str(out), "--model", str(model.parent)]
    assert inference.main([*arguments, "--device", "cpu"]) == 0
    assert capfd.readouterr().err == ""
    assert sorted(path.name for path in out.rglob("*")) == ["a_1.nii.gz", "b.nii.gz"]
    labels, grid = read_labels(out / "a_1.nii.gz")
    assert (grid.size, labels.dtype) == ((24, 40, 14), np.uint8)
    assert set(np.unique(labels)) <= {0, *FDI_TEETH}


@pytest.mark.slow
def test_convert_and_plan(tmp_path):
    pytest.importorskip("nnunetv2")
    for seed in range(2):
        teeth = np.where(np.isin(phantom(seed).labels, FDI_TEETH), phantom(seed).labels, 0).astype(np.uint8)
        write(tmp_path / "download/imagesTr" / f"case_{seed}.nii.gz", phantom(seed).image)
        write(tmp_path / "download/labelsTr" / f"case_{seed}.nii.gz", teeth)
    assert command("convert", "sts26", tmp_path / "download", tmp_path / "raw", "--workers", 1) == 0
    description = json.loads((tmp_path / "raw/Dataset304_STS26/dataset.json").read_text())
    assert description["challenge"] == "sts26"
    assert description["labels"]["upper right central incisor"] == 1
    assert description["labels"]["lower right third molar"] == 32
    where = ("--raw", tmp_path / "raw", "--preprocessed", tmp_path / "pre", "--workers", 1)
    assert command("plan", "304", "--network", "small", *where) == 0
    (plans,) = (tmp_path / "pre/Dataset304_STS26").glob("nnUNet*Plans*.json")
    configuration = json.loads(plans.read_text())["configurations"]["3d_umamba2"]
    assert configuration["patch_size"] == list(STS26.recipe.patch)
    assert configuration["architecture"]["network_class_name"] == STS26.recipe.network


def test_its_soft_targets_are_those_of_its_teeth():
    pytest.importorskip("nnunetv2")
    from umamba2.training.losses import neighbours

    found = neighbours(STS26.structures)
    assert (found[1], found[8], found[24]) == ((2, 9), (7,), (23,))
