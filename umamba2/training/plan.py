"""Fingerprint, plans and preprocessing: nnU-Net's own, with the published configuration added to the plans.

On disk, in nnU-Net's preprocessed folder:

- ``<dataset>/nnUNetResEncUNetLPlans_torchres.json``: nnU-Net's plans; ``3d_umamba2`` in them is ours;
- ``<dataset>/<data identifier>/``: the labelled cases as nnU-Net stores them, ``<case>.b2nd``, ``_seg.b2nd``, ``.pkl``;
- ``<dataset>/<data identifier>_unlabelled/``: the same for cases without labels. Their segmentation is 0, or -1 where
  the scan itself is zero, their properties have no ``class_locations``. They lie apart because nnU-Net takes every case
  of a folder for a labelled one; the splits file names them as ``unlabeled``.
- ``<dataset>/gt_segmentations/``: the labels, for validation.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
from argparse import Namespace
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from umamba2.challenges import Challenge
from umamba2.challenges.recipe import FULL, Architecture, Recipe
from umamba2.errors import InputError
from umamba2.files import write_file
from umamba2.training.dataset import Dataset, read_splits, verify
from umamba2.training.lock import alone_in
from umamba2.training.nnunet import use_folders
from umamba2.training.presets import CONFIGURATION, PLANNER, PLANS, UNLABELLED_SUFFIX
from umamba2.training.workers import affordable, check_disk, run_all

INTENSITY_SAMPLES = 50_000  # voxels per case
# Memory and disk, measured with nnU-Net 2.8.1 on phantoms of ToothFairy3's size (see docs/training.md).
PROCESS_BYTES = 0.45e9  # a worker that has imported torch and nnU-Net
FINGERPRINT_BYTES = 13  # per voxel of the case in work
STORED_BYTES = 4  # per voxel of a preprocessed case: 0.5 to 4 of the 6 that float32 and int16 take
_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


def plan(
    dataset: Dataset,
    preprocessed: Path,
    challenge: Challenge,
    patch: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    architecture: Architecture = FULL,
    harmonised: bool = False,
    workers: int = 1,
) -> Path:
    """Plan a dataset and return the plans file, in which the configuration ``3d_umamba2`` is the challenge's.

    ``patch`` (z, y, x) in voxels and ``architecture`` replace the challenge's; ``spacing`` (z, y, x) in mm replaces the
    median of the dataset. ``harmonised``: intensities go through `engine.harmonise` first, at training and inference.
    The dataset is verified and its fingerprint extracted unless that has been done since it last changed.
    Raises InputError for a dataset that is not the challenge's or has a fault, and for a patch that does not fit.
    """
    check_challenge(dataset, challenge)
    patch = patch or challenge.recipe.patch
    check_patch(patch, architecture)
    with _nnunet():
        from nnunetv2.experiment_planning.experiment_planners.resampling import resample_with_torch as planners
    # nnU-Net takes its folders from the environment, whoever calls.
    use_folders(Namespace(raw=dataset.folder.parent, preprocessed=preprocessed), "raw", "preprocessed")
    target = preprocessed / dataset.folder.name
    _check_splits(dataset.folder / "splits_final.json", target / "splits_final.json")
    path = target / f"{PLANS}.json"
    _check_json(path)
    if not _is_current(target / "dataset_fingerprint.json", dataset):
        _extract_fingerprint(dataset, workers)
    intensities = _harmonised_intensities(dataset, workers) if harmonised else None
    # From here on no work that may be interrupted: nnU-Net's plans are not ours yet.
    with _nnunet(), _without("nnUNet_n_proc_DA"):  # 0 is of use to a training; the planner takes it for threads
        planner = getattr(planners, PLANNER)(
            dataset.folder.name,
            overwrite_target_spacing=None if spacing is None else [float(mm) for mm in spacing],
            suppress_transpose=True,  # the presets' patches and mirror axes are those of the array
        )
        planner.plan_experiment()
    plans = json.loads(path.read_text())
    if "3d_fullres" not in plans["configurations"]:
        raise InputError(f"{dataset.folder}: found scans of one slice, expected volumes")
    if harmonised:
        plans["foreground_intensity_properties_per_channel"] = {"0": intensities}
    add_configuration(plans, challenge.recipe, patch, architecture, harmonised)
    write_file(path, json.dumps(plans, indent=4) + "\n")
    return path


def add_configuration(
    plans: dict[str, Any], preset: Recipe, patch: tuple[int, int, int], architecture: Architecture, harmonised: bool
) -> None:
    """Add the preset's configuration to nnU-Net's plans, in place."""
    from umamba2.models.network import HARMONISED

    scheme = HARMONISED if harmonised else preset.normalisation
    configuration = {
        "inherits_from": "3d_fullres",
        "data_identifier": preset.data_identifier + ("_harmonised" if harmonised else ""),
        "batch_size": preset.batch_size,
        "patch_size": list(patch),
        "normalization_schemes": [scheme],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": preset.network,
            "arch_kwargs": architecture.arch_kwargs(patch, takes_clicks=preset.clicks is not None),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    if preset.batch_dice is not None:
        configuration["batch_dice"] = preset.batch_dice
    if harmonised:  # their intensity statistics hold for nothing else; nnU-Net refuses what it does not know
        for other in plans["configurations"].values():
            if "normalization_schemes" in other:
                other["normalization_schemes"] = [scheme]
    plans["configurations"][CONFIGURATION] = configuration


def check_challenge(dataset: Dataset, challenge: Challenge) -> None:
    """Raise InputError if a dataset has other classes than a challenge."""
    if dataset.challenge not in (None, challenge.name):
        expected = f"expected one for {challenge.name}"
        raise InputError(f"{dataset.folder}: found a dataset for {dataset.challenge}, {expected}")
    if len(dataset.ids) != challenge.num_classes:
        expected = f"{challenge.num_classes} for {challenge.name}"
        raise InputError(f"{dataset.folder / 'dataset.json'}: found {len(dataset.ids)} labels, expected {expected}")


def check_patch(patch: tuple[int, ...], architecture: Architecture) -> None:
    """Raise InputError for a patch that the network cannot halve as often as it has to."""
    steps = architecture.total_stride(patch)
    if len(patch) != 3 or any(n < step or n % step for n, step in zip(patch, steps)):
        size, divisor = ("x".join(map(str, numbers)) for numbers in (patch, steps))
        raise InputError(f"--patch: found {size} voxels (z, y, x), expected sizes divisible by {divisor}")


def _check_splits(source: Path, target: Path) -> None:
    """See that training will use the dataset's folds, with its present list of unlabelled cases."""
    if not source.is_file() or not target.is_file():
        return
    new, old = (
        [{key: sorted(split[key]) for key in ("train", "val")} for split in read_splits(path)]
        for path in (source, target)
    )
    if new != old:
        raise InputError(f"{target}: found other folds than in {source}, expected the same (remove what is outdated)")
    write_file(target, source.read_bytes())


