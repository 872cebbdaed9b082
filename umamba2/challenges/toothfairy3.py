"""ToothFairy3 (MICCAI 2025) on Grand Challenge.

Folders and names: the organisers' algorithm templates and the platform's interface (`/input/images/cbct`, one output
folder per socket). Tile steps, mirroring, blending and connectivity: the settings that the U-Mamba2 authors submitted
(arXiv 2509.12069 and their released inference code). Training: the same paper and the released code, which wins where
the two disagree.
"""

from __future__ import annotations

from dataclasses import replace

from umamba2.anatomy.structures import ANATOMY, by_name
from umamba2.challenges.challenge import Challenge
from umamba2.challenges.recipe import Clicking, Recipe, Stage

_named = by_name(ANATOMY)
_small_canals = ("left mandibular incisive canal", "right mandibular incisive canal", "lingual canal")
_alveolar_canals = ("left inferior alveolar canal", "right inferior alveolar canal")

MULTICLASS = Challenge(
    name="toothfairy3-multiclass",
    title="ToothFairy3 task 1: 46 structures of the mouth",
    structures=ANATOMY,
    grading="classes",
    dataset_name="Dataset301_ToothFairy3",
    mounts=("/input", "/output"),
    image_folder="images/cbct",
    output_folder="images/oral-pharyngeal-segmentation",
    output_name="{name}",
    has_results=True,
    tile_step=0.95,
    connectivity=18,
    recipe=Recipe(
        network="umamba2.nets.UMamba2",
        patch=(160, 288, 288),
        train=Stage(1500, 0.01),
        finetune=Stage(500, 1e-3, "linear", 1e-5),
        class_weights=tuple((_named[name].training, 10.0) for name in _small_canals),
        soft_target=0.1,
    ),
)

INTERACTIVE = Challenge(
    name="toothfairy3-interactive",
    title="ToothFairy3 task 2: the inferior alveolar canals, with clicks",
    structures=tuple(
        replace(_named[name], training=i, platform=i, public=i) for i, name in enumerate(_alveolar_canals, start=1)
    ),
    released=ANATOMY,
    grading="click runs",
    dataset_name="Dataset302_ToothFairy3Interactive",
    mounts=("/input", "/output"),
    image_folder="images/cbct",
    output_folder="images/iac-segmentation",
    output_name="{name}",
    has_results=True,
    takes_clicks=True,
    tile_step=0.9,
    connectivity=26,
    recipe=Recipe(
        network="umamba2.nets.UMamba2Click",
        patch=(160, 288, 288),
        train=Stage(1500, 0.01),
        finetune=Stage(500, 1e-3, "linear", 1e-5),
        clicks=Clicking(),
    ),
)
