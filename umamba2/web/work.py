"""What tasks do for a study: read its scan, segment it, pass clicks on, take in files that the user has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umamba2.anatomy.numberings import from_training
from umamba2.challenges import find_challenge
from umamba2.errors import InputError
from umamba2.reports.reading import read_ids
from umamba2.scans.volumes import read_volume, stem, suffix
from umamba2.web.layers import CANALS, WHOLE, Layer, describe, describe_canals
from umamba2.web.models import Models
from umamba2.web.studies import Studies, Study
from umamba2.web.tasks import Task
from umamba2.web.view import View
from umamba2.web.windows import windows

if TYPE_CHECKING:
    from umamba2.engine.session import Session

Work = Callable[[Task], dict[str, Any]]
SIDES = ("left", "right")


def open_scan(study: Study, studies: Studies, instead: str = "") -> Work:
    """Read what was sent, and make what the viewer needs of it; ``instead`` names the study that is closed for it."""

    def work(task: Task) -> dict[str, Any]:
        path = scan_among(study.sent)
        volume = read_volume(path)
        studies.check_memory(volume.array.nbytes, instead)
        task.watch(1, 2)
        warnings = tuple(study.plainly(line) for line in volume.warnings)
        study.volume = replace(volume, name=study.plainly(str(path)), warnings=warnings)
        study.windows = windows(study.volume.array)
        study.view = View.of(study.volume)
        study.view.write(study.volume.array, study.folder / "scan.nii")
        shutil.rmtree(study.sent)  # all of it is in memory
        study.sent.mkdir()
        return facts(study)

    return work


def scan_among(folder: Path) -> Path:
    """The scan in a folder of files that were sent together: the only image, the only zip archive, or the folder.

    Raises:
        InputError: There are several images, or no file at all.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [path for path in files if suffix(path)]
    if len(images) > 1:
        names = ", ".join(path.name for path in images[:3])
        raise InputError(f"scan: found {len(images)} images ({names}), expected one, or the files of one DICOM series")
    if images or len(files) == 1:
        return (images or files)[0]
    if not files:
        raise InputError("scan: found no file, expected an image or the files of one DICOM series")
    while len(inside := list(folder.iterdir())) == 1 and inside[0].is_dir():
        folder = inside[0]  # its name, not that of the temporary folder, is what messages show
    return folder


def facts(study: Study) -> dict[str, Any]:
    """What the page must know of a scan and of what was found in it."""
    volume, view = study.scan, study.shown
    return {
        "scan": study.name,
        "file": volume.name,
        "warnings": list(volume.warnings),
        "windows": study.windows,
        **view.facts(),
        "layers": study.listed,
        "clicks": clicks_of(study),
    }


def clicks_of(study: Study) -> list[dict[str, Any]]:
    """The clicks as the page shows them."""
    if study.session is None:
        return []
    return [
        {
            "id": click.id,
            "side": click.side,
            "voxel": [round(float(c), 2) for c in click.voxel],
            "position": study.shown.position(click.voxel),
        }
        for click in study.session.clicks
    ]


def segment_all(study: Study, models: Models, challenge: str) -> Work:
    """Segment everything that the model for a challenge knows."""

    def work(task: Task) -> dict[str, Any]:
        segmenter = models.find(challenge)
        found = segmenter.segment(study.scan, watch=task.watch)
        own = tuple(line for line in found.warnings if line not in study.scan.warnings)
        chosen = find_challenge(challenge)
        put(study, Layer(WHOLE, chosen, segmenter.numbering, found.labels, "found by the model", own))
        return listed(study, WHOLE)

    return work


def click(study: Study, studies: Studies, models: Models, change: Callable[[Session[Any], Task], Any]) -> Work:
    """Change the clicks; the session is made when the first one comes."""

    def work(task: Task) -> dict[str, Any]:
        if study.session is None:
            segmenter = models.find(needed_for_clicks(models))
            study.session = segmenter.session(study.scan, most_bytes=int(studies.most_kept))
        studies.forget_all_but(study)
        answer = change(study.session, task)
        return answered(study, models, answer)

    return work


def answered(study: Study, models: Models, answer: Any) -> dict[str, Any]:
    """What the page must know after the clicks have changed, with the box to draw anew."""
    assert study.session is not None
    segmenter = models.find(needed_for_clicks(models))
    assert segmenter.challenge is not None
    canals = Layer(CANALS, segmenter.challenge, segmenter.numbering, study.session.labels, "guided by clicks")
    put(study, replace(canals, warnings=answer.warnings, final=False))
    box = None if answer.changed is None else study.shown.box(answer.changed)
    return {**listed(study, CANALS), "box": box, "seconds": round(answer.seconds, 2)}


def finish_clicks(study: Study, task: Task) -> None:
    """Have the session give what ``umamba2 predict`` gives with these clicks, unless that is what there is."""
    layer = study.layers.get(CANALS)
    if study.session is None or layer is None or layer.final:
        return
    found = study.session.finish(watch=task.watch)
    own = tuple(line for line in found.warnings if line not in study.scan.warnings)
    put(study, replace(layer, labels=found.labels, final=True, warnings=own))


def read_label_map(path: Path, study: Study, challenge: str) -> Work:
    """Show a label map that the user has, as if it had been found."""

    def work(task: Task) -> dict[str, Any]:
        chosen = find_challenge(challenge)
        training = read_ids(path, study.scan, chosen, chosen.numbering)
        labels = from_training(chosen.structures, chosen.numbering)[training]
        put(study, Layer(WHOLE, chosen, chosen.numbering, labels, f"from {path.name}"))
        return listed(study, WHOLE)

    return work


def put(study: Study, layer: Layer) -> None:
    """Make a label map the one of its kind."""
    layer = replace(layer, warnings=tuple(study.plainly(line) for line in layer.warnings))
    described = describe(layer, study.scan, study.shown) if layer.kind == WHOLE else describe_canals(layer, study.scan)
    study.layers[layer.kind] = layer
    study.listed[layer.kind] = described


def listed(study: Study, kind: str) -> dict[str, Any]:
    """A label map and the clicks as the page lists them."""
    return {"kind": kind, "layer": study.listed[kind], "clicks": clicks_of(study)}


def needed_for_clicks(models: Models) -> str:
    """The challenge whose model takes clicks. Raises InputError if there is none."""
    name = models.for_clicks
    if name is None:
        raise InputError("clicks: found no model that takes them, expected one (--model)")
    return name


def case_name(study: Study) -> str:
    """What files about a scan are called."""
    return stem(Path(study.scan.name).name)
