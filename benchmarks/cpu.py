"""How fast is a tile on a CPU, how much memory does a whole case take, and are the labels those of nnU-Net's predictor?

    python benchmarks/cpu.py speed [--patch 160 288 288] [--tiles 2] [--repeats 3]
    python benchmarks/cpu.py shares [--patch 64 96 128 | --model resources/toothfairy3-multiclass]
    python benchmarks/cpu.py memory
    python benchmarks/cpu.py agreement [--phantoms 4]

nnU-Net's predictor gets the same weights in its own residual U-Net (with instance norm and average pooling, fp32)
around our Mamba-2 layer. Prints Markdown tables.

Speed and memory: random weights in the published architecture, random volumes. Every measurement is a process of its
own and the contestants take turns, so that a busy machine slows all of them. The time is that of the prediction with
preprocessing and without loading, divided by the number of tiles. Times of a busy machine mean little by themselves:
read the ratios.

Shares: processor seconds of one pass, all threads together, with every idea of `engine/cpu` left out in turn; the ideas
take turns in one process, so that a busy machine slows all of them.

Memory: the peak of a process that predicts one whole case; what it had before that (weights, libraries, the scan), and
after its first tile (the prepared scan, one tile's activations and scores); what is beyond that is the engine's.

Agreement: the demo models that take no clicks, on phantoms that no training has seen, at step 0.5 and without mirrors;
the lowest of all phantoms. nnU-Net's predictor gets the scan as we preprocess it, because stock nnU-Net cannot
harmonise intensities, and its scores come back to the scan's grid by nnU-Net's resampling.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from umamba2 import Predictor
from umamba2.challenges import MULTICLASS, STSR
from umamba2.engine.cpu import activations, layers, planes, winograd
from umamba2.engine.network import ready_network
from umamba2.engine.preprocess import prepare
from umamba2.models.folder import load_model
from umamba2.models.network import build_network
from umamba2.synthetic.phantoms import make_phantom

RESOURCES = Path(__file__).resolve().parents[1] / "resources"
FEATURES = (32, 64, 128, 256, 320, 320, 320)
MEAN, STD, LOWEST, HIGHEST = 809.5, 1014.369, -997.0, 3558.0
SPACING = (0.3, 0.3, 0.3)
CASES = (  # what, shape, spacing, classes, step
    ("298x512x512, step 0.95", (298, 512, 512), SPACING, 47, 0.95),
    ("298x512x512, step 0.5", (298, 512, 512), SPACING, 47, 0.5),
    ("400x640x640, 0.3x0.25x0.25 mm, step 0.8", (400, 640, 640), (0.3, 0.25, 0.25), 13, 0.8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("speed", "shares", "memory", "agreement"))
    parser.add_argument("--patch", type=int, nargs=3, default=(160, 288, 288))
    parser.add_argument("--model", type=Path, help="of the shares part, in place of random weights")
    parser.add_argument("--classes", type=int, default=47, help="of the speed part")
    parser.add_argument("--features", type=int, nargs=7, help="channels per stage, finest first")
    parser.add_argument("--tiles", type=int, default=2, help="per measurement of the speed part")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the volumes but in the speed part, per axis")
    parser.add_argument("--phantoms", type=int, default=4, help="of the agreement part")
    parser.add_argument("--seed", type=int, default=10_000, help="of the first phantom")
    parser.add_argument("--randomised", action="store_true", help="phantoms beyond the anatomy of patients")
    arguments = parser.parse_args()
    if arguments.part == "agreement":
        return agreement(arguments)
    with tempfile.TemporaryDirectory() as folder:
        {"speed": speed, "shares": shares, "memory": memory}[arguments.part](arguments, Path(folder))


def speed(arguments: argparse.Namespace, folder: Path) -> None:
    write_model(folder, arguments.features or FEATURES, arguments.patch, arguments.classes)
    shape = [*arguments.patch[:2], arguments.tiles * arguments.patch[2]]
    np.save(folder / "volume.npy", volume(shape))
    contestants = ("nnunet", "fp32", "bf16")
    found: dict[str, list[dict]] = {who: [] for who in contestants}
    for _ in range(arguments.repeats):
        for who in contestants:
            found[who].append(apart("one_speed", folder, who))
            print(who, found[who][-1], file=sys.stderr)
    labels = {who: np.load(folder / f"{who}.npy") for who in contestants}
    print("\n| | seconds per tile | times faster | same labels | peak memory |\n|---|---|---|---|---|")
    for who in contestants:
        seconds = statistics.median(run["seconds"] for run in found[who]) / arguments.tiles
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(found["nnunet"], found[who], strict=True)]
        same = 100 * (labels[who] == labels["nnunet"]).mean()
        peak = max(run["peak_gb"] for run in found[who])
        name = "nnU-Net's predictor, fp32" if who == "nnunet" else f"umamba2, {who}"
        print(f"| {name} | {seconds:.2f} | {statistics.median(ratios):.1f} | {same:.2f} % | {peak:.1f} GB |")


def one_speed(folder: Path, who: str) -> dict:
    scan = np.load(folder / "volume.npy")
    run = nnunet(folder) if who == "nnunet" else ours(folder, who, step=1.0)
    start = time.perf_counter()
    labels = run(scan)
    seconds = time.perf_counter() - start
    np.save(folder / f"{who}.npy", labels)
    return {"seconds": seconds, "peak_gb": peak()}


def shares(arguments: argparse.Namespace, folder: Path) -> None:
    """A table of the processor seconds of a pass, and of what they become without each idea."""
    if not arguments.model:
        write_model(folder, arguments.features or FEATURES, arguments.patch, arguments.classes)
    model, cpu = load_model(arguments.model or folder), torch.device("cpu")
    print("| | fp32 | bf16 |\n|---|---|---|")
    found: dict[str, list[str]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        plain = model.network().eval().requires_grad_(False)
        fold = next(iter(model.folds))
        model.load_weights(plain, fold, dtype)
        variants = {"everything": (ready_network(model, fold, cpu, dtype), {})}
        for name, module, setting, value in (
            ("without Winograd's transform", winograd, "FEWEST_CHANNELS", 2**30),
            ("with concatenation in the decoder", layers, "COMPOSED_LEVELS", 0),
        ):
            with patch.object(module, setting, value):
                variants[name] = ready_network(model, fold, cpu, dtype), {}
        net = variants["everything"][0]
        variants["whole volumes instead of a few planes"] = net, {"target": planes, "PORTION_BYTES": 2**60}
        variants["memory from the system"] = net, {"target": activations, "SMALLEST": 2**60}
        variants["torch's own layers"] = plain.to(memory_format=torch.channels_last_3d), {}
        tile = torch.randn(1, 1, *model.plan.patch_size).to(dtype, memory_format=torch.channels_last_3d)
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(arguments.repeats + 1):  # the first time is for the caches of the libraries
            for name, (network, change) in variants.items():
                with patch.multiple(**change) if change else nullcontext(), torch.inference_mode():
                    began = time.process_time()
                    network(tile)
                    seconds[name].append(time.process_time() - began)
        whole = statistics.median(seconds["everything"][1:])
        for name, times in seconds.items():
            median = statistics.median(times[1:])
            found.setdefault(name, []).append(f"{median:.2f} s ({median / whole:.2f})")
    for name, columns in found.items():
        print(f"| {name} | {' | '.join(columns)} |")


def memory(arguments: argparse.Namespace, folder: Path) -> None:
    print("| case | process | before the prediction | with one tile | beyond that | seconds |\n" + "|---" * 6 + "|")
    for what, shape, spacing, classes, step in CASES:
        write_model(folder, arguments.features or FEATURES, arguments.patch, classes)
        scaled = [max(1, round(n * arguments.scale)) for n in shape]
        settings = {"shape": scaled, "spacing": spacing, "step": step}
        run = apart("one_memory", folder, json.dumps(settings))
        sizes = (run["peak"], run["before"], run["tile"], run["peak"] - run["tile"])
        print(f"| {what}, {classes} classes | {' | '.join(f'{n:.2f} GB' for n in sizes)} | {run['seconds']:.0f} |")


def one_memory(folder: Path, settings: str) -> dict:
    case = json.loads(settings)
    predictor = predictor_of(folder, "auto", case["step"])
    scan = volume(case["shape"])
    after_tiles, network = [], predictor.runner.logits

    def watched(*what):
        logits = network(*what)
        after_tiles.append(peak())
        return logits

    predictor.runner.logits = watched
    before, start = peak(), time.perf_counter()
    predictor.predict(scan, case["spacing"])
    return {"before": before, "tile": after_tiles[0], "peak": peak(), "seconds": time.perf_counter() - start}


def agreement(arguments: argparse.Namespace) -> None:
    shape = [max(1, round(n * arguments.scale)) for n in (170, 272, 345)]
    spacing = tuple(s / arguments.scale for s in SPACING)
    rows = ["| model | phantoms | same labels, fp32 | bf16 | of nnU-Net's structures, fp32 | bf16 |", "|---" * 6 + "|"]
    for name in (MULTICLASS.name, STSR.name):
        expected_of = nnunet(RESOURCES / name, step=0.5, spacing=spacing)
        contestants = [ours(RESOURCES / name, precision, 0.5, spacing) for precision in ("fp32", "bf16")]
        shares = []
        for seed in range(arguments.seed, arguments.seed + arguments.phantoms):
            scan = make_phantom(seed, shape, spacing, randomised=arguments.randomised).image.astype(np.float32)
            expected = expected_of(scan)
            same = [run(scan) == expected for run in contestants]
            shares.append([100 * part.mean() for part in (*same, *(s[expected > 0] for s in same))])
            print(name, seed, *(f"{share:.3f}" for share in shares[-1]), file=sys.stderr)
        worst = " | ".join(f"{share:.3f} %" for share in np.min(shares, axis=0))
        rows.append(f"| {name} | {len(shares)} | {worst} |")
    print("\n".join(["", *rows]))  # apart from what nnU-Net says


def apart(function: str, *arguments: object) -> dict:
    """Run a function of this file in a process of its own: its name, its arguments as text -> its result."""
    command = [sys.executable, __file__, "--call", function, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def predictor_of(folder: Path, precision: str, step: float) -> Predictor:
    return Predictor.load(folder, device="cpu", precision=precision, tile_step=step, mirror_axes=())


def ours(folder: Path, precision: str, step: float, spacing=SPACING):
    predictor = predictor_of(folder, precision, step)
    return lambda scan: predictor.predict(scan, spacing)


def nnunet(folder: Path, device: str = "cpu", step: float = 1.0, mirror_axes: tuple[int, ...] = (), spacing=SPACING):
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    model = load_model(folder)
    plan, architecture = model.plan, model.plan.arch_kwargs

    class Network(ResidualEncoderUNet):
        def forward(self, x):
            skips = self.encoder(x)
            skips[-1] = self.mamba_layer(skips[-1])
            return self.decoder(skips)

    operators = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    net = Network(input_channels=1, num_classes=model.num_classes, deep_supervision=False, **architecture | operators)
    net.mamba_layer = model.network().mamba_layer
    found = net.load_state_dict(next(iter(model.folds.values())), strict=False)
    assert not found.unexpected_keys, found.unexpected_keys
    predictor = nnUNetPredictor(
        tile_step_size=step,
        use_gaussian=step < 1,  # alone, its tiles would lose their corners to fp16
        use_mirroring=bool(mirror_axes),
        perform_everything_on_device=device != "cpu",
        device=torch.device(device),
        allow_tqdm=False,
    )
    manager = PlansManager(model.source["plans"] | {"label_manager": "LabelManager"})
    settings = manager.get_configuration(model.source["configuration"])
    predictor.manual_initialization(net, manager, settings, None, model.dataset, "nnUNetTrainer", mirror_axes or None)

    @torch.inference_mode()
    def run(scan: np.ndarray) -> np.ndarray:
        prepared = prepare(scan, spacing, plan)
        logits = predictor.predict_sliding_window_return_logits(prepared.tensor)
        target = [spacing[axis] for axis in plan.transpose]
        logits = settings.resampling_fn_probabilities(logits, prepared.box_shape, plan.spacing, target)
        return prepared.on_scan(logits.argmax(0).to(torch.uint8).cpu().numpy())

    return run


def write_model(
    folder: Path, features, patch, classes: int, mirror_axes: tuple[int, ...] = (), network: str = "UMamba2"
) -> None:
    """A model folder in nnU-Net's layout with random weights in the published architecture."""
    architecture = {
        "n_stages": 7,
        "features_per_stage": list(features),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 7,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5 + [[1, 1, 1]],
        "n_blocks_per_stage": [1, 3, 4, 6, 6, 6, 6],
        "n_conv_per_stage_decoder": [1] * 6,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    if network != "UMamba2":
        architecture["patch_size"] = list(patch)  # which clicks refer to
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "patch_size": list(patch),
        "spacing": list(SPACING),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": {
            "network_class_name": f"umamba2.nets.{network}",
            "arch_kwargs": architecture,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    for what in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{what}"] = "resample_torch_fornnunet"
        configuration[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", "force_separate_z": False}
    statistics_ = {"mean": MEAN, "std": STD, "percentile_00_5": LOWEST, "percentile_99_5": HIGHEST}
    plans = {
        "dataset_name": "Dataset001_Benchmark",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": statistics_},
        "configurations": {"3d_fullres": configuration},
    }
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{f"class {i}": i for i in range(1, classes)}},
        "file_ending": ".nii.gz",
        "numTraining": 1,
    }
    torch.manual_seed(0)
    net = build_network(network, architecture, 1, classes).apply(randomise)
    checkpoint = {
        "network_weights": net.state_dict(),
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirror_axes or None,
    }
    (folder / "fold_0").mkdir(exist_ok=True)
    torch.save(checkpoint, folder / "fold_0/checkpoint_best.pth")


def randomise(module: nn.Module) -> None:
    """Norms as trained ones may look: with fresh ones the blocks add hardly anything to what they skip."""
    if isinstance(module, nn.GroupNorm):
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.normal_(module.bias, std=0.2)


def volume(shape) -> np.ndarray:
    """Blobs and noise in the intensities of a scan."""
    generator = np.random.default_rng(0)
    coarse = torch.from_numpy(generator.normal(size=[1, 1, *(max(2, n // 12) for n in shape)]).astype(np.float32))
    smooth = nn.functional.interpolate(coarse, tuple(shape), mode="trilinear")[0, 0].numpy()
    noise = generator.standard_normal(tuple(shape), dtype=np.float32)
    return (MEAN + 900 * smooth + 100 * noise).astype(np.float32)


def normalise(scan: np.ndarray) -> np.ndarray:
    return ((np.clip(scan, LOWEST, HIGHEST) - MEAN) / STD).astype(np.float32)


def peak() -> float:
    """The largest resident size of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    if sys.argv[1:2] == ["--call"]:
        print(json.dumps(globals()[sys.argv[2]](Path(sys.argv[3]), *sys.argv[4:])))
    else:
        main()
