"""Small U-Mamba2 model folders for the tests, in nnU-Net's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from umamba2.models.network import build_network

ARCHITECTURE = {
    "n_stages": 3,
    "features_per_stage": [8, 16, 40],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
    "n_blocks_per_stage": [1, 2, 2],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
PATCH = (12, 32, 16)
INTENSITY = {"mean": 809.5, "std": 1014.369, "percentile_00_5": -997.0, "percentile_99_5": 3558.0}


def make_plans(
    network: str = "umamba2.nets.UMamba2",
    spacing=(0.3, 0.3, 0.3),
    transpose=(0, 1, 2),
    separate_z=False,
    patch=PATCH,
    normalisation: str = "CTNormalization",
    dataset_name: str = "Dataset001_Test",
) -> dict:
    """Plans with two configurations, the second inheriting from the first as the published ones do."""
    architecture = dict(ARCHITECTURE, patch_size=list(patch)) if "Click" in network else ARCHITECTURE
    sampler = {
        f"resampling_fn_{what}": "resample_torch_fornnunet" for what in ("data", "seg", "probabilities")
    } | {
        f"resampling_fn_{what}_kwargs": {
            "is_seg": what == "seg", "force_separate_z": separate_z, "memefficient_seg_resampling": False
        }
        for what in ("data", "seg", "probabilities")
    }  # fmt: skip
    return {
        "dataset_name": dataset_name,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": INTENSITY},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [8, 8, 8],
                "spacing": list(spacing),
                "normalization_schemes": [normalisation],
                "use_mask_for_norm": [False],
                "batch_dice": True,
                **sampler,
            },
            "3d_umamba": {
                "inherits_from": "3d_fullres",
                "patch_size": list(patch),
                "architecture": {
                    "network_class_name": network,
                    "arch_kwargs": architecture,
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            },
        },
    }


def make_model(
    folder: Path,
    network: str = "umamba2.nets.UMamba2",
    classes: int = 5,
    folds=(0,),
    mirror_axes=None,
    prefix: str = "",
    aliases: bool = False,
    name: str = "checkpoint_best.pth",
    files: bool = True,
    trainer: str = "nnUNetTrainer",
    description: dict | None = None,
    **plans_options,
) -> Path:
    """Write a model folder with random weights, one seed per fold, as nnU-Net 2 does.

    ``prefix`` goes before every weight's name (torch.compile, DDP); ``aliases`` adds nnU-Net's second names;
    ``files`` writes plans.json and dataset.json beside the folds. ``description`` adds to dataset.json.
    """
    plans = make_plans(network, **plans_options)
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{f"class {i}": i for i in range(1, classes)}},
        "file_ending": ".nii.gz",
        "numTraining": 3,
        **(description or {}),
    }
    architecture = plans["configurations"]["3d_umamba"]["architecture"]
    for fold in folds:
        torch.manual_seed(0 if fold == "all" else int(fold))
        net = build_network(architecture["network_class_name"], architecture["arch_kwargs"], 1, classes)
        net.apply(randomise)
        weights = dict(net.state_dict())
        if aliases:
            weights.update({f"decoder.{k}": v for k, v in weights.items() if k.startswith("encoder.")})
            weights.update({k.replace(".conv.weight", ".all_modules.0.weight"): v for k, v in weights.items()})
        checkpoint = {
            "network_weights": {prefix + k: v for k, v in weights.items()},
            "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "lrs": np.array([0.01])},
            "_best_ema": np.float64(0.5),
            "current_epoch": 1,
            "init_args": {"plans": plans, "configuration": "3d_umamba", "fold": fold, "dataset_json": dataset},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": mirror_axes,
        }
        (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, folder / f"fold_{fold}" / name)
    if files:
        import json

        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def randomise(module: torch.nn.Module) -> None:
    """Weights with which every part of a network shows in its output (fresh norms and biases are trivial)."""
    if isinstance(module, torch.nn.GroupNorm):
        torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        torch.nn.init.normal_(module.bias, std=0.2)
    elif isinstance(module, torch.nn.Conv3d) and module.kernel_size == (1, 1, 1):
        torch.nn.init.normal_(module.weight, std=0.7)
