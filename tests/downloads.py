"""Tiny downloads in the challenges' layouts, made of phantoms."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba2.synthetic.phantoms import Phantom, make_phantom

SHAPE, SPACING = (28, 44, 52), (2.0, 2.0, 2.0)


@lru_cache
def phantom(seed: int) -> Phantom:
    return make_phantom(seed, SHAPE, SPACING)


def write(path: Path, array: np.ndarray, spacing=SPACING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path), True)
    return path


def toothfairy3(folder: Path, cases=("ToothFairy3F_001", "ToothFairy3P_002", "ToothFairy3S_0003"), ending=".nii.gz"):
    """imagesTr and labelsTr with the release's ids."""
    for seed, case in enumerate(cases):
        write(folder / "imagesTr" / f"{case}_0000{ending}", phantom(seed).image)
        write(folder / "labelsTr" / f"{case}{ending}", phantom(seed).labels)
    return folder


def stsr(folder: Path, labelled: int = 3, unlabelled: int = 2) -> Path:
    """A folder of labelled and one of unlabelled scans."""
    for seed in range(labelled):
        name = f"STS25_Train_Labeled_{seed + 1:05}"
        write(folder / "Labeled" / f"{name}.nii.gz", phantom(seed).image)
        write(folder / "Labeled" / f"{name}_Masks.nii.gz", phantom(seed).stsr_labels)
    for seed in range(unlabelled):
        write(folder / "Unlabeled" / f"STS25_Train_Unlabeled_{seed + 1:05}.nii.gz", phantom(5 + seed).image)
    return folder
