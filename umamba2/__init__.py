"""U-Mamba2: dental cone-beam CT segmentation for ToothFairy3 and STSR.

>>> from umamba2 import Predictor, read_volume
>>> predictor = Predictor.from_folder("resources/toothfairy3-multiclass")
>>> volume = read_volume("scan.mha")
>>> labels = predictor.predict(volume.array, volume.spacing)      # uint8, (z, y, x), training ids
"""

from __future__ import annotations

from umamba2.lazy import lazily

__version__ = "0.1.0"
__all__ = ["InputError", "Predictor", "read_volume", "write_labels"]

__getattr__ = lazily(
    __name__,
    {
        "InputError": "errors",
        "Predictor": "engine.predict",
        "read_volume": "scans.volumes",
        "write_labels": "scans.volumes",
    },
)
