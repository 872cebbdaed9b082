"""One run at a time in a folder: two that write the same files leave a mixture of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from umamba2.errors import InputError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep others out of a folder, which is made if need be, until the end or the death of this process.

    Raises InputError while another process is in it. Does nothing where the system has no such locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        with suppress(ImportError):  # Windows
            import fcntl

            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which orphaned workers would keep
            except (BlockingIOError, PermissionError):
                raise InputError(f"{folder}: found another run at work in it, expected none") from None
            except OSError:
                pass  # some network drives
        yield
