"""U-Mamba2: a residual-encoder U-Net whose deepest features pass through one Mamba-2 layer (arXiv 2509.12069)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from umamba2.nets.mamba2 import Mamba2
from umamba2.nets.prompts import ClickTensors, PointEncoder, RandomFourierEncoding, TwoWayBlock
from umamba2.nets.unet import Decoder, Encoder, ResidualBlock, drop_aliases


@dataclass(frozen=True)
class Variant:
    """What happens around the Mamba-2 layer in the published family of networks.

    Attributes:
        grid_positions: Positions are added to the image tokens first.
        append_points: Click tokens run through the Mamba layer behind the image tokens.
        cross_attention: The MLP widths of the two-way blocks behind it.
        stacked: Whether a checkpoint stores those blocks as a list.
    """

    grid_positions: bool = False
    append_points: bool = False
    cross_attention: tuple[int, ...] = ()
    stacked: bool = True

    @property
    def takes_clicks(self) -> bool:
        """Whether clicks steer the network."""
        return self.append_points or bool(self.cross_attention)


NO_CLICKS = Variant()
CLICK = Variant(cross_attention=(1024, 1024))
# By the last part of a plans file's network_class_name: the published names and ours.
VARIANTS = {
    "UMambaBot2": NO_CLICKS,
    "UMambaBot2PE": Variant(grid_positions=True),
    "UMambaBot2_Click": Variant(append_points=True),
    "UMambaBot2_CrossAttn_Click": Variant(cross_attention=(512,), stacked=False),
    "UMambaBot2_CrossAttn_Click2": CLICK,
    "UMamba2": NO_CLICKS,
    "UMamba2Click": CLICK,
}


LARGEST_ENTRY = 2048  # of any list in arch_kwargs: what lies beyond is a damaged file


class MambaLayer(nn.Module):
    """The bottleneck: the voxels of a feature map are tokens that pass LayerNorm, Mamba-2 and attention to the clicks.

    (B, C, z, y, x) -> the same; tokens come in raster order, and no residual goes around. It always runs in fp32,
    because half precision gives NaN in the attention, and this layer costs next to nothing.

    Args:
        dim: Channels of the feature map.
        variant: What happens around the Mamba-2 layer.
        patch_size: The patch (z, y, x) that clicks refer to, for variants that take clicks.
    """

    def __init__(self, dim: int, variant: Variant, patch_size: Sequence[int] | None):
        super().__init__()
        self.variant = variant
        self.norm = nn.LayerNorm(dim)
        self.mamba = Mamba2(dim)
        if variant.grid_positions:
            self.position_encoder = RandomFourierEncoding(dim)
        if variant.takes_clicks:
            if not (isinstance(patch_size, Sequence) and len(patch_size) == 3 and all(map(_is_size, patch_size))):
                expected = "the patch (z, y, x) that clicks refer to"
                raise ValueError(f"patch_size: found {patch_size!s:.60} for the clicks, expected {expected}")
            self.point_encoder = PointEncoder(dim, patch_size)
        if variant.cross_attention:
            blocks = [TwoWayBlock(dim, mlp, first=i == 0) for i, mlp in enumerate(variant.cross_attention)]
            self.cross_attention: nn.Module = nn.ModuleList(blocks) if variant.stacked else blocks[0]

    def forward(self, features: Tensor, clicks: ClickTensors | None = None, scanned: Tensor | None = None) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            grid = features.shape[2:]
            points = self._points(features, clicks) if self.variant.takes_clicks else None
            tokens = self._scan(features, points) if scanned is None else scanned
            if self.variant.cross_attention:
                positions = self.point_encoder.pe_layer.grid(grid)
                updated = points
                for block in self.cross_attention.children() if self.variant.stacked else [self.cross_attention]:
                    updated, tokens = block(updated, tokens, points, positions)
            out: Tensor = tokens.transpose(1, 2).reshape(features.shape)
            return out.to(features.dtype)

    def scanned(self, features: Tensor) -> Tensor | None:
        """What the Mamba-2 layer makes of features, which `forward` takes for any clicks; None if clicks change it."""
        if self.variant.append_points:
            return None
        with torch.autocast(features.device.type, enabled=False):
            return self._scan(features, None)

    def _scan(self, features: Tensor, points: Tensor | None) -> Tensor:
        tokens = features.float().flatten(2).transpose(1, 2)
        length = tokens.shape[1]
        if self.variant.grid_positions:
            tokens = tokens + self.position_encoder.grid(features.shape[2:])
        if self.variant.append_points and points is not None:
            tokens = torch.cat([tokens, points], dim=1)
        scanned: Tensor = self.mamba(self.norm(tokens))[:, :length]
        return scanned

    def _points(self, features: Tensor, clicks: ClickTensors | None) -> Tensor:
        batch, like = len(features), features.new_zeros(0, dtype=torch.float32)
        coordinates, labels = clicks or (like.new_zeros(batch, 0, 3), like.new_zeros(batch, 0, dtype=torch.long))
        encoded: Tensor = self.point_encoder(coordinates.to(features.device), labels.to(features.device))
        return encoded


class UMamba2(nn.Module):
    """The network. Its arguments are those of nnU-Net plans (`arch_kwargs`), so that stock nnU-Net can build it too.

    ``net(volume, clicks)`` takes (B, input_channels, z, y, x), sizes divisible by the product of the strides, and
    `ClickTensors` if the variant takes clicks. It gives logits (B, num_classes, z, y, x), or a list of them, finest
    first, with ``deep_supervision``.

    Raises:
        ValueError: The architecture is outside the published family.
    """

    variant = NO_CLICKS

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: Sequence[int],
        conv_op: object = nn.Conv3d,
        kernel_sizes: Sequence[Sequence[int]] | int = 3,
        strides: Sequence[Sequence[int]] | int = 1,
        n_blocks_per_stage: Sequence[int] | int = 1,
        num_classes: int = 2,
        n_conv_per_stage_decoder: Sequence[int] | int = 1,
        conv_bias: bool = True,
        norm_op: object = nn.InstanceNorm3d,
        norm_op_kwargs: dict[str, Any] | None = None,
        dropout_op: object = None,
        dropout_op_kwargs: dict[str, Any] | None = None,
        nonlin: object = nn.LeakyReLU,
        nonlin_kwargs: dict[str, Any] | None = None,
        deep_supervision: bool = False,
        patch_size: Sequence[int] | None = None,
        variant: Variant | None = None,
    ):
        super().__init__()
        norm = {"eps": 1e-5, "affine": True, **(norm_op_kwargs or {})}
        slope = (nonlin_kwargs or {}).get("negative_slope", 0.01)
        for name, found, expected in (
            ("conv_op", _name(conv_op), "Conv3d"),
            ("norm_op", _name(norm_op), "InstanceNorm3d"),
            ("norm_op_kwargs affine", norm["affine"], True),
            ("norm_op_kwargs track_running_stats", norm.get("track_running_stats", False), False),
            ("nonlin", _name(nonlin), "LeakyReLU"),
            ("nonlin_kwargs negative_slope", slope, 0.01),
            ("dropout_op", _name(dropout_op), "None"),
        ):
            if found != expected:
                raise ValueError(f"{name}: found {found}, expected {expected}")
        if not isinstance(conv_bias, bool):  # any text would be true
            raise ValueError(f"conv_bias: found {conv_bias!r:.40}, expected true or false")
        if not isinstance(n_stages, int) or not 2 <= n_stages <= 16:
            raise ValueError(f"n_stages: found {str(n_stages)[:40]!r}, expected a whole number from 2 to 16")
        features = _per_stage("features_per_stage", features_per_stage, n_stages)
        kernels = _per_stage("kernel_sizes", kernel_sizes, n_stages, vector=True)
        strides = _per_stage("strides", strides, n_stages, vector=True)
        if strides[0] != [1, 1, 1]:  # the answer would be on a coarser grid than the scan
            raise ValueError(f"strides: found {strides[0]} for the first stage, expected [1, 1, 1]")
        if even := [kernel for kernel in kernels if not all(size % 2 for size in kernel)]:
            raise ValueError(f"kernel_sizes: found {even[0]}, expected odd numbers, which leave sizes as they are")
        blocks = _per_stage("n_blocks_per_stage", n_blocks_per_stage, n_stages)
        convs = _per_stage("n_conv_per_stage_decoder", n_conv_per_stage_decoder, n_stages - 1)
        eps = norm["eps"]
        if not (isinstance(eps, float) and 0 < eps < 1):
            raise ValueError(f"norm_op_kwargs eps: found {eps!r:.40}, expected a number between 0 and 1")
        self.total_stride = tuple(math.prod(axis) for axis in zip(*strides, strict=True))
        self.variant = variant or type(self).variant
        self.encoder = Encoder(input_channels, features, kernels, strides, blocks, conv_bias, eps)
        self.decoder = Decoder(num_classes, features, kernels, strides, convs, deep_supervision, conv_bias, eps)
        self.mamba_layer = MambaLayer(features[-1], self.variant, patch_size)
        register: Any = self.register_load_state_dict_pre_hook
        register(lambda module, state_dict, prefix, *_: drop_aliases(state_dict, prefix))

    def forward(self, volume: Tensor, clicks: ClickTensors | None = None) -> Tensor | list[Tensor]:
        skips = self.encoder(volume)
        skips[-1] = self.mamba_layer(skips[-1], clicks)
        logits: Tensor | list[Tensor] = self.decoder(skips)
        return logits

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """nnU-Net's He initialisation, for ``net.apply(net.initialize)``."""
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(module.weight, a=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.weight)
            nn.init.zeros_(module.conv2.norm.bias)


