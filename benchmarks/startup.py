"""How long from the start of the process to the first tile, compared with `python -c "import torch"` alone?

    python benchmarks/startup.py [--repeats 7] [--challenge stsr] [--input FOLDER] [--model FOLDER]

Run time, start-up included, is a third of the ToothFairy3 score. The goal is at most 1.0 s on top of torch's import.
The two take turns, so that a busy machine slows both; the medians are printed, and their difference.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Runs inference.py's main with a predictor that stops the process when the first tile is about to enter the network.
TO_FIRST_TILE = """
import os, sys, time
from umamba2.jobs import container
import inference
load_segmenter = container.load_segmenter

def load_and_mark(*arguments):
    segmenter = load_segmenter(*arguments)
    def first_tile(*_):
        print(time.time(), flush=True)
        os._exit(0)
    segmenter.predictor.runner.logits = first_tile
    return segmenter

container.load_segmenter = load_and_mark
sys.exit(inference.main(sys.argv[1:]))
"""
TORCH_ONLY = "import torch, time; print(time.time())"


def seconds(code: str, *arguments: str) -> float:
    """From the start of a new interpreter to the time that the code prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # Bytecode counts: the image ships it, so a run that may not write it would be slower than the image.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.time()
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.split()[-1]) - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--challenge", default="stsr")
    parser.add_argument("--input", type=Path, help="default: the sample case")
    parser.add_argument("--model", type=Path, default=ROOT / "resources")
    options = parser.parse_args()
    source = options.input or ROOT / "test" / options.challenge / "input"

    torch_only, first_tile = [], []
    with tempfile.TemporaryDirectory() as output:
        arguments = ["--challenge", options.challenge, "--input", str(source), "--output", output]
        arguments += ["--model", str(options.model)]
        for repeat in range(options.repeats + 1):
            times = seconds(TORCH_ONLY), seconds(TO_FIRST_TILE, *arguments)
            if repeat:  # the first pair fills the caches
                torch_only.append(times[0])
                first_tile.append(times[1])
                print(f"torch alone {times[0]:.2f} s   first tile {times[1]:.2f} s")
    medians = statistics.median(torch_only), statistics.median(first_tile)
    paired = statistics.median(b - a for a, b in zip(torch_only, first_tile))
    print(f"medians: torch alone {medians[0]:.2f} s, first tile {medians[1]:.2f} s", end=", ")
    print(f"difference {medians[1] - medians[0]:.2f} s (of pairs: {paired:.2f} s)")


if __name__ == "__main__":
    main()
