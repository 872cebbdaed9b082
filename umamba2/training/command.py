"""``umamba2 convert | plan | preprocess | pretrain | train``: from a challenge's download to a model."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from umamba2.arguments import positive, some_path
from umamba2.challenges import CHALLENGES, MULTICLASS, find_challenge
from umamba2.challenges.recipe import ARCHITECTURES
from umamba2.errors import InputError, needing
from umamba2.messages import say
from umamba2.training.nnunet import PLANS, add_options, find_dataset, find_folder
from umamba2.training.options import Options, challenge_for

ALIASES = {"toothfairy3": MULTICLASS.name}  # what `convert` calls a challenge as well


def add_convert(commands: Any) -> None:
    """Add ``convert`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "convert",
        help="turn a challenge's download into a dataset for training",
        description="Turn a challenge's download into a dataset of nnU-Net; go on where an earlier run has stopped.",
    )
    parser.set_defaults(command=_convert)
    parser.add_argument("challenge", choices=(*ALIASES, *CHALLENGES))
    parser.add_argument("source", type=some_path, help="the unpacked download")
    parser.add_argument("target", type=some_path, help="nnU-Net's raw folder, or Dataset<number>_<name> in it")
    _add_workers(parser)


def add_plan(commands: Any) -> None:
    """Add ``plan`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "plan",
        help="plan the training on a dataset",
        description="Run nnU-Net's planning and add the published configuration to the plans.",
    )
    parser.set_defaults(command=_plan)
    _add_dataset(parser, "raw")
    _add_preset(parser)
    _add_network(parser, "the dataset's median")
    parser.add_argument(
        "--harmonise", action="store_true", help="bring air and soft tissue of every scan to the same intensities first"
    )
    add_options(parser, "raw", "preprocessed")
    _add_workers(parser)


def add_preprocess(commands: Any) -> None:
    """Add ``preprocess`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "preprocess",
        help="preprocess a planned dataset",
        description="Preprocess a planned dataset, unlabelled cases too; go on where an earlier run has stopped.",
    )
    parser.set_defaults(command=_preprocess)
    _add_dataset(parser, "raw")
    add_options(parser, "raw", "preprocessed")
    _add_workers(parser)


def add_train(commands: Any) -> None:
    """Add ``train`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "train",
        help="train one fold of a preprocessed dataset",
        description="Train one fold of a preprocessed dataset with nnU-Net and the published recipe.",
    )
    parser.set_defaults(command=_train)
    _add_dataset(parser, "preprocessed")
    _add_preset(parser)
    parser.add_argument("--fold", default="0", help="number of a fold of the splits file, or 'all' (default: 0)")
    parser.add_argument(
        "--pretrained",
        type=some_path,
        metavar="MODEL",
        help="weights to start from: a model folder or a checkpoint",
    )
    parser.add_argument(
        "--finetune",
        type=positive(int, "epochs"),
        nargs="?",
        const=0,
        metavar="EPOCHS",
        help="add the preset's second stage, with falling learning rates (default: of the preset's length)",
    )
    parser.add_argument(
        "--average-unlabelled",
        action="store_true",
        help="divide the gradients of unlabelled patches like those of labelled ones, as the paper reads",
    )
    _add_training(parser)
    add_options(parser, "preprocessed", "results")


def add_pretrain(commands: Any) -> None:
    """Add ``pretrain`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "pretrain",
        help="pretrain on scans without labels",
        description="Pretrain a network on any scans: it learns to undo noise, blur and missing blocks.",
    )
    parser.set_defaults(command=_pretrain)
    parser.add_argument("scans", type=some_path, help="folder of scans")
    parser.add_argument(
        "-o", "--output", required=True, type=some_path, help="folder for weights, pictures and the rest"
    )
    parser.add_argument("--preset", choices=CHALLENGES, required=True, help="the challenge to be trained for later")
    parser.add_argument(
        "--plans", type=some_path, help="plans of the dataset to be trained later (default: the preset)"
    )
    _add_network(parser, "the scans' median")
    _add_training(parser)
    _add_workers(parser)


def _add_network(parser: argparse.ArgumentParser, median: str) -> None:
    zyx: dict[str, Any] = {"nargs": 3, "metavar": ("Z", "Y", "X")}
    parser.add_argument("--patch", type=positive(int, "voxels"), help="in voxels (default: the preset's)", **zyx)
    parser.add_argument("--spacing", type=positive(float, "mm"), help=f"in mm (default: {median})", **zyx)
    what = "size: full (the published one, default) or small"
    parser.add_argument("--network", choices=ARCHITECTURES, default="full", help=what)


