"""What a person reads on the terminal, one line at a time whatever happened, and how a command treats its machine."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, TextIO

from umamba2.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

# Held while a line goes to stderr, or while a C library's own lines are kept from it (`umamba2.scans.itk`): what one
# thread says must not be taken for what a library said in another.
TALKING = threading.RLock()
_LONG_WORD = re.compile(r"(\S{200})\S{300,}(\S{100})")  # a path that nobody wants to read twice
_UNSAID: list[str] = []  # the line with which stdout was full
_LINE_BREAKERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def say(line: str, stream: TextIO | None = None) -> None:
    """Print one line, on stdout unless told otherwise; on stderr very long words are cut in the middle.

    A terminal that cannot show it, is full or has gone away is no reason to stop: characters are escaped, the rest is
    given up. That stdout is full is said on stderr, once; a reader that has gone away, as ``head`` does, had enough.
    """
    stream = stream or sys.stdout
    line = _LINE_BREAKERS.sub(lambda found: repr(found[0])[1:-1], line)
    if stream is sys.stderr:
        line = _LONG_WORD.sub(r"\1...\2", line)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        with TALKING if stream is sys.stderr else nullcontext():
            print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        # What is left in the buffer would fail once more when Python exits, and decide the exit code.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is sys.stdout and isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            _UNSAID.append(line)
            say(f"error: standard output: found it unusable ({error.strerror}), expected room for the rest", sys.stderr)


def all_was_said() -> bool:
    """Whether nothing was given up because stdout was full."""
    return not _UNSAID


def unexpected(error: BaseException) -> str:
    """An exception that nobody foresaw, as part of a line; its traceback goes to stderr if UMAMBA2_DEBUG is set."""
    if os.environ.get("UMAMBA2_DEBUG"):
        traceback.print_exception(error)
    return f"{type(error).__name__} ({' '.join(str(error).split())[:200]})"


def open_standard_streams() -> None:
    """Open what whoever started this process has closed of stdin, stdout and stderr, to nowhere.

    The next file to be opened would get such a number, and with it all that libraries print there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def share_the_machine() -> None:
    """Have threads that wait for each other soon sleep instead of spin; to be called before torch is imported.

    On a machine that is busy with something else, threads that spin keep the one that they wait for from running: a
    scan of 5 seconds took 100. Whoever has set the count keeps it.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of GNU's OpenMP, which torch brings on Linux


def end_with_parent() -> None:
    """Have this process end as soon as the one that started it, by `multiprocessing`, is dead.

    One that waits for work would wait for ever, and one that writes would get in the way of the next run.
    """
    from multiprocessing import parent_process

    if parent := parent_process():

        def wait(until_dead: Callable[[], None] = parent.join) -> None:
            until_dead()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def leave_quietly() -> None:
    """What a process of a pool does first: the one with the terminal reports an interrupt, and this one just ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


def pool_of_processes(workers: int, begin: Callable[[], None]) -> ProcessPoolExecutor:
    """Processes that each call ``begin`` first; InputError if the system has no place for their locks."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with making_locks(workers):  # forked processes would inherit the locks of torch's and ITK's threads
        return ProcessPoolExecutor(workers, get_context("spawn"), begin)


@contextmanager
def making_locks(workers: int) -> Iterator[None]:
    """Around what makes locks for processes; InputError if the system has no place for them."""
    try:
        yield
    except OSError as error:
        found = f"found no shared memory for {workers} processes ({error.strerror or error})"
        raise InputError(
            f"workers: {found}, expected a /dev/shm that can be written to, or work in one process"
        ) from None


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; its exit code, or one line on stderr for whatever it raises and 1 (130 if it was interrupted)."""
    try:
        return command()
    except InputError as error:
        problem = str(error)
    except OSError as error:  # a folder that cannot be listed, a name that is too long
        names = [f"{name!s:.300}" for name in (error.filename, error.filename2) if name is not None]
        problem = f"found {unexpected(error)}, expected to finish; UMAMBA2_DEBUG=1 shows where"
        if names and error.strerror:
            problem = f"{' -> '.join(names)}: found no usable one ({error.strerror}), expected a file or folder"
    except KeyboardInterrupt:
        say("error: interrupted", sys.stderr)
        return 130  # as shells say of what SIGINT has ended
    except Exception as error:
        problem = f"found {unexpected(error)}, expected to finish; UMAMBA2_DEBUG=1 shows where"
    say(f"error: {problem}", sys.stderr)
    return 1
