"""A server of the page with models that need no network: they segment by intensity and paint balls around clicks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba2.challenges import CHALLENGES
from umamba2.engine.record import Record
from umamba2.engine.session import Session
from umamba2.segmenter import Segmentation
from umamba2.web.app import make_app
from umamba2.web.gate import Gate
from umamba2.web.listening import bind, config
from umamba2.web.models import Models
from umamba2.web.nninteractive import Adapter
from umamba2.web.routes import Desk
from umamba2.web.studies import Studies
from umamba2.web.tasks import Line

TOKEN = "the-token-of-the-tests"
MULTICLASS, INTERACTIVE = "toothfairy3-multiclass", "toothfairy3-interactive"
RADIUS = 3  # voxels, of what a click finds


@dataclass
class Segmenter:
    """Has what the page needs of `umamba2.segmenter.Segmenter`. Voxels of intensity 2000 + id become that id."""

    name: str
    steps: int = 3
    slow: threading.Event = field(default_factory=threading.Event)  # while set, work goes on and on
    numbering: str = "platform"
    reasons: dict = field(default_factory=dict)

    @property
    def challenge(self):
        return CHALLENGES[self.name]

    def work(self, watch):
        step = 0
        while step < self.steps or self.slow.is_set():
            if watch:
                watch(min(step, self.steps), self.steps)
            time.sleep(0.01)
            step += 1

    def segment(self, scan, clicks=None, watch=None):
        self.work(watch)
        if (scan.array == 9999).any():
            raise RuntimeError("the accelerator\nfell over")
        if (scan.array == 9998).any():
            raise MemoryError
        labels = np.where(scan.array >= 2000, scan.array - 2000, 0).astype(np.uint8)
        return Segmentation(labels, scan.geometry, {}, Record(warnings=["something odd"]))

    def session(self, scan, most_bytes=None):
        """Each click is a ball of its side's label; the full answer has larger ones."""
        names = {1: "left inferior alveolar canal", 2: "right inferior alveolar canal"}

        def look(clicks, record, watch):
            self.work(watch)
            return balls(scan.array.shape, clicks, RADIUS)

        def finish(clicks, watch):
            return Segmentation(balls(scan.array.shape, clicks, RADIUS + 1), scan.geometry, names, Record())

        return Session(scan, names, look, finish)


def balls(shape, clicks, radius):
    labels = np.zeros(shape, np.uint8)
    grid = np.indices(shape)
    for place, label in zip(clicks.coordinates, clicks.labels):
        labels[sum((axis - at) ** 2 for axis, at in zip(grid, place)) <= radius**2] = label + 1
    return labels


def make_desk(folder: Path, **options) -> Desk:
    models = Models([Segmenter(MULTICLASS), Segmenter(INTERACTIVE)], demos=False)
    return Desk(models, Studies(folder, **options), Line())


@contextmanager
def serving(folder: Path, desk: Desk | None = None, token: str | None = TOKEN) -> Iterator[tuple[Desk, str]]:
    """A server in a thread, and its address with the token."""
    import uvicorn

    desk = desk or make_desk(folder)
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(config(Gate(make_app(desk, Adapter(desk).routes()), token)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield desk, f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def write_scan(path: Path, code: str = "LPS", shape=(20, 30, 40), spacing=(0.7, 0.5, 0.4), **blocks) -> sitk.Image:
    """A scan whose voxels all differ, below 2000, with blocks of structures, turned to lie as a code says.

    ``blocks`` are slices (z, y, x) of the upright array by structure id, such as ``_3=np.s_[2:5, 3:6, 4:9]``.
    """
    rng = np.random.default_rng(0)
    array = rng.permutation(np.arange(np.prod(shape)) % 2900 - 1000).reshape(shape).clip(-1000, 1900).astype(np.int16)
    for name, where in blocks.items():
        array[where] = 2000 + int(name.strip("_"))
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin((-12.0, 7.5, 30.0))
    image = sitk.DICOMOrient(image, code)
    sitk.WriteImage(image, str(path))
    return image
