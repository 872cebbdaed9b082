"""Where nnU-Net keeps things: its three folders, from options or from its own environment variables."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from umamba2.errors import InputError

CONTENT = {"raw": "datasets", "preprocessed": "preprocessed datasets", "results": "trained models"}
_DATASET = re.compile(r"Dataset(\d{3})_\w[\w.-]*")


def add_options(parser: argparse.ArgumentParser, *which: str) -> None:
    """Add ``--raw``, ``--preprocessed`` and ``--results``, as far as named, to a command."""
    for name in which:
        what = f"folder of {CONTENT[name]} (default: the environment variable nnUNet_{name})"
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=what)


def use_folders(options: argparse.Namespace, *which: str, make: bool = True) -> list[Path]:
    """The named folders, from options where given; nnU-Net in this process and its workers uses the same.

    They are made if need be, except ``raw``. Raises InputError for one that is neither given nor set, or not there.
    """
    folders = []
    for name in which:
        value = getattr(options, name, None) or os.environ.get(f"nnUNet_{name}")
        if not value:
            raise InputError(f"nnUNet_{name}: found it neither set nor given, expected --{name} FOLDER")
        folder = Path(value).expanduser().absolute()
        if name != "raw" and make:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: found no folder that can be made ({error.strerror})") from None
        if not folder.is_dir():
            raise InputError(f"{folder}: found no such folder, expected {CONTENT[name]}")
        os.environ[f"nnUNet_{name}"] = str(folder)
        folders.append(folder)
    return folders


def find_dataset(folder: Path, dataset: str) -> Path:
    """The folder of a dataset, given by name (``Dataset301_ToothFairy3``) or number (``301``), below ``folder``.

    Raises InputError unless there is exactly one.
    """
    here = sorted(p for p in folder.iterdir() if p.is_dir() and is_dataset_name(p.name))
    found = [p for p in here if dataset == p.name or (dataset.isdigit() and int(dataset) == int(p.name[7:10]))]
    if len(found) != 1:
        names = ", ".join(p.name for p in found or here) or "none"
        raise InputError(f"{folder}: found the datasets {names}, expected one called {dataset}")
    return found[0]


def is_dataset_name(name: str) -> bool:
    """Whether nnU-Net takes this for a dataset's folder."""
    return _DATASET.fullmatch(name) is not None
