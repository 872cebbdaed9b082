"""The HTTP server: uvicorn, with limits for clients that connect and then say little."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from umamba2.errors import InputError
from umamba2.messages import say

MOST_CONNECTIONS = 64
HEADER_SECONDS = 10.0  # for a client to send the head of a request
ANSWER_SECONDS = 20.0  # for a client to take what waits for it, and as long as that takes at
SLOWEST = 100_000  # bytes in a second; a scan comes in pieces of this size or smaller, or in one
_MOST_HEADER = 32 << 10  # bytes


class Protocol(H11Protocol):
    """One connection. Closed if the head of a request takes too long, or the client does not take its answer.

    Intake watches over the bodies of requests.
    """

    _deadline: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn; refuse it at once if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """As uvicorn."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn."""
        self._stop_watching()
        self._is_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """As uvicorn: more waits for the client than it takes at once."""
        super().pause_writing()
        self._wait_for_taking()

    def resume_writing(self) -> None:
        """As uvicorn: the client has taken most of it."""
        self._is_taken()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """As uvicorn; what still waits for the client may be less than what it takes at once."""
        super().on_response_complete()
        if self._taking is None:
            self._wait_for_taking()

    def _wait_for_taking(self) -> None:
        self._is_taken()
        waiting = self.transport.get_write_buffer_size()
        if waiting:
            self._taking = self.loop.call_later(ANSWER_SECONDS + waiting / SLOWEST, self._is_not_taken)

    def _is_not_taken(self) -> None:
        self._taking = None
        if not self.transport.get_write_buffer_size():
            return
        if self.flow.write_paused or self.cycle is None or self.cycle.response_complete:
            self.transport.abort()  # closing would wait for the client
        else:
            self._wait_for_taking()  # another answer has begun, of which little waits

    def _is_taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _watch(self) -> None:
        """Start to wait for a head, go on waiting, or stop as it is here."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; InputError if the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: could not listen ({why}), expected a free address") from None


def config(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn shall serve an application."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=_MOST_HEADER,
    )


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM."""
    # uvicorn raises the signal once more when it is done; that is the end, not an accident.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config(app)).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    say("stopped")


def _ignore(*_: Any) -> None:
    pass
