"""Model folders: every layout loads to the same weights, nothing is executed, errors say what is wrong."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import make_model, make_plans

from umamba2.errors import InputError
from umamba2.models.folder import describe, load_model, slim
from umamba2.models.locate import is_model
from umamba2.scans.orientation import turned
from umamba2.scans.volumes import read_volume


def same_weights(a, b, folds=None):
    assert list(a.folds) == list(b.folds)
    for fold in a.folds:
        assert a.folds[fold].keys() == b.folds[fold].keys()
        for key, value in a.folds[fold].items():
            torch.testing.assert_close(value, b.folds[fold][key], msg=key)


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "model", folds=(0, 1), mirror_axes=(1, 2))


def test_nnunet_folder_loads(folder):
    model = load_model(folder)
    assert list(model.folds) == ["0", "1"]
    assert (model.num_classes, model.input_channels, model.mirror_axes) == (5, 1, (1, 2))
    assert model.plan.patch_size == (12, 32, 16), "the configuration's own entry wins"
    assert model.plan.spacing == (0.3, 0.3, 0.3), "what it lacks is inherited"
    assert (model.plan.force_separate_z, model.plan.separate_z_threshold, model.plan.harmonise) == (False, 3.0, False)
    model.load_weights(model.network(), "1")


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "_orig_mod."},
        {"prefix": "module."},
        {"prefix": "module._orig_mod."},
        {"aliases": True},
        {"prefix": "_orig_mod.", "aliases": True},
        {"files": False},
        {"name": "checkpoint_final.pth"},
        {"network": "nnunetv2.nets.UMambaBot2"},
    ],
)
def test_every_kind_of_file_gives_the_same_weights(folder, tmp_path, options):
    other = load_model(make_model(tmp_path / "other", folds=(0, 1), **options))
    same_weights(load_model(folder), other)
    other.load_weights(other.network(), "0")


def test_plans_beside_the_folds_serve_when_the_checkpoint_has_none(folder):
    path = folder / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(path, weights_only=False)
    for key in ("plans", "dataset_json"):
        del checkpoint["init_args"][key]
    torch.save(checkpoint, path)
    assert load_model(folder, folds=0).plan.patch_size == (12, 32, 16)
    (folder / "plans.json").unlink()
    with pytest.raises(InputError, match=r"plans\.json: found no such file"):
        load_model(folder, folds=0)


def test_plans_say_how_to_resample_and_normalise(tmp_path):
    folder = make_model(tmp_path / "m", separate_z=True, normalisation="HarmonisedCTNormalization", transpose=(1, 2, 0))
    plan = load_model(folder).plan
    assert (plan.force_separate_z, plan.harmonise, plan.transpose) == (True, True, (1, 2, 0))
    names = [f"resampling_fn_{what}_kwargs" for what in ("data", "probabilities")]
    change_plans(folder, lambda p: p["configurations"]["3d_fullres"].update(dict.fromkeys(names)))
    plan = load_model(folder).plan
    assert (plan.force_separate_z, plan.separate_z_threshold) == (None, 3.0)
    kwargs = {"separate_z_anisotropy_threshold": 2}
    change_plans(folder, lambda p: p["configurations"]["3d_fullres"].update(dict.fromkeys(names, kwargs)))
    assert load_model(folder).plan.separate_z_threshold == 2.0


@pytest.mark.parametrize("stated", [None, "LPS"])
def test_a_reader_that_turns_scans_decides_how_they_lay(tmp_path, stated):
    """With nibabel's turning, which nnU-Net's reader does, as the oracle."""
    nib = pytest.importorskip("nibabel")
    folder = make_model(tmp_path / "model")
    path = folder / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["init_args"]["plans"]["image_reader_writer"] = "NibabelIOWithReorient"
    if stated:
        checkpoint["init_args"]["dataset_json"]["orientation"] = stated
    torch.save(checkpoint, path)
    slim(folder, tmp_path / "slim")
    codes = {load_model(place, 0).orientation for place in (folder, tmp_path / "slim")}
    (code,) = codes
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[0, 0, -0.3, 1], [-0.4, 0, 0, 2], [0, 0.5, 0, 3], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    expected = image.as_reoriented(nib.io_orientation(image.affine)).get_fdata().transpose(2, 1, 0)
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(turned(volume.array, volume.grid, code)[0], expected)


def test_best_is_preferred_to_final(folder, tmp_path):
    other = make_model(tmp_path / "seed1", folds=(1,))
    shutil.copy(other / "fold_1" / "checkpoint_best.pth", folder / "fold_0" / "checkpoint_final.pth")
    key = "decoder.seg_layers.0.weight"
    model = load_model(folder)
    assert not torch.equal(model.folds["0"][key], model.folds["1"][key])


@pytest.mark.parametrize(
    ("present", "asked", "expected"),
    [
        ((0, 1, 2), None, ["0", "1", "2"]),
        ((0, "all"), None, ["0"]),
        (("all",), None, ["all"]),
        ((0, 1, 2), (2, 0), ["2", "0"]),
        ((0, 1), "1", ["1"]),
        ((0, 1), 1, ["1"]),
        ((0, "all"), "all", ["all"]),
        ((0, 1), (1, "1"), ["1"]),
    ],
)
def test_folds_are_chosen(tmp_path, present, asked, expected):
    assert list(load_model(make_model(tmp_path / "m", folds=present), asked).folds) == expected


def test_a_fold_put_aside_is_none(folder):
    (folder / "fold_1").rename(folder / "fold_1_old")
    assert list(load_model(folder).folds) == ["0"]


def test_absent_fold_is_an_error(folder):
    with pytest.raises(InputError, match=r"found folds 0, 1, expected fold 3"):
        load_model(folder, (0, 3))
    with pytest.raises(InputError, match=r"expected fold names"):
        load_model(folder, ())


class Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize(
    ("zipped", "message"), [(True, r"found the Python object posix\.system, expected"), (False, "no zip archive")]
)
def test_pickles_are_never_executed(folder, tmp_path, zipped, message):
    target = tmp_path / "executed"
    payload = {"network_weights": {}, "evil": Attack(target)}
    torch.save(payload, folder / "fold_0" / "checkpoint_best.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=rf"checkpoint_best\.pth: .*{message}"):
        load_model(folder)
    assert not target.exists()


def test_plain_pickles_are_refused(folder, tmp_path):
    target = tmp_path / "executed"
    (folder / "fold_0" / "checkpoint_best.pth").write_bytes(pickle.dumps(Attack(target)))
    with pytest.raises(InputError, match="checkpoint_best"):
        load_model(folder)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_files_are_named(folder, content):
    (folder / "fold_0" / "checkpoint_best.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"fold_0.checkpoint_best\.pth: ") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_truncated_checkpoint_is_named(folder):
    path = folder / "fold_1" / "checkpoint_best.pth"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"fold_1.checkpoint_best\.pth: "):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "found a Tensor"),
        ({"state_dict": {}}, "found no weights, expected a checkpoint with network_weights"),
        ({"network_weights": {"a": torch.zeros(1)}}, "found no 3-D encoder"),
    ],
)
def test_other_checkpoints_are_refused(folder, content, message):
    torch.save(content, folder / "fold_0" / "checkpoint_best.pth")
    with pytest.raises(InputError, match=message):
        load_model(folder)


def change_plans(folder, change):
    path = folder / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint["init_args"]["plans"])
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("normalization_schemes", ["ZScoreNormalization"], r"found normalization \['ZScoreNormalization'\]"),
        ("resampling_fn_data", "resample_data_or_seg_to_shape", "found resampling_fn_data resample_data_or_seg"),
        ("inherits_from", "3d_umamba", "inheriting from itself"),
        ("inherits_from", "nowhere", "'nowhere' missing"),
        ("patch_size", None, "expected nnU-Net plans"),
        ("patch_size", [16, 0, 16], r"found patch_size \(16, 0, 16\), expected three sizes"),
        ("patch_size", [16, 16], r"found patch_size \(16, 16\)"),
        ("patch_size", [float("inf")] * 3, "expected nnU-Net plans"),
        ("spacing", [0.3, -0.3, 0.3], r"found spacing \(0\.3, -0\.3, 0\.3\)"),
        ("spacing", [0.3, float("nan"), 0.3], "found spacing"),
        ("spacing", ["0.3", 0.3, 0.3], "plans with '0.3' in place of a number"),
        ("spacing", [True, 0.3, 0.3], "plans with True in place of a number"),
        ("patch_size", [True, 32, 16], "plans with True in place of a number"),
        ("patch_size", [12.5, 32, 16], "plans with 12.5 in place of a whole number"),
        ("resampling_fn_data_kwargs", 5, "expected nnU-Net plans"),
        ("architecture", {}, "no entry 'network_class_name'"),
    ],
)
def test_plans_that_cannot_be_served_are_refused(folder, entry, value, message):
    change_plans(folder, lambda plans: plans["configurations"]["3d_umamba"].update({entry: value}))
    with pytest.raises(InputError, match=message):
        load_model(folder, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(transpose_forward=[0, 0, 1]), r"found transpose_forward \(0, 0, 1\)"),
        (lambda p: p["foreground_intensity_properties_per_channel"]["0"].update(std=0), "found intensities"),
        (lambda p: p["foreground_intensity_properties_per_channel"]["0"].update(percentile_00_5=4e3), "found intens"),
        (lambda p: p["foreground_intensity_properties_per_channel"]["0"].pop("mean"), "no entry 'mean'"),
        (lambda p: p["foreground_intensity_properties_per_channel"]["0"].update(mean="7"), "'7' in place of a number"),
        (lambda p: p.update(configurations=[]), "expected"),
    ],
)
def test_damaged_plans_are_refused(folder, change, message):
    change_plans(folder, change)
    with pytest.raises(InputError, match=message):
        load_model(folder, 0)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("features_per_stage", [8, 0, 40], "features_per_stage: found '0', expected whole numbers"),
        ("n_blocks_per_stage", [1, 10**30, 2], "n_blocks_per_stage: found more layers than 76 weights fill"),
        ("n_conv_per_stage_decoder", [2048, 1], "n_conv_per_stage_decoder: found more layers than 76 weights fill"),
        ("n_blocks_per_stage", [1, 2], "n_blocks_per_stage: found 2 entries, expected 3"),
        ("strides", [[1, 1, 1], [2, 2, 2], [1, 2, -2]], "strides: found '-2'"),
        ("strides", [[2, 2, 2], [1, 1, 1], [1, 2, 2]], r"strides: found \[2, 2, 2\] for the first stage"),
        ("kernel_sizes", [[3, 3]] * 3, "kernel_sizes: found"),
        ("n_stages", 10**9, "n_stages: found '1000000000'"),
        ("strides", [[1, 1, 1], [2, 2, 2], [5, 2, 2]], r"found patch_size \(12, 32, 16\), expected sizes divisible"),
    ],
)
def test_networks_that_cannot_be_are_refused(folder, entry, value, message):
    change_plans(
        folder, lambda p: p["configurations"]["3d_umamba"]["architecture"]["arch_kwargs"].update({entry: value})
    )
    with pytest.raises(InputError, match=message) as caught:
        load_model(folder, 0).network()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("axes", [7, [7], ["1"], [True], [1, 1], {"a": 1}])
def test_damaged_mirror_axes_are_refused(folder, axes):
    path = folder / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["inference_allowed_mirroring_axes"] = axes
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match="found mirror axes"):
        load_model(folder)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("folds", 3),
        ("plans", []),
        ("configuration", ["a"]),
        ("dataset", 5),
        ("mirror_axes", "x"),
        ("plans", None),
        ("crc32", {"0": "1"}),
    ],
)
def test_damaged_slim_descriptions_are_refused(folder, tmp_path, entry, value):
    out = slim(folder, tmp_path / "slim")
    text = json.loads((out / "model.json").read_text())
    (out / "model.json").write_text(json.dumps({**text, entry: value}))
    with pytest.raises(InputError, match=r"model\.json: found"):
        load_model(out)


@pytest.mark.parametrize("value", [3, torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.int32)])
def test_weights_that_are_no_dense_real_tensors_are_refused(folder, value):
    path = folder / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["network_weights"]["mamba_layer.norm.weight"] = value
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=r"mamba_layer\.norm\.weight, expected a dense tensor"):
        load_model(folder)


def test_the_offending_class_is_named(folder):
    torch.save({"network_weights": {}, "where": Path("x")}, folder / "fold_0" / "checkpoint_best.pth")
    with pytest.raises(InputError, match=r"found the Python object pathlib\.\w*Path"):
        load_model(folder)


def test_slim_takes_weights_in_one_storage_and_numpy_axes(folder, tmp_path):
    path = folder / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["network_weights"]
    both = ("mamba_layer.norm.bias", "mamba_layer.norm.weight")
    weights.update(zip(both, torch.stack([weights[name] for name in both])))
    checkpoint["inference_allowed_mirroring_axes"] = tuple(np.array([1, 2]))
    torch.save(checkpoint, path)
    assert load_model(slim(folder, tmp_path / "slim")).mirror_axes == (1, 2)


def test_slim_half_keeps_what_fp16_cannot_hold(folder, tmp_path):
    path = folder / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["network_weights"]["decoder.seg_layers.0.bias"].fill_(1e6)
    torch.save(checkpoint, path)
    kept = load_model(slim(folder, tmp_path / "slim", half=True)).folds["0"]["decoder.seg_layers.0.bias"]
    assert kept.dtype == torch.float32
    assert (kept == 1e6).all()


def test_weights_that_do_not_fit_their_plans_are_refused(folder):
    change_plans(
        folder,
        lambda p: p["configurations"]["3d_umamba"]["architecture"]["arch_kwargs"].update(n_blocks_per_stage=[1] * 3),
    )
    model = load_model(folder, 0)
    with pytest.raises(InputError, match="fold 0 does not fit its own plans"):
        model.load_weights(model.network(), "0")


def test_mamba1_is_refused_in_words(folder):
    change_plans(
        folder,
        lambda p: p["configurations"]["3d_umamba"]["architecture"].update(network_class_name="nnunetv2.nets.UMambaBot"),
    )
    with pytest.raises(InputError, match=r"Mamba-1"):
        load_model(folder, 0).network()


@pytest.mark.parametrize("missing", ["absent", "empty"])
def test_no_model(tmp_path, missing):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"(no such folder|found no model), expected"):
        load_model(tmp_path / missing)
    assert not is_model(tmp_path / missing)


# --- slim -------------------------------------------------------------------------------------------------------------


def test_slim_round_trip(folder, tmp_path):
    before, after = load_model(folder), load_model(slim(folder, tmp_path / "slim"))
    same_weights(before, after)
    assert (before.plan, before.mirror_axes, before.dataset) == (after.plan, after.mirror_axes, after.dataset)
    assert is_model(tmp_path / "slim")
    again = load_model(slim(tmp_path / "slim", tmp_path / "again"))
    same_weights(before, again)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "slim").iterdir()), "for any user"
    names = sorted(p.name for p in (tmp_path / "slim").iterdir())
    assert names == ["fold_0.safetensors", "fold_1.safetensors", "model.json"]


def test_slim_on_a_disk_that_fills_up_leaves_the_model_that_was_there(folder, tmp_path, monkeypatch):
    slim(folder, tmp_path / "slim")
    before = {path.name: path.read_bytes() for path in (tmp_path / "slim").iterdir()}
    sums = iter([1])

    def full(path):
        for found in sums:
            return found
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("umamba2.models.folder.checksum", full)
    with pytest.raises(InputError, match="could not be written"):
        slim(make_model(tmp_path / "other", folds=(1, 2)), tmp_path / "slim")
    assert {path.name: path.read_bytes() for path in (tmp_path / "slim").iterdir()} == before


def test_slim_files_are_on_the_disk_before_they_have_their_names(folder, tmp_path, monkeypatch):
    synced, fsync = set(), os.fsync

    def noted(handle):
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    assert {path.stat().st_ino for path in slim(folder, tmp_path / "slim").iterdir()} <= synced


def test_slim_half_keeps_the_layer_in_fp32(tmp_path):
    folder = make_model(tmp_path / "m", network="nnunetv2.nets.UMambaBot2_CrossAttn_Click2", classes=3)
    whole, half = slim(folder, tmp_path / "whole"), slim(folder, tmp_path / "half", half=True)
    for key, value in load_model(half).folds["0"].items():
        assert value.dtype == (torch.float32 if key.startswith("mamba_layer.") else torch.float16), key
        torch.testing.assert_close(value.float(), load_model(whole).folds["0"][key], atol=1e-3, rtol=1e-3)
    assert (half / "fold_0.safetensors").stat().st_size < (whole / "fold_0.safetensors").stat().st_size
    model = load_model(half)
    model.load_weights(model.network(), "0")


def test_slim_json_is_plain_though_plans_hold_numpy(tmp_path):
    folder = make_model(tmp_path / "model")
    change_plans(folder, lambda p: p["foreground_intensity_properties_per_channel"]["0"].update(mean=np.float32(1.5)))
    text = json.loads((slim(folder, tmp_path / "slim") / "model.json").read_text())
    assert text["plans"]["foreground_intensity_properties_per_channel"]["0"]["mean"] == 1.5


def test_slim_refuses_to_overwrite_its_source(folder):
    with pytest.raises(InputError, match="expected another folder"):
        slim(folder, folder)


@pytest.mark.parametrize("damage", ["json", "format", "weights"])
def test_damaged_slim_models_are_named(folder, tmp_path, damage):
    out = slim(folder, tmp_path / "slim")
    if damage == "json":
        (out / "model.json").write_text("{")
    elif damage == "format":
        (out / "model.json").write_text(json.dumps({"format": "other", "folds": {"0": "fold_0.safetensors"}}))
    else:
        (out / "fold_0.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"slim.(model\.json|fold_0\.safetensors): (found|could not)"):
        load_model(out)


def test_slim_file_names_cannot_point_elsewhere(folder, tmp_path):
    out = slim(folder, tmp_path / "slim")
    text = json.loads((out / "model.json").read_text())
    text["folds"], text["crc32"] = {"0": "../../model/fold_0.safetensors"}, {"0": text["crc32"]["0"]}
    (out / "model.json").write_text(json.dumps(text))
    assert load_model(out).folds["0"].keys() == load_model(folder).folds["0"].keys()


def test_info_names_what_matters(folder):
    text = describe(folder)
    for part in ("UMamba2", "0, 1", "(12, 32, 16)", "(0.3, 0.3, 0.3)", "5: 0 background, 1 class 1", "nnUNetTrainer"):
        assert part in text


def test_plans_of_the_tests_are_plans_to_nnunet():
    manager = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler").PlansManager(make_plans())
    assert manager.get_configuration("3d_umamba").patch_size == [12, 32, 16]


def test_files_written_under_numpy_1_load(folder):
    """numpy 1 spells the module of its scalars differently; the published checkpoints date from then."""
    path = folder / "fold_0" / "checkpoint_best.pth"
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in entries if name.endswith("data.pkl"))
    assert new in entries[pickled] or old in entries[pickled]
    entries[pickled] = entries[pickled].replace(new, old)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert load_model(folder).num_classes == 5
