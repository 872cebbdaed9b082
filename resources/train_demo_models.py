"""Train the three demo models on phantoms, on a CPU, and write them to `resources/<challenge>/`.

    python resources/train_demo_models.py --minutes 45 25 15

The networks are small U-Mamba2s on a coarse grid (1 mm). The multi-class one comes first; the other two start from
its weights. Nothing but phantoms goes in: see resources/README.md for what that does and does not give.

A network that can see the canals has no use for clicks and never learns what they mean. So the interactive one is
taught in two steps: first its click branch alone, on features computed once (`teach_clicks`), then all of it, both
times with many canals that are invisible, some of which do not lie where the anatomy has them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.checkpoints import build_network, load_model, slim
from umamba2.clicks import simulate_clicks
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
# Clicks are compared with the cells at the bottom: 16 mm would tell too little about a tube of 3 mm.
CLICK_ARCHITECTURE = {
    **ARCHITECTURE,
    "strides": [*ARCHITECTURE["strides"][:-1], [1, 1, 1]],
    "patch_size": list(PATCH),
}
CELL, PARTS = 8, 2  # voxels per bottom cell and axis; parts of it that the lesson on clicks tells apart
TRAINING_SEEDS = range(400)  # every other seed is free for tests
SMALL_CLASSES = {MULTICLASS: (3, 4, 43, 44, 45), INTERACTIVE: (1, 2), STSR: tuple(range(3, 13))}
PEAK_RATE, LESSON_RATE = 1.5e-3, 5e-3


def make_sample(seed: int) -> dict[str, np.ndarray]:
    """One phantom with a random field of view: normalised images (float16), with canals as they are and with invisible
    ones (``hidden``), and the labels of every task.
    """
    rng = np.random.default_rng(seed + 1_000_000)
    shape = tuple(int(rng.integers(low, high)) for low, high in ((37, 65), (64, 91), (67, 116)))
    sample = {}
    for name, contrast in (("hidden", 0.0), ("image", 1.0)):
        phantom = make_phantom(seed, shape, SPACING, contrast)
        image = np.clip(phantom.image.astype(np.float32), INTENSITY["percentile_00_5"], INTENSITY["percentile_99_5"])
        sample[name] = ((image - INTENSITY["mean"]) / INTENSITY["std"]).astype(np.float16)
    sample[STSR] = phantom.stsr_labels
    for task in (MULTICLASS, INTERACTIVE):
        sample[task] = training_table(task)[phantom.labels]
    return sample


def swap_table(task: str) -> np.ndarray:
    """Lookup table that exchanges left and right training ids."""
    table = np.arange(len(STRUCTURES[task]) + 1)
    for left, right in left_right_pairs(task):
        table[[left, right]] = right, left
    return table


def draw(
    sample: dict[str, np.ndarray], task: str, rng: np.random.Generator, contrast: float = 1.0
) -> tuple[Tensor, Tensor]:
    """A random patch: shifted, mirrored left to right with its labels, in another scanner's grey values.

    ``contrast`` of its canals is relative to the phantom's own, from 0, invisible, to 1.
    """
    hidden, labels = sample["hidden"].astype(np.float32), sample[task]
    image = hidden + np.float32(contrast) * (sample["image"].astype(np.float32) - hidden)
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


def draw_contrast(rng: np.random.Generator) -> float:
    """Half of the canals are invisible, the others as they come or paler."""
    luck = rng.random()
    return 0.0 if luck < 0.5 else 1.0 if luck < 0.8 else float(rng.uniform())


def draw_counts(rng: np.random.Generator) -> list[int]:
    """How many clicks each side gets: none with p = 0.15, else 1 to 5."""
    return [0 if rng.random() < 0.15 else int(rng.integers(1, 6)) for _ in range(2)]


def draw_clicks(
    truth: Tensor, counts: list[int], rng: np.random.Generator, displace: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Click on the canals of a patch as the challenge does; the truth and the clicks.

    ``displace`` first moves the canals that are clicked on by up to 6 mm along every axis, away from where the anatomy
    tells that they run: with invisible canals, only the clicks say where they went.
    """
    truth, points, labels = truth.clone(), [], []
    for side, count in enumerate(counts):
        mask = truth[0] == side + 1
        if count == 0 or mask.sum() <= 10:
            continue
        if displace:
            truth[0][mask] = 0
            mask = mask.roll([int(n) for n in rng.integers(-6, 7, 3)], (0, 1, 2))
            truth[0][mask] = side + 1
        # The platform keeps the first of five clicks; people click anywhere.
        clicks = simulate_clicks(mask.numpy(), rng, int(rng.integers(count, 6)), slice_noise=2, in_slice_noise=1)
        points += [np.array(click) + rng.uniform(-0.5, 0.5, 3) for click in clicks[:count]]
        labels += [side] * count
    coordinates = torch.from_numpy(np.array(points, np.float32).reshape(-1, 3))
    return truth, (coordinates[None], torch.tensor(labels, dtype=torch.long)[None])


