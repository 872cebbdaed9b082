"""All dealings with nnU-Net's environment: its folders, its variables, and what it takes to start it.

nnU-Net finds its folders, our trainers and their options in environment variables, also in the processes that it
starts. They are set here, for as long as they are needed; everywhere else folders and options are arguments.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umamba2.arguments import some_path
from umamba2.errors import InputError, naming, needing
from umamba2.training import PLUGIN
from umamba2.training.options import Options

if TYPE_CHECKING:
    import torch

PLANNER = "nnUNetPlannerResEncL_torchres"
PLANS = "nnUNetResEncUNetLPlans_torchres"  # what that planner calls its plans file
CONFIGURATION = "3d_umamba2"  # what `umamba2 plan` adds to it
# Preprocessed cases without labels lie beside the labelled ones' folder (its name plus this), because nnU-Net takes
# every case of that folder for a labelled one.
UNLABELLED_SUFFIX = "_unlabelled"
CONTENT = {"raw": "datasets", "preprocessed": "preprocessed datasets", "results": "trained models"}
OPTIONS = "UMAMBA2_TRAINING"  # the variable with a run's options as JSON
_DATASET = re.compile(r"Dataset(\d{3})_\w[\w.-]*")
_LIBRARIES: list[torch.library.Library] = []  # torch forgets what they define when they are collected


def add_options(parser: argparse.ArgumentParser, *which: str) -> None:
    """Add ``--raw``, ``--preprocessed`` and ``--results``, as far as named, to a command."""
    for name in which:
        what = f"folder of {CONTENT[name]} (default: the environment variable nnUNet_{name})"
        parser.add_argument(f"--{name}", type=some_path, metavar="FOLDER", help=what)


def find_folder(name: str, given: Path | None = None) -> Path:
    """One of nnU-Net's folders; ``preprocessed`` and ``results`` are made if need be.

    Args:
        name: "raw", "preprocessed" or "results".
        given: Where it is; None: where nnU-Net's environment variable says.

    Raises:
        InputError: It is neither given nor set, or it is not there and cannot be made.
    """
    value = given or os.environ.get(f"nnUNet_{name}")
    if not value:
        raise InputError(f"nnUNet_{name}: found it neither set nor given, expected --{name} FOLDER")
    folder = Path(value).expanduser().absolute()
    if name != "raw":
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: found no folder that can be made ({error.strerror})") from None
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected {CONTENT[name]}")
    return folder


def find_dataset(folder: Path, dataset: str) -> Path:
    """The folder of a dataset.

    Args:
        folder: nnU-Net's raw or preprocessed folder.
        dataset: Its name (``Dataset301_ToothFairy3``) or number (``301``).

    Raises:
        InputError: There is none, or more than one.
    """
    here = sorted(p for p in folder.iterdir() if p.is_dir() and is_dataset_name(p.name))
    found = [p for p in here if dataset == p.name or p.name[7:10] == dataset.zfill(3)]
    if len(found) != 1:
        names = ", ".join(p.name for p in found or here) or "none"
        raise InputError(f"{folder}: found the datasets {names}, expected one called {dataset}")
    return found[0]


def is_dataset_name(name: str) -> bool:
    """Whether nnU-Net takes this for a dataset's folder."""
    return _DATASET.fullmatch(name) is not None


