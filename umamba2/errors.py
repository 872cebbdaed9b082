"""The one exception for everything a user can put right."""

from __future__ import annotations


class InputError(Exception):
    """A file or setting that cannot be used; the message is one line: what, the value found, what was expected."""
