"""What a wrong click does, and whether right ones are taken for wrong: Dice of both canals on phantoms.

    python benchmarks/wrong_clicks.py [--count 4] [--right 1] [--draws 3] [--all]
    python benchmarks/wrong_clicks.py --only-right [--count 4]

Quick answers, one pass of the network, as while clicking on the page. First right clicks, and with them one for the
left that is not; with --all no click is left out. With --only-right, 1 to 5 right clicks on each side of phantoms,
of such whose canals cannot be seen, and of randomised ones, and how many of these clicks are left out.
"""

from __future__ import annotations

import argparse

import numpy as np

import umamba2
from umamba2.engine import off_canal
from umamba2.engine.session import Answer, Session
from umamba2.evaluation import dice
from umamba2.models.locate import demo_model
from umamba2.scans.clicks import Clicks
from umamba2.synthetic import Phantom, make_phantom

SEED, SHAPE, SPACING = 9101, (128, 204, 258), (0.4, 0.4, 0.4)
AIR, JAW, TEETH, LEFT_LOWER, CANALS = -900, 1, (11, 48), (31, 38), (3, 4)  # HU; dataset ids
KINDS = {"plain": {}, "canals invisible": {"canal_contrast": 0.0}, "randomised": {"randomised": True}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4, help="phantoms (default: 4)")
    parser.add_argument("--right", type=int, default=1, help="right clicks on each side, at most 4 (default: 1)")
    parser.add_argument("--draws", type=int, default=3, help="wrong clicks of each kind in a phantom (default: 3)")
    parser.add_argument("--all", action="store_true", help="leave no click out where there is a canal")
    parser.add_argument("--only-right", action="store_true", help="right clicks alone: are they left out?")
    options = parser.parse_args()
    segmenter = umamba2.load(demo_model("toothfairy3-interactive"))
    seeds = range(SEED, SEED + options.count)
    if options.only_right:
        for kind, others in KINDS.items():
            right_alone(segmenter, kind, [make_phantom(seed, SHAPE, SPACING, **others) for seed in seeds])
    else:
        if options.all:
            off_canal.FAR = 1e6
        wrong(segmenter, seeds, options.right, options.draws)


def wrong(segmenter: umamba2.Segmenter, seeds: range, right: int, draws: int) -> None:
    """A line for each kind of click: mean Dice, that of each phantom, the worst change, how many were left out."""
    scores: dict[str, list[list[float]]] = {}
    out: dict[str, int] = {}
    for seed in seeds:
        phantom, rng = make_phantom(seed, SHAPE, SPACING), np.random.default_rng(seed)
        masks = {
            "the other canal": phantom.labels == CANALS[1],
            "the jaw": phantom.labels == JAW,
            "air": phantom.image < AIR,
            "a tooth": (phantom.labels >= TEETH[0]) & (phantom.labels <= TEETH[1]),
            "a lower left tooth": (phantom.labels >= LEFT_LOWER[0]) & (phantom.labels <= LEFT_LOWER[1]),
        }
        session, good = segmenter.session((phantom.image, phantom.spacing)), right_clicks(phantom, [2, 0, 4, 1][:right])
        kinds: dict[str, list[list]] = {"none": [[]], "right": [good]}
        for what, mask in masks.items():
            kinds[what] = [[*good, (place, 0)] for place in rng.choice(np.argwhere(mask), draws)]
        for kind, tries in kinds.items():
            found = [ask(session, phantom, clicks) for clicks in tries]
            scores.setdefault(kind, []).append([score for score, _ in found])
            out[kind] = out.get(kind, 0) + sum(left for _, left in found)
    for kind, values in scores.items():
        change = min(min(own) - alone[0] for own, alone in zip(values, scores["right"]))
        each = ", ".join(f"{np.mean(own):.3f}" for own in values)
        print(f"{kind:20} {np.mean(values):.3f}  ({each})  worst {change:+.3f}, left out {out[kind]}", flush=True)


def right_alone(segmenter: umamba2.Segmenter, kind: str, phantoms: list[Phantom]) -> None:
    """How many right clicks are left out, and what that changes."""
    clicks = out = 0
    changes = []
    for phantom in phantoms:
        session = segmenter.session((phantom.image, phantom.spacing))
        for count in range(1, 6):
            score, left = ask(session, phantom, right_clicks(phantom, range(count)))
            clicks, out = clicks + 2 * count, out + left
            if left:
                far, off_canal.FAR = off_canal.FAR, 1e6
                changes.append(score - ask(session, phantom, right_clicks(phantom, range(count)))[0])
                off_canal.FAR = far
    said = f"; mean Dice changed by {', '.join(f'{change:+.3f}' for change in changes)}" if changes else ""
    print(f"{kind:20} {out} of {clicks} right clicks left out, in {len(changes)} answers{said}", flush=True)


def right_clicks(phantom: Phantom, which) -> list:
    """Some of the five clicks on each canal, as (voxel, side)."""
    sides = [[place for name, place in phantom.clicks if name.startswith(side)] for side in ("Left", "Right")]
    return [(places[i], side) for i in which for side, places in enumerate(sides)]


def ask(session: Session, phantom: Phantom, clicks: list) -> tuple[float, int]:
    """The mean Dice of both canals with some clicks, and how many of these were left out."""
    places = np.array([place for place, _ in clicks], np.float32).reshape(-1, 3)
    answer: Answer = session.replace(Clicks(places, np.array([side for _, side in clicks], np.int64)))
    found = [dice(phantom.labels == true, session.labels == own) for own, true in enumerate(CANALS, start=1)]
    return float(np.mean(found)), sum("left out" in warning for warning in answer.warnings)


if __name__ == "__main__":
    main()
