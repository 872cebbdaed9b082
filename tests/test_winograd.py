"""Convolutions with fewer multiplications against those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from umamba2.engine import winograd


def convolution(inputs=64, outputs=96, kernel=(3, 3, 3), stride=1, dtype=torch.float32):
    padding = tuple(k // 2 for k in kernel)
    conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False).requires_grad_(False)
    return conv.to(dtype, memory_format=torch.channels_last_3d)


def features(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("piece", [1, 2**13, 2**21])  # one pair of planes, a few, all
@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 3)])
def test_equals_the_convolution(monkeypatch, rows, piece, kernel):
    monkeypatch.setattr(winograd, "PIECE_ELEMENTS", piece)
    conv, x = convolution(kernel=kernel), features(2, 64, rows, 6, 7)
    found = winograd.Winograd(conv)(x)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, conv(x), atol=1e-5, rtol=1e-4)


def test_half_precision_stays_close():
    conv, x = convolution(dtype=torch.bfloat16), features(1, 64, 12, 20, 20, dtype=torch.bfloat16)
    exact = torch.conv3d(x.float(), conv.weight.float(), padding=1)
    usual, found = ((net(x).float() - exact).std() for net in (conv, winograd.Winograd(conv)))
    assert found < 3.5 * usual  # 2.7 times: sums and their products are rounded, weights once more


@pytest.mark.parametrize(
    "conv",
    [
        convolution(inputs=32),
        convolution(outputs=32),
        convolution(kernel=(1, 3, 3)),
        convolution(kernel=(5, 3, 3)),
        convolution(stride=2),
    ],
)
def test_other_convolutions_are_left_alone(conv):
    assert winograd.quick(conv) is conv
    assert isinstance(winograd.quick(convolution()), winograd.Winograd)


def test_matrix_units_need_no_help(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not isinstance(winograd.quick(convolution(dtype=torch.bfloat16)), winograd.Winograd)
    assert isinstance(winograd.quick(convolution()), winograd.Winograd)