def favour_near_clicks(layer: nn.Module) -> None:
    """Start the click branch as a search for the clicks near each cell, which it would otherwise take long to become.

    Positions outweigh what tokens hold; a query and a key of one place are alike, being the same projection of it; and
    the first self-attention leaves every click what it is. Positions vary half as fast as usual: cells are coarse.
    """
    encoder = layer.point_encoder
    encoder.pe_layer.positional_encoding_gaussian_matrix *= 0.5
    layer.mamba.out_proj.weight.mul_(0.1)
    for embedding in (*encoder.point_embeddings, encoder.not_a_point_embed):
        embedding.weight.mul_(0.3)
    for block in layer.cross_attention:
        nn.init.constant_(block.norm3.weight, 0.1)
        if block.first:
            nn.init.constant_(block.norm4.weight, 0.1)
        look, own = block.cross_attn_image_to_token, block.self_attn
        nn.init.normal_(look.q_proj.weight, std=2.5 / look.q_proj.in_features**0.5)
        look.k_proj.weight.copy_(look.q_proj.weight)
        for projection in (own.q_proj, own.k_proj, own.v_proj, own.out_proj):
            nn.init.eye_(projection.weight)
        for projection in (look.q_proj, look.k_proj, own.q_proj, own.k_proj, own.v_proj, own.out_proj):
            nn.init.zeros_(projection.bias)


