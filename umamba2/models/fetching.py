"""Fetching a file over http(s) with nothing but Python's own library."""

from __future__ import annotations

import http.client
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import IO, Any
from urllib.parse import urlsplit

from umamba2.errors import InputError

TIMEOUT = 30  # seconds that a server may say nothing, or next to nothing
_LEAST = 1000  # bytes in that time
_PIECE = 2**18


def fetch(address: str, file: IO[bytes], largest: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Write what a server answers into a file.

    Args:
        address: https or http. What is asked for over https is not taken from http.
        file: Open for writing.
        largest: Most bytes that are taken; no more either than the file's disk has room for.
        progress: Called with the bytes so far, and in all (0 if the server does not say).

    Raises:
        InputError: The address is of another kind, there is no answer, or it is too large or cut off.
    """
    scheme = urlsplit(address).scheme.lower()
    if scheme not in ("http", "https"):
        raise InputError(f"{address}: found the scheme {scheme}, expected https, http or file")
    opener = urllib.request.OpenerDirector()  # the usual one takes ftp, data and local files as well
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    work = _Work(address, file, min(largest, shutil.disk_usage(str(file.name)).free), progress)
    # A thread: a server that sends a byte now and then, before its answer too, runs into no limit of a single reading.
    thread, before = Thread(target=work.run, args=(opener,), daemon=True), 0
    thread.start()
    while thread.is_alive():
        thread.join(TIMEOUT)
        if thread.is_alive() and work.done - before < _LEAST:
            raise InputError(f"{address}: found {work.done - before} bytes in {TIMEOUT} s, expected an archive")
        before = work.done
    if work.error is not None:
        raise work.error


@dataclass
class _Work:
    """A file that is fetched."""

    address: str
    file: IO[bytes]
    largest: int
    progress: Callable[[int, int], None] | None
    done: int = 0
    error: BaseException | None = None

    def run(self, opener: urllib.request.OpenerDirector) -> None:
        """Fetch it; what goes wrong is kept."""
        try:
            self._fetch(opener)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())[:200] or type(error).__name__
            code = f"{error.code} " if hasattr(error, "code") else ""
            self.error = InputError(f"{self.address}: could not be fetched ({code}{reason}), expected an archive")
        except BaseException as error:
            self.error = error

    def _fetch(self, opener: urllib.request.OpenerDirector) -> None:
        request = urllib.request.Request(self.address, headers={"User-Agent": "umamba2"})
        with opener.open(request, timeout=TIMEOUT) as answer:
            if answer.status != 200:
                found = f"the answer {answer.status} {answer.reason:.100}"
                raise InputError(f"{self.address}: found {found}, expected the whole file")
            stated = answer.headers.get("Content-Length", "")
            size = int(stated) if stated.isdecimal() else 0
            while piece := answer.read1(_PIECE):
                self.done += len(piece)
                if max(self.done, size) > self.largest:
                    found = f"more than {self.largest} bytes"
                    raise InputError(f"{self.address}: found {found}, expected less, or more free disk")
                self.file.write(piece)
                if self.progress is not None:
                    self.progress(self.done, size)
        if self.done < size:
            found = f"{self.done} of {size} bytes"
            raise InputError(f"{self.address}: found {found}, expected all of them; the connection was lost")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme.lower() not in allowed:
            raise ValueError(f"sent on to {newurl[:200]}")
        fp.read = lambda *_: b""  # what comes with it would be read to its end, which it may not have
        return super().redirect_request(req, fp, code, msg, headers, newurl)
