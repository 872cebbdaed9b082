"""Plans against the published settings, preprocessing against nnU-Net's own and against inference."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from challenge_names import INTERACTIVE, MULTICLASS, STSR
from downloads import SHAPE, phantom, stsr, toothfairy3, write
from filelock import FileLock
from small_models import make_plans

from umamba2 import cli
from umamba2.challenges import CHALLENGES
from umamba2.challenges.recipe import DATA_IDENTIFIER, FULL, SMALL
from umamba2.engine.preprocess import prepare
from umamba2.errors import InputError
from umamba2.files import write_file
from umamba2.models.folder import load_model, slim
from umamba2.models.network import CT_NORMALISATION, HARMONISED
from umamba2.scans.volumes import read_volume
from umamba2.training import plan as planning
from umamba2.training import preprocess as preprocessing
from umamba2.training import workers
from umamba2.training.convert import convert
from umamba2.training.dataset import read_dataset
from umamba2.training.nnunet import CONFIGURATION, PLANS, UNLABELLED_SUFFIX, find_dataset, find_folder
from umamba2.training.plan import add_configuration, check_challenge, check_patch, read_configuration
from umamba2.training.preprocess import bytes_in_memory
from umamba2.training.run import _plans

pytest.importorskip("nnunetv2")


NAME = "Dataset303_STSR2025"


def command(*arguments) -> int:
    return cli.main([str(a) for a in arguments])


@pytest.fixture(scope="session")
def planned(tmp_path_factory, worker_id) -> Path:
    """An STSR dataset planned and preprocessed through the command line, once for all test processes.

    ``raw``, ``published`` (by the preset as it is) and ``small`` (harmonised, small network, patch and grid).
    """
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "planned"
    with FileLock(f"{root}.lock"):
        if not (root / "done").exists():
            stsr(root / "download")
            assert command("convert", "stsr", root / "download", root / "raw", "--workers", 1) == 0
            small = ("--harmonise", "--network", "small", "--patch", 32, 48, 48, "--spacing", 2.5, 2, 2)
            for name, options in (("published", ("--preset", STSR)), ("small", small)):
                where = ("--raw", root / "raw", "--preprocessed", root / name, "--workers", 1)
                assert command("plan", "303", *options, *where) == 0
                assert command("preprocess", "Dataset303_STSR2025", *where) == 0
                (root / "small" / NAME).mkdir(parents=True, exist_ok=True)
                fingerprint = root / "published" / NAME / "dataset_fingerprint.json"
                shutil.copy2(fingerprint, root / "small" / NAME)  # it takes longest, and is the same
            (root / "done").touch()
    return root


def resolved(folder: Path) -> dict:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    return PlansManager(str(folder / f"{PLANS}.json")).get_configuration(CONFIGURATION).configuration


def stored(folder: Path, case: str) -> tuple[np.ndarray, np.ndarray, dict]:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    data, labels, _, properties = nnUNetDatasetBlosc2(str(folder)).load_case(case)
    return np.asarray(data[:]), np.asarray(labels[:]), properties


def model_of(folder: Path, tmp_path: Path):
    """A model trained by these plans, as inference loads it (with the small network, whatever the plans say)."""
    from umamba2.models.network import build_network

    plans = json.loads((folder / f"{PLANS}.json").read_text())
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    patch = (32, 48, 48)
    plans["configurations"][CONFIGURATION]["patch_size"] = patch
    architecture["arch_kwargs"] = SMALL.arch_kwargs(patch, "Click" in architecture["network_class_name"])
    description = json.loads((folder / "dataset.json").read_text())
    classes = len(description["labels"])
    net = build_network(architecture["network_class_name"], architecture["arch_kwargs"], 1, classes)
    checkpoint = {
        "network_weights": net.state_dict(),
        "init_args": {
            "plans": plans,
            "configuration": CONFIGURATION,
            "fold": 0,
            "dataset_json": description,
        },
    }
    (tmp_path / "model" / "fold_0").mkdir(parents=True)
    torch.save(checkpoint, tmp_path / "model" / "fold_0" / "checkpoint_final.pth")
    return load_model(slim(tmp_path / "model", tmp_path / "slim"))


@pytest.mark.slow
def test_the_published_configuration_is_in_nnunets_plans(planned):
    configuration = resolved(planned / "published" / NAME)
    expected = {
        "data_identifier": "nnUNetPlans_3d_fullres_torchres_ctnorm",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "batch_dice": False,
        "patch_size": [160, 256, 256],
        "spacing": [2.0, 2.0, 2.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_torch_fornnunet",
        "resampling_fn_seg": "resample_torch_fornnunet",
        "resampling_fn_probabilities": "resample_torch_fornnunet",
    }
    assert {key: configuration[key] for key in expected} == expected
    architecture = configuration["architecture"]
    assert architecture["network_class_name"] == "umamba2.nets.UMamba2"
    assert architecture["arch_kwargs"]["features_per_stage"] == [32, 64, 128, 256, 320, 320, 320]
    assert architecture["arch_kwargs"]["strides"] == [[1, 1, 1], *[[2, 2, 2]] * 5, [1, 2, 2]]
    assert architecture["arch_kwargs"]["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6, 6]


@pytest.mark.slow
def test_options_change_the_plans(planned):
    configuration = resolved(planned / "small" / NAME)
    assert configuration["patch_size"] == [32, 48, 48]
    assert configuration["spacing"] == [2.5, 2.0, 2.0]
    assert configuration["batch_dice"] is False
    assert configuration["normalization_schemes"] == [HARMONISED]
    plans = json.loads((planned / "small" / NAME / f"{PLANS}.json").read_text())
    # The statistics are those of harmonised scans, so stock nnU-Net must not use them for anything else.
    assert plans["configurations"]["3d_fullres"]["normalization_schemes"] == [HARMONISED]
    assert plans["transpose_forward"] == [0, 1, 2]


@pytest.mark.slow
def test_stock_nnunet_builds_the_planned_network(planned):
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = resolved(planned / "small" / NAME)["architecture"]
    net = get_network_from_plans(*architecture.values(), 1, 13, deep_supervision=True)
    outputs = net(torch.zeros(1, 1, 32, 48, 48))
    assert [tuple(o.shape) for o in outputs][:2] == [(1, 13, 32, 48, 48), (1, 13, 16, 24, 24)]


@pytest.mark.slow
def test_preprocessed_cases_are_nnunets_and_what_inference_sees(planned, tmp_path):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = planned / "published" / NAME
    plan = model_of(folder, tmp_path).plan
    manager = PlansManager(str(folder / f"{PLANS}.json"))
    description = json.loads((folder / "dataset.json").read_text())
    dataset = read_dataset(planned / "raw" / NAME)
    for case, (image, labels) in dataset.cases.items():
        data, truth, properties = stored(folder / DATA_IDENTIFIER, case)
        expected, expected_truth, expected_properties = DefaultPreprocessor(verbose=False).run_case(
            [str(image)], str(labels), manager, manager.get_configuration(CONFIGURATION), description
        )
        np.testing.assert_array_equal(data, expected)
        np.testing.assert_array_equal(truth, expected_truth)
        assert properties["class_locations"].keys() == expected_properties["class_locations"].keys()
        scan = read_volume(image)
        np.testing.assert_allclose(prepare(scan.array, scan.spacing, plan).tensor.numpy(), data, atol=1e-5)
    assert len(list((folder / "gt_segmentations").iterdir())) == len(dataset.cases)


@pytest.mark.slow
def test_harmonised_cases_are_what_inference_sees(planned, tmp_path):
    folder = planned / "small" / NAME
    plan = model_of(folder, tmp_path).plan
    assert plan.harmonise
    dataset = read_dataset(planned / "raw" / NAME)
    data_folder = folder / f"{DATA_IDENTIFIER}_harmonised"
    for case, (image, _) in dataset.cases.items():
        scan = read_volume(image)
        seen = prepare(scan.array, scan.spacing, plan).tensor.numpy()
        np.testing.assert_allclose(seen, stored(data_folder, case)[0], atol=1e-5)
        louder = prepare(2.2 * scan.array + 300, scan.spacing, plan).tensor.numpy()
        assert np.abs(seen - louder).mean() < 0.02
    # The statistics make labelled voxels of harmonised scans standard normal, up to clipping and sampling.
    pairs = [stored(data_folder, case)[:2] for case in dataset.cases]
    values = np.concatenate([data[labels > 0] for data, labels in pairs])
    assert abs(values.mean()) < 0.15
    assert 0.8 < values.std() < 1.1


@pytest.mark.slow
def test_unlabelled_cases_lie_apart_and_nnunet_can_load_them(planned):
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2

    folder = planned / "small" / NAME
    labelled = folder / f"{DATA_IDENTIFIER}_harmonised"
    apart = labelled.with_name(labelled.name + UNLABELLED_SUFFIX)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert sorted(nnUNetDatasetBlosc2(str(apart)).identifiers) == splits[0]["unlabeled"]
    assert sorted(nnUNetDatasetBlosc2(str(labelled)).identifiers) == sorted(splits[0]["train"] + splits[0]["val"])
    assert infer_dataset_class(str(apart)) is infer_dataset_class(str(labelled)) is nnUNetDatasetBlosc2
    data, labels, _ = stored(apart, splits[0]["unlabeled"][0])
    assert data.shape == labels.shape == (1, round(SHAPE[0] * 2 / 2.5), *SHAPE[1:])
    assert set(np.unique(labels)) <= {-1, 0}
    assert not list(folder.glob("*.partial"))


@pytest.mark.slow
def test_only_what_changed_is_done_again(planned, tmp_path, monkeypatch):
    preprocessed = shutil.copytree(planned / "published", tmp_path / "published")
    dataset = read_dataset(shutil.copytree(planned / "raw" / NAME, tmp_path / "raw" / NAME))
    done = []
    monkeypatch.setattr(preprocessing, "preprocess_case", lambda plans, case, *rest: done.append(case) or [])
    monkeypatch.setattr(planning, "take_fingerprint", lambda *_: pytest.fail("the fingerprint was there"))
    folder = preprocessing.preprocess(dataset, preprocessed)
    assert done == []
    case = sorted(dataset.cases)[1]
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # as for a training; nnU-Net's planner stops for it
    (folder / f"{case}.pkl").unlink()  # as if the process had been killed before the last file was in place
    (folder / "gone.pkl").touch()
    preprocessing.preprocess(dataset, preprocessed)
    assert done == [case]
    assert not (folder / "gone.pkl").exists()
    planning.plan(dataset, preprocessed, CHALLENGES[STSR], patch=(32, 64, 64))
    preprocessing.preprocess(dataset, preprocessed)
    assert os.environ["nnUNet_n_proc_DA"] == "0"  # noqa: SIM112
    assert done == [case, case]  # which the replacement has not made; patches are cut later
    planning.plan(dataset, preprocessed, CHALLENGES[STSR], spacing=(3, 3, 3))
    with pytest.raises(InputError, match="found cases preprocessed by other plans, expected `umamba2 preprocess`"):
        preprocessing.check_preprocessed(folder.parent / f"{PLANS}.json")
    preprocessing.preprocess(dataset, preprocessed)
    assert len(done) == 2 + len(dataset.cases) + len(dataset.unlabelled)
    preprocessing.check_preprocessed(folder.parent / f"{PLANS}.json")
    os.utime(dataset.cases[case][1], (1, 1))  # a correction may be older than what was made before it
    with pytest.raises(InputError, match="found it changed since it was planned, expected `umamba2 plan` again"):
        preprocessing.preprocess(dataset, preprocessed)


def test_cases_are_preprocessed_again_where_they_are_incomplete_or_by_another_recipe(tmp_path):
    scans = {case: (write(tmp_path / f"{case}.nii.gz", phantom(0).image), None) for case in "ab"}
    target = tmp_path / "pre" / "Dataset900_X"
    target.mkdir(parents=True)
    (target / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    path = target / f"{PLANS}.json"

    def preprocessed(spacing=(4.0, 4.0, 4.0), patch=(16, 32, 32), cases=scans):
        plans = {
            "dataset_name": target.name,
            "plans_name": PLANS,
            **_plans(CHALLENGES[STSR].recipe, patch, spacing, SMALL),
        }
        path.write_text(json.dumps(plans))
        folder = preprocessing.preprocess_cases(path, cases, {}, [(SHAPE, (2.0, 2.0, 2.0))], 1)
        preprocessing.check_preprocessed(path)
        names = sorted(file.name for file in folder.iterdir())
        assert names == sorted(f"{case}{ending}" for case in cases for ending in (".b2nd", "_seg.b2nd", ".pkl"))
        return folder, {case: stored(folder, case)[0].shape for case in cases}, (folder / "b.pkl").stat().st_mtime_ns

    folder, shapes, made = preprocessed()
    assert shapes == dict.fromkeys("ab", (1, 14, 22, 26))
    assert preprocessed(patch=(32, 32, 32)) == (folder, shapes, made)
    (folder / "a_seg.b2nd").unlink()
    assert preprocessed() == (folder, shapes, made)
    os.utime(scans["b"][0], (1, 1))  # another scan, older than what was made of the one before
    *same, later = preprocessed()
    assert same == [folder, shapes]
    assert later > made
    (folder / "b.b2nd").write_bytes((folder / "a.b2nd").read_bytes()[:-1])  # half a copy
    assert preprocessed()[:2] == (folder, shapes)
    _, shapes, again = preprocessed(spacing=(2.0, 2.0, 4.0))
    assert shapes == dict.fromkeys("ab", (1, 28, 44, 26))
    assert again > made
    _, shapes, _ = preprocessed(spacing=(2.0, 2.0, 4.0), cases={"b": scans["b"]})
    assert list(shapes) == ["b"]


@pytest.mark.parametrize("changed", ["scan", "labels"])
def test_a_case_whose_files_change_while_they_are_read_is_none(tmp_path, monkeypatch, changed):
    files = {name: write(tmp_path / f"{name}.nii.gz", phantom(0).labels) for name in ("scan", "labels")}
    path, folder = tmp_path / f"{PLANS}.json", tmp_path / "cases"
    path.write_text(json.dumps(_plans(CHALLENGES[STSR].recipe, (16, 32, 32), (4.0, 4.0, 4.0), SMALL)))

    def save(self, place, *_):
        for ending in preprocessing.ENDINGS:
            Path(place + ending).touch()
        files[changed].write_bytes(files[changed].read_bytes() + b"more")

    monkeypatch.setattr(preprocessing.Preprocessor, "run_case_save", save)
    with pytest.raises(InputError, match=r"scan.nii.gz: found a scan or labels that changed while they were read"):
        preprocessing.preprocess_case(path, "a", *files.values(), folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("module", "place", "error", "message"),
    [
        ("reading", "read_scan", OSError(5, "Input/output error"), r"a: .*Input/output error: '.*scan\.nii\.gz'"),
        ("writing", "save_case", OSError(122, "Disk quota exceeded"), r"a: .*quota exceeded: '.*cases\.partial/a'"),
        ("writing", "save_case", RuntimeError("Error while creating the NDArray"), r"cases\.partial/a: could not be w"),
    ],
)
def test_errors_of_the_system_name_a_file(tmp_path, monkeypatch, caplog, module, place, error, message):
    from nnunetv2.preprocessing.preprocessors import default_preprocessor

    def fail(*_, **__):
        raise error

    scan = write(tmp_path / "scan.nii.gz", phantom(0).image)
    path, folder = tmp_path / f"{PLANS}.json", tmp_path / "cases"
    plans = {"dataset_name": "X", **_plans(CHALLENGES[STSR].recipe, (16, 32, 32), (4.0, 4.0, 4.0), SMALL)}
    path.write_text(json.dumps(plans))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    where = preprocessing if module == "reading" else default_preprocessor.nnUNetDatasetBlosc2
    monkeypatch.setattr(where, place, fail)
    with pytest.raises(InputError, match="found 1 of 1 cases that failed"):
        workers.run_all(preprocessing.preprocess_case, {"a": (path, "a", scan, None, folder)}, 1, "preprocessing")
    (line,) = (record.getMessage() for record in caplog.records)
    assert re.search(message, line)
    assert "\n" not in line


def test_damaged_plans_are_named(tmp_path):
    dataset = read_dataset(convert(CHALLENGES[MULTICLASS], toothfairy3(tmp_path / "download"), tmp_path / "raw"))
    path = tmp_path / "pre" / dataset.folder.name / f"{PLANS}.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"half":')
    with pytest.raises(InputError, match=f"{path}: found no readable JSON .*, expected plans, or no such file"):
        planning.plan(dataset, tmp_path / "pre", CHALLENGES[MULTICLASS])


def test_plans_are_whole_or_as_they_were(tmp_path, monkeypatch, capsys):
    """NnU-Net writes in place; what it has half written when the disk is full stands in nobody's way."""
    stsr(tmp_path / "download")
    where = ("--raw", tmp_path / "raw", "--preprocessed", tmp_path / "preprocessed", "--workers", 1)
    assert command("convert", "stsr", tmp_path / "download", tmp_path / "raw", "--workers", 1) == 0
    target, seen = tmp_path / "preprocessed" / NAME, []

    def written(dataset, preprocessed, spacing):
        folder = preprocessed / dataset.name
        seen.append(sorted(path.name for path in folder.iterdir()))
        for name in ("dataset.json", "splits_final.json"):
            shutil.copy(dataset / name, folder / name)
        plans = make_plans() | {"seen": len(seen)}
        plans["configurations"]["3d_fullres"]["median_image_size_in_voxels"] = SHAPE
        (folder / f"{PLANS}.json").write_text(json.dumps(plans))

    def half(dataset, preprocessed, spacing):
        written(dataset, preprocessed, spacing)
        (preprocessed / dataset.name / f"{PLANS}.json").write_text('{"half')
        raise OSError(28, "No space left on device")

    def files():
        return {path.name: path.read_bytes() for path in target.iterdir()}

    options = ("303", "--preset", STSR, *where)
    monkeypatch.setattr(planning.nnunet, "run_planner", half)
    assert command("plan", *options) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert set(files()) == {"dataset_fingerprint.json"}
    monkeypatch.setattr(planning.nnunet, "run_planner", written)
    assert command("plan", *options) == 0, capsys.readouterr().err[-600:]
    before = files()
    assert set(before) == {"dataset_fingerprint.json", "dataset.json", "splits_final.json", f"{PLANS}.json"}
    assert {CONFIGURATION, "3d_fullres"} <= set(json.loads(before[f"{PLANS}.json"])["configurations"])
    monkeypatch.setattr(planning.nnunet, "run_planner", half)
    assert command("plan", *options) == 1
    assert files() == before
    assert seen[-1] == ["dataset_fingerprint.json", f"{PLANS}.json"]  # nnU-Net keeps what older plans hold

    def no_room(path, content):
        write_file(path, content)
        if path.name == f"{PLANS}.json":
            raise InputError(f"{path}: could not be written")

    monkeypatch.setattr(planning.nnunet, "run_planner", written)
    monkeypatch.setattr(planning, "write_file", no_room)
    for name in ("dataset.json", "splits_final.json"):
        (target / name).unlink()
    assert command("plan", *options) == 1
    assert set(files()) == {"dataset_fingerprint.json", f"{PLANS}.json"}


