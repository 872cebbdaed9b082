"""The Mamba-2 mixer, numerically `mamba_ssm.modules.mamba2_simple.Mamba2Simple`, with two interchangeable backends.

The plain one (`ssd.py`) runs everywhere. The fused one (mamba-ssm and causal-conv1d) compiles for half a minute and
saves a millisecond a pass, so it is for training alone, and only where it gives the plain one's numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.nets.ssd import ssd

Kernel = Callable[..., Tensor]
TOLERANCE = 0.01  # relative difference of the backends: Triton multiplies in TF32


class GatedRMSNorm(nn.Module):
    """RMSNorm(y * SiLU(z)) over the last axis: the gate comes first."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        y = y * F.silu(z)
        return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Mamba2(nn.Module):
    """Mamba-2 mixer over a token sequence: (B, L, d_model) -> (B, L, d_model), one forward scan, fp32.

    Args:
        d_model: Width of the tokens.
        d_state: Size of the state of every channel.
        d_conv: Length of the causal convolution.
        expand: Inner width as a multiple of ``d_model``.
        headdim: Inner channels of one head.
        eps: Of the gated norm.

    Raises:
        ValueError: ``expand * d_model`` is no multiple of ``headdim``.
    """

    def __init__(
        self, d_model: int, d_state: int = 32, d_conv: int = 4, expand: int = 2, headdim: int = 80, eps: float = 1e-5
    ):
        super().__init__()
        d_inner = expand * d_model
        if d_inner % headdim:
            raise ValueError(f"deepest feature width: found {d_model}, expected {expand} x it a multiple of {headdim}")
        self.d_inner, self.d_state, self.headdim, self.heads = d_inner, d_state, headdim, d_inner // headdim
        convolved = d_inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, d_inner + convolved + self.heads, bias=False)  # [z, x, B, C, dt]
        self.conv1d = nn.Conv1d(convolved, convolved, d_conv, groups=convolved, padding=d_conv - 1)
        # Step sizes start log-uniform in [0.001, 0.1] (through the inverse of softplus), decays uniform in [1, 16].
        steps = torch.exp(torch.rand(self.heads) * math.log(100.0) + math.log(1e-3)).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedRMSNorm(d_inner, eps)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        projected = self.in_proj(tokens)
        kernel = fused_kernel(tokens.device) if self.training else None
        return self.plain(projected) if kernel is None else self.fused(projected, kernel)

    def plain(self, projected: Tensor) -> Tensor:
        """All that follows the input projection (B, L, [z, x, B, C, dt]), in plain PyTorch."""
        batch, length, _ = projected.shape
        convolved = self.d_inner + 2 * self.d_state
        z, xBC, dt = torch.split(projected, [self.d_inner, convolved, self.heads], dim=-1)
        dt = F.softplus(dt + self.dt_bias)
        # The convolution is padded on both sides; cutting its tail off leaves the causal half.
        xBC = F.silu(self.conv1d(xBC.transpose(1, 2))[..., :length].transpose(1, 2))
        x, B, C = torch.split(xBC, [self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.reshape(batch, length, self.heads, self.headdim)
        y = ssd(x, dt, -self.A_log.exp(), B, C) + x * self.D[:, None]
        out: Tensor = self.out_proj(self.norm(y.reshape(batch, length, self.d_inner), z))
        return out

    def fused(self, projected: Tensor, kernel: Kernel) -> Tensor:
        """The same with a kernel that has the interface of mamba-ssm's `mamba_split_conv1d_scan_combined`."""
        return kernel(
            projected,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.dt_bias,
            A=-self.A_log.exp(),
            D=self.D,
            chunk_size=256,
            activation="silu",
            rmsnorm_weight=self.norm.weight,
            rmsnorm_eps=self.norm.eps,
            outproj_weight=self.out_proj.weight,
            outproj_bias=None,
            headdim=self.headdim,
            ngroups=1,
            norm_before_gate=False,
        )


@cache
def fused_kernel(device: torch.device) -> Kernel | None:
    """mamba-ssm's fused scan, or None where it is not installed or does not work; the latter costs one warning.

    It is tried on a few tokens, because packages that import may still fail or give other numbers.

    Args:
        device: Where it must work: a GPU of compute capability 8.0 or newer (its kernels fail on a T4).
    """
    if not _may_run_fused(device):
        return None
    try:
        import causal_conv1d  # noqa: F401  (the fused scan calls it)
        from mamba_ssm.ops.triton.ssd_combined import mamba_split_conv1d_scan_combined

        kernel: Kernel = mamba_split_conv1d_scan_combined
        difference = difference_from_plain(kernel, device)
        if difference < TOLERANCE:
            return kernel
        problem = f"results that differ by {difference:.1%}"
    except ModuleNotFoundError:
        return None
    except Exception as error:  # built for another torch or CUDA, no compiler on this machine, ...
        problem = f"{type(error).__name__} ({' '.join(str(error).split())[:200]})"
    warnings.warn(f"fused Mamba-2: found {problem}, expected those of the plain layer, which is used now", stacklevel=2)
    return None


def difference_from_plain(kernel: Kernel, device: torch.device) -> float:
    """The largest relative difference between the backends, in the answers to a few tokens and in their gradients."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(0)
        mixer = Mamba2(320).to(device)  # the published width
        tokens = torch.randn(2, 70, 320, device=device, requires_grad=True)
        learned = [tokens, *mixer.parameters()]
        plain, fused = (
            [out, *torch.autograd.grad(out.square().sum(), learned)]
            for out in (mixer.plain(mixer.in_proj(tokens)), mixer.fused(mixer.in_proj(tokens), kernel))
        )
        return float(torch.stack([(a - b).norm() / b.norm() for a, b in zip(fused, plain)]).detach().max())


def _may_run_fused(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
