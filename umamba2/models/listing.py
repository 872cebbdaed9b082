"""What models are at hand, and what each is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from umamba2.errors import InputError
from umamba2.models.folder import available_folds, load_model
from umamba2.models.locate import DEMO_MODELS, models_in, shelves


@dataclass(frozen=True)
class Listed:
    """A model at hand.

    Attributes:
        name: What ``-m`` calls it.
        folder: Where it is.
        demo: Whether it is one of the demo models.
        hidden: Whether the name means another model, in a folder that comes before this one's.
        size: Bytes of all the files in its folder.
        challenge: The challenge that it is for, None if that is not known.
        folds: Their names.
        classes: Output channels, background included.
        clicks: Whether it takes clicks.
        problem: Why it cannot be used; the four before it then say nothing.
    """

    name: str
    folder: Path
    demo: bool
    hidden: bool
    size: int
    challenge: str | None = None
    folds: tuple[str, ...] = ()
    classes: int = 0
    clicks: bool = False
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as what JSON can hold."""
        return {**asdict(self), "folder": str(self.folder), "folds": list(self.folds)}


def list_models() -> list[Listed]:
    """The models in the folders of `shelves` and the demo models, in the order in which names are looked for.

    Each is read as it would be to segment with its first fold, so a damaged one says so here already.
    """
    found: list[Listed] = []
    for place in [*shelves(), DEMO_MODELS]:
        for folder in models_in(place):
            hidden = any(other.name == folder.name for other in found)
            found.append(_look_at(folder, place == DEMO_MODELS, hidden))
    return found


def folder_size(folder: Path) -> int:
    """Bytes of all regular files in a folder; what cannot be looked at counts nothing."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return size


def _look_at(folder: Path, demo: bool, hidden: bool) -> Listed:
    size = 0
    try:
        size = folder_size(folder)
        folds = tuple(available_folds(folder))
        model = load_model(folder, folds[0])
        model.check()
        challenge = model.challenge if isinstance(model.challenge, str) else None
        classes, clicks = model.num_classes, model.plan.takes_clicks
        return Listed(folder.name, folder, demo, hidden, size, challenge, folds, classes, clicks)
    except InputError as error:
        problem = str(error)
    except Exception as error:  # one model that nobody foresaw must not hide the others
        problem = f"{folder}: could not be read ({' '.join(str(error).split())[:200] or type(error).__name__})"
    return Listed(folder.name, folder, demo, hidden, size, problem=problem)
