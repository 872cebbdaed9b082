"""How fast is a case on a GPU, compared with the published loop and with nnU-Net's predictor?

    python benchmarks/gpu.py [--device cuda] [--repeats 3]
    python benchmarks/gpu.py --device cpu --small     # does this script work?

Self-contained: random weights in the published architecture, a synthetic case, no downloads. All contestants have the
same weights and settings: tiles 0.95 of a patch apart, averaged over mirror images along y and x. Measured are a whole
case, one forward pass against the device's rate of fp16 matrix products, device memory, and how far precisions and
backends agree. Prints the rows of a table; on a GPU they are also appended to RESULTS.md, with date and machine.

The rows "forward pass, ..." are for choices that only a GPU can make. What PyTorch's source says without one:

- Group norm with one channel per group gives every channel one block of threads: 32 blocks at the finest level, fewer
  than a T4 has multiprocessors (40). Sums are fp32, but mean and deviation are rounded to the input's fp16.
- Batch norm of one sample is the same arithmetic. With fp32 parameters fp16 goes to cuDNN, and statistics stay fp32.
- Group norm on CUDA makes channels-last tensors contiguous; where it has kernels for that layout, they are slow with
  one channel per group (pytorch/pytorch#194616). nnU-Net's network became 48 % slower by the layout (#59168).
- `cudnn.benchmark` tries all algorithms once per shape: it must win back the row "first pass" within a case.
- A CUDA graph saves launches, some 5 us each for a few hundred kernels, so milliseconds of a pass.

If a variant wins, `engine.network.ready_network` is the place for it (as `optimize_for_cpu` is for CPUs), and
`runner._laid_out` for the layout. Also to look at, with a profiler: whether anything but convolutions and norms counts;
the copy of the scan to the device (from pageable memory, once per case); how much of a case is not the network
(``run.json`` has the seconds per stage); batches of mirror images against one after the other (`Runner.batch`); and
whether a pass takes the memory that `Runner._mirror_images_at_once` thinks.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
from cpu import FEATURES, SPACING, nnunet, normalise, volume, write_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from umamba2 import Predictor
from umamba2.models.folder import load_model
from umamba2.nets.mamba2 import difference_from_plain, fused_kernel
from umamba2.nets.unet import InstanceNorm

RESULTS = Path(__file__).with_name("RESULTS.md")
STEP, MIRROR_AXES = 0.95, (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny network and case, to see that everything runs")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: found no CUDA device, expected one (or --device cpu --small)")
    features = (4, 8, 8, 8, 40, 40, 40) if arguments.small else FEATURES
    patch = (32, 64, 64) if arguments.small else (160, 288, 288)
    case = (32, 64, 96) if arguments.small else (169, 349, 371)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), features, patch, 5 if arguments.small else 47, MIRROR_AXES)
        rows = measure(Path(folder), device, volume(case), arguments.repeats)
    lines = [f"| {what} | {value} |" for what, value in rows]
    print("\n".join(["| | |", "|---|---|", *lines]))
    if device.type == "cuda" and not arguments.small:
        machine = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
        title = f"\n## GPU, {datetime.date.today()}, {machine}\n\n`python benchmarks/gpu.py`\n\n| | |\n|---|---|\n"
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(title + "\n".join(lines) + "\n")


def measure(folder: Path, device: torch.device, scan: np.ndarray, repeats: int) -> list[tuple[str, str]]:
    """What was measured, and the value with its unit."""
    half = "fp16" if device.type == "cuda" else "bf16"
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[half]
    contestants: dict[str, Callable[[np.ndarray], np.ndarray]] = {"the published loop": published_loop(folder, device)}
    if importlib.util.find_spec("nnunetv2"):
        contestants["nnU-Net's predictor"] = nnunet(folder, str(device), STEP, MIRROR_AXES)
    predictor = our_predictor(folder, device, half)
    contestants["umamba2"] = lambda scan: predictor.predict(scan, SPACING)
    seconds: dict[str, list[float]] = {who: [] for who in contestants}
    memory: dict[str, float] = {}
    labels: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for who, run in contestants.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            labels[who], time_taken = timed(lambda run=run: run(scan), device)
            seconds[who].append(time_taken)
            if device.type == "cuda":
                memory[who] = torch.cuda.max_memory_allocated(device) / 1e9
    rows = []
    for who, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, seconds["umamba2"], strict=True))
        text = f"{statistics.median(times):.2f} s per case" + (
            "" if who == "umamba2" else f", {ratio:.2f} of umamba2's"
        )
        rows.append((who, text + (f", {memory[who]:.1f} GB of device memory at most" if memory else "")))
    rows += forward_rows(folder, device, dtype, repeats)
    rows += variant_rows(folder, device, dtype, repeats)
    exact = our_predictor(folder, device, "fp32").predict(scan, SPACING)
    rows.append((f"same labels, {half} and fp32", f"{100 * (labels['umamba2'] == exact).mean():.3f} %"))
    return [*rows, fused_row(device), norm_row(device, dtype)]


def our_predictor(folder: Path, device: torch.device, precision: str) -> Predictor:
    return Predictor.load(
        folder, device=str(device), precision=precision, tile_step=STEP, mirror_axes=MIRROR_AXES, blend="published"
    )


def published_loop(folder: Path, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """The published inference: autocast, every tile scaled to a maximum of 100, weighted and summed in fp16."""
    model = load_model(folder)
    patch, classes = model.plan.patch_size, model.num_classes
    net = model.network().eval()
    model.load_weights(net, next(iter(model.folds)), torch.float32)
    net.to(device)
    weight = torch.full((), 10.0)
    for axis, n in enumerate(patch):
        profile = torch.exp(-0.5 * ((torch.arange(n) - n // 2) / (n / 8)) ** 2)
        weight = weight * profile.reshape([-1 if a == axis else 1 for a in range(3)])
    weight = weight.clamp(min=2.0**-24).to(device, torch.float16)
    mirrors = [axes for n in range(3) for axes in combinations([a + 2 for a in MIRROR_AXES], n)]

    @torch.inference_mode()
    def run(scan: np.ndarray) -> np.ndarray:
        missing = [
            (max(0, p - n) // 2, max(0, p - n) - max(0, p - n) // 2) for n, p in zip(scan.shape, patch, strict=True)
        ]
        data = torch.from_numpy(np.pad(normalise(scan), missing))[None, None]
        total = torch.zeros(classes, *data.shape[2:], dtype=torch.float16, device=device)
        starts = [
            np.linspace(0, n - p, math.ceil((n - p) / (p * STEP)) + 1).round().astype(int)
            for n, p in zip(data.shape[2:], patch, strict=True)
        ]
        for corner in product(*starts):
            tile = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
            seen = data[(0, 0, *tile)][None, None].to(device)
            logits = torch.zeros(classes, *patch, device=device)
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                for axes in mirrors:
                    logits += net(seen.flip(axes)).flip(axes)[0]
            total[(slice(None), *tile)] += (logits / logits.max() * 100).half() * weight
        inside = tuple(slice(a, a + n) for (a, _), n in zip(missing, scan.shape, strict=True))
        return total.argmax(0)[inside].to(torch.uint8).cpu().numpy()

    return run


def forward_rows(folder: Path, device: torch.device, dtype: torch.dtype, repeats: int) -> list[tuple[str, str]]:
    from umamba2.engine.network import ready_network

    model = load_model(folder)
    tile = torch.zeros(1, 1, *model.plan.patch_size)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        plain = model.network()
        # autocast does not know this device; the layer is less than a thousandth of the work.
        plain.mamba_layer.forward = lambda features, clicks=None: features
        with torch.no_grad():
            plain(tile.to("meta"))
    operations = counter.get_total_flops()
    net, tile = ready_network(model, next(iter(model.folds)), device, dtype), tile.to(device, dtype)
    n = 8192 if device.type == "cuda" else 512
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    with torch.inference_mode():
        forward = [timed(lambda: net(tile), device)[1] for _ in range(repeats + 2)][2:]
        matrix = [timed(lambda: [a @ b for _ in range(10)], device)[1] for _ in range(repeats + 2)][2:]
    rate = operations / statistics.median(forward)
    fastest = 20 * n**3 / min(matrix)
    name = str(dtype).removeprefix("torch.")
    return [
        ("one forward pass", f"{statistics.median(forward):.3f} s, {operations / 1e12:.3f} TFLOP"),
        (f"its rate, {name}", f"{rate / 1e12:.2f} TFLOP/s, {100 * rate / fastest:.0f} % of the matrix rate"),
        (f"matrix rate, {name}, {n}x{n}", f"{fastest / 1e12:.2f} TFLOP/s"),
    ]


class BatchNorm(nn.Module):
    """`InstanceNorm` as the batch norm of one sample, with parameters in fp32."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight.float(), norm.bias.float(), norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.batch_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps, True)


