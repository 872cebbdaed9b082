"""Clicks for training: drawn on the patch as the network sees it, after augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from umamba2.challenges.recipe import Clicking
from umamba2.scans.clicks import simulate_clicks


def draw_clicks(
    labels: npt.NDArray[Any], settings: Clicking, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Draw clicks on one patch, spread along axis 0 as ToothFairy3's simulator does (arXiv 2509.12069).

    Args:
        labels: (z, y, x), 1 left and 2 right.
        settings: How many, and how exact.
        rng: The random numbers.

    Returns:
        Voxels (N, 3) and sides (N,), 0 left and 1 right.
    """
    points: list[tuple[int, int, int]] = []
    sides: list[int] = []
    for side in (0, 1):
        mask = labels == side + 1
        if np.count_nonzero(mask) < settings.fewest_voxels or rng.random() < settings.none:
            continue
        count = int(rng.integers(1, settings.most + 1))
        drawn = simulate_clicks(mask, rng, count, settings.noise, settings.noise, settings.tries)
        points += drawn
        sides += [side] * len(drawn)
    return np.array(points, np.float32).reshape(-1, 3), np.array(sides, np.int64)


def batch_clicks(target: Tensor, settings: Clicking, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw clicks for a batch of patches, as the network takes them.

    Args:
        target: Labels (B, 1, z, y, x), 1 left and 2 right.
        settings: How many, and how exact.
        rng: The random numbers.

    Returns:
        Voxels (B, N, 3) and sides (B, N), 0 left, 1 right, and -1 where a patch has fewer than others.
    """
    drawn = [draw_clicks(labels.numpy(), settings, rng) for labels in target[:, 0].cpu()]
    most = max(len(sides) for _, sides in drawn)
    coordinates, sides = torch.zeros(len(drawn), most, 3), torch.full((len(drawn), most), -1)
    for row, (points, own) in enumerate(drawn):
        coordinates[row, : len(own)] = torch.from_numpy(points)
        sides[row, : len(own)] = torch.from_numpy(own)
    return coordinates, sides
