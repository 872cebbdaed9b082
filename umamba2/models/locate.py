"""Where the model for a challenge lies. Nothing is read, and torch is not needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from umamba2.challenges import CHALLENGES
from umamba2.errors import ModelError

DEMO_MODELS = Path(__file__).resolve().parents[2] / "resources"  # one folder for each challenge


def find_model(challenge: str, places: Iterable[str | Path]) -> Path:
    """The model folder for a challenge, from the first place that holds anything.

    In a place, the model is the subfolder of the challenge's name, the place itself, or the only other subfolder that
    is a model. A place with something else in it ends the search: whoever put it there did not mean the next place.

    Args:
        challenge: The challenge's name.
        places: Folders, in the order in which they count.

    Raises:
        ModelError: There is no model.
    """
    looked: list[Path] = []
    for place in map(Path, places):
        wrapped = _wrapped_models(place)
        folders: list[Path] = [place / challenge, place, *(wrapped if len(wrapped) == 1 else ())]
        for folder in folders:
            if is_model(folder):
                return folder
        looked.append(place)
        if _holds_anything(place):
            break
    found = " or ".join(map(str, looked))
    raise ModelError(f"{found}: found no model, expected model.json or fold_*, there or in {challenge}/")


def demo_model(challenge: str | None = None) -> Path:
    """The demo model for a challenge (None: for the first of all), which has learned from phantoms alone.

    Raises:
        ModelError: There is none, as after an installation without the repository's ``resources/``.
    """
    return find_model(challenge or next(iter(CHALLENGES)), [DEMO_MODELS])


def is_model(folder: Path) -> bool:
    """Whether a folder looks like a model: it has a ``model.json`` (the slim format) or ``fold_*`` (nnU-Net's)."""
    return (folder / "model.json").is_file() or any(path.is_dir() for path in folder.glob("fold_*"))


def _wrapped_models(place: Path) -> list[Path]:
    folders = sorted(place.iterdir()) if place.is_dir() else []
    return [folder for folder in folders if folder.name not in CHALLENGES and is_model(folder)]


def _holds_anything(place: Path) -> bool:
    if not place.is_dir():
        return place.exists()
    return any(not path.name.startswith(".") for path in place.iterdir())
