"""The properties of preprocessed cases, which nnU-Net keeps as pickles: read as data, of which nothing is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from umamba2.models.checkpoint import check_memory
from umamba2.models.pickles import NUMPY, ForeignError, read_pickle


def read_properties(path: str | Path) -> dict[str, Any]:
    """The properties of a case.

    Args:
        path: Its ``.pkl``.

    Raises:
        OSError: The file cannot be read.
        Exception: Whatever a damaged pickle leads to; ValueError where it holds what properties do not need.
    """
    path = Path(path)
    check_memory(path.stat().st_size)
    try:
        found = read_pickle(path.read_bytes(), NUMPY)
    except ForeignError as error:
        raise ValueError(f"{error} in {path.name}") from None
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__} in {path.name}, no properties by name")
    return found


def check_places(properties: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the places of the classes are voxels of their image.

    Args:
        properties: Of a case, with ``class_locations``: by class, (n, 4) indices.
        shape: (1, z, y, x), of the image.
    """
    found = properties.get("class_locations")
    if not isinstance(found, dict):
        raise ValueError("no class_locations among its properties")
    for name, places in found.items():
        if not len(places):  # an empty list
            continue
        places = np.asarray(places)
        fitting = places.ndim == 2 and places.shape[1] == len(shape) and places.dtype.kind in "iu"
        if not fitting or not ((places >= 0) & (places < shape)).all():
            raise ValueError(f"places of class {name} that are no voxels of the image {shape}")
