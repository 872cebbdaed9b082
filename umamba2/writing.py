"""Files written complete or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from umamba2.errors import InputError


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8), and the folders above it; InputError if that is not possible."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror}), expected a writable folder") from None
    finally:
        with suppress(OSError):
            partial.unlink()
