"""Train the three demo models on phantoms, on a CPU, and write them to `resources/<challenge>/`.

    python resources/train_demo_models.py --minutes 45 25 15

The networks are small U-Mamba2s on a coarse grid (1 mm). The multi-class one comes first; the other two start from
its weights. Nothing but phantoms goes in: see resources/README.md for what that does and does not give.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.checkpoints import build_network, load_model, slim
from umamba2.labels import INTERACTIVE, MULTICLASS, STRUCTURES, STSR, TASKS, left_right_pairs, training_table
from umamba2.phantoms import make_phantom

PATCH = (48, 80, 112)
SPACING = (1.0, 1.0, 1.0)
# Intensity statistics of the ToothFairy3 training set (they normalise phantoms as well as real scans).
INTENSITY = {"mean": 809.5, "std": 1014.369, "percentile_00_5": -997.0, "percentile_99_5": 3558.0}
ARCHITECTURE = {
    "n_stages": 5,
    "features_per_stage": [16, 32, 64, 96, 120],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 5,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 4,
    "n_blocks_per_stage": [1, 1, 2, 2, 1],
    "n_conv_per_stage_decoder": [1, 1, 1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
TRAINING_SEEDS = range(400)  # every other seed is free for tests
SMALL_CLASSES = {MULTICLASS: (3, 4, 43, 44, 45), INTERACTIVE: (1, 2), STSR: tuple(range(3, 13))}
PEAK_RATE = 1.5e-3


def make_sample(seed: int) -> dict[str, np.ndarray]:
    """One phantom with a random field of view: normalised image (float16) and the labels of every task."""
    rng = np.random.default_rng(seed + 1_000_000)
    shape = tuple(int(rng.integers(low, high)) for low, high in ((37, 65), (64, 91), (67, 116)))
    phantom = make_phantom(seed, shape, SPACING)
    image = np.clip(phantom.image.astype(np.float32), INTENSITY["percentile_00_5"], INTENSITY["percentile_99_5"])
    sample = {"image": ((image - INTENSITY["mean"]) / INTENSITY["std"]).astype(np.float16), STSR: phantom.stsr_labels}
    for task in (MULTICLASS, INTERACTIVE):
        sample[task] = training_table(task)[phantom.labels]
    return sample


def swap_table(task: str) -> np.ndarray:
    """Lookup table that exchanges left and right training ids."""
    table = np.arange(len(STRUCTURES[task]) + 1)
    for left, right in left_right_pairs(task):
        table[[left, right]] = right, left
    return table


def draw(samples: list[dict[str, np.ndarray]], task: str, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random patch: shifted, mirrored left to right with its labels, in another scanner's grey values."""
    sample = samples[rng.integers(len(samples))]
    image, labels = sample["image"].astype(np.float32), sample[task]
    source, target = [], []
    for have, want in zip(image.shape, PATCH, strict=True):
        gap = want - have  # positive: pad, as the tiler does; negative: crop
        at = int(rng.integers(0, abs(gap) + 1))
        source.append(slice(at, at + want) if gap < 0 else slice(None))
        target.append(slice(None) if gap < 0 else slice(at, at + have))
    patch, truth = np.zeros(PATCH, np.float32), np.zeros(PATCH, np.int64)
    patch[tuple(target)], truth[tuple(target)] = image[tuple(source)], labels[tuple(source)]
    if rng.random() < 0.5:
        patch, truth = patch[:, :, ::-1].copy(), swap_table(task)[truth[:, :, ::-1]]
    x = torch.from_numpy(patch)[None, None]
    if rng.random() < 0.3:  # a blurrier scanner
        x = torch.lerp(x, F.avg_pool3d(F.pad(x, [1] * 6, mode="replicate"), 3, 1), float(rng.uniform(0.2, 0.9)))
    x = x * float(rng.uniform(0.8, 1.2)) + float(rng.uniform(-0.15, 0.15))
    noise = torch.from_numpy(rng.standard_normal(PATCH, dtype=np.float32)) * float(rng.uniform(0, 0.15))
    return x + noise, torch.from_numpy(truth)[None]


