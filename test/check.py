"""Check what one run wrote: is it what the platform takes, and does it agree with the ground truth?

    python test/check.py CHALLENGE INPUT OUTPUT [--expected FOLDER] [--started FILE] [--log FILE] [--update]

Prints one line per case. Without ``--expected`` there is no ground truth, and only grid, labels and bookkeeping are
checked. ``--started`` names a file touched when the run began; the times are taken from it and from the outputs'
modification times, so the first case's includes start-up. ``--log`` names what the run printed, which says how much
memory it took. ``--contract`` asks for no minimum scores. ``--update`` stores the scores, less a margin, as the new
minimum in ``expected_scores.json``. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba2.anatomy.numberings import from_training
from umamba2.anatomy.structures import FDI_TEETH
from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError
from umamba2.scans.volumes import list_volumes, read_labels, stem

MULTICLASS, INTERACTIVE, STSR = CHALLENGES
SCORES = Path(__file__).parent / "expected_scores.json"
MARGIN = 0.03  # between this machine's scores and the minimum on others: half precision differs a little
# What may be said of a sample: it is small, and shows little air.
REMARK = "found no separate peaks of air and soft tissue"
# What a line reports: means over groups of graded ids.
GROUPS = {
    MULTICLASS: {"jaws": (1, 2), "teeth": FDI_TEETH, "canals": (3, 4), "all": None},
    INTERACTIVE: {"left": (1,), "right": (2,)},
    STSR: {"tooth": (1,), "pulp": (2,), "all": None},
}


def cases(challenge: str, folder: Path) -> list[Path]:
    """The images that the platform mounted."""
    return list_volumes(folder if challenge == STSR else folder / "images/cbct")


def output_path(challenge: str, image: Path, folder: Path) -> Path:
    """Where the platform looks for the segmentation of an image."""
    if challenge == STSR:
        return folder / f"{stem(image)}_Mask.nii.gz"
    return folder / CHALLENGES[challenge].output_folder / image.name


def truth_path(challenge: str, image: Path, folder: Path) -> Path:
    """The ground truth of an image; the interactive challenge numbers the runs of one scan ``_0`` to ``_5``."""
    name = image.name
    if challenge == INTERACTIVE:
        base = stem(image)
        name = base.rpartition("_")[0] + name[len(base) :]
    return folder / name


def check_form(image: Path, output: Path, challenge: str) -> tuple[np.ndarray | None, list[str]]:
    """Read a segmentation; its labels (None if there are none to look at) and what is wrong with it."""
    try:
        labels, found = read_labels(output)
    except InputError as error:
        return None, [str(error)]
    problems = []
    # Metadata are enough: the image's voxels do not matter here.
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(image))
    reader.ReadImageInformation()
    for what in ("size", "spacing", "origin", "direction"):
        expected = getattr(reader, f"Get{what.title()}")()
        value = getattr(found, what)
        if len(value) != len(expected) or not np.allclose(value, expected, rtol=0, atol=1e-5):
            problems.append(f"{output}: found {what} {value}, expected {expected}")
    if labels.dtype != np.uint8:
        problems.append(f"{output}: found {labels.dtype} voxels, expected uint8")
    known = from_training(CHALLENGES[challenge].structures)
    strange = np.setdiff1d(np.unique(labels), known).tolist()
    if strange:
        problems.append(f"{output}: found labels {strange}, expected only {known.tolist()}")
    return labels, problems


def check_bookkeeping(images: list[Path], folder: Path, challenge: str) -> list[str]:
    """What is wrong with ``results.json``, and files that no platform asked for."""
    problems = []
    wanted = {output_path(challenge, image, folder) for image in images}
    if challenge != STSR:
        results = folder / "results.json"
        wanted.add(results)
        try:
            found = json.loads(results.read_text())
        except (OSError, ValueError) as error:
            problems.append(f"{results}: found no valid JSON ({error}), expected one entry per case")
        else:
            expected = []
            for entry in found if isinstance(found, list) else ():
                if isinstance(entry, dict) and isinstance(entry.get("error_messages"), list):
                    entry["error_messages"] = [m for m in entry["error_messages"] if REMARK not in str(m)]
            for image in images:
                file = {"type": "metaio_image", "filename": image.name}
                expected.append({"outputs": [file], "inputs": [file], "error_messages": []})
            same = isinstance(found, list) and sorted(found, key=json.dumps) == sorted(expected, key=json.dumps)
            if not same:
                problems.append(f"{results}: found {found}, expected {expected}")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in wanted and "metadata" not in path.relative_to(folder).parts:
            problems.append(f"{path}: found a file that the platform does not expect")
    return problems


def dice(labels: np.ndarray, truth: np.ndarray, ids: tuple[int, ...] | None) -> float:
    """Mean Dice over the ids (None: all) present in at least one of the two; 1 if there are none."""
    size = np.bincount(labels.ravel(), minlength=256) + np.bincount(truth.ravel(), minlength=256)
    overlap = np.bincount(labels[labels == truth].ravel(), minlength=256)
    present = [i for i in (range(1, 256) if ids is None else ids) if size[i]]
    return float(np.mean([2 * overlap[i] / size[i] for i in present])) if present else 1.0


def seconds(outputs: list[Path], started: Path | None) -> dict[Path, float]:
    """How long each case took: the time between one output and the one before."""
    if started is None:
        return {}
    before, times = started.stat().st_mtime, {}
    for path in sorted((p for p in outputs if p.exists()), key=lambda p: p.stat().st_mtime):
        times[path] = path.stat().st_mtime - before
        before = path.stat().st_mtime
    return times


def peaks(log: Path | None) -> dict[str, str]:
    """Image name -> the most memory that the process had had when the case was done, from what the run printed."""
    lines = log.read_text(errors="replace").splitlines() if log is not None and log.exists() else []
    found = (re.match(r"(.+?)  \d+x\d+x\d+  (\d+\.\d+ GB)  ", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("challenge", choices=CHALLENGES)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--expected", type=Path, help="folder of ground truth label maps")
    parser.add_argument("--started", type=Path, help="file touched when the run began")
    parser.add_argument("--log", type=Path, help="what the run printed")
    parser.add_argument("--contract", action="store_true", help="ask for no minimum scores")
    parser.add_argument("--update", action="store_true", help="store the scores as the new minimum")
    arguments = parser.parse_args()
    challenge = arguments.challenge

    images = cases(challenge, arguments.input)
    outputs = {image: output_path(challenge, image, arguments.output) for image in images}
    times = seconds(list(outputs.values()), arguments.started)
    memory = peaks(arguments.log)
    minimum = json.loads(SCORES.read_text()) if SCORES.exists() else {}
    problems = [] if images else [f"{arguments.input}: found no images, expected at least one"]
    for image, output in outputs.items():
        labels, wrong = check_form(image, output, challenge)
        line = [f"{challenge:<23} {stem(image):<16}"]
        if arguments.expected is None:
            line.append("no ground truth, grid and labels " + ("wrong" if wrong else "right"))
            if labels is not None:
                line.append(f"structures: {len(np.unique(labels[labels > 0]))}")
        elif labels is not None:
            truth, _ = read_labels(truth_path(challenge, image, arguments.expected))
            if labels.shape == truth.shape:
                scores = {name: dice(labels, truth, ids) for name, ids in GROUPS[challenge].items()}
                line.append("Dice " + " ".join(f"{name} {score:.3f}" for name, score in scores.items()))
                if arguments.update:
                    minimum.setdefault(challenge, {})[stem(image)] = {
                        name: max(0.0, round(score - MARGIN, 2)) for name, score in scores.items()
                    }
                least = {} if arguments.contract else minimum.get(challenge, {}).get(stem(image))
                if least is None:
                    wrong.append(f"{SCORES}: found no entry for {challenge} {stem(image)} (--update makes one)")
                for name, bound in (least or {}).items():
                    if scores[name] < bound:
                        wrong.append(f"{output}: found Dice {scores[name]:.3f} for {name}, expected at least {bound}")
        if output in times:
            line.append(f"{times[output]:.1f} s")
        if image.name in memory:
            line.append(memory[image.name])
        line.append(f"-> {os.path.relpath(output)}" if labels is not None else "-> no output")
        print("  ".join(line))
        problems += wrong
    problems += check_bookkeeping(images, arguments.output, challenge)
    if arguments.update:
        SCORES.write_text(json.dumps(minimum, indent=2, sort_keys=True) + "\n")
    for problem in problems:
        print(f"  wrong: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:  # a ground truth or an input that cannot be read
        sys.exit(f"check.py: {error}")
