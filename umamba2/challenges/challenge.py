"""What one challenge asks for, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from umamba2.anatomy import structures as labels
from umamba2.engine.postprocess import Connectivity, paint_clicks, remove_small
from umamba2.scans.clicks import Clicks


@dataclass(frozen=True)
class Challenge:
    """A challenge: what its platform mounts and collects, and the method's published settings for it.

    ``mounts``: the input and the output folder in the container. ``image_folder`` and ``output_folder`` lie below
    them ("" is the mount itself). ``output_name`` is made from {name}, the image's file name, {case}, the same
    without its image suffix, and {suffix}. ``has_results``: Grand Challenge's results.json and metadata folder.
    ``connectivity``: 6, 18 or 26 neighbours for the removal of small components, None to keep them all.
    """

    name: str
    mounts: tuple[str, str]
    image_folder: str
    output_folder: str
    output_name: str
    has_results: bool
    takes_clicks: bool
    tile_step: float
    swaps_sides: bool
    connectivity: Connectivity | None
    mirror_axes: tuple[int, ...] = (1, 2)
    blend: str = "published"
    label_map: str = "platform"
    suffix: str = ""

    @property
    def num_classes(self) -> int:
        """Channels of a network for this challenge, background included."""
        return len(labels.STRUCTURES[self.name]) + 1

    @property
    def min_voxels(self) -> dict[int, float]:
        """Training id -> smallest component that stays, in voxels of 0.3 mm."""
        return {s.training: s.min_voxels for s in labels.STRUCTURES[self.name] if s.min_voxels is not None}

    def predictor_settings(self) -> dict[str, Any]:
        """Arguments of ``Predictor.load`` that the challenge decides."""
        return {
            "tile_step": self.tile_step,
            "mirror_axes": self.mirror_axes,
            "left_right_pairs": labels.left_right_pairs(self.name) if self.swaps_sides else (),
            "blend": self.blend,
        }

    def clean(self, label_map: np.ndarray, spacing: tuple[float, float, float], clicks: Clicks | None) -> np.ndarray:
        """The published post-processing of a label map (z, y, x) in training ids; spacing (z, y, x) in mm."""
        if self.connectivity is not None:
            label_map = remove_small(label_map, self.min_voxels, spacing, self.connectivity)
        if self.takes_clicks and clicks is not None:
            label_map = paint_clicks(label_map, clicks)
        return label_map