class UMamba2Click(UMamba2):
    """U-Mamba2 steered by clicks through two two-way attention blocks (ToothFairy3 task 2)."""

    variant = CLICK


def _name(op: object) -> str:
    """The bare class name of an operator given as class, dotted name or None."""
    return getattr(op, "__name__", str(op)).rsplit(".", 1)[-1]


def _is_size(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value < math.inf


def _per_stage(name: str, value: Any, stages: int, vector: bool = False) -> list[Any]:
    """One entry per stage, or three (z, y, x), from what plans hold: a number for all, or a list."""
    values = [value] * stages if isinstance(value, int) else list(value)
    if len(values) != stages:
        raise ValueError(f"{name}: found {len(values)} entries, expected {stages}")
    triples = [[v] * 3 if isinstance(v, int) else list(v) for v in values]
    for entry in (n for triple in triples for n in triple):
        if isinstance(entry, bool) or not isinstance(entry, int) or not 1 <= entry <= LARGEST_ENTRY:
            raise ValueError(f"{name}: found {str(entry)[:40]!r}, expected whole numbers from 1 to {LARGEST_ENTRY}")
    if any(len(triple) != 3 for triple in triples):
        raise ValueError(f"{name}: found {values}, expected one number or three (z, y, x) per stage")
    return triples if vector else values
