"""Where the model for a challenge lies, or one of a name. Nothing is read, and torch is not needed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from umamba2.challenges import CHALLENGES
from umamba2.errors import ModelError
from umamba2.files import found_at

_BESIDE = Path(__file__).resolve().parent / "demo"  # where setup.py puts them in a wheel
# One folder for each challenge; in the repository and the container they lie beside the package.
DEMO_MODELS = _BESIDE if _BESIDE.is_dir() else Path(__file__).resolve().parents[2] / "resources"
SHELVES = "UMAMBA2_MODELS"  # the environment variable: folders of models, with what separates folders in PATH between


def find_model(challenge: str, places: Iterable[str | Path]) -> Path:
    """The model folder for a challenge, from the first place that holds anything.

    In a place, the model is the subfolder of the challenge's name, the place itself, or the only other subfolder that
    is a model. A place with something else in it ends the search: whoever put it there did not mean the next place.

    Args:
        challenge: The challenge's name.
        places: Folders or names of models (see `model_folder`), in the order in which they count.

    Raises:
        ModelError: There is no model.
    """
    looked: list[Path] = []
    for place in map(model_folder, places):
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
        ModelError: There is none, as where a package was made without the repository's ``resources/``.
    """
    return find_model(challenge or next(iter(CHALLENGES)), [DEMO_MODELS])


def shelves() -> list[Path]:
    """The folders of models: those of UMAMBA2_MODELS, or, where that is empty, one in the user's data folder."""
    named = [Path(place) for place in os.environ.get(SHELVES, "").split(os.pathsep) if place]
    if named:
        return named
    data = Path(os.environ.get("XDG_DATA_HOME", ""))  # only an absolute path counts, says its specification
    if not data.is_absolute():
        data = Path(os.path.expanduser("~")) / ".local/share"
    return [data / "umamba2/models"] if data.is_absolute() else []  # a container's user may have no home


def model_folder(model: str | Path) -> Path:
    """The folder that a path or the name of a model stands for.

    A path that exists wins. A bare name is looked for in the folders of `shelves`, then among the demo models.

    Raises:
        ModelError: It is a bare name and nothing has it.
    """
    path = Path(model)
    name = str(model)
    if os.path.exists(path) or name != path.name or name.startswith("."):
        return path  # whoever reads it says what is wrong with it
    places = [*shelves(), DEMO_MODELS]
    for place in places:
        if is_model(place / name):
            return place / name
    known = sorted({folder.name for place in places for folder in models_in(place)})
    expected = f"a model folder or one of {', '.join(known) or 'no names'}"
    raise ModelError(f"{name}: found {found_at(path, 'folder')}, and no model of that name, expected {expected}")


def models_in(place: Path) -> list[Path]:
    """The model folders in a folder, sorted; none that is hidden, as one that is still being copied is."""
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith(".") and is_model(path))
    except OSError:  # it is not there, or not ours to see
        return []


def is_model(folder: Path) -> bool:
    """Whether a folder looks like a model: it has a ``model.json`` (the slim format) or ``fold_*`` (nnU-Net's)."""
    if not os.path.isdir(folder):  # not Path.is_dir, which raises where a name is too long
        return False
    return os.path.isfile(folder / "model.json") or any(path.is_dir() for path in folder.glob("fold_*"))


def _wrapped_models(place: Path) -> list[Path]:
    folders = sorted(place.iterdir()) if place.is_dir() else []
    return [folder for folder in folders if folder.name not in CHALLENGES and is_model(folder)]


def _holds_anything(place: Path) -> bool:
    if not place.is_dir():
        return place.exists()
    return any(not path.name.startswith(".") for path in place.iterdir())
