"""A dataset in nnU-Net's raw layout, and everything that can be wrong with it before hours are spent.

``imagesTr/<case>_0000<ending>`` and ``labelsTr/<case><ending>`` (training ids) are nnU-Net's; ``imagesUn/`` holds
images without labels, and ``"challenge"`` in dataset.json says what the classes are.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError, naming
from umamba2.files import read_json, read_json_value
from umamba2.models.labels import labels_of, misplaced
from umamba2.scans.volumes import Geometry, Volume, list_volumes, read_volume, suffix

KINDS = ("train", "val", "unlabeled")  # of cases in a splits file
Split = dict[str, list[str]]  # the names of a fold's cases by kind
LABELS_ENDING = "_seg"  # of a case's preprocessed labels
READERS = ("None", "SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient", "Tiff3DIO")
CHANNEL = "_0000"  # nnU-Net numbers the channels of a case; we have one


@dataclass(frozen=True)
class Dataset:
    """A raw dataset.

    Attributes:
        folder: Its folder.
        description: Its dataset.json.
        cases: The files of the labelled cases, (image, labels), by name.
        unlabelled: The images without labels, by name.
    """

    folder: Path
    description: dict[str, Any]
    cases: dict[str, tuple[Path, Path]]
    unlabelled: dict[str, Path]

    @property
    def ids(self) -> tuple[int, ...]:
        """Label values, background first."""
        return tuple(sorted(self.description["labels"].values()))

    @property
    def challenge(self) -> str | None:
        """The challenge that dataset.json states."""
        return self.description.get("challenge")

    @property
    def files(self) -> list[Path]:
        """All that it is made of."""
        return [self.folder / "dataset.json", *chain(*self.cases.values()), *self.unlabelled.values()]


def read_description(folder: Path) -> dict[str, Any]:
    """The dataset.json of a dataset. Raises InputError if it is missing or not what nnU-Net takes."""
    path = folder / "dataset.json"
    content = read_json(path, "a dataset as `umamba2 convert` writes it")
    labels = content.get("labels")
    ids = sorted(labels.values()) if isinstance(labels, dict) and all(map(_is_int, labels.values())) else None
    if ids is None or ids != list(range(len(ids))) or len(ids) < 2:
        raise InputError(f"{path}: found labels {str(labels)[:80]}, expected names with the values 0, 1, 2, ...")
    challenge = CHALLENGES.get(str(content.get("challenge")))
    if challenge and challenge.num_classes == len(ids) and (problem := misplaced(labels_of(content), challenge)):
        raise InputError(f"{path}: found {problem}")
    if not isinstance(content.get("numTraining"), int):
        raise InputError(f"{path}: found numTraining {content.get('numTraining')!r}, expected a number of cases")
    channels = content.get("channel_names")
    if not isinstance(channels, dict) or list(channels) != ["0"] or not isinstance(channels["0"], str):
        raise InputError(f"{path}: found channel_names {str(channels)[:80]}, expected one, such as {{'0': 'CT'}}")
    if (reader := content.get("overwrite_image_reader_writer", "None")) not in READERS:
        raise InputError(f"{path}: found overwrite_image_reader_writer {str(reader)[:80]}, expected a class of nnU-Net")
    with naming(path):
        if path.read_bytes().startswith(codecs.BOM_UTF8):
            raise InputError(f"{path}: found a byte order mark, expected UTF-8 without: nnU-Net does not read it")
    return content


def check_names(cases: Iterable[str], where: Path) -> None:
    """Raise InputError for a case whose name ends as the name of preprocessed labels does.

    Args:
        cases: The names.
        where: Where they are, for the message.
    """
    for case in cases:
        if case.endswith(LABELS_ENDING):
            found = f"found the case {case[:80]}, which nnU-Net would take for the labels of another one"
            raise InputError(f"{where}: {found}, expected a name that does not end in {LABELS_ENDING}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_dataset(folder: Path) -> Dataset:
    """Find the cases of a dataset; nothing but names is looked at.

    Raises InputError if it is no dataset, if an image lacks its labels or the other way round, or if there are other
    than dataset.json says.
    """
    description = read_description(folder)
    ending = description.get("file_ending")
    for name in ("imagesTr", "labelsTr"):
        if not (folder / name).is_dir():
            raise InputError(f"{folder}: found no {name}, expected a dataset as `umamba2 convert` writes it")
    images = _files(folder / "imagesTr", f"{CHANNEL}{ending}")
    labels = _files(folder / "labelsTr", str(ending))
    for wanted, there, what in ((images, labels, "labelsTr"), (labels, images, "imagesTr")):
        missing = sorted(set(wanted) - set(there))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(f"{folder / what}: found nothing for {missing[0]}{more}, expected one file for every case")
    if len(images) != description["numTraining"]:
        expected = f"the {description['numTraining']} that dataset.json states"
        raise InputError(f"{folder}: found {len(images)} cases, expected {expected} (is the conversion complete?)")
    if not images:
        raise InputError(f"{folder / 'imagesTr'}: found no *{CHANNEL}{ending}, expected training images")
    unlabelled = _files(folder / "imagesUn", f"{CHANNEL}{ending}") if (folder / "imagesUn").is_dir() else {}
    both = sorted(set(images) & set(unlabelled))
    if both:
        raise InputError(f"{folder}: found {both[0]} in imagesTr and imagesUn, expected it in one of them")
    check_names([*images, *unlabelled], folder)
    return Dataset(folder, description, {case: (images[case], labels[case]) for case in images}, unlabelled)


def _files(folder: Path, ending: str) -> dict[str, Path]:
    return {p.name[: -len(ending)]: p for p in list_volumes(folder) if p.name.endswith(ending)}


def read_splits(path: Path) -> list[Split]:
    """The folds of a ``splits_final.json``: names of cases by "train", "val" and, if there are some, "unlabeled".

    Raises InputError if it is missing or no list of folds.
    """
    splits: list[Split] = read_json_value(path, "a list of folds as JSON")
    for split in splits if isinstance(splits, list) else [None]:
        parts = [{"unlabeled": [], **split}.get(key) for key in KINDS] if isinstance(split, dict) else [None]
        if not all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in parts):
            raise InputError(f"{path}: found {str(split)[:80]}, expected folds: lists of cases by train and val")
        if twice := [case for case, count in Counter(chain(*filter(None, parts))).items() if count > 1]:
            raise InputError(f"{path}: found {twice[0]} twice in a fold, expected each case once")
    return splits


def read_scan(image: Path) -> Volume:
    """Read a scan. Raises InputError if it cannot be read, or all voxels are the same."""
    volume = read_volume(image)
    lowest = volume.array.min()
    if lowest == volume.array.max():
        raise InputError(f"{image}: found {lowest:g} in all voxels, expected a scan")
    return volume


def check_grid(labels: Path, found: Geometry, expected: Geometry) -> str | None:
    """Compare the grid of labels with that of their image, in size and spacing, as nnU-Net does.

    Args:
        labels: The file, for messages.
        found: Its grid.
        expected: The image's grid.

    Returns:
        A warning if only directions or origins differ, because networks and challenges compare voxel by voxel.

    Raises:
        InputError: Size or spacing differs.
    """
    if found.size != expected.size:
        raise InputError(f"{labels}: found size {found.size}, expected {expected.size} (x, y, z), its image's")
    if not np.allclose(found.spacing, expected.spacing, rtol=1e-3):
        raise InputError(f"{labels}: found spacing {found.spacing}, expected {expected.spacing} mm, its image's")
    for what, tolerance in (("direction", 0.01), ("origin", min(expected.spacing) / 2)):
        if not np.allclose(getattr(found, what), getattr(expected, what), rtol=0, atol=tolerance):
            taken = "its image's, whose voxels they are taken for"
            return f"{labels}: found the {what} {getattr(found, what)}, expected {taken}"
    return None


def check_ids(path: Path, labels: npt.NDArray[Any], known: Sequence[int], expected: str) -> None:
    """Raise InputError, which says what was ``expected`` of a file's labels, for a value that is not ``known``."""
    unknown = sorted(set(np.unique(labels).tolist()) - set(known))
    if unknown:
        raise InputError(f"{path}: found label values {str(unknown)[1:-1][:80]}, expected {expected}")


def ending_of(images: list[Path]) -> str:
    """The file name ending that all images share, as nnU-Net asks. Raises InputError if they do not, or it can't."""
    endings = sorted({suffix(path) or "" for path in images})
    if len(endings) != 1 or endings[0] not in (".nii.gz", ".mha", ".nrrd"):
        raise InputError(
            f"{images[0].parent}: found {', '.join(endings)}, expected one of .nii.gz, .mha, .nrrd for all"
        )
    return endings[0]
