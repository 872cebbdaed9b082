"""Residual-encoder U-Net, module for module nnU-Net's `ResidualEncoderUNet` (3-D, instance norm, LeakyReLU).

Parameter names are nnU-Net's. Its state dicts hold two more names for some tensors (`decoder.encoder.*` and
`all_modules.*`); those are dropped on loading instead of being carried around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = Callable[[Tensor], Tensor]
Axes = Sequence[int]  # one number per axis, (z, y, x)


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation written as group norm with one channel per group.

    Same arithmetic and parameter names as `InstanceNorm3d(affine=True)`, but it keeps channels-last tensors as they
    are and is much faster on CPUs.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__(channels, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and x.device.type == "cpu"):
            return super().forward(x)
        # With one sample it is a batch norm too, whose backward pass takes a small part of the time there.
        parts = [
            torch.batch_norm(sample, self.weight, self.bias, None, None, True, 0.0, self.eps, False)
            for sample in torch.split(x, 1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class ConvNormAct(nn.Module):
    """Convolution, instance norm and, unless ``act`` is False, LeakyReLU; padding keeps the size (odd kernels)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Axes, stride: Axes = (1, 1, 1), bias: bool = True, eps: float = 1e-5,
        act: bool = True,
    ):  # fmt: skip
        super().__init__()
        padding = [(k - 1) // 2 for k in kernel]
        self.conv = nn.Conv3d(inputs, outputs, tuple(kernel), tuple(stride), padding, bias=bias)  # type: ignore[arg-type]
        self.norm = InstanceNorm(outputs, eps)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, 0.01, inplace=True) if self.act else x


class MeanPool(nn.Module):
    """Average pooling, kernel = stride, one axis after the other.

    The same mean as `AvgPool3d`, which has no bf16 kernel on CPUs, loses channels-last and is several times slower.
    """

    def __init__(self, stride: Axes):
        super().__init__()
        self.stride = tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        for axis, step in enumerate(self.stride, start=2):
            if step > 1:
                every = [x[(slice(None),) * axis + (slice(i, None, step),)] for i in range(step)]
                x = sum(every[1:], every[0]) / step
        return x


class ConvStack(nn.Module):
    """Some `ConvNormAct`, the first of which changes the width."""

    def __init__(self, count: int, inputs: int, outputs: int, kernel: Axes, bias: bool, eps: float):
        super().__init__()
        self.convs: Layer = nn.Sequential(
            *(ConvNormAct(outputs if i else inputs, outputs, kernel, bias=bias, eps=eps) for i in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class ResidualBlock(nn.Module):
    """Two convolutions around a skip; the skip pools when the block strides and projects when the width changes."""

    def __init__(self, inputs: int, outputs: int, kernel: Axes, stride: Axes, bias: bool, eps: float):
        super().__init__()
        self.conv1 = ConvNormAct(inputs, outputs, kernel, stride, bias, eps)
        self.conv2 = ConvNormAct(outputs, outputs, kernel, bias=bias, eps=eps, act=False)
        skip: list[nn.Module] = []
        if max(stride) > 1:
            skip.append(MeanPool(stride))
        if inputs != outputs:
            skip.append(ConvNormAct(inputs, outputs, (1, 1, 1), bias=False, eps=eps, act=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), 0.01, inplace=True)


class ResidualStage(nn.Module):
    """Some `ResidualBlock`, the first of which strides and changes the width."""

    def __init__(self, count: int, inputs: int, outputs: int, kernel: Axes, stride: Axes, bias: bool, eps: float):
        super().__init__()
        self.blocks: Layer = nn.Sequential(
            *(
                ResidualBlock(outputs if i else inputs, outputs, kernel, (1, 1, 1) if i else stride, bias, eps)
                for i in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Encoder(nn.Module):
    """(B, channels, z, y, x) -> the features of every stage, finest first."""

    def __init__(
        self, input_channels: int, features: Sequence[int], kernels: Sequence[Axes], strides: Sequence[Axes],
        blocks: Sequence[int], bias: bool, eps: float,
    ):  # fmt: skip
        super().__init__()
        self.stem = ConvStack(1, input_channels, features[0], kernels[0], bias, eps)
        widths = [features[0], *features]
        self.stages = nn.Sequential(
            *(
                ResidualStage(blocks[i], widths[i], widths[i + 1], kernels[i], strides[i], bias, eps)
                for i in range(len(features))
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """The features of every stage -> logits, or with ``deep_supervision`` a list of logits, finest first.

    Every level has its own output layer, whether used or not, so that trained weights always fit.
    """

    def __init__(
        self, num_classes: int, features: Sequence[int], kernels: Sequence[Axes], strides: Sequence[Axes],
        convs: Sequence[int], deep_supervision: bool, bias: bool, eps: float,
    ):  # fmt: skip
        super().__init__()
        self.deep_supervision = deep_supervision  # an attribute of this module because nnU-Net switches it here
        self.transpconvs, self.stages, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for count, level in zip(convs, range(len(features) - 2, -1, -1), strict=True):
            below, here, stride = features[level + 1], features[level], tuple(strides[level + 1])
            self.transpconvs.append(nn.ConvTranspose3d(below, here, stride, stride, bias=bias))  # type: ignore[arg-type]
            self.stages.append(ConvStack(count, 2 * here, here, kernels[level], bias, eps))
            self.seg_layers.append(nn.Conv3d(here, num_classes, 1))

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        x = skips[-1]
        outputs = []
        for level, (up, stage, head) in enumerate(zip(self.transpconvs, self.stages, self.seg_layers, strict=True)):
            x = stage(torch.cat([up(x), skips[-2 - level]], dim=1))
            if self.deep_supervision or level == len(self.stages) - 1:
                outputs.append(head(x))
        return outputs[::-1] if self.deep_supervision else outputs[0]


def drop_aliases(state_dict: dict[str, Tensor], prefix: str = "") -> None:
    """Remove, in place, the second names that nnU-Net gives to some tensors; ValueError if two names differ."""
    for key in [k for k in state_dict if k.startswith(f"{prefix}decoder.encoder.") or ".all_modules." in k]:
        alias, first = state_dict.pop(key), key.replace(f"{prefix}decoder.encoder.", f"{prefix}encoder.", 1)
        for number, name in _ALL_MODULES:
            first = first.replace(number, name)
        if first in state_dict and not _same(state_dict[first], alias):
            raise ValueError(f"{key:.100} with other numbers than {first:.100}")


# A norm is the third where there is dropout.
_ALL_MODULES = (".all_modules.0.", ".conv."), (".all_modules.1.", ".norm."), (".all_modules.2.", ".norm.")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN or not."""
    if one is other:
        return True
    if not all(isinstance(value, Tensor) and value.layout is torch.strided for value in (one, other)):
        return False
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    if (one.data_ptr(), one.stride()) == (other.data_ptr(), other.stride()):
        return True
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
