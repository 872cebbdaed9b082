"""Clicks that the network did not follow: said, because such a click may be on the wrong side, or on no canal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.engine.session import Click
from umamba2.scans.geometry import Triple

FAR = 3.0  # mm from a click to what was found of its canal: a canal is 2 to 4 mm thick


def doubts(
    clicks: Sequence[Click], labels: npt.NDArray[np.uint8], ids: Mapping[str, int], spacing: Triple
) -> tuple[str, ...]:
    """One line for every click that lies away from the canal it is for.

    Args:
        clicks: All of them.
        labels: What was found, (z, y, x).
        ids: The id of each side's canal.
        spacing: mm (z, y, x).
    """
    canals = {side: np.argwhere(labels == number) * spacing for side, number in ids.items()}
    lines = []
    for number, click in enumerate(clicks, start=1):
        away = {side: _distance(np.multiply(click.voxel, spacing), canal) for side, canal in canals.items()}
        own = away[click.side]
        if own <= FAR:
            continue
        nearer = next((side for side, mm in away.items() if mm <= FAR), None)
        found = "none was found" if own == np.inf else f"it passes {own:.0f} mm away"
        where = f"; it lies on the {nearer} one" if nearer else ""
        lines.append(f"click {number}: found it off the {click.side} canal ({found}{where}), expected it on it")
    return tuple(lines)


def _distance(place: npt.NDArray[Any], canal: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(canal - place, axis=1).min()) if len(canal) else np.inf
