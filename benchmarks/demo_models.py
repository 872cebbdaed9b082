"""How good the demo models are on phantoms they have never seen, through the whole pipeline.

    python benchmarks/demo_models.py --count 8
    python benchmarks/demo_models.py --count 8 --randomised --teeth labels_with_fdi_numbers.nii.gz
    python benchmarks/demo_models.py --count 4 --heads

Prints a table: Dice per group of structures for each challenge, and for the interactive one by number of clicks.
Phantoms have the usual size of a ToothFairy3 scan; seeds start far above those of the training. With --heads they are
whole heads, judged as they are (`--dental-field auto`) and cut to the box about their teeth, and parts of heads that
show no teeth, for which it is said how much tooth was found.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

import umamba2
from umamba2.anatomy.numberings import to_training
from umamba2.anatomy.structures import FDI_TEETH
from umamba2.challenges import CHALLENGES
from umamba2.scans.clicks import NAMES, Clicks
from umamba2.synthetic.heads import TOOTHLESS, make_head
from umamba2.synthetic.phantoms import Phantom, make_phantom
from umamba2.synthetic.textbook import FDI_OF
from umamba2.synthetic.tooth_shapes import read_tooth_shapes

ROOT = Path(__file__).resolve().parents[1]
MULTICLASS, INTERACTIVE, STSR = CHALLENGES
HEAD_SPACING = (0.8, 0.8, 0.8)  # mm
TEETH = tuple(range(11, 11 + len(FDI_TEETH)))
GROUPS = {
    MULTICLASS: {
        "jaws": (1, 2), "teeth": TEETH, "alveolar canals": (3, 4), "sinuses": (5, 6), "pharynx": (7,),
        "restorations": (8, 9, 10), "small canals": (43, 44, 45), "pulp": (46,),
    },
    INTERACTIVE: {"alveolar canals": (1, 2)},
    STSR: {"tooth": (1,), "pulp": (2,), "root canals": tuple(range(3, 13))},
}  # fmt: skip


def dice(found: np.ndarray, truth: np.ndarray, ids: tuple[int, ...]) -> list[float]:
    """Dice of every id that one of the two label maps has."""
    sizes = np.bincount(found.ravel(), minlength=256) + np.bincount(truth.ravel(), minlength=256)
    overlap = np.bincount(found[found == truth], minlength=256)
    return [2 * overlap[i] / sizes[i] for i in ids if sizes[i]]


def clicks_of(phantom: Phantom, count: int) -> Clicks:
    """The first ``count`` clicks of each side."""
    chosen = [c for side in NAMES for c in [c for c in phantom.clicks if c[0] == side][:count]]
    points = np.array([point for _, point in chosen], np.float32).reshape(-1, 3)
    return Clicks(points, np.array([NAMES[name] for name, _ in chosen], np.int64))


def about_the_teeth(phantom: Phantom, margin: float = 10.0) -> Phantom:
    """The part of a phantom within ``margin`` mm of the box about its teeth."""
    teeth, spacing = np.argwhere(FDI_OF[phantom.labels] > 0), np.array(phantom.spacing)
    low, high = ((edge + away * margin / spacing).astype(int) for edge, away in ((teeth.min(0), -1), (teeth.max(0), 1)))
    box = tuple(slice(max(a, 0), b + 1) for a, b in zip(low, high, strict=True))
    cut = {name: np.ascontiguousarray(getattr(phantom, name)[box]) for name in ("image", "labels", "stsr_labels")}
    return replace(phantom, **cut, clicks=())


def judge_heads(segmenters: dict[str, umamba2.Segmenter], options: argparse.Namespace, shapes: dict | None) -> None:
    """Print Dice on whole heads and in their dental fields alone, and how much tooth is found where there is none."""
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for seed in range(options.seed, options.seed + options.count):
        head = make_head(seed, "head", HEAD_SPACING, tooth_shapes=shapes)
        views = {"whole head": head}
        if (FDI_OF[head.labels] > 0).any():
            views["its dental field alone"] = about_the_teeth(head)
        nothing = make_head(seed, TOOTHLESS[seed % len(TOOTHLESS)], HEAD_SPACING, tooth_shapes=shapes)
        for name in (name for name in segmenters if name != INTERACTIVE):
            table = to_training(CHALLENGES[name].structures, "dataset")
            for view, phantom in views.items():
                found = segmenters[name].segment((phantom.image, phantom.spacing)).labels
                truth = phantom.stsr_labels if name == STSR else table[phantom.labels]
                for group, ids in GROUPS[name].items():
                    scores[name, group, f"{view}, Dice"] += dice(found, truth, ids)
                ids = GROUPS[name]["tooth" if name == STSR else "teeth"]
                false = np.isin(found, ids) & (FDI_OF[phantom.labels] == 0)
                scores[name, "teeth", f"{view}, found outside teeth, mm3"].append(
                    false.sum() * np.prod(phantom.spacing)
                )
            found = segmenters[name].segment((nothing.image, nothing.spacing)).labels
            false = np.isin(found, ids).sum() * np.prod(nothing.spacing)
            scores[name, "teeth", "no dental field, found, mm3"].append(false)
        print(f"head {seed} done", flush=True)
    print(f"\nMeans, {options.count} heads and as many parts of heads without teeth, seeds from {options.seed}\n")
    for (name, group, what), values in scores.items():
        print(f"| {name} | {group} | {what} | {np.mean(values):.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=8, help="number of phantoms")
    parser.add_argument("--seed", type=int, default=10_000, help="first seed")
    parser.add_argument("--models", type=Path, default=ROOT / "resources")
    parser.add_argument("--canal-contrast", type=float, default=1.0, help="0: alveolar canals invisible, clicks tell")
    parser.add_argument("--randomised", action="store_true", help="anatomy and grey values beyond those of patients")
    parser.add_argument("--heads", action="store_true", help="whole heads, and parts of heads without teeth")
    parser.add_argument("--teeth", type=Path, nargs="*", default=(), help="label maps of real teeth by FDI number")
    parser.add_argument("--challenges", nargs="+", default=list(CHALLENGES), choices=list(CHALLENGES))
    options = parser.parse_args()
    segmenters = {name: umamba2.load(options.models / name, numbering="training") for name in options.challenges}
    shapes = read_tooth_shapes(options.teeth) if options.teeth else None
    if options.heads:
        judge_heads(segmenters, options, shapes)
        return
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for seed in range(options.seed, options.seed + options.count):
        phantom = make_phantom(
            seed, canal_contrast=options.canal_contrast, randomised=options.randomised, tooth_shapes=shapes
        )
        for name, segmenter in segmenters.items():
            table = to_training(CHALLENGES[name].structures, "dataset")
            truth = phantom.stsr_labels if name == STSR else table[phantom.labels]
            for count in range(6) if name == INTERACTIVE else [None]:
                began = time.monotonic()
                clicks = None if count is None else clicks_of(phantom, count)
                found = segmenter.segment((phantom.image, phantom.spacing), clicks).labels
                seconds[name].append(time.monotonic() - began)
                for group, ids in GROUPS[name].items():
                    label = group if count is None else f"{group}, {count} clicks a side"
                    scores[name, label] += dice(found, truth, ids)
        print(f"phantom {seed} done", flush=True)
    print(f"\nMean Dice, {options.count} phantoms of 170x272x345 voxels, seeds from {options.seed}\n")
    for (name, group), values in scores.items():
        print(f"| {name} | {group} | {np.mean(values):.3f} |")
    for name, times in seconds.items():
        told = segmenters[name].settings
        print(f"{name}: {np.median(times):.1f} s per scan, median, {told['device']} {told['precision']}")


if __name__ == "__main__":
    main()