@pytest.mark.parametrize("task", [MULTICLASS, INTERACTIVE, STSR])
def test_every_preset_inherits_from_full_resolution(task):
    plans = make_plans()
    add_configuration(plans, CHALLENGES[task].recipe, CHALLENGES[task].recipe.patch, FULL, harmonised=False)
    ours = plans["configurations"][CONFIGURATION]
    assert ours["inherits_from"] == "3d_fullres"
    assert ours["data_identifier"] == DATA_IDENTIFIER
    assert ours["patch_size"] == {STSR: [160, 256, 256]}.get(task, [160, 288, 288])
    assert ours["normalization_schemes"] == [CT_NORMALISATION]
    assert ours.get("batch_dice") == (False if task == STSR else None)
    assert ("patch_size" in ours["architecture"]["arch_kwargs"]) == (task == INTERACTIVE)


@pytest.mark.parametrize("patch", [(150, 288, 288), (160, 288, 300), (16, 32, 32), (0, 32, 32)])
def test_a_patch_that_cannot_be_halved_is_refused(patch):
    with pytest.raises(InputError, match=r"p: found .* voxels \(z, y, x\), expected sizes divisible by 32x32x32"):
        check_patch("p", patch, FULL.total_stride(patch))


def test_patches_that_fit():
    for patch in ((128, 256, 256), (160, 288, 288), (32, 32, 64), (32, 64, 96)):
        check_patch("p", patch, FULL.total_stride(patch))
    check_patch("p", (32, 48, 48), SMALL.total_stride((32, 48, 48)))


