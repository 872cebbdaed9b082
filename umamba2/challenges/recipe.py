"""How a network is planned and trained, as data.

The defaults are what the published recipes share (arXiv 2509.12069 and 2509.20154 and the authors' released code, which
wins where the two disagree). Whatever neither states is nnU-Net's default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

DATA_IDENTIFIER = "nnUNetPlans_3d_fullres_torchres_ctnorm"


@dataclass(frozen=True)
class Architecture:
    """Size of the residual-encoder U-Net around the Mamba-2 layer; one entry per stage."""

    features: tuple[int, ...]
    blocks: tuple[int, ...]
    smallest_edge: int = 4  # cells: the last stage halves no axis below this

    def strides(self, patch: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Strides per stage: every stage but the first halves all axes, the last one only those where a patch leaves
        an even number of cells and half of them is not below ``smallest_edge``.

        (1, 2, 2) for 128x256x256 and 160x256x256 and (1, 1, 1) for 160x288x288, as published.
        """
        stages = len(self.features)
        cells = [n / 2 ** (stages - 2) for n in patch]
        last = tuple(2 if n % 2 == 0 and n / 2 >= self.smallest_edge else 1 for n in cells)
        return ((1, 1, 1), *[(2, 2, 2)] * (stages - 2), last)

    def total_stride(self, patch: tuple[int, ...]) -> tuple[int, ...]:
        """What the sizes of a patch must be divisible by, per axis."""
        return tuple(math.prod(axis) for axis in zip(*self.strides(patch)))

    def arch_kwargs(self, patch: tuple[int, ...], takes_clicks: bool = False) -> dict[str, Any]:
        """The architecture as nnU-Net plans state it; ``takes_clicks`` adds the patch that click positions refer to."""
        stages = len(self.features)
        arguments = {
            "n_stages": stages,
            "features_per_stage": list(self.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [list(s) for s in self.strides(patch)],
            "n_blocks_per_stage": list(self.blocks),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        return {**arguments, "patch_size": list(patch)} if takes_clicks else arguments


FULL = Architecture(features=(32, 64, 128, 256, 320, 320, 320), blocks=(1, 3, 4, 6, 6, 6, 6))
# 1/45 of the weights: for CPUs, tests and the demo models. Not published.
SMALL = Architecture(features=(16, 32, 64, 96, 120), blocks=(1, 1, 2, 2, 1), smallest_edge=2)
ARCHITECTURES = {"full": FULL, "small": SMALL}


@dataclass(frozen=True)
class Stage:
    """One training run: how long and how fast.

    Attributes:
        epochs: How many.
        learning_rate: Of the first epoch.
        schedule: "poly" (nnU-Net's, power 0.9) or "linear".
        final_rate: Of the last epoch, if the schedule is linear.
    """

    epochs: int
    learning_rate: float
    schedule: str = "poly"
    final_rate: float = 0.0


@dataclass(frozen=True)
class Clicking:
    """Clicks drawn on each training patch (ToothFairy3's simulator, with these numbers)."""

    none: float = 0.1  # probability that a class gets no click
    most: int = 10
    fewest_voxels: int = 11  # classes with fewer in the patch get none
    noise: int = 5  # voxels
    tries: int = 3


@dataclass(frozen=True)
class StrongAugmentation:
    """The changed version of an unlabelled patch: (lowest, highest) of each number, and how likely each change is.

    The upper ends of ``median`` and ``boxes`` are exclusive, as in the library that the released code calls.
    """

    median: tuple[int, int] = (2, 8)  # voxels; either this or a Gaussian blur
    blur: tuple[float, float] = (0.3, 1.5)  # voxels
    p_blur: float = 0.5
    noise_variance: tuple[float, float] = (0.0, 0.1)
    p_noise: float = 0.5
    brightness: tuple[float, float] = (0.5, 1.5)
    p_brightness: float = 0.5
    contrast: tuple[float, float] = (0.5, 1.5)  # in half of the cases with the range of intensities kept
    p_contrast: float = 0.5
    resolution: tuple[float, float] = (0.25, 1.0)
    p_resolution: float = 0.7
    gamma: tuple[float, float] = (0.7, 1.5)
    p_gamma_inverted: float = 0.2
    p_gamma: float = 0.5
    boxes: tuple[int, int] = (1, 5)
    box_edge: tuple[float, float] = (0.1, 1 / 3)  # of the patch
    p_boxes: float = 0.7
    sharpening: tuple[float, float] = (0.1, 1.0)
    p_sharpening: float = 0.5


@dataclass(frozen=True)
class SemiSupervision:
    """Unlabelled micro-batches of U-Mamba2-SSL. ``t`` is the fraction of the stage that is over."""

    start: float = 0.1  # probability of an unlabelled micro-batch: min(most, t + start), t by epochs
    most: float = 0.5
    consistency_weight: float = 50.0  # times exp(-5 (1 - min(1, t / ramp))^2)
    ramp: float = 0.2
    strong: StrongAugmentation = field(default_factory=StrongAugmentation)
    kept_skips: int = 2  # the finest; the published network has seven, of which it perturbs the last five
    dropout: float = 0.5
    attention_threshold: tuple[float, float] = (0.6, 0.9)
    feature_noise: float = 0.3
    pseudo_labels: float = 0.0  # probability that an unlabelled micro-batch uses pseudo-labels
    confidence: float = 0.75
    pseudo_weight: float = 0.1
    # Supervised losses are divided by the micro-batches of a step. The released code does not divide these; the paper
    # does not say so.
    averaged: bool = False


@dataclass(frozen=True)
class Pretraining:
    """The disruptive autoencoder. Learning rates follow a cosine after a linear warm-up."""

    trainer: str = "UMamba2Pretrainer"
    epochs: int = 200
    batch_size: int = 2
    learning_rate: float = 5e-5
    final_rate: float = 5e-6
    warmup_epochs: int = 4
    warmup_rate: float = 5e-7
    weight_decay: float = 0.05
    clip: float = 1.0
    noise_variance: float = 0.1
    downsampling: int = 4
    masked: float = 0.3  # fraction of the blocks
    block: int = 16  # voxels
    mask_value: float = -2.0


@dataclass(frozen=True)
class Recipe:
    """How to plan and train for one challenge.

    Attributes:
        network: A class that nnU-Net can import from plans.
        patch: Size in voxels, (z, y, x).
        train: The first stage.
        finetune: The second stage, if there is one.
        architecture: Size of the network.
        normalisation: nnU-Net's name of the intensity normalisation.
        data_identifier: nnU-Net's name of the preprocessed cases.
        batch_size: Patches of a micro-batch.
        batch_dice: Whether the Dice is that of all samples together; None leaves the planner's.
        trainer: The name of the trainer class.
        iterations: Optimizer steps of an epoch.
        validation_iterations: Batches of an epoch's validation.
        accumulate: Micro-batches of a step.
        momentum, weight_decay: Of stochastic gradient descent.
        clip: Largest norm of the gradient.
        dice_smooth: Added to numerator and denominator of the Dice loss.
        class_weights: (training id, weight) of the cross-entropy; 1 for all others.
        soft_target: Share of a label that goes to its anatomical neighbours; 0: hard labels. With this or with
            weights the Dice loss is not smoothed.
        mirror_axes: Axes (0 z, 1 y, 2 x) to mirror patches along, at random.
        swap_sides: Whether an x mirror image swaps left and right labels.
        clicks: The clicks of an interactive network.
        unlabelled, unlabelled_finetune: Unlabelled steps of the two stages.
        pretrain: Pretraining on scans without labels.
    """

    network: str
    patch: tuple[int, int, int]
    train: Stage
    finetune: Stage | None = None
    architecture: Architecture = FULL
    normalisation: str = "CTNormalization"
    data_identifier: str = DATA_IDENTIFIER
    batch_size: int = 1
    batch_dice: bool | None = None
    trainer: str = "UMamba2Trainer"
    iterations: int = 250
    validation_iterations: int = 10
    accumulate: int = 2
    momentum: float = 0.99
    weight_decay: float = 3e-5
    clip: float = 12.0
    dice_smooth: float = 1e-5
    class_weights: tuple[tuple[int, float], ...] = ()
    soft_target: float = 0.0
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    swap_sides: bool = True
    clicks: Clicking | None = None
    unlabelled: SemiSupervision | None = None
    unlabelled_finetune: SemiSupervision | None = None
    pretrain: Pretraining = field(default_factory=Pretraining)
