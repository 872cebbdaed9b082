"""``umamba2 info`` and ``umamba2 slim``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from umamba2.messages import say


def add_info(commands: Any) -> None:
    """Add ``info`` to the commands of an argparse parser."""
    parser = commands.add_parser("info", help="describe a model folder")
    parser.set_defaults(command=_info)
    parser.add_argument("model", type=Path)


def add_slim(commands: Any) -> None:
    """Add ``slim`` to the commands of an argparse parser."""
    help_text = "write a model in the small, safe format (safetensors and one JSON)"
    parser = commands.add_parser("slim", help=help_text)
    parser.set_defaults(command=_slim)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--half", action="store_true", help="weights in half precision")


def _info(options: argparse.Namespace) -> int:
    from umamba2.models.folder import describe

    for line in describe(options.model).splitlines():
        say(line)
    return 0


def _slim(options: argparse.Namespace) -> int:
    from umamba2.models.folder import slim

    slim(options.model, options.out, half=options.half)
    size = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file())
    say(f"{options.out}  {size / 1e6:.1f} MB")
    return 0
