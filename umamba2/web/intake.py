"""What clients send, taken in within bounds: how large, how many, how slowly, and under which names."""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from umamba2.errors import InputError

MOST_BYTES = 4 << 30  # of the files of one scan together
MOST_FILES = 5000  # of one scan: the slices of a large DICOM series several times over
MOST_JSON = 1 << 20
SILENCE = 20.0  # seconds that a client may pause
SLOWEST = 50_000  # bytes a second, on average, after the first moments
_GRACE = 30.0  # seconds in which nobody is too slow
_PART = re.compile(r"[^\x00-\x1f\x7f/\\]{1,200}")


class TooMuch(InputError):
    """More than is taken in."""


class TooSlow(InputError):
    """Less than expected within the time."""


def safe_path(folder: Path, name: str) -> Path:
    """Where below a folder the file goes that a client calls so, ``series/0001.dcm``, say.

    Raises:
        InputError: The name could lead elsewhere, or is no file name.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    good = 0 < len(parts) <= 10 and all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not good or any(part[0] == "." or len(part.encode(errors="replace")) > 250 for part in parts):
        raise InputError(f"file name: found {name[:80]!r}, expected one below the opened folder that is not hidden")
    return folder.joinpath(*parts)


async def save_body(
    request: Request, path: Path, above: Path, received: list[int] | None = None, most: int | None = None
) -> int:
    """Write the body of a request to a new file, and return its size.

    Args:
        request: Whose body.
        path: The file; folders between it and ``above`` are made.
        above: A folder above it, which is not: whoever closes the study meanwhile removes it for good.
        received: Its first number is how many bytes came for the same purpose, in other requests too that are on their
            way now; those of this one are added as they come.
        most: How many bytes all of them may be; None: `MOST_BYTES`.

    Raises:
        TooMuch: It has more.
        TooSlow: The client pauses or trickles.
        InputError: The client went away, there is such a file, or the disk is full.
    """
    most, received, size, whole = MOST_BYTES if most is None else most, [0] if received is None else received, 0, False
    await run_in_threadpool(_make_folders, path, above)
    try:
        with path.open("xb") as file:
            try:
                async for chunk in _chunks(request, most - received[0]):
                    size, received[0] = size + len(chunk), received[0] + len(chunk)
                    if received[0] > most:
                        raise TooMuch(f"{path.name}: found more than {most:,} bytes, expected at most those")
                    await run_in_threadpool(file.write, chunk)
                whole = True
            finally:
                if not whole:
                    received[0] -= size
                    path.unlink(missing_ok=True)
        return size
    except FileExistsError:
        raise InputError(f"{path.name}: found it twice, expected each file once") from None
    except (OSError, ClientDisconnect) as error:
        with suppress(OSError):  # there may be no such file, or a file in place of a folder above it
            path.unlink()
        raise InputError(f"{path.name}: could not be taken in ({type(error).__name__}), expected all of it") from None


def _make_folders(path: Path, above: Path) -> None:
    try:
        for folder in reversed(path.relative_to(above).parents[:-1]):
            (above / folder).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.name}: could not be taken in ({type(error).__name__}), expected all of it") from None


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in the body of a request. Raises InputError if it is none."""
    body = b"".join([chunk async for chunk in _chunks(request, MOST_JSON)])
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"body: found {body[:40]!r}, expected a JSON object")
    return content


async def _chunks(request: Request, most: int) -> Any:
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and (len(stated) > 20 or int(stated) > most):
        raise TooMuch(f"body: found {int(stated):,} bytes, expected at most {most:,}")
    start, size, stream = time.monotonic(), 0, request.stream().__aiter__()
    while True:
        try:
            chunk = await asyncio.wait_for(stream.__anext__(), SILENCE)
        except StopAsyncIteration:
            return
        except (asyncio.TimeoutError, TimeoutError):
            raise TooSlow(f"body: found nothing for {SILENCE:.0f} seconds, expected the rest of it") from None
        size += len(chunk)
        if size > most:
            raise TooMuch(f"body: found more than {most:,} bytes, expected at most those")
        seconds = time.monotonic() - start
        if seconds > _GRACE and size < SLOWEST * seconds:
            raise TooSlow(f"body: found {size / seconds:,.0f} bytes a second, expected at least {SLOWEST:,}")
        yield chunk
