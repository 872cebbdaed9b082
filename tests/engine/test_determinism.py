"""The switches of deterministic algorithms, and which operations CUDA has none for."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from small_models import ARCHITECTURE, PATCH, make_model
from torch.utils._python_dispatch import TorchDispatchMode

from umamba2 import InputError, Predictor
from umamba2.engine.determinism import WORKSPACE, deterministic, fix_workspace
from umamba2.models.network import build_network
from umamba2.nets import ClickTensors

SPACING = (0.3, 0.3, 0.3)
# What raises an error on CUDA without gradients, from the documentation of torch.use_deterministic_algorithms.
WITHOUT = {
    *("max_unpool2d", "max_unpool3d", "nll_loss_forward", "nll_loss2d_forward", "put", "put_", "histc", "bincount"),
    *("median", "nanmedian", "cumsum", "cumsum_", "scatter_reduce", "scatter_reduce_", "kthvalue", "cumprod"),
}


def switches():
    cudnn = torch.backends.cudnn
    return torch.get_deterministic_debug_mode(), cudnn.benchmark, cudnn.deterministic


@pytest.mark.parametrize("debug_mode", [0, 1])
def test_switches_are_set_and_put_back(monkeypatch, debug_mode):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_deterministic_debug_mode(debug_mode)
    try:
        with deterministic(False):
            assert switches() == (debug_mode, True, False)
        with deterministic(True):
            assert switches() == (2, False, True)
        assert switches() == (debug_mode, True, False)
        with suppress(KeyError), deterministic(True):
            raise KeyError
        assert switches() == (debug_mode, True, False)
    finally:
        torch.set_deterministic_debug_mode(0)


def test_the_workspace_of_cublas_is_fixed_before_cuda_starts(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(InputError, match=f"found CUDA started with {WORKSPACE}=, expected :4096:8"):
        fix_workspace()
    monkeypatch.setenv(WORKSPACE, ":16:8")
    fix_workspace()
    assert os.environ[WORKSPACE] == ":16:8"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setenv(WORKSPACE, ":0:0")
    fix_workspace()
    assert os.environ[WORKSPACE] == ":4096:8"


def test_a_prediction_is_made_with_them_and_leaves_none_behind(tmp_path, monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    folder = make_model(tmp_path / "m", mirror_axes=(1, 2))
    monkeypatch.setattr("umamba2.engine.runner.Runner._mirror_images_at_once", lambda self: 4)
    volume = np.random.default_rng(0).normal(600, 900, (20, 40, 24)).astype(np.float32)
    found = []
    for wanted in (False, True):
        predictor, seen = Predictor.load(folder, device="cpu", precision="fp32", deterministic=wanted), []
        mean = predictor.runner._mean
        monkeypatch.setattr(predictor.runner, "_mean", lambda *a, m=mean, s=seen: s.append(switches()) or m(*a))
        assert (predictor.runner.batch, predictor.settings["deterministic"]) == ((1, True) if wanted else (4, False))
        predictor.runner.batch = 1
        found.append(predictor.predict(volume, SPACING))
        assert set(seen) == {(2, False, True) if wanted else (0, False, False)}
        assert switches() == (0, False, False)
    np.testing.assert_array_equal(*found)
    assert os.environ.pop(WORKSPACE) == ":4096:8"


class Operations(TorchDispatchMode):
    """Which operations torch is asked for."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation.__name__.partition(".")[0])
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", ["UMamba2", "UMamba2Click", "UMambaBot2PE", "UMambaBot2_Click"])
def test_networks_need_no_operation_that_cuda_cannot_repeat(variant):
    """Of the network as a GPU runs it; on a CPU others take the place of its layers."""
    net = build_network(variant, ARCHITECTURE | {"patch_size": list(PATCH)}, 1, 5).eval()
    clicks = ClickTensors(torch.tensor([[[4.0, 20.0, 3.0]]]), torch.tensor([[0]]))
    with torch.no_grad(), Operations() as operations:
        net(torch.randn(1, 1, *PATCH), clicks)
    assert {"convolution", "bmm"} <= operations.names
    assert operations.names & WITHOUT == set()


@pytest.mark.filterwarnings("ignore:time", "ignore:8 of 8 tiles")
def test_the_engine_needs_none_either(tmp_path):
    """With a coarse look, tiles in pieces and another grid."""
    folder = make_model(tmp_path / "m", folds=(0, 1), mirror_axes=(2,))
    predictor = Predictor.load(folder, device="cpu", precision="fp32")
    predictor.runner.halvings = 1
    volume = np.random.default_rng(0).normal(600, 900, (20, 60, 30)).astype(np.float32)
    with Operations() as operations:
        for spacing, wait in (((0.25, 0.3, 0.2), 1000), (SPACING, 0)):
            predictor.predict(volume, spacing, deadline=time.monotonic() + wait)
    assert {"adaptive_avg_pool3d", "upsample_bilinear2d", "lerp"} <= operations.names
    assert operations.names & WITHOUT == set()