def _check_json(path: Path) -> None:
    """Raise InputError for a file that is there and is no JSON: nnU-Net keeps what older plans hold."""
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: could not be read ({error}), expected plans, or no such file") from None


def _is_current(fingerprint: Path, dataset: Dataset) -> bool:
    """Whether a fingerprint is complete and nothing in its dataset has changed since."""
    try:
        json.loads(fingerprint.read_text())
    except (OSError, ValueError):
        return False
    return fingerprint.stat().st_mtime >= dataset.newest


def _extract_fingerprint(dataset: Dataset, workers: int) -> None:
    largest = max(math.prod(fact.shape) for fact in verify(dataset, workers).values())
    workers = affordable(workers, PROCESS_BYTES + FINGERPRINT_BYTES * largest, "fingerprint")
    with _nnunet():
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

        extractor = DatasetFingerprintExtractor(dataset.folder.name, workers)
        extractor.show_progress_bar = os.isatty(2)
        extractor.run(overwrite_existing=True)


@contextmanager
def _without(variable: str) -> Iterator[None]:
    """Hide an environment variable."""
    value = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[variable] = value


@contextmanager
def _nnunet() -> Iterator[None]:
    """Keep nnU-Net's remarks to itself, and put what it raises into one line."""
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except ImportError as error:
        raise InputError(f"training: found no {error.name}, expected pip install 'umamba2[train]'") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"nnU-Net: found it stopped ({reason}), expected it to finish") from None