def test_the_dataset_must_be_the_presets(tmp_path):
    dataset = read_dataset(convert(CHALLENGES[INTERACTIVE], toothfairy3(tmp_path / "download"), tmp_path / "raw"))
    check_challenge(dataset, CHALLENGES[INTERACTIVE])
    with pytest.raises(InputError, match="found 3 labels, expected 13 for stsr"):
        check_challenge(dataset, CHALLENGES[STSR])


def test_faults_come_before_planning(tmp_path, capsys):
    folder = convert(CHALLENGES[MULTICLASS], toothfairy3(tmp_path / "download"), tmp_path / "raw")
    where = ("--raw", tmp_path / "raw", "--preprocessed", tmp_path / "pre", "--workers", 1)

    def problem(*arguments):
        assert command(*arguments, *where) == 1
        return capsys.readouterr().err

    assert ".json: found no such file, expected `umamba2 plan` first" in problem("preprocess", "301")
    assert "found patches of 150x288x288 voxels" in problem("plan", "301", "--patch", 150, 288, 288)
    assert "found a dataset for toothfairy3-multiclass" in problem("plan", "301", "--preset", "stsr")
    assert "found the datasets Dataset301_ToothFairy3, expected one called 777" in problem("plan", "777")
    write(folder / "labelsTr" / "ToothFairy3P_002.nii.gz", np.full(SHAPE, 99, np.uint8))
    assert "ToothFairy3P_002.nii.gz: found label values 99, expected 0 to 46" in problem("plan", "301")
    write(folder / "labelsTr" / "ToothFairy3P_002.nii.gz", phantom(1).labels[:, :-1])
    assert "expected (52, 44, 28) (x, y, z), its image's" in problem("plan", "301")
    (folder / "labelsTr" / "ToothFairy3P_002.nii.gz").unlink()
    assert "labelsTr: found nothing for ToothFairy3P_002, expected one file" in problem("plan", "301")
    description = json.loads((folder / "dataset.json").read_text())
    labels = {**description["labels"], "lower jawbone": 2, "upper jawbone": 1}
    (folder / "dataset.json").write_text(json.dumps({**description, "labels": labels}))
    assert "dataset.json: found class 2 named lower jawbone, expected upper jawbone" in problem("plan", "301")
    (folder / "dataset.json").write_text('{"labels": {"background": 0, "tooth": 2}}')
    assert "found labels {'background': 0, 'tooth': 2}, expected names with the values 0, 1, 2" in problem(
        "plan", "301"
    )
    assert not list((tmp_path / "pre").glob("*/*"))


