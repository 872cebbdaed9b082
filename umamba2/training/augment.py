"""nnU-Net's augmentation with two changes: mirrored sides trade labels, unlabelled patches come in two versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor

# nnU-Net applies each of its intensity transforms to 10-30 % of the patches. "Strong" here means this often; the
# publication gives no number.
STRONG = 0.5


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


def weak_and_strong(transforms: ComposeTransforms) -> ComposeTransforms:
    """nnU-Net's training transforms for unlabelled patches: the spatial ones, then a weak and a strong version."""
    strong = [RandomTransform(t.transform, STRONG) for t in transforms.transforms if isinstance(t, RandomTransform)]
    return ComposeTransforms([*spatial_only(transforms).transforms, WeakAndStrong(strong)])
