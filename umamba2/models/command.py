"""``umamba2 models`` and ``umamba2 slim``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from umamba2.arguments import some_path
from umamba2.messages import say

if TYPE_CHECKING:
    from umamba2.models.adding import Progress


def add_models(commands: Any) -> None:
    """Add ``models`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "models",
        help="list the models at hand, or add one",
        description="List the models that -m knows by name: those in the folders of UMAMBA2_MODELS (default: "
        "~/.local/share/umamba2/models), then the demo models.",
    )
    parser.set_defaults(command=_list)
    parser.add_argument("--json", action="store_true", help="as JSON")
    actions = parser.add_subparsers(metavar="add")
    add = actions.add_parser(
        "add",
        help="copy a model to them",
        description="Copy a model into the first of those folders. It is read as data, and nothing in it is executed.",
    )
    add.set_defaults(command=_add)
    add.add_argument("name", help="what -m shall call it")
    add.add_argument("source", help="model folder, archive (.zip, .tar, .tar.gz), or its address (https, http, file)")
    add.add_argument("--sha256", metavar="SUM", help="the checksum that the archive must have (needed for http)")


def add_slim(commands: Any) -> None:
    """Add ``slim`` to the commands of an argparse parser."""
    help_text = "write a model in the small, safe format (safetensors and one JSON)"
    parser = commands.add_parser("slim", help=help_text)
    parser.set_defaults(command=_slim)
    parser.add_argument("model", help="model folder, or name of a model")
    parser.add_argument("out", type=some_path)
    parser.add_argument("--half", action="store_true", help="weights in half precision")


def _list(options: argparse.Namespace) -> int:
    """0 if every model can be used, else 1."""
    from umamba2.models.listing import list_models
    from umamba2.models.locate import is_model, shelves

    models = list_models()
    if options.json:
        say(json.dumps([model.to_json() for model in models]))
    rows = [("name", "challenge", "folds", "classes", "size", "where")]
    for model in models:
        where = f"{model.folder}{', demo' if model.demo else ''}{', hidden by the one above' if model.hidden else ''}"
        known = ("cannot be used", "", "")
        if model.problem is None:
            known = (model.challenge or "-", " ".join(model.folds), str(model.classes))
        rows.append((model.name, *known, f"{model.size / 1e6:.1f} MB", where))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in [] if options.json else rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for model in models:
        if model.problem is not None:
            say(f"error: {model.problem}", sys.stderr)
    for place in shelves():
        if is_model(place):
            say(f"warning: {place}: found a model, expected a folder of models (-m {place} takes it)", sys.stderr)
    return 1 if any(model.problem for model in models) else 0


def _add(options: argparse.Namespace) -> int:
    from umamba2.models.adding import add_model
    from umamba2.models.listing import folder_size

    with _bar() as progress:
        folder, checksum = add_model(options.name, options.source, options.sha256, progress)
    found = f"  sha256 {checksum}" if checksum else ""
    say(f"{options.name}  {folder}  {folder_size(folder) / 1e6:.1f} MB{found}")
    return 0


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """A bar over the bytes that come, where somebody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, delay=1, leave=False) as bar:

        def progress(done: int, size: int) -> None:
            bar.total = size or None
            bar.update(done - bar.n)

        yield progress


def _slim(options: argparse.Namespace) -> int:
    from umamba2.models.folder import slim
    from umamba2.models.locate import model_folder

    slim(model_folder(options.model), options.out, half=options.half)
    size = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file())
    say(f"{options.out}  {size / 1e6:.1f} MB")
    return 0
