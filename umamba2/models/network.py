"""From nnU-Net's plans to what inference needs of them, and to a network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from umamba2.errors import ModelError
from umamba2.nets.umamba2 import VARIANTS, UMamba2

INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")
_LEAST = 1e-6  # of a standard deviation and a range: all grey values would be the same in less
# Voxels, 16x16x16 and a quarter of a GB as numbers; the published networks have 13,000,000. Tiles of a few voxels, or
# of one slice, would be without number, and see nothing.
SMALLEST_PATCH, LARGEST_PATCH = 2**12, 2**26
SIDES = 4, 4096  # voxels; nnU-Net halves no level below 4
RESAMPLER = "resample_torch_fornnunet"
_SAMPLING = {"is_seg": False, "mode": "linear", "aniso_axis_mode": "nearest-exact"}  # its arguments, as they are here
_SEPARATE = {"force_separate_z": None, "separate_z_anisotropy_threshold": 3}  # those that may be others, and defaults
# nnU-Net's readers that turn what they read, and how arrays lie in the patient then.
_TURNING = {"NibabelIOWithReorient": "RAS"}
# nnU-Net's normalisation, and the same after `engine.harmonise`, which stock nnU-Net does not know and refuses.
CT_NORMALISATION, HARMONISED = "CTNormalization", "HarmonisedCTNormalization"


@dataclass(frozen=True)
class Plan:
    """How a model wants its input: everything inference needs of nnU-Net's plans."""

    network_class_name: str  # with any package in front
    arch_kwargs: dict[str, Any]
    patch_size: tuple[int, ...]  # in voxels; this and spacing follow the array's (z, y, x) permuted by transpose
    spacing: tuple[float, ...]  # in mm
    transpose: tuple[int, ...]
    intensity: dict[str, float]  # mean, std, 0.5 and 99.5 percentiles of the training data
    force_separate_z: bool | None = False  # nnU-Net's resampling of strongly anisotropic grids; None: it decides
    separate_z_threshold: float = 3.0
    harmonise: bool = False  # air and soft tissue are brought to their places before anything else
    orientation: str | None = None  # of the training arrays in the patient, where what read them has turned them

    @property
    def takes_clicks(self) -> bool:
        """Whether the network is steered by clicks."""
        variant = VARIANTS.get(self.network_class_name.rsplit(".", 1)[-1])
        return variant is not None and variant.takes_clicks


