from __future__ import annotations

import numpy as np

from umamba2.anatomy.arches import LOWER_ARCH, SMALLEST_TOOTH, UPPER_ARCH, average_place
from umamba2.anatomy.structures import FDI_TEETH


def test_the_arches_hold_every_tooth_once_and_go_from_right_to_left():
    assert sorted((*UPPER_ARCH, *LOWER_ARCH)) == list(FDI_TEETH)
    for arch in (UPPER_ARCH, LOWER_ARCH):
        lateral = [average_place(fdi)[0] for fdi in arch]
        assert lateral == sorted(lateral)
        steps = np.linalg.norm(np.diff([average_place(fdi) for fdi in arch], axis=0), axis=1)
        assert steps.min() > 5  # mm: the width of the narrowest tooth
        assert steps.max() < 12


def test_the_two_sides_are_mirror_images_and_the_jaws_lie_above_each_other():
    for upper, lower in zip(UPPER_ARCH, LOWER_ARCH):
        assert upper % 10 == lower % 10
        (x, y, z), (x2, y2, z2) = average_place(upper), average_place(lower)
        assert abs(x - x2) < 4
        assert abs(y - y2) < 4
        assert z > z2
    for fdi in FDI_TEETH:
        partner = {1: 2, 2: 1, 3: 4, 4: 3}[fdi // 10] * 10 + fdi % 10
        x, y, z = average_place(fdi)
        assert average_place(partner) == (-x, y, z)
    assert len(SMALLEST_TOOTH) == 8
