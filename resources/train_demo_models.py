"""Train the three demo models through the toolkit's own chain, on a CPU, and write them to `resources/<challenge>/`.

    python resources/train_demo_models.py --work /scratch --teeth labels_with_fdi_numbers.nii.gz --jaws jaws.nii.gz

Phantoms with randomised anatomy and grey values, of dental fields, heads and parts of heads, are written as a download
of each challenge; from there on everything is what a participant does: convert, plan, preprocess, train, slim. Each
step goes on where an earlier run has stopped. Every model goes on from the one before it (`--start`); without, a longer
training is needed.
See resources/README.md for what the models can and cannot do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from umamba2.challenges import CHALLENGES
from umamba2.challenges.recipe import SMALL
from umamba2.engine.dental_field import field_for
from umamba2.models.folder import slim
from umamba2.models.weights import CHECKPOINT_NAMES
from umamba2.scans.volumes import write_image
from umamba2.synthetic.appearance import image_of_labels
from umamba2.synthetic.bone_meshes import read_bone_meshes
from umamba2.synthetic.heads import make_head
from umamba2.synthetic.phantoms import make_phantom
from umamba2.synthetic.tooth_shapes import read_tooth_shapes
from umamba2.training.convert import convert
from umamba2.training.dataset import read_dataset
from umamba2.training.nnunet import find_folder
from umamba2.training.options import Options
from umamba2.training.plan import plan
from umamba2.training.preprocess import preprocess
from umamba2.training.pretrained import read_weights
from umamba2.training.run import train
from umamba2.training.workers import run_all

SPACING = (1.0, 1.0, 1.0)  # mm, of the models
ITERATIONS = 50  # of one patch, per epoch
VALIDATION = 4  # cases, only to watch the training
PLAIN = "randomised phantom"  # teeth in line, and a block of flesh about the jaws
# 55 in a hundred are dental fields, 30 heads or large parts of them, 15 show no teeth
FIELDS = {
    PLAIN: 20, "dental field": 35, "head": 15, "half head": 15,
    "upper head": 7, "back of the head": 5, "side of the head": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What is particular to one demo model.

    ``seeds`` of the training phantoms, and how many more without labels; ``jaws``: how many images of each real label
    map; a ``hidden`` share of the phantoms has invisible alveolar canals, so that only clicks tell where they are;
    ``blend`` is the share of the weights it started from in the final ones (Wortsman et al., arXiv 2109.01903).
    ``fields`` says what the phantoms show, each as often as its number: `PLAIN` or a part of a head.
    """

    seeds: range
    epochs: int
    patch: tuple[int, int, int]
    unlabelled: int = 0
    jaws: int = 0
    hidden: float = 0.0
    learning_rate: float = 0.01
    blend: float = 0.0
    fields: Mapping[str, float] = field(default_factory=lambda: FIELDS)


MULTICLASS, INTERACTIVE, STSR = TASKS = tuple(CHALLENGES)
SUPERVISED = CHALLENGES[MULTICLASS].recipe.trainer  # where every phantom has its labels
# What shows no canal teaches the interactive model nothing.
RECIPES = {
    MULTICLASS: Recipe(range(240), 32, (48, 80, 112)),
    # Patches of an odd number of cells: the last stage does not halve them, and cells of 8 mm can tell clicks apart.
    # A fast training forgets the clicks, which the model that this one starts from was taught.
    INTERACTIVE: Recipe(range(1000, 1160), 6, (56, 72, 104), jaws=10, hidden=0.5, learning_rate=0.002, blend=0.5,
                        fields={PLAIN: 40, "dental field": 40, "head": 10, "half head": 10}),
    # A third shows no teeth: this model has no other bone to tell them from, and finds them everywhere otherwise.
    STSR: Recipe(range(3000, 3160), 80, (48, 80, 112),
                 fields={PLAIN: 17, "dental field": 27, "head": 12, "half head": 11,
                         "upper head": 15, "back of the head": 11, "side of the head": 7}),
}  # fmt: skip
_SHAPES: dict = {}  # read once per process
_MESHES: dict = {}


