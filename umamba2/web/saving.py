"""What can be saved of a study, as files: label maps, meshes, the clicks, the report."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from umamba2.errors import Cancelled, InputError
from umamba2.files import replacing, write_file
from umamba2.scans.clicks import click_json
from umamba2.scans.volumes import write_labels
from umamba2.web.layers import CANALS, Layer
from umamba2.web.studies import Study
from umamba2.web.tasks import Task
from umamba2.web.work import case_name, finish_clicks


def save(study: Study, kind: str, what: str) -> Callable[[Task], dict[str, str]]:
    """Write a file of what was found.

    Args:
        study: Whose.
        kind: Of which label map, ``whole`` or ``canals``.
        what: One of `SAVED`.

    Returns:
        The work of a task, whose result names the file in the study's folder ``saved``.
    """

    def work(task: Task) -> dict[str, str]:
        if what != "clicks" and kind == CANALS:
            finish_clicks(study, task)
        folder = study.folder / "saved"
        folder.mkdir(exist_ok=True)
        path = SAVED[what](study, kind, folder, task)
        try:
            task.watch(task.total, task.total)
        except Cancelled:  # too late to stop it, but not to say no
            path.unlink()
            raise
        return {"saved": path.name}

    return work


def _labels(study: Study, kind: str, folder: Path, task: Task) -> Path:
    path = folder / f"{_stem(study, kind)}.nii.gz"
    write_labels(path, _layer(study, kind).labels, study.scan.geometry)
    return path


def _segments(study: Study, kind: str, folder: Path, task: Task) -> Path:
    from umamba2.exports import export

    source, layer = _labels(study, kind, study.folder, task), _layer(study, kind)
    try:
        export(source, folder, "seg.nrrd", challenge=layer.challenge, numbering=layer.numbering)
    finally:
        source.unlink()
    return folder / f"{_stem(study, kind)}.seg.nrrd"


def _meshes(study: Study, kind: str, folder: Path, task: Task) -> Path:
    from umamba2.exports import export

    source, layer = _labels(study, kind, study.folder, task), _layer(study, kind)
    path, meshes = folder / f"{_stem(study, kind)}.stl.zip", study.folder / _stem(study, kind)
    task.each = "mesh"
    try:
        export(source, study.folder, "stl", None, True, layer.challenge, layer.numbering, watch=task.watch)
        with (
            replacing(path) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for mesh in sorted(meshes.iterdir()):
                archive.write(mesh, mesh.name)
                task.watch(task.total, task.total)
    finally:
        source.unlink()
        shutil.rmtree(meshes, ignore_errors=True)
    return path


def _report(study: Study, kind: str, folder: Path, task: Task) -> Path:
    from umamba2.reports import write_report

    path = folder / f"{_stem(study, kind)}.report.html"
    write_report(path, _layer(study, kind).case(study.scan), task.watch)
    return path


def _clicks(study: Study, kind: str, folder: Path, task: Task) -> Path:
    path = folder / f"iac_clicks_{case_name(study)}.json"
    write_file(path, click_json(()) if study.session is None else study.session.click_file())
    return path


def _layer(study: Study, kind: str) -> Layer:
    if kind not in study.layers:
        raise InputError(f"save: found nothing segmented yet ({kind}), expected something to save")
    return study.layers[kind]


def _stem(study: Study, kind: str) -> str:
    return case_name(study) + (".canals" if kind == CANALS else ".labels")


SAVED = {"labels": _labels, "segments": _segments, "meshes": _meshes, "report": _report, "clicks": _clicks}
