"""``umamba2 phantom``: synthetic scans with exact labels and clicks."""

from __future__ import annotations

import argparse

from umamba2.arguments import positive, some_path
from umamba2.errors import InputError, needing
from umamba2.messages import say

_STEPS = (0.01, 10.0)  # mm between voxels for which a phantom can be drawn


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``phantom`` to the commands of an argparse parser."""
    parser = commands.add_parser("phantom", help="write synthetic scans with exact labels and clicks")
    parser.set_defaults(command=run)
    parser.add_argument("out", type=some_path, help="folder")
    parser.add_argument("--count", type=positive(int), default=1, help="how many (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the first (default: 0)")
    parser.add_argument("--shape", type=positive(int), nargs=3, metavar=("Z", "Y", "X"), default=(170, 272, 345))
    parser.add_argument("--spacing", type=positive(float, "mm"), nargs="+", metavar="MM", default=[0.3],
                        help="one number, or three (z, y, x); default: 0.3")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Write the phantoms, and one line on stdout; returns 0."""
    spacing = options.spacing * 3 if len(options.spacing) == 1 else options.spacing
    if not all(_STEPS[0] <= mm <= _STEPS[1] for mm in spacing):
        found = " ".join(f"{mm:g}" for mm in spacing)
        raise InputError(f"--spacing: found {found}, expected {_STEPS[0]} to {_STEPS[1]} mm")
    if len(spacing) != 3:
        raise InputError(f"--spacing: found {len(spacing)} numbers, expected one or three")
    with needing("phantoms", "phantom"):
        from umamba2.synthetic.phantoms import write_phantoms
    try:
        cases = write_phantoms(options.out, options.count, options.seed, tuple(options.shape), tuple(spacing))
    except ValueError as error:
        raise InputError(f"{options.out}: {error}") from None
    say(f"{options.out}  {len(cases)} phantoms: {', '.join(cases)}")
    return 0
