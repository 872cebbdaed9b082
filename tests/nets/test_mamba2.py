"""The Mamba-2 mixer: the chunked scan against the recurrence, the fused backend against the plain one."""

from __future__ import annotations

import sys
import types
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from umamba2.nets import mamba2
from umamba2.nets.mamba2 import Mamba2, difference_from_plain
from umamba2.nets.ssd import ssd

CPU = torch.device("cpu")


def naive_scan(x, dt, A, B, C):
    """The recurrence as the paper writes it, one token after the other."""
    batch, length, heads, width = x.shape
    state = torch.zeros(batch, heads, width, B.shape[-1], dtype=x.dtype)
    rows = []
    for t in range(length):
        decay = torch.exp(dt[:, t] * A)[:, :, None, None]
        drive = torch.einsum("bhp,bn->bhpn", x[:, t] * dt[:, t, :, None], B[:, t])
        state = decay * state + drive
        rows.append(torch.einsum("bhpn,bn->bhp", state, C[:, t]))
    return torch.stack(rows, dim=1)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 150),
    chunk=st.sampled_from([1, 7, 64, 512]),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_chunked_scan_equals_the_recurrence(length, chunk, batch, heads, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, B, C = draw(batch, length, heads, 5), draw(batch, length, 4), draw(batch, length, 4)
    dt, A = F.softplus(draw(batch, length, heads)), -draw(heads).exp()
    torch.testing.assert_close(ssd(x, dt, A, B, C, chunk=chunk), naive_scan(x, dt, A, B, C))


def test_scan_survives_strong_decay_and_long_sequences():
    x, B, C = torch.randn(1, 2000, 2, 4), torch.randn(1, 2000, 3), torch.randn(1, 2000, 3)
    dt = torch.full((1, 2000, 2), 50.0)
    out = ssd(x, dt, torch.tensor([-16.0, -1e-4]), B, C)
    assert out.isfinite().all()


def test_mixer_is_causal():
    torch.manual_seed(0)
    mixer = Mamba2(40)
    tokens = torch.randn(1, 100, 40)
    changed = tokens.clone()
    changed[:, 60:] += 1
    with torch.no_grad():
        a, b = mixer(tokens), mixer(changed)
    torch.testing.assert_close(a[:, :60], b[:, :60])
    assert not torch.allclose(a[:, 60:], b[:, 60:])


def test_mixer_refuses_a_width_that_heads_do_not_divide():
    with pytest.raises(ValueError, match=r"found 50.*multiple of 80"):
        Mamba2(50)


def test_step_sizes_and_decays_start_in_their_ranges():
    """Step sizes are log-uniform: an inverse of softplus that is only nearly one would miss their upper end."""
    torch.manual_seed(0)
    mixer = Mamba2(400, headdim=1)  # 800 heads
    steps, decays = F.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert 1e-3 * 0.999 <= steps.min() < 1.1e-3
    assert 0.098 < steps.max() <= 0.1 * 1.001
    assert steps.log().mean().item() == pytest.approx(torch.tensor([1e-3, 0.1]).log().mean().item(), abs=0.2)
    assert 1 <= decays.min() < 1.2
    assert 15.8 < decays.max() <= 16.001


# --- the fused backend ------------------------------------------------------------------------------------------------


def stand_in(
    zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, activation, rmsnorm_weight, rmsnorm_eps,
    outproj_weight, outproj_bias, headdim, ngroups, norm_before_gate,
):  # fmt: skip
    """What mamba-ssm documents for `mamba_split_conv1d_scan_combined`, token by token."""
    assert (activation, ngroups) == ("silu", 1)
    batch, length, _ = zxbcdt.shape
    heads, (convolved, taps) = len(A), conv1d_weight.shape
    inner, state = heads * headdim, (convolved - heads * headdim) // 2
    z, xBC, dt = zxbcdt.split([inner, convolved, heads], dim=-1)
    before = F.pad(xBC.transpose(1, 2), (taps - 1, 0))
    xBC = F.silu(F.conv1d(before, conv1d_weight[:, None], conv1d_bias, groups=convolved)).transpose(1, 2)
    x, B, C = xBC.split([inner, state, state], dim=-1)
    x = x.reshape(batch, length, heads, headdim)
    y = (naive_scan(x, F.softplus(dt + dt_bias), A, B, C) + D[:, None] * x).flatten(2)
    gate, norm = F.silu(z), partial(F.rms_norm, normalized_shape=[inner], weight=rmsnorm_weight, eps=rmsnorm_eps)
    return F.linear(norm(y) * gate if norm_before_gate else norm(y * gate), outproj_weight, outproj_bias)


def growing(**arguments):
    return stand_in(**{**arguments, "A": -arguments["A"] / 16})


def normed_before_the_gate(**arguments):
    return stand_in(**{**arguments, "norm_before_gate": True})


def not_a_number(*arguments, **more):
    return stand_in(*arguments, **more) * torch.nan


def failing(*arguments, **more):
    raise RuntimeError("Triton Error: device kernel image is invalid")


def with_names(kernel):
    """A kernel that is called as mamba-ssm's, its first four arguments by position."""
    names = ("zxbcdt", "conv1d_weight", "conv1d_bias", "dt_bias")
    return lambda *first, **more: kernel(**dict(zip(names, first, strict=True)), **more)


def test_backends_agree_in_answers_and_gradients():
    before = torch.random.get_rng_state()
    assert difference_from_plain(stand_in, CPU) < 1e-4
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def installed(monkeypatch):
    """Make the packages importable, with any kernel in them."""

    def install(kernel):
        module = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
        module.mamba_split_conv1d_scan_combined = kernel
        for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "causal_conv1d"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(mamba2, "_may_run_fused", lambda device: True)
        return mamba2.fused_kernel.__wrapped__

    return install


def test_a_kernel_that_works_is_used_without_a_word(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert installed(stand_in)(CPU) is stand_in


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (with_names(growing), "results that differ by"),
        (with_names(normed_before_the_gate), "results that differ by"),
        (not_a_number, "results that differ by nan"),
        (failing, "RuntimeError .Triton Error"),
    ],
)
def test_any_other_costs_one_warning(installed, kernel, problem):
    with pytest.warns(UserWarning, match=problem) as caught:
        assert installed(kernel)(CPU) is None
    assert len(caught) == 1


def test_packages_that_are_absent_cost_nothing(installed, monkeypatch):
    choose = installed(stand_in)
    monkeypatch.setitem(sys.modules, "causal_conv1d", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(CPU) is None


def test_gpus_without_its_instructions_are_not_asked(monkeypatch):
    assert not mamba2._may_run_fused(CPU)
    for capability, may in (((7, 5), False), ((8, 0), True), ((9, 0), True)):  # a T4, an A100, an H100
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert mamba2._may_run_fused(torch.device("cuda")) == may


def test_only_training_uses_it(monkeypatch):
    mixer, calls = Mamba2(40), []
    monkeypatch.setattr(mamba2, "fused_kernel", lambda device: lambda *_, **__: calls.append(1))
    mixer.eval()(torch.randn(1, 5, 40))
    assert not calls
    mixer.train()(torch.randn(1, 5, 40))
    assert calls
