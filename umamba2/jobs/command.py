"""``umamba2 predict`` and ``umamba2 package-predictions``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umamba2.arguments import part, positive, some_path
from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError, ModelError, needing
from umamba2.exports.formats import DICOM_SEG, ENDINGS, SEGMENT_TYPES
from umamba2.jobs.container import add_inference_options, time_of_end
from umamba2.messages import say
from umamba2.scans.command import add_series

if TYPE_CHECKING:
    from umamba2.jobs.batch import Batch, Tools
    from umamba2.jobs.job import AfterWriting, Case, Outcome
    from umamba2.segmenter import Segmenter

FORMATS = ("nii.gz", "mha", "nrrd")  # of label maps
# Options that do not decide what a case's output is; all others do.
_NO_SETTINGS = {
    "command", "input", "output", "model", "clicks", "device", "strict", "quiet", "overwrite", "part", "workers",
    "scheduler",
}  # fmt: skip
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
    add(
        "-i",
        "--input",
        required=True,
        type=some_path,
        help="scan, folder (searched below, too), pattern such as 'scans/*/ct.nii.gz', or CSV list of cases",
    )
    add("-o", "--output", required=True, type=some_path, help="folder (for one image also a file name)")
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
    add("--clicks", type=some_path, help="click file, or folder of them (interactive models)")
    add("--no-postprocess", action="store_true", help="the network's answer as it is")
    add("--pulp-per-tooth", action="store_true", help="tell the pulps of the teeth apart: ids 111-148")
    add(
        "--fix-numbers",
        action=argparse.BooleanOptionalAction,
        help="one piece for each tooth, numbers settled by the arch (default: what the model says)",
    )
    add("--format", choices=(*FORMATS, DICOM_SEG), help="of the outputs (default: as the scan, for DICOM nii.gz)")
    add("--seg-type", choices=SEGMENT_TYPES, default=SEGMENT_TYPES[0], help=f"of {DICOM_SEG} (default: binary)")
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
    add_series(parser)
    add("--overwrite", action="store_true", help="do finished cases again, too")
    add("--part", type=part, metavar="I/N", help="every N-th case alone, for job arrays")
    add("--deterministic", action="store_true", help="the same labels every time on a GPU, too; slower")
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument("--workers", type=positive(int), metavar="N", help="processes on this machine (extra cluster)")
    workers.add_argument("--scheduler", metavar="ADDRESS", help="of Dask's workers elsewhere, such as tcp://host:8786")
    add("--quiet", action="store_true", help="no progress bar")


def add_package(commands: Any) -> None:
    """Add ``package-predictions`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "package-predictions",
        help="zip predictions for Codabench",
        description="Zip STSR predictions, STS25_Validation_<four digits>_Mask.nii.gz, as Codabench takes them.",
    )
    parser.set_defaults(command=_package)
    parser.add_argument("folder", type=some_path)
    parser.add_argument("-o", "--output", type=some_path, help="default: <folder>.zip")


def predict(options: argparse.Namespace) -> int:
    """Segment what the options name; 0 if all that was asked for is there (strict: and nothing was wrong), else 1."""
    from umamba2.jobs.cases import cases_of, part_of
    from umamba2.jobs.job import run_cases, succeeded

    ending = options.format and "." + ENDINGS.get(options.format, options.format)
    seg_type = options.seg_type if options.format == DICOM_SEG else None
    if seg_type is not None:
        with needing("dicom", f"--format {DICOM_SEG}"):
            import umamba2.exports.dicom_seg  # noqa: F401
    cases = cases_of(options.input, options.output, options.clicks, CHALLENGES.get(options.challenge), ending)
    cases = [replace(case, series=options.series, seg_type=seg_type) for case in cases]
    until = time_of_end(options)
    if [case.output for case in cases] == [options.output]:
        if options.workers or options.scheduler:
            raise InputError(f"{options.output}: found a file as the output, expected a folder for what workers do")
        outcomes, recorded = run_cases(cases, *_tools(options, _model_folder(options)), until), True
    else:
        outcomes, recorded = _batch(options, part_of(cases, options.part), until)
    return 0 if recorded and succeeded(outcomes, options.strict) else 1


def _batch(options: argparse.Namespace, cases: list[Case], until: float | None) -> tuple[list[Outcome], bool]:
    """What became of the cases, and whether the record of the run was written."""
    from umamba2.jobs.batch import Batch, Plan, summary
    from umamba2.jobs.contract import leave_record
    from umamba2.jobs.fingerprint import files_of_model, fingerprint, stamp_of
    from umamba2.jobs.manifest import MANIFEST, Manifest

    several, on_workers = len(cases) > 1, options.workers or options.scheduler
    folder, output = _model_folder(options), options.output
    settings = {name: value for name, value in sorted(vars(options).items()) if name not in _NO_SETTINGS}
    if on_workers:  # they may be at work in another folder
        folder, output = Path(os.path.abspath(folder)), Path(os.path.abspath(output))
        cases = [case.absolute() for case in cases]
    tools = partial(_tools, options, folder, several)
    load = cache(tools)
    early, files = not (on_workers or (output / MANIFEST).exists()), files_of_model(folder)
    before = stamp_of(files)
    if early:
        load()  # what is wrong with the model or an option is said before there is a folder
    manifest = Manifest(output)
    model = fingerprint(files, (record.get("model") for record in manifest))
    if model is None:
        raise ModelError(f"{folder}: found no model, expected a model folder")
    if early and not before == model.stamp == stamp_of(files):  # the record would name another one than was loaded
        raise ModelError(f"{folder}: found a model that changed while it was read, expected a finished one")
    batch = Batch(Plan(output, model, settings, options.overwrite, manifest.end), manifest, load, until)
    try:
        with batch.counting(cases, several and _shows_bars(options)):
            if on_workers:
                _on_workers(options, batch, cases, tools)
            else:
                batch.run(cases)
    finally:
        manifest.close()
        recorded = leave_record(output, batch.outcomes, batch.settings, until, options.part, "error")
        if several or any(outcome.skipped for outcome in batch.outcomes):
            say(summary(batch.outcomes))
    return batch.outcomes, recorded


def _on_workers(options: argparse.Namespace, batch: Batch, cases: list[Case], load: Callable[[], Tools]) -> None:
    left = batch.unfinished(cases)
    if not left:
        return
    from umamba2.jobs.cluster import LOCAL_WAIT, REMOTE_WAIT, local_workers, remote_workers, run_on_workers

    if options.scheduler:
        with remote_workers(options.scheduler) as client:
            run_on_workers(batch, left, load, client, REMOTE_WAIT)
    else:
        with local_workers(min(options.workers, len(left)), options.device) as client:
            run_on_workers(batch, left, load, client, LOCAL_WAIT)


def _model_folder(options: argparse.Namespace) -> Path:
    """The folder of the model; says so if that is one that has only seen phantoms."""
    from umamba2.models.locate import DEMO_MODELS, demo_model, find_model, model_folder

    challenge = options.challenge if options.challenge in CHALLENGES else None
    if options.model is None:
        folder = demo_model(challenge)
        say(f"warning: no --model: taking the demo model {folder.name}, which has never seen a patient", sys.stderr)
        return folder
    folder = model_folder(options.model)
    if folder.parent == DEMO_MODELS and str(folder) != options.model:  # another one of that name may be meant
        say(f"{folder.name} is a demo model, which has never seen a patient", sys.stderr)
    return find_model(challenge, [folder]) if challenge else folder


def _tools(options: argparse.Namespace, folder: Path, several: bool = False) -> Tools:
    """The model of a folder, and what else to do with each output; workers call this, too."""
    from umamba2.segmenter import load

    segmenter = load(
        folder,
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
        pulp_per_tooth=options.pulp_per_tooth,
        fix_numbers=options.fix_numbers,
        progress=not several and _shows_bars(options),
        deterministic=options.deterministic,
        dental_field=options.dental_field,
    )
    if segmenter.challenge is not None and not options.quiet:
        say(f"for {segmenter.challenge.name} ({segmenter.reasons['challenge']})")
    if options.clicks is not None and not segmenter.takes_clicks:
        found = "found a model without clicks, expected one that takes them (or no --clicks)"
        raise InputError(f"{options.model or 'demo model'}: {found}")
    return segmenter, _side_files(options, segmenter)


def _shows_bars(options: argparse.Namespace) -> bool:
    return not options.quiet and sys.stderr.isatty()


def _side_files(options: argparse.Namespace, segmenter: Segmenter) -> AfterWriting | None:
    if not any(getattr(options, option) for option in _SIDE_FILES):
        return None
    from umamba2.reports.command import side_files

    if segmenter.labelled is None:
        names = ", ".join(f"--{option}" for option in _SIDE_FILES)
        raise InputError(f"{names}: found no challenge to name the structures, expected one")
    return side_files(options.preview, options.statistics, options.report, segmenter.labelled, segmenter.numbering)


def _package(options: argparse.Namespace) -> int:
    from umamba2.jobs.codabench import package_predictions

    archive = package_predictions(options.folder, options.output)
    say(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB")
    return 0
