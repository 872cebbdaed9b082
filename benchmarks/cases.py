"""How long does a whole case take from the command to the written labels, against nnU-Net's own command line?

    python benchmarks/cases.py SCAN [--repeats 3] [--full] [--shape 170 350 370]

Start-up, reading and writing included; every run is a process of its own, and the contestants take turns, so that a
busy machine slows all of them. Without --full the multi-class demo model on SCAN; with it the full-size network with
random weights on random voxels of the median size of ToothFairy3 (SCAN is not read then), which takes nnU-Net many
minutes a case. nnU-Net runs our network in plain torch layers, without mirror images: it knows no left and right.
"Same work" are nnU-Net's settings: step 0.5, no mirror images, no post-processing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cpu import FEATURES, RESOURCES, SPACING, volume, write_model

from umamba2.challenges import MULTICLASS
from umamba2.models.folder import load_model
from umamba2.scans.geometry import Geometry
from umamba2.scans.volumes import read_volume, write_volume

SCRIPTS = Path(sys.executable).parent
PATCH = (160, 288, 288)
SAME_WORK = ("--tile-step", "0.5", "--no-mirroring", "--no-postprocess", "--dental-field", "off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path, nargs="?")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--shape", type=int, nargs=3, default=(170, 350, 370), help="voxels of the scan of --full")
    parser.add_argument("--patch", type=int, nargs=3, default=PATCH, help="of the network of --full")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not arguments.full and not arguments.scan:
        parser.error("a scan, or --full")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "in").mkdir()
        case = work / "in/case_0000.nii.gz"
        if arguments.full:
            write_model(work, FEATURES, arguments.patch, 47)
            geometry = Geometry.of_array(arguments.shape, SPACING)
            write_volume(case, volume(arguments.shape).astype(np.int16), geometry)
        else:
            scan = read_volume(arguments.scan)
            write_volume(case, scan.array, scan.geometry)
            write_demo(work)
        compare(work, arguments.full, arguments.repeats)


def write_demo(folder: Path) -> None:
    """The demo model in nnU-Net's layout, with its plain normalisation: ours harmonises intensities before."""
    model = load_model(RESOURCES / MULTICLASS.name)
    (fold,) = model.folds.values()
    plans, configuration = model.source["plans"], model.source["configuration"]
    plans |= {"label_manager": "LabelManager", "image_reader_writer": "SimpleITKIO"}
    plans["transpose_backward"] = np.argsort(plans["transpose_forward"]).tolist()
    plans["configurations"][configuration]["normalization_schemes"] = ["CTNormalization"]
    init = {"plans": plans, "configuration": configuration, "fold": 0, "dataset_json": model.dataset}
    checkpoint = {"network_weights": fold, "init_args": init, "trainer_name": "nnUNetTrainer"}
    (folder / "fold_0").mkdir()
    torch.save({**checkpoint, "inference_allowed_mirroring_axes": None}, folder / "fold_0/checkpoint_best.pth")


def compare(work: Path, full: bool, repeats: int) -> None:
    """A table of seconds a case."""
    (checkpoint,) = work.glob("fold_0/*.pth")
    init = torch.load(checkpoint, weights_only=False)["init_args"]
    for name, content in (("plans", init["plans"]), ("dataset", init["dataset_json"])):
        (work / f"{name}.json").write_text(json.dumps({"file_ending": ".nii.gz", **content}))
    ours = [str(SCRIPTS / "umamba2"), "predict", "-i", str(work / "in"), "-m", str(work if full else RESOURCES)]
    if full:
        ours += ["--challenge", MULTICLASS.name, "--orientation", "keep"]
    else:
        ours[-1] += f"/{MULTICLASS.name}"
    theirs = [str(SCRIPTS / "nnUNetv2_predict_from_modelfolder"), "-i", str(work / "in"), "-m", str(work), "-f", "0"]
    contestants = {"nnU-Net, fp32": [*theirs, "-chk", checkpoint.name, "-device", "cpu", "--disable_tta"]}
    for precision in ("fp32", "bf16"):
        contestants[f"umamba2, {precision}, same work"] = [*ours, "--precision", precision, *SAME_WORK]
        if not full:  # there the published settings are four passes
            contestants[f"umamba2, {precision}, default settings"] = [*ours, "--precision", precision]
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    variables = {"nnUNet_raw": "", "nnUNet_preprocessed": "", "nnUNet_results": "", "nnUNet_compile": "false"}
    for turn in range(repeats):
        for name, command in contestants.items():
            out = work / f"out_{turn}_{len(seconds[name])}_{name.replace(' ', '_')}"
            start = time.perf_counter()
            done = subprocess.run(
                [*command, "-o", str(out)], env=os.environ | variables, capture_output=True, text=True
            )
            seconds[name].append(time.perf_counter() - start)
            if done.returncode or not any(out.glob("*.nii.gz")):
                raise SystemExit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    print(f"\n{time.strftime('%Y-%m-%d')}, {torch.get_num_threads()} threads")
    print("| | seconds a case | times faster |\n|---|---|---|")
    first = statistics.median(next(iter(seconds.values())))
    for name, found in seconds.items():
        print(f"| {name} | {statistics.median(found):.1f} | {first / statistics.median(found):.1f} |")


if __name__ == "__main__":
    main()
