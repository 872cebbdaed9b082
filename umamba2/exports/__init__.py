"""Segmentations for other programs: surface meshes, 3D Slicer segmentations, label maps with their colours.

>>> from umamba2.exports import export
>>> export("labels.mha", "out/", "stl", structures=["teeth", "canals"], smooth=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from umamba2.lazy import lazily

if TYPE_CHECKING:
    from umamba2.exports.files import export

__all__ = ["export"]

if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, {"export": "files"})