def cells_of(truth: Tensor) -> Tensor:
    """What the lesson asks for: how much canal of each side is in the parts of each bottom cell, (cells, 2 x parts)."""
    sides = torch.stack([truth[0] == 1, truth[0] == 2]).float()
    part = CELL // PARTS
    full = (F.avg_pool3d(sides, part) * part**3 / 8).clamp(max=1)  # a tube through a part leaves about 8 voxels
    z, y, x = (n // CELL for n in truth.shape[1:])
    split = full.reshape(2, z, PARTS, y, PARTS, x, PARTS)
    return split.permute(1, 3, 5, 0, 2, 4, 6).reshape(z * y * x, -1)


def lesson_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice of each side; logits and shares (batch, cells, 2 x parts)."""
    cross_entropy = F.binary_cross_entropy_with_logits(found, wanted, pos_weight=torch.tensor(3.0))
    one, two = (v.unflatten(-1, (2, -1)).transpose(1, 2).flatten(2) for v in (found.sigmoid(), wanted))
    dice = 2 * (one * two).sum(-1) / (one.sum(-1) + two.sum(-1)).clamp(min=1e-6)
    return 10 * cross_entropy + 1 - dice.mean()


def teach_clicks(
    net: nn.Module, samples: list[dict[str, np.ndarray]], minutes: float, rng: np.random.Generator
) -> nn.Module:
    """Teach the click branch alone to say which bottom cells the canals run through; the head that reads the answer.

    Everything before it is computed once for each phantom, so a step costs a small part of one of the whole network.
    """
    layer = net.mamba_layer
    with torch.no_grad():
        favour_near_clicks(layer)
    features, truths = [], []
    for number, sample in enumerate(samples):
        x, truth = draw(sample, INTERACTIVE, rng, contrast=float(number % 4 == 3))
        if min((truth == 1).sum(), (truth == 2).sum()) <= 10:
            continue
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            deepest = net.encoder(x.to(memory_format=torch.channels_last_3d))[-1]
        with torch.no_grad():
            features.append(layer.mamba(layer.norm(deepest.float().flatten(2).transpose(1, 2)))[0])
        truths.append(truth.byte())
    width, answers = features[0].shape[-1], 2 * PARTS**3
    head = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, answers))
    nn.init.constant_(head[2].bias, -3.0)  # most cells have no canal
    parameters = [*layer.point_encoder.parameters(), *layer.cross_attention.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LESSON_RATE, weight_decay=0.01)
    positions = layer.point_encoder.pe_layer.grid([n // CELL for n in PATCH])
    began, step, average = time.monotonic(), 0, math.nan
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
        set_rate(optimiser, LESSON_RATE, step, done)
        counts, displace = draw_counts(rng), rng.random() < 0.7
        chosen = rng.integers(len(features), size=8)
        drawn = [draw_clicks(truths[i], counts, rng, displace) for i in chosen]
        points = layer.point_encoder(*(torch.cat(part) for part in zip(*(clicks for _, clicks in drawn), strict=True)))
        prompt, image = points, torch.stack([features[i] for i in chosen])
        for block in layer.cross_attention:
            prompt, image = block(prompt, image, points, positions)
        found, wanted = head(image), torch.stack([cells_of(truth) for truth, _ in drawn])
        loss = lesson_loss(found, wanted)
        update(loss, optimiser, parameters)
        step += 1
        average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"clicks  step {step}  {done:4.0%}  loss {average:.3f}", flush=True)
    return head


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


def set_rate(optimiser: torch.optim.Optimizer, peak: float, step: int, done: float) -> None:
    """The learning rate: a short rise, then half a cosine that follows the clock."""
    for group in optimiser.param_groups:
        group["lr"] = peak * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))


def update(loss: Tensor, optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 5.0)
    optimiser.step()


def train(
    task: str,
    samples: list[dict[str, np.ndarray]],
    minutes: float,
    lesson: float,
    start: dict | None,
    folder: Path,
) -> dict:
    """Train one model for some minutes and save it; returns its weights.

    The interactive model's click branch is taught alone for ``lesson`` minutes before.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    classes = len(STRUCTURES[task]) + 1
    name = "umamba2.nets.UMamba2Click" if task == INTERACTIVE else "umamba2.nets.UMamba2"
    arguments = dict(CLICK_ARCHITECTURE if task == INTERACTIVE else ARCHITECTURE)
    net = build_network(name, arguments, 1, classes, deep_supervision=True)
    net.apply(net.initialize)
    if start is not None:
        transfer(net, start, task)
    net = net.to(memory_format=torch.channels_last_3d).train()
    head = teach_clicks(net, samples, lesson, rng) if task == INTERACTIVE else None
    # Clicks vary in number; keeping this small layer out of the compiled graph avoids recompiling for each count.
    net.mamba_layer.forward = torch.compiler.disable(net.mamba_layer.forward)
    weights = torch.ones(classes)
    weights[list(SMALL_CLASSES[task])] = 3.0
    parameters = [*net.parameters(), *(head.parameters() if head else ())]
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=0.01)

    @torch.compile
    def objective(x: Tensor, truth: Tensor, clicks: tuple[Tensor, Tensor] | None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            features = net.encoder(x)
            features[-1] = net.mamba_layer(features[-1], clicks)
            outputs = net.decoder(features)
        # The bottom must go on knowing what clicks say, or the rest of the network never comes to read it.
        known = lesson_loss(head(features[-1].float().flatten(2).mT), cells_of(truth)[None]) if head else 0.0
        return (
            known
            + loss_of(outputs[0], truth, weights)
            + 0.5 * loss_of(outputs[1], truth[:, ::2, ::2, ::2], weights)
            + 0.25 * loss_of(outputs[2], truth[:, ::4, ::4, ::4], weights)
        )

    began = saved = time.monotonic()
    step, average = 0, math.nan
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
        set_rate(optimiser, PEAK_RATE, step, done)
        contrast = draw_contrast(rng) if task == INTERACTIVE else 1.0
        x, truth = draw(samples[rng.integers(len(samples))], task, rng, contrast)
        clicks = None
        if task == INTERACTIVE:
            displace = contrast == 0 and rng.random() < 0.4
            truth, clicks = draw_clicks(truth, draw_counts(rng), rng, displace)
        loss = objective(x.to(memory_format=torch.channels_last_3d), truth, clicks)
        update(loss, optimiser, parameters)
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
        if key in own and own[key].shape == value.shape:
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
    parser.add_argument("--lesson", type=float, default=8, help="minutes of it before, for the click branch alone")
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
        if minutes == 0:
            continue
        trained = train(task, samples, minutes, options.lesson, weights, folder)
        weights = trained if task == MULTICLASS else weights
        slim(folder, options.out / task, half=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
