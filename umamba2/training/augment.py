"""nnU-Net's augmentation with two changes: mirrored sides trade labels, unlabelled patches come in two versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.blank_rectangle import BlankRectangleTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.noise.median_filter import MedianFilterTransform
from batchgeneratorsv2.transforms.noise.sharpen import SharpeningTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from torch import Tensor

from umamba2.challenges.recipe import StrongAugmentation


class MirrorSides(MirrorTransform):
    """Mirroring at random; along the left/right axis, the labels of paired structures trade places.

    ``allowed_axes`` of the patch (0, 1, 2); ``pairs`` of labels; label -1, which nnU-Net pads with, stays.
    """

    def __init__(self, allowed_axes: Sequence[int], left_right_axis: int, pairs: Sequence[tuple[int, int]]):
        super().__init__(tuple(allowed_axes))
        self.left_right_axis, self.pairs = left_right_axis, tuple(pairs)

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        segmentation = super()._apply_to_segmentation(segmentation, **params)
        return self.swapped(segmentation) if self.left_right_axis in params["axes"] else segmentation

    def swapped(self, labels: Tensor) -> Tensor:
        """Labels, -1 included, of any integer type and shape, with left for right."""
        if not self.pairs:
            return labels
        table = torch.arange(max(int(labels.max()), *(n for pair in self.pairs for n in pair)) + 2)
        for left, right in self.pairs:
            table[left], table[right] = right, left
        table[-1] = -1  # found by index -1
        return table.to(labels.dtype)[labels.long()]


class WeakAndStrong(ImageOnlyTransform):
    """One patch as two: (C, z, y, x) -> (2C, z, y, x), as it is and after the given transforms."""

    def __init__(self, strong: Sequence[BasicTransform]):
        super().__init__()
        self.strong = ComposeTransforms(list(strong))

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        return torch.cat([img, self.strong(image=img.clone())["image"]])


def swap_sides(
    transforms: ComposeTransforms, left_right_axis: int, pairs: Sequence[tuple[int, int]]
) -> ComposeTransforms:
    """nnU-Net's training transforms, their mirroring replaced by `MirrorSides`."""
    kept = [
        MirrorSides(t.allowed_axes, left_right_axis, pairs) if isinstance(t, MirrorTransform) else t
        for t in transforms.transforms
    ]
    return ComposeTransforms(kept)


def spatial_only(transforms: ComposeTransforms) -> ComposeTransforms:
    """nnU-Net's training transforms without those of the intensities, which are its `RandomTransform`s."""
    return ComposeTransforms([t for t in transforms.transforms if not isinstance(t, RandomTransform)])


def strong_changes(settings: StrongAugmentation, patch: Sequence[int]) -> list[BasicTransform]:
    """Changes of the intensities for the second version of an unlabelled patch, each at random.

    Args:
        settings: How much, and how likely.
        patch: (z, y, x) in voxels, of which the blank boxes are a part.
    """
    each = {"synchronize_channels": False, "p_per_channel": 1}

    def gamma(inverted: int) -> GammaTransform:
        return GammaTransform(BGContrast(settings.gamma), p_invert_image=inverted, p_retain_stats=1, **each)

    def contrast(keeps_range: bool) -> ContrastTransform:
        return ContrastTransform(BGContrast(settings.contrast), preserve_range=keeps_range, **each)

    median = MedianFilterTransform(settings.median, p_per_channel=1)
    blur = GaussianBlurTransform(settings.blur, synchronize_axes=False, benchmark=True, **each)
    low, high = settings.box_edge
    edges = [[max(1, int(low * n + 1e-9)), max(2, int(high * n + 1e-9))] for n in patch]  # the upper end is exclusive
    changes = (
        (OneOfTransform([median, blur]), settings.p_blur),
        (GaussianNoiseTransform(settings.noise_variance, 1, synchronize_channels=True), settings.p_noise),
        (MultiplicativeBrightnessTransform(BGContrast(settings.brightness), **each), settings.p_brightness),
        (OneOfTransform([contrast(True), contrast(False)]), settings.p_contrast),
        (
            SimulateLowResolutionTransform(settings.resolution, synchronize_axes=True, ignore_axes=None, **each),
            settings.p_resolution,
        ),
        (gamma(1), settings.p_gamma_inverted),
        (gamma(0), settings.p_gamma),
        (BlankRectangleTransform(edges, rectangle_value=0.0, num_rectangles=settings.boxes), settings.p_boxes),
        (SharpeningTransform(settings.sharpening, p_per_channel=1), settings.p_sharpening),
    )
    return [RandomTransform(change, probability) for change, probability in changes]


def weak_and_strong(
    transforms: ComposeTransforms, settings: StrongAugmentation, patch: Sequence[int]
) -> ComposeTransforms:
    """nnU-Net's training transforms for unlabelled patches: the spatial ones, then a weak and a strong version.

    Args:
        transforms: Those of labelled patches.
        settings: Of the strong version.
        patch: (z, y, x) in voxels.
    """
    return ComposeTransforms([*spatial_only(transforms).transforms, WeakAndStrong(strong_changes(settings, patch))])
