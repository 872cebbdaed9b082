"""What ITK says where it should not: remarks on stderr, and reasons between the lines of its exceptions."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from umamba2.messages import TALKING

_STDERR = 2


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Catch the lines that the C libraries behind ITK print to stderr; the list is filled at the end."""
    heard: list[str] = []
    with TALKING:
        sys.stderr.flush()
        try:
            saved = os.dup(_STDERR)
        except OSError:  # a process without stderr has nothing to keep clean
            yield heard
            return
        ear, mouth = os.pipe()
        os.set_blocking(ear, False)
        os.set_blocking(mouth, False)  # whoever says more than a pipe holds is cut short, not kept waiting
        os.dup2(mouth, _STDERR)
        os.close(mouth)
        try:
            yield heard
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            with open(ear, "rb") as said:
                heard += (said.read() or b"").decode(errors="replace").splitlines()


def remarks(path: Path, lines: list[str]) -> list[str]:
    """What ITK's readers said on stderr about a file, one line for each thing, with the file's name in front."""
    said = []
    for line in lines:
        line = re.sub(r"^\w+ \(0x[0-9a-f]+\): ", "", line.strip()).replace(str(path), "").strip()
        # Where in ITK's source it stands says nothing, and TIFF files of many programs have fields of their own.
        if line and not line.startswith("WARNING: In ") and "Unknown field with tag" not in line:
            said.append(f"{path}: found that its reader remarks {line[:200]!r}, expected none")
    return list(dict.fromkeys(said))[:5]


def reason(error: BaseException) -> str:
    """What went wrong, as one line, from an exception that SimpleITK raised."""
    # It begins with a place in the source and ends with errno's text, right or wrong.
    text = str(error).rpartition("ERROR: ")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Reason: ")]
    if not lines:
        return type(error).__name__
    # NRRD's reader goes on with one line for each function on the way down to the reason.
    said = lines[-1] if lines[0].endswith(":") else " ".join(lines)
    return re.sub(r"^\w+\(0x[0-9a-f]+\): ", "", said)[:200]
