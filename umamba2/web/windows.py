"""Grey values to show as black and white: presets for bone, teeth and soft tissue that fit any scanner.

Cone-beam CT is not calibrated, so presets in HU mean nothing to it. They are laid through the scan's own air and soft
tissue, as harmonised models do; without these two, through the scan's range.
"""

from __future__ import annotations

import numpy as np

from umamba2.engine.harmonise import AIR, SOFT_TISSUE, anchors
from umamba2.engine.padding import find_padding
from umamba2.scans.geometry import Array

# In HU: what becomes black, what becomes white.
PRESETS = {"bone": (-400.0, 2000.0), "teeth": (200.0, 3400.0), "soft": (-260.0, 340.0)}
_DARK, _BRIGHT = 1.0, 99.7  # percentiles of the scan for everything
# Of that range, where nothing else is known.
_AS_SHARES = {"bone": (0.1, 0.85), "teeth": (0.35, 1.0), "soft": (0.1, 0.4)}


def windows(volume: Array) -> dict[str, tuple[float, float]]:
    """Which grey values of a scan (z, y, x) to show as black and white, by preset; ``full`` is all of them."""
    padding = find_padding(volume)
    sample = volume[tuple(slice(None, None, max(1, length // 100)) for length in volume.shape)]
    if padding is not None:
        sample = sample[~np.isin(sample, list(padding.values))]
    low, high = (float(value) for value in np.percentile(sample, (_DARK, _BRIGHT))) if sample.size else (0.0, 1.0)
    high = max(high, low + 1)
    found = anchors(volume, padding.values if padding else ())
    if found is None:
        chosen = {name: (low + a * (high - low), low + b * (high - low)) for name, (a, b) in _AS_SHARES.items()}
    else:
        air, soft = found
        scale = (soft - air) / (SOFT_TISSUE - AIR)
        chosen = {name: (air + (a - AIR) * scale, air + (b - AIR) * scale) for name, (a, b) in PRESETS.items()}
    return {name: (round(a, 2), round(b, 2)) for name, (a, b) in {**chosen, "full": (low, high)}.items()}
