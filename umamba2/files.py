"""Files written complete or not at all, never over what was read; and JSON read with a clear word on what is wrong."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from umamba2.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_OWN = re.compile(r"\.umamba2-[0-9a-f]{16}(\..*)?")
_swept: set[str] = set()
_DEVICES = "/dev"


class _Whole(NamedTuple):
    """A file that is written: where it shall be, where it is until then, and the handle that holds its lock."""

    path: Path
    partial: Path
    handle: int | None


_waiting: ContextVar[list[_Whole] | None] = ContextVar("_waiting", default=None)  # in `together`


def read_json(path: str | Path, what: str = "a JSON object") -> dict[str, Any]:
    """The JSON object in a file: `read_json_value`, which must be an object, too."""
    content = read_json_value(path, what)
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__} in JSON, expected {what}")
    return content


def read_json_value(path: str | Path, what: str) -> Any:
    """What a JSON file holds.

    Args:
        path: The file; UTF-8, with or without a byte order mark.
        what: What the file should be, for the message, such as "nnU-Net's plans".

    Raises:
        InputError: The file is missing or none (pipes and devices have no end), cannot be read, is no JSON, or says
            something twice.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: found {found_at(path)}, expected {what}")
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except FileNotFoundError:
        raise InputError(f"{path}: found {found_at(path)}, expected {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: found no readable JSON ({reason}), expected {what}") from None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `json.loads`; ValueError for a key that it has twice, of which the last would count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"it has {counts.most_common(1)[0][0]!r:.60} twice")
    return found


