"""What a case asks of a GPU, counted without one: kernels, bytes, FLOP, waits and memory, and the time they must take.

    python benchmarks/roofline.py [--shape 170 350 370] [--step 0.95] [--batch 1] [--plain]

The engine itself runs, on a pretend CUDA device without values (`tests/pretend_cuda.py`), with the published network at
full size. So the counts are exact for PyTorch's operations and say nothing about how well a GPU runs them:

- An operation that reads or writes memory is one kernel; views and reservations of memory are none.
- A convolution is one kernel, and one more that adds its bias, as PyTorch does it behind cuDNN. Group norm is three:
  moments, what they mean for each channel, and the result (`group_norm_kernel.cu`); it reads its input twice.
- Bytes are those of all inputs and outputs, once each. What is broadcast counts once; caches and the workspaces of
  cuDNN are not counted.
- FLOP are those of convolutions and matrix products as they are defined (padding counts), not of faster algorithms.
- Memory is that of PyTorch's allocator without fragmentation, workspaces and CUDA's own.

The times are bounds: each kernel takes at least its bytes at the published bandwidth and its FLOP at the published
rate of dense fp16 products. No GPU is faster; how near one comes is not known here.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from pretend_cuda import PretendCuda, why_not

from umamba2 import Predictor
from umamba2.engine.gpu import FusedNorm
from umamba2.engine.record import Record
from umamba2.engine.runner import Runner
from umamba2.models.folder import Model
from umamba2.models.network import Plan, build_network, uninitialised
from umamba2.models.weights import Weights

FEATURES = (32, 64, 128, 256, 320, 320, 320)
PATCH = (160, 288, 288)
CLASSES = 47
SPACING = (0.3, 0.3, 0.3)
PAIRS = ((3, 4), *((n, n + 8) for n in (*range(11, 19), *range(27, 35))))  # how many there are changes no count
# Bytes a second and dense fp16 FLOP a second on tensor cores, as NVIDIA states them for the T4, the L4 and the H100
# SXM, and Amazon for the A10G.
GPUS = {"T4": (320e9, 65e12), "L4": (300e9, 121e12), "A10G": (600e9, 70e12), "H100": (3350e9, 989e12)}
# Operations that touch no values.
VIEWS = {
    "view", "_unsafe_view", "slice", "select", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "detach",
    "alias", "split", "split_with_sizes", "unbind", "as_strided", "diagonal", "_reshape_alias", "unfold", "lift_fresh",
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense", "is_nonzero",
}  # fmt: skip


@dataclass
class Count:
    """What some operations ask for.

    Attributes:
        seconds: The least that each GPU needs.
    """

    kernels: int = 0
    bytes: int = 0
    flop: int = 0
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, kernels: int, moved: int, flop: int) -> None:
        self.kernels += kernels
        self.bytes += moved
        self.flop += flop
        for gpu, (bandwidth, rate) in GPUS.items():
            self.seconds[gpu] += max(moved / bandwidth, flop / rate)


class Counts:
    """Takes the operations of a pretend device; the networks' apart, and all of them by operation and line."""

    def __init__(self) -> None:
        self.network, self.case = Count(), Count()
        self.by_place: dict[tuple[str, str], Count] = {}

    def __call__(self, name: str, line: str, given: list, results: list[torch.Tensor]) -> None:
        if name in VIEWS:
            return
        for kernels, moved, flop in costs(name, given, results):
            counts = [self.case, self.by_place.setdefault((name, line), Count())]
            if line.startswith(("nets/", "engine/gpu.py")):
                counts.append(self.network)
            for count in counts:
                count.add(kernels, moved, flop)


def costs(name: str, given: list, results: list[torch.Tensor]) -> list[tuple[int, int, int]]:
    """The kernels of an operation: how many, the bytes they move, their FLOP."""
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    inputs, outputs = sum(map(_bytes, {id(t): t for t in tensors}.values())), sum(map(_bytes, results))
    if name == "convolution":
        x, weight = tensors[:2]
        out = results[0]
        narrow = x if out.shape[2:].numel() > x.shape[2:].numel() else out  # the former where it is transposed
        flop = 2 * narrow.numel() // narrow.shape[1] * weight.numel()
        kernels = [(1, _bytes(x) + _bytes(weight) + outputs, flop)]
        return kernels + [(1, 2 * outputs, 0)] * (len(tensors) > 2)
    if name == "native_group_norm":
        x = tensors[0]
        return [(2, _bytes(x), 0), (1, _bytes(x) + _bytes(results[0]), 0)]
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        a, b = tensors[-2:]
        return [(1, inputs + outputs, 2 * a.numel() * b.shape[-1])]
    if name in ("fill_", "zero_"):
        inputs = 0
    return [(1, inputs + outputs, 0)]


