"""How much faster the graders' numbers come out, side by side with the implementations that the graders use.

    python benchmarks/evaluation.py [--classes N] [--stray N] [--teeth FOLDER]

ToothFairy3: a phantom of 170x272x345 voxels against a shifted, eroded and partly deleted copy; all classes by
`umamba2.evaluation`, all or the first N by `medpy` on the whole volume. STSR: each pair ``<case>_gt*``,
``<case>_prediction*`` of label maps in FOLDER by `umamba2.evaluation`, and label by label on the whole volume by
`surface-distance`. Both sides start from arrays in memory; reading files is not timed. Needs medpy and
surface-distance. Peak memory is that of a process of its own, with the arrays and the libraries in it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from umamba2.anatomy.numberings import to_training
from umamba2.anatomy.structures import ANATOMY
from umamba2.evaluation.stsr import CaseScores, score_case
from umamba2.evaluation.toothfairy3 import dice_and_hd95
from umamba2.scans.volumes import read_labels
from umamba2.synthetic.phantoms import make_phantom

CLASSES = len(ANATOMY)
MIB = 2**20


def multiclass_pair(stray: int) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth and prediction: labels 0-46, uint8, 170x272x345; every class of the latter a little wrong."""
    truth = to_training(ANATOMY, "dataset")[make_phantom(5).labels]
    prediction = np.roll(truth, (1, -1, 1), axis=(0, 1, 2))
    prediction[ndimage.grey_erosion(truth, size=2) != truth] = 0  # frayed surfaces
    prediction[prediction == 25] = 0  # a missed tooth
    rng = np.random.default_rng(0)
    where = tuple(rng.integers(0, n, stray * CLASSES) for n in truth.shape)
    prediction[where] = np.repeat(np.arange(1, CLASSES + 1), stray)
    return truth, prediction


def medpy_scores(truth: np.ndarray, prediction: np.ndarray, classes: int) -> tuple[list[float], list[float]]:
    """Dice and HD95 of the first classes, as the published ToothFairy3 grader computes them."""
    from medpy.metric import binary

    dices, distances = [], []
    for label in range(1, classes + 1):
        ours, theirs = truth == label, prediction == label
        total = ours.sum() + theirs.sum()
        dices.append(2.0 * np.logical_and(ours, theirs).sum() / total if total else 1.0)
        if ours.any() and theirs.any():
            distances.append(float(binary.hd95(theirs, ours)))
        else:
            distances.append(float(np.linalg.norm(truth.shape)) if total else 0.0)
    return dices, distances


def surfel_scores(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> CaseScores:
    """What `umamba2.evaluation.stsr.score_case` returns, as the published STSR grader computes it."""
    warnings.simplefilter("ignore")
    import surface_distance

    def compare(ours, theirs):
        both, either = np.sum(ours & theirs), np.sum(ours | theirs)
        total = ours.sum() + theirs.sum()
        if not ours.any() or not theirs.any():
            return (float(2 * both / total), float(both / either), 0.0)
        distances = surface_distance.compute_surface_distances(ours, theirs, spacing)
        surface = surface_distance.compute_surface_dice_at_tolerance(distances, 2.0)
        return float(2 * both / total), float(both / either), float(surface)

    image = compare(truth > 0, prediction > 0)
    labels = np.unique(truth[truth > 0])
    instances = {int(label): compare(truth == label, prediction == label) for label in labels}
    matched = sum(values[1] >= 0.5 for values in instances.values())
    everything = np.union1d(labels, np.unique(prediction[prediction > 0]))
    return CaseScores(image, instances, matched / len(everything))


def measured(function: Callable, *arguments):
    """The result of a call in a process of its own, its seconds and the process's peak memory in MiB."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work():
        started = time.perf_counter()
        result = function(*arguments)
        seconds = time.perf_counter() - started
        unit = 1 if sys.platform == "darwin" else 1024
        there.send((result, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB))

    process = context.Process(target=work)
    process.start()
    answer = here.recv()
    process.join()
    return answer


def row(what: str, who: str, seconds: float, memory: float, note: str = "") -> None:
    print(f"{what:<26} {who:<22} {seconds:>9.2f} s {memory:>8.0f} MiB  {note}", flush=True)


def multiclass(classes: int, stray: int) -> None:
    truth, prediction = multiclass_pair(stray)
    what = "ToothFairy3 " + "x".join(map(str, truth.shape)) + (f", {stray} stray" if stray else "")
    ours, seconds, memory = measured(dice_and_hd95, truth, prediction, CLASSES)
    row(what, "umamba2", seconds, memory, f"{CLASSES} classes")
    theirs, slow, memory = measured(medpy_scores, truth, prediction, classes)
    row(what, "medpy", slow, memory, f"{classes} classes")
    difference = max(np.abs(np.subtract(ours[i][:classes], theirs[i])).max() for i in range(2))
    if classes < CLASSES:
        first = [np.where(labels > classes, 0, labels) for labels in (truth, prediction)]
        _, seconds, memory = measured(dice_and_hd95, *first, classes)
        row(what, "umamba2", seconds, memory, f"{classes} classes")
    print(
        f"{'':<26} {slow / seconds:.1f} times faster, the same {classes} classes, greatest difference {difference:.1e}"
    )


def stsr(folder: Path) -> None:
    for truth_path in sorted(folder.glob("*_gt*.nii.gz")):
        case = truth_path.name.partition("_gt")[0]
        truth, grid = read_labels(truth_path)
        prediction, _ = read_labels(next(folder.glob(f"{case}_prediction*.nii.gz")))
        spacing = grid.spacing[::-1]
        what = "STSR " + "x".join(map(str, truth.shape))
        ours, seconds, memory = measured(score_case, truth, prediction, spacing)
        row(what, "umamba2", seconds, memory, f"{len(ours.instances)} labels")
        theirs, slow, memory = measured(surfel_scores, truth, prediction, spacing)
        row(what, "surface-distance", slow, memory, f"{len(theirs.instances)} labels")
        pairs = [(ours.image, theirs.image), *((ours.instances[k], theirs.instances[k]) for k in theirs.instances)]
        difference = max(np.abs(np.subtract(*pair)).max() for pair in pairs)
        difference = max(difference, abs(ours.accuracy - theirs.accuracy))
        print(f"{'':<26} {slow / seconds:.1f} times faster, greatest difference {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classes", type=int, default=CLASSES, help="how many classes medpy gets (default: all)")
    parser.add_argument("--stray", type=int, default=0, help="stray voxels per class in the ToothFairy3 prediction")
    parser.add_argument("--teeth", type=Path, metavar="FOLDER", help="folder of pairs of tooth maps for STSR")
    arguments = parser.parse_args()
    multiclass(arguments.classes, arguments.stray)
    if arguments.teeth:
        stsr(arguments.teeth)


if __name__ == "__main__":
    main()
