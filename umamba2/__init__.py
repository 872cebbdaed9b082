"""U-Mamba2: dental cone-beam CT segmentation for ToothFairy3 and STSR.

>>> import umamba2
>>> segmenter = umamba2.load("toothfairy3-multiclass")
>>> segmentation = segmenter.segment("scan.mha")
>>> segmentation.write("labels.mha")

`Predictor` is the engine below that: arrays in, arrays out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from umamba2.lazy import lazily

if TYPE_CHECKING:
    from umamba2.engine.predict import Predictor
    from umamba2.engine.session import Answer, Click, Session
    from umamba2.errors import Cancelled, InputError, MissingExtra, ModelError, OutOfMemory
    from umamba2.scans.clicks import Clicks
    from umamba2.scans.volumes import Geometry, Volume, read_volume, write_labels
    from umamba2.segmenter import Segmentation, Segmenter, load

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Cancelled",
    "Click",
    "Clicks",
    "Geometry",
    "InputError",
    "MissingExtra",
    "ModelError",
    "OutOfMemory",
    "Predictor",
    "Segmentation",
    "Segmenter",
    "Session",
    "Volume",
    "load",
    "read_volume",
    "write_labels",
]

if not TYPE_CHECKING:  # a type checker shall find what is above, and nothing else
    __getattr__ = lazily(
        __name__,
        {
            "Answer": "engine.session",
            "Cancelled": "errors",
            "Click": "engine.session",
            "Clicks": "scans.clicks",
            "Geometry": "scans.volumes",
            "InputError": "errors",
            "MissingExtra": "errors",
            "ModelError": "errors",
            "OutOfMemory": "errors",
            "Predictor": "engine.predict",
            "Segmentation": "segmenter",
            "Segmenter": "segmenter",
            "Session": "engine.session",
            "Volume": "scans.volumes",
            "load": "segmenter",
            "read_volume": "scans.volumes",
            "write_labels": "scans.volumes",
        },
    )

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
