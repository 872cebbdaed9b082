"""STSR 2025 task 1 on Codabench.

Folders and names: what the final phase's harness mounts and collects (its template writes `_mask`, the dataset
`_Masks`, hence the option). Tile step and mirroring: the released U-Mamba2-SSL inference code (the paper, arXiv
2509.20154, says 0.9); its classes do not come in left/right pairs, and nothing small is removed.
"""

from __future__ import annotations

from umamba2.anatomy import structures as labels
from umamba2.challenges.challenge import Challenge

STSR = Challenge(
    name=labels.STSR,
    mounts=("/inputs", "/outputs"),
    image_folder="",
    output_folder="",
    output_name="{case}{suffix}.nii.gz",
    has_results=False,
    takes_clicks=False,
    tile_step=0.8,
    swaps_sides=False,
    connectivity=None,
    suffix="_Mask",
)
