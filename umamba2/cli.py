"""The command line: ``umamba2 predict | info | slim | phantom | package-predictions``, and what packages add."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import umamba2
from umamba2.errors import InputError
from umamba2.messages import exit_code, say

if TYPE_CHECKING:
    from umamba2.challenges import Challenge
    from umamba2.engine.predict import Predictor
    from umamba2.jobs import Case
    from umamba2.models.folder import Model

# Each command imports what it needs when it runs, so that --help and typing errors answer at once. Those below have
# options of their own in a package of their own, which only they import: a fault there leaves the others alone.
_PACKAGED = {
    "evaluate": ("grade segmentations", "umamba2.evaluation.command"),
    "report": ("write a page about a segmentation", "umamba2.reports.command"),
    "export": ("turn a label map into meshes, or add names and colours to it", "umamba2.exports.command"),
    "convert": ("turn a challenge's download into a dataset for training", "umamba2.training.command:add_convert"),
    "plan": ("plan the training on a dataset", "umamba2.training.command:add_plan"),
    "preprocess": ("preprocess a planned dataset", "umamba2.training.command:add_preprocess"),
    "pretrain": ("pretrain on scans without labels", "umamba2.training.command:add_pretrain"),
    "train": ("train one fold of a preprocessed dataset", "umamba2.training.command:add_train"),
}
_BESIDE = {
    "preview": "also write a picture of every result, <case>.preview.png",
    "statistics": "also write the volume of every structure, <case>.statistics.json",
    "report": "also write a page to read, <case>.report.html",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 1 if anything was wrong (2 for unknown options)."""
    argv = sys.argv[1:] if argv is None else argv

    def run() -> int:
        arguments = _parser(argv[:1]).parse_args(argv)
        return arguments.command(arguments)

    return exit_code(run)


