"""STSR 2025 task 1 on Codabench.

Folders and names: what the final phase's harness mounts and collects (its template writes `_mask`, the dataset
`_Masks`, hence the option). Tile step, mirroring and training: the paper (arXiv 2509.20154) and the released
U-Mamba2-SSL code, which wins where the two disagree (the paper's tile step is 0.9). Its classes do not come in
left/right pairs, and nothing small is removed.
"""

from __future__ import annotations

from umamba2.anatomy.structures import Structure, hsv
from umamba2.challenges.challenge import Challenge
from umamba2.challenges.recipe import Recipe, SemiSupervision, Stage

_CLASSES = (
    "tooth", "pulp", "upper 1", "upper molar root 1", "lower molar root 1", "lower molar root 2", "molar root 1",
    "lower molar root 3", "molar root 2", "lower 1", "upper 2", "wisdom tooth",
)  # fmt: skip


def _structure(number: int, name: str) -> Structure:
    # All but the first are canals and chambers. Hues a golden ratio apart stay apart.
    group, colour = "teeth" if name == "tooth" else "pulp", hsv(0.08 + number * 0.381966, 0.65, 0.95)
    return Structure(name, number, number, number, (number,), group, colour)


STSR = Challenge(
    name="stsr",
    title="STSR 2025 task 1: teeth and root canals",
    structures=tuple(_structure(number, name) for number, name in enumerate(_CLASSES, start=1)),
    grading="instances",
    dataset_name="Dataset303_STSR2025",
    mounts=("/inputs", "/outputs"),
    output_name="{case}{suffix}.nii.gz",
    suffix="_Mask",
    tile_step=0.8,
    swaps_sides=False,
    recipe=Recipe(
        network="umamba2.nets.UMamba2",
        patch=(160, 256, 256),
        train=Stage(1000, 0.01),
        finetune=Stage(500, 1e-3, "linear", 1e-5),
        trainer="UMamba2SemiSupervisedTrainer",
        batch_dice=False,
        dice_smooth=0.0,
        swap_sides=False,
        unlabelled=SemiSupervision(),
        unlabelled_finetune=SemiSupervision(start=0.3, ramp=0.05, pseudo_labels=0.25),
    ),
)
