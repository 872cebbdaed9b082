"""State space duality (Dao & Gu 2024, arXiv 2405.21060, section 6) in plain PyTorch, for any device.

The recurrence, per head with scalar decay:

    h[t] = exp(dt[t] * A) * h[t-1] + dt[t] * x[t] B[t]^T          (p, n) state
    y[t] = h[t] C[t]

is computed chunk by chunk: inside a chunk as a masked (attention-like) matrix product, between chunks by handing on
the state. Time and memory grow linearly with the length.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64  # tokens: the fewest operations
CHUNK_GPU = 512  # one chunk for a published patch, so a seventh of the kernels, which are too small to keep a GPU busy


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int | None = None) -> Tensor:
    """Run the selective state space scan.

    Call it in fp32: the decays are exponentials of sums that half precision cannot hold.

    Args:
        x: (b, l, h, p), with b batch, l tokens, h heads, p head width.
        dt: (b, l, h), positive step sizes.
        A: (h,), negative decay rates.
        B: (b, l, n), shared by all heads, with n state size.
        C: (b, l, n), shared by all heads.
        chunk: Tokens that are worked on at once; None takes what suits the device.

    Returns:
        (b, l, h, p).
    """
    batch, length, heads, width = x.shape
    on_gpu = x.device.type == "cuda"
    chunk = chunk or (CHUNK_GPU if on_gpu else CHUNK)
    sums = torch.float64 if on_gpu else x.dtype  # of decays: fp32 loses some digits over so many tokens
    state = x.new_zeros(batch, heads, width, B.shape[-1])
    x = x * dt.unsqueeze(-1)
    decay = dt * A
    out = torch.empty_like(x)
    for start in range(0, length, chunk):
        now = slice(start, min(start + chunk, length))
        xs, Bs, Cs = x[:, now], B[:, now], C[:, now]
        later = torch.ones(xs.shape[1], xs.shape[1], dtype=torch.bool, device=x.device).triu(1)
        # (b, q, h): log decay from the chunk's start to each token. CUDA's cumsum is not deterministic.
        since_start = torch.einsum("ts,bsh->bth", (~later).to(sums), decay[:, now].to(sums))
        # 1. what tokens of this chunk tell later ones: exp(sum of decays between s and t) for s <= t
        between = (since_start.unsqueeze(2) - since_start.unsqueeze(1)).to(x.dtype)  # (b, t, s, h)
        weights = between.masked_fill(later[None, :, :, None], -torch.inf).exp()
        scores = torch.einsum("btn,bsn->bts", Cs, Bs)
        inside = torch.einsum("bts,btsh,bshp->bthp", scores, weights, xs)
        # 2. what earlier chunks left in the state
        to_end = (since_start[:, -1:] - since_start).to(x.dtype).exp()
        since_start = since_start.to(x.dtype)
        before = torch.einsum("btn,bth,bhpn->bthp", Cs, since_start.exp(), state)
        out[:, now] = inside + before
        # 3. the state handed on to the next chunk
        state = state * since_start[:, -1].exp()[:, :, None, None]
        state = state + torch.einsum("bsn,bsh,bshp->bhpn", Bs, to_end, xs)
    return out
