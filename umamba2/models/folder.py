"""Model folders in and out, without ever executing a pickle.

Two layouts load the same way:

- nnU-Net's: `fold_<0..4|all>/checkpoint_{best,final}.pth`, the plans and dataset description inside the checkpoint
  (or beside the folds as `plans.json` and `dataset.json`);
- the slim one that `slim` writes: `model.json` and one `fold_<n>.safetensors` per fold, weights only.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umamba2.errors import InputError
from umamba2.nets.umamba2 import VARIANTS, UMamba2
from umamba2.nets.unet import drop_aliases

SLIM_FILE = "model.json"
SLIM_FORMAT = "umamba2-slim-1"
CHECKPOINT_NAMES = ("checkpoint_best.pth", "checkpoint_final.pth")  # in this order: the published results use best
# What inference reads of the plans; a slim model keeps no more than this.
_PLAN_KEYS = ("dataset_name", "plans_name", "transpose_forward", "foreground_intensity_properties_per_channel")
INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")
_RESAMPLERS = ("resample_torch_fornnunet",)
# nnU-Net's normalisation, and the same after `engine.harmonise`, which stock nnU-Net does not know and refuses.
CT_NORMALISATION, HARMONISED = "CTNormalization", "HarmonisedCTNormalization"


@dataclass(frozen=True)
class Plan:
    """How a model wants its input: everything inference needs from nnU-Net's plans.

    ``patch_size`` in voxels and ``spacing`` in mm follow the plan's own axis order, which is the array's (z, y, x)
    permuted by ``transpose``. ``intensity`` holds mean, std and the 0.5 / 99.5 percentiles of the training data.
    """

    network_class_name: str
    arch_kwargs: dict[str, Any]
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    transpose: tuple[int, ...]
    intensity: dict[str, float]
    force_separate_z: bool | None = False  # nnU-Net's resampling of strongly anisotropic grids; None: it decides
    separate_z_threshold: float = 3.0
    harmonise: bool = False  # air and soft tissue are brought to their places before anything else


@dataclass(frozen=True)
class Model:
    """A loaded model folder: its plan and the weights of its folds, by fold name."""

    folder: Path
    plan: Plan
    folds: dict[str, dict[str, Tensor]]
    mirror_axes: tuple[int, ...]
    dataset: dict[str, Any]
    source: dict[str, Any] = field(repr=False)  # what `slim` writes again: plans, configuration, trainer

    @property
    def num_classes(self) -> int:
        """Output channels, background included."""
        return next(iter(self.folds.values()))["decoder.seg_layers.0.weight"].shape[0]

    @property
    def input_channels(self) -> int:
        return next(iter(self.folds.values()))["encoder.stem.convs.0.conv.weight"].shape[1]

    @property
    def labels(self) -> dict[str, int]:
        """Class names and their channels, as far as the dataset description states them."""
        labels = self.dataset.get("labels")
        return {k: v for k, v in labels.items() if isinstance(v, int)} if isinstance(labels, dict) else {}

    @property
    def left_right_pairs(self) -> tuple[tuple[int, int], ...]:
        """Channels whose names differ in "left" and "right" alone: they trade places in an x mirror image."""
        return pairs_by_name(self.labels)

    @property
    def challenge(self) -> str | None:
        """The challenge a model was made for, if it says so (`"challenge"` in its dataset description)."""
        return self.dataset.get("challenge")

    @property
    def orientation(self) -> str | None:
        """How the training arrays lay in the patient, such as "LPS" (see `scans.orientation`), if it is known."""
        code = self.dataset.get("orientation")
        return code if isinstance(code, str) else None

    def network(self) -> UMamba2:
        """A network for this model, its weights not yet set; `load_weights` puts a fold's in.

        Raises InputError if the plans describe no network of this family, or a patch it cannot take.
        """
        plan = self.plan
        try:
            with _uninitialised():
                net = build_network(plan.network_class_name, plan.arch_kwargs, self.input_channels, self.num_classes)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"{self.folder}: {' '.join(str(error).split())[:300]}") from None
        for size, step in zip(plan.patch_size, net.total_stride, strict=True):
            if size % step:
                expected = f"sizes divisible by the strides' product {net.total_stride}"
                raise InputError(f"{self.folder}: found patch_size {plan.patch_size}, expected {expected}")
        return net.eval()

    def load_weights(self, net: UMamba2, fold: str, dtype: torch.dtype = torch.float32) -> None:
        """Put the weights of one fold into a network: those of encoder and decoder as ``dtype``, the rest as fp32.

        Raises InputError if they are not that network's.
        """
        kinds = {"encoder": dtype, "decoder": dtype}
        weights = {
            name: weight.to(kinds.get(name.split(".")[0], torch.float32)) for name, weight in self.folds[fold].items()
        }
        try:
            net.load_state_dict(weights, strict=True, assign=True)  # half a gigabyte is not copied
        except RuntimeError as error:
            problem = " ".join(str(error).split())[:300]
            raise InputError(f"{self.folder}: fold {fold} does not fit its own plans ({problem})") from None


def pairs_by_name(labels: dict[str, int]) -> tuple[tuple[int, int], ...]:
    """Pairs (left, right) of classes whose names differ in "left" and "right" alone."""
    by_name = {name.lower(): channel for name, channel in labels.items()}
    others = ((re.sub(r"\bleft\b", "right", name), channel) for name, channel in by_name.items())
    return tuple((channel, by_name[o]) for o, channel in others if o in by_name and by_name[o] != channel)


@contextmanager
def _uninitialised() -> Iterator[None]:
    """Layers made in here keep whatever their memory holds, which is not even touched.

    Random numbers for 142 M weights take most of a second; so does torch's meta device, which imports its compiler.
    """
    kinds: tuple[Any, ...] = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    saved = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda self: None
    try:
        yield
    finally:
        for kind, method in zip(kinds, saved):
            kind.reset_parameters = method


def build_network(
    network_class_name: str,
    arch_kwargs: dict[str, Any],
    num_input_channels: int,
    num_classes: int,
    deep_supervision: bool = False,
) -> UMamba2:
    """Build a network from the entry of a plans file, by any published class name (SPEC of the reference) or ours.

    ``network_class_name`` may carry any package in front (`nnunetv2.nets.UMambaBot2`, `umamba2.nets.UMamba2`).
    Raises ValueError for a class outside the U-Mamba2 family or an architecture it cannot have.
    """
    name = network_class_name.rsplit(".", 1)[-1]
    if name == "UMambaBot":
        raise ValueError(f"network class: found {name} (Mamba-1), expected a Mamba-2 network: {', '.join(VARIANTS)}")
    if name not in VARIANTS:
        raise ValueError(f"network class: found {network_class_name}, expected one of {', '.join(VARIANTS)}")
    arguments = {k: v for k, v in arch_kwargs.items() if k not in ("input_channels", "num_classes", "deep_supervision")}
    return UMamba2(
        input_channels=num_input_channels,
        num_classes=num_classes,
        deep_supervision=deep_supervision,
        variant=VARIANTS[name],
        **arguments,
    )


def load_model(folder: str | Path, folds: int | str | Iterable[int | str] | None = None) -> Model:
    """Load a model folder of either layout.

    ``folds``: one or several of 0-4 and "all"; None takes every numbered fold, or "all" where there are none.
    Raises InputError naming the file for a folder without a model, a fold that is not there, a file that is damaged
    or holds anything but tensors and plain values.
    """
    folder = Path(folder)
    available = _available_folds(folder)
    chosen = _choose_folds(folder, list(available), folds)
    if (folder / SLIM_FILE).is_file():
        return _load_slim(folder, {fold: available[fold] for fold in chosen})
    return _load_nnunet(folder, {fold: available[fold] for fold in chosen})


def slim(model: str | Path, out: str | Path, half: bool = False) -> Path:
    """Write the small safe copy of a model folder: weights as safetensors, everything else as one JSON.

    ``half`` stores fp16 (the Mamba and click layer stays fp32: it runs in fp32). Returns the folder written.
    Raises InputError as `load_model`, and for an ``out`` that is the model folder itself.
    """
    from safetensors.torch import save_file

    out = Path(out)
    if out.resolve() == Path(model).resolve():
        raise InputError(f"{out}: found the model folder itself, expected another folder to write to")
    loaded = load_model(model)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: found no folder that can be made ({error}), expected one to write to") from None
    files = {}
    for fold, weights in loaded.folds.items():
        files[fold] = f"fold_{fold}.safetensors"
        kept = {key: value.contiguous().clone() for key, value in weights.items()}  # no two share memory
        for key in [k for k in kept if half and not k.startswith("mamba_layer.")]:
            lower = kept[key].half()
            if lower.isfinite().all():  # else it is beyond fp16
                kept[key] = lower
        save_file(kept, out / files[fold])
        (out / files[fold]).chmod(0o644)  # safetensors keeps it to its owner, and a container runs as somebody else
    text = {
        "format": SLIM_FORMAT,
        "folds": files,
        "mirror_axes": list(loaded.mirror_axes),
        "dataset": _plain(loaded.dataset),
        **loaded.source,
    }
    (out / SLIM_FILE).write_text(json.dumps(text, indent=1) + "\n")
    return out


def describe(folder: str | Path) -> str:
    """What `umamba2 info` prints: network, folds, patch, spacing, classes, size."""
    model = load_model(folder)
    parameters = sum(v.numel() for v in next(iter(model.folds.values())).values())
    plan = model.plan
    labels = [f"{value} {name}" for name, value in model.labels.items()]
    rows = {
        "model": model.folder,
        "challenge": model.challenge or "not stated",
        "network": f"{plan.network_class_name}, {parameters / 1e6:.1f} M parameters",
        "clicks": "yes" if VARIANTS[plan.network_class_name.rsplit(".", 1)[-1]].takes_clicks else "no",
        "folds": ", ".join(model.folds),
        "patch": f"{plan.patch_size} voxels (z, y, x)",
        "spacing": f"{plan.spacing} mm (z, y, x)",
        "intensities": "harmonised" if plan.harmonise else "as they are",
        "mirror axes": model.mirror_axes or "none",
        "trainer": model.source.get("trainer", "not stated"),
        "classes": f"{model.num_classes}: {', '.join(labels)}",
    }
    return "\n".join(f"{name:12} {value}" for name, value in rows.items())


# --- finding folds ----------------------------------------------------------------------------------------------------


def _available_folds(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected a model folder")
    found: dict[str, Path] = {}
    if (folder / SLIM_FILE).is_file():
        files = _read_json(folder / SLIM_FILE).get("folds", {})
        if not isinstance(files, dict):
            raise InputError(f"{folder / SLIM_FILE}: found folds {files!r}, expected an object of file names")
        found = {str(fold): folder / Path(str(name)).name for fold, name in files.items()}
    else:
        for path in sorted(folder.glob("fold_*")):
            checkpoint = next((path / name for name in CHECKPOINT_NAMES if (path / name).is_file()), None)
            if checkpoint:
                found[path.name.removeprefix("fold_")] = checkpoint
    if not found:
        expected = f"{SLIM_FILE} or fold_*/{{{','.join(CHECKPOINT_NAMES)}}}"
        raise InputError(f"{folder}: found no model, expected {expected}")
    return found


def _choose_folds(folder: Path, available: list[str], folds: int | str | Iterable[int | str] | None) -> list[str]:
    if folds is None:
        return [fold for fold in available if fold != "all"] or available
    wanted = [str(f) for f in ([folds] if isinstance(folds, (int, str)) else folds)]
    missing = [fold for fold in wanted if fold not in available]
    if missing or not wanted:
        found = ", ".join(available)
        raise InputError(f"{folder}: found folds {found}, expected fold {', '.join(missing) or 'names (none given)'}")
    return list(dict.fromkeys(wanted))


# --- reading the two layouts ------------------------------------------------------------------------------------------


def _load_nnunet(folder: Path, paths: dict[str, Path]) -> Model:
    folds, head = {}, None
    for fold, path in paths.items():
        checkpoint = read_checkpoint(path)
        weights = checkpoint.get("network_weights")
        if not isinstance(weights, dict):
            raise InputError(f"{path}: found no network_weights, expected an nnU-Net checkpoint")
        folds[fold] = _clean(path, weights)
        head = head or (path, checkpoint)
    path, checkpoint = head  # type: ignore[misc]
    arguments = _object(path, "init_args", checkpoint.get("init_args") or {})
    plans = _object(path, "plans", arguments.get("plans") or _read_json(folder / "plans.json"))
    dataset = _object(path, "dataset_json", arguments.get("dataset_json") or _read_json(folder / "dataset.json"))
    configuration = str(arguments.get("configuration", "3d_fullres"))
    resolved = _resolve(path, plans, configuration)
    source = {
        "trainer": str(checkpoint.get("trainer_name", "not stated")),
        "configuration": configuration,
        "plans": {k: plans[k] for k in _PLAN_KEYS if k in plans} | {"configurations": {configuration: resolved}},
    }
    source = _plain(source)
    axes = _axes(path, checkpoint.get("inference_allowed_mirroring_axes"))
    return Model(folder, _plan(path, source), folds, axes, dataset, source)


def _load_slim(folder: Path, paths: dict[str, Path]) -> Model:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / SLIM_FILE
    text = _read_json(path)
    if text.get("format") != SLIM_FORMAT:
        raise InputError(f"{path}: found format {text.get('format')!r}, expected {SLIM_FORMAT!r}")
    folds = {}
    for fold, file in paths.items():
        try:
            folds[fold] = _clean(file, load_file(file))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: could not be read ({error}), expected a safetensors file") from None
    source = {key: text.get(key) for key in ("trainer", "configuration", "plans")}
    _object(path, "plans", source["plans"])
    dataset = _object(path, "dataset", text.get("dataset") or {})
    return Model(folder, _plan(path, source), folds, _axes(path, text.get("mirror_axes")), dataset, source)


def _plan(path: Path, source: dict[str, Any]) -> Plan:
    """Pick what inference needs out of (slimmed) plans; InputError says which entry is missing or not supported."""
    try:
        plans, name = source["plans"], source["configuration"]
        configuration = _resolve(path, plans, name)
        schemes = list(configuration["normalization_schemes"])
        if schemes not in ([CT_NORMALISATION], [HARMONISED]):
            expected = f"['{CT_NORMALISATION}'] or ['{HARMONISED}'] (one CT channel)"
            raise InputError(f"{path}: found normalization {schemes}, expected {expected}")
        for key in ("resampling_fn_data", "resampling_fn_probabilities"):
            if configuration[key] not in _RESAMPLERS:
                raise InputError(f"{path}: found {key} {configuration[key]}, expected {' or '.join(_RESAMPLERS)}")
        kwargs = configuration.get("resampling_fn_data_kwargs") or {}
        architecture = configuration["architecture"]
        plan = Plan(
            network_class_name=str(architecture["network_class_name"]),
            arch_kwargs=dict(architecture["arch_kwargs"]),
            patch_size=tuple(int(n) for n in configuration["patch_size"]),
            spacing=tuple(float(n) for n in configuration["spacing"]),
            transpose=tuple(int(n) for n in plans.get("transpose_forward", (0, 1, 2))),
            intensity={k: float(plans["foreground_intensity_properties_per_channel"]["0"][k]) for k in INTENSITIES},
            force_separate_z=kwargs.get("force_separate_z"),
            separate_z_threshold=float(kwargs.get("separate_z_anisotropy_threshold", 3)),
            harmonise=schemes == [HARMONISED],
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        problem = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: found plans with {problem}, expected nnU-Net plans of a 3-D configuration") from None
    low, high = plan.intensity["percentile_00_5"], plan.intensity["percentile_99_5"]
    finite = all(math.isfinite(value) and abs(value) < 1e6 for value in plan.intensity.values())
    for name, found, good, expected in (
        ("patch_size", plan.patch_size, _three(plan.patch_size, 1, 4096), "three sizes in voxels"),
        ("spacing", plan.spacing, _three(plan.spacing, 1e-3, 1e3), "three spacings in mm"),
        ("transpose_forward", plan.transpose, sorted(plan.transpose) == [0, 1, 2], "a permutation of 0, 1, 2"),
        ("intensities", plan.intensity, finite and low < high and plan.intensity["std"] > 0, "finite statistics"),
    ):
        if not good:
            raise InputError(f"{path}: found {name} {found}, expected {expected}")
    return plan


def _three(values: tuple, low: float, high: float) -> bool:
    return len(values) == 3 and all(low <= v <= high for v in values)


def _axes(path: Path, value: Any) -> tuple[int, ...]:
    """The mirror axes of a checkpoint, which may be none, a list, a tuple or an array."""
    axes = _plain(value)
    if axes is None:
        return ()
    if not isinstance(axes, list) or len(set(map(str, axes))) != len(axes) or any(a not in (0, 1, 2) for a in axes):
        raise InputError(f"{path}: found mirror axes {axes!r}, expected different ones of 0, 1, 2")
    return tuple(int(a) for a in axes)


def _object(path: Path, name: str, value: Any) -> dict:
    if not isinstance(value, dict):
        raise InputError(f"{path}: found {name} of type {type(value).__name__}, expected an object")
    return value


def _resolve(path: Path, plans: dict, name: str) -> dict:
    """A configuration with everything it inherits."""
    chain: list[str] = []
    merged: dict = {}
    while name is not None:
        configurations = plans.get("configurations", {})
        if name not in configurations or name in chain:
            raise InputError(f"{path}: found configuration {name!r} missing or inheriting from itself, expected plans")
        chain.append(name)
        merged = {**configurations[name], **merged}
        name = configurations[name].get("inherits_from")
    merged.pop("inherits_from", None)
    return deepcopy(merged)


def _clean(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict with the names a bare network has: no torch.compile or DDP prefixes, no aliases."""
    weights = {str(key).replace("_orig_mod.", "").removeprefix("module."): value for key, value in weights.items()}
    drop_aliases(weights)
    for key, value in weights.items():
        dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
        if not dense or not value.is_floating_point():
            raise InputError(f"{path}: found {type(value).__name__} {key}, expected a dense tensor of real numbers")
    for key in ("encoder.stem.convs.0.conv.weight", "decoder.seg_layers.0.weight"):
        if key not in weights or weights[key].ndim != 5:
            raise InputError(f"{path}: found no 3-D {key} among {len(weights)} tensors, expected a U-Mamba2 network")
    return weights


