"""Pickles read as data. A pickle is a program, of which only what makes numbers, texts and arrays is done.

Whoever reads a pickle says what the names in it stand for; nothing else can be called, so nothing else is run. Python's
own reader of pickles is not used: a few bytes can make it take all memory, or bring numpy to use a file's bytes as
addresses.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import numpy as np

MOST_INSTRUCTIONS = 1_000_000  # a few microseconds each; a published network with its optimizer has some 30,000
_MOST_MADE = 2**24  # items and bytes handed over to what is called, beyond the bytes of the pickle itself

_NUMBERS_AND_TEXTS = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BYTEARRAY8",
)  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class ForeignError(Exception):
    """An object that is not needed."""


class Stateful:
    """What takes a state after it was made."""

    def set_state(self, state: Any) -> None:
        """Take it. Raises whatever a damaged one leads to."""
        raise NotImplementedError


class _NumpyType(Stateful):
    """numpy's type of an array; its state says in which order the bytes are."""

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[biuf]\d{1,2}", code):
            raise ForeignError(f"numpy numbers of type {code!r:.40}")
        self._code, self._order = code, "<"

    def set_state(self, state: tuple[Any, ...]) -> None:
        self._order = ">" if state[1] == ">" else "<"

    def read(self, raw: bytes) -> np.ndarray[Any, Any]:
        return np.frombuffer(raw, np.dtype(self._order + self._code))


class NumpyArray(Stateful):
    """What becomes an array: its ``numbers`` are there once its state is set."""

    numbers: np.ndarray[Any, Any] = np.zeros(0)

    def set_state(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.numbers = dtype.read(raw).reshape(shape, order="F" if fortran else "C")


def _from_buffer(raw: bytes, dtype: _NumpyType, shape: tuple[int, ...], order: str) -> NumpyArray:
    array = NumpyArray()
    array.set_state((1, shape, dtype, order == "F", raw))
    return array


# What numpy's numbers and arrays, and bytes in pickles of old, are made of. numpy 1 and 2 write different names.
NUMPY: dict[str, Any] = {
    "numpy.dtype": _NumpyType,
    "numpy.ndarray": NumpyArray,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray.scalar": lambda dtype, raw: dtype.read(raw)[0],
            "multiarray._reconstruct": lambda *_: NumpyArray(),
            "numeric._frombuffer": _from_buffer,
        }.items()
    },
    "_codecs.encode": lambda text, _: text.encode("latin-1"),  # how old pickles spell bytes
    "__builtin__.bytes": lambda: b"",
}


def read_pickle(
    content: bytes,
    names: Mapping[str, Any],
    arrays: Callable[[np.ndarray[Any, Any]], Any] = lambda array: array,
    stored: Callable[[Any], Any] | None = None,
) -> Any:
    """What a pickle holds.

    Args:
        content: The pickle, of protocol 2 to 5.
        names: What each name in it stands for, `NUMPY` and whatever else is needed; the functions may be called.
        arrays: What to make of numpy's arrays.
        stored: Gives what a persistent id stands for; None: there are none.

    Raises:
        ForeignError: It names or does what is not needed.
        Exception: Whatever else a damaged pickle leads to.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    left = _MOST_MADE + len(content)

    def pop(count: int | None = None) -> list[Any]:
        """The topmost items, or those above the last mark."""
        start = marks.pop() if count is None else len(stack) - count
        items = stack[start:]
        del stack[start:]
        return items

    def named(name: str) -> Any:
        if name not in names:
            raise ForeignError(f"the Python object {name:.100}")
        return names[name]

    def spend(arguments: Any) -> None:
        """Bound what is made of one text or list that is handed over again and again."""
        nonlocal left
        left -= sum(len(one) for one in arguments if isinstance(one, (str, bytes, list, tuple)))
        if left < 0:
            raise ValueError("a pickle that grows without end")

    for number, (instruction, argument, _) in enumerate(pickletools.genops(content)):
        name = instruction.name
        if number > MOST_INSTRUCTIONS:
            raise ValueError(f"more than {MOST_INSTRUCTIONS} instructions in its pickle")
        if name in _NUMBERS_AND_TEXTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(pop(None if name == "TUPLE" else int(name[-1]))))
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name in ("APPEND", "APPENDS"):
            items = pop(None if name == "APPENDS" else 1)
            if type(stack[-1]) is not list:
                raise ForeignError(f"items of a {type(stack[-1]).__name__}")
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = pop(None if name == "SETITEMS" else 2)
            if type(stack[-1]) is not dict or not all(map(_is_key, items[::2])):
                raise ForeignError("keys that are neither texts nor numbers")
            spend(items[::2])
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(named(".".join(pop(2)) if argument is None else argument.replace(" ", ".")))
        elif name == "BINPERSID" and stored:
            stack.append(stored(*pop(1)))
        elif name == "REDUCE":
            function, arguments = pop(2)
            spend(arguments)
            if not isinstance(function, (type, FunctionType)):
                raise ForeignError(f"a call of a {type(function).__name__}")
            stack.append(function(*arguments))
        elif name == "BUILD":
            (state,) = pop(1)
            spend(state)
            if isinstance(stack[-1], Stateful):
                stack[-1].set_state(state)
            elif type(stack[-1]) is not dict:  # the state of a state dict is the versions of its modules
                raise ForeignError(f"the state of a {type(stack[-1]).__name__}")
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ForeignError(f"the pickle instruction {name}")
    (found,) = stack
    return _with_arrays(found, arrays, {})


def _is_key(value: Any) -> bool:
    """Whether it is a text, a number, or numbers; tuples of tuples could take for ever to hash."""
    if type(value) is tuple:
        return all(isinstance(part, int) for part in value)
    return isinstance(value, (str, int, float))


def _with_arrays(value: Any, arrays: Callable[[np.ndarray[Any, Any]], Any], done: dict[int, Any]) -> Any:
    """A nest of values with what stands for an array exchanged; ``done`` has what was seen, and what it became."""
    if id(value) in done:
        return done[id(value)][1]
    became = value
    if isinstance(value, NumpyArray):
        became = arrays(value.numbers)
    elif isinstance(value, (list, dict)):
        done[id(value)] = value, value  # before its items, among which it may be itself
        places = value if isinstance(value, dict) else range(len(value))
        for place in places:
            value[place] = _with_arrays(value[place], arrays, done)
    elif type(value) is tuple:
        became = tuple(_with_arrays(entry, arrays, done) for entry in value)
    done[id(value)] = value, became
    return became
