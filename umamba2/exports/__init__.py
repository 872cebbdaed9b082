"""Segmentations for other programs: surface meshes, 3D Slicer segmentations, label maps with their colours.

>>> from umamba2.exports import export
>>> export("labels.mha", "out/", "stl", structures=["teeth", "canals"], smooth=True)
"""

from __future__ import annotations

__all__ = ["export"]


def __getattr__(name: str):
    # The command line asks this package for its options, and must not wait for SimpleITK to get them.
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("umamba2.exports.files"), name)
    raise AttributeError(f"module 'umamba2.exports' has no attribute {name!r}")
