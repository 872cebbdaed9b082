"""Fetching a file over http(s) with nothing but Python's own library."""

from __future__ import annotations

import http.client
import shutil
import urllib.request
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import urlsplit

from umamba2.errors import InputError

TIMEOUT = 30  # seconds that a server may say nothing
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
    largest = min(largest, shutil.disk_usage(str(file.name)).free)
    try:
        with opener.open(urllib.request.Request(address, headers={"User-Agent": "umamba2"}), timeout=TIMEOUT) as answer:
            stated = answer.headers.get("Content-Length", "")
            size = int(stated) if stated.isdecimal() else 0
            done = 0
            while piece := answer.read(_PIECE):
                done += len(piece)
                if max(done, size) > largest:
                    raise InputError(f"{address}: found more than {largest} bytes, expected less, or more free disk")
                file.write(piece)
                if progress is not None:
                    progress(done, size)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())[:200] or type(error).__name__
        code = f"{error.code} " if hasattr(error, "code") else ""
        raise InputError(f"{address}: could not be fetched ({code}{reason}), expected an archive") from None
    if done < size:
        raise InputError(f"{address}: found {done} of {size} bytes, expected all of them; the connection was lost")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme.lower() not in allowed:
            raise ValueError(f"sent on to {newurl[:200]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
