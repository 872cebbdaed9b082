"""Descriptions of models as plain values: what JSON can hold, of a size that plans have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from umamba2.errors import ModelError
from umamba2.files import read_json

LARGEST_JSON, DEEPEST_JSON = 2**24, 32  # bytes and levels; a dataset.json of 10,000 cases has a tenth


def as_object(path: Path, name: str, value: Any) -> dict[str, Any]:
    """A value that must be an object; ModelError with its name if it is none."""
    if not isinstance(value, dict):
        raise ModelError(f"{path}: found {name} of type {type(value).__name__}, expected an object")
    return value


def read_object(path: Path, what: str = "a JSON object") -> dict[str, Any]:
    """The JSON object in a file; ModelError says ``what`` was expected."""
    if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST_JSON):
        raise ModelError(f"{path}: found no file or one of more than {LARGEST_JSON} bytes, expected {what}")
    content: dict[str, Any] = to_plain(path, read_json(path, what))
    return content


def to_plain(path: Path, value: Any) -> Any:
    """Numpy numbers, tuples and the like as what JSON can hold, up to a size that no plans have.

    The limit is for pickled lists that hold the same list twice, and so on: tiny in the file, without end as JSON.
    """
    left = LARGEST_JSON

    def plain(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 16 + (len(value) if isinstance(value, (str, bytes, bytearray)) else 0)
        if left < 0 or depth > DEEPEST_JSON:
            raise ModelError(f"{path}: found values nested into one another without end, expected plans and the like")
        if isinstance(value, dict):
            found = {plain(str(k), depth): plain(v, depth + 1) for k, v in value.items()}
            if len(found) < len(value):  # such as 0 and "0", of which the last would count
                raise ModelError(f"{path}: found the keys {list(value)!s:.100}, expected each once as a text")
            return found
        if isinstance(value, (list, tuple)):
            return [plain(v, depth + 1) for v in value]
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, (str, int, float, bool, type(None))):
            return value
        # Of numbers and bytes the text may be long, and takes long.
        return type(value).__name__ if isinstance(value, (Tensor, np.ndarray, bytes, bytearray)) else str(value)

    return plain(value, 0)