# --- intensities after harmonisation ----------------------------------------------------------------------------------


def _harmonised_intensities(dataset: Dataset, workers: int) -> dict[str, float]:
    """nnU-Net's intensity statistics of labelled voxels, of harmonised scans."""
    samples = run_all(harmonised_sample, dataset.cases, workers, "intensities")
    values = np.concatenate(list(samples.values()))
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "median": float(median),
        "std": float(values.std(dtype=np.float64)),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }


def harmonised_sample(image: Path, labels: Path) -> np.ndarray:
    """Intensities of labelled voxels of a case, drawn at random with replacement, as nnU-Net does; may be none."""
    from umamba2.engine.harmonise import harmonise
    from umamba2.engine.preprocess import nonzero_box
    from umamba2.scans.volumes import read_labels, read_volume

    scan, truth = read_volume(image).array, read_labels(labels)[0]
    box = nonzero_box(scan)  # preprocessing crops first
    inside = harmonise(np.ascontiguousarray(scan[box], np.float32), str(image))[truth[box] > 0]
    rng = np.random.default_rng(1234)
    return inside[rng.integers(0, len(inside), INTENSITY_SAMPLES)] if len(inside) else inside


# --- preprocessing ----------------------------------------------------------------------------------------------------


def preprocess(dataset: Dataset, preprocessed: Path, workers: int = 1) -> Path:
    """Preprocess a planned dataset, unlabelled cases too, and return the folder of the labelled ones.

    Raises InputError for a dataset that is not planned or has changed since, otherwise as `preprocess_cases`.
    """
    target = preprocessed / dataset.folder.name
    plans, fingerprint = target / f"{PLANS}.json", target / "dataset_fingerprint.json"
    read_configuration(plans)
    if not _is_current(fingerprint, dataset):
        raise InputError(f"{dataset.folder}: found it changed since it was planned, expected `umamba2 plan` again")
    content = json.loads(fingerprint.read_text())
    grids = list(zip(content["shapes_after_crop"], content["spacings"]))
    folder = preprocess_cases(plans, dataset.cases, dataset.unlabelled, grids, workers)
    truth = target / "gt_segmentations"
    truth.mkdir(exist_ok=True)
    for _, labels in dataset.cases.values():
        copy = truth / labels.name
        if not copy.is_file() or copy.stat().st_mtime < labels.stat().st_mtime:
            write_file(copy, labels.read_bytes())
    return folder


def preprocess_cases(
    plans: Path,
    cases: Mapping[str, tuple[Path, Path | None]],
    unlabelled: Mapping[str, Path],
    grids: Sequence[tuple[Sequence[int], Sequence[float]]],
    workers: int,
) -> Path:
    """Preprocess (image, labels) and images without labels, by name, and return the folder of the former.

    Cases that are there, by the same recipe and newer than their files, are left as they are; those of other names are
    removed. ``grids`` of some typical cases, (shape, spacing), tell what it will take.
    Raises InputError for too little memory or disk space, and for cases that fail.
    """
    with _nnunet():
        import umamba2.training.preprocess  # noqa: F401
    configuration, recipe = read_configuration(plans), _recipe(plans)
    folder = plans.parent / configuration["data_identifier"]
    apart = folder.with_name(folder.name + UNLABELLED_SUFFIX)
    with alone_in(plans.parent):
        same = _recorded(folder) == recipe
        for kept, wanted in ((folder, cases), (apart, unlabelled)):
            _forget_all_but(kept, wanted if same else ())
        write_file(_record(folder), json.dumps(recipe, indent=1) + "\n")
        tasks: dict[str, tuple] = {case: (plans, case, *pair, folder) for case, pair in cases.items()}
        tasks |= {case: (plans, case, image, None, apart) for case, image in unlabelled.items()}
        tasks = {case: task for case, task in tasks.items() if not _is_done(*task[1:])}
        before, after = _voxels(grids, configuration["spacing"])
        each = bytes_in_memory(before.max(), after.max(), len(recipe["labels"]))
        workers = affordable(workers, each, "preprocessing")
        check_disk(plans.parent, STORED_BYTES * float(np.median(after)) * len(tasks), "the preprocessed cases")
        run_all(preprocess_case, tasks, workers, "preprocessing")
        for half in (folder, apart):
            shutil.rmtree(_partial(half), ignore_errors=True)
    return folder


