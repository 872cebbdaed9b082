"""What files were made of: sizes and dates of sources and results, kept in a record of their own.

That a result is younger than its source proves nothing: a correction may have an older date than what was made before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from umamba2.errors import InputError
from umamba2.files import read_json, write_file
from umamba2.scans.parts import parts_of

Stamps = list[list[int]]


def stamps(*files: Path) -> Stamps:
    """The size of each file, and when it was last changed; of an image of two files, that of both."""
    return [[found.st_size, found.st_mtime_ns] for file in files for found in map(Path.stat, parts_of(file))]


def leave_record(record: Path, sources: Stamps, results: Iterable[Path], recipe: Any = None, note: Any = None) -> None:
    """Note, when everything is in place, what some files were made of.

    Args:
        record: The file to write.
        sources: Stamps of what they were made of, from before that was read.
        results: The files.
        recipe: What else decides about them, as JSON holds it.
        note: What else to keep, see `noted`.
    """
    kept = {"recipe": recipe, "from": sources, "into": stamps(*results), "note": note}
    write_file(record, json.dumps(kept) + "\n")


def noted(record: Path) -> Any:
    """What a record keeps beside what tells whether results are as they were made; None if there is nothing."""
    with suppress(OSError, InputError):
        return read_json(record).get("note")
    return None


def has_other_sizes(record: Path, results: Iterable[Path]) -> bool:
    """Whether a record says that results had other sizes when they were made; copies have other dates, too."""
    with suppress(OSError, InputError, TypeError, LookupError):
        return [size for size, _ in read_json(record)["into"]] != [size for size, _ in stamps(*results)]
    return False  # there is none, as where nnU-Net itself has preprocessed


def is_made(record: Path, sources: Iterable[Path], results: Iterable[Path], recipe: Any = None) -> bool:
    """Whether a record says that these results are as they were made, of these sources as they are now."""
    with suppress(OSError, InputError):
        made = {"recipe": recipe, "from": stamps(*sources), "into": stamps(*results)}
        return {key: read_json(record).get(key) for key in made} == made
    return False
