"""Does the recipe learn, and better than stock nnU-Net? The same phantoms, seeds and steps through several trainings.

    python benchmarks/learning.py WORK [--steps 2500] [--seeds 0 1 2] [--only NAME ...] [--device auto]

Every training is a process of its own and leaves <name>-<seed>.json in `--results`, by default benchmarks/learning;
what is there is not done again. Prints a table of the Dice on phantoms that were not trained on, by group, with mean
and spread over the seeds, and writes it to WORK/learning.md, and the curves to WORK/learning.png.

Phantoms have exact labels and simple anatomy, and 2500 steps are a hundredth of a real training: what differs
here may not differ on patients, and the other way round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umamba2.anatomy.structures import ANATOMY, Structure
from umamba2.challenges import INTERACTIVE, MULTICLASS, STSR, Challenge, register
from umamba2.challenges.recipe import Architecture, Clicking
from umamba2.scans.clicks import simulate_clicks
from umamba2.scans.geometry import Geometry
from umamba2.scans.volumes import write_volume
from umamba2.synthetic.appearance import expose
from umamba2.synthetic.mouth import draw_mouth
from umamba2.synthetic.painting import Canvas, paint_field
from umamba2.synthetic.phantoms import paint_teeth
from umamba2.training.convert import convert
from umamba2.training.dataset import read_dataset
from umamba2.training.nnunet import CONFIGURATION, OPTIONS, PLANS, environment, make_torchvision_importable
from umamba2.training.options import Options
from umamba2.training.plan import plan
from umamba2.training.preprocess import preprocess

PATCH = (24, 32, 48)
LABELLED, UNLABELLED, HELD_OUT = 12, 20, 6
FEW = 3  # labelled cases of the semi-supervised comparison
EPOCH = 100  # steps
NETWORK = Architecture(features=(16, 32, 64, 128, 160), blocks=(1, 1, 1, 1, 1), smallest_edge=2)


# Of the 46 structures one in the middle, and the nerve canals and the teeth of each side: networks this small learn no
# single tooth in so few steps, and do not tell the canals of one side from each other. All else is background.
def _side(side: str, kind: str, members: list[Structure]) -> Structure:
    return replace(members[0], name=f"{side} {kind}", fdi=None, dataset=tuple(i for s in members for i in s.dataset))


_QUADRANTS = {"left": (2, 3), "right": (1, 4)}  # the first digit of a tooth's number
_KEPT = [
    *(s for s in ANATOMY if s.group == "pharynx"),
    *(
        _side(side, "canals", [s for s in ANATOMY if s.name.startswith(side) and "canal" in s.name])
        for side in _QUADRANTS
    ),
    *(_side(side, "teeth", [s for s in ANATOMY if s.fdi and s.fdi // 10 in of]) for side, of in _QUADRANTS.items()),
]
STRUCTURES = tuple(replace(s, training=i, platform=i, public=i) for i, s in enumerate(_KEPT, start=1))
MULTICLASS = replace(
    MULTICLASS,
    name="toothfairy3-multiclass-small",
    title=f"ToothFairy3 task 1, {len(STRUCTURES)} of its structures",
    dataset_name="Dataset391_Small",
    structures=STRUCTURES,
    released=ANATOMY,
    recipe=replace(MULTICLASS.recipe, class_weights=()),
)
# Clicks miss by 2 mm at most, not by 5 voxels of this coarse grid.
INTERACTIVE = replace(
    INTERACTIVE,
    name="toothfairy3-interactive-small",
    dataset_name="Dataset392_Small",
    recipe=replace(INTERACTIVE.recipe, clicks=Clicking(noise=1)),
)
# STSR's canals of teeth, which have eleven classes, are one. The squared differences are averaged over the classes, of
# which there are 3 in place of 13, so their weight is as much smaller. The published ramp ends after a fifth of 250,000
# steps; a fifth of so few is long before the network knows anything that unlabelled scans could hold it to.
_UNLABELLED = STSR.recipe.unlabelled
assert _UNLABELLED
_UNLABELLED = replace(_UNLABELLED, ramp=1.0, consistency_weight=_UNLABELLED.consistency_weight * 3 / 13)
STSR = replace(
    STSR,
    name="stsr-small",
    title="STSR, canals of teeth as one class",
    dataset_name="Dataset393_Small",
    structures=(STSR.structures[0], replace(STSR.structures[1], dataset=tuple(range(2, len(STSR.structures) + 1)))),
    released=STSR.structures,
    recipe=replace(STSR.recipe, unlabelled=_UNLABELLED),
)
# The grid of each: voxels, and their edges in mm.
GRIDS = {
    register(MULTICLASS): ((36, 48, 60), 2.0),
    register(INTERACTIVE): ((36, 48, 60), 2.0),
    register(STSR): ((48, 64, 78), 1.0),
}
RESENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


@dataclass(frozen=True)
class Run:
    """One training: of which challenge, by which trainer, in which configuration, and what is particular to it."""

    challenge: Challenge
    trainer: str
    configuration: str = CONFIGURATION
    pretrained: bool = False
    clicks: tuple[int, ...] = ()  # numbers of clicks for each canal to test it with


RUNS = {
    "task 1, nnU-Net, ResEnc": Run(MULTICLASS, "Stock", "3d_resenc"),
    "task 1, nnU-Net, U-Mamba2": Run(MULTICLASS, "Stock", "3d_stock"),
    "task 1, ours": Run(MULTICLASS, "UMamba2Trainer"),
    "task 1, ours, pretrained": Run(MULTICLASS, "UMamba2Trainer", pretrained=True),
    "task 2, nnU-Net, U-Mamba2": Run(INTERACTIVE, "Stock", "3d_stock"),
    "task 2, ours": Run(INTERACTIVE, "UMamba2Trainer", clicks=(0, 5)),
    "STSR, labelled only": Run(STSR, "UMamba2Trainer"),
    "STSR, ours": Run(STSR, "UMamba2SemiSupervisedTrainer"),
}


# --- data -------------------------------------------------------------------------------------------------------------


def make_phantom(
    seed: int, shape: tuple[int, ...], spacing: tuple[float, ...], canal_contrast: float, randomised: bool
) -> tuple[np.ndarray, ...]:
    """Image, ToothFairy3 labels and STSR labels of a mouth whose nerve canals are twice as wide, for coarse grids.

    Where few cases are labelled the grey values are randomised, for three plain phantoms show all that there is to see.
    """
    mouth = draw_mouth(seed, randomised)
    for canal in mouth.canals:
        canal.radii *= 2
    canvas = Canvas(mouth, shape, spacing)
    paint_field(canvas)
    paint_teeth(canvas, canal_contrast)
    image = expose(canvas.image, spacing, mouth.grey, np.random.default_rng([seed, 1]))
    return image, canvas.labels, canvas.stsr


def prepare(work: Path, challenge: Challenge) -> None:
    """Phantoms as the challenge's download, converted, planned and preprocessed, with one fold."""
    folder = work / "preprocessed" / challenge.dataset_name
    if (folder / "ready").exists():
        return
    stsr = challenge.recipe.unlabelled is not None
    download = work / "download" / challenge.name
    count = LABELLED + HELD_OUT + (UNLABELLED if stsr else 0)
    shape, edge = GRIDS[challenge]
    spacing = (edge,) * 3
    for seed in range(count):
        image, labels, stsr_labels = make_phantom(seed, shape, spacing, 0.5 if challenge.takes_clicks else 1.0, stsr)
        case = f"phantom_{seed:03d}"
        labelled = seed < LABELLED + HELD_OUT
        files = {f"labelled/{case}" if labelled else f"unlabelled/{case}": image}
        if stsr and labelled:
            files[f"labelled/{case}_Mask"] = stsr_labels
        elif not stsr:
            files = {f"imagesTr/{case}_0000": image, f"labelsTr/{case}": labels}
        for name, array in files.items():
            write_volume(download / f"{name}.nii.gz", array, Geometry.of_array(shape, spacing))
    dataset = read_dataset(convert(challenge, download, work / "raw"))
    cases = sorted(dataset.cases)
    train = cases[:FEW] if stsr else cases[:LABELLED]
    fold = {"train": train, "val": cases[LABELLED:], "unlabeled": sorted(dataset.unlabelled)}
    (dataset.folder / "splits_final.json").write_text(json.dumps([fold]))
    file = plan(dataset, work / "preprocessed", challenge, PATCH, spacing, NETWORK)
    preprocess(dataset, work / "preprocessed")
    plans = json.loads(file.read_text())
    ours = plans["configurations"][CONFIGURATION]
    kwargs = NETWORK.arch_kwargs(PATCH)
    for name, network in (("3d_resenc", RESENC), ("3d_stock", "umamba2.nets.UMamba2")):
        architecture = {**ours["architecture"], "network_class_name": network, "arch_kwargs": kwargs}
        # Both see two patches a step: stock nnU-Net at once, ours one after the other.
        plans["configurations"][name] = {**ours, "batch_size": 2, "architecture": architecture}
    file.write_text(json.dumps(plans))
    (folder / "ready").touch()


