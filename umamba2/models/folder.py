"""Model folders in and out.

Two layouts load the same way:

- nnU-Net's: `fold_<0..4|all>/checkpoint_{best,final}.pth`, the plans and dataset description inside the checkpoint
  (or beside the folds as `plans.json` and `dataset.json`);
- the slim one that `slim` writes: `model.json` and one `fold_<n>.safetensors` per fold, weights only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError, ModelError
from umamba2.files import found_at, replacing, together, write_file
from umamba2.models.checkpoint import open_checkpoint
from umamba2.models.doubts import DECISIVE, doubts_about
from umamba2.models.labels import check_labels, labels_of, misplaced, pairs_by_name
from umamba2.models.network import Plan, build_network, read_plan, resolve, uninitialised
from umamba2.models.plain import as_object, read_object, to_plain
from umamba2.models.published import Origin
from umamba2.models.weights import (
    CHECKPOINT_NAMES,
    Weights,
    bare_weights,
    checksum,
    find_checkpoint,
    read_folds,
    read_weights,
    segmenting,
)
from umamba2.nets.umamba2 import UMamba2

SLIM_FILE = "model.json"
SLIM_FORMAT = "umamba2-slim-1"
Sides = tuple[tuple[float, float], ...]  # mm, towards lower and higher indices along (z, y, x)
Folds = int | str | Iterable[int | str] | None
LARGEST_SIDE = 500  # mm of a dental field; a head is half as long
MOST_LAYERS = 1000  # of an encoder or a decoder; the published networks have 32
MOST_FOLDS, _FOLD = 32, r"[0-9]{1,3}|all"
# What inference reads of the plans; a slim model keeps no more than this.
_PLAN_KEYS = ("dataset_name", "plans_name", "image_reader_writer", "transpose_forward",
              "foreground_intensity_properties_per_channel")  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A loaded model folder."""

    folder: Path
    plan: Plan
    folds: dict[str, Weights] = field(repr=False)  # by fold name
    challenge: str | None  # the name of the challenge it is for, stated or recognised
    challenge_reason: str  # how that is known
    mirror_axes: tuple[int, ...]  # in the plan's order: along which mirror images may be averaged
    mirror_reason: str  # why these
    orientation: str | None  # how the training arrays lay in the patient, as "LPS" (see `scans.orientation`)
    dental_field: Sides | None  # what of a larger scan it is meant for (see `engine.dental_field`)
    fix_numbers: bool  # whether its teeth are tidied up unless asked not to (see `engine.tooth_numbers`)
    dataset: dict[str, Any]  # nnU-Net's dataset.json
    source: dict[str, Any] = field(repr=False)  # what else a slim model keeps: plans, configuration, trainer

    @property
    def num_classes(self) -> int:
        """Output channels, background included."""
        return _classes(self.folds)

    @property
    def input_channels(self) -> int:
        """Channels of the scan that the network takes."""
        return next(iter(self.folds.values()))["encoder.stem.convs.0.conv.weight"].shape[1]

    @property
    def finest_channels(self) -> int:
        """Channels of the network's finest level."""
        return next(iter(self.folds.values()))["encoder.stem.convs.0.conv.weight"].shape[0]

    @property
    def labels(self) -> dict[str, int]:
        """Class names and their channels, as far as the dataset description states them."""
        return labels_of(self.dataset)

    @property
    def left_right_pairs(self) -> tuple[tuple[int, int], ...]:
        """Channels that trade places in an x mirror image: the challenge's, else those whose names say so."""
        challenge = CHALLENGES.get(self.challenge or "")
        if challenge is None or challenge.num_classes != self.num_classes:
            return pairs_by_name(self.labels)
        return tuple(challenge.predictor_settings()["left_right_pairs"])

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is odd about it, one line each, though it can be used."""
        return tuple(doubts_about(self, beside=not (self.folder / SLIM_FILE).is_file()))

    def network(self) -> UMamba2:
        """A network for this model, its weights not yet set; `load_weights` puts a fold's in.

        Raises:
            ModelError: The plans describe no network of this family, a patch that it cannot take, or one that segments
                nothing, as pretraining leaves it.
        """
        plan, weights = self.plan, next(iter(self.folds.values()))
        if self.num_classes < 2:
            raise ModelError(f"{self.folder}: found a network of one class, expected background and at least one more")
        if self.input_channels != 1:
            found = f"a network with {self.input_channels} input channels"
            raise ModelError(f"{self.folder}: found {found}, expected 1")
        try:
            for key in ("n_blocks_per_stage", "n_conv_per_stage_decoder"):
                # Damaged plans may ask for thousands of layers, which take minutes to build.
                if np.sum(plan.arch_kwargs.get(key, 1)) > min(len(weights), MOST_LAYERS):
                    found = f"more layers than {len(weights)} weights fill, or than {MOST_LAYERS}"
                    raise ValueError(f"{key}: found {found}, expected fewer")
            with uninitialised():
                net = build_network(plan.network_class_name, plan.arch_kwargs, self.input_channels, self.num_classes)
        except Exception as error:  # whatever plans lead to
            raise ModelError(f"{self.folder}: {' '.join(str(error).split())[:300]}") from None
        for size, step in zip(plan.patch_size, net.total_stride, strict=True):
            if size % step:
                expected = f"sizes divisible by the strides' product {net.total_stride}"
                raise ModelError(f"{self.folder}: found patch_size {plan.patch_size}, expected {expected}")
        return net.eval()

    def load_weights(self, net: UMamba2, fold: str, dtype: torch.dtype = torch.float32) -> None:
        """Put the weights of a fold into a network.

        Args:
            net: Of this model's `network`.
            fold: The fold's name.
            dtype: Of the encoder and the decoder; the Mamba and click layer runs in fp32.

        Raises:
            ModelError: The weights are not that network's, or have to be read again and cannot be.
        """
        kinds, found = {"encoder": dtype, "decoder": dtype}, self.folds[fold].numbers()
        weights = {  # a copy: what was read lies in one piece, which any tensor of it would hold
            name: weight.to(kinds.get(name.split(".")[0], torch.float32), copy=True) for name, weight in found.items()
        }
        try:
            net.load_state_dict(weights, strict=True, assign=True)  # half a gigabyte is not copied once more
        except RuntimeError as error:
            problem = " ".join(str(error).split())[:300]
            raise ModelError(f"{self.folder}: fold {fold} does not fit its own plans ({problem})") from None

    def check(self) -> None:
        """Raise ModelError unless the weights of every fold are those of the network that the plans describe."""
        net = self.network()
        expected = {name: weight.shape for name, weight in net.state_dict().items()}
        for fold, weights in self.folds.items():
            if {name: weight.shape for name, weight in weights.items()} != expected:
                self.load_weights(net, fold)  # which says what is different


def load_model(folder: str | Path, folds: Folds = None) -> Model:
    """Load a model folder of either layout.

    Args:
        folder: The model folder.
        folds: One or several of 0-4 and "all"; None takes every numbered fold, or "all" where there are none.

    Raises:
        ModelError: The folder holds no model or not that fold; or a file is damaged, or holds anything but tensors
            and plain values.
    """
    folder = Path(folder)
    available = available_folds(folder)
    paths = {fold: available[fold] for fold in _choose_folds(folder, list(available), folds)}
    return _load_slim(folder, paths) if (folder / SLIM_FILE).is_file() else _load_nnunet(folder, paths)


def slim(model: str | Path, out: str | Path, half: bool = False) -> Path:
    """Write the small safe copy of a model folder: weights as safetensors, everything else as one JSON.

    Args:
        model: The model folder.
        out: The folder to write, another one.
        half: Store weights in fp16, except those of the Mamba and click layer, which runs in fp32.

    Returns:
        The folder written.

    Raises:
        InputError: The model cannot be loaded, or the folder cannot be written or is the model's own.
    """
    from safetensors.torch import save

    out = Path(out)
    if os.path.realpath(out) == os.path.realpath(model):  # Path.resolve raises at a link to itself
        raise InputError(f"{out}: found the model folder itself, expected another folder to write to")
    loaded = load_model(model)
    loaded.check()
    sums: dict[str, int] = {}
    files = {fold: f"fold_{fold}.safetensors" for fold in loaded.folds}
    with together():  # the description last
        for fold, weights in loaded.folds.items():
            kept = {key: value.contiguous().clone() for key, value in weights.items()}  # no two share memory
            for key in [k for k in kept if half and not k.startswith("mamba_layer.")]:
                lower = kept[key].half()
                if lower.isfinite().all():  # else it is beyond fp16
                    kept[key] = lower
            with replacing(out / files[fold]) as partial:
                partial.write_bytes(save(kept))  # the library's own way puts another file in this one's place
                sums[fold] = checksum(partial)
        text = {
            "format": SLIM_FORMAT,
            "folds": files,
            "crc32": sums,
            "mirror_axes": list(loaded.mirror_axes),
            "dataset": loaded.dataset,
            **loaded.source,
        }
        write_file(out / SLIM_FILE, json.dumps(text, indent=1) + "\n")
    return out


def describe(folder: str | Path) -> str:
    """What `umamba2 info` prints of a model folder: network, folds, patch, spacing, classes, size."""
    return "\n".join(f"{name:12} {' '.join(str(value).split())}" for name, value in facts(folder).items())


def facts(folder: str | Path) -> dict[str, str]:
    """The same line by line: what it is about, and what is to be said."""
    model = load_model(folder)
    model.check()
    parameters = sum(v.numel() for v in next(iter(model.folds.values())).values())
    plan = model.plan
    labels = [f"{value} {name:.100}" for name, value in model.labels.items()]
    rows: dict[str, object] = {
        "model": model.folder,
        "challenge": f"{model.challenge} ({model.challenge_reason})" if model.challenge else model.challenge_reason,
        "network": f"{plan.network_class_name}, {parameters / 1e6:.1f} M parameters",
        "clicks": "yes" if plan.takes_clicks else "no",
        "folds": ", ".join(model.folds),
        "patch": f"{plan.patch_size} voxels (z, y, x)",
        "spacing": f"{plan.spacing} mm (z, y, x)",
        "intensities": "harmonised" if plan.harmonise else "as they are",
        "mirror axes": f"{model.mirror_axes or 'none'} ({model.mirror_reason})",
        "orientation": model.orientation or "not stated",
        "dental field": _extent(model.dental_field),
        "fix numbers": "yes" if model.fix_numbers else "no",
        "trainer": model.source["trainer"],
        "classes": f"{model.num_classes}: {', '.join(labels)}",
        "warnings": "; ".join(model.doubts) or "none",
    }
    return {name: str(value) for name, value in rows.items()}


# --- finding folds ----------------------------------------------------------------------------------------------------


def available_folds(folder: Path) -> dict[str, Path]:
    """The folds of a model folder with the files that hold their weights, which are not read; ModelError if none."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: found {found_at(folder, 'folder')}, expected a model folder")
    found: dict[str, Path] = {}
    if (folder / SLIM_FILE).is_file():
        files = as_object(folder / SLIM_FILE, "folds", read_object(folder / SLIM_FILE).get("folds", {}))
        found = {fold: folder / Path(str(name)).name for fold, name in files.items()}
    else:
        for path in sorted(folder.glob("fold_*")):  # but no fold_0_old
            checkpoint = find_checkpoint(path)
            if checkpoint and re.fullmatch(_FOLD, path.name.removeprefix("fold_")):
                found[path.name.removeprefix("fold_")] = checkpoint
    if len(found) > MOST_FOLDS:
        raise ModelError(f"{folder}: found {len(found)} folds, expected at most {MOST_FOLDS}")
    for fold, file in found.items():
        if other := [one for one in found if one != fold and found[one] == file]:
            both = f"{fold:.40} and {other[0]:.40}"
            raise ModelError(f"{folder}: found {file.name:.100} for the folds {both}, expected a file each")
        if not re.fullmatch(_FOLD, fold):  # it becomes part of a file's name
            raise ModelError(f"{folder}: found a fold named {fold[:40]!r}, expected numbers or all")
        if not os.path.isfile(file):  # not Path.is_file, which raises where a name is too long
            raise ModelError(f"{file!s:.300}: found {found_at(file)}, expected the weights of fold {fold}")
    if not found:
        expected = f"{SLIM_FILE} or fold_*/{{{','.join(CHECKPOINT_NAMES)}}}"
        raise ModelError(f"{folder}: found no model, expected {expected}")
    return found