def write_case(
    folder: Path, task: str, seed: int, labelled: bool, teeth: tuple[Path, ...], skulls: tuple[Path, ...] = ()
) -> None:
    """Write a phantom of a random field of view and spacing, in the layout of the challenge's download."""
    if teeth and teeth not in _SHAPES:
        _SHAPES[teeth] = read_tooth_shapes(teeth)
    if skulls and skulls not in _MESHES:
        _MESHES[skulls] = read_bone_meshes(skulls)
    shapes, recipe = _SHAPES.get(teeth), RECIPES[task]
    rng = np.random.default_rng([seed, 5])
    spacing = rng.uniform(0.35, 0.65)
    shape = [round(rng.uniform(*mm) / spacing) for mm in ((38, 66), (62, 96), (66, 118))]
    contrast = 0.0 if rng.random() < recipe.hidden else 1.0
    shares = np.array(list(recipe.fields.values()), float)
    part = str(rng.choice(list(recipe.fields), p=shares / shares.sum()))
    if part == PLAIN:
        phantom = make_phantom(seed, shape, [spacing] * 3, contrast, randomised=True, tooth_shapes=shapes)
    else:
        phantom = make_head(seed, part, None, contrast, shapes, _MESHES.get(skulls, ()))
    case, stsr = f"phantom_{seed:05d}", task == STSR
    labels = phantom.stsr_labels if stsr else phantom.labels
    files = {} if not labelled else {f"labelled/{case}_Mask" if stsr else f"labelsTr/{case}": labels}
    image = f"{'' if labelled else 'un'}labelled/{case}" if stsr else f"imagesTr/{case}_0000"
    for name, array in {**files, image: phantom.image}.items():  # the image last: then all of the case is there
        write(folder / f"{name}.nii.gz", array, phantom.spacing)


def write_jaws(folder: Path, seed: int, path: Path) -> None:
    """Write a random image of a part of a label map (ids of the ToothFairy3 release), up to 15 % larger or smaller."""
    rng = np.random.default_rng([seed, 5])
    volume = sitk.ReadImage(str(path))
    labels, true = sitk.GetArrayFromImage(volume), np.array(volume.GetSpacing()[::-1])
    spacing = true * rng.uniform(0.87, 1.15, 3)
    part = [slice(None)] * 3
    for axis, mm in enumerate(((45, 75), (70, 100), (90, 120))):
        size = round(rng.uniform(*mm) / true[axis])
        start = int(rng.integers(0, max(1, labels.shape[axis] - size + 1)))
        part[axis] = slice(start, start + size)
    image, labels = image_of_labels(labels[tuple(part)], spacing, seed)
    case = f"jaws_{seed:05d}"
    write(folder / f"labelsTr/{case}.nii.gz", labels, spacing)
    write(folder / f"imagesTr/{case}_0000.nii.gz", image, spacing)


