"""From a challenge's download to a dataset that nnU-Net can train on.

What is recognised, anywhere below the source folder: images are volumes, with or without nnU-Net's ``_0000``; labels
are volumes called ``<case>_Mask`` or ``<case>_Masks``, or lying in a folder called labelsTr, labels, masks or the like.
An image without labels is unlabelled (STSR) or an error (ToothFairy3). Test and validation images are left out.

ToothFairy3 comes as ``imagesTr/<case>_0000`` and ``labelsTr/<case>`` (.nii.gz or .mha), STSR as ``<case>.nii.gz`` and
``<case>_Mask(s).nii.gz`` in folders of labelled and of unlabelled scans.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from umamba2.anatomy.numberings import in_ranges, to_training
from umamba2.anatomy.structures import DATASET_TYPOS
from umamba2.challenges import Challenge
from umamba2.errors import InputError
from umamba2.files import read_json, replacing, write_file
from umamba2.scans.clicks import NAMES, click_json, simulate_clicks
from umamba2.scans.orientation import code as code_of
from umamba2.scans.parts import parts_of
from umamba2.scans.volumes import (
    SUFFIXES,
    Volume,
    list_volumes,
    read_labels,
    stem,
    suffix,
    write_labels,
    write_volume,
)
from umamba2.training.dataset import (
    CHANNEL,
    Split,
    check_grid,
    check_ids,
    check_names,
    ending_of,
    read_dataset,
    read_scan,
)
from umamba2.training.nnunet import is_dataset_name
from umamba2.training.orientation import common_code, measured_code
from umamba2.training.provenance import is_made, leave_record, noted, stamps
from umamba2.training.workers import LOG, check_disk, run_all

FOLDS, SEED = 5, 12345
LOOKED_AT = 8  # label maps, about, to see how the arrays lie
CASE_WITH_TYPOS = "S_0048"  # the only one that may hold `DATASET_TYPOS`

_MASK = re.compile(r"_masks?$", re.IGNORECASE)
_MASK_FOLDER = re.compile(r"labels?(tr)?|masks?|gt|ground.?truth|annotations?", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(zip|7z|rar|tar|tgz|tbz2?|txz|tzst|tar\.[a-z0-9]+|z\d\d|zip\.\d+)$", re.IGNORECASE)
_LEFT_OUT = re.compile(r"(^|[^a-z])(images|labels)?(test|val|validation|ts)([^a-z]|$)", re.IGNORECASE)
_LABELLED = re.compile(r"(un)?labell?ed", re.IGNORECASE)


@dataclass(frozen=True)
class Download:
    """What a download holds.

    Attributes:
        labelled: (image, labels) by case.
        unlabelled: Images without labels by case.
        left_out: Files for test or validation.
        packed: Archives, of which nothing is looked at.
    """

    labelled: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    unlabelled: dict[str, Path] = field(default_factory=dict)
    left_out: list[Path] = field(default_factory=list)
    packed: list[Path] = field(default_factory=list)


def convert(challenge: Challenge, source: str | Path, target: str | Path, workers: int = 1) -> Path:
    """Turn a download, which is only read, into a raw dataset of nnU-Net.

    Cases that are there already, and that are by their records what was made of these originals, are not converted
    again.

    Args:
        challenge: What the dataset is for.
        source: The unpacked download.
        target: nnU-Net's raw folder, or a folder in it called ``Dataset<three digits>_<name>``.
        workers: Number of processes.

    Returns:
        The folder of the dataset.

    Raises:
        InputError: The source is no such download, there is too little disk space, or there are cases with a fault,
            each of which is logged.
    """
    source, target = Path(source), Path(target)
    folder = target if is_dataset_name(target.name) else target / challenge.dataset_name
    if folder != target and target.name.startswith("Dataset"):
        raise InputError(f"{target}: found the name {target.name}, expected Dataset<three digits>_<name>")
    if folder.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target}: found it inside {source}, expected another place")
    semi_supervised = challenge.recipe.unlabelled is not None
    download = recognise(source, may_lack_labels=semi_supervised)
    check_names([*download.labelled, *download.unlabelled], source)
    LOG.info("%s", _summary(source, download))
    images = [image for image, _ in download.labelled.values()] + list(download.unlabelled.values())
    ending = ending_of(images)
    _check_surplus(folder, download)
    orientation = _orientation(challenge, [labels for _, labels in download.labelled.values()])
    LOG.info("%s: the labels lie %s", folder, orientation or "in no way that they show")
    _start(folder, challenge, ending, len(download.labelled), orientation)

    labelled = {
        case: (challenge, case, *pair, folder, ending)
        for case, pair in download.labelled.items()
        if not _finished(challenge, folder, case, ending, *pair)
    }
    unlabelled = {
        case: (challenge, case, image, folder, ending)
        for case, image in download.unlabelled.items()
        if not _finished(challenge, folder, case, ending, image)
    }
    done = len(images) - len(labelled) - len(unlabelled)
    if done:
        LOG.info("%s: %d of %d cases are there already", folder, done, len(images))
    sources = [path for task in labelled.values() for path in task[2:4]] + [task[2] for task in unlabelled.values()]
    check_disk(folder, sum(path.stat().st_size for path in sources), "the converted cases")
    warnings = run_all(convert_case, labelled, workers, "converting")
    warnings |= run_all(copy_image, unlabelled, workers, "copying")
    again = _same_scans(folder, {**{case: pair[0] for case, pair in download.labelled.items()}, **download.unlabelled})
    for warning in [*(line for lines in warnings.values() for line in lines), *again]:
        LOG.warning("%s", warning)
    splits = make_splits(list(download.labelled), list(download.unlabelled) if semi_supervised else None)
    write_file(folder / "splits_final.json", json.dumps(splits, indent=1) + "\n")
    read_dataset(folder)  # to see that it is complete
    return folder


def recognise(source: Path, may_lack_labels: bool) -> Download:
    """Find the cases of a download, as the module says. Raises InputError if it holds none, or one not completely."""
    if not source.is_dir():
        raise InputError(f"{source}: found no such folder, expected a challenge's download")
    download, images, masks = Download(), dict[str, Path](), dict[str, Path]()
    for path in _volumes_below(source, download.packed):
        inside = path.relative_to(source)
        if any(_LEFT_OUT.search(part) for part in [*inside.parts[:-1], stem(path)]):
            download.left_out.append(path)
            continue
        is_mask = _MASK.search(stem(path)) or any(_MASK_FOLDER.fullmatch(part) for part in inside.parts[:-1])
        case = _MASK.sub("", stem(path)).removesuffix(CHANNEL)
        kind = masks if is_mask else images
        if not case:
            raise InputError(f"{path}: found no case in its name, expected one, as in case_0000 and case_Mask")
        if case in kind:
            raise InputError(f"{path}: found {kind[case]} for the same case, expected one file")
        kind[case] = path
    if download.packed:
        names = [str(path.relative_to(source)) for path in download.packed]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        LOG.warning("%s: found archives (%s), expected what is in them unpacked; passed over", source, shown)
    for case, mask in masks.items():
        if case not in images:
            raise InputError(f"{mask}: found no image {case}, expected one for all labels")
    for case, image in images.items():
        if case in masks:
            download.labelled[case] = (image, masks[case])
        elif not may_lack_labels or _claims_labels(image.relative_to(source)):
            raise InputError(f"{image}: found no labels for it, expected {case} in labelsTr or {case}_Mask")
        else:
            download.unlabelled[case] = image
    if len(download.labelled) < 2:
        expected = f"at least 2 images ({', '.join(SUFFIXES[:3])}) with labels in {source}"
        raise InputError(f"{source}: found {len(download.labelled)} labelled cases, expected {expected}")
    return download


def _volumes_below(source: Path, packed: list[Path]) -> list[Path]:
    """All volumes below a folder, sorted; links are followed, what is hidden is left out.

    Args:
        source: The folder.
        packed: Gets the archives that are there.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: could not be read ({error.strerror}), expected a readable folder")

    found, seen = [], set()
    for folder, folders, files in os.walk(source, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            there = [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
            found += [path for path in there if suffix(path)]
            packed += [path for path in there if _ARCHIVE.search(path.name)]
        seen.add(real)
    return sorted(found)


def _check_surplus(folder: Path, download: Download) -> None:
    """Raise InputError if the dataset has a case of which the download says something else, or nothing any more."""
    for name, cases in (
        ("imagesTr", download.labelled),
        ("labelsTr", download.labelled),
        ("imagesUn", download.unlabelled),
    ):
        for path in list_volumes(folder / name) if (folder / name).is_dir() else ():
            if stem(path).removesuffix("" if name == "labelsTr" else CHANNEL) not in cases:
                what = "labelled" if cases is download.labelled else "unlabelled"
                raise InputError(f"{path}: found no such {what} case in the download, expected this file removed")


def _claims_labels(image: Path) -> bool:
    """Whether the file's name, or else the innermost folder that tells, says that this image is a labelled one."""
    told = [match for part in reversed(image.parts) if (match := _LABELLED.search(part))]
    return bool(told) and told[0][1] is None


def convert_case(challenge: Challenge, case: str, image: Path, labels: Path, folder: Path, ending: str) -> list[str]:
    """Copy the image of a case and translate its labels into training ids, with clicks for the interactive challenge.

    Args:
        challenge: What the dataset is for.
        case: The name of the case.
        image: The original scan.
        labels: The original labels.
        folder: The dataset's.
        ending: Of the names of all files of the dataset.

    Returns:
        Warnings.
    """
    before = stamps(image, labels)
    volume = read_scan(image)
    warnings = list(volume.warnings)
    array, geometry = read_labels(labels, warnings)
    warnings += filter(None, [check_grid(labels, geometry, volume.geometry)])
    check_ids(labels, array, *_known_ids(challenge, case))
    _check_greys(challenge, case, image, volume)
    if not array.any():
        warnings.append(f"{labels}: found no labels in it, expected {_known_ids(challenge, case)[1]}")
    code = measured_code(array, challenge.released or challenge.structures, volume.spacing)
    if code and volume.oriented and code != code_of(volume.grid):
        warnings.append(f"{image}: found the orientation {code_of(volume.grid)}, expected {code}, as the labels lie")
    converted = to_training(challenge.structures, "dataset")[array]
    copy, *others = _outputs(challenge, folder, case, ending, labelled=True)
    _copy(image, volume, copy)
    if challenge.takes_clicks:
        rng = np.random.default_rng(zlib.crc32(case.encode()))
        points = [(name, p) for name, side in NAMES.items() for p in simulate_clicks(converted == side + 1, rng)]
        write_file(others[1], click_json(points))
    # The challenges compare voxel by voxel, so the image's grid it is, should the labels' origin or direction differ.
    write_labels(others[0], converted, volume.grid)
    leave_record(_record(folder, case), before, [copy, *others], _table(challenge), _fingerprint(volume))
    return warnings


def copy_image(challenge: Challenge, case: str, image: Path, folder: Path, ending: str) -> list[str]:
    """Copy the image of a case without labels, complete or not at all, and return warnings; see `convert_case`."""
    before = stamps(image)
    volume = read_scan(image)
    _check_greys(challenge, case, image, volume)
    outputs = _outputs(challenge, folder, case, ending, labelled=False)
    _copy(image, volume, outputs[0])
    leave_record(_record(folder, case), before, outputs, _table(challenge), _fingerprint(volume))
    return list(volume.warnings)


def _check_greys(challenge: Challenge, case: str, image: Path, volume: Volume) -> None:
    """Raise InputError if an image holds nothing but ids: it is a label map of another name, or in the wrong place."""
    ids = _known_ids(challenge, case)[0]
    if ids[0] <= volume.array.min() and volume.array.max() <= ids[-1] and not set(np.unique(volume.array)) - set(ids):
        raise InputError(f"{image}: found nothing but label values in it, expected a scan")


def _fingerprint(volume: Volume) -> list[int]:
    """What only scans with the same voxels have in common: their shape and a checksum."""
    return [*volume.array.shape, zlib.crc32(np.ascontiguousarray(volume.array).data)]


def _same_scans(folder: Path, images: dict[str, Path]) -> list[str]:
    """A line for each image, by case, that shows the same as one before, and should not be in another fold."""
    said, seen = list[str](), dict[str, Path]()
    for case, image in images.items():
        known = noted(_record(folder, case))  # None: a conversion of an earlier version
        first = image if known is None else seen.setdefault(str(known), image)
        if first is not image:
            said.append(f"{image}: found the voxels of {first}, expected a scan of its own for each case")
    return said


def _copy(image: Path, volume: Volume, target: Path) -> None:
    """Copy an image as it is, or write it anew if there was something to mend or its voxels lie in another file."""
    if volume.mended or volume.corrected or len(parts_of(image)) > 1:
        write_volume(target, volume.array, volume.grid)
    else:
        with replacing(target) as partial:
            shutil.copyfile(image, partial)


def make_splits(cases: list[str], unlabelled: list[str] | None = None) -> list[Split]:
    """The folds of a cross-validation as nnU-Net's ``splits_final.json``, the same for the same cases.

    Args:
        cases: The names of the labelled cases; there are five folds, or as many as cases.
        unlabelled: The names of cases that are listed as ``unlabeled`` in every fold.
    """
    order = np.random.default_rng(SEED).permutation(sorted(cases))
    splits: list[Split] = []
    for fold in np.array_split(order, min(FOLDS, len(order))):
        split = {"train": sorted(set(order.tolist()) - set(fold.tolist())), "val": sorted(fold.tolist())}
        splits.append(split if unlabelled is None else {**split, "unlabeled": sorted(unlabelled)})
    return splits


def _known_ids(challenge: Challenge, case: str) -> tuple[tuple[int, ...], str]:
    """Label values of a download, and how to say so."""
    ids = {0, *(i for structure in challenge.released or challenge.structures for i in structure.dataset)}
    usual = ids - set(DATASET_TYPOS)
    return tuple(sorted(ids if case.endswith(CASE_WITH_TYPOS) else usual)), in_ranges(usual)


def _summary(source: Path, download: Download) -> str:
    def where(files: list[Path]) -> str:
        folders = sorted({str(path.parent.relative_to(source)) for path in files})
        return ", ".join(folders[:3]) + (", ..." if len(folders) > 3 else "")

    images, labels = zip(*download.labelled.values())
    parts = [f"{len(images)} labelled cases (images in {where(list(images))}, labels in {where(list(labels))})"]
    if download.unlabelled:
        parts.append(f"{len(download.unlabelled)} unlabelled (in {where(list(download.unlabelled.values()))})")
    if download.left_out:
        parts.append(f"{len(download.left_out)} files for test or validation left out (in {where(download.left_out)})")
    return f"{source}: " + ", ".join(parts)


def _orientation(challenge: Challenge, labels: list[Path]) -> str | None:
    """How the arrays of a dataset lie in the patient, from a few of its label maps."""
    codes = []
    for path in labels[:: max(1, len(labels) // LOOKED_AT)]:
        with suppress(InputError):  # what is wrong with it is said when it is converted
            array, geometry = read_labels(path)
            if array.min() >= 0 and array.max() < 256:
                codes.append(measured_code(array, challenge.released or challenge.structures, geometry.zyx_spacing))
    return common_code(codes)


def _start(folder: Path, challenge: Challenge, ending: str, count: int, orientation: str | None) -> None:
    """Write dataset.json first: it says what the folder is about to hold. InputError if it holds something else."""
    description = {
        "name": folder.name.partition("_")[2],
        "challenge": challenge.name,
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{s.name: s.training for s in challenge.structures}},
        "numTraining": count,
        "file_ending": ending,
        **({"orientation": orientation} if orientation else {}),
    }
    path = folder / "dataset.json"
    if path.is_file():
        found = {}
        with suppress(InputError):  # what cannot be read is written anew
            found = read_json(path)
        for key in ("challenge", "file_ending"):
            if found.get(key, description[key]) != description[key]:
                raise InputError(f"{path}: found {key} {found[key]}, expected {description[key]} or a new folder")
        if found == description:  # its date tells whether planning is up to date
            return
    write_file(path, json.dumps(description, indent=1) + "\n")


# --- what was converted before ----------------------------------------------------------------------------------------


def _outputs(challenge: Challenge, folder: Path, case: str, ending: str, labelled: bool) -> list[Path]:
    """The files of a case in the dataset: its image, its labels, its clicks, as far as it has them."""
    if not labelled:
        return [folder / "imagesUn" / f"{case}{CHANNEL}{ending}"]
    found = [folder / "imagesTr" / f"{case}{CHANNEL}{ending}", folder / "labelsTr" / f"{case}{ending}"]
    return found + [folder / "clicks" / f"iac_clicks_{case}.json"] * challenge.takes_clicks


def _record(folder: Path, case: str) -> Path:
    return folder / "converted" / f"{case}.json"


def _table(challenge: Challenge) -> int:
    """A checksum of how ids are translated, which another version of this program may do in another way."""
    return zlib.crc32(to_training(challenge.structures, "dataset").tobytes())


def _finished(challenge: Challenge, folder: Path, case: str, ending: str, image: Path, *labels: Path) -> bool:
    """Whether a case is there, made of these files."""
    outputs = _outputs(challenge, folder, case, ending, bool(labels))
    return is_made(_record(folder, case), [image, *labels], outputs, _table(challenge))