def _choose_folds(folder: Path, available: list[str], folds: Folds) -> list[str]:
    if folds is None:
        return [fold for fold in available if fold != "all"] or available
    wanted = [str(f) for f in ([folds] if isinstance(folds, (int, str)) else folds)]
    missing = [fold for fold in wanted if fold not in available]
    if missing or not wanted:
        found = ", ".join(available)
        raise ModelError(f"{folder}: found folds {found}, expected fold {', '.join(missing) or 'names (none given)'}")
    return list(dict.fromkeys(wanted))


# --- reading the two layouts ------------------------------------------------------------------------------------------


def _load_nnunet(folder: Path, paths: dict[str, Path]) -> Model:
    heads: dict[Path, dict[str, Any]] = {}

    def read(file: Path) -> dict[str, Tensor]:
        checkpoint = open_checkpoint(file)
        weights = segmenting(file, bare_weights(file, checkpoint))
        keys = ("init_args", "trainer_name", "inference_allowed_mirroring_axes")
        heads[file] = to_plain(file, {key: checkpoint.get(key) for key in keys})
        return weights

    folds = read_folds(paths, read)
    first, path = next(iter(paths.items()))
    head = heads[path]
    arguments = as_object(path, "init_args", head["init_args"] or {})
    where = "it there or inside the checkpoint"
    plans = as_object(path, "plans", arguments.get("plans") or read_object(folder / "plans.json", where))
    dataset = as_object(
        path, "dataset_json", arguments.get("dataset_json") or read_object(folder / "dataset.json", where)
    )
    configuration = str(arguments.get("configuration", "3d_fullres"))
    resolved = resolve(path, plans, configuration)
    source = {
        "trainer": str(head["trainer_name"] or "not stated"),
        "configuration": configuration,
        "plans": {k: plans[k] for k in _PLAN_KEYS if k in plans} | {"configurations": {configuration: resolved}},
    }
    model = _model(folder, path, folds, head["inference_allowed_mirroring_axes"], dataset, source)
    for file in paths.values():
        _check_training(file, heads[file], first, model)
    return model


