"""The predictor: load a model once, segment any number of scans."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umamba2.engine.blend import Accumulator
from umamba2.engine.budget import Budget
from umamba2.engine.cpu import arena
from umamba2.engine.network import resolve_device, resolve_precision
from umamba2.engine.preprocess import prepare
from umamba2.engine.record import Record, forget_peak_memory, peak_memory
from umamba2.engine.runner import Runner
from umamba2.engine.window import SlidingWindow
from umamba2.errors import InputError
from umamba2.models.folder import Model, load_model
from umamba2.scans.clicks import Clicks

SMALLEST_STEP = 0.05  # of a patch: 8,000 tiles where one would do; smaller is a typing error


class Predictor:
    """A loaded model, ready to segment scans."""

    def __init__(
        self,
        model: Model,
        device: torch.device,
        dtype: torch.dtype,
        tile_step: float,
        mirror_axes: Sequence[int],
        left_right_pairs: Sequence[tuple[int, int]],
        blend: str,
        progress: bool = False,
    ):
        self.plan, self.num_classes, self.challenge = model.plan, model.num_classes, model.challenge
        self.mirror_axes, self.tile_step = tuple(mirror_axes), tile_step
        self.blend, self.progress = blend, progress
        swap = list(range(self.num_classes))
        for left, right in left_right_pairs:
            swap[left], swap[right] = right, left
        # Without pairs, sides mean nothing to this model: nothing trades places in a mirror image.
        left_right_axis = self.plan.transpose.index(2) if left_right_pairs else None
        self.runner = Runner(model, device, dtype, self.mirror_axes, swap, left_right_axis)
        self.takes_clicks = self.runner.takes_clicks

    @classmethod
    def from_folder(
        cls,
        folder: str | Path | Model,
        folds: int | str | Iterable[int | str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        tile_step: float = 0.5,
        mirror_axes: Sequence[int] | None = None,
        left_right_pairs: Sequence[tuple[int, int]] | None = None,
        blend: str = "nnunet",
        progress: bool = False,
    ) -> Predictor:
        """Load a model folder (nnU-Net's layout or the slim one), or take one that is loaded.

        ``folds``: which to ensemble (None: all present). ``device``: auto, cpu, cuda, cuda:1, mps. ``precision``:
        auto (fp16 on CUDA, bf16 on CPUs with bf16 instructions, else fp32), fp16, bf16 or fp32. ``tile_step``:
        distance of tiles as a fraction of the patch, in (0, 1]. ``mirror_axes``: axes (0 z, 1 y, 2 x) to average over
        mirror images of, never more than the model was trained for; None is all of those. ``left_right_pairs``: class
        ids that trade places in an x mirror image; None takes the classes whose names differ in "left" and "right".
        ``blend``: "nnunet" or "published" (see `engine.accumulate`). ``progress``: show a bar over the tiles.
        Raises InputError for a folder without a usable model or a setting out of range.
        """
        if not SMALLEST_STEP <= tile_step <= 1:
            raise InputError(f"tile step: found {tile_step}, expected a number from {SMALLEST_STEP} to 1")
        if blend not in Accumulator.METHODS:
            raise InputError(f"blend: found {blend!r}, expected one of {', '.join(Accumulator.METHODS)}")
        chosen = resolve_device(device)
        dtype = resolve_precision(precision, chosen)
        model = folder if isinstance(folder, Model) else load_model(folder, folds)
        folder = model.folder
        pairs = model.left_right_pairs if left_right_pairs is None else left_right_pairs
        if model.input_channels != 1:
            raise InputError(f"{folder}: found a network with {model.input_channels} input channels, expected 1")
        for pair in pairs:
            if not all(0 <= c < model.num_classes for c in pair):
                found = f"a model of {model.num_classes} classes"
                raise InputError(f"{folder}: found {found}, expected one with {pair} among them as a left/right pair")
        # The model's axes are those of its plan, the caller's those of the array.
        allowed = [a for a in model.mirror_axes if mirror_axes is None or model.plan.transpose[a] in mirror_axes]
        return cls(model, chosen, dtype, tile_step, allowed, pairs, blend, progress)

    @property
    def settings(self) -> dict[str, Any]:
        """How this predictor works, for the records; device and precision as they are now."""
        return {
            "network": self.plan.network_class_name,
            "model_challenge": self.challenge,
            "folds": list(self.runner.nets),
            "device": str(self.runner.device),
            "precision": str(self.runner.dtype).removeprefix("torch."),
            "tile_step": self.tile_step,
            "mirror_axes": list(self.mirror_axes),
            "blend": self.blend,
        }

    @torch.inference_mode()
    def predict(
        self,
        volume: np.ndarray,
        spacing: Sequence[float],
        clicks: tuple[np.ndarray, np.ndarray] | None = None,
        deadline: float | None = None,
        record: Record | None = None,
    ) -> np.ndarray:
        """Segment one scan: (z, y, x) intensities with spacing in mm -> (z, y, x) uint8 training ids.

        ``clicks``: (N, 3) voxel indices (z, y, x) in the scan and (N,) labels, 0 left and 1 right; N may be 0.

        ``deadline``, on `time.monotonic`'s clock: gives up mirror images first, then folds, then overlap, then detail,
        to be done by then; what is left is labelled from a coarse look, taken first and even without any time. Once a
        tile has its answer, whatever happens later costs the other tiles theirs at most: labels of the whole scan come
        out. What they lack is told by ``record``, if there is one, else as Python warnings.

        Raises InputError for a volume that is not 3-D and finite, for a deadline that is NaN, for clicks that are not
        of these shapes and ids or given to a model that takes none, and for a network that gives NaN or infinity
        everywhere.
        """
        if deadline is not None and math.isnan(deadline):
            raise InputError("deadline: found nan, expected seconds on time.monotonic's clock, or None")
        told = Record() if record is None else record
        told.passes_asked, told.tile_step = len(self.runner.passes), self.tile_step
        for problem in self.runner.warnings:
            told.warn(problem)
        forget_peak_memory()
        given = None if clicks is None else self._checked(clicks)
        with told.timed("prepare"):
            prepared = prepare(volume, spacing, self.plan)
            on_grid = given and Clicks(prepared.to_grid(given.coordinates), given.labels)
        with told.timed("network"):
            budget = Budget(deadline, len(self.runner.passes))
            try:  # without a name for the window, which may hold a failed tile
                made = SlidingWindow(self.runner, self.blend, budget, told, self.progress).labels(
                    prepared, on_grid, self.tile_step
                )
            finally:
                arena.release()
            labels = prepared.on_scan(made)
        told.peak_memory = peak_memory()
        if record is None:
            for problem in told.warnings:
                warnings.warn(problem, stacklevel=2)
        return labels

    def _checked(self, clicks: tuple[np.ndarray, np.ndarray]) -> Clicks:
        """Clicks as `predict` takes them, as arrays; InputError if they are no clicks."""
        if not self.takes_clicks:
            raise InputError("clicks: found some, expected none (this model takes no clicks)")
        try:
            coordinates, labels = np.asarray(clicks[0], np.float64), np.asarray(clicks[1], np.float64)
        except (TypeError, ValueError, IndexError):
            raise InputError(f"clicks: found {clicks!r:.80}, expected coordinates (N, 3) and labels (N,)") from None
        if coordinates.size == labels.size == 0:
            coordinates = coordinates.reshape(0, 3)
        if coordinates.shape != (labels.size, 3) or labels.ndim != 1 or not np.isfinite(coordinates).all():
            found = f"shapes {coordinates.shape} and {labels.shape}"
            raise InputError(f"clicks: found {found}, expected finite coordinates (N, 3) and labels (N,)")
        if not np.isin(labels, (-1, 0, 1)).all():
            raise InputError(f"clicks: found labels {labels.tolist()}, expected 0 (left), 1 (right) or -1 (none)")
        return Clicks(coordinates, labels.astype(np.int64))
