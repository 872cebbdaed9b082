"""U-Mamba2: dental cone-beam CT segmentation for ToothFairy3 and STSR.

>>> from umamba2 import Predictor, read_volume
>>> predictor = Predictor.from_folder("resources/toothfairy3-multiclass")
>>> volume = read_volume("scan.mha")
>>> labels = predictor.predict(volume.array, volume.spacing)      # uint8, (z, y, x), training ids
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["InputError", "Predictor", "read_volume", "write_labels"]

_HOMES = {
    "InputError": "umamba2.errors",
    "Predictor": "umamba2.engine.predict",
    "read_volume": "umamba2.volumes",
    "write_labels": "umamba2.volumes",
}


def __getattr__(name: str):
    # Importing umamba2.labels or printing --help must not wait seconds for torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'umamba2' has no attribute {name!r}")