def test_a_semi_supervised_challenge_without_unlabelled_cases_costs_a_warning(tmp_path, monkeypatch, capsys):
    folder = convert(CHALLENGES[STSR], stsr(tmp_path / "download", unlabelled=0), tmp_path / "raw")
    monkeypatch.setattr(planning, "plan", lambda *_, **__: folder / "x.json")
    where = ("--raw", tmp_path / "raw", "--preprocessed", tmp_path / "pre")
    assert command("plan", "303", *where) == 1  # there are no plans
    assert f"warning: {folder}: found no unlabelled cases, expected some for `umamba2 train`" in capsys.readouterr().err


def test_scans_of_one_name_are_not_taken_for_one(tmp_path, capsys):
    for ending in (".mha", ".nii.gz"):
        write(tmp_path / "scans" / f"a{ending}", phantom(0).image)
    assert command("pretrain", tmp_path / "scans", "-o", tmp_path / "out", "--preset", STSR) == 1
    assert "a.nii.gz: found " in (said := capsys.readouterr().err)
    assert "a.mha of the same name, expected one of them" in said


def test_other_folds_than_the_datasets_are_not_mixed(tmp_path):
    source, target = tmp_path / "a.json", tmp_path / "b.json"
    folds = [{"train": ["a"], "val": ["b"], "unlabeled": ["c"]}]
    source.write_text(json.dumps(folds))
    target.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    planning._check_splits(source, target)
    assert json.loads(target.read_text()) == folds
    target.write_text(json.dumps([{"train": ["b"], "val": ["a"]}]))
    with pytest.raises(InputError, match="found other folds than in"):
        planning._check_splits(source, target)


