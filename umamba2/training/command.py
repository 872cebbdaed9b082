"""``umamba2 convert``: from a challenge's download to a dataset of nnU-Net."""

from __future__ import annotations

import argparse
from pathlib import Path

from umamba2.labels import INTERACTIVE, MULTICLASS, STSR

# What a download is called, and the challenge that it is converted for.
DOWNLOADS = {"toothfairy3": MULTICLASS, INTERACTIVE: INTERACTIVE, STSR: STSR}


def add_convert(commands) -> None:
    """Add ``convert`` to the commands of an argparse parser."""
    from umamba2.training.workers import DEFAULT

    parser = commands.add_parser(
        "convert",
        help="turn a challenge's download into a dataset for training",
        description="Turn a challenge's download into a dataset of nnU-Net; go on where an earlier run has stopped.",
    )
    parser.set_defaults(command=_convert)
    parser.add_argument("challenge", choices=DOWNLOADS)
    parser.add_argument("source", type=Path, help="the unpacked download")
    parser.add_argument("target", type=Path, help="nnU-Net's raw folder, or Dataset<number>_<name> in it")
    _add_workers(parser, DEFAULT)


def _add_workers(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--workers", type=_at_least_one, default=default, help=f"processes, one case each (default: {default})"
    )


def _convert(options: argparse.Namespace) -> int:
    from umamba2.messages import say
    from umamba2.training.convert import convert

    folder = convert(DOWNLOADS[options.challenge], options.source, options.target, options.workers)
    say(f"{folder}  complete; next: umamba2 plan {folder.name}")
    return 0


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected at least 1")
    return value