def _check_training(path: Path, head: dict[str, Any], first: str, model: Model) -> None:
    """Raise ModelError if a checkpoint states another training than the one that the model was read from."""
    arguments = as_object(path, "init_args", head["init_args"] or {})
    plans, dataset = arguments.get("plans"), arguments.get("dataset_json")
    origin = _origin({**model.source, "trainer": head["trainer_name"]}, model.num_classes, model.plan)
    axes, _ = origin.mirror_axes(_axes(path, head["inference_allowed_mirroring_axes"]), "")
    pairs: list[tuple[str, Any, Any]] = [("mirror axes", axes, model.mirror_axes)]
    if plans:
        plan = read_plan(path, as_object(path, "plans", plans), str(arguments.get("configuration", "3d_fullres")))
        pairs += [(name, value, getattr(model.plan, name)) for name, value in vars(plan).items()]
    if dataset:
        stated = as_object(path, "dataset_json", dataset)
        pairs += [(name, stated.get(name), model.dataset.get(name)) for name in DECISIVE]
        pairs.append(("labels", labels_of(stated), model.labels))
    for name, found, expected in pairs:
        if found != expected:
            problem = f"found {name} {found!s:.100}, expected {expected!s:.100} as in fold {first}"
            raise ModelError(f"{path}: {problem}: folds of one training")