def _bytes(tensor: torch.Tensor) -> int:
    """Of the values that a tensor has, once each."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(sizes) * tensor.itemsize


def full_size_model(features=FEATURES, patch_size=PATCH, classes: int = CLASSES, mirror_axes=(1, 2)) -> Model:
    """A model of the published architecture whose weights have no values."""
    stages = len(features)
    architecture = {
        "n_stages": stages, "features_per_stage": list(features), "kernel_sizes": [[3] * 3] * stages,
        "strides": [[1] * 3, *[[2] * 3] * (stages - 2), [1] * 3], "n_blocks_per_stage": [1, 3, 4, *[6] * (stages - 3)],
        "n_conv_per_stage_decoder": [1] * (stages - 1), "conv_bias": True,
    }  # fmt: skip
    with uninitialised():
        weights = build_network("UMamba2", architecture, 1, classes).state_dict()
    weights = {name: weight.to("meta") for name, weight in weights.items()}
    intensity = {"mean": 809.5, "std": 1014.369, "percentile_00_5": -997.0, "percentile_99_5": 3558.0}
    plan = Plan("UMamba2", architecture, tuple(patch_size), SPACING, (0, 1, 2), intensity)
    return Model(
        folder=Path("roofline"), plan=plan, folds={"0": Weights(Path("roofline"), lambda _: weights)}, challenge=None,
        challenge_reason="",
        mirror_axes=tuple(mirror_axes), mirror_reason="", orientation=None, dental_field=None, fix_numbers=False,
        dataset={}, source={},
    )  # fmt: skip


@dataclass
class Case:
    """What was counted of a case.

    Attributes:
        passes: Of the network, over all tiles.
        peak: The most bytes that were held, those of the weights included.
        waits: How often the host waited, by kind and line.
    """

    counts: Counts
    tiles: int
    passes: int
    weights: int
    peak: int
    waits: Counter[tuple[str, str]]


@dataclass
class Pass:
    """What was counted of one pass of the network.

    Attributes:
        peak: The most bytes that it took.
        estimate: What the engine expects, with the sum of several passes.
    """

    count: Count
    peak: int
    estimate: int


@contextmanager
def without_values(fused: bool, capacity: float = 2**40) -> Iterator[PretendCuda]:
    """A device without values; the fused norm works there, or does not and plain layers stand in for it."""
    problem = patch.object(FusedNorm, "problem", lambda *_: "" if fused else "no values")
    with PretendCuda(capacity=capacity, meta=True) as gpu, problem, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield gpu


def count_case(model: Model, shape: tuple[int, ...], step: float, batch: int | None = None, fused: bool = True) -> Case:
    """Run a case and count."""
    counts = Counts()
    scan = np.random.default_rng(0).integers(0, 100, shape).astype(np.float32)
    scan[::3, ::3, ::3] += 1500  # no tile is air
    with without_values(fused) as gpu:
        predictor = Predictor.load(
            model, device="cuda", tile_step=step, left_right_pairs=PAIRS if model.num_classes > 40 else ()
        )
        if batch is not None:
            predictor.runner.batch = batch
        gpu.memory.collect()
        weights, gpu.noted = gpu.memory.live, counts
        gpu.waits.clear()
        record = Record()
        predictor.predict(scan, SPACING, record=record)
        passes = sum(record.passes_done)
        assert not record.warnings, record.warnings
        return Case(counts, record.tiles, passes, weights, gpu.memory.peak, gpu.waits)


def count_pass(model: Model, images: int = 1, fused: bool = True, dtype: torch.dtype = torch.float16) -> Pass:
    """Run one pass of the network alone over some mirror images of a tile."""
    counts = Counts()
    with without_values(fused) as gpu:
        runner = Runner(model, torch.device("cuda"), dtype, model.mirror_axes)
        tiles = torch.zeros(images, 1, *model.plan.patch_size, dtype=dtype).to("cuda")
        gpu.memory.collect()
        before = gpu.memory.peak = gpu.memory.live
        gpu.noted = counts
        logits = next(iter(runner.nets.values()))(tiles)
        assert logits.shape[1] == model.num_classes
        return Pass(counts.network, gpu.memory.peak - before, runner.working_bytes(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(170, 350, 370))
    parser.add_argument("--step", type=float, default=0.95)
    parser.add_argument("--batch", type=int, default=1, help="mirror images at once")
    parser.add_argument("--plain", action="store_true", help="as where the fused norm does not work")
    parser.add_argument("--places", type=int, default=0, help="so many lines of the code that move most")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if reason := why_not(Path(folder)):
            parser.error(reason)
        case = count_case(
            full_size_model(), tuple(arguments.shape), arguments.step, arguments.batch, fused=not arguments.plain
        )
    print("\n".join(table(case)))
    places = sorted(case.counts.by_place.items(), key=lambda item: -item[1].bytes)
    for (name, line), count in places[: arguments.places]:
        print(f"{count.bytes / 1e9:8.1f} GB {count.kernels:6} kernels  {name} {line}")
    if arguments.places:
        for (kind, line), times in case.waits.most_common():
            print(f"{times:6} waits  {kind} {line}")


def table(case: Case) -> list[str]:
    """Markdown: the networks' share of one pass, and the whole case."""
    network, whole, passes = case.counts.network, case.counts.case, case.passes
    rows = [
        ("kernels", f"{network.kernels / passes:.0f}", f"{whole.kernels}"),
        ("bytes moved", f"{network.bytes / passes / 1e9:.1f} GB", f"{whole.bytes / 1e9:.0f} GB"),
        ("FLOP", f"{network.flop / passes / 1e12:.2f} T", f"{whole.flop / 1e12:.1f} T"),
        ("waits of the host", "", f"{sum(case.waits.values())}, {sum(case.waits.values()) / case.tiles:.1f} a tile"),
        ("memory at most, weights included", "", f"{case.peak / 1e9:.2f} GB ({case.weights / 1e9:.2f} GB of weights)"),
        *(
            (f"at least, {gpu}", f"{network.seconds[gpu] / passes * 1e3:.0f} ms", f"{whole.seconds[gpu]:.1f} s")
            for gpu in GPUS
        ),
    ]
    title = f"| | network, one pass | case: {case.tiles} tiles, {passes} passes |"
    return [title, "|---|---|---|", *(f"| {what} | {one} | {all_} |" for what, one, all_ in rows)]


if __name__ == "__main__":
    main()