def epochs_of(steps: int) -> tuple[int, int]:
    """How many epochs, and the steps of one."""
    return max(1, steps // EPOCH), min(EPOCH, steps)


# --- one training -----------------------------------------------------------------------------------------------------


def make_trainer(work: Path, run: Run, trainer: str, device: torch.device, steps: int, fold: Any = 0) -> Any:
    """A trainer of the run, as nnU-Net makes it."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from umamba2.training.nnunet_plugin import umamba2_trainers

    class Stock(nnUNetTrainer):
        """nnU-Net's own trainer for as many steps; the two arguments that it inspects keep their names."""

        def __init__(
            self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device = device
        ):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs, self.num_iterations_per_epoch = epochs_of(steps)
            self.num_val_iterations_per_epoch = 10

    folder = work / "preprocessed" / run.challenge.dataset_name
    plans, dataset = (json.loads((folder / f"{name}.json").read_text()) for name in (PLANS, "dataset"))
    kind = Stock if trainer == "Stock" else getattr(umamba2_trainers, trainer)
    return kind({**plans, "continue_training": False}, run.configuration, fold, dataset, device)


def train(work: Path, name: str, seed: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Train, and test on the held-out cases; the curves and the Dice of every group."""
    run = RUNS[name]
    epochs, iterations = epochs_of(steps)
    options = {"epochs": epochs, "iterations": iterations, "save_every": 10**6, "seed": seed}
    base = work / "trained" / f"{name}-{seed}".replace(" ", "_")
    variables: dict[str, Any] = {
        "nnUNet_raw": work / "raw", "nnUNet_preprocessed": work / "preprocessed", "nnUNet_results": base,
        "nnUNet_n_proc_DA": 0, "nnUNet_compile": "false",
    }  # fmt: skip
    with environment(**variables):
        if run.pretrained:
            with environment(**{OPTIONS: Options(**options).to_json()}):
                before = make_trainer(work, run, "UMamba2Pretrainer", device, steps, "all")
                before.initialize()
                in_bfloat16(before.network)
                before.run_training()
            options["pretrained"] = str(Path(before.output_folder, "checkpoint_final.pth"))
        with environment(**{OPTIONS: Options(**options).to_json()}):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002 (nnU-Net's loaders draw from it)
            trainer = make_trainer(work, run, run.trainer, device, steps)
            trainer.initialize()
            in_bfloat16(trainer.network)
            trainer.run_training()
            scores = {clicks: test(trainer, run, clicks) for clicks in run.clicks or (None,)}
    curves = {
        key: [round(float(v), 4) for v in trainer.logger.get_value(key, step=None)]
        for key in ("train_losses", "mean_fg_dice")
    }
    tested = {name if clicks is None else f"{name}, {clicks} clicks": groups for clicks, groups in scores.items()}
    return {"dice": tested, **curves}


def in_bfloat16(network: torch.nn.Module) -> None:
    """Run a network in bfloat16 on a CPU too, as trainers run it in half precision on a GPU; losses stay in fp32."""
    for part in network.children():
        part.forward = torch.autocast("cpu", torch.bfloat16)(part.forward)  # type: ignore[method-assign]
    network.decoder.register_forward_hook(  # type: ignore[operator, union-attr]
        lambda _, __, out: [scale.float() for scale in out] if isinstance(out, (list, tuple)) else out.float()
    )


@torch.no_grad()
def test(trainer: Any, run: Run, clicks: int | None) -> dict[str, float]:
    """Mean Dice on the held-out cases by group of structures, without mirror images and without postprocessing."""
    trainer.set_deep_supervision_enabled(False)
    network = trainer.network.eval()
    _, cases = trainer.get_tr_and_val_datasets()
    values: dict[str, list[float]] = {}
    for number, case in enumerate(cases.identifiers):
        data, labels, *_ = cases.load_case(case)
        truth = np.asarray(labels[:])[0]
        found = predict(network, np.asarray(data[:]), truth, clicks, np.random.default_rng(number), trainer.device)
        for structure in run.challenge.structures:
            a, b = found == structure.training, truth == structure.training
            if b.any():
                values.setdefault(structure.group, []).append(2 * (a & b).sum() / (a.sum() + b.sum()))
    groups = {group: float(np.mean(dice)) for group, dice in values.items()}
    return {**groups, "all": float(np.mean([dice for group in values.values() for dice in group]))}


def predict(
    network: Any, data: np.ndarray, truth: np.ndarray, clicks: int | None, rng: Any, device: torch.device
) -> np.ndarray:
    """The labels of a whole case (1, z, y, x), from tiles that overlap by half; clicks go to the tiles they are in."""
    points = [
        (np.array(point), side)
        for side in (0, 1)
        for point in (simulate_clicks(truth == side + 1, rng)[:clicks] if clicks else [])
    ]
    size = np.array(PATCH)
    volume = np.pad(data, [(0, 0), *((0, max(0, n - s)) for n, s in zip(PATCH, data.shape[1:]))])
    total: Any = 0
    starts = [sorted({*range(0, s - n, n // 2), s - n}) for n, s in zip(PATCH, volume.shape[1:])]
    for corner in np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3):
        part = (slice(None), *(slice(c, c + n) for c, n in zip(corner, PATCH)))
        tile = torch.from_numpy(np.ascontiguousarray(volume[part]))[None].to(device)
        prompt: tuple[Any, ...] = ()
        if clicks is not None:
            inside = [(p - corner, side) for p, side in points if ((p >= corner) & (p < corner + size)).all()]
            coordinates = torch.tensor(np.array([p for p, _ in inside]).reshape(1, -1, 3), dtype=torch.float32)
            prompt = ((coordinates, torch.tensor([[side for _, side in inside]], dtype=torch.long)),)
        logits = network(tile, *prompt)[0].float().softmax(0).cpu().numpy()
        if isinstance(total, int):
            total = np.zeros((len(logits), *volume.shape[1:]), np.float32)
        total[part] += logits
    labels: np.ndarray = total.argmax(0)[tuple(slice(0, n) for n in truth.shape)]
    return labels


# --- all of them ------------------------------------------------------------------------------------------------------


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Dice by group, mean and standard deviation over the seeds."""
    lines = []
    for challenge in GRIDS:
        own = {name: found for name, found in results.items() if RUNS[name].challenge is challenge}
        if not own:
            continue
        groups = list(next(iter(next(iter(own.values()))[0]["dice"].values())))
        lines += ["", f"| {challenge.title} | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
        for found in own.values():
            for test in found[0]["dice"]:
                numbers = [np.array([result["dice"][test][group] for result in found]) for group in groups]
                cells = [f"{number.mean():.3f} ± {number.std():.3f}" for number in numbers]
                lines.append(f"| {test} ({len(found)}) | {' | '.join(cells)} |")
    return "\n".join(lines).strip() + "\n"


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The Dice of validation patches over the epochs, a line for each training, its range over the seeds shaded."""
    import matplotlib.pyplot as plt

    challenges = [c for c in GRIDS if any(RUNS[name].challenge is c for name in results)]
    figure, axes = plt.subplots(1, len(challenges), figsize=(5 * len(challenges), 4), squeeze=False)
    for axis, challenge in zip(axes[0], challenges):
        for name, found in results.items():
            if RUNS[name].challenge is challenge:
                curves = np.array([result["mean_fg_dice"] for result in found])
                steps = EPOCH * np.arange(1, curves.shape[1] + 1)
                (line,) = axis.plot(steps, curves.mean(0), label=name)
                axis.fill_between(steps, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.2)
        axis.set(title=challenge.name, xlabel="steps", ylabel="Dice of validation patches", ylim=(0, 1))
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(""), help="folder of the results")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work, steps = arguments.work.absolute(), int(np.prod(epochs_of(arguments.steps)))
    results = arguments.results.absolute()
    if arguments.one:
        from umamba2.engine.network import resolve_device

        make_torchvision_importable()
        (name,), (seed,) = arguments.only, arguments.seeds
        result = train(work, name, seed, steps, resolve_device(arguments.device))
        (results / f"{name}-{seed}.json").write_text(json.dumps({"steps": steps, **result}, indent=1) + "\n")
        return
    results.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    for challenge in GRIDS:
        if any(RUNS[name].challenge is challenge for name in arguments.only):
            prepare(work, challenge)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in arguments.seeds:
        for name in arguments.only:
            file = results / f"{name}-{seed}.json"
            if not file.is_file() or json.loads(file.read_text())["steps"] != steps:
                print(f"{name}, seed {seed}, {steps} steps", flush=True)
                run = [sys.executable, __file__, str(work), "--one", "--only", name, "--seeds", str(seed)]
                run += ["--results", str(results)]
                log = (work / f"{name}-{seed}.log").open("w")
                subprocess.run(
                    [*run, "--steps", str(steps), "--device", arguments.device], check=True, stdout=log, stderr=log
                )
            found.setdefault(name, []).append(json.loads(file.read_text()))
    text = table(found)
    (work / "learning.md").write_text(text)
    print(text)
    draw(found, work / "learning.png")


if __name__ == "__main__":
    main()
