"""The preset table against the published figures, and the plans it gives against nnU-Net's own network builder."""

from __future__ import annotations

import pytest
from challenge_names import INTERACTIVE, TASKS

from umamba2.challenges import CHALLENGES
from umamba2.challenges.recipe import ARCHITECTURES, FULL
from umamba2.models.network import build_network


@pytest.mark.parametrize(
    ("patch", "last", "tokens"),
    [((128, 256, 256), (1, 2, 2), 64), ((160, 256, 256), (1, 2, 2), 80), ((160, 288, 288), (1, 1, 1), 405)],
)
def test_published_patches_give_the_published_strides_and_tokens(patch, last, tokens):
    assert FULL.strides(patch) == ((1, 1, 1), *[(2, 2, 2)] * 5, last)
    z, y, x = (n // step for n, step in zip(patch, FULL.total_stride(patch)))
    assert z * y * x == tokens


def test_the_published_networks_have_141_to_142_million_parameters():
    kwargs = FULL.arch_kwargs((160, 256, 256))
    parameters = [
        sum(
            p.numel()
            for p in build_network("umamba2.nets.UMamba2", kwargs, 1, CHALLENGES[task].num_classes).parameters()
        )
        for task in TASKS
    ]
    assert all(141e6 < n < 143e6 for n in parameters)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", ARCHITECTURES)
def test_every_preset_names_a_network_that_can_be_built(task, size):
    preset = CHALLENGES[task].recipe
    kwargs = ARCHITECTURES[size].arch_kwargs(preset.patch, task == INTERACTIVE)
    net = build_network(preset.network, kwargs, 1, CHALLENGES[task].num_classes)
    assert net.total_stride == ARCHITECTURES[size].total_stride(preset.patch)
    assert net.variant.takes_clicks == (preset.clicks is not None)
    assert all(n % step == 0 for n, step in zip(preset.patch, net.total_stride))
