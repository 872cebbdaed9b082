"""The Mamba-2 mixer, numerically `mamba_ssm.modules.mamba2_simple.Mamba2Simple`, with two interchangeable backends.

The plain one (`ssd.py`) runs everywhere. The fused one (mamba-ssm and causal-conv1d) is used only where it can work:
both packages import, and the GPU has compute capability 8.0 or newer (its Triton kernels fail on Turing, the T4).
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba2.nets.ssd import ssd


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

    Raises ValueError when ``expand * d_model`` is no multiple of ``headdim``.
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
        fused = fused_kernel(tokens.device)
        return self._fused(projected, fused) if fused else self._plain(projected)

    def _plain(self, projected: Tensor) -> Tensor:
        batch, length, _ = projected.shape
        z, xBC, dt = projected.split([self.d_inner, self.d_inner + 2 * self.d_state, self.heads], dim=-1)
        dt = F.softplus(dt + self.dt_bias)
        # The convolution is padded on both sides; cutting its tail off leaves the causal half.
        xBC = F.silu(self.conv1d(xBC.transpose(1, 2))[..., :length].transpose(1, 2))
        x, B, C = xBC.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.reshape(batch, length, self.heads, self.headdim)
        y = ssd(x, dt, -self.A_log.exp(), B, C) + x * self.D[:, None]
        return self.out_proj(self.norm(y.reshape(batch, length, self.d_inner), z))

    def _fused(self, projected: Tensor, kernel) -> Tensor:
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
def fused_kernel(device: torch.device):
    """mamba-ssm's fused scan if it can work on this device, else None."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        import causal_conv1d  # noqa: F401  (the fused scan calls it)
        from mamba_ssm.ops.triton.ssd_combined import mamba_split_conv1d_scan_combined
    except (ImportError, OSError, RuntimeError):  # absent, or built for another torch or CUDA
        return None
    return mamba_split_conv1d_scan_combined
