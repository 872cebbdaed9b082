"""The predictor: load a model once, segment any number of scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from umamba2.checkpoints import Model, load_model
from umamba2.clicks import Clicks, mirrored
from umamba2.engine.network import ready_network, resolve_device, resolve_precision
from umamba2.engine.preprocess import prepare
from umamba2.engine.tiles import Blend, mirrors, padding, tiles
from umamba2.errors import InputError

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
        self.plan = model.plan
        self.num_classes = model.num_classes
        self.challenge = model.challenge
        self.device, self.dtype, self.tile_step = device, dtype, tile_step
        self.mirror_axes, self.blend, self.progress = tuple(mirror_axes), blend, progress
        self.nets = [ready_network(model, fold, device, dtype) for fold in model.folds]
        self.takes_clicks = self.nets[0].variant.takes_clicks
        # Without pairs, sides mean nothing to this model: nothing trades places in a mirror image.
        self._left_right_axis = self.plan.transpose.index(2) if left_right_pairs else None
        self._straight = range(self.num_classes)
        self._swap = list(self._straight)
        for left, right in left_right_pairs:
            self._swap[left], self._swap[right] = right, left

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
        ``blend``: "nnunet" or "published" (see `engine.tiles.Blend`). ``progress``: show a bar over the tiles.
        Raises InputError for a folder without a usable model or a setting out of range.
        """
        if not SMALLEST_STEP <= tile_step <= 1:
            raise InputError(f"tile step: found {tile_step}, expected a number from {SMALLEST_STEP} to 1")
        if blend not in Blend.METHODS:
            raise InputError(f"blend: found {blend!r}, expected one of {', '.join(Blend.METHODS)}")
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

    def predict(
        self,
        volume: np.ndarray,
        spacing: Sequence[float],
        clicks: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Segment one scan: (z, y, x) intensities with spacing in mm -> (z, y, x) uint8 training ids.

        ``clicks``: (N, 3) voxel indices (z, y, x) in the scan and (N,) labels, 0 left and 1 right; N may be 0.
        Raises InputError for a volume that is not 3-D and finite, for clicks that are not of these shapes and ids or
        given to a model that takes none, and for a network that gives NaN or infinity.
        """
        given = None if clicks is None else self._checked(clicks)
        prepared = prepare(volume, spacing, self.plan)
        on_grid = given and Clicks(prepared.to_grid(given.coordinates), given.labels)
        return prepared.to_labels(self.scores(prepared.tensor, on_grid))

    @torch.inference_mode()
    def scores(self, tensor: Tensor, clicks: Clicks | None = None) -> Tensor:
        """The blended scores of a prepared scan: (1, z, y, x) -> (classes, z, y, x), by sliding window.

        ``clicks`` are on the tensor's own grid.
        """
        patch = self.plan.patch_size
        pads = padding(tensor.shape[1:], patch)
        tensor = F.pad(tensor, [n for pad in reversed(pads) for n in pad])
        if clicks is not None:
            clicks = Clicks(clicks.coordinates + np.array([before for before, _ in pads]), clicks.labels)
        blend = Blend(self.num_classes, tensor.shape[1:], patch, self.blend, self._score_device(tensor))
        plan = tiles(tensor.shape[1:], patch, self.tile_step)
        for tile in tqdm(plan, desc="tiles", disable=not self.progress, leave=False):
            logits = self._tile_logits(tensor[0][tile], _inside(clicks, tile))
            if not torch.isfinite(logits.sum()):
                raise InputError("network: found NaN or infinite logits, expected finite ones (try precision fp32)")
            blend.add(tile, logits)
        scores = blend.result()
        inside = [slice(before, n - after) for (before, after), n in zip(pads, tensor.shape[1:], strict=True)]
        where = (slice(None), *inside)
        return scores[where]

    def _tile_logits(self, tile: Tensor, clicks: Clicks | None) -> Tensor:
        """Mean logits over folds and mirror images: (z, y, x) -> (classes, z, y, x), fp32 on the device."""
        tile = tile[None, None].to(self.device, self.dtype)
        total = torch.zeros((self.num_classes, *tile.shape[2:]), device=self.device)
        passes = 0
        for axes in mirrors(self.mirror_axes):
            dims = [axis + 2 for axis in axes]
            seen = tile.flip(dims) if dims else tile
            prompt = self._prompt(clicks, axes)
            for net in self.nets:
                logits = (net(seen, prompt) if self.takes_clicks else net(seen))[0]
                # Class by class: all of them at once would be another copy of the largest array there is.
                for channel, source in enumerate(self._swap if self._left_right_axis in axes else self._straight):
                    total[channel] += logits[source].flip(axes) if axes else logits[source]
                passes += 1
        return total.div_(passes)

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

    def _prompt(self, clicks: Clicks | None, axes: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """The clicks of a tile in its mirror image, as a batch of one."""
        if clicks is None:
            return None
        seen = mirrored(clicks, axes, self.plan.patch_size, self._left_right_axis)
        return (
            torch.from_numpy(seen.coordinates.astype(np.float32))[None].to(self.device),
            torch.from_numpy(seen.labels.astype(np.int64))[None].to(self.device),
        )

    def _score_device(self, tensor: Tensor) -> torch.device:
        """Where the scores are summed: on the GPU if they take less than half of what is free there."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if 4 * self.num_classes * tensor.numel() > free / 2:
                return torch.device("cpu")
        return self.device


def _inside(clicks: Clicks | None, tile: tuple[slice, ...]) -> Clicks | None:
    """The clicks that fall into a tile, relative to its corner."""
    if clicks is None:
        return None
    local = clicks.coordinates - np.array([s.start for s in tile])
    size = np.array([s.stop - s.start for s in tile])
    keep = ((local >= -0.5) & (local < size - 0.5)).all(axis=1)
    return Clicks(local[keep], clicks.labels[keep])
