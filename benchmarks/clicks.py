"""What does a click cost?

    python benchmarks/clicks.py demo SCAN [--repeats 3]
    python benchmarks/clicks.py full [--shape 169 349 371]

A session opens the scan and answers the first click, then eight more on the canals that are there and an undo. Read
the ratios: seconds of a busy machine mean little, and processor seconds (of all threads) mean more. Demo takes the
demo model and any scan; full takes the published architecture with random weights and random voxels, on a volume of
the median shape of ToothFairy3, which makes eight tiles.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cpu import FEATURES, SPACING, volume, write_model

import umamba2
from umamba2.challenges import INTERACTIVE
from umamba2.engine.session import SIDES, Session
from umamba2.scans.volumes import read_volume

RESOURCES = Path(__file__).resolve().parents[1] / "resources"
PATCH = (160, 288, 288)
# Where canals run, as parts of a jaw's scan (z, y, x), and the middle, which most tiles see; x grows to the left.
PLACES = [
    ("right", (0.4, 0.45, 0.3)), ("left", (0.4, 0.45, 0.7)), ("right", (0.3, 0.6, 0.25)), ("left", (0.3, 0.6, 0.75)),
    ("left", (0.5, 0.5, 0.5)), ("right", (0.2, 0.3, 0.4)), ("left", (0.2, 0.3, 0.6)), ("right", (0.6, 0.7, 0.2)),
    ("left", (0.6, 0.7, 0.8)),
]  # fmt: skip
Place = tuple[str, tuple[int, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    demo_part = parts.add_parser("demo")
    demo_part.add_argument("scan", type=Path)
    demo_part.add_argument("--repeats", type=int, default=3)
    full_part = parts.add_parser("full")
    full_part.add_argument("--shape", type=int, nargs=3, default=(169, 349, 371))
    full_part.add_argument("--patch", type=int, nargs=3, default=PATCH)
    full_part.add_argument("--features", type=int, nargs=7, default=FEATURES)
    full_part.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    {"demo": demo, "full": full}[arguments.part](arguments)


def demo(arguments: argparse.Namespace) -> None:
    segmenter = umamba2.load(RESOURCES / INTERACTIVE.name)
    scan = read_volume(arguments.scan)
    session = segmenter.session(scan)
    session.look()  # libraries are warm then, for first and later answers alike
    table([clicked(segmenter, scan, on_canals(session)) for _ in range(arguments.repeats)])


def on_canals(session: Session) -> list[Place]:
    """Places along what was found of both canals: a click anywhere else is left out, at the cost of another answer."""
    found = [np.argwhere(session.labels == number) for number in (1, 2)]  # the lowest first
    if not all(map(len, found)):
        raise SystemExit("found a scan without two canals, expected both, to click on them")
    parts = np.linspace(0.1, 0.9, 5)
    places = [(side, tuple(map(int, own[int(part * len(own))]))) for part in parts for side, own in zip(SIDES, found)]
    return places[: len(PLACES)]


def full(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), arguments.features, arguments.patch, 3, network="UMamba2Click")
        segmenter = umamba2.load(
            folder, challenge=INTERACTIVE, precision=arguments.precision, mirror=False, orientation="LPS",
            postprocess=False,  # random weights follow no click, and it is post-processing that leaves it out then
        )  # fmt: skip
        places = [(side, tuple(int(n * p) for n, p in zip(arguments.shape, part))) for side, part in PLACES]
        table([clicked(segmenter, (volume(arguments.shape), SPACING), places)])


def clicked(segmenter: umamba2.Segmenter, scan, places: list[Place]) -> dict:
    """Seconds, of the clock and of the processors, of the first answer and of each later one."""
    session = segmenter.session(scan)
    seconds: list[tuple[float, float]] = []
    tiles: list[int] = []

    def timed(call) -> None:
        ran = [0]
        start, used = time.perf_counter(), time.process_time()
        call(lambda done, total: ran.append(total))
        seconds.append((time.perf_counter() - start, time.process_time() - used))
        tiles.append(max(ran))
        print(f"{seconds[-1][0]:.2f} s, {seconds[-1][1]:.2f} processor seconds, {tiles[-1]} tiles", flush=True)

    for side, voxel in places:
        timed(lambda watch, side=side, voxel=voxel: session.click(side, voxel=voxel, watch=watch))
    timed(lambda watch: session.undo(watch=watch))
    return {
        "seconds": seconds,
        "tiles": tiles,
        "kept": session.kept_bytes,
        "precision": segmenter.settings["precision"],
    }


def table(runs: list[dict]) -> None:
    """A row for each run: medians of the later answers."""
    print(f"\n{time.strftime('%Y-%m-%d')}, {runs[0]['precision']}, {torch.get_num_threads()} threads")
    print("| tiles | first answer | later, median | ratio | processor seconds, ratio | worst | tiles run | kept |")
    print("|---|---|---|---|---|---|---|---|")
    for run in runs:
        (first, first_used), *later = run["seconds"]
        median, used = (statistics.median(values) for values in zip(*later))
        worst = max(used for _, used in later) / first_used
        most = f"{min(run['tiles'][1:])}-{max(run['tiles'][1:])}"
        print(
            f"| {run['tiles'][0]} | {first:.2f} s | {median:.2f} s | {median / first:.2f} | {used / first_used:.2f} "
            f"| {worst:.2f} | {most} | {run['kept'] / 1e9:.2f} GB |"
        )


if __name__ == "__main__":
    main()
