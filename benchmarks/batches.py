"""What reading and writing beside the network gains, and whether memory grows over many scans.

    python benchmarks/batches.py overlap [--edge 320] [--cases 10] [--network 2.5]
    python benchmarks/batches.py memory [--cases 200] [--edge 90]
    python benchmarks/batches.py skip [--cases 1000]

Overlap: a batch of compressed scans, a head of noise in air. In place of the network is a wait, which leaves the
processor alone as a GPU does; once with one thing after the other, once as `umamba2 predict` does it, in turns.

Memory: the demo model for STSR on the CPU, scans of five sizes around the given edge; resident memory after each case.

Skip: the seconds of a run in which there is nothing to do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import resident, scan

from umamba2.jobs import batch as batches
from umamba2.jobs.batch import Batch, Plan
from umamba2.jobs.cases import cases_of
from umamba2.jobs.fingerprint import Fingerprint
from umamba2.jobs.manifest import Manifest
from umamba2.scans.volumes import Geometry, write_volume
from umamba2.segmenter import Segmenter, load

ROOT = Path(__file__).resolve().parents[1]
SPACING = (0.3, 0.3, 0.3)  # mm


class Waiting:
    """In place of a predictor: waits, and finds what is brighter than soft tissue."""

    takes_clicks, settings, num_classes = False, {}, 2

    def __init__(self, seconds: float):
        self.seconds = seconds

    def predict(self, volume, *_, **__):  # as `Predictor.predict`
        end = time.monotonic() + self.seconds
        labels = (volume > 400).astype(np.uint8)
        time.sleep(max(0, end - time.monotonic()))
        return labels


def write_scans(folder: Path, edges: list[int]) -> None:
    for number, edge in enumerate(edges):
        volume = scan(edge, "int16", None)
        write_volume(folder / f"{number:04}.nii.gz", volume, Geometry.of_array(volume.shape, SPACING))


def run(source: Path, out: Path, segmenter: Segmenter, after=None) -> float:
    """Seconds of a batch."""
    start, manifest = time.monotonic(), Manifest(out)
    try:
        batch, cases = (
            Batch(Plan(out, Fingerprint(0, "", ""), {}), manifest, lambda: (segmenter, after)),
            cases_of(source, out),
        )
        with batch.counting(cases):
            batch.run(cases)
    finally:
        manifest.close()
    assert all(outcome.written for outcome in batch.outcomes)
    return time.monotonic() - start


def overlap(folder: Path, edge: int, count: int, seconds: float) -> None:
    write_scans(folder / "in", [edge] * count)
    segmenter, room, times = Segmenter(Waiting(seconds)), batches._room, {"serial": [], "overlapping": []}
    for turn in range(2):
        for how in times:
            batches._room = room if how == "overlapping" else lambda voxels: False
            times[how].append(run(folder / "in", folder / f"{how}{turn}", segmenter) / count)
    print(f"| {count} scans of {edge}^3 voxels, network {seconds} s | seconds per scan |\n|---|---|")
    for how, found in times.items():
        print(f"| {how} | {min(found):.2f} |")


def memory(folder: Path, edge: int, count: int) -> None:
    write_scans(folder / "in", [edge + 6 * (number % 5 - 2) for number in range(count)])
    held: list[int] = []

    def after(*_):
        held.append(resident(False))
        return []

    run(folder / "in", folder / "out", load(ROOT / "resources/stsr", device="cpu"), after)
    fifth = count // 5
    means = [statistics.mean(held[start : start + fifth]) / 1e6 for start in range(0, fifth * 5, fifth)]
    print("| cases |", " | ".join(f"{i * fifth + 1}-{(i + 1) * fifth}" for i in range(5)), "|\n|---|" + "---|" * 5)
    print("| MB |", " | ".join(f"{mean:.1f}" for mean in means), "|")
    print(f"growth from the second fifth to the last: {100 * (means[-1] / means[1] - 1):.2f} %")


def skip(folder: Path, count: int) -> None:
    write_scans(folder / "in", [8] * count)
    segmenter = Segmenter(Waiting(0))
    first, again = (run(folder / "in", folder / "out", segmenter) for _ in range(2))
    print(f"| {count} scans | seconds |\n|---|---|\n| first run | {first:.1f} |\n| nothing to do | {again:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("overlap", "memory", "skip"))
    parser.add_argument("--edge", type=int, help="voxels along each axis (320; memory: 90)")
    parser.add_argument("--cases", type=int, help="scans (10; memory: 200; skip: 1000)")
    parser.add_argument("--network", type=float, default=2.5, help="seconds of the network (2.5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "overlap":
            overlap(folder, options.edge or 320, options.cases or 10, options.network)
        elif options.what == "memory":
            memory(folder, options.edge or 90, options.cases or 200)
        else:
            skip(folder, options.cases or 1000)


if __name__ == "__main__":
    main()
