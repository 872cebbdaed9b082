"""3x3x3 convolutions with a third fewer multiplications: Winograd's F(2, 3) along z.

Two neighbouring results of a kernel of three need four products of sums instead of six products (S. Winograd,
Arithmetic Complexity of Computations, 1980; for networks arXiv 1509.09308). Every product here is a whole 2-D
convolution, so what is added are planes, and adding costs little where there are many channels to multiply.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from umamba2.engine.cpu.planes import Conv, convolve, zero_padded

FEWEST_CHANNELS = 64  # with fewer there is little to gain, and in half precision more labels to lose


def make_conv(conv: Any) -> Conv:
    """A `Conv3d`, without its bias, as `Winograd` where that is faster, else as `Conv`."""
    weight = conv.weight
    fits = (conv.kernel_size[0], conv.stride, conv.padding[0]) == (3, (1, 1, 1), 1)
    # Matrix units multiply so fast that the additions would take longer.
    multiplies_faster = weight.dtype == torch.bfloat16 and getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    return (Winograd if fits and min(weight.shape[:2]) >= FEWEST_CHANNELS and not multiplies_faster else Conv)(conv)


class Winograd(Conv):
    """A convolution with kernel 3, stride 1 and padding 1 along z.

    Not equal to `F.conv3d`: in bf16 the sums of planes and of products are rounded once more.
    """

    multiple = 2

    def __init__(self, conv: Any):
        super().__init__(conv)
        above, here, below = conv.weight.float().unbind(2)
        products = above, (above + here + below) / 2, (above - here + below) / 2, below
        self.products = nn.ParameterList(
            nn.Parameter(p.to(conv.weight.dtype).contiguous(memory_format=torch.channels_last), requires_grad=False)
            for p in products
        )
        del self.weight

    def write(self, planes: Tensor, start: int, out: Tensor) -> None:
        seen = zero_padded(planes, start - 1, start + len(out) + 1 + len(out) % 2)
        even, odd = seen[::2], seen[1::2]
        first, second, third, fourth = even[:-1], odd[:-1], even[1:], odd[1:]
        m0 = self._product(0, first - third)
        m1 = self._product(1, second + third)
        m2 = self._product(2, third - second)
        torch.add(m0.add_(m1), m2, out=out[::2])
        odds = len(out) // 2  # one less than pairs if the last one is only half there
        m3 = self._product(3, (second - fourth)[:odds])
        torch.sub(m1.sub_(m2)[:odds], m3, out=out[1::2])

    def _product(self, index: int, sums: Tensor) -> Tensor:
        return convolve(sums, self.products[index], (1, 1), self.padding[1:])
