"""Files written complete or not at all, never over what was read; and JSON read with a clear word on what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from umamba2.errors import InputError


def read_json(path: str | Path, what: str = "a JSON object") -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: The file; UTF-8, with or without a byte order mark.
        what: What the file should be, for the message, such as "nnU-Net's plans".

    Raises:
        InputError: The file is missing, cannot be read, is no JSON, or holds something other than an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: found no such file, expected {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: found no readable JSON ({reason}), expected {what}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__} in JSON, expected {what}")
    return content


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8), and the folders above it; InputError if that is not possible."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Where to write a file, and the folders above it: a place with the same name ending, which the file leaves for
    ``path`` only when it is whole. An OSError on the way becomes an InputError."""
    path = Path(path)
    if not path.name:
        raise InputError(f"{path}: found a folder, expected a file name")
    partial = path.with_name(f".partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{path}: could not be written ({why}), expected a writable folder") from None
    finally:
        with suppress(OSError):
            partial.unlink()


class OutputRegistry:
    """Which files are spoken for: those that are read, and each output with the input that it belongs to."""

    def __init__(self, inputs: Iterable[str | Path] = ()):
        self._owners = {os.path.realpath(path): Path(path) for path in inputs}

    def claim(self, output: str | Path, owner: str | Path) -> None:
        """Note an output. Raises InputError if it is an input, by whatever name or link, or belongs to another one."""
        target = os.path.realpath(output)
        found = self._owners.setdefault(target, Path(owner))
        if os.path.realpath(found) == target:
            raise InputError(f"{owner}: found an input as its output ({output}), expected another place")
        if found != Path(owner):
            raise InputError(f"{owner}: found {output} taken by {found}, expected an output of its own")
