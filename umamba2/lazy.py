"""Packages that import what they offer only when it is asked for.

Importing ``umamba2.anatomy.structures`` or printing ``--help`` must not wait seconds for torch, scipy or SimpleITK.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package, which takes each name from the module below the package that ``homes`` says.

    >>> __getattr__ = lazily(__name__, {"dice": "metrics"})
    """

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
