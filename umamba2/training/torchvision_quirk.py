"""A torchvision that belongs to another build of torch, and cannot be imported for it.

pip puts PyPI's torchvision, made for CUDA, beside a CPU build of torch. Nothing here uses it, but nnU-Net imports it,
through timm, while it looks for a trainer.
"""

from __future__ import annotations

import torch

_MISSING = ("nms", "qnms")  # operators that importing it takes for granted
_LIBRARIES: list[torch.library.Library] = []  # what torch forgets along with the object that defined it


def make_importable() -> None:
    """Import torchvision, if need be with its operators declared but not there."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        _LIBRARIES.append(library)
        for name in _MISSING:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
    except ImportError:
        pass  # nnU-Net says better what it misses
