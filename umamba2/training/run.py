"""Train on a planned dataset, or pretrain on a folder of scans without labels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from umamba2.challenges import Challenge
from umamba2.challenges.recipe import FULL, Architecture, Recipe
from umamba2.engine.network import resolve_device
from umamba2.errors import InputError, naming, needing
from umamba2.files import read_json, replacing, write_file
from umamba2.models.weights import CHECKPOINT_NAMES
from umamba2.scans.volumes import read_grid
from umamba2.training import nnunet
from umamba2.training.dataset import check_names
from umamba2.training.lock import alone_in
from umamba2.training.nnunet import CONFIGURATION, PLANS
from umamba2.training.options import Options
from umamba2.training.plan import add_configuration, check_patch, read_configuration
from umamba2.training.pretrained import read_weights
from umamba2.training.workers import TooLittle, run_all

# ToothFairy3's statistics (arXiv 2509.12069): what scans are normalised with for which there are no plans.
INTENSITIES = {"mean": 809.5, "std": 1014.369, "percentile_00_5": -997.0, "percentile_99_5": 3558.0}
PRETRAINING = "Dataset900_Pretraining"
PRETRAINED_FILE, BEST_FILE = "pretrained.safetensors", "pretrained_best.safetensors"
_SAVED = (*CHECKPOINT_NAMES, "checkpoint_latest.pth")


def train(
    dataset: str,
    fold: int | str,
    trainer: str,
    options: Options,
    preprocessed: Path,
    results: Path,
    device: str = "auto",
    gpus: int = 1,
    resume: bool = False,
) -> Path:
    """Train one fold of a preprocessed dataset.

    Args:
        dataset: Its name.
        fold: A number, or "all".
        trainer: The name of the trainer's class.
        options: What this run changes of the preset.
        preprocessed: nnU-Net's preprocessed folder.
        results: nnU-Net's results folder.
        device: "auto", "cpu", "cuda" or "mps".
        gpus: Number of processes, each with a GPU of its own.
        resume: Go on from the last checkpoint, if there is one.

    Returns:
        The folder of the checkpoints, which a dry run does not leave.

    Raises:
        InputError: There are not so many GPUs, the fold has been trained already and is not to be resumed, or a dry
            run found that the machine does not suffice.
    """
    chosen = resolve_device(device)
    if gpus > 1 and (chosen.type != "cuda" or torch.cuda.device_count() < gpus):
        raise InputError(f"--gpus: found {torch.cuda.device_count()} GPUs, expected {gpus}")
    with _kept(results, options.dry_run) as where:
        folder = where / dataset / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{fold}"
        with naming(folder), alone_in(folder):
            saved = [name for name in _SAVED if (folder / name).is_file()]
            if saved and not resume:
                expected = "expected --continue, or another or no folder of that name"
                raise InputError(f"{folder}: found {saved[0]}, {expected}")
            try:
                nnunet.run_training(dataset, fold, trainer, options, (preprocessed, where), chosen, gpus, resume)
            except torch.cuda.OutOfMemoryError as error:
                problem = str(error).split(". ")[0]
                expected = "expected a larger GPU, or smaller patches"
                raise TooLittle(f"memory: found too little ({problem}), {expected}") from None
    return folder


@contextmanager
def _kept(folder: Path, dry_run: bool) -> Iterator[Path]:
    """The folder to write to; in a dry run another one on the same disk, which is removed in the end.

    Raises InputError if a dry run finds too little of anything.
    """
    if not dry_run:
        yield folder
        return
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    try:
        with TemporaryDirectory(prefix=".dry_run_", dir=there) as nowhere:
            yield Path(nowhere)
    except TooLittle as error:
        raise InputError(f"dry run: this machine does not suffice; {error}") from None


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
    resume: bool = False,
) -> Path:
    """Train the autoencoder on scans.

    Args:
        scans: By name.
        out: The folder for the weights, the preprocessed scans, nnU-Net's results and a picture of each epoch.
        challenge: To be trained for later.
        options: What this run changes of the preset.
        plans: Of the dataset to be trained later: they decide about grid, intensities, patch and network.
        patch: Without plans: (z, y, x) in voxels instead of the recipe's.
        spacing: Without plans: (z, y, x) in mm instead of the median of the scans.
        architecture: Without plans: instead of the recipe's.
        workers: Number of processes that preprocess.
        device: "auto", "cpu", "cuda" or "mps".
        gpus: Number of processes that train, each with a GPU of its own.
        resume: Go on from the last checkpoint, if there is one.

    Returns:
        The file of the last weights, ``pretrained.safetensors`` in ``out``; beside it lie those of the smallest
        validation loss, ``pretrained_best.safetensors``. A dry run, which preprocesses the largest scan alone, leaves
        neither.

    Raises:
        InputError: A scan cannot be read, the plans are none of ours, the patch does not fit the network, or a dry run
            found that the machine does not suffice.
    """
    with needing("train", "pretraining"):
        from umamba2.training.preprocess import preprocess_cases
    check_names(scans, out)
    grids = run_all(read_grid, {name: (path,) for name, path in scans.items()}, 1, "reading headers")
    if plans is not None:
        read_configuration(plans)
        content = read_json(plans)
    else:
        patch = patch or challenge.recipe.patch
        check_patch("--patch", patch, architecture.total_stride(patch))
        median = tuple(float(mm) for mm in np.median([grid.zyx_spacing for grid in grids.values()], axis=0))
        content = _plans(challenge.recipe, patch, spacing or median, architecture)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "not looked at": 1},
        "numTraining": len(scans),
        "file_ending": ".nii.gz",
        "challenge": challenge.name,
    }
    with _kept(out, options.dry_run) as where, naming(where), alone_in(where):
        folders = (where / "preprocessed", where / "results")
        plans_file = folders[0] / PRETRAINING / f"{PLANS}.json"
        for name, entries in (
            (plans_file.name, {**content, "dataset_name": PRETRAINING, "plans_name": PLANS}),
            ("dataset.json", description),
            ("dataset_fingerprint.json", {}),
        ):
            write_file(plans_file.with_name(name), json.dumps(entries, indent=4) + "\n")
        preprocess_cases(
            plans_file,
            {name: (path, None) for name, path in scans.items()},
            {},
            [(grid.shape, grid.zyx_spacing) for grid in grids.values()],
            workers,
            only={max(grids, key=lambda name: math.prod(grids[name].size))} if options.dry_run else None,
        )
        trained = train(PRETRAINING, "all", challenge.recipe.pretrain.trainer, options, *folders, device, gpus, resume)
        for checkpoint, name in () if options.dry_run else (("best", BEST_FILE), ("final", PRETRAINED_FILE)):
            weights = read_weights(trained / f"checkpoint_{checkpoint}.pth")
            with replacing(out / name) as partial:
                partial.write_bytes(save({key: value.contiguous().clone() for key, value in weights.items()}))
    return out / PRETRAINED_FILE


def _plans(
    preset: Recipe, patch: tuple[int, int, int], spacing: tuple[float, ...], architecture: Architecture
) -> dict[str, Any]:
    """Plans for scans without labels, of the entries that preprocessing and training read."""
    base: dict[str, Any] = {
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": list(spacing),
        "batch_dice": False,
    }
    how = {"force_separate_z": False, "memefficient_seg_resampling": False}
    for what in ("data", "seg", "probabilities"):
        base[f"resampling_fn_{what}"] = "resample_torch_fornnunet"
        base[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", **how}
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
