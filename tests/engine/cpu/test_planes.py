"""Convolutions a few planes at a time, with all and with fewer multiplications, against those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from umamba2.engine.cpu import planes
from umamba2.engine.cpu.planes import Conv, Norm, Up, write_portions
from umamba2.engine.cpu.winograd import Winograd, make_conv


def convolution(inputs=64, outputs=96, kernel=(3, 3, 3), stride=(1, 1, 1), dtype=torch.float32):
    padding = tuple(k // 2 for k in kernel)
    conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False).requires_grad_(False)
    return conv.to(dtype, memory_format=torch.channels_last_3d)


def features(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last_3d)


def by_portions(conv, x):
    out = planes.empty_like_layout(x, conv.channels, conv.size(x))
    for some, result in zip(planes.samples(x), planes.samples(out), strict=True):
        for start, piece in planes.portions(result, conv.multiple):
            conv.write(some, start, piece)
    return out


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("piece", [1, 2**14, 2**21])  # as few planes as possible, some, all
@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 3)])
def test_fewer_multiplications_give_the_same(monkeypatch, rows, piece, kernel):
    monkeypatch.setattr(planes, "PORTION_BYTES", piece)
    conv, x = convolution(kernel=kernel), features(2, 64, rows, 6, 7)
    torch.testing.assert_close(by_portions(Winograd(conv), x), conv(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [3, 8, 9])
@pytest.mark.parametrize("piece", [1, 2**12, 2**21])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), (2, 2, 2)), ((5, 3, 1), (1, 2, 1)), ((2, 2, 2), (2, 2, 2))])
def test_slabs_give_what_the_whole_gives(monkeypatch, rows, piece, kernel, stride):
    monkeypatch.setattr(planes, "PORTION_BYTES", piece)
    conv, x = convolution(8, 16, kernel, stride), features(2, 8, rows, 6, 7)
    torch.testing.assert_close(by_portions(Conv(conv), x), conv(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(4, 2, 1), (3, 1, 1), (2, 2, 0), (1, 1, 0), (8, 4, 2), (5, 3, 1)]
)
def test_transposed_slabs_give_what_the_whole_gives(kernel, stride, padding):
    up = nn.ConvTranspose3d(8, 16, kernel, stride, padding, bias=False).requires_grad_(False)
    x = features(1, 8, 5, 6, 7)
    expected = up(x)[0].transpose(0, 1)
    for start in range(0, 5 * stride, stride):
        found = Up(up).planes(planes.samples(x)[0], start, start + stride)
        torch.testing.assert_close(found, expected[start : start + stride], atol=1e-5, rtol=1e-4)


def test_half_precision_stays_close():
    conv, x = convolution(dtype=torch.bfloat16), features(1, 64, 12, 20, 20, dtype=torch.bfloat16)
    exact = torch.conv3d(x.float(), conv.weight.float(), padding=1)
    usual, found = ((net(x).float() - exact).std() for net in (conv, lambda x: by_portions(Winograd(conv), x)))
    assert found < 3.5 * usual  # 2.7 times: sums and their products are rounded, weights once more


def test_normalising_by_slabs_is_instance_norm(monkeypatch):
    monkeypatch.setattr(planes, "PORTION_BYTES", 2**12)
    norm = nn.GroupNorm(8, 8).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = features(1, 8, 9, 10, 11)
    slab = planes.samples(x.clone())[0]
    normalise = Norm(norm).normaliser(write_portions(slab, lambda start, piece: piece.mul_(3).add_(2)))
    for _, piece in planes.portions(slab):
        normalise(piece)
    torch.testing.assert_close(slab.transpose(0, 1)[None], norm(3 * x + 2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"inputs": 32}, {"outputs": 32}, {"kernel": (1, 3, 3)}, {"kernel": (5, 3, 3)}, {"stride": (2, 2, 2)}],
)
def test_which_convolutions_multiply_less(changes):
    assert type(make_conv(convolution(**changes))) is Conv
    assert type(make_conv(convolution())) is Winograd


def test_matrix_units_need_no_help(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert type(make_conv(convolution(dtype=torch.bfloat16))) is Conv
    assert type(make_conv(convolution())) is Winograd
