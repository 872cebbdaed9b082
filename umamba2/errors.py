"""What goes wrong, as a small family of exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """A file or setting that a user can put right.

    The message is one line. Where it is known, the parts are attributes as well.

    Attributes:
        file: The file, folder or setting that cannot be used.
        found: What is there.
        expected: What should be there.
    """

    def __init__(self, message: str, *, file: str | Path | None = None, found: str = "", expected: str = ""):
        super().__init__(message)
        self.file, self.found, self.expected = file, found, expected


class ModelError(InputError):
    """A model folder, checkpoint or plan that cannot be used."""


class NothingFound(InputError):
    """A label map without any structure, of which there is nothing to show or to count."""


class MissingExtra(InputError):
    """A command that needs libraries which are not installed."""


class OutOfMemory(MemoryError):
    """Not even the smallest step fits into the memory that is left."""


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Around imports that an optional part needs.

    Args:
        extra: The extra of this package that installs them, such as "reports".
        what: What needs them, such as "report"; the message begins with it.

    Raises:
        MissingExtra: One of the libraries is not installed.
    """
    try:
        yield
    except ImportError as error:
        name = error.name or str(error)
        raise MissingExtra(f"{what}: found no {name}, expected pip install 'umamba2[{extra}]'") from None


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Around what is done with a file: an error of the system that names none, as of reading, gets its name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


class Cancelled(Exception):
    """What somebody who watches a computation raises to have it stopped."""


class Terminated(BaseException):
    """The process was asked to end. No Exception, so that nobody takes it for a fault to try something else after."""
