"""The properties of preprocessed cases, which nnU-Net keeps as pickles: read as data, of which nothing is executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

_ARRAYS = [
    (f"numpy.{core}.{name}", function)
    for core in ("core", "_core")  # of numpy 1 and 2
    for name, function in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
]
_NEEDED = {("numpy", "dtype"), ("numpy", "ndarray"), ("_codecs", "encode"), *_ARRAYS}


class _Unpickler(pickle.Unpickler):
    """Knows numbers, texts, arrays and what holds them, and nothing that could be run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NEEDED:
            raise pickle.UnpicklingError(f"the Python object {module:.60}.{name:.60} in {self.path.name}")
        own = "numpy._core" if hasattr(np, "_core") else "numpy.core"
        return super().find_class(module.replace("numpy._core", own).replace("numpy.core", own), name)

    def __init__(self, path: Path, file: Any):
        super().__init__(file)
        self.path = path


def read_properties(path: str | Path) -> Any:
    """The properties of a case.

    Args:
        path: Its ``.pkl``.

    Raises:
        OSError: The file cannot be read.
        Exception: Whatever a damaged pickle leads to; UnpicklingError where it names what properties do not need.
    """
    with open(path, "rb") as file:
        return _Unpickler(Path(path), file).load()
