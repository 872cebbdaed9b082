"""What goes wrong, as a small family of exceptions."""

from __future__ import annotations

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


class MissingExtra(InputError):
    """A command that needs libraries which are not installed."""


class OutOfMemory(MemoryError):
    """Not even the smallest step fits into the memory that is left."""


class Terminated(BaseException):
    """The process was asked to end. No Exception, so that nobody takes it for a fault to try something else after."""