def _load_slim(folder: Path, paths: dict[str, Path]) -> Model:
    path = folder / SLIM_FILE
    text = read_object(path)
    if text.get("format") != SLIM_FORMAT:
        raise ModelError(f"{path}: found format {text.get('format')!r:.100}, expected {SLIM_FORMAT!r}")
    sums = as_object(path, "crc32", text.get("crc32") or {})
    if any(type(value) is not int for value in sums.values()):
        raise ModelError(f"{path}: found crc32 {sums!s:.100}, expected a whole number for each fold")
    if sums and sums.keys() != available_folds(folder).keys():
        expected = f"one for each of the folds {', '.join(available_folds(folder))}"
        raise ModelError(f"{path}: found crc32 for {', '.join(sums):.100}, expected {expected}")
    known = {file: sums.get(fold) for fold, file in paths.items()}
    folds = read_folds(paths, lambda file: segmenting(file, read_weights(file, known[file])))
    source = {key: text.get(key) for key in ("trainer", "configuration", "plans")}
    dataset = as_object(path, "dataset", text.get("dataset"))
    return _model(folder, path, folds, text.get("mirror_axes"), dataset, source)


def _model(
    folder: Path,
    path: Path,
    folds: dict[str, Weights],
    mirror_axes: Any,
    dataset: dict[str, Any],
    source: dict[str, Any],
) -> Model:
    """A model from what either layout holds, checked; ``path`` is the file that all but the weights came from."""
    plan = read_plan(path, as_object(path, "plans", source["plans"]), str(source["configuration"]))
    orientation, stated = plan.orientation or dataset.get("orientation"), dataset.get("challenge")
    where = SLIM_FILE if path.name == SLIM_FILE else None
    if orientation is not None and not re.fullmatch(r"(?=.*[LR])(?=.*[PA])(?=.*[SI]).{3}", str(orientation)):
        raise ModelError(f"{path}: found orientation {orientation!r:.100}, expected three letters such as LPS")
    field, fix_numbers = _sides(path, dataset.get("dental_field")), dataset.get("fix_numbers", False)
    if not isinstance(fix_numbers, bool):
        raise ModelError(f"{path}: found fix_numbers {fix_numbers!r:.100}, expected true or false")
    if _classes(folds) > 1:  # pretraining leaves one channel, whatever the dataset's classes are
        check_labels(path, dataset, _classes(folds))
    origin = _origin(source, _classes(folds), plan)
    if stated is None:
        challenge, how = origin.challenge(labels_of(dataset))
    else:
        challenge, how = str(stated), f"stated in {where or 'dataset.json'}"
        known = CHALLENGES.get(challenge)
        fits = known is not None and known.num_classes == _classes(folds)
        if known and fits and (problem := misplaced(labels_of(dataset), known)):
            raise ModelError(f"{path}: found {problem} (correct the labels, or state no challenge there)")
    axes, why = origin.mirror_axes(_axes(path, mirror_axes), where or "the checkpoint")
    return Model(folder, plan, folds, challenge, how, axes, why, orientation, field, fix_numbers, dataset, source)


