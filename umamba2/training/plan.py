"""Plans for training: nnU-Net's own, with the published configuration added.

On disk, in nnU-Net's preprocessed folder:

- ``<dataset>/nnUNetResEncUNetLPlans_torchres.json``: nnU-Net's plans; ``3d_umamba2`` in them is ours;
- ``<dataset>/dataset_fingerprint.json``: grids and intensities, see `umamba2.training.fingerprint`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from umamba2.challenges import Challenge
from umamba2.challenges.recipe import FULL, Architecture, Recipe
from umamba2.errors import InputError, naming, needing
from umamba2.files import read_json, together, write_file
from umamba2.models.network import HARMONISED
from umamba2.training import nnunet
from umamba2.training.dataset import KINDS, Dataset, read_splits
from umamba2.training.fingerprint import take_fingerprint
from umamba2.training.nnunet import CONFIGURATION, PLANS
from umamba2.training.provenance import stamps

_BESIDE = ("dataset.json", "splits_final.json")  # what nnU-Net's planner writes beside plans


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
    """Plan a dataset. It is read, checked and measured unless that has been done since it last changed.

    Args:
        dataset: The raw dataset.
        preprocessed: nnU-Net's preprocessed folder.
        challenge: What it is for; its recipe becomes the configuration ``3d_umamba2``.
        patch: (z, y, x) in voxels instead of the recipe's.
        spacing: (z, y, x) in mm instead of the dataset's median.
        architecture: Instead of the recipe's.
        harmonised: Intensities go through `engine.harmonise` first, in training and at inference.
        workers: Number of processes.

    Returns:
        The plans file.

    Raises:
        InputError: The dataset is not the challenge's or has a fault, or the patch does not fit the network.
    """
    check_challenge(dataset, challenge)
    patch = patch or challenge.recipe.patch
    check_patch("--patch", patch, architecture.total_stride(patch))
    with needing("train", "planning"):
        import nnunetv2  # noqa: F401 (to learn that before the reading, which takes long)
    target = preprocessed / dataset.folder.name
    _check_splits(dataset.folder / "splits_final.json", target / "splits_final.json")
    path, fingerprint = target / f"{PLANS}.json", target / "dataset_fingerprint.json"
    if path.exists():
        read_json(path, "plans, or no such file")  # nnU-Net keeps what older plans hold
    if not is_current(fingerprint, dataset, harmonised):
        take_fingerprint(dataset, fingerprint, workers, harmonised)
    with (
        TemporaryDirectory(prefix="umamba2-") as apart,
        naming(apart),
    ):  # nnU-Net writes its files in place, whole or not
        place = Path(apart) / target.name
        place.mkdir()
        for known in (fingerprint, path):
            if known.exists():
                shutil.copyfile(known, place / known.name)
        nnunet.run_planner(dataset.folder, Path(apart), spacing)
        plans = read_json(place / path.name)
        others = {name: (place / name).read_bytes() for name in _BESIDE if (place / name).exists()}
    if "3d_fullres" not in plans["configurations"]:
        raise InputError(f"{dataset.folder}: found scans of one slice, expected volumes")
    if harmonised:
        statistics = read_json(fingerprint)["harmonised_intensities"]
        plans["foreground_intensity_properties_per_channel"] = {"0": statistics}
    add_configuration(plans, challenge.recipe, patch, architecture, harmonised)
    with together():  # the plans last
        for name, content in others.items():
            write_file(target / name, content)
        write_file(path, json.dumps(plans, indent=4) + "\n")
    return path


def add_configuration(
    plans: dict[str, Any], preset: Recipe, patch: tuple[int, int, int], architecture: Architecture, harmonised: bool
) -> None:
    """Add the preset's configuration to nnU-Net's plans, in place.

    Args:
        plans: The plans.
        preset: What to add.
        patch: (z, y, x) in voxels.
        architecture: Size of the network.
        harmonised: Intensities go through `engine.harmonise` first.
    """
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
    if len(dataset.ids) != challenge.num_classes:
        found = f"found {len(dataset.ids)} labels, expected {challenge.num_classes} for {challenge.name}"
        raise InputError(f"{dataset.folder / 'dataset.json'}: {found}")


def check_patch(where: object, patch: Sequence[int], stride: Sequence[int]) -> None:
    """See that a network can halve a patch as often as it has to.

    Args:
        where: What names the patch, for the message.
        patch: (z, y, x) in voxels.
        stride: By how much the network halves each axis in all.

    Raises:
        InputError: A size is not divisible.
    """
    if len(patch) != 3 or any(n < step or n % step for n, step in zip(patch, stride)):
        size, divisor = ("x".join(map(str, numbers)) for numbers in (patch, stride))
        raise InputError(f"{where}: found patches of {size} voxels (z, y, x), expected sizes divisible by {divisor}")


def read_configuration(path: Path) -> dict[str, Any]:
    """Our configuration in a plans file, with what it inherits. Raises InputError if it is not there."""
    try:
        configurations = read_json(path, "`umamba2 plan` first")["configurations"]
        return {**configurations[configurations[CONFIGURATION]["inherits_from"]], **configurations[CONFIGURATION]}
    except (LookupError, TypeError):
        raise InputError(f"{path}: found no configuration {CONFIGURATION}, expected `umamba2 plan` first") from None


def is_current(fingerprint: Path, dataset: Dataset, harmonised: bool = False) -> bool:
    """Whether a fingerprint is complete and nothing in its dataset has changed since.

    Args:
        fingerprint: The file, which may not be there.
        dataset: The dataset.
        harmonised: It has to hold statistics of harmonised scans.
    """
    with suppress(OSError, InputError):
        content = read_json(fingerprint)
        complete = not harmonised or "harmonised_intensities" in content
        return complete and content.get("made_of") == stamps(*dataset.files)
    return False


def _check_splits(source: Path, target: Path) -> None:
    """See that training will use the dataset's folds, with its present list of unlabelled cases."""
    if not source.is_file() or not target.is_file():
        return
    new, old = ([{kind: sorted(fold[kind]) for kind in KINDS[:2]} for fold in read_splits(p)] for p in (source, target))
    if new != old:
        raise InputError(f"{target}: found other folds than in {source}, expected the same (remove what is outdated)")
    with naming(source):
        content = source.read_bytes()
    write_file(target, content)
