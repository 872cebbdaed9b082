"""One reading of every scan of a dataset: what is wrong with it, its grid, and the intensities of what is labelled.

The result is nnU-Net's ``dataset_fingerprint.json``, which its planner reads. nnU-Net itself reads every scan twice for
that, to verify it and to measure it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.engine.harmonise import harmonise
from umamba2.engine.preprocess import nonzero_box
from umamba2.errors import InputError
from umamba2.files import write_file
from umamba2.scans.orientation import orientation
from umamba2.scans.volumes import read_labels
from umamba2.training.dataset import Dataset, check_grid, check_ids, read_scan
from umamba2.training.provenance import stamps
from umamba2.training.workers import LOG, run_all

Intensities = npt.NDArray[np.float32]

SAMPLES = 10**8  # voxels of the whole dataset whose intensities are taken, as nnU-Net does
SEED = 1234  # nnU-Net's


@dataclass(frozen=True)
class CaseFacts:
    """What one reading of a case tells.

    Attributes:
        shape: (z, y, x) in voxels.
        cropped: (z, y, x) of the box around all that is not zero.
        spacing: (z, y, x) in mm.
        lie: Which way the axes of the array run in the patient.
        labelled: Number of voxels with a label.
        intensities: Of labelled voxels, drawn at random with replacement.
        harmonised: The same of the harmonised scan, if asked for.
        warnings: What is odd.
    """

    shape: tuple[int, ...]
    cropped: tuple[int, ...]
    spacing: tuple[float, ...]
    lie: tuple[Any, ...]
    labelled: int
    intensities: Intensities
    harmonised: Intensities
    warnings: tuple[str, ...]


def read_case(
    image: Path, labels: Path | None, ids: tuple[int, ...], samples: int = 0, harmonised: bool = False
) -> CaseFacts:
    """Read the image and the labels of a case, and check both.

    Args:
        image: The scan.
        labels: Its labels, if there are some.
        ids: The label values of the dataset, background first.
        samples: How many labelled voxels to draw.
        harmonised: Draw them from the harmonised scan too.

    Raises:
        InputError: A file cannot be read, voxels are not finite or all the same, image and labels lie on different
            grids, or there are other label values.
    """
    volume = read_scan(image)
    if volume.mended:
        raise InputError(volume.warnings[-1])
    scan = volume.array
    box = nonzero_box(scan)  # to which nnU-Net crops before anything else
    inside, warnings, marked = scan[box], list(volume.warnings), np.zeros(0, bool)
    if labels is not None:
        truth, grid = read_labels(labels)
        warnings += filter(None, [check_grid(labels, grid, volume.geometry)])
        check_ids(labels, truth, ids, f"0 to {ids[-1]}")
        marked = truth[box] > 0
    drawn = np.zeros(0, np.float32)
    if harmonised:
        values, remarks = harmonise(inside)
        warnings += [f"{image}: {remark}" for remark in remarks]
        drawn = _drawn(values, marked, samples)
    lie = orientation(volume.geometry)
    return CaseFacts(
        shape=scan.shape,
        cropped=inside.shape,
        spacing=volume.geometry.zyx_spacing,
        lie=(lie.axes, lie.backwards),
        labelled=int(np.count_nonzero(marked)),
        intensities=_drawn(inside, marked, samples),
        harmonised=drawn,
        warnings=tuple(warnings),
    )


def _drawn(scan: npt.NDArray[Any], marked: npt.NDArray[np.bool_], samples: int) -> Intensities:
    if not (samples and marked.any()):
        return np.zeros(0, np.float32)
    return np.random.RandomState(SEED).choice(scan[marked].astype(np.float32), samples)


def take_fingerprint(dataset: Dataset, path: Path, workers: int, harmonised: bool = False) -> None:
    """Read a whole dataset, and write its fingerprint as nnU-Net would.

    Args:
        dataset: The dataset.
        path: Where to write.
        workers: Number of processes.
        harmonised: Add the statistics of harmonised scans as ``harmonised_intensities``.

    Raises:
        InputError: There are cases with a fault, each of which is logged, or nothing is labelled at all.
    """
    before, samples = stamps(*dataset.files), SAMPLES // len(dataset.cases)
    tasks: dict[str, tuple[Any, ...]] = {
        case: (*pair, dataset.ids, samples, harmonised) for case, pair in dataset.cases.items()
    }
    tasks |= {case: (image, None, dataset.ids) for case, image in dataset.unlabelled.items()}
    facts = run_all(read_case, tasks, workers, "reading")
    for fact in facts.values():
        for warning in fact.warnings:
            LOG.warning("%s", warning)
    if not any(fact.labelled for fact in facts.values()):
        raise InputError(f"{dataset.folder / 'labelsTr'}: found only background, expected labelled structures")
    (usual, _), *_ = Counter(fact.lie for fact in facts.values()).most_common()
    others = [case for case, fact in facts.items() if fact.lie != usual]
    if others:
        found = f"{len(others)} of {len(facts)} cases whose axes run another way in the patient ({others[0]}, ...)"
        expected = "the same for all: nothing is turned, and left must not be right"
        LOG.warning("%s: found %s, expected %s", dataset.folder, found, expected)
    labelled = [facts[case] for case in dataset.cases]
    content: dict[str, Any] = {
        "spacings": [fact.spacing for fact in labelled],
        "shapes_after_crop": [fact.cropped for fact in labelled],
        "foreground_intensity_properties_per_channel": {"0": _statistics([fact.intensities for fact in labelled])},
        "median_relative_size_after_cropping": float(
            np.median([math.prod(fact.cropped) / math.prod(fact.shape) for fact in labelled])
        ),
    }
    if harmonised:
        content["harmonised_intensities"] = _statistics([fact.harmonised for fact in labelled])
    content["made_of"] = before  # nnU-Net ignores what it does not know
    write_file(path, json.dumps(content, indent=1) + "\n")


def _statistics(samples: list[Intensities]) -> dict[str, float]:
    values = np.concatenate(samples)
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "median": float(median),
        "std": float(values.std(dtype=np.float64)),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
