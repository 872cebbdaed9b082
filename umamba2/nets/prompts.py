"""Click prompts: points become tokens, and tokens and image features look at each other.

The design follows the Segment Anything prompt encoder and two-way transformer (Kirillov et al. 2023) in three
dimensions; parameter names are those of the published ToothFairy3 task 2 checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOT_A_POINT = -1


class ClickTensors(NamedTuple):
    """The clicks on a batch of patches, as a network takes them; N may be 0.

    Attributes:
        coordinates: (B, N, 3) voxel indices (z, y, x) in the patch.
        labels: (B, N), 0 left, 1 right, -1 none (patches with fewer clicks than others are filled up with these).
    """

    coordinates: Tensor
    labels: Tensor


class RandomFourierEncoding(nn.Module):
    """Sine and cosine of fixed random projections of a position: (..., 3) in [0, 1] -> (..., dim)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, dim // 2))

    def forward(self, positions: Tensor) -> Tensor:
        angles = 2 * math.pi * ((2 * positions - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, shape: Sequence[int]) -> Tensor:
        """Encodings of the cell centres of a (z, y, x) grid, flattened in C order: (z*y*x, dim)."""
        device = self.positional_encoding_gaussian_matrix.device
        centres = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in shape]
        return self.forward(torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).reshape(-1, 3))


class PointEncoder(nn.Module):
    """The fields of `ClickTensors`, (B, N, 3) and (B, N), -> tokens (B, N + 1, dim).

    One "not a point" token is always appended, so N may be 0.

    Args:
        dim: Width of the tokens.
        patch_size: The patch (z, y, x) that the clicks refer to.
    """

    patch_size: Tensor

    def __init__(self, dim: int, patch_size: Sequence[int]):
        super().__init__()
        self.pe_layer = RandomFourierEncoding(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(2))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.register_buffer("patch_size", torch.tensor(patch_size, dtype=torch.float32), persistent=False)

    def forward(self, coordinates: Tensor, labels: Tensor) -> Tensor:
        coordinates = F.pad(coordinates.float() + 0.5, (0, 0, 0, 1))
        labels = F.pad(labels, (0, 1), value=NOT_A_POINT).unsqueeze(-1)
        tokens = self.pe_layer(coordinates / self.patch_size)
        tokens = torch.where(labels == NOT_A_POINT, self.not_a_point_embed.weight, tokens)
        for label, embedding in enumerate(self.point_embeddings):
            tokens = torch.where(labels == label, tokens + cast(Tensor, embedding.weight), tokens)
        return tokens


class Attention(nn.Module):
    """Multi-head attention at an inner width of ``dim // shrink``: queries (B, Q, dim), keys and values (B, K, dim)."""

    def __init__(self, dim: int, heads: int = 4, shrink: int = 1):
        super().__init__()
        inner = dim // shrink
        if inner % heads:
            raise ValueError(f"attention width: found {inner}, expected a multiple of {heads} heads")
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = self._split(self.q_proj(q)), self._split(self.k_proj(k)), self._split(self.v_proj(v))
        out = F.scaled_dot_product_attention(q, k, v)
        joined: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return joined

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, hidden), nn.Linear(hidden, dim)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers[1](F.relu(self.layers[0](x)))
        return out


class TwoWayBlock(nn.Module):
    """Points attend to each other and to the image, then the image attends to the points (post-LayerNorm).

    (B, N, dim) points and (B, L, dim) image tokens, with their positions of the same shapes (the image's may lack
    the batch axis), -> both, updated. The first block of a stack has nothing but positions in its points, so its
    self-attention adds neither the positions again nor a residual.
    """

    def __init__(self, dim: int, mlp: int, first: bool):
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, shrink=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp)
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, shrink=2)
        self.norm4 = nn.LayerNorm(dim)

    def forward(self, points: Tensor, image: Tensor, point_pos: Tensor, image_pos: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            points = self.self_attn(points, points, points)
        else:
            placed = points + point_pos
            points = points + self.self_attn(placed, placed, points)
        points = self.norm1(points)
        placed_image = image + image_pos
        points = self.norm2(points + self.cross_attn_token_to_image(points + point_pos, placed_image, image))
        points = self.norm3(points + self.mlp(points))
        image = self.norm4(image + self.cross_attn_image_to_token(placed_image, points + point_pos, points))
        return points, image