def found_at(path: str | Path, wanted: str = "file") -> str:
    """What is found where a file, or what else was wanted, is not, for a message."""
    if os.path.exists(path):
        return "a folder" if os.path.isdir(path) else "a file" if os.path.isfile(path) else "no regular file"
    return "a link that leads nowhere" if os.path.islink(path) else f"no such {wanted}"


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8, what is no text escaped), and the folders above it; InputError if it cannot be."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | Path, ending: str | None = None) -> Iterator[Path]:
    """Give a place to write a file to, which takes the place of ``path`` only when it is whole.

    The place is a new, empty file in the same folder, which nobody else uses and which is gone in the end whatever
    happens; if the process is killed, the next one that writes into the folder removes it. Folders above it are made.

    Args:
        path: Where the file shall be.
        ending: Of the place's name, for libraries that go by it; None: as that of ``path``.

    Raises:
        InputError: An OSError occurred on the way, here or in the body of the ``with`` statement.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"{path}: found a folder, expected a file name")
    new, kept, waiting = None, False, _waiting.get()
    try:
        # Root could put a file in the place of /dev/null, or of the link that /dev/stdout is.
        if (path.exists() and not path.is_file()) or os.path.realpath(path.parent) == _DEVICES:
            raise OSError(None, "it is no regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        new = _Whole(path, *_new_file(path.parent, _ending(path) if ending is None else ending))
        yield new.partial
        if new.handle is not None:
            os.fsync(new.handle)  # a full disk or a lost connection may only show now
        if waiting is None:
            os.replace(new.partial, path)
        else:
            waiting.append(new)
            kept = True
    except OSError as error:
        raise InputError(_not_written(path, error)) from None
    finally:
        if new is not None and not kept:
            _discard(new)


@contextmanager
def together() -> Iterator[None]:
    """Have all files that this thread writes inside (see `replacing`) take their places at the end, or none of them.

    Raises:
        InputError: A file could not take its place. Should others have done so before, the message names them.
    """
    if _waiting.get() is not None:  # all is done at the end of the outer one
        yield
        return
    waiting: list[_Whole] = []
    before = _waiting.set(waiting)
    done: list[str] = []
    try:
        yield
        for path, partial, _ in waiting:
            try:
                os.replace(partial, path)
            except OSError as error:
                those = f"; already new: {', '.join(done)}" if done else ""
                raise InputError(_not_written(path, error) + those) from None
            done.append(path.name)
    finally:
        _waiting.reset(before)
        for new in waiting:
            _discard(new)


def _not_written(path: Path, error: OSError) -> str:
    why, named = f"{error.strerror or error}", Path(str(error.filename or path))
    if named not in (path, *path.parents) and not _OWN.fullmatch(named.name):
        why += f" with {named!s:.300}"  # such as what is copied
    return f"{path}: could not be written ({why}), expected a writable folder"


def _discard(new: _Whole) -> None:
    with suppress(OSError):
        new.partial.unlink()
    if new.handle is not None:
        with suppress(OSError):  # of what is on the disk, nothing can be lost any more
            os.close(new.handle)


def _ending(path: Path) -> str:
    # Both parts of ".nii.gz"; but what follows a dot may also be most of a long name.
    endings = ("".join(path.suffixes[-2:]), path.suffix)
    return next((ending for ending in endings if len(ending.encode(errors="surrogateescape")) < 32), "")


def _new_file(folder: Path, ending: str) -> tuple[Path, int | None]:
    """Create a file of our own, and hold a lock on it that ends with this process at the latest.

    Returns its path and an open handle to it, None where there are no such locks.
    """
    while True:
        path = folder / f".umamba2-{os.urandom(8).hex()}{ending}"
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if fcntl is None:
            os.close(handle)
            return path, None
        with suppress(OSError):  # some network drives have no locks; nothing is swept there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return path, handle
        os.close(handle)  # another process took it for a leftover before it was locked


def _sweep(folder: Path) -> None:
    """Remove what runs that were killed have left in a folder: our own files on which nobody holds a lock any more.

    Each process does so once for each folder.
    """
    if fcntl is None or (place := os.path.realpath(folder)) in _swept:
        return
    _swept.add(place)
    for entry in os.scandir(folder):
        if not _OWN.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            continue
        with suppress(OSError):
            handle = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)
            finally:
                os.close(handle)


def own_file(path: Path, how: int) -> int:
    """Open a regular file: a link of a name that is known could lead anywhere, and a pipe be waited for.

    Args:
        path: The file.
        how: The flags of `os.open`, with O_RDWR.

    Returns:
        The handle. Raises OSError if it is something else.
    """
    handle = os.open(path, how | getattr(os, "O_NOFOLLOW", 0), 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(None, "it is no regular file")
    return handle


def try_lock(handle: int, start: int = 0, length: int = 0) -> bool:
    """Lock a part of an open file against other processes, until `unlock`, or the end or death of this one.

    Processes that this one starts do not keep the lock. Closing any handle on the file gives all its locks back.

    Args:
        handle: The file, open for writing.
        start: The first byte of the part; it may lie beyond the end of the file.
        length: In bytes; 0: to the end.

    Returns:
        False if another process has it. True where the system has no such locks, as on some network drives.
    """
    if fcntl is not None:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)  # not flock, which orphans would keep
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            pass
    return True


def unlock(handle: int, start: int = 0, length: int = 0) -> None:
    """Give back what `try_lock` took with the same arguments."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.lockf(handle, fcntl.LOCK_UN, length, start)


class OutputRegistry:
    """Which files are taken: those that are read, and each output with the input that it belongs to."""

    def __init__(self, inputs: Iterable[str | Path] = ()):
        self._owners = {os.path.realpath(path): Path(path) for path in inputs}

    def claim(self, output: str | Path, owner: str | Path) -> None:
        """Take a file for the output that belongs to an input.

        Args:
            output: The file.
            owner: The input.

        Raises:
            InputError: The output is an input, by whatever name or link, or belongs to another one.
        """
        target = os.path.realpath(output)
        found = self._owners.setdefault(target, Path(owner))
        if os.path.realpath(found) == target:
            raise InputError(f"{owner}: found an input as its output ({output}), expected another place")
        if found != Path(owner):
            raise InputError(f"{owner}: found {output} taken by {found}, expected an output of its own")
