"""The network rebuilt for CPUs against the network as it was trained."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import ARCHITECTURE, randomise

import umamba2
from umamba2.engine.cpu import planes, winograd
from umamba2.engine.cpu.layers import optimize_for_cpu
from umamba2.engine.cpu.planes import Moments
from umamba2.models.network import build_network


def network(**changes):
    net = build_network("UMamba2", {**ARCHITECTURE, **changes}, 1, 4).eval().apply(randomise)
    for name, parameter in net.named_parameters():
        if name.endswith("bias") and "mamba" not in name:
            torch.nn.init.normal_(parameter, std=0.5)  # what a norm removes, and where it does not
    return net


def fast(net, dtype=torch.float32):
    net = deepcopy(net).to(memory_format=torch.channels_last_3d)
    net.encoder.to(dtype)
    net.decoder.to(dtype)
    return optimize_for_cpu(net)


def slow_kernels(net, x):
    """The convolutions of torch's own that a network uses, where oneDNN has faster ones."""
    with torch.inference_mode(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        net(x)
    return {event.key for event in profile.key_averages() if "slow_conv" in event.key or "thnn_conv" in event.key}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize(
    ("shape", "portion"), [((16, 16, 32), 1), ((16, 32, 48), 1), ((16, 32, 48), 2**22), ((48, 80, 112), 2**22)]
)
def test_no_volume_is_too_small_for_the_fast_convolutions(monkeypatch, shape, portion):
    """Torch's own kernels take over where the product of the first four sizes is at most 20,480."""
    monkeypatch.setattr(planes, "PORTION_BYTES", portion)
    net = network(
        n_stages=5, features_per_stage=[8, 16, 64, 64, 40], strides=[[1, 1, 1]] + [[2, 2, 2]] * 3 + [[1, 2, 2]],
        kernel_sizes=[[3, 3, 3]] * 5, n_blocks_per_stage=[1] * 5, n_conv_per_stage_decoder=[1] * 4,
    )  # fmt: skip
    x = torch.randn(1, 1, *shape)
    assert slow_kernels(net, x)
    assert not slow_kernels(fast(net), x)


axes = st.lists(st.sampled_from([1, 2, 2, 3]), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    strides=st.lists(axes, min_size=1, max_size=4),
    kernels=st.lists(st.lists(st.sampled_from([1, 3, 3, 5]), min_size=3, max_size=3), min_size=5, max_size=5),
    widths=st.lists(st.sampled_from([3, 8, 16]), min_size=4, max_size=4),
    batch=st.integers(1, 2),
    convs=st.integers(1, 2),
    cells=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    piece=st.sampled_from([1, 2**13, 2**22]),  # bytes
    fewest=st.sampled_from([3, 64]),  # channels for fewer multiplications
    seed=st.integers(0, 99),
)
def test_equals_the_trained_network_whatever_its_shape(
    strides, kernels, widths, batch, convs, cells, piece, fewest, seed
):
    torch.manual_seed(seed)
    strides = [[1, 1, 1], *strides]
    stages = len(strides)
    net = network(
        n_stages=stages,
        features_per_stage=[*widths[: stages - 1], 40],
        strides=strides,
        kernel_sizes=kernels[:stages],
        n_blocks_per_stage=[1] * stages,
        n_conv_per_stage_decoder=[convs] * (stages - 1),
    )
    # At least two cells of the deepest grid: the norm of a single value is a matter of rounding.
    shape = [n * s for n, s in zip([cells[0] + 1, *cells[1:]], net.total_stride, strict=True)]
    x = torch.randn(batch, 1, *shape)
    some, few = patch.object(planes, "PORTION_BYTES", piece), patch.object(winograd, "FEWEST_CHANNELS", fewest)
    with torch.inference_mode(), some, few:
        expected = net(x)
        found = fast(net)(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_reduced_precision_is_as_close_as_the_plain_networks():
    torch.manual_seed(0)
    net, x = network(), torch.randn(1, 1, 24, 32, 32)
    with torch.inference_mode():
        full = net(x)
        quick = fast(net, torch.bfloat16)(x.bfloat16()).float()
        net.encoder.bfloat16()
        net.decoder.bfloat16()
        plain = net(x.bfloat16()).float()
    assert (quick - full).std() < 1.2 * (plain - full).std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_exact_where_a_running_sum_is_not(dtype):
    torch.manual_seed(0)
    slab = (3 + torch.randn(160, 2, 200, 220)).to(dtype, memory_format=torch.channels_last)
    moments = Moments(slab)
    for piece in slab.split([1, 2, 7, 150]):
        moments.add(piece)
    mean, variance = moments.result()
    exact_variance, exact_mean = torch.var_mean(slab.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, atol=0, rtol=1e-5)
    torch.testing.assert_close(variance.double(), exact_variance, atol=0, rtol=1e-4)


def test_the_rest_of_the_package_knows_the_door_alone():
    package = Path(umamba2.__file__).parent
    files = [path for path in package.rglob("*.py") if path.parent != package / "engine/cpu"]
    assert [path.name for path in files if "umamba2.engine.cpu import" in path.read_text(encoding="utf-8")]
    assert not [path for path in files if "umamba2.engine.cpu." in path.read_text(encoding="utf-8")]
