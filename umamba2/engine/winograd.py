"""3x3x3 convolutions with a third fewer multiplications: Winograd's F(2, 3) along z.

Two neighbouring rows of a kernel of three need four products of sums instead of six products (S. Winograd, Arithmetic
Complexity of Computations, 1980; for networks arXiv 1509.09308). Every product here is a whole 2-D convolution, so what
is added are planes, and adding costs little where there are many channels to multiply.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_CHANNELS = 64  # with fewer, half precision loses more labels than the time is worth
PIECE_ELEMENTS = 2**21  # of a sum of planes: stays in the caches


def quick(conv: Any) -> nn.Module:
    """A convolution without bias as `Winograd` where that is faster, else itself."""
    weight = conv.weight
    fits = (conv.kernel_size[0], conv.stride, conv.padding[0]) == (3, (1, 1, 1), 1)
    # Matrix units multiply so fast that the additions would take longer.
    multiplies_faster = weight.dtype == torch.bfloat16 and getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    return Winograd(conv) if fits and min(weight.shape[:2]) >= FEWEST_CHANNELS and not multiplies_faster else conv


class Winograd(nn.Module):
    """A convolution with kernel 3, stride 1 and padding 1 along z. (B, C, z, y, x) in and out, channels-last.

    Not equal to `F.conv3d`: in bf16 the sums of planes and of products are rounded once more.
    """

    def __init__(self, conv: Any):
        super().__init__()
        weight = conv.weight
        above, here, below = weight.float().unbind(2)
        products = above, (above + here + below) / 2, (above - here + below) / 2, below
        self.weights = nn.ParameterList(
            nn.Parameter(p.to(weight.dtype).contiguous(memory_format=torch.channels_last), requires_grad=False)
            for p in products
        )
        self.padding = conv.padding[1:]

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_empty(len(x), *x.shape[2:], self.weights[0].shape[0]).permute(0, 4, 1, 2, 3)
        for sample, result in zip(x.transpose(1, 2), out.transpose(1, 2), strict=True):  # planes (z, C, y, x)
            size = len(sample)
            step = 2 * max(1, PIECE_ELEMENTS // sample[0].numel())
            for start in range(0, size, step):
                stop = min(start + step, size)
                self._rows(_planes(sample, start - 1, stop + 1 + (stop - start) % 2), result[start:stop])
        return out

    def _rows(self, planes: Tensor, out: Tensor) -> None:
        """Planes with one more on either side, an even number -> those between them, the last perhaps left out."""
        even, odd = planes[::2], planes[1::2]
        first, second, third, fourth = even[:-1], odd[:-1], even[1:], odd[1:]
        m0 = self._product(0, first - third)
        m1 = self._product(1, second + third)
        m2 = self._product(2, third - second)
        torch.add(m0.add_(m1), m2, out=out[::2])
        del m0
        last = len(out) // 2
        m3 = self._product(3, (second - fourth)[:last])
        torch.sub(m1.sub_(m2)[:last], m3, out=out[1::2])

    def _product(self, index: int, planes: Tensor) -> Tensor:
        return F.conv2d(planes, self.weights[index], None, 1, self.padding)


def _planes(sample: Tensor, start: int, stop: int) -> Tensor:
    """The planes from start to stop of (z, C, y, x), zeros where there are none."""
    size = len(sample)
    inside = sample[max(start, 0) : stop]
    if start >= 0 and stop <= size:
        return inside
    planes = inside.new_zeros(stop - start, *(inside.shape[i] for i in (2, 3, 1))).permute(0, 3, 1, 2)
    planes[max(0, -start) : max(0, -start) + len(inside)] = inside
    return planes
