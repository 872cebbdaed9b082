"""nnU-Net's preprocessing, case by case, with the one normalisation that nnU-Net does not know.

On disk, in nnU-Net's preprocessed folder:

- ``<dataset>/<data identifier>/``: the labelled cases as nnU-Net stores them, ``<case>.b2nd``, ``_seg.b2nd``, ``.pkl``;
- ``<dataset>/<data identifier>_unlabelled/``: the same for cases without labels. Their segmentation is 0, or -1 where
  the scan itself is zero, their properties have no ``class_locations``. They lie apart because nnU-Net takes every case
  of a folder for a labelled one; the splits file names them as ``unlabeled``;
- ``<dataset>/recipe_<data identifier>.json``: by which spacing, intensities and labels the cases were made;
- ``<dataset>/<data identifier>_made/``: for each case, of which files;
- ``<dataset>/gt_segmentations/``: the labels, for validation.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from umamba2.engine.harmonise import harmonise
from umamba2.engine.preprocess import ct_normalise
from umamba2.errors import InputError, naming
from umamba2.files import read_json, write_file
from umamba2.models.network import HARMONISED
from umamba2.training.dataset import Dataset, read_scan
from umamba2.training.lock import alone_in
from umamba2.training.nnunet import CONFIGURATION, PLANS, UNLABELLED_SUFFIX, quietly
from umamba2.training.plan import is_current, read_configuration
from umamba2.training.provenance import is_made, leave_record, stamps
from umamba2.training.workers import LOG, affordable, check_disk, run_all

Grids = Sequence[tuple[Sequence[int], Sequence[float]]]  # shape (z, y, x) in voxels and spacing in mm, of each case

# Memory and disk, measured with nnU-Net 2.8.1 on phantoms of ToothFairy3's size (see docs/training.md).
PROCESS_BYTES = 0.45e9  # a worker that has imported torch and nnU-Net
STORED_BYTES = 4  # per voxel of a preprocessed case: 0.5 to 4 of the 6 that float32 and int16 take
_LITTLE = 2e9  # bytes: where less is free, what went wrong may be that
ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")  # of a case's files


class Preprocessor(DefaultPreprocessor):
    """Crops, normalises and resamples as `umamba2.engine.preprocess.prepare` does at inference."""

    def run_case(self, image_files: list[str], *arguments: Any) -> Any:
        """As nnU-Net's; remembers which scan it is, for messages, and collects what is odd about it.

        A scan without labels is read as inference reads it: nothing says that anyone has checked it before.
        """
        self.scan, self.warnings = image_files[0], list[str]()
        labels, *settings = arguments
        with quietly(Path(self.scan)):
            if labels is not None:
                return super().run_case(image_files, *arguments)
            volume = read_scan(Path(self.scan))
            self.warnings += volume.warnings
            return self.run_case_npy(volume.array[None], None, {"spacing": list(volume.spacing)}, *settings)

    def _normalize(self, data: npt.NDArray[Any], seg: Any, configuration: Any, intensities: Any) -> npt.NDArray[Any]:
        if not np.isfinite(data).all() or data.min() == data.max():
            raise InputError(f"{self.scan}: found voxels that are not finite, or all the same, expected a scan")
        if configuration.normalization_schemes == [HARMONISED]:
            values, remarks = harmonise(data[0])
            self.warnings += [f"{self.scan}: {remark}" for remark in remarks]
            return ct_normalise(values, intensities["0"])[None]
        normalised: npt.NDArray[Any] = super()._normalize(data, seg, configuration, intensities)
        return normalised


def preprocess(dataset: Dataset, preprocessed: Path, workers: int = 1) -> Path:
    """Preprocess a planned dataset, unlabelled cases too.

    Args:
        dataset: The raw dataset.
        preprocessed: nnU-Net's preprocessed folder.
        workers: Number of processes.

    Returns:
        The folder of the labelled cases.

    Raises:
        InputError: The dataset is not planned or has changed since, and as `preprocess_cases`.
    """
    target = preprocessed / dataset.folder.name
    plans, fingerprint = target / f"{PLANS}.json", target / "dataset_fingerprint.json"
    read_configuration(plans)
    if not is_current(fingerprint, dataset):
        raise InputError(f"{dataset.folder}: found it changed since it was planned, expected `umamba2 plan` again")
    content = read_json(fingerprint)
    grids = list(zip(content["shapes_after_crop"], content["spacings"]))
    folder = preprocess_cases(plans, dataset.cases, dataset.unlabelled, grids, workers)
    truth = target / "gt_segmentations"
    truth.mkdir(exist_ok=True)
    for _, labels in dataset.cases.values():
        with naming(labels):
            voxels = labels.read_bytes()
        write_file(truth / labels.name, voxels)
    return folder


def preprocess_cases(
    plans: Path,
    cases: Mapping[str, tuple[Path, Path | None]],
    unlabelled: Mapping[str, Path],
    grids: Grids,
    workers: int,
    only: Container[str] | None = None,
) -> Path:
    """Preprocess cases into the folder of their plans.

    Cases that are there, by the same recipe and made of these files, are left as they are; those of other names are
    removed.

    Args:
        plans: The plans file.
        cases: (image, labels) by name.
        unlabelled: Images without labels, by name.
        grids: Of some typical cases, to see what it will take.
        workers: Number of processes.
        only: Of the cases, those to do; there must be room for all nevertheless. None: all.

    Returns:
        The folder of ``cases``.

    Raises:
        InputError: There is too little memory or disk space, or cases have failed.
    """
    configuration, recipe = read_configuration(plans), _recipe(plans)
    folder = plans.parent / str(configuration["data_identifier"])
    apart = folder.with_name(folder.name + UNLABELLED_SUFFIX)
    with alone_in(plans.parent):
        same = _recorded(folder) == recipe
        for kept, wanted in ((folder, cases), (apart, unlabelled)):
            _remove_all_but(kept, wanted if same else ())
        write_file(_record(folder), json.dumps(recipe, indent=1) + "\n")
        tasks: dict[str, tuple[Any, ...]] = {case: (plans, case, *pair, folder) for case, pair in cases.items()}
        tasks |= {case: (plans, case, image, None, apart) for case, image in unlabelled.items()}
        tasks = {case: task for case, task in tasks.items() if not _is_done(*task[1:])}
        before, after = _voxels(grids, configuration["spacing"])
        each = bytes_in_memory(before.max(), after.max(), len(recipe["labels"]))
        workers = affordable(workers, each, "preprocessing")
        check_disk(plans.parent, STORED_BYTES * float(np.median(after)) * len(tasks), "the preprocessed cases")
        if only is not None:
            tasks = {case: task for case, task in tasks.items() if case in only}
        for warnings in run_all(preprocess_case, tasks, workers, "preprocessing").values():
            for warning in warnings:
                LOG.warning("%s", warning)
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
    content, configuration = read_json(plans), read_configuration(plans)
    names = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")
    own = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")
    return {
        "labels": read_json(plans.parent / "dataset.json")["labels"],
        **{name: content[name] for name in names},
        **{name: value for name, value in configuration.items() if name in own or name.startswith("resampling_fn")},
    }


def _record(folder: Path) -> Path:
    """Where the recipe of preprocessed cases is kept: nnU-Net takes what lies in their own folder for cases."""
    return folder.with_name(f"recipe_{folder.name}.json")


def _recorded(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(_record(folder))
    except InputError:
        return None


def preprocess_case(plans: Path, case: str, image: Path, labels: Path | None, folder: Path) -> list[str]:
    """Preprocess one case and return what is odd about it; its record appears last, when the rest is complete.

    Args:
        plans: The plans file.
        case: The name of the case.
        image: The scan.
        labels: Its labels, if there are some.
        folder: Where to.
    """
    before = stamps(*_sources(image, labels))
    partial = _partial(folder) / case
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    manager = PlansManager(str(plans))
    preprocessor = Preprocessor(verbose=False)
    try:
        with naming(partial):
            preprocessor.run_case_save(
                str(partial / case),
                [str(image)],
                None if labels is None else str(labels),
                manager,
                manager.get_configuration(CONFIGURATION),
                str(plans.parent / "dataset.json"),
            )
    except RuntimeError as error:  # blosc2's word for whatever keeps it from writing; reading has words of its own
        free = shutil.disk_usage(partial).free
        left = f"; {free / 1e6:.1f} MB of disk are left" if free <= _LITTLE else ""
        found = f"could not be written ({error!s:.200}{left})"
        raise InputError(f"{partial}: {found}, expected a writable folder") from None
    if stamps(*_sources(image, labels)) != before:  # nnU-Net reads labelled cases without looking
        raise InputError(f"{image}: found a scan or labels that changed while they were read, expected complete ones")
    for ending in ENDINGS:
        os.replace(partial / f"{case}{ending}", folder / f"{case}{ending}")
    leave_record(record_of(folder, case), before, results_of(folder, case))
    return preprocessor.warnings


def _partial(folder: Path) -> Path:
    """Where the cases of a folder are until they are complete: nnU-Net takes whatever lies in the folder itself."""
    return folder.with_name(folder.name + ".partial")


def _remove_all_but(folder: Path, cases: Container[str]) -> None:
    """Remove preprocessed cases that are no longer wanted."""
    for path in folder.glob("*"):
        case = re.sub(r"(_seg)?\.b2nd$|\.pkl$", "", path.name)
        if case != path.name and case not in cases:
            path.unlink()


def record_of(folder: Path, case: str) -> Path:
    """What says of which files a case was made; in a folder of its own, as `_record`."""
    return folder.with_name(folder.name + "_made") / f"{case}.json"


def results_of(folder: Path, case: str) -> list[Path]:
    """The files of a preprocessed case."""
    return [folder / f"{case}{ending}" for ending in ENDINGS]


def _sources(image: Path, labels: Path | None) -> list[Path]:
    return [image] if labels is None else [image, labels]


def _is_done(case: str, image: Path, labels: Path | None, folder: Path) -> bool:
    return is_made(record_of(folder, case), _sources(image, labels), results_of(folder, case))


def _voxels(grids: Grids, spacing: Sequence[float]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Voxels of each grid before and after resampling."""
    shapes, spacings = (np.array(part, dtype=float) for part in zip(*grids))
    return shapes.prod(axis=1), np.rint(shapes * spacings / np.array(spacing)).prod(axis=1)


def bytes_in_memory(before: float, after: float, classes: int) -> float:
    """What preprocessing a case takes: up to 1.5 times what was measured.

    Where the grid changes, nnU-Net holds a half-precision score of every label on the new one.

    Args:
        before: Voxels of the scan.
        after: Voxels of the resampled scan.
        classes: Number of labels, background included.
    """
    scores = 2 * (classes + 1) * after if before != after else 0
    return PROCESS_BYTES + 20 * before + 16 * after + scores
