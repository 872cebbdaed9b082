"""Tiny preprocessed datasets for the trainers: phantoms on a coarse grid, through nnU-Net's own preprocessing."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
from challenge_names import STSR
from small_models import make_plans

from umamba2.anatomy.numberings import to_training
from umamba2.challenges import CHALLENGES
from umamba2.synthetic.phantoms import make_phantom
from umamba2.training.nnunet import OPTIONS, UNLABELLED_SUFFIX
from umamba2.training.options import Options

DATASET, PLANS, CONFIGURATION = "Dataset901_Toy", "ToyPlans", "3d_umamba"
PATCH = (16, 32, 32)
SPACING = (3.0, 3.0, 3.0)
SHAPE = (20, 30, 36)


def make_dataset(root: Path, challenge: str, network: str = "nnunetv2.nets.UMambaBot2", batch_size: int = 1) -> Path:
    """Five labelled cases and two unlabelled ones, two folds; the settings of `environment` find them."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = make_plans(network, spacing=SPACING, patch=PATCH)
    plans["dataset_name"], plans["plans_name"] = DATASET, PLANS
    plans["configurations"]["3d_fullres"]["batch_size"] = batch_size
    plans["configurations"]["3d_fullres"]["batch_dice"] = False
    for what in ("data", "seg"):  # nnU-Net's four threads for resampling leave OpenMP in a state that can hang
        plans["configurations"]["3d_fullres"][f"resampling_fn_{what}_kwargs"]["num_threads"] = 1
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{s.name: s.training for s in CHALLENGES[challenge].structures}},
        "numTraining": 5,
        "file_ending": ".nii.gz",
        "challenge": challenge,
    }
    folder = root / "nnUNet_preprocessed" / DATASET
    data = folder / "nnUNetPlans_3d_fullres"
    apart = data.with_name(data.name + UNLABELLED_SUFFIX)
    for path in (data, apart, folder / "gt_segmentations", root / "raw"):
        path.mkdir(parents=True)
    manager = PlansManager(json.loads(json.dumps(plans)))
    configuration = manager.get_configuration(CONFIGURATION)
    labelled, unlabelled = [f"case_{i}" for i in range(5)], ["more_0", "more_1"]
    table = to_training(CHALLENGES[challenge].structures, "dataset")
    for seed, case in enumerate([*labelled, *unlabelled]):
        phantom = make_phantom(seed, SHAPE, SPACING)
        labels = phantom.stsr_labels if challenge == STSR else table[phantom.labels]
        image_file, label_file = root / "raw" / f"{case}_0000.nii.gz", folder / "gt_segmentations" / f"{case}.nii.gz"
        _write(phantom.image, image_file)
        if case in labelled:
            _write(labels, label_file)
        DefaultPreprocessor(verbose=False).run_case_save(
            str((data if case in labelled else apart) / case),
            [str(image_file)],
            str(label_file) if case in labelled else None,  # type: ignore[arg-type]
            manager,
            configuration,
            dataset,
        )
    splits = [
        {"train": labelled[1:], "val": labelled[:1], "unlabeled": unlabelled},
        {"train": labelled[:4], "val": labelled[4:], "unlabeled": unlabelled},
    ]
    for name, content in {PLANS: plans, "dataset": dataset, "splits_final": splits, "dataset_fingerprint": {}}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return root


def _write(array: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, str(path))


def settings(root: Path, results: Path, **options) -> dict[str, str]:
    """The environment in which nnU-Net finds the dataset, and the trainers small settings."""
    from umamba2.training import PLUGIN

    small = {"epochs": 2, "iterations": 2, "validation_iterations": 1, "save_every": 1, **options}
    return {
        "nnUNet_raw": str(root),
        "nnUNet_preprocessed": str(root / "nnUNet_preprocessed"),
        "nnUNet_results": str(results),
        "nnUNet_extTrainer": str(PLUGIN),
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "false",
        OPTIONS: Options(**small).to_json(),
    }


@contextmanager
def environment(root: Path, results: Path, **options):
    with mock.patch.dict(os.environ, settings(root, results, **options)):
        yield


def make_trainer(name: str, fold: int | str = 0, resume: bool = False):
    """A trainer of the dataset, in the settings of `environment`, without nnU-Net's search, which takes seconds."""
    import torch

    from umamba2.training.nnunet_plugin import umamba2_trainers

    folder = Path(os.environ["nnUNet_preprocessed"]) / DATASET  # noqa: SIM112 (nnU-Net's spelling)
    plans, dataset = (json.loads((folder / f"{file}.json").read_text()) for file in (PLANS, "dataset"))
    plans["continue_training"] = resume
    return getattr(umamba2_trainers, name)(plans, CONFIGURATION, fold, dataset, torch.device("cpu"))


def started(trainer):
    """A trainer at the start of its first epoch, without data."""
    trainer.initialize()
    trainer.on_train_epoch_start()
    return trainer


def output_folder(results: Path, trainer: str) -> Path:
    return results / DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}"