def variant_rows(folder: Path, device: torch.device, dtype: torch.dtype, repeats: int) -> list[tuple[str, str]]:
    """One forward pass with other norms, in the other layout, with cuDNN's trials, as a CUDA graph."""
    model, rows = load_model(folder), []
    layouts = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last_3d}
    for norm, layout, trials in product(("group norm", "batch norm"), layouts, (False, True)):
        net = model.network().eval().requires_grad_(False)
        model.load_weights(net, next(iter(model.folds)), dtype)
        net = net.to(device, memory_format=layouts[layout])
        if norm == "batch norm":
            for block in [
                module for module in net.modules() if isinstance(getattr(module, "norm", None), InstanceNorm)
            ]:
                block.norm = BatchNorm(block.norm)
        tile = torch.randn(1, 1, *model.plan.patch_size, device=device).to(dtype, memory_format=layouts[layout])
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, trials
        name = f"forward pass, {norm}, {layout}" + (", cudnn.benchmark" if trials else "")
        try:
            rows.append((name, _forward_seconds(net, tile, device, repeats)))
            if device.type == "cuda":
                rows.append((f"{name}, CUDA graph", _graph_seconds(net, tile, device, repeats)))
        except RuntimeError as error:  # of memory, or what a graph cannot hold
            rows.append((name, f"found {' '.join(str(error).split())[:100]}"))
        finally:
            torch.backends.cudnn.benchmark = before
    return rows