def read_plan(path: Path, plans: dict[str, Any], name: str) -> Plan:
    """Pick what inference needs out of plans.

    Args:
        path: The file they come from, for messages.
        plans: nnU-Net's plans, or what a slim model keeps of them.
        name: Of the configuration.

    Raises:
        ModelError: An entry is missing, is no possible value, or asks for something that is not supported.
    """
    try:
        configuration = resolve(path, plans, name)
        schemes = list(configuration["normalization_schemes"])
        if schemes not in ([CT_NORMALISATION], [HARMONISED]):
            expected = f"['{CT_NORMALISATION}'] or ['{HARMONISED}'] (one CT channel)"
            raise ModelError(f"{path}: found normalization {schemes!s:.100}, expected {expected}")
        for entry, place, usual in (
            ("preprocessor_name", configuration, "DefaultPreprocessor"),
            ("label_manager", plans, "LabelManager"),
            ("previous_stage", configuration, None),  # of a cascade, whose answer the network has learned to start from
        ):
            if (stated := place.get(entry, usual)) != usual:
                raise ModelError(f"{path}: found {entry} {stated!s:.100}, expected {usual or 'none'}")
        kwargs, back = _sampling(path, configuration)
        architecture = configuration["architecture"]
        plan = Plan(
            network_class_name=str(architecture["network_class_name"]),
            arch_kwargs=dict(architecture["arch_kwargs"]),
            patch_size=tuple(map(_whole, _list(configuration["patch_size"]))),
            spacing=tuple(map(_number, _list(configuration["spacing"]))),
            transpose=tuple(map(_whole, _list(plans.get("transpose_forward", [0, 1, 2])))),
            intensity={k: _number(plans["foreground_intensity_properties_per_channel"]["0"][k]) for k in INTENSITIES},
            force_separate_z=kwargs["force_separate_z"],
            separate_z_threshold=_number(kwargs["separate_z_anisotropy_threshold"]),
            harmonise=schemes == [HARMONISED],
            orientation=_TURNING.get(str(plans.get("image_reader_writer"))),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        problem = f"no entry {error}" if isinstance(error, KeyError) else str(error)[:200]
        raise ModelError(f"{path}: found plans with {problem}, expected nnU-Net plans of a 3-D configuration") from None
    turned, inverse = plans.get("transpose_backward"), [plan.transpose.index(axis) for axis in sorted(plan.transpose)]
    low, high = plan.intensity["percentile_00_5"], plan.intensity["percentile_99_5"]
    sane = SMALLEST_PATCH <= math.prod(plan.patch_size) <= LARGEST_PATCH
    finite = all(math.isfinite(value) and abs(value) < 1e6 for value in plan.intensity.values())
    wide = min(high - low, plan.intensity["std"]) > _LEAST
    for entry, found, good, expected in (
        ("patch_size", plan.patch_size, _three(plan.patch_size, *SIDES), f"three sizes of {SIDES[0]} to {SIDES[1]}"),
        ("patch_size", plan.patch_size, sane, f"{SMALLEST_PATCH} to {LARGEST_PATCH} voxels"),
        ("spacing", plan.spacing, _three(plan.spacing, 1e-3, 10), "three spacings in mm"),
        ("transpose_forward", plan.transpose, sorted(plan.transpose) == [0, 1, 2], "a permutation of 0, 1, 2"),
        ("intensities", plan.intensity, finite and wide, "finite statistics"),
        ("intensities", plan.intensity, low <= plan.intensity["mean"] <= high, "a mean between the percentiles"),
        ("transpose_backward", turned, turned in (None, inverse), f"{inverse}, the inverse of transpose_forward"),
        (
            "force_separate_z",
            plan.force_separate_z,
            any(plan.force_separate_z is value for value in (None, False, True)),
            "true, false or null",
        ),
        ("separate_z_anisotropy_threshold", plan.separate_z_threshold, plan.separate_z_threshold >= 1, "1 or more"),
        ("resampling_fn_probabilities_kwargs", back, back == kwargs, f"{kwargs!s:.200}, as for the data"),
    ):
        if not good:
            raise ModelError(f"{path}: found {entry} {found!s:.200}, expected {expected}")
    return plan


def _sampling(path: Path, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """How a configuration resamples scans, and scores on the way back; ModelError for a way that is not here."""
    found = []
    for key in ("resampling_fn_data", "resampling_fn_probabilities"):
        if configuration[key] != RESAMPLER:
            raise ModelError(f"{path}: found {key} {configuration[key]!s:.100}, expected {RESAMPLER}")
        kwargs = {**_SAMPLING, **_SEPARATE, **(configuration.get(f"{key}_kwargs") or {})}
        for name, usual in _SAMPLING.items():
            if kwargs[name] != usual:
                raise ModelError(f"{path}: found {key} with {name} {kwargs[name]!s:.100}, expected {usual}")
        found.append({name: kwargs[name] for name in _SEPARATE})
    return found


def resolve(path: Path, plans: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration with everything that it inherits; ModelError if that is missing or goes round in a circle."""
    merged: dict[str, Any] = {}
    chain: list[str] = []
    wanted: Any = name
    configurations = plans.get("configurations")
    while wanted is not None:
        # Plans are JSON: anything may stand in the place of a name or an object.
        found = configurations.get(wanted) if isinstance(configurations, dict) and isinstance(wanted, str) else None
        if not isinstance(found, dict) or wanted in chain:
            problem = f"configuration {wanted!r:.100} missing or inheriting from itself"
            raise ModelError(f"{path}: found {problem}, expected plans")
        chain.append(wanted)
        merged = {**found, **merged}
        wanted = found.get("inherits_from")
    merged.pop("inherits_from", None)
    return deepcopy(merged)


def _list(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):  # of a text, each letter would be one
        raise TypeError(f"{value!r:.60} in place of a list")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):  # float() takes texts as well
        raise TypeError(f"{value!r:.60} in place of a number")
    return float(value)


def _whole(value: Any) -> int:
    if not _number(value).is_integer():
        raise ValueError(f"{value!r:.60} in place of a whole number")
    return int(value)


def _three(values: tuple[float, ...], low: float, high: float) -> bool:
    return len(values) == 3 and all(low <= v <= high for v in values)


def build_network(
    network_class_name: str,
    arch_kwargs: dict[str, Any],
    num_input_channels: int,
    num_classes: int,
    deep_supervision: bool = False,
) -> UMamba2:
    """Build a network from the entry of a plans file.

    Args:
        network_class_name: A published class name or ours, behind any package (`nnunetv2.nets.UMambaBot2`).
        arch_kwargs: As plans hold them: the arguments of nnU-Net's `ResidualEncoderUNet`.
        num_input_channels: Of the scan.
        num_classes: Output channels, background included.
        deep_supervision: Whether the network answers at every level.

    Raises:
        ValueError: The class is outside the U-Mamba2 family, or cannot have that architecture.
    """
    name = network_class_name.rsplit(".", 1)[-1]
    if name not in VARIANTS:
        found = f"{network_class_name:.100}{' (Mamba-1)' if name == 'UMambaBot' else ''}"
        raise ValueError(f"network class: found {found}, expected a Mamba-2 network: {', '.join(VARIANTS)}")
    arguments = {k: v for k, v in arch_kwargs.items() if k not in ("input_channels", "num_classes", "deep_supervision")}
    return UMamba2(
        input_channels=num_input_channels,
        num_classes=num_classes,
        deep_supervision=deep_supervision,
        variant=VARIANTS[name],
        **arguments,
    )


@contextmanager
def uninitialised() -> Iterator[None]:
    """Layers that are built in here keep whatever their memory holds, which is not even touched.

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
