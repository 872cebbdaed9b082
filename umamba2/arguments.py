"""What several commands share on the command line: the types of their arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)


def positive(kind: Callable[[str], Number], unit: str = "") -> Callable[[str], Number]:
    """An argparse type for a finite number above 0.

    Args:
        kind: ``int`` or ``float``.
        unit: What the number counts, for the message, such as "seconds".
    """
    expected = f"a positive {'whole ' if kind is int else ''}number" + (f" of {unit}" if unit else "")

    def parse(text: str) -> Number:
        with suppress(ValueError):
            value = kind(text)
            if 0 < value < math.inf:
                return value
        raise argparse.ArgumentTypeError(f"found {text}, expected {expected}")

    return parse


def some_path(text: str) -> Path:
    """An argparse type for a path. An empty one would be the folder in which the command runs."""
    if text:
        return Path(text)
    raise argparse.ArgumentTypeError("found nothing, expected a path; is a variable of the shell not set?")


def part(text: str) -> tuple[int, int]:
    """An argparse type for ``i/n``, part i of n, counted from 1."""
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise argparse.ArgumentTypeError(f"found {text}, expected i/n with i from 1 to n, such as 2/8")
