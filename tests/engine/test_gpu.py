"""The network rebuilt for GPUs against the network as it was trained, on the CPU and on a pretend device."""

from __future__ import annotations

import threading
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend_cuda import PretendCuda, why_not
from small_models import ARCHITECTURE, randomise

from umamba2.engine import gpu
from umamba2.engine import network as network_module
from umamba2.engine.crossing import Landing
from umamba2.engine.gpu import FusedNorm, fused_norm, optimize_for_gpu, plain_norm, swapped_twin
from umamba2.models.network import build_network
from umamba2.nets.ssd import ssd

CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    if reason := why_not(tmp_path_factory.mktemp("guard")):
        pytest.skip(reason)


def network(**changes):
    net = build_network("UMamba2", {**ARCHITECTURE, **changes}, 1, 4).eval().apply(randomise)
    for name, parameter in net.named_parameters():
        if name.endswith("bias") and "mamba" not in name:
            torch.nn.init.normal_(parameter, std=0.5)  # what a norm removes, and where it does not
    return net


def fast(net, dtype=torch.float32, fused=None):
    net = deepcopy(net)
    net.encoder.to(dtype)
    net.decoder.to(dtype)
    return optimize_for_gpu(net, fused)


class Written(FusedNorm):
    """The fused norm from a formula, in place of its kernels, to run where there is no CUDA."""

    def __init__(self):
        def activated(x, mean, deviation, weight, bias, skip=0):
            y = (x - mean) / (deviation.square() + 1e-5).sqrt() * weight + bias + skip
            return torch.where(y > 0, y, y / 100)

        self._activated = self._with_skip = activated


axes = st.lists(st.sampled_from([1, 2, 2, 3]), min_size=3, max_size=3)