def write(path: Path, array: np.ndarray, spacing: Iterable[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing([float(mm) for mm in spacing][::-1])
    write_image(path, volume)


def make_download(
    folder: Path, task: str, teeth: tuple[Path, ...], jaws: tuple[Path, ...], skulls: tuple[Path, ...], workers: int
) -> None:
    recipe = RECIPES[task]
    seeds = range(recipe.seeds.start, recipe.seeds.stop + VALIDATION + recipe.unlabelled)
    first_unlabelled = recipe.seeds.stop + VALIDATION
    images = [path.name.removesuffix(".nii.gz") for path in folder.rglob("*.nii.gz") if path.parent.name != "labelsTr"]
    there = {name.removesuffix("_0000") for name in images}
    tasks = {
        name: (folder, task, seed, seed < first_unlabelled, teeth, skulls)
        for seed in seeds
        if (name := f"phantom_{seed:05d}") not in there
    }
    run_all(write_case, tasks, workers, "phantoms")
    seeds = range(recipe.seeds.start, recipe.seeds.start + recipe.jaws * len(jaws))
    tasks = {
        name: (folder, seed, jaws[seed % len(jaws)]) for seed in seeds if (name := f"jaws_{seed:05d}") not in there
    }
    run_all(write_jaws, tasks, workers, "jaws")


def make_model(
    task: str,
    work: Path,
    out: Path,
    teeth: tuple[Path, ...],
    jaws: tuple[Path, ...],
    skulls: tuple[Path, ...],
    start: Path | None,
    epochs: int,
    workers: int,
) -> None:
    """The whole chain for one task."""
    recipe = RECIPES[task]
    (work / "raw").mkdir(parents=True, exist_ok=True)
    raw, preprocessed, results = (find_folder(name, work / name) for name in ("raw", "preprocessed", "results"))
    make_download(work / "download" / task, task, teeth, jaws, skulls, workers)
    folder = convert(CHALLENGES[task], work / "download" / task, raw, workers)
    split_off(folder, recipe)
    state_settings(folder, task)
    dataset = read_dataset(folder)
    plan(dataset, preprocessed, CHALLENGES[task], recipe.patch, SPACING, SMALL, harmonised=True, workers=workers)
    preprocess(dataset, preprocessed, workers)
    options = Options(
        preset=task,
        epochs=epochs,
        learning_rate=recipe.learning_rate,
        iterations=ITERATIONS,
        validation_iterations=VALIDATION,
        save_every=1,
        accumulate=1,
        # Front and back, up and down look too different to be worth a small network's while.
        mirror_axes=(2,),
        pretrained=start and str(start),
    )
    model = results / CHALLENGES[task].dataset_name
    begun = any(file.is_file() for name in (*CHECKPOINT_NAMES, "checkpoint_latest.pth") for file in model.rglob(name))
    fold = train(
        CHALLENGES[task].dataset_name,
        0,
        CHALLENGES[task].recipe.trainer if recipe.unlabelled else SUPERVISED,
        options,
        preprocessed,
        results,
        "cpu",
        resume=begun,
    )
    before = read_weights(start) if start and recipe.blend else {}  # it may lie where the new one goes
    final = copy_final(fold, work / "final" / task, before, recipe.blend)
    shutil.rmtree(out / task, ignore_errors=True)
    slim(final, out / task, half=True)


def copy_final(fold: Path, folder: Path, before: Mapping[str, Tensor], share: float) -> Path:
    """Copy a model with its last weights, mixed with a share of those that the training started from.

    The best weights by validation are often the first ones: a few patches an epoch cannot tell.
    """
    shutil.rmtree(folder, ignore_errors=True)
    unwanted = shutil.ignore_patterns("validation", "checkpoint_best.pth", "checkpoint_latest.pth")
    shutil.copytree(fold.parent, folder, ignore=unwanted)
    if before:
        file = folder / fold.name / "checkpoint_final.pth"
        checkpoint = torch.load(file, map_location="cpu", weights_only=False)
        weights = checkpoint["network_weights"]
        for key, value in weights.items():
            weights[key] = torch.lerp(value, before[key].to(value.dtype), share)
        torch.save(checkpoint, file)
    return folder


def split_off(folder: Path, recipe: Recipe) -> None:
    """One fold instead of five: all but a few cases for training."""
    file = folder / "splits_final.json"
    (first, *_) = json.loads(file.read_text())
    cases = sorted(first["train"] + first["val"])
    watched = [case for case in cases if not case.startswith("jaws")][-VALIDATION:]
    split = {"train": [case for case in cases if case not in watched], "val": watched}
    if recipe.unlabelled:
        split["unlabeled"] = first["unlabeled"]
    file.write_text(json.dumps([split], indent=1) + "\n")


def state_settings(folder: Path, task: str) -> None:
    """Have the model say how phantoms lie, what of a larger scan is segmented, and whether teeth are tidied up."""
    file, structures = folder / "dataset.json", CHALLENGES[task].structures
    field = field_for("on", None, "LPS", structures)
    stated = {
        "orientation": "LPS",
        "dental_field": field and field.sides,
        "fix_numbers": any(s.fdi for s in structures),
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **stated}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--epochs", type=int, help=f"of {ITERATIONS} steps (default: the recipe's)")
    parser.add_argument("--work", type=Path, default=Path("demo_training"), help="where everything else goes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the slim models go")
    parser.add_argument("--start", type=Path, help="folder of earlier demo models to go on from")
    parser.add_argument("--teeth", type=Path, nargs="*", default=(), help="label maps of real teeth by FDI number")
    parser.add_argument("--jaws", type=Path, nargs="*", default=(), help="label maps of real jaws, ids of ToothFairy3")
    parser.add_argument("--skulls", type=Path, nargs="*", default=(), help="meshes of real skulls and spines (.obj)")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    work = options.work.absolute()
    for task in options.tasks:
        epochs = options.epochs or RECIPES[task].epochs
        start = options.start and options.start.absolute() / task
        real = (tuple(paths) for paths in (options.teeth, options.jaws, options.skulls))
        make_model(task, work, options.out, *real, start, epochs, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
