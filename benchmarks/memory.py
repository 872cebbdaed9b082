"""The most memory that a scan takes from the array that was read to the tensor that is ready for the network.

    python benchmarks/memory.py [--edge 400]

Each case runs in a process of its own, on a cube of noise with air, soft tissue and bone. Bytes are per voxel of the
larger of the two grids, the scan itself included, what Python and torch take by themselves excluded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=400, help="voxels along each axis (default: 400)")
    edge = parser.parse_args().edge
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
    else:
        main()
