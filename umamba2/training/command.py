"""``umamba2 convert | plan | preprocess | pretrain | train``: from a challenge's download to a model."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from umamba2.challenges import CHALLENGES, MULTICLASS, Challenge, find_challenge
from umamba2.challenges.recipe import ARCHITECTURES
from umamba2.errors import InputError
from umamba2.training.nnunet import add_options, find_dataset, use_folders
from umamba2.training.presets import PLANS

ALIASES = {"toothfairy3": MULTICLASS.name}  # what `convert` calls a challenge as well


def add_convert(commands) -> None:
    """Add ``convert`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "convert",
        help="turn a challenge's download into a dataset for training",
        description="Turn a challenge's download into a dataset of nnU-Net; go on where an earlier run has stopped.",
    )
    parser.set_defaults(command=_convert)
    parser.add_argument("challenge", choices=(*ALIASES, *CHALLENGES))
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


def add_train(commands) -> None:
    """Add ``train`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "train",
        help="train one fold of a preprocessed dataset",
        description="Train one fold of a preprocessed dataset with nnU-Net and the published recipe.",
    )
    parser.set_defaults(command=_train)
    _add_dataset(parser, "preprocessed")
    parser.add_argument("--fold", default="0", help="number of a fold of the splits file, or 'all' (default: 0)")
    parser.add_argument(
        "--pretrained", type=Path, metavar="MODEL", help="weights to start from: a model folder or a checkpoint"
    )
    parser.add_argument(
        "--finetune",
        type=_at_least_one,
        nargs="?",
        const=-1,
        metavar="EPOCHS",
        help="add the preset's second stage, with falling learning rates (default: of the preset's length)",
    )
    _add_training(parser)
    add_options(parser, "preprocessed", "results")


