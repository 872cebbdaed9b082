"""One loaded model for each challenge: those that were named at the start, and demo models for the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError, ModelError
from umamba2.models.locate import demo_model, is_model, model_folder

if TYPE_CHECKING:
    from umamba2.segmenter import Segmenter


class Models:
    """Segmenters by the names of their challenges; demo models are loaded when they are first needed.

    Args:
        segmenters: Those that are loaded.
        demos: Whether to take demo models for the other challenges.
    """

    def __init__(self, segmenters: Iterable[Segmenter] = (), demos: bool = True):
        self._loaded = {_challenge(segmenter): segmenter for segmenter in segmenters}
        self._own = set(self._loaded)
        self._demos: dict[str, Path] = {}
        self._lock = threading.Lock()
        for name in CHALLENGES if demos else ():
            try:
                self._demos[name] = demo_model(name)
            except ModelError:  # installed without them
                continue
        if not self._loaded and not self._demos:
            raise ModelError("--model: found none, and no demo models, expected a model folder")

    @classmethod
    def load(cls, models: Iterable[str | Path]) -> Models:
        """Load models by folder or name; a folder may hold one for each challenge in a subfolder of its name."""
        from umamba2.segmenter import load

        segmenters = []
        for folder in map(model_folder, models):
            inner = [] if is_model(folder) else [folder / name for name in CHALLENGES if is_model(folder / name)]
            segmenters += [load(place) for place in inner or [folder]]
        return cls(segmenters)

    def find(self, challenge: str) -> Segmenter:
        """The segmenter for a challenge; loading it takes seconds. Raises InputError if there is none."""
        from umamba2.segmenter import load

        with self._lock:
            if challenge not in self._loaded:
                if challenge not in self._demos:
                    known = ", ".join(self.names)
                    raise InputError(f"model: found none for {challenge[:80]!r}, expected one of {known}")
                self._loaded[challenge] = load(self._demos[challenge], challenge=challenge)
            return self._loaded[challenge]

    @property
    def names(self) -> list[str]:
        """The challenges that there is a model for, in the order of the registry."""
        return [name for name in CHALLENGES if name in self._loaded or name in self._demos]

    @property
    def for_clicks(self) -> str | None:
        """The first challenge whose model takes clicks."""
        return next((name for name in self.names if CHALLENGES[name].takes_clicks), None)

    def facts(self) -> list[dict[str, Any]]:
        """What the page must know, as JSON can hold it."""
        return [
            {
                "challenge": name,
                "title": CHALLENGES[name].title,
                "clicks": CHALLENGES[name].takes_clicks,
                "demo": name not in self._own,
            }
            for name in self.names
        ]


def _challenge(segmenter: Segmenter) -> str:
    if segmenter.challenge is None:
        raise ModelError(f"--model: found one for no known challenge, expected one for {', '.join(CHALLENGES)}")
    return segmenter.challenge.name