def _add_training(parser: argparse.ArgumentParser) -> None:
    count = positive(int)
    parser.add_argument("--epochs", type=count, help="default: the preset's")
    parser.add_argument("--iterations", type=count, help="optimizer steps of an epoch (default: the preset's)")
    parser.add_argument("--validation-iterations", type=count, help="batches of an epoch (default: the preset's)")
    parser.add_argument("--gpus", type=count, default=1, help="processes, one GPU each (default: 1)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fp32", action="store_true", help="no reduced precision")
    parser.add_argument("--continue", action="store_true", dest="resume", help="go on from the last checkpoint")
    what = "two steps and a validation step of every stage, to see whether this machine suffices; nothing is kept"
    parser.add_argument("--dry-run", action="store_true", help=what)


def _add_dataset(parser: argparse.ArgumentParser, where: str) -> None:
    parser.add_argument("dataset", help=f"name or number of a dataset in nnU-Net's {where} folder")


def _add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=CHALLENGES, help="default: the challenge that the dataset names")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    default = min(8, os.cpu_count() or 1)
    parser.add_argument(
        "--workers",
        type=positive(int, "processes"),
        default=default,
        help=f"processes, one case each (default: {default})",
    )


class _Lines(logging.Handler):
    """What the training has to say, as lines on the terminal: remarks on stdout, warnings and errors on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            say(record.getMessage())
        else:
            say(f"{record.levelname.lower()}: {record.getMessage()}", sys.stderr)


def _show_log() -> logging.Logger:
    logger = logging.getLogger("umamba2.training")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [_Lines()]
    return logger


def _convert(options: argparse.Namespace) -> int:
    from umamba2.training.convert import convert

    _show_log()
    challenge = find_challenge(ALIASES.get(options.challenge, options.challenge))
    folder = convert(challenge, options.source, options.target, options.workers)
    say(f"{folder}  complete; next: umamba2 plan {folder.name}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from umamba2.training.dataset import read_dataset
    from umamba2.training.plan import plan, read_configuration

    log = _show_log()
    raw, preprocessed = find_folder("raw", options.raw), find_folder("preprocessed", options.preprocessed)
    dataset = read_dataset(find_dataset(raw, options.dataset))
    challenge = challenge_for(dataset.folder, dataset.challenge, options.preset)
    if challenge.recipe.unlabelled and not dataset.unlabelled:
        expected = "some for `umamba2 train` (nnUNetv2_train -tr UMamba2Trainer does without)"
        log.warning("%s: found no unlabelled cases, expected %s", dataset.folder, expected)
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
    from umamba2.training.dataset import read_dataset

    with needing("train", "preprocessing"):
        from umamba2.training.preprocess import preprocess

    _show_log()
    raw, preprocessed = find_folder("raw", options.raw), find_folder("preprocessed", options.preprocessed)
    dataset = read_dataset(find_dataset(raw, options.dataset))
    folder = preprocess(dataset, preprocessed, options.workers)
    say(f"{folder}  {len(dataset.cases)} labelled, {len(dataset.unlabelled)} unlabelled cases")
    return 0


def _train(options: argparse.Namespace) -> int:
    from umamba2.training.dataset import read_description
    from umamba2.training.run import train

    with needing("train", "training"):
        from umamba2.training.preprocess import check_preprocessed

    preprocessed = find_folder("preprocessed", options.preprocessed)
    dataset = find_dataset(preprocessed, options.dataset)
    trainer = challenge_for(dataset, read_description(dataset).get("challenge"), options.preset).recipe.trainer
    check_preprocessed(dataset / f"{PLANS}.json")
    if options.fold != "all" and not re.fullmatch("[0-9]{1,3}", options.fold):
        raise InputError(f"--fold: found {options.fold!r}, expected a number or 'all'")
    run = _run_options(
        options,
        finetune_epochs=options.finetune,
        average_unlabelled=options.average_unlabelled,
        pretrained=options.pretrained and str(options.pretrained.absolute()),
    )
    fold = options.fold if options.fold == "all" else int(options.fold)
    folders, machine = (preprocessed, find_folder("results", options.results)), (options.device, options.gpus)
    folder = train(dataset.name, fold, trainer, run, *folders, *machine, options.resume)
    if not options.dry_run:
        say(f"{folder.parent}  {folder.name} complete; next: umamba2 slim {folder.parent} OUT")
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from umamba2.scans.volumes import SUFFIXES, list_volumes, stem
    from umamba2.training.run import pretrain

    _show_log()
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
        _run_options(options),
        plans=options.plans,
        patch=options.patch and tuple(options.patch),
        spacing=options.spacing and tuple(options.spacing),
        architecture=ARCHITECTURES[options.network],
        workers=options.workers,
        device=options.device,
        gpus=options.gpus,
        resume=options.resume,
    )
    if not options.dry_run:
        say(f"{weights}  complete; next: umamba2 train DATASET --pretrained {weights}")
    return 0


def _run_options(options: argparse.Namespace, **more: Any) -> Options:
    return Options(
        preset=options.preset,
        epochs=options.epochs,
        iterations=options.iterations,
        validation_iterations=options.validation_iterations,
        seed=options.seed,
        fp32=options.fp32,
        dry_run=options.dry_run,
        **more,
    )
