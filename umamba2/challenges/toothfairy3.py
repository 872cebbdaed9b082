"""ToothFairy3 (MICCAI 2025) on Grand Challenge.

Folders and names: the organisers' algorithm templates and the platform's interface (`/input/images/cbct`, one output
folder per socket). Tile steps, mirroring, blending and connectivity: the settings that the U-Mamba2 authors submitted
(arXiv 2509.12069 and their released inference code).
"""

from __future__ import annotations

from umamba2.anatomy import structures as labels
from umamba2.challenges.challenge import Challenge

MULTICLASS = Challenge(
    name=labels.MULTICLASS,
    mounts=("/input", "/output"),
    image_folder="images/cbct",
    output_folder="images/oral-pharyngeal-segmentation",
    output_name="{name}",
    has_results=True,
    takes_clicks=False,
    tile_step=0.95,
    swaps_sides=True,
    connectivity=18,
)

INTERACTIVE = Challenge(
    name=labels.INTERACTIVE,
    mounts=("/input", "/output"),
    image_folder="images/cbct",
    output_folder="images/iac-segmentation",
    output_name="{name}",
    has_results=True,
    takes_clicks=True,
    tile_step=0.9,
    swaps_sides=True,
    connectivity=26,
)
