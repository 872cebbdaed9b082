"""The names of a model's classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from umamba2.anatomy.structures import ANATOMY
from umamba2.challenges import Challenge
from umamba2.errors import ModelError

# What no X-ray image is called.
_OTHER_MODALITIES = {"mri", "mr", "t1", "t1w", "t2", "t2w", "flair", "dwi", "adc", "pet", "spect", "us", "ultrasound"}


def pairs_by_name(labels: dict[str, int]) -> tuple[tuple[int, int], ...]:
    """Pairs (left, right) of classes whose names differ in "left" and "right" alone."""
    by_name = {name.lower(): channel for name, channel in labels.items()}
    others = ((re.sub(r"\bleft\b", "right", name), channel) for name, channel in by_name.items())
    return tuple((channel, by_name[o]) for o, channel in others if o in by_name and by_name[o] != channel)


def labels_of(dataset: dict[str, Any]) -> dict[str, int]:
    """Names of classes and their channels, as far as a dataset description states them."""
    labels = dataset.get("labels")
    return {k: v for k, v in labels.items() if isinstance(v, int)} if isinstance(labels, dict) else {}


def misplaced(labels: dict[str, int], challenge: Challenge) -> str | None:
    """What contradicts a challenge in the names of classes: a structure's name at another one's number. None: nothing.

    Names are compared without case, and spaces, dashes and underscores are one. Those that nobody here knows may be
    anything.
    """
    own = {0: "background"} | {s.training: s.name for s in challenge.structures}
    known = {"background", *own.values(), *(structure.name for structure in ANATOMY)}
    for name, number in labels.items():
        usual = " ".join(re.split(r"[\W_]+", name.lower())).strip()
        if usual in known and number in own and usual != own[number]:
            return f"class {number} named {name:.60}, expected {own[number]}, as it is in {challenge.name}"
    return None


def other_modality(dataset: dict[str, Any]) -> str | None:
    """What is said of a channel that is called other than an X-ray image; None: nothing. Most names say nothing."""
    channels = dataset.get("channel_names", dataset.get("modality"))  # the latter in nnU-Net 1
    for name in channels.values() if isinstance(channels, dict) else ():
        if not _OTHER_MODALITIES.isdisjoint(re.split(r"[^a-z0-9]+", str(name).lower())):
            return (
                f"the channel {name!s:.60}, expected CT: its answers for CBCT mean little if it has learned from others"
            )
    return None


def check_labels(path: Path, dataset: dict[str, Any], classes: int) -> None:
    """Raise ModelError if names and channels of the classes contradict each other."""
    labels, channels = labels_of(dataset), dict[int, str]()
    for name, channel in labels.items():
        if channel in channels:
            found = f"the labels {channels[channel]:.60} and {name:.60} for one class, {channel}"
            raise ModelError(f"{path}: found {found}, expected a class for each")
        channels[channel] = name
        if name == "background" and channel != 0:
            raise ModelError(f"{path}: found class {channel} for the background, expected 0")
        # nnU-Net's word for voxels that no class is learned from, behind all classes.
        if not 0 <= channel < classes if name != "ignore" else channel != classes:
            found = f"class {channel} ({name:.60}) of a network of {classes} classes"
            expected = f"{classes} for it" if name == "ignore" else "labels of this network"
            raise ModelError(f"{path}: found {found}, expected {expected}")
    stated = dataset.get("labels")
    for name, value in stated.items() if isinstance(stated, dict) else ():
        if isinstance(value, bool):
            raise ModelError(f"{path}: found class {value} ({name:.60}), expected a number")
        if isinstance(value, list) and len(value) > 1:  # its channels are no rivals
            raise ModelError(f"{path}: found {name:.60} made of several labels (nnU-Net's regions), expected one each")
