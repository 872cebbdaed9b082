"""``umamba2 predict`` and ``umamba2 package-predictions``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umamba2.challenges import CHALLENGES, Challenge
from umamba2.errors import InputError
from umamba2.jobs.container import add_inference_options, time_of_end
from umamba2.messages import say

if TYPE_CHECKING:
    from umamba2.jobs.job import AfterWriting, Case
    from umamba2.segmenter import Segmenter

_SIDE_FILES = {
    "preview": "also write a picture of every result, <case>.preview.png",
    "statistics": "also write the volume of every structure, <case>.statistics.json",
    "report": "also write a page to read, <case>.report.html",
}


def add_predict(commands: Any) -> None:
    """Add ``predict`` to the commands of an argparse parser."""
    parser = commands.add_parser("predict", help="segment scans", description="Segment one scan or a folder of them.")
    parser.set_defaults(command=predict)
    add = parser.add_argument
    add("-i", "--input", required=True, type=Path, help="image, or folder of images")
    add("-o", "--output", required=True, type=Path, help="folder (for one image also a file name)")
    add(
        "-m",
        "--model",
        help="model folder, or name of a model at hand (see umamba2 models; default: the demo model, which has learned "
        "from phantoms)",
    )
    add(
        "--challenge",
        choices=(*CHALLENGES, "none"),
        help="use the published settings, post-processing and ids of a challenge; none: plain prediction "
        "(default: the challenge that the model names, if it does)",
    )
    add("--tile-step", type=float, help="distance of tiles as a fraction of the patch, in (0, 1]")
    mirroring = parser.add_mutually_exclusive_group()
    mirroring.add_argument("--no-mirroring", action="store_true", help="one pass instead of one per mirror image")
    mirroring.add_argument(
        "--mirror-axes",
        nargs="+",
        type=int,
        choices=(0, 1, 2),
        metavar="AXIS",
        help="average over mirror images along these axes (0 z, 1 y, 2 x), whatever the model says",
    )
    add("--blend", choices=("nnunet", "published"), help="how tiles are blended (default: the challenge's way)")
    add("--clicks", type=Path, help="click file, or folder of them (interactive models)")
    add("--no-postprocess", action="store_true", help="the network's answer as it is")
    for option, what in _SIDE_FILES.items():
        add(f"--{option}", action="store_true", help=what)
    add(
        "--orientation",
        default="auto",
        metavar="CODE",
        help="how the model's training scans lay in the patient, such as LPS (default: what the model says); keep: "
        "take scans as they are",
    )
    add_inference_options(parser)
    add("--quiet", action="store_true", help="no progress bar")


def add_package(commands: Any) -> None:
    """Add ``package-predictions`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "package-predictions",
        help="zip predictions for Codabench",
        description="Zip STSR predictions, STS25_Validation_<four digits>_Mask.nii.gz, as Codabench takes them.",
    )
    parser.set_defaults(command=_package)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="default: <folder>.zip")


def predict(options: argparse.Namespace) -> int:
    """Segment what the options name; 0 if every case has an output (and, if strict, nothing was wrong), else 1."""
    from umamba2.jobs.contract import leave_record
    from umamba2.jobs.job import run_cases, succeeded

    cases = _cases(_images(options.input, CHALLENGES.get(options.challenge)), options)
    segmenter = _segmenter(options)
    if segmenter.challenge is not None and not options.quiet:
        say(f"for {segmenter.challenge.name} ({segmenter.reasons['challenge']})")
    if options.clicks is not None and not segmenter.takes_clicks:
        found = "found a model without clicks, expected one that takes them (or no --clicks)"
        raise InputError(f"{options.model or 'demo model'}: {found}")
    finished = _side_files(options, segmenter)
    until = time_of_end(options)
    outcomes = run_cases(cases, segmenter, finished, until)
    if not _names_a_file(options):
        leave_record(options.output, outcomes, segmenter, until)
    return 0 if succeeded(outcomes, options.strict) else 1


def _segmenter(options: argparse.Namespace) -> Segmenter:
    from umamba2.models.locate import DEMO_MODELS, demo_model, model_folder
    from umamba2.segmenter import load

    if options.model is None:
        model = demo_model(options.challenge if options.challenge in CHALLENGES else None)
        say(f"warning: no --model: taking the demo model {model.name}, which has never seen a patient", sys.stderr)
    else:
        model = model_folder(options.model)
        if model.parent == DEMO_MODELS and str(model) != options.model:  # another one of that name may be meant
            say(f"{model.name} is a demo model, which has never seen a patient", sys.stderr)
    return load(
        model,
        challenge=options.challenge,
        device=options.device,
        precision=options.precision,
        folds=options.folds,
        tile_step=options.tile_step,
        mirror=options.mirror_axes or not options.no_mirroring,
        blend=options.blend,
        postprocess=not options.no_postprocess,
        numbering=options.numbering,
        orientation=options.orientation,
        progress=not options.quiet and sys.stderr.isatty(),
    )


def _side_files(options: argparse.Namespace, segmenter: Segmenter) -> AfterWriting | None:
    if not any(getattr(options, option) for option in _SIDE_FILES):
        return None
    from umamba2.reports.command import side_files

    if segmenter.challenge is None:
        names = ", ".join(f"--{option}" for option in _SIDE_FILES)
        raise InputError(f"{names}: found no challenge to name the structures, expected one")
    return side_files(options.preview, options.statistics, options.report, segmenter.challenge, segmenter.numbering)


def _images(source: Path, challenge: Challenge | None) -> list[Path]:
    from umamba2.jobs.locate import find_images
    from umamba2.scans.volumes import SUFFIXES, list_volumes

    if not source.is_dir():
        return [source]
    images = find_images(challenge, source) if challenge else list_volumes(source)
    if not images:
        raise InputError(f"{source}: found no images, expected at least one of {', '.join(SUFFIXES)}")
    return images


def _names_a_file(options: argparse.Namespace) -> bool:
    """Whether --output names a file; otherwise a folder."""
    output: Path = options.output
    return not options.input.is_dir() and output.suffix != "" and not output.is_dir()


def _cases(images: list[Path], options: argparse.Namespace) -> list[Case]:
    from umamba2.jobs.job import Case
    from umamba2.scans.clicks import click_file
    from umamba2.scans.volumes import SUFFIXES, stem, suffix

    output, clicks = options.output, options.clicks
    to_file = _names_a_file(options)
    if to_file and suffix(output) is None:
        raise InputError(f"{output}: found an unknown file name ending, expected {', '.join(SUFFIXES)} or a folder")
    in_folder = clicks is not None and clicks.is_dir()
    if clicks is not None and not in_folder and len(images) > 1:
        raise InputError(f"{clicks}: found one click file for {len(images)} images, expected a folder of them")
    names = [stem(image) for image in images]
    cases = []
    for image, name in zip(images, names):
        own_clicks = click_file(clicks, name, names) if in_folder else clicks
        cases.append(Case(image, output if to_file else output / image.name, own_clicks))
    return cases


def _package(options: argparse.Namespace) -> int:
    from umamba2.jobs.codabench import package_predictions

    archive = package_predictions(options.folder, options.output)
    say(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB")
    return 0
