"""What several commands share on the command line: the types of their arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import suppress
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
