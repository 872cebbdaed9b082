"""One run at a time in a folder: two that write the same files leave a mixture of both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from umamba2.errors import InputError
from umamba2.files import own_file, try_lock


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep others out of a folder, which is made if need be, until the end or the death of this process.

    Raises InputError while another process is in it. Does nothing where the system has no such locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        handle = own_file(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror}), expected a writable folder") from None
    try:
        if not try_lock(handle):
            raise InputError(f"{folder}: found another run at work in it, expected none")
        yield
    finally:
        os.close(handle)