@torch.inference_mode()
def _forward_seconds(net: nn.Module, tile: torch.Tensor, device: torch.device, repeats: int) -> str:
    first, *_, last = (timed(lambda: net(tile), device)[1] for _ in range(3))
    median = statistics.median([last, *(timed(lambda: net(tile), device)[1] for _ in range(repeats))])
    return f"{median:.3f} s, first pass {first:.3f} s"


@torch.inference_mode()
def _graph_seconds(net: nn.Module, tile: torch.Tensor, device: torch.device, repeats: int) -> str:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        net(tile)
    return f"{statistics.median(timed(graph.replay, device)[1] for _ in range(repeats)):.3f} s"


def fused_row(device: torch.device) -> tuple[str, str]:
    kernel = fused_kernel(device)
    if kernel is None:
        return "fused backend", "not available here"
    difference = difference_from_plain(kernel, device)
    return "fused backend, largest relative difference from the plain one", f"{difference:.1e}"


def norm_row(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Whether the norm that is compiled at load works, and how long that takes when nothing is compiled yet."""
    if device.type != "cuda":
        return "compiled norm", "not available here"
    with tempfile.TemporaryDirectory() as folder:
        # A process of its own, because kernels that are compiled stay, in memory and in files.
        code = f"""
import time, torch
from umamba2.engine.gpu import FusedNorm
device = torch.device("cuda")
torch.ones(1, device=device)
start = time.perf_counter()
print(FusedNorm().problem(device, {dtype}) or "works", round(time.perf_counter() - start, 2))
"""
        environment = os.environ | {"PYTORCH_KERNEL_CACHE_PATH": folder}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    return "compiled norm, and the seconds to compile it", done.stdout.strip() or " ".join(done.stderr.split())[-100:]


def timed(run: Callable, device: torch.device):
    """The result of a call and its seconds, the device's work included."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    result = run()
    wait()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
