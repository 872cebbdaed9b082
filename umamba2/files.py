"""Files written complete or not at all, and never over what was read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from umamba2.errors import InputError


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


class Places:
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