def draw_clicks(truth: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Clicks of a patch: none for a side with p = 0.15, else 1 to 5 along the canal's height, a voxel off at times."""
    points, labels = [], []
    for side in (0, 1):
        where = np.argwhere(truth[0].numpy() == side + 1)
        if len(where) <= 10 or rng.random() < 0.15:
            continue
        bands = np.array_split(where, int(rng.integers(1, 6)))  # argwhere sorts by z
        for band in bands:
            points.append(band[rng.integers(len(band))] + rng.integers(-1, 2, 3))
            labels.append(side)
    coordinates = np.array(points, np.float32).reshape(-1, 3)
    return torch.from_numpy(coordinates)[None], torch.tensor(labels, dtype=torch.long)[None]


def loss_of(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice over the classes that the patch shows; background is left out of the Dice."""
    logits = logits.float()
    cross_entropy = F.cross_entropy(logits, truth, weights)
    probability = logits.softmax(1).flatten(2)[0]
    one_hot = F.one_hot(truth.flatten(), logits.shape[1]).T.to(probability.dtype)
    overlap, size = (probability * one_hot).sum(1), one_hot.sum(1)
    dice = (2 * overlap / (probability.sum(1) + size).clamp(min=1e-6))[1:]
    present = (size[1:] > 0).float()
    return cross_entropy + 1 - (dice * present).sum() / present.sum().clamp(min=1)


def train(task: str, samples: list[dict[str, np.ndarray]], minutes: float, start: dict | None, folder: Path) -> dict:
    """Train one model for some minutes (the learning rate follows the clock) and save it; returns its weights."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    classes = len(STRUCTURES[task]) + 1
    name = "umamba2.nets.UMamba2Click" if task == INTERACTIVE else "umamba2.nets.UMamba2"
    arguments = dict(ARCHITECTURE, patch_size=list(PATCH)) if task == INTERACTIVE else dict(ARCHITECTURE)
    net = build_network(name, arguments, 1, classes, deep_supervision=True)
    net.apply(net.initialize)
    if start is not None:
        transfer(net, start, task)
    net = net.to(memory_format=torch.channels_last_3d).train()
    # Clicks vary in number; keeping this small layer out of the compiled graph avoids recompiling for each count.
    net.mamba_layer.forward = torch.compiler.disable(net.mamba_layer.forward)
    weights = torch.ones(classes)
    weights[list(SMALL_CLASSES[task])] = 3.0
    optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=0.01)

    @torch.compile
    def objective(x: Tensor, truth: Tensor, clicks: tuple[Tensor, Tensor] | None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(x, clicks)
        return (
            loss_of(outputs[0], truth, weights)
            + 0.5 * loss_of(outputs[1], truth[:, ::2, ::2, ::2], weights)
            + 0.25 * loss_of(outputs[2], truth[:, ::4, ::4, ::4], weights)
        )

    began = saved = time.monotonic()
    step, average = 0, math.nan
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
        rate = PEAK_RATE * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x, truth = draw(samples, task, rng)
        clicks = draw_clicks(truth, rng) if task == INTERACTIVE else None
        loss = objective(x.to(memory_format=torch.channels_last_3d), truth, clicks)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        step += 1
        average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
        if step % 25 == 0:
            print(f"{task}  step {step}  {done:4.0%}  loss {average:.3f}", flush=True)
        if time.monotonic() - saved > 240:
            save(net, task, name, arguments, folder)
            saved = time.monotonic()
    save(net, task, name, arguments, folder)
    return net.state_dict()


def transfer(net: nn.Module, start: dict[str, Tensor], task: str) -> None:
    """Copy what fits from the multi-class model; the interactive heads take the rows of the two canals."""
    own = net.state_dict()
    for key, value in start.items():
        if ".seg_layers." in key and task == INTERACTIVE:
            value = value[[0, 3, 4]]
        if own[key].shape == value.shape:
            own[key] = value
    net.load_state_dict(own)


def save(net: nn.Module, task: str, network_class: str, arguments: dict, folder: Path) -> None:
    """Write an nnU-Net model folder (plans and dataset description inside the checkpoint)."""
    plans = {
        "dataset_name": f"phantoms_{task}",
        "plans_name": "umamba2_demo",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": INTENSITY},
        "configurations": {
            "3d_demo": {
                "patch_size": list(PATCH),
                "spacing": list(SPACING),
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_torch_fornnunet",
                "resampling_fn_data_kwargs": {"is_seg": False, "force_separate_z": False},
                "resampling_fn_probabilities": "resample_torch_fornnunet",
                "resampling_fn_probabilities_kwargs": {"is_seg": False, "force_separate_z": False},
                "batch_dice": False,
                "architecture": {
                    "network_class_name": network_class,
                    "arch_kwargs": arguments,
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{s.name: s.training for s in STRUCTURES[task]}},
        "file_ending": ".mha",
        "challenge": task,
    }
    checkpoint = {
        "network_weights": {k: v.contiguous() for k, v in net.state_dict().items()},
        "init_args": {"plans": plans, "configuration": "3d_demo", "fold": "all", "dataset_json": dataset},
        "trainer_name": "DemoTrainer",
        # Left and right may be mirrored (with their labels); front and back were never seen swapped.
        "inference_allowed_mirroring_axes": (2,),
    }
    (folder / "fold_all").mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / "fold_all" / "checkpoint_final.pth")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, nargs=3, default=(45, 25, 15), help="per task, in the order of " + ", ".join(TASKS)
    )
    parser.add_argument("--work", type=Path, default=Path("demo_training"), help="where the full checkpoints go")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the slim models go")
    parser.add_argument("--start", type=Path, help="multi-class model folder to go on from")
    parser.add_argument("--phantoms", type=int, default=len(TRAINING_SEEDS), help="how many to train on")
    options = parser.parse_args()
    began = time.monotonic()
    with ProcessPoolExecutor() as pool:
        samples = list(pool.map(make_sample, TRAINING_SEEDS[: options.phantoms], chunksize=4))
    print(f"{len(samples)} phantoms in {time.monotonic() - began:.0f} s", flush=True)
    weights = next(iter(load_model(options.start).folds.values())) if options.start else None
    for task, minutes in zip(TASKS, options.minutes, strict=True):
        folder = options.work / task
        trained = train(task, samples, minutes, weights, folder)
        weights = trained if task == MULTICLASS else weights
        slim(folder, options.out / task, half=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
