"""Scans that nobody took: phantoms with exact labels, and random images of real label maps.

>>> from umamba2.synthetic import make_phantom
>>> phantom = make_phantom(7)  # phantom.image, phantom.labels, phantom.clicks ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from umamba2.lazy import lazily

if TYPE_CHECKING:
    from umamba2.synthetic.appearance import image_of_labels
    from umamba2.synthetic.bone_meshes import BoneMesh, read_bone_meshes
    from umamba2.synthetic.heads import make_head
    from umamba2.synthetic.phantoms import Phantom, make_phantom, write_phantoms
    from umamba2.synthetic.tooth_shapes import ToothShape, read_tooth_shapes

__all__ = [
    "BoneMesh",
    "Phantom",
    "ToothShape",
    "image_of_labels",
    "make_head",
    "make_phantom",
    "read_bone_meshes",
    "read_tooth_shapes",
    "write_phantoms",
]

if not TYPE_CHECKING:
    __getattr__ = lazily(
        __name__,
        {
            "BoneMesh": "bone_meshes",
            "Phantom": "phantoms",
            "ToothShape": "tooth_shapes",
            "image_of_labels": "appearance",
            "make_head": "heads",
            "make_phantom": "phantoms",
            "read_bone_meshes": "bone_meshes",
            "read_tooth_shapes": "tooth_shapes",
            "write_phantoms": "phantoms",
        },
    )