@contextmanager
def environment(**variables: object) -> Iterator[None]:
    """Set environment variables for a while; None hides one."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, object] | dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)


@contextmanager
def quietly(what: Path) -> Iterator[None]:
    """Call nnU-Net for a file or folder, without its remarks; what it raises becomes one line.

    Raises:
        MissingExtra: nnU-Net is not installed.
        InputError: It has stopped.
        OSError: The system has; the error names a file.
    """
    try:
        with needing("train", "training"), redirect_stdout(io.StringIO()), naming(what):
            yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{what}: found nnU-Net stopped ({reason}), expected it to finish") from None


def run_planner(dataset: Path, preprocessed: Path, spacing: Sequence[float] | None) -> None:
    """Let nnU-Net's planner write its plans for a dataset, whose fingerprint must be there.

    Args:
        dataset: Its raw folder.
        preprocessed: nnU-Net's preprocessed folder.
        spacing: Of the plans' grid in mm, (z, y, x); None: the median of the dataset.
    """
    # `nnUNet_n_proc_DA=0` is of use to a training; the planner takes it for a number of threads.
    folders = {"nnUNet_raw": dataset.parent, "nnUNet_preprocessed": preprocessed}
    with quietly(dataset), environment(**folders, nnUNet_n_proc_DA=None):
        from nnunetv2.experiment_planning.experiment_planners.resampling import resample_with_torch as planners

        getattr(planners, PLANNER)(
            dataset.name,
            overwrite_target_spacing=None if spacing is None else [float(mm) for mm in spacing],
            suppress_transpose=True,  # the presets' patches and mirror axes are those of the array
        ).plan_experiment()


def run_training(
    dataset: str,
    fold: int | str,
    trainer: str,
    options: Options,
    folders: tuple[Path, Path],
    device: torch.device,
    gpus: int = 1,
    resume: bool = False,
) -> None:
    """Let nnU-Net train and validate one fold with one of our trainers.

    Args:
        dataset: Its name.
        fold: A number, or "all".
        trainer: The name of the trainer's class.
        options: What this run changes of the preset.
        folders: nnU-Net's preprocessed and results folders.
        device: Where to train.
        gpus: Number of processes, each with a GPU of its own.
        resume: Go on from the last checkpoint, if there is one.
    """
    import torch

    preprocessed, results = folders
    torch.set_num_threads(1 if device.type == "cuda" else os.cpu_count() or 1)  # as nnUNetv2_train does
    variables = {
        "nnUNet_preprocessed": preprocessed,
        "nnUNet_results": results,
        "nnUNet_extTrainer": os.pathsep.join(filter(None, [str(PLUGIN), os.environ.get("nnUNet_extTrainer")])),  # noqa: SIM112
        OPTIONS: options.to_json(),
    }
    with environment(**variables):
        with needing("train", "training"):
            make_torchvision_importable()
            from nnunetv2.run import run_training as nnunet
        nnunet.run_training(
            dataset, CONFIGURATION, fold, trainer, PLANS, num_gpus=gpus, continue_training=resume, device=device
        )


@contextmanager
def summary_without_nan() -> Iterator[None]:
    """Let nnU-Net's validation leave out the classes that no case and no prediction has, whose mean would be NaN."""
    from nnunetv2.evaluation.evaluate_predictions import save_summary_json
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer

    original = trainer.compute_metrics_on_folder

    def compute(truth: str, predictions: str, file: str, *rest: Any, **options: Any) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice")
            result: dict[str, Any] = original(truth, predictions, None, *rest, **options)
        means = {label: values for label, values in result["mean"].items() if not math.isnan(values["Dice"])}
        names = result["foreground_mean"]
        result["mean"] = means
        result["foreground_mean"] = {
            name: sum(values[name] for values in means.values()) / len(means) if means else None for name in names
        }
        for case in result["metric_per_case"]:
            for values in case["metrics"].values():
                values.update({name: None for name, value in values.items() if math.isnan(value)})
        save_summary_json(result, file)
        return result

    trainer.compute_metrics_on_folder = compute
    try:
        yield
    finally:
        trainer.compute_metrics_on_folder = original


def options_of_run() -> Options:
    """The options that `run_training`, or who started nnU-Net by its own command, has left for the trainers."""
    return Options.from_json(os.environ.get(OPTIONS, "{}"), OPTIONS)


def make_torchvision_importable() -> None:
    """Import torchvision, even one that belongs to another build of torch.

    pip puts PyPI's torchvision, made for CUDA, beside a CPU build of torch, and importing it fails for two operators.
    Nothing here uses them, but nnU-Net imports it, through timm, while it looks for a trainer.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        _LIBRARIES.append(library)
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
    except ImportError:
        pass  # nnU-Net says better what it misses
