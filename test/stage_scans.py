"""Lay real scans out as each platform mounts them, without clicks.

python test/stage_scans.py SCANS OUTPUT

Takes ``cbct_*.mha`` and ``cbct_*.nii.gz`` of SCANS and writes ``OUTPUT/<challenge>/``.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import SimpleITK as sitk

from umamba2.challenges import CHALLENGES
from umamba2.scans.volumes import stem

MULTICLASS, INTERACTIVE, STSR = CHALLENGES
NO_CLICKS = {"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": []}


def main(scans: Path, output: Path) -> None:
    for scan in sorted([*scans.glob("cbct_*.mha"), *scans.glob("cbct_*.nii.gz")]):
        for challenge in (MULTICLASS, INTERACTIVE):
            folder = output / challenge / "images/cbct"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(scan, folder / scan.name)
        (output / INTERACTIVE / f"iac_clicks_{stem(scan)}.json").write_text(json.dumps(NO_CLICKS))
        (output / STSR).mkdir(parents=True, exist_ok=True)
        nifti = output / STSR / f"{stem(scan)}.nii.gz"
        if scan.name.endswith(".nii.gz"):
            shutil.copyfile(scan, nifti)
        else:
            sitk.WriteImage(sitk.ReadImage(str(scan)), str(nifti), useCompression=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