def _plain(value: Any) -> Any:
    """Numpy numbers, tuples and the like as what JSON can hold."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _read_json(path: Path) -> dict:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: found no such file, expected it beside the folds or inside the checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: could not be read ({error}), expected JSON") from None
    if not isinstance(text, dict):
        raise InputError(f"{path}: found a {type(text).__name__}, expected a JSON object")
    return text


# --- checkpoints without pickles --------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> dict:
    """A checkpoint file as tensors and plain values; InputError if it is damaged or asks for any other object."""
    try:
        with _numpy_values_allowed():
            # Memory-mapped, so that the optimizer state beside the weights is never read.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        problem = f"the Python object {name[1]}" if name else "something other than a checkpoint"
        raise InputError(f"{path}: found {problem}, expected tensors and plain values only") from None
    except (RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: could not be read ({reason}), expected a PyTorch checkpoint") from None
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: found a {type(checkpoint).__name__}, expected an nnU-Net checkpoint")
    return checkpoint


@contextmanager
def _numpy_values_allowed() -> Iterator[None]:
    """Let numpy numbers and arrays through: nnU-Net's logs and statistics hold them, and they cannot run code."""
    core = getattr(np, "_core", None) or np.core
    scalar, rebuild = core.multiarray.scalar, core.multiarray._reconstruct
    allowed: list[Any] = [np.dtype, np.ndarray, np.bool_, np.number]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # numpy 1 and 2 write different names
        allowed += [(scalar, f"{module}.scalar"), (rebuild, f"{module}._reconstruct")]
    allowed += [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    import _codecs

    allowed.append(_codecs.encode)  # how old pickles spell bytes
    with torch.serialization.safe_globals(allowed):
        yield
