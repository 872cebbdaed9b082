"""The most memory that a scan takes from the array that was read to the tensor that is ready for the network.

    python benchmarks/memory.py [--edge 400]
    python benchmarks/memory.py --first-look toothfairy3-multiclass [--edge 400] [--spacing 0.4]

Each case runs in a process of its own, on a cube of noise with air, soft tissue and bone. Bytes are per voxel of the
larger of the two grids, the scan itself included, what Python and torch take by themselves excluded.

With --first-look: the most memory of a process that segments such a cube with a demo model, in its first look for the
dental field and after it, beside what it had with the model and the scan alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

SPACING = 0.3  # mm, of the network
INTENSITY = {"mean": 809.5, "std": 1014.369, "percentile_00_5": -997.0, "percentile_99_5": 3558.0}
CASES = [  # type of the voxels, spacing in mm, what becomes of the intensities, value of padding
    ("int16", 0.3, "as they are", None),
    ("int16", 0.3, "harmonised", None),
    ("int16", 0.2, "as they are", None),
    ("int16", 0.2, "harmonised", None),
    ("int16", 0.3, "as they are", 3071),
    ("int16", 0.2, "harmonised", -32768),
    ("uint8", 0.3, "harmonised", None),
    ("float32", 0.3, "as they are", None),
    ("float32", 0.2, "harmonised", None),
]


def scan(edge: int, dtype: str, padding: int | None) -> np.ndarray:
    """A head in air: shells of bone and soft tissue, noisy, made plane by plane."""
    volume = np.empty((edge,) * 3, dtype)
    rng = np.random.default_rng(0)
    axis = np.linspace(-1, 1, edge, dtype=np.float32)
    for z, plane in zip(axis, volume):
        away = np.sqrt(z * z + axis[:, None] ** 2 + axis**2)
        grey = np.select([away < 0.4, away < 0.5, away < 0.9], [40, 1400, 60], -900).astype(np.float32)
        grey += 30 * rng.standard_normal(grey.shape, np.float32)
        plane[:] = np.clip(grey / 10 + 100, 0, 255) if dtype == "uint8" else grey
        if padding is not None:
            plane[np.hypot(axis[:, None], axis) > 1] = padding
    return volume


def resident(peak: bool) -> int:
    """Bytes of this process in memory, now or at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM" if peak else "VmRSS"))


def measure(edge: int, dtype: str, spacing: float, harmonised: bool, padding: int | None) -> dict[str, float]:
    """Prepare one scan in this process: bytes per voxel and seconds."""
    import torch  # noqa: F401

    from umamba2.engine.preprocess import prepare
    from umamba2.models.network import Plan

    plan = Plan("UMamba2", {}, (8, 8, 8), (SPACING,) * 3, (0, 1, 2), INTENSITY, harmonise=harmonised)
    prepare(scan(40, dtype, padding), (spacing,) * 3, plan)  # whatever is loaded and allocated once
    before = resident(False)
    volume = scan(edge, dtype, padding)
    start = time.monotonic()
    prepared = prepare(volume, (spacing,) * 3, plan)
    seconds = time.monotonic() - start
    voxels = max(volume.size, prepared.tensor.numel())
    return {
        "bytes": (resident(True) - before) / voxels,
        "kept": (resident(False) - before) / voxels,
        "seconds": seconds,
    }


def measure_looks(edge: int, spacing: float, model: str) -> dict[str, float]:
    """Segment one scan in this process, in the middle of which a field is said to be: peaks in MB, and seconds."""
    import umamba2
    from umamba2.engine.record import Record, forget_peak_memory

    segmenter = umamba2.load(model, device="cpu")
    predictor, field = segmenter.predictor, segmenter.predictor.dental_field
    volume, spacings, found = scan(edge, "int16", None), (spacing,) * 3, {}
    predictor.predict(volume[:64, :64, :64], (1.0,) * 3, record=Record())  # whatever is loaded and allocated once
    found["model and scan"] = resident(False)
    looks, began = predictor._first_look, time.monotonic()

    def first_look(*given):
        forget_peak_memory()
        look = looks(*given)
        found["first look"], found["seconds of it"] = resident(True), time.monotonic() - began
        forget_peak_memory()
        box = field.around((edge / 2,) * 3, volume.shape, spacings)
        return replace(look, box=box, labels=look.on_scan(volume.shape)[box])  # noise has no teeth

    predictor._first_look = first_look
    predictor.predict(volume, spacings, record=Record())
    found["after it"] = resident(True)
    predictor.dental_field = None
    forget_peak_memory()
    predictor.predict(volume, spacings, record=Record())
    found["all of it, without a first look"] = resident(True)
    return {name: value if "seconds" in name else value / 2**20 for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=400, help="voxels along each axis (default: 400)")
    parser.add_argument("--first-look", metavar="MODEL", help="measure the looks of a demo model instead")
    parser.add_argument("--spacing", type=float, default=0.4, help="mm, with --first-look (default: 0.4)")
    options = parser.parse_args()
    edge = options.edge
    if options.first_look:
        task = json.dumps([edge, options.spacing, options.first_look])
        command = [sys.executable, __file__, "--looks", task]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            print(f"{name:32} {value:8.1f} {'s' if 'seconds' in name else 'MB'}")
        return
    print(
        f"{'voxels':8} {'spacing':>7}  {'intensities':12} {'padding':>8}  "
        f"{'bytes a voxel':>13} {'kept':>5} {'seconds':>8}"
    )
    for dtype, spacing, intensities, padding in CASES:
        task = json.dumps([edge, dtype, spacing, intensities == "harmonised", padding])
        done = subprocess.run([sys.executable, __file__, "--one", task], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        print(
            f"{dtype:8} {spacing:>4} mm  {intensities:12} {'-' if padding is None else padding:>8}  "
            f"{found['bytes']:13.2f} {found['kept']:5.2f} {found['seconds']:8.2f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*json.loads(sys.argv[2]))))
    elif sys.argv[1:2] == ["--looks"]:
        print(json.dumps(measure_looks(*json.loads(sys.argv[2]))))
    else:
        main()