def check_preprocessed(plans: Path) -> None:
    """Raise InputError if the cases were preprocessed by other plans than these, as far as that was recorded."""
    folder = plans.parent / read_configuration(plans)["data_identifier"]
    if _recorded(folder) not in (None, _recipe(plans)):
        raise InputError(f"{folder}: found cases preprocessed by other plans, expected `umamba2 preprocess` again")


def _recipe(plans: Path) -> dict[str, Any]:
    """What decides about preprocessed cases, beside their files."""
    content, configuration = json.loads(plans.read_text()), read_configuration(plans)
    names = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")
    own = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")
    return {
        "labels": json.loads((plans.parent / "dataset.json").read_text())["labels"],
        **{name: content[name] for name in names},
        **{name: value for name, value in configuration.items() if name in own or name.startswith("resampling_fn")},
    }


def _record(folder: Path) -> Path:
    """Where the recipe of preprocessed cases is kept: nnU-Net takes what lies in their own folder for cases."""
    return folder.with_name(f"recipe_{folder.name}.json")


def _recorded(folder: Path) -> Any:
    try:
        return json.loads(_record(folder).read_text())
    except (OSError, ValueError):
        return None


def read_configuration(path: Path) -> dict[str, Any]:
    """Our configuration in a plans file, with what it inherits. Raises InputError if it is not there."""
    try:
        configurations = json.loads(path.read_text())["configurations"]
        return {**configurations[configurations[CONFIGURATION]["inherits_from"]], **configurations[CONFIGURATION]}
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{path}: found no configuration {CONFIGURATION}, expected `umamba2 plan` first") from None


def preprocess_case(plans: Path, case: str, image: Path, labels: Path | None, folder: Path) -> None:
    """Preprocess one case into a folder; its ``.pkl`` appears last, when the rest is complete."""
    with _nnunet():
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        from umamba2.training.preprocess import Preprocessor

    partial = _partial(folder) / case
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    manager = PlansManager(str(plans))
    with _nnunet():
        Preprocessor(verbose=False).run_case_save(
            str(partial / case),
            [str(image)],
            None if labels is None else str(labels),
            manager,
            manager.get_configuration(CONFIGURATION),
            str(plans.parent / "dataset.json"),
        )
    for ending in _ENDINGS:
        os.replace(partial / f"{case}{ending}", folder / f"{case}{ending}")


def _partial(folder: Path) -> Path:
    """Where the cases of a folder are until they are complete: nnU-Net takes whatever lies in the folder itself."""
    return folder.with_name(folder.name + ".partial")


def _forget_all_but(folder: Path, cases: Container[str]) -> None:
    """Remove preprocessed cases that are no longer wanted."""
    for path in folder.glob("*"):
        case = re.sub(r"(_seg)?\.b2nd$|\.pkl$", "", path.name)
        if case != path.name and case not in cases:
            path.unlink()


def _is_done(case: str, image: Path, labels: Path | None, folder: Path) -> bool:
    results = [folder / f"{case}{ending}" for ending in _ENDINGS]
    sources = [image] if labels is None else [image, labels]
    return all(result.is_file() for result in results) and all(
        results[-1].stat().st_mtime >= source.stat().st_mtime for source in sources
    )


def _voxels(
    grids: Sequence[tuple[Sequence[int], Sequence[float]]], spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of each grid before and after resampling."""
    shapes, spacings = (np.array(part, dtype=float) for part in zip(*grids))
    return shapes.prod(axis=1), np.rint(shapes * spacings / np.array(spacing)).prod(axis=1)


def bytes_in_memory(before: float, after: float, classes: int) -> float:
    """What preprocessing a case takes, by its voxels before and after resampling: up to 1.5 times what was measured.

    Where the grid changes, nnU-Net holds a half-precision score of every label on the new one.
    """
    scores = 2 * (classes + 1) * after if before != after else 0
    return PROCESS_BYTES + 20 * before + 16 * after + scores
