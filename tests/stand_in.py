"""A predictor without a network, for tests of everything around it: it segments by intensity."""

from __future__ import annotations

import json
import sys
import time
import types
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from challenge_names import INTERACTIVE, STSR, TASKS

from umamba2.challenges import CHALLENGES
from umamba2.jobs import container
from umamba2.models import folder as checkpoints
from umamba2.scans.volumes import Geometry

# Nothing about it is round: spacing, origin, and axes that are rotated about all three.
DIRECTION = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)
OBLIQUE = Geometry((13, 11, 7), (0.31, 0.27, 0.55), (-12.25, 40.5, 7.125), DIRECTION)


class StandIn:
    """Has `Predictor`'s interface. Voxels of intensity 1000 + c become class c; intensity 9999 makes it fail."""

    def __init__(self, task: str, challenge: str | None = None, **_):
        self.num_classes = CHALLENGES[task].num_classes
        self.takes_clicks = task == INTERACTIVE
        self.challenge = challenge
        self.settings: dict = {}
        self.calls: list = []
        self.deadlines: list = []

    def predict(self, volume, spacing, clicks=None, deadline=None, record=None, passes=None, watch=None):
        assert volume.dtype in (np.uint8, np.int16, np.float32)
        assert volume.ndim == len(spacing) == 3
        assert np.isfinite(volume).all()
        assert (clicks is not None) == self.takes_clicks
        self.deadlines.append(deadline)
        self.calls.append((volume.shape, tuple(spacing), clicks))
        if (volume == 9999).any():
            raise RuntimeError("the accelerator\nran out of memory")
        labels = np.rint(volume - np.float32(1000))
        return np.where((labels > 0) & (labels < self.num_classes), labels, 0).astype(np.uint8)


@dataclass
class StandInModel:
    """What `load_model` gives for a stand-in's folder."""

    folder: Path
    folds: list[str] | None
    challenge: str | None
    labels: dict = field(default_factory=dict)
    dataset: dict = field(default_factory=dict)
    challenge_reason: str = "stated in model.json"
    mirror_reason: str = "stated in model.json"
    orientation: str | None = None
    dental_field: tuple | None = None
    fix_numbers: bool = False
    doubts: tuple = ()


def load_stand_in(folder, folds=None):
    """In place of `load_model`."""
    stated = json.loads((Path(folder) / "model.json").read_text())
    return StandInModel(Path(folder), folds, stated["challenge"], fix_numbers=stated.get("fix_numbers", False))


class StandInLoader:
    """Has `Predictor.load`; which stand-in it makes is in the folder's `model.json`."""

    made: list[StandIn] = []  # noqa: RUF012  cleared by the fixture

    @classmethod
    def load(cls, folder, **settings):
        if isinstance(folder, StandInModel):
            folder, settings["folds"] = folder.folder, folder.folds
        predictor = StandIn(**json.loads((Path(folder) / "model.json").read_text()))
        predictor.settings = {"folder": Path(folder), **settings}
        cls.made.append(predictor)
        return predictor


def write_model(folder: Path, task: str, challenge: str | None = None, **stated) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"task": task, "challenge": challenge, **stated}))
    return folder


def write_models(resources: Path) -> Path:
    for task in TASKS:
        write_model(resources / task, task)
    return resources


def write_image(path: Path, array: np.ndarray, geometry: Geometry | None = OBLIQUE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    if geometry is not None:
        image.SetSpacing(geometry.spacing)
        image.SetOrigin(geometry.origin)
        image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def scan(*blocks: tuple[int, int], shape: tuple[int, int, int] = OBLIQUE.size[::-1]) -> np.ndarray:
    """Noisy air with one 3-voxel slab per (class, z): what `StandIn` finds again."""
    array = np.random.default_rng(0).integers(-1000, -900, shape, np.int16)
    for label, z in blocks:
        array[z, 4:7, 3:10] = 1000 + label
    return array


def write_clicks(path: Path, *clicks: tuple[str, list]) -> Path:
    points = [{"point": point, "name": name} for name, point in clicks]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": points}))
    return path


def image_folder(task: str, mount: Path) -> Path:
    return mount if task == STSR else mount / "images/cbct"


def use_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands load stand-ins in place of networks, in a process that has just begun."""
    module = types.ModuleType("umamba2.engine.predict")
    module.Predictor = StandInLoader
    monkeypatch.setitem(sys.modules, "umamba2.engine.predict", module)
    monkeypatch.setattr(checkpoints, "load_model", load_stand_in)
    monkeypatch.setattr(container, "process_start", time.monotonic)