def test_memory_is_counted_before_it_is_used(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(workers, "available", lambda: 10e9)
    assert workers.affordable(4, 2e9, "x") == 4
    assert workers.affordable(8, 3e9, "x") == 3
    assert "x: 3 workers instead of 8 (3.0 GB each, 10.0 GB free)" in caplog.text
    with pytest.raises(InputError, match=r"memory: found 10.0 GB free, expected 11.0 GB for x"):
        workers.affordable(1, 11e9, "x")
    # A large STSR scan on another grid needs more than one on its own.
    assert bytes_in_memory(1e8, 1.01e8, 13) > 1.5 * bytes_in_memory(1e8, 1e8, 13)


def test_folders_are_given_or_nnunets(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert find_folder("raw") == tmp_path
    assert find_folder("preprocessed", tmp_path / "new") == tmp_path / "new"
    assert (tmp_path / "new").is_dir()
    assert "nnUNet_preprocessed" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder("raw", Path("~")) == tmp_path
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pytest.raises(InputError, match="nnUNet_results: found it neither set nor given, expected --results FOLDER"):
        find_folder("results")
    with pytest.raises(InputError, match="nowhere: found no such folder, expected datasets"):
        find_folder("raw", tmp_path / "nowhere")


def test_datasets_are_found_by_name_and_number(tmp_path):
    for name in ("Dataset301_A", "Dataset030_B", "Dataset302_C", "Dataset302_D", "other"):
        (tmp_path / name).mkdir()
    assert find_dataset(tmp_path, "30").name == "Dataset030_B"
    assert find_dataset(tmp_path, "Dataset302_C").name == "Dataset302_C"
    with pytest.raises(InputError, match="found the datasets Dataset302_C, Dataset302_D, expected one called 302"):
        find_dataset(tmp_path, "302")


def test_read_configuration_resolves_what_it_inherits(tmp_path):
    plans = make_plans()
    add_configuration(plans, CHALLENGES[STSR].recipe, (32, 64, 64), FULL, harmonised=True)
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    configuration = read_configuration(tmp_path / "plans.json")
    assert configuration["spacing"] == [0.3, 0.3, 0.3]
    assert configuration["patch_size"] == [32, 64, 64]
