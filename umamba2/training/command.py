"""``umamba2 convert | plan | preprocess``: from a challenge's download to what training reads."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from umamba2.errors import InputError
from umamba2.labels import INTERACTIVE, MULTICLASS, STSR
from umamba2.training.paths import add_options, find_dataset, use_folders
from umamba2.training.presets import ARCHITECTURES, PRESETS, Preset

# What a download is called, and the challenge that it is converted for.
DOWNLOADS = {"toothfairy3": MULTICLASS, INTERACTIVE: INTERACTIVE, STSR: STSR}


def add_convert(commands) -> None:
    """Add ``convert`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "convert",
        help="turn a challenge's download into a dataset for training",
        description="Turn a challenge's download into a dataset of nnU-Net; go on where an earlier run has stopped.",
    )
    parser.set_defaults(command=_convert)
    parser.add_argument("challenge", choices=DOWNLOADS)
    parser.add_argument("source", type=Path, help="the unpacked download")
    parser.add_argument("target", type=Path, help="nnU-Net's raw folder, or Dataset<number>_<name> in it")
    _add_workers(parser)


def add_plan(commands) -> None:
    """Add ``plan`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "plan",
        help="plan the training on a dataset",
        description="Run nnU-Net's planning and add the published configuration to the plans.",
    )
    parser.set_defaults(command=_plan)
    _add_dataset(parser)
    parser.add_argument(
        "--patch", type=_at_least_one, nargs=3, metavar=("Z", "Y", "X"), help="in voxels (default: the preset's)"
    )
    parser.add_argument(
        "--spacing", type=_positive, nargs=3, metavar=("Z", "Y", "X"), help="in mm (default: the dataset's median)"
    )
    parser.add_argument(
        "--network", choices=ARCHITECTURES, default="full", help="size: full (the published one, default) or small"
    )
    parser.add_argument(
        "--harmonise", action="store_true", help="bring air and soft tissue of every scan to the same intensities first"
    )
    add_options(parser, "raw", "preprocessed")
    _add_workers(parser)


def add_preprocess(commands) -> None:
    """Add ``preprocess`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "preprocess",
        help="preprocess a planned dataset",
        description="Preprocess a planned dataset, unlabelled cases too; go on where an earlier run has stopped.",
    )
    parser.set_defaults(command=_preprocess)
    _add_dataset(parser)
    add_options(parser, "raw", "preprocessed")
    _add_workers(parser)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="name or number of a dataset in nnU-Net's raw folder")
    parser.add_argument("--preset", choices=PRESETS, help="default: the challenge that the dataset names")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    default = min(8, os.cpu_count() or 1)
    parser.add_argument(
        "--workers", type=_at_least_one, default=default, help=f"processes, one case each (default: {default})"
    )


def preset_of(dataset: Path, name: str | None, challenge: str | None) -> Preset:
    """The preset of that name, else the one for the challenge that a dataset names; InputError if there is none."""
    if name is None and challenge not in PRESETS:
        raise InputError(f"{dataset}: found the challenge {challenge}, expected --preset {' or '.join(PRESETS)}")
    return PRESETS[name or challenge]  # type: ignore[index]


def _convert(options: argparse.Namespace) -> int:
    from umamba2.messages import say
    from umamba2.training.convert import convert

    folder = convert(DOWNLOADS[options.challenge], options.source, options.target, options.workers)
    say(f"{folder}  complete; next: umamba2 plan {folder.name}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from umamba2.messages import say
    from umamba2.training.dataset import read_dataset
    from umamba2.training.planning import plan, read_configuration

    raw, preprocessed = use_folders(options, "raw", "preprocessed")
    dataset = read_dataset(find_dataset(raw, options.dataset))
    plans = plan(
        dataset,
        preprocessed,
        preset_of(dataset.folder, options.preset, dataset.challenge),
        patch=options.patch and tuple(options.patch),
        spacing=options.spacing and tuple(options.spacing),
        architecture=ARCHITECTURES[options.network],
        harmonised=options.harmonise,
        workers=options.workers,
    )
    configuration = read_configuration(plans)
    patch, median, spacing = (
        "x".join(f"{n:g}" for n in configuration[key])
        for key in ("patch_size", "median_image_size_in_voxels", "spacing")
    )
    say(f"{plans}  patches of {patch} voxels at {spacing} mm, scans of {median} (median)")
    return 0


def _preprocess(options: argparse.Namespace) -> int:
    from umamba2.messages import say
    from umamba2.training.dataset import read_dataset
    from umamba2.training.planning import check_preset, preprocess

    raw, preprocessed = use_folders(options, "raw", "preprocessed")
    dataset = read_dataset(find_dataset(raw, options.dataset))
    check_preset(dataset, preset_of(dataset.folder, options.preset, dataset.challenge))
    folder = preprocess(dataset, preprocessed, options.workers)
    say(f"{folder}  {len(dataset.cases)} labelled, {len(dataset.unlabelled)} unlabelled cases")
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a positive number")
    return value


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected at least 1")
    return value