def _origin(source: dict[str, Any], classes: int, plan: Plan) -> Origin:
    return Origin(str(source["trainer"]), str(source["plans"].get("dataset_name")), classes, plan.takes_clicks)


def _classes(folds: dict[str, Weights]) -> int:
    return next(iter(folds.values()))["decoder.seg_layers.0.weight"].shape[0]


def _axes(path: Path, axes: Any) -> tuple[int, ...] | None:
    """The mirror axes of a model, which may be none."""
    if axes is None:
        return None
    known = [a for a in axes if type(a) is int and a in (0, 1, 2)] if isinstance(axes, list) else []
    if known != axes or len(set(known)) != len(known):
        raise ModelError(f"{path}: found mirror axes {axes!r:.100}, expected different ones of 0, 1, 2")
    return tuple(known)


def _sides(path: Path, sides: Any) -> Sides | None:
    """The dental field of a model, which may have none."""
    if sides is None:
        return None
    pairs = [pair for pair in sides if isinstance(pair, list)] if isinstance(sides, list) else []
    lengths = [mm for pair in pairs for mm in pair if type(mm) in (int, float) and 1 <= mm <= LARGEST_SIDE]
    if [len(pair) for pair in pairs] != [2, 2, 2] or len(lengths) != 6:
        expected = f"three pairs of 1 to {LARGEST_SIDE} mm"
        raise ModelError(f"{path}: found dental_field {sides!s:.100}, expected {expected}")
    return tuple((float(low), float(high)) for low, high in pairs)


def _extent(sides: Sides | None) -> str:
    """The dental field in a word."""
    return "not stated" if sides is None else "x".join(f"{low + high:g}" for low, high in sides) + " mm (z, y, x)"
