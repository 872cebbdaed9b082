"""The predictor: load a model once, segment any number of scans."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from umamba2.engine.blend import Accumulator
from umamba2.engine.budget import Budget
from umamba2.engine.cpu import activations
from umamba2.engine.dental_field import DentalField, FirstLook, described, pasted
from umamba2.engine.determinism import deterministic, fix_workspace
from umamba2.engine.keeping import Keeper
from umamba2.engine.network import resolve_device, resolve_precision, waking
from umamba2.engine.preprocess import prepare
from umamba2.engine.progress import Stretches, Watch
from umamba2.engine.record import Record, forget_peak_memory, peak_memory
from umamba2.engine.runner import Runner
from umamba2.engine.tiles import positions
from umamba2.engine.window import SlidingWindow
from umamba2.errors import InputError, ModelError, Terminated
from umamba2.messages import unexpected
from umamba2.models.folder import Model, load_model
from umamba2.scans.clicks import Clicks, no_clicks

FIRST_SHARE = 0.5  # of the time that is left: what the first look may take, so that the second has as much
SMALLEST_STEP = 0.05  # of a patch: 8,000 tiles where one would do; smaller is a typing error


class Predictor:
    """A loaded model, ready to segment scans; made by `Predictor.load`.

    Attributes:
        plan: How the model wants its input.
        num_classes: Its classes, background included.
        challenge: The challenge that it was made for, if it says so.
        takes_clicks: Whether clicks steer it.
        dental_field: What of a larger scan is segmented; None: all of it.
    """

    def __init__(self, model: Model, runner: Runner, mirror_axes: Sequence[int], tile_step: float, blend: str):
        self.plan, self.num_classes, self.challenge = model.plan, model.num_classes, model.challenge
        self.runner, self.takes_clicks = runner, runner.takes_clicks
        self.mirror_axes, self.tile_step, self.blend = tuple(mirror_axes), tile_step, blend
        self.progress = self.deterministic = False
        self.dental_field: DentalField | None = None

    @classmethod
    def load(
        cls,
        model: str | Path | Model,
        folds: int | str | Iterable[int | str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        tile_step: float = 0.5,
        mirror_axes: Sequence[int] | None = None,
        left_right_pairs: Sequence[tuple[int, int]] | None = None,
        blend: str = "nnunet",
        progress: bool = False,
        deterministic: bool = False,
        dental_field: DentalField | None = None,
    ) -> Predictor:
        """Load a model folder, or take a model that is loaded.

        Args:
            model: A folder in nnU-Net's layout or the slim one, or a `Model`.
            folds: Which to ensemble; None takes all that are there. A loaded model keeps those that it has.
            device: "auto", "cpu", "cuda", "cuda:1" or "mps".
            precision: "fp16", "bf16", "fp32", or "auto": fp16 on CUDA, bf16 on CPUs that have it, else fp32.
            tile_step: The distance of tiles as a fraction of the patch, in (0, 1].
            mirror_axes: The array's axes (0 z, 1 y, 2 x) to average over mirror images of, never more than the model
                was trained for; None takes all of those.
            left_right_pairs: The classes that trade places in an x mirror image; None takes those whose names differ
                in "left" and "right" alone.
            blend: "nnunet" or "published", see `engine.blend.Accumulator`.
            progress: Show a bar over the tiles.
            deterministic: Give the same labels every time on a GPU, too, which costs time.
            dental_field: Of scans that are larger than this, segment this alone, see `engine.dental_field`.

        Raises:
            InputError: There is no usable model in the folder, or a setting is out of range.
        """
        if not SMALLEST_STEP <= tile_step <= 1:
            raise InputError(f"tile step: found {tile_step}, expected a number from {SMALLEST_STEP} to 1")
        if blend not in Accumulator.METHODS:
            raise InputError(f"blend: found {blend!r}, expected one of {', '.join(Accumulator.METHODS)}")
        if deterministic:
            fix_workspace()
        chosen = resolve_device(device)
        dtype = resolve_precision(precision, chosen)
        with waking(chosen, dtype):
            model = model if isinstance(model, Model) else load_model(model, folds)
        pairs = model.left_right_pairs if left_right_pairs is None else left_right_pairs
        for pair in pairs:
            if not all(0 <= c < model.num_classes for c in pair):
                found = f"a model of {model.num_classes} classes"
                expected = f"one with {pair} among them as a left/right pair"
                raise ModelError(f"{model.folder}: found {found}, expected {expected}")
        # The model's axes are those of its plan, the caller's those of the array.
        axes = [a for a in model.mirror_axes if mirror_axes is None or model.plan.transpose[a] in mirror_axes]
        predictor = cls(model, Runner(model, chosen, dtype, axes, pairs), axes, tile_step, blend)
        predictor.progress, predictor.deterministic = progress, deterministic
        predictor.dental_field = dental_field
        if deterministic:
            predictor.runner.batch = 1  # and not what free memory allows
        return predictor

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
            "deterministic": self.deterministic,
            "dental_field": self.dental_field and asdict(self.dental_field),
        }

    @torch.inference_mode()
    def predict(
        self,
        volume: npt.NDArray[Any],
        spacing: Sequence[float],
        clicks: Clicks | tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        deadline: float | None = None,
        record: Record | None = None,
        passes: int | None = None,
        watch: Watch | None = None,
        keeper: Keeper | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Segment one scan.

        Once a tile has its answer, whatever happens later costs at most the other tiles theirs: labels of the whole
        scan come out, and the record says what they lack.

        Args:
            volume: Intensities, (z, y, x).
            spacing: Of the voxels in mm, (z, y, x).
            clicks: (N, 3) voxel indices (z, y, x) in the scan and (N,) labels: 0 left, 1 right, -1
                none (such a click is ignored); N may be 0.
            deadline: When to be done, on `time.monotonic`'s clock. Mirror images are given up first, then folds, then
                overlap, then detail; what is left is labelled from a coarse look, which is taken even without any time.
            record: Takes the numbers and the warnings; without one, warnings are Python's.
            passes: How many of the folds and mirror images to run at most; None for all.
            watch: Is told after each pass over a tile how many are done and how many there are. What it raises ends
                the work and is raised here.
            keeper: Keeps what other clicks on this very scan do not change, from one call to the next. The result is
                the same with it and without.

        Returns:
            Training ids, (z, y, x).

        Raises:
            InputError: The volume is not 3-D and finite, the deadline is NaN, the clicks are not of these shapes and
                ids or the model takes none, or the network gives NaN or infinity everywhere.
        """
        if deadline is not None and math.isnan(deadline):
            raise InputError("deadline: found nan, expected seconds on time.monotonic's clock, or None")
        own_record = record is None
        record = Record() if record is None else record
        asked = len(self.runner.passes) if passes is None else min(passes, len(self.runner.passes))
        for problem in self.runner.warnings:
            record.warn(problem)
        forget_peak_memory()
        scan_clicks, field = None if clicks is None else self._checked(clicks), self.dental_field
        if field is None or not field.is_exceeded(np.shape(volume), spacing):
            labels = self._segment(volume, spacing, scan_clicks, deadline, record, asked, watch, keeper)
        else:
            labels = self._segment_field(field, volume, spacing, scan_clicks, deadline, record, asked, watch, keeper)
        record.peak_memory = peak_memory()
        if own_record:
            for problem in record.warnings:
                warnings.warn(problem, stacklevel=2)
        return labels

    def _segment(
        self, volume: npt.NDArray[Any], spacing: Sequence[float], scan_clicks: Clicks | None, deadline: float | None,
        record: Record, asked: int, watch: Watch | None, keeper: Keeper | None = None,
    ) -> npt.NDArray[np.uint8]:  # fmt: skip
        """Segment all of a scan; ``asked`` is the number of passes for each tile."""
        record.passes_asked, record.tile_step = asked, self.tile_step
        with record.timed("prepare"):
            prepared = keeper.prepared if keeper and keeper.prepared else prepare(volume, spacing, self.plan)
            if keeper:
                keeper.prepared = prepared
            for problem in prepared.warnings:
                record.warn(problem)
            grid_clicks = scan_clicks and Clicks(prepared.to_grid(scan_clicks.coordinates), scan_clicks.labels)
        with record.timed("network"), deterministic(self.deterministic):
            budget = Budget(deadline, asked)
            try:  # not bound to a variable: the window may hold an exception, whose traceback keeps a tile's memory
                box_labels = SlidingWindow(
                    self.runner, prepared, grid_clicks, self.blend, budget, record, self.progress, watch, keeper
                ).labels(self.tile_step)
            finally:
                activations.release()
            return prepared.on_scan(box_labels)

    def _segment_field(
        self, field: DentalField, volume: npt.NDArray[Any], spacing: Sequence[float], clicks: Clicks | None,
        deadline: float | None, record: Record, asked: int, watch: Watch | None, keeper: Keeper | None,
    ) -> npt.NDArray[np.uint8]:  # fmt: skip
        """Segment the dental field of a scan as if there were nothing else.

        The first look, at all of the scan, knows no clicks: whoever clicks gets the same field with every click in it.
        """
        shape, first = np.shape(volume), None if keeper is None else keeper.first_look
        stretches = None if watch is None else Stretches(watch, self._passes(field.size, asked))
        if first is None:
            with record.timed("first look"):
                first = self._first_look(field, volume, spacing, deadline, stretches)
        if keeper is not None:
            keeper.first_look = first
        box = first.box
        if clicks is not None and not first.record.stopped:
            box = field.holding(first.box, clicks, shape, spacing)
        if box is not None:
            record.dental_field = described(box, spacing)
        for problem in field.problems(first, box, shape, spacing):
            record.warn(problem)
        if box is None or first.record.stopped:
            record.take_over(first.record)
            return first.on_scan(shape)
        if keeper is not None:
            keeper.turn_to(box)
        if clicks is not None:
            clicks = Clicks(clicks.coordinates - [side.start for side in box], clicks.labels)
        if stretches is not None:
            stretches.next()
        try:
            labels = self._segment(volume[box], spacing, clicks, deadline, record, asked, stretches, keeper)
        except (Exception, Terminated) as error:
            if stretches is not None and error is stretches.stopped:
                raise
            record.warn(f"dental field: found {unexpected(error)}, expected labels; these are the first look's")
            return first.on_scan(shape)
        return pasted(labels, box, shape)

    def _first_look(
        self, field: DentalField, volume: npt.NDArray[Any], spacing: Sequence[float], deadline: float | None,
        watch: Watch | None,
    ) -> FirstLook:  # fmt: skip
        """A quick look at all of a scan: one pass for each tile, and as much time as is left for the second."""
        record, now = Record(), time.monotonic()
        until = None if deadline is None else now + FIRST_SHARE * (deadline - now)
        clicks = no_clicks() if self.takes_clicks else None
        return field.find(self._segment(volume, spacing, clicks, until, record, 1, watch), spacing, record)

    def _passes(self, size: Sequence[float], asked: int) -> int:
        """How many passes it takes to segment a scan of so many mm along (z, y, x)."""
        plan = self.plan
        voxels = [round(size[axis] / mm) for axis, mm in zip(plan.transpose, plan.spacing)]
        tiles = (len(positions(max(n, p), p, self.tile_step)) for n, p in zip(voxels, plan.patch_size))
        return asked * math.prod(tiles)

    def _checked(self, clicks: tuple[npt.ArrayLike, npt.ArrayLike]) -> Clicks:
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