def add_pretrain(commands) -> None:
    """Add ``pretrain`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "pretrain",
        help="pretrain on scans without labels",
        description="Pretrain a network on any scans: it learns to undo noise, blur and missing blocks.",
    )
    parser.set_defaults(command=_pretrain)
    parser.add_argument("scans", type=Path, help="folder of scans")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder for weights, pictures and the rest")
    parser.add_argument("--preset", choices=CHALLENGES, required=True, help="the challenge to be trained for later")
    parser.add_argument("--plans", type=Path, help="plans of the dataset to be trained later (default: the preset)")
    parser.add_argument(
        "--patch", type=_at_least_one, nargs=3, metavar=("Z", "Y", "X"), help="in voxels (default: the preset's)"
    )
    parser.add_argument(
        "--spacing", type=_positive, nargs=3, metavar=("Z", "Y", "X"), help="in mm (default: the scans' median)"
    )
    parser.add_argument("--network", choices=ARCHITECTURES, default="full", help="size: full (default) or small")
    _add_training(parser)
    _add_workers(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=_at_least_one, help="default: the preset's")
    parser.add_argument("--iterations", type=_at_least_one, help="optimizer steps of an epoch (default: 250)")
    parser.add_argument("--validation-iterations", type=_at_least_one, default=50, help="of an epoch (default: 50)")
    parser.add_argument("--gpus", type=_at_least_one, default=1, help="processes, one GPU each (default: 1)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fp32", action="store_true", help="no reduced precision")
    parser.add_argument("--continue", action="store_true", dest="go_on", help="go on from the last checkpoint")


def _add_dataset(parser: argparse.ArgumentParser, where: str = "raw") -> None:
    parser.add_argument("dataset", help=f"name or number of a dataset in nnU-Net's {where} folder")
    parser.add_argument("--preset", choices=CHALLENGES, help="default: the challenge that the dataset names")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    default = min(8, os.cpu_count() or 1)
    parser.add_argument(
        "--workers", type=_at_least_one, default=default, help=f"processes, one case each (default: {default})"
    )


def challenge_of(dataset: Path, name: str | None, stated: str | None) -> Challenge:
    """The challenge of that name, else the one that a dataset states; InputError if there is none."""
    if name is None and stated not in CHALLENGES:
        raise InputError(f"{dataset}: found the challenge {stated}, expected --preset {' or '.join(CHALLENGES)}")
    return find_challenge(name or str(stated))


def _convert(options: argparse.Namespace) -> int:
    from umamba2.messages import say
    from umamba2.training.convert import convert

    folder = convert(
        find_challenge(ALIASES.get(options.challenge, options.challenge)),
        options.source,
        options.target,
        options.workers,
    )
    say(f"{folder}  complete; next: umamba2 plan {folder.name}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from umamba2.messages import say
    from umamba2.training.dataset import read_dataset
    from umamba2.training.plan import plan, read_configuration

    raw, preprocessed = use_folders(options, "raw", "preprocessed")
    dataset = read_dataset(find_dataset(raw, options.dataset))
    challenge = challenge_of(dataset.folder, options.preset, dataset.challenge)
    if challenge.recipe.unlabelled and not dataset.unlabelled:
        expected = "some for `umamba2 train` (nnUNetv2_train -tr UMamba2Trainer does without)"
        say(f"warning: {dataset.folder}: found no unlabelled cases, expected {expected}", sys.stderr)
    plans = plan(
        dataset,
        preprocessed,
        challenge,
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
    from umamba2.training.plan import check_challenge, preprocess

    raw, preprocessed = use_folders(options, "raw", "preprocessed")
    dataset = read_dataset(find_dataset(raw, options.dataset))
    check_challenge(dataset, challenge_of(dataset.folder, options.preset, dataset.challenge))
    folder = preprocess(dataset, preprocessed, options.workers)
    say(f"{folder}  {len(dataset.cases)} labelled, {len(dataset.unlabelled)} unlabelled cases")
    return 0


def _train(options: argparse.Namespace) -> int:
    from umamba2.messages import say
    from umamba2.training.dataset import read_description
    from umamba2.training.plan import check_preprocessed
    from umamba2.training.run import train

    preprocessed, _ = use_folders(options, "preprocessed", "results")
    dataset = find_dataset(preprocessed, options.dataset)
    challenge = challenge_of(dataset, options.preset, read_description(dataset).get("challenge"))
    check_preprocessed(dataset / f"{PLANS}.json")
    if options.fold != "all" and not options.fold.isdigit():
        raise InputError(f"--fold: found {options.fold!r}, expected a number or 'all'")
    preset, finetune = challenge.recipe, options.finetune
    if finetune == -1:
        finetune = preset.finetune.epochs if preset.finetune else 1  # which the preset then refuses
    run_options = _run_options(
        options,
        preset=challenge.name,
        finetune_epochs=finetune,
        pretrained=options.pretrained and str(options.pretrained.absolute()),
    )
    run_options.applied_to(preset)
    folder = train(
        dataset.name,
        options.fold if options.fold == "all" else int(options.fold),
        preset.trainer,
        run_options,
        options.device,
        options.gpus,
        options.go_on,
    )
    say(f"{folder.parent}  {folder.name} complete; next: umamba2 slim {folder.parent} OUT")
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from umamba2.messages import say
    from umamba2.scans.volumes import SUFFIXES, list_volumes, stem
    from umamba2.training.run import pretrain

    if not options.scans.is_dir():
        raise InputError(f"{options.scans}: found no such folder, expected one of scans")
    scans: dict[str, Path] = {}
    for path in list_volumes(options.scans):
        if scans.setdefault(stem(path), path) != path:
            raise InputError(f"{path}: found {scans[stem(path)]} of the same name, expected one of them")
    if not scans:
        raise InputError(f"{options.scans}: found no scans, expected at least one of {', '.join(SUFFIXES)}")
    weights = pretrain(
        scans,
        options.output.absolute(),
        find_challenge(options.preset),
        _run_options(options, preset=options.preset),
        plans=options.plans,
        patch=options.patch and tuple(options.patch),
        spacing=options.spacing and tuple(options.spacing),
        architecture=ARCHITECTURES[options.network],
        workers=options.workers,
        device=options.device,
        gpus=options.gpus,
        go_on=options.go_on,
    )
    say(f"{weights}  complete; next: umamba2 train DATASET --pretrained {weights}")
    return 0


def _run_options(options: argparse.Namespace, **more):
    from umamba2.training.options import Options

    return Options(
        epochs=options.epochs,
        iterations=options.iterations,
        validation_iterations=options.validation_iterations,
        seed=options.seed,
        fp32=options.fp32,
        **more,
    )


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