@settings(max_examples=20, deadline=None)
@given(
    strides=st.lists(axes, min_size=1, max_size=3),
    kernels=st.lists(st.lists(st.sampled_from([1, 3, 3, 5]), min_size=3, max_size=3), min_size=4, max_size=4),
    widths=st.lists(st.sampled_from([3, 8, 16]), min_size=3, max_size=3),
    batch=st.integers(1, 2),
    convs=st.integers(1, 2),
    bias=st.booleans(),
    kernel=st.sampled_from([None, Written()]),
    cells=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_equals_the_trained_network_whatever_its_shape(
    strides, kernels, widths, batch, convs, bias, kernel, cells, seed
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
        conv_bias=bias,
    )
    # At least two cells of the deepest grid: the norm of a single value is a matter of rounding.
    shape = [n * s for n, s in zip([cells[0] + 1, *cells[1:]], net.total_stride, strict=True)]
    x = torch.randn(batch, 1, *shape)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device", lambda device: warnings.catch_warnings())
        expected, found = net(x), fast(net, fused=kernel)(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("kernel", [False, True])
def test_reduced_precision_is_as_close_as_the_plain_networks(device, kernel):
    torch.manual_seed(0)
    net, x = network(), torch.randn(1, 1, 24, 32, 32)
    with PretendCuda():
        quick = fast(net, torch.bfloat16, FusedNorm() if kernel else None).to(CUDA)(x.bfloat16().to(CUDA)).cpu().float()
    with torch.inference_mode():
        full = net(x)
        net.encoder.bfloat16()
        net.decoder.bfloat16()
        plain = net(x.bfloat16()).float()
    assert (quick - full).std() < 1.2 * (plain - full).std()


def test_nothing_before_a_norm_has_a_bias():
    net = fast(network())
    biased = [
        name for name, module in net.named_modules() if isinstance(module, torch.nn.Conv3d) and module.bias is not None
    ]
    assert biased == ["decoder.head"]


def test_a_twin_trades_classes_in_the_same_memory():
    net, x, swap = fast(network()), torch.randn(2, 1, 4, 8, 8), torch.tensor([0, 3, 2, 1])
    with torch.inference_mode():
        before = net(x)
        twin = swapped_twin(net, swap)
        torch.testing.assert_close(twin(x), before[:, swap])
        torch.testing.assert_close(net(x), before, atol=0, rtol=0)
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in twin.parameters()}
    assert len(shared) == len(list(net.parameters())) - 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_fused_norm_as_compiled_equals_plain_layers(device, dtype):
    with PretendCuda(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(fused_norm(CUDA, dtype), FusedNorm)


def test_the_fused_norm_divides_by_what_the_plain_one_does(device):
    """Where a channel is nearly constant eps counts."""
    torch.manual_seed(0)
    x, weight, bias = 1e-3 * torch.randn(1, 2, 4, 4, 4), torch.ones(1, 2, 1, 1, 1), torch.zeros(1, 2, 1, 1, 1)
    with PretendCuda():
        found = FusedNorm()(*(t.to(CUDA) for t in (x, weight, bias)), None).cpu()
    torch.testing.assert_close(found, plain_norm(x, weight, bias, None), atol=1e-4, rtol=1e-4)


def test_the_fused_norm_is_for_the_eps_it_has():
    net = network(norm_op_kwargs={"eps": 0.1, "affine": True})
    x = torch.randn(1, 1, 4, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(fast(net, fused=Written())(x), net(x), atol=1e-4, rtol=1e-4)


def test_cuda_starts_beside_the_reading_of_files(monkeypatch):
    """In a thread that has ended when both are done; what goes wrong there is not said there."""
    started, threads = threading.Event(), []

    def wake(device, dtype):
        threads.append(threading.current_thread())
        started.set()

    with monkeypatch.context() as patch:
        patch.setattr(network_module, "_wake", wake)
        with pytest.raises(ValueError, match="files"), network_module.waking(CUDA, torch.float16):  # noqa: PT012
            assert started.wait(60)
            raise ValueError("files")
        with network_module.waking(torch.device("cpu"), torch.float32):
            pass
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()
    network_module._wake(CUDA, torch.float16)  # there is none


@pytest.mark.parametrize("code", [gpu._ACTIVATED, gpu._WITH_SKIP])
def test_torch_takes_the_code(code):
    made = torch.cuda.jiterator._create_jit_fn(code)
    assert made.kernel_name in ("umamba2_norm", "umamba2_norm_skip")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (("+ static_cast<float>(bias)", "- static_cast<float>(bias)"), "results that differ by"),
        (("0.01f * y", "0.02f * y"), "results that differ by"),
        (("return", "retrun"), "CalledProcessError"),
        (("rsqrtf(d * d + 1e-5f)", "rsqrtf(-1.0f)"), "results that differ by nan"),
    ],
)
@pytest.mark.parametrize("which", ["_ACTIVATED", "_WITH_SKIP"])
def test_a_fused_norm_that_does_not_work_is_not_used(device, monkeypatch, capfd, damage, said, which):
    monkeypatch.setattr(gpu, which, getattr(gpu, which).replace(*damage))
    with PretendCuda(), pytest.warns(UserWarning, match=f"fused norm: found {said}"):
        assert fused_norm(CUDA, torch.float32) is None


def test_memory_that_runs_out_says_nothing_about_the_fused_norm(device):
    with PretendCuda(capacity=0), pytest.raises(torch.cuda.OutOfMemoryError):
        fused_norm(CUDA, torch.float32)


def test_a_scan_of_few_long_chunks_keeps_its_digits(device):
    """Steps of very different sizes: the sums of their decays are large where their differences matter."""
    torch.manual_seed(0)
    x, B, C = torch.randn(1, 405, 2, 4), torch.randn(1, 405, 3), torch.randn(1, 405, 3)
    dt, A = torch.where(torch.rand(1, 405, 2) < 0.5, 40.0, 1e-3), torch.tensor([-16.0, -1.0])
    exact = ssd(*(t.double() for t in (x, dt, A, B, C)), chunk=1)
    with PretendCuda() as cuda:
        found = ssd(*(t.to(CUDA) for t in (x, dt, A, B, C))).cpu()
        operations = cuda.count
    assert (found - exact).abs().max() < 2e-6 * exact.abs().max()
    assert operations < 200  # one chunk


def test_labels_land_though_the_device_fails_later(device):
    """What was copied before is there; what was not is background and said to be missing."""

    def lost(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with PretendCuda() as cuda, pytest.MonkeyPatch.context() as patch:
        landing = Landing((2, 3))
        cuda.waits.clear()
        landing.put(landing.labels[0], torch.tensor([1, 2, 3], dtype=torch.uint8).to(CUDA))
        landing.put(landing.labels[1], torch.tensor([4, 5, 6], dtype=torch.uint8).to(CUDA))
        assert [kind for kind, _ in cuda.waits] == ["to the device"]  # of this test
        landing._coming[1][1][1:] = 255  # not there yet
        patch.setattr(torch.cuda, "synchronize", lost)
        assert landing.land() == "RuntimeError: CUDA error: an illegal memory access was encountered, 2 voxels"
    np.testing.assert_array_equal(landing.labels, [[1, 2, 3], [4, 0, 0]])
