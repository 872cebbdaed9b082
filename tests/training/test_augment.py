"""Mirroring that knows left from right, and the two versions of an unlabelled patch."""

import numpy as np
import pytest
import torch

pytest.importorskip("nnunetv2")

from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from umamba2.anatomy.structures import ANATOMY, left_right_pairs
from umamba2.challenges.recipe import StrongAugmentation
from umamba2.synthetic.phantoms import make_phantom
from umamba2.training.augment import MirrorSides, spatial_only, strong_changes, swap_sides, weak_and_strong

PAIRS = left_right_pairs(ANATOMY)


def by_hand(image, labels, axes):
    """A mirrored patch, voxel by voxel, with left and right labels exchanged when x (axis 2) is mirrored."""
    partner = {**dict(PAIRS), **{right: left for left, right in PAIRS}}
    out_image, out_labels = image.clone(), labels.clone()
    for voxel in np.ndindex(*image.shape[1:]):
        source = tuple(n - 1 - i if axis in axes else i for axis, (i, n) in enumerate(zip(voxel, image.shape[1:])))
        out_image[(0, *voxel)] = image[(0, *source)]
        label = int(labels[(0, *source)])
        out_labels[(0, *voxel)] = partner.get(label, label) if 2 in axes else label
    return out_image, out_labels


@pytest.fixture
def patch():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(-1, 47, (1, 4, 6, 8), generator=generator).short()
    return torch.rand(1, 4, 6, 8, generator=generator), labels


@pytest.mark.parametrize("axes", [[], [0], [1], [2], [0, 2], [0, 1, 2]])
def test_mirroring_equals_mirroring_by_hand(patch, axes):
    image, labels = patch
    mirror = MirrorSides((0, 1, 2), 2, PAIRS)
    got = mirror.apply({"image": image.clone(), "segmentation": labels.clone()}, axes=axes)
    image, labels = by_hand(image, labels, axes)
    assert torch.equal(got["image"], image)
    assert torch.equal(got["segmentation"], labels)
    assert got["segmentation"].dtype == labels.dtype


def test_a_mirrored_patch_never_keeps_its_sides(patch):
    """Whatever the random axes are, the labels belong to the image, at full and at half resolution."""
    image, labels = patch
    pipeline = swap_sides(
        ComposeTransforms(
            [
                MirrorTransform((0, 1, 2)),
                RemoveLabelTansform(-1, 0),
                DownsampleSegForDSTransform([[1, 1, 1], [0.5, 0.5, 0.5]]),
            ]
        ),
        2,
        PAIRS,
    )
    torch.manual_seed(0)
    seen = set()
    for _ in range(60):
        got = pipeline(image=image.clone(), segmentation=labels.clone())
        choices = [[a for a in range(3) if bits >> a & 1] for bits in range(8)]
        axes = next(a for a in choices if torch.equal(got["image"], by_hand(image, labels, a)[0]))
        expected = by_hand(image, labels, axes)[1].clamp(min=0)
        full, half = got["segmentation"]
        assert torch.equal(full, expected)
        # nearest-exact takes the voxel at or just behind the middle of each pair
        assert torch.equal(half, expected[:, 1::2, 1::2, 1::2])
        seen.add(tuple(axes))
    assert len(seen) == 8


def test_without_pairs_labels_stay(patch):
    _, labels = patch
    got = MirrorSides((2,), 2, ()).apply({"segmentation": labels.clone()}, axes=[2])["segmentation"]
    assert torch.equal(got, labels.flip(3))


def test_swapping_twice_is_nothing(patch):
    _, labels = patch
    mirror = MirrorSides((2,), 2, PAIRS)
    assert torch.equal(mirror.swapped(mirror.swapped(labels)), labels)
    assert not torch.equal(mirror.swapped(labels), labels)


def nnunet_transforms():
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return nnUNetTrainer.get_training_transforms((8, 8, 8), (-0.5, 0.5), [[1, 1, 1]], (0, 1, 2), False)


def test_weak_and_strong_show_the_same_place():
    transforms = weak_and_strong(swap_sides(nnunet_transforms(), 2, ()), StrongAugmentation(), (8, 8, 8))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    differences, alike = [], []
    for _ in range(30):
        ramp = torch.arange(12.0).view(12, 1, 1).expand(1, 12, 12, 12).clone()
        got = transforms(image=ramp, segmentation=torch.zeros(1, 12, 12, 12).short())["image"]
        assert got.shape == (2, 8, 8, 8)
        weak, strong = got
        differences.append(float((weak - strong).abs().max()))
        if weak.std() > 0.5 and strong.std() > 0.05:
            alike.append(np.corrcoef(weak.flatten(), strong.flatten())[0, 1])
    assert sum(d > 0.01 for d in differences) > 15
    assert np.median(alike) > 0.8


def test_strong_changes_are_the_published_ones():
    """Every range and probability, against the released code's numbers."""
    changes = strong_changes(StrongAugmentation(), (160, 256, 256))
    assert [change.apply_probability for change in changes] == [0.5, 0.5, 0.5, 0.5, 0.7, 0.2, 0.5, 0.7, 0.5]
    blurs, noise, brightness, contrasts, resolution, inverted, gamma, boxes, sharpening = (c.transform for c in changes)
    median, blur = blurs.list_of_transforms
    assert (median.filter_size, blur.blur_sigma) == ((2, 8), (0.3, 1.5))
    assert noise.noise_variance == (0, 0.1)
    assert brightness.multiplier_range.contrast_range == (0.5, 1.5)
    assert [c.contrast_range.contrast_range for c in contrasts.list_of_transforms] == [(0.5, 1.5)] * 2
    assert [c.preserve_range for c in contrasts.list_of_transforms] == [True, False]
    assert resolution.scale == (0.25, 1)
    assert [(g.gamma.contrast_range, g.p_invert_image) for g in (inverted, gamma)] == [((0.7, 1.5), 1), ((0.7, 1.5), 0)]
    assert (boxes.num_rectangles, boxes.rectangle_size) == ((1, 5), [[16, 53], [25, 85], [25, 85]])
    assert sharpening.strength == (0.1, 1)
    for change in (median, blur, brightness, resolution, inverted, gamma, boxes, sharpening):
        assert change.p_per_channel == 1
    for n in range(1, 600):
        (edge,) = strong_changes(StrongAugmentation(), (n,))[7].transform.rectangle_size
        assert edge == [max(1, n // 10), max(2, n // 3)]


def test_strong_changes_are_as_strong_as_published():
    """The RMS change of phantom patches of standard deviation 0.622: 0.41 by the released code, measured there."""
    shape = (16, 24, 24)
    changes = ComposeTransforms(strong_changes(StrongAugmentation(), shape))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    found = []
    for seed in range(3):
        patch = torch.from_numpy(make_phantom(seed, shape, (2.5, 2.0, 2.0)).image.astype(np.float32))[None]
        patch = (patch - patch.mean()) / patch.std() * 0.622
        found += [float((changes(image=patch.clone())["image"] - patch).square().mean().sqrt()) for _ in range(30)]
    assert 0.36 < np.mean(found) < 0.46


def test_spatial_only_leaves_intensities_alone():
    kept = spatial_only(nnunet_transforms()).transforms
    assert not any(isinstance(t, RandomTransform) for t in kept)
    assert [type(t).__name__ for t in kept] == [
        "SpatialTransform", "MirrorTransform", "RemoveLabelTransform", "DownsampleSegForDSTransform"
    ]  # fmt: skip
