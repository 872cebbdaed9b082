"""What a wrong click does: mean Dice of both canals on phantoms, with right clicks and with one that is not.

    python benchmarks/wrong_clicks.py [--count 4] [--right 1]

Quick answers, one pass of the network, as while clicking on the page.
"""

from __future__ import annotations

import argparse

import numpy as np

import umamba2
from umamba2.evaluation import dice
from umamba2.models.locate import demo_model
from umamba2.scans.clicks import Clicks
from umamba2.synthetic import make_phantom

SEED, SHAPE, SPACING = 9101, (128, 204, 258), (0.4, 0.4, 0.4)
AIR, JAW, TEETH, CANALS = -900, 1, (11, 48), (3, 4)  # HU; dataset ids


def main() -> None:
    """Print a line for each kind of click."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4, help="phantoms (default: 4)")
    parser.add_argument("--right", type=int, default=1, help="right clicks on each side, at most 4 (default: 1)")
    options = parser.parse_args()
    segmenter = umamba2.load(demo_model("toothfairy3-interactive"))
    scores: dict[str, list[float]] = {}
    for seed in range(SEED, SEED + options.count):
        phantom, rng = make_phantom(seed, SHAPE, SPACING), np.random.default_rng(seed)
        left, right = ([place for name, place in phantom.clicks if name.startswith(s)] for s in ("Left", "Right"))
        teeth = (phantom.labels >= TEETH[0]) & (phantom.labels <= TEETH[1])
        masks = {"air": phantom.image < AIR, "a tooth": teeth, "the jaw": phantom.labels == JAW}
        session = segmenter.session((phantom.image, phantom.spacing))
        wrong = {"the other canal": right[3], **{what: rng.choice(np.argwhere(mask)) for what, mask in masks.items()}}
        some = [2, 0, 4, 1][: options.right]
        good = [(places[i], side) for i in some for side, places in enumerate((left, right))]
        kinds = {"none": [], f"right clicks on each side: {options.right}": good}
        kinds |= {f"these and one for the left on {what}": [*good, (place, 0)] for what, place in wrong.items()}
        for kind, clicks in kinds.items():
            places = np.array([place for place, _ in clicks], np.float32).reshape(-1, 3)
            session.replace(Clicks(places, np.array([side for _, side in clicks], np.int64)))
            found = [dice(phantom.labels == true, session.labels == own) for own, true in enumerate(CANALS, start=1)]
            scores.setdefault(kind, []).append(float(np.mean(found)))
    for kind, values in scores.items():
        print(f"{kind:45} {np.mean(values):.3f}  ({', '.join(f'{value:.3f}' for value in values)})")


if __name__ == "__main__":
    main()
