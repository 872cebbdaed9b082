"""Who may ask the server, and what every answer tells the browser.

A page of somebody else in the same browser can send requests to this machine. It is kept out four ways: it does not
know the token; the token's cookie is not sent along with it (SameSite=Strict); its Origin is another one; and a name
that it has pointed at this machine (DNS rebinding) is no Host of ours.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from umamba2.errors import InputError
from umamba2.web.answers import Answer

SHORTEST_TOKEN = 16  # characters
_HEADERS = {
    # WebAssembly and workers are not needed. Colours of structures are set through the DOM, which style-src allows.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CLOSED = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>umamba2</title>
<h1>umamba2</h1><p>This page needs its token: open the whole address that <code>umamba2 serve</code> printed.</p></html>
"""


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cookie_name(token: str) -> str:
    """What the cookie with a token is called: cookies know no ports, so each server on a machine needs its own."""
    return f"umamba2-{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def check_token(host: str, token: str | None) -> None:
    """Raise InputError if a server must not listen on a host with this token (None: without one)."""
    if token is None and not is_loopback(host):
        raise InputError(f"--no-token: found it with --host {host}, expected a token wherever others reach the server")
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise InputError(f"--token: found {len(token)} characters, expected at least {SHORTEST_TOKEN}, all ASCII")


class Gate:
    """Lets requests through to an application, as ASGI middleware.

    Args:
        app: The application.
        token: What a request must know; None: nothing.
        host: Where the server listens.
        names: More names that it is called by.
    """

    def __init__(self, app: ASGIApp, token: str | None, host: str = "127.0.0.1", names: Iterable[str] = ()):
        self._app, self._token, self._loopback = app, token, is_loopback(host)
        self.cookie = cookie_name(token or "")
        own = () if self._loopback else (socket.gethostname(), socket.getfqdn())
        self._names = {name.lower() for name in ("localhost", host, *own, *names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application do so."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self._refusal(scope)
            await (self._app if answer is None else answer)(scope, receive, _with_headers(send))
        # nothing else is spoken here

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        stated = headers.getlist("host")
        if len(stated) != 1 or not self._is_ours(_hostname(stated[0])):
            found = f"Host: found {', '.join(stated)[:80]!r}, expected the address that the server was started with"
            return Answer({"error": found}, 421)
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{stated[0].lower()}":
            return Answer({"error": f"Origin: found {origin[:80]!r}, expected this server's own page"}, 403)
        if self._token is None or self._knows_token(headers):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        given = asked.pop("token", [""])[0]
        if scope["path"] != "/":
            return Answer({"error": "token: found none that is right, expected the one that was printed"}, 401)
        if not self._is_token(given):
            return HTMLResponse(_CLOSED, 401)
        # The token leaves the address, and with it the browser's history and what people copy.
        rest = urlencode(asked, doseq=True)
        answer = RedirectResponse(f"/?{rest}" if rest else "/", 303)
        answer.set_cookie(self.cookie, given, httponly=True, samesite="strict")
        return answer

    def _is_ours(self, host: str) -> bool:
        if host.lower() in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback  # nobody can point an address elsewhere

    def _knows_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return True
        # Browsers send the cookies of all servers on this machine together, and those may be no good cookies.
        return self._is_token(cookie_parser(headers.get("cookie", "")).get(self.cookie, ""))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), (self._token or "").encode())


def _hostname(stated: str) -> str:
    """The host in a Host header, without port and brackets; empty if what should be a port is none."""
    parts = re.fullmatch(r"(?:\[([^]]*)\]|([^][:]*))(?::[0-9]{0,5})?", stated)
    return "" if parts is None else parts[1] or parts[2] or ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