def _parser(wanted: Sequence[str] = ()) -> argparse.ArgumentParser:
    from umamba2.anatomy.structures import LABEL_MAPS, TASKS
    from umamba2.jobs.container import add_limits

    parser = argparse.ArgumentParser(prog="umamba2", description="Dental CBCT segmentation with U-Mamba2.")
    parser.add_argument("--version", action="version", version=f"umamba2 {umamba2.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict = commands.add_parser("predict", help="segment scans", description="Segment one scan or a folder of them.")
    predict.set_defaults(command=_predict)
    predict.add_argument("-i", "--input", required=True, type=Path, help="image, or folder of images")
    predict.add_argument("-o", "--output", required=True, type=Path, help="folder (for one image also a file name)")
    predict.add_argument("-m", "--model", required=True, type=Path, help="model folder")
    predict.add_argument(
        "--challenge",
        choices=(*TASKS, "none"),
        help="use the published settings, post-processing and ids of a challenge; none: plain prediction "
        "(default: the challenge that the model names, if it does)",
    )
    predict.add_argument("--folds", nargs="+", metavar="FOLD", help="numbers or 'all' (default: every fold there is)")
    predict.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    predict.add_argument("--precision", choices=("auto", "fp16", "bf16", "fp32"), default="auto")
    predict.add_argument("--tile-step", type=float, help="distance of tiles as a fraction of the patch, in (0, 1]")
    predict.add_argument("--no-mirroring", action="store_true", help="one pass instead of one per mirror image")
    predict.add_argument("--clicks", type=Path, help="click file, or folder of them (interactive models)")
    predict.add_argument("--label-map", choices=LABEL_MAPS, help="ids of the output (default: platform)")
    predict.add_argument("--no-postprocess", action="store_true", help="the network's answer as it is")
    for option, what in _BESIDE.items():
        predict.add_argument(f"--{option}", action="store_true", help=what)
    add_limits(predict)
    predict.add_argument("--quiet", action="store_true", help="no progress bar")

    info = commands.add_parser("info", help="describe a model folder")
    info.set_defaults(command=_info)
    info.add_argument("model", type=Path)

    slim = commands.add_parser("slim", help="write a model in the small, safe format (safetensors and one JSON)")
    slim.set_defaults(command=_slim)
    slim.add_argument("model", type=Path)
    slim.add_argument("out", type=Path)
    slim.add_argument("--half", action="store_true", help="weights in half precision")

    phantom = commands.add_parser("phantom", help="write synthetic scans with exact labels and clicks")
    phantom.set_defaults(command=_phantom)
    phantom.add_argument("out", type=Path)
    phantom.add_argument("--count", type=_positive(int), default=1)
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--shape", type=_positive(int), nargs=3, metavar=("Z", "Y", "X"), default=(170, 272, 345))
    phantom.add_argument(
        "--spacing",
        type=_positive(float),
        nargs="+",
        metavar="MM",
        default=[0.3],
        help="one number, or three (z, y, x)",
    )

    package = commands.add_parser(
        "package-predictions",
        help="zip predictions for Codabench",
        description="Zip STSR predictions, STS25_Validation_<four digits>_Mask.nii.gz, as Codabench takes them.",
    )
    package.set_defaults(command=_package)
    package.add_argument("folder", type=Path)
    package.add_argument("-o", "--output", type=Path, help="default: <folder>.zip")

    for name, (what, where) in _PACKAGED.items():
        if name in wanted:
            module, _, function = where.partition(":")
            getattr(importlib.import_module(module), function or "add_parser")(commands)
        else:
            commands.add_parser(name, help=what)
    return parser


def _positive(kind: Callable) -> Callable:
    def parse(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"found {text}, expected a positive number")
        return value

    return parse


def _predict(arguments: argparse.Namespace) -> int:
    from umamba2.challenges import CHALLENGES
    from umamba2.engine.budget import process_start
    from umamba2.jobs import Job, check_model, container, find_model, leave_record, run_cases, succeeded
    from umamba2.models.folder import load_model

    challenge = CHALLENGES.get(arguments.challenge)
    cases = _cases(_images(arguments.input, challenge), arguments)
    model = load_model(find_model(challenge.name, [arguments.model]) if challenge else arguments.model, arguments.folds)
    if arguments.challenge is None and model.challenge is not None:
        if model.challenge not in tuple(CHALLENGES):  # it may be anything that JSON can hold
            expected = f"{', '.join(CHALLENGES)} (or --challenge none)"
            raise InputError(f"{model.folder}: found a model for {model.challenge!r}, expected {expected}")
        challenge = CHALLENGES[model.challenge]
    predictor = _predictor(model, arguments, challenge)
    if challenge is not None:
        check_model(predictor, challenge, model.folder)
    elif arguments.label_map not in (None, "training"):
        raise InputError(f"--label-map: found {arguments.label_map} without a challenge, expected --challenge")
    if arguments.clicks is not None and not predictor.takes_clicks:
        raise InputError(f"{model.folder}: found a model without clicks, expected one that takes them (or no --clicks)")

    job = Job(predictor, challenge, arguments.label_map, postprocess=not arguments.no_postprocess)
    finished = None
    if any(getattr(arguments, option) for option in _BESIDE):
        from umamba2.reports.command import beside

        finished = beside(arguments, challenge)
    deadline = container.deadline(arguments, process_start())
    outcomes = run_cases(cases, job, finished, deadline)
    if not _is_file(arguments):
        leave_record(arguments.output, outcomes, job, deadline)
    return 0 if succeeded(outcomes, arguments.strict) else 1


def _images(source: Path, challenge: Challenge | None) -> list[Path]:
    from umamba2.jobs import find_images
    from umamba2.scans.volumes import SUFFIXES, list_volumes

    if not source.is_dir():
        return [source]
    images = find_images(challenge, source) if challenge else list_volumes(source)
    if not images:
        raise InputError(f"{source}: found no images, expected at least one of {', '.join(SUFFIXES)}")
    return images


def _predictor(model: Model, arguments: argparse.Namespace, challenge: Challenge | None) -> Predictor:
    from umamba2.engine.predict import Predictor

    settings = challenge.predictor_settings() if challenge else {}
    if arguments.tile_step is not None:
        settings["tile_step"] = arguments.tile_step
    if arguments.no_mirroring:
        settings["mirror_axes"] = ()
    return Predictor.from_folder(
        model,
        device=arguments.device,
        precision=arguments.precision,
        progress=not arguments.quiet and sys.stderr.isatty(),
        **settings,
    )


def _is_file(arguments: argparse.Namespace) -> bool:
    """Whether --output names a file; otherwise a folder."""
    out = arguments.output
    return not arguments.input.is_dir() and out.suffix != "" and not out.is_dir()


def _cases(images: list[Path], arguments: argparse.Namespace) -> list[Case]:
    from umamba2.jobs import Case
    from umamba2.scans.clicks import click_file
    from umamba2.scans.volumes import SUFFIXES, stem, suffix

    out, clicks = arguments.output, arguments.clicks
    out_is_file = _is_file(arguments)
    if out_is_file and suffix(out) is None:
        raise InputError(f"{out}: found an unknown file name ending, expected {', '.join(SUFFIXES)} or a folder")
    if clicks is not None and not clicks.is_dir() and len(images) > 1:
        raise InputError(f"{clicks}: found one click file for {len(images)} images, expected a folder of them")
    names = [stem(image) for image in images]
    cases = []
    for image, name in zip(images, names):
        is_folder = clicks is not None and clicks.is_dir()
        output = out if out_is_file else out / image.name
        cases.append(Case(image, output, click_file(clicks, name, names) if is_folder else clicks))
    return cases


def _info(arguments: argparse.Namespace) -> int:
    from umamba2.models.folder import describe

    for line in describe(arguments.model).splitlines():
        say(line)
    return 0


def _slim(arguments: argparse.Namespace) -> int:
    from umamba2.models.folder import slim

    slim(arguments.model, arguments.out, half=arguments.half)
    size = sum(path.stat().st_size for path in arguments.out.iterdir() if path.is_file())
    say(f"{arguments.out}  {size / 1e6:.1f} MB")
    return 0


def _phantom(arguments: argparse.Namespace) -> int:
    spacing = arguments.spacing * 3 if len(arguments.spacing) == 1 else arguments.spacing
    if len(spacing) != 3:
        raise InputError(f"--spacing: found {len(spacing)} numbers, expected one or three")
    try:
        from umamba2.synthetic.phantoms import write_phantoms
    except ImportError as error:
        raise InputError(f"phantoms: found no {error.name}, expected pip install 'umamba2[phantoms]'") from None
    try:
        cases = write_phantoms(arguments.out, arguments.count, arguments.seed, tuple(arguments.shape), tuple(spacing))
    except (ValueError, OSError) as error:
        raise InputError(f"{arguments.out}: {error}") from None
    say(f"{arguments.out}  {len(cases)} phantoms: {', '.join(cases)}")
    return 0


def _package(arguments: argparse.Namespace) -> int:
    from umamba2.jobs.codabench import package_predictions

    archive = package_predictions(arguments.folder, arguments.output)
    say(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB")
    return 0
