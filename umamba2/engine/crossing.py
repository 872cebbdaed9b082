"""Between the host and a GPU without waiting: each wait lets the GPU run out of work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOT_YET = 255  # only the last class of a network with 256 has this number


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the host goes on at once if that is a CUDA GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Landing:
    """Labels (uint8) of the host, parts of which come from anywhere.

    Those of a CUDA GPU are copied into memory of their own while the host goes on, and put into their places by `land`,
    even if the GPU fails later on.

    Args:
        shape: Of all labels.

    Attributes:
        labels: Complete after `land`.
    """

    def __init__(self, shape: Sequence[int]):
        self.labels = torch.zeros(tuple(shape), dtype=torch.uint8)
        self._block: Tensor | None = None
        self._used = 0
        self._coming: list[tuple[Tensor, Tensor]] = []
        self._device: torch.device | None = None

    def put(self, place: Tensor, labels: Tensor) -> None:
        """Put labels into a place, which is a view of `labels`."""
        if labels.device.type == "cuda":
            if self._block is None:
                self._block = torch.full((self.labels.numel(),), NOT_YET, dtype=torch.uint8, pin_memory=True)
            if self._used + labels.numel() <= len(self._block):
                here = self._block[self._used : self._used + labels.numel()].view(labels.shape)
                here.copy_(labels.contiguous(), non_blocking=True)
                self._used += labels.numel()
                self._coming.append((place, here))
                self._device = labels.device
                return
        place.copy_(labels)

    def land(self) -> str | None:
        """Wait for what is on its way; what went wrong with it, None if nothing did. What never came is background."""
        problem = None
        if self._device is not None:
            try:
                torch.cuda.synchronize(self._device)
            except Exception as error:
                problem = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        lost = 0
        for place, here in self._coming:
            if problem is not None:
                late = here == NOT_YET
                lost += int(late.sum())
                here = here.masked_fill(late, 0)
            place.copy_(here)
        self._coming = []
        return f"{problem}, {lost} voxels" if lost else None
