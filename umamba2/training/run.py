"""Start nnU-Net's training with our trainers, on a planned dataset or on a folder of scans without labels."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umamba2.challenges import Challenge
from umamba2.challenges.recipe import FULL, Architecture, Recipe
from umamba2.engine.network import resolve_device
from umamba2.errors import InputError
from umamba2.models.weights import CHECKPOINT_NAMES
from umamba2.training import PLUGIN
from umamba2.training.lock import alone_in
from umamba2.training.options import Options
from umamba2.training.presets import CONFIGURATION, PLANS
from umamba2.training.torchvision_quirk import make_importable

# ToothFairy3's statistics (arXiv 2509.12069): what scans are normalised with for which there are no plans.
INTENSITIES = {"mean": 809.5, "std": 1014.369, "percentile_00_5": -997.0, "percentile_99_5": 3558.0}
PRETRAINING = "Dataset900_Pretraining"
PRETRAINED_FILE = "pretrained.safetensors"
_SAVED = (*CHECKPOINT_NAMES, "checkpoint_latest.pth")


def train(
    dataset: str,
    fold: int | str,
    trainer: str,
    options: Options,
    device: str = "auto",
    gpus: int = 1,
    go_on: bool = False,
) -> Path:
    """Train one fold of a dataset in nnU-Net's preprocessed folder and return the folder of its checkpoints.

    ``go_on`` continues from the last checkpoint. nnU-Net's environment variables must be set. Raises InputError for
    GPUs that are not there, and for a fold that has been trained already unless it is to go on.
    """
    chosen = resolve_device(device)
    if gpus > 1 and (chosen.type != "cuda" or torch.cuda.device_count() < gpus):
        raise InputError(f"--gpus: found {torch.cuda.device_count()} GPUs, expected {gpus}")
    folder = Path(os.environ["nnUNet_results"], dataset, f"{trainer}__{PLANS}__{CONFIGURATION}", f"fold_{fold}")  # noqa: SIM112
    others = os.environ.get("nnUNet_extTrainer", "")  # noqa: SIM112 (nnU-Net's spelling)
    os.environ["nnUNet_extTrainer"] = os.pathsep.join(filter(None, [str(PLUGIN), others]))  # noqa: SIM112
    options.to_environment()
    try:
        make_importable()
        from nnunetv2.run.run_training import run_training
    except ImportError as error:
        raise InputError(f"training: found no {error.name}, expected pip install 'umamba2[train]'") from None
    torch.set_num_threads(1 if chosen.type == "cuda" else os.cpu_count() or 1)  # as nnUNetv2_train does
    with alone_in(folder):
        saved = [name for name in _SAVED if (folder / name).is_file()]
        if saved and not go_on:
            raise InputError(f"{folder}: found {saved[0]}, expected --continue, or another or no folder of that name")
        run_training(
            dataset, CONFIGURATION, fold, trainer, PLANS, num_gpus=gpus, continue_training=go_on, device=chosen
        )
    return folder


def pretrain(
    scans: Mapping[str, Path],
    out: Path,
    challenge: Challenge,
    options: Options,
    plans: Path | None = None,
    patch: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    architecture: Architecture = FULL,
    workers: int = 1,
    device: str = "auto",
    gpus: int = 1,
    go_on: bool = False,
) -> Path:
    """Train the autoencoder on scans, by name, and return the weights, ``out/pretrained.safetensors``.

    ``plans`` of the dataset to be trained later decide about grid, intensities, patch and network; without, the
    challenge, ``patch`` (z, y, x) in voxels, ``architecture`` and ``spacing`` (z, y, x) in mm (None: the median of the
    scans) do. ``out`` also gets the preprocessed scans, nnU-Net's results and a picture per epoch.
    Raises InputError for scans that cannot be read, plans that are none of ours and a patch that does not fit.
    """
    from safetensors.torch import save_file

    from umamba2.files import replacing, write_file
    from umamba2.training.dataset import check_case
    from umamba2.training.plan import check_patch, preprocess_cases, read_configuration
    from umamba2.training.pretrained import read_weights
    from umamba2.training.workers import run_all

    facts = run_all(check_case, {name: (path, None, (0,)) for name, path in scans.items()}, workers, "verifying")
    if plans is not None:
        read_configuration(plans)
        content = json.loads(plans.read_text())
    else:
        patch = patch or challenge.recipe.patch
        check_patch(patch, architecture)
        median = tuple(float(mm) for mm in np.median([fact.spacing for fact in facts.values()], axis=0))
        content = _plans(challenge.recipe, patch, spacing or median, architecture)
    target = out / "preprocessed" / PRETRAINING
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "not looked at": 1},
        "numTraining": len(scans),
        "file_ending": ".nii.gz",
        "challenge": challenge.name,
    }
    plans_file = target / f"{PLANS}.json"
    for path, entries in (
        (plans_file, {**content, "dataset_name": PRETRAINING, "plans_name": PLANS}),
        (target / "dataset.json", description),
        (target / "dataset_fingerprint.json", {}),
    ):
        write_file(path, json.dumps(entries, indent=4) + "\n")
    grids = [(fact.shape, fact.spacing) for fact in facts.values()]
    preprocess_cases(plans_file, {name: (path, None) for name, path in scans.items()}, {}, grids, workers)
    os.environ["nnUNet_preprocessed"] = str(out / "preprocessed")  # noqa: SIM112 (nnU-Net's spelling)
    os.environ["nnUNet_results"] = str(out / "results")  # noqa: SIM112
    trained = train(PRETRAINING, "all", challenge.recipe.pretrain.trainer, options, device, gpus, go_on)
    weights = read_weights(trained / "checkpoint_final.pth")
    file = out / PRETRAINED_FILE
    with replacing(file) as partial:
        save_file({key: value.contiguous().clone() for key, value in weights.items()}, partial)
    return file


def _plans(
    preset: Recipe, patch: tuple[int, int, int], spacing: tuple[float, ...], architecture: Architecture
) -> dict[str, Any]:
    """Plans for scans without labels, of the entries that preprocessing and training read."""
    from umamba2.training.plan import add_configuration

    base: dict[str, Any] = {
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": list(spacing),
        "batch_dice": False,
        **{f"resampling_fn_{what}": "resample_torch_fornnunet" for what in ("data", "seg", "probabilities")},
    }
    for what in ("data", "seg", "probabilities"):
        base[f"resampling_fn_{what}_kwargs"] = {
            "is_seg": what == "seg",
            "force_separate_z": False,
            "memefficient_seg_resampling": False,
        }
    plans: dict[str, Any] = {
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
        "configurations": {"3d_fullres": base},
    }
    add_configuration(plans, preset, patch, architecture, harmonised=False)
    return plans
