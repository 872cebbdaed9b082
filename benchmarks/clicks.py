"""What does a click cost, and does a wrong one do harm?

    python benchmarks/clicks.py demo SCAN [--repeats 3]
    python benchmarks/clicks.py full [--shape 169 349 371]
    python benchmarks/clicks.py wrong [--phantoms 4]

Demo and full: a session opens the scan and answers the first click, then eight more on either side and an undo. Read
the ratios: seconds of a busy machine mean little, and processor seconds (of all threads) mean more. Demo takes the
demo model and any scan; full takes the published architecture with random weights and random voxels, on a volume of
the median shape of ToothFairy3, which makes eight tiles.

Wrong: the demo model on phantoms that no training has seen, with three clicks on either canal as the official
simulator makes them, and then one more click that should not be there: on the other side's canal, in the air in front
of the face, on a tooth. Dice of both canals, by the full answer.
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
from umamba2.evaluation.metrics import dice
from umamba2.scans.clicks import NAMES
from umamba2.scans.volumes import read_volume
from umamba2.synthetic.phantoms import make_phantom

RESOURCES = Path(__file__).resolve().parents[1] / "resources"
PATCH = (160, 288, 288)
# Where canals run, as parts of a jaw's scan (z, y, x), and the middle, which most tiles see; x grows to the left.
PLACES = [
    ("right", (0.4, 0.45, 0.3)), ("left", (0.4, 0.45, 0.7)), ("right", (0.3, 0.6, 0.25)), ("left", (0.3, 0.6, 0.75)),
    ("left", (0.5, 0.5, 0.5)), ("right", (0.2, 0.3, 0.4)), ("left", (0.2, 0.3, 0.6)), ("right", (0.6, 0.7, 0.2)),
    ("left", (0.6, 0.7, 0.8)),
]  # fmt: skip
SHOWN = ("right canal", "left canal")


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
    wrong_part = parts.add_parser("wrong")
    wrong_part.add_argument("--phantoms", type=int, default=4)
    wrong_part.add_argument("--seed", type=int, default=20_000)
    arguments = parser.parse_args()
    {"demo": demo, "full": full, "wrong": wrong}[arguments.part](arguments)


def demo(arguments: argparse.Namespace) -> None:
    segmenter = umamba2.load(RESOURCES / INTERACTIVE.name)
    scan = read_volume(arguments.scan)
    segmenter.session(scan).look()  # libraries are warm then, for first and later answers alike
    table([clicked(segmenter, scan) for _ in range(arguments.repeats)])


def full(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), arguments.features, arguments.patch, 3, network="UMamba2Click")
        segmenter = umamba2.load(
            folder, challenge=INTERACTIVE, precision=arguments.precision, mirror=False, orientation="LPS"
        )
        table([clicked(segmenter, (volume(arguments.shape), SPACING))])


def clicked(segmenter: umamba2.Segmenter, scan) -> dict:
    """Seconds, of the clock and of the processors, of the first answer and of each later one."""
    session = segmenter.session(scan)
    shape = session.labels.shape
    seconds: list[tuple[float, float]] = []
    tiles: list[int] = []

    def timed(call) -> None:
        ran = [0]
        start, used = time.perf_counter(), time.process_time()
        call(lambda done, total: ran.append(total))
        seconds.append((time.perf_counter() - start, time.process_time() - used))
        tiles.append(max(ran))
        print(f"{seconds[-1][0]:.2f} s, {seconds[-1][1]:.2f} processor seconds, {tiles[-1]} tiles", flush=True)

    for side, part in PLACES:
        voxel = tuple(int(n * p) for n, p in zip(shape, part))
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


def wrong(arguments: argparse.Namespace) -> None:
    segmenter = umamba2.load(RESOURCES / INTERACTIVE.name)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(arguments.seed, arguments.seed + arguments.phantoms):
        phantom = make_phantom(seed)
        truth = {1: phantom.labels == 3, 2: phantom.labels == 4}
        session = segmenter.session((phantom.image, phantom.spacing))
        for name in NAMES:
            for _, voxel in [click for click in phantom.clicks if click[0] == name][:3]:
                session.click("left" if name == "Left_IAC" else "right", voxel=voxel)
        extra = wrong_clicks(phantom)
        for what, click in {"three right clicks a side": None, **extra}.items():
            if click is not None:
                session.click(click[0], voxel=click[1])
            labels = session.finish().labels
            if click is not None:
                session.undo()
            scores = tuple(dice(labels == side, truth[side]) for side in (2, 1))
            found.setdefault(what, []).append(scores)
            print(seed, what, [round(score, 3) for score in scores], flush=True)
    right = np.array(found["three right clicks a side"])
    print(f"\n{time.strftime('%Y-%m-%d')}, {arguments.phantoms} phantoms from seed {arguments.seed}")
    print(f"| one more click | {' | '.join(f'Dice, {name}' for name in SHOWN)} | largest loss |\n|---|---|---|---|")
    for what, scores in found.items():
        means = " | ".join(f"{mean:.3f}" for mean in np.mean(scores, axis=0))
        print(f"| {what} | {means} | {(right - np.array(scores)).max():.3f} |")


def wrong_clicks(phantom) -> dict[str, tuple[str, tuple[int, int, int]]]:
    """Clicks that should not be there."""
    rng = np.random.default_rng(0)

    def somewhere(mask: np.ndarray) -> tuple[int, int, int]:
        z, y, x = rng.choice(np.argwhere(mask))
        return int(z), int(y), int(x)

    left = [voxel for name, voxel in phantom.clicks if name == "Left_IAC"]
    right = [voxel for name, voxel in phantom.clicks if name == "Right_IAC"]
    air = np.zeros(phantom.labels.shape, bool)
    air[:, :8] = True  # y grows to the back
    return {
        "left, on the right canal": ("left", right[3]),
        "right, on the left canal": ("right", left[3]),
        "left, in the air in front": ("left", somewhere(air)),
        "left, on a lower tooth": ("left", somewhere((phantom.labels >= 31) & (phantom.labels <= 38))),
        "right, on an upper tooth": ("right", somewhere((phantom.labels >= 11) & (phantom.labels <= 18))),
    }


if __name__ == "__main__":
    main()
