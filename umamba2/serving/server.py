"""The server of Grand Challenge's invoke API.

GET /health   503 until the model is loaded and warm, then 200
POST /invoke  segments what the input folder holds now; 201 when every case has its output, else 500

Every answer is a JSON object, and every error also one line on stderr. Threads only speak HTTP: all loading and
segmenting happens on the main one, call after call, so that /health answers during a long case and the libraries
below keep one set of worker threads. Nothing in the input and output folders stays open, nor is any of it remembered:
the platform empties both between calls.

The standard library serves, because a web framework would bring neither of the two hard parts: a limit on the time that
a whole request may take to arrive, and work that stays on the main thread.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from umamba2.jobs import container
from umamba2.jobs.termination import handling_sigterm
from umamba2.messages import say

if TYPE_CHECKING:
    from umamba2.challenges import Challenge
    from umamba2.segmenter import Segmenter

PORT = 4743  # the platform's
Answer = tuple[int, dict[str, Any]]
MOST_CONNECTIONS = 64  # at once; the next wait until one of them is done, which takes a few seconds at most
MOST_CALLS = 8  # at once, the one in progress among them; the platform makes one after the other
_POLL = 0.1  # seconds; a signal that comes just before a wait does not end it
_LONGEST_BODY = 1 << 20  # bytes that are taken in
_ROUTES = {"/health": "GET", "/invoke": "POST"}


class Server(ThreadingHTTPServer):
    """Listens from the start; `serve` loads the model and does the work."""

    daemon_threads = False  # closing waits for the answers that are on their way
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]):
        super().__init__(address, _Handler)
        self.ready = self.stopping = False
        # Not SimpleQueue: up to Python 3.12 its timed wait may never end if a signal interrupts it.
        self._calls: Queue[Future[Answer]] = Queue()
        self._accepting = threading.Lock()
        self._connections = threading.Semaphore(MOST_CONNECTIONS)
        self._callers = threading.Semaphore(MOST_CALLS)
        self._open: set[socket.socket] = set()  # connections with a client at the other end

    def serve(self, options: argparse.Namespace) -> None:
        """Load the model that the options name, then handle calls until SIGTERM or an interrupt.

        The call in progress ends first: SIGTERM makes it answer with what it has, an interrupt lets it finish. Raises
        InputError if the model cannot be loaded.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        listener = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": _POLL})
        listener.start()
        try:
            self._work(options)
        finally:
            with self._accepting:
                self.stopping = True
            while not self._calls.empty():  # calls that came too late
                call = self._calls.get()
                if call.set_running_or_notify_cancel():
                    call.set_result(_STOPPING)
            self.shutdown()
            listener.join()
            for connection in list(self._open):  # a client that is still asking would be waited for, however slow
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
            self.server_close()

    def _work(self, options: argparse.Namespace) -> None:
        from umamba2.challenges import find_challenge

        challenge = find_challenge(options.challenge)
        segmenter = container.load_segmenter(challenge, options)
        warm(segmenter)
        self.ready = True
        say(f"ready for {challenge.name}")
        while not self.stopping:
            try:
                call = self._calls.get(timeout=_POLL)
            except Empty:
                continue
            if not call.set_running_or_notify_cancel():
                continue
            answer = _STOPPING
            try:
                with handling_sigterm() as sigterm:
                    answer = invoke(challenge, segmenter, options)
                self.stopping = self.stopping or sigterm.asked
            finally:  # somebody is waiting, whatever happened
                call.set_result(answer)

    def invoke(self, gone: Callable[[], bool]) -> Answer | None:
        """Have the main thread handle what is in the input folder, and wait for the answer.

        Args:
            gone: Whether the caller has hung up: what nobody waits for is not begun.

        Returns:
            The answer, or None if there is nobody to give one to.
        """
        call: Future[Answer] = Future()
        if not self._callers.acquire(blocking=False):
            return 503, {"error": f"/invoke: found {MOST_CALLS} calls that wait, expected fewer"}
        try:
            with self._accepting:
                if self.stopping:
                    return _STOPPING
                if not self.ready:
                    return _LOADING
                self._calls.put(call)
            while not wait([call], _POLL).done:
                if gone() and call.cancel():
                    return None
            return call.result()
        finally:
            self._callers.release()

    def _stop(self, *_: object) -> None:
        if not self.ready:
            os._exit(0)  # nothing is promised yet, and loading may take longer than the platform waits
        self.stopping = True

    def process_request(self, request: Any, client_address: Any) -> None:
        while not self._connections.acquire(timeout=_POLL):
            if self.stopping:
                return self.shutdown_request(request)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)
        self._connections.release()

    def handle_error(self, *_: object) -> None:
        """A client that went away costs one line."""
        say(f"error: connection: found {sys.exc_info()[1]}, expected a whole request", sys.stderr)


_LOADING: Answer = (503, {"error": "the model is being loaded"})
_STOPPING: Answer = (503, {"error": "the server is stopping"})


def warm(segmenter: Segmenter) -> None:
    """Segment one tile of air, so that the first case does not pay for the device's and the kernels' start-up.

    What there is to say about that tile concerns nobody.
    """
    import numpy as np

    plan = segmenter.predictor.plan
    z, y, x = (plan.transpose.index(axis) for axis in range(3))  # where the plan keeps the scan's axes
    size = plan.patch_size[z], plan.patch_size[y], plan.patch_size[x]
    segmenter.segment((np.ones(size, np.float32), (plan.spacing[z], plan.spacing[y], plan.spacing[x])))


def invoke(challenge: Challenge, segmenter: Segmenter, options: argparse.Namespace) -> Answer:
    """Segment what the input folder holds; what to answer. Never raises: the next case may be a good one."""
    from umamba2.errors import InputError
    from umamba2.jobs import list_cases, run, succeeded

    try:
        source, output = container.mounts(challenge, options)
        cases = list_cases(challenge, source, output, options.suffix)
        until = container.time_of_end(options, time.monotonic())
        outcomes = run(challenge, cases, segmenter, output, until)  # says on stderr what is wrong with a case
    except Exception as error:
        known = isinstance(error, (InputError, OSError))
        problem = str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        say(f"error: {problem}", sys.stderr)
        return 500, {"error": problem}
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    if not succeeded(outcomes, options.strict):
        return 500, {"error": "; ".join(problems)}
    return 201, {"cases": len(outcomes), "warnings": problems}


class _Arriving(io.RawIOBase):
    """What a connection brings within so many seconds from now, however slowly it drips; TimeoutError after that."""

    def __init__(self, connection: socket.socket, seconds: float):
        self.connection, self.end = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 5  # seconds for the client to send its request, all of it, and as many to take the answer

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Arriving(self.connection, self.timeout))

    def finish(self) -> None:
        """Take in what the client still sends: closing on unread bytes resets a connection, and loses the answer."""
        super().finish()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            rest = _Arriving(self.connection, self.timeout)
            while rest.read(1 << 16):
                pass

    def _gone(self) -> bool:
        """Whether the client has hung up."""
        self.connection.settimeout(0)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _handle(self) -> None:
        if not self._read_body():
            return
        path, method = self.path.partition("?")[0], "GET" if self.command == "HEAD" else self.command
        if path not in _ROUTES:
            self.send_error(404, f"{self.command} {path}: found an unknown path, expected {' or '.join(_ROUTES)}")
        elif method != _ROUTES[path]:
            self.send_error(405, f"{self.command} {path}: found another method, expected {_ROUTES[path]}")
        elif path == "/health":
            self._answer(*((200, {"status": "ready"}) if self.server.ready else _LOADING))
        elif (answer := self.server.invoke(self._gone)) is not None:
            self._answer(*answer)
        else:
            say("error: connection: found it closed before its turn, expected a client that waits", sys.stderr)

    def _read_body(self) -> bool:
        """Take in a body, which means nothing here; False if it is none, or too long, which is answered."""
        stated = self.headers.get("Content-Length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", stated):
            self.send_error(400, f"Content-Length: found {stated[:80]!r}, expected a number of bytes")
            return False
        if int(stated) > _LONGEST_BODY:
            self.send_error(413, f"body: found {stated} bytes, expected none, and at most {_LONGEST_BODY}")
            return False
        try:
            self.rfile.read(int(stated))
        except TimeoutError:
            self.send_error(408, f"body: found less than {stated} bytes within {self.timeout} s, expected all of them")
            return False
        return True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer an error as JSON, and say it on stderr (also what the base class finds wrong with a request)."""
        message = message or self.responses[code][0]
        say(f"error: {message}", sys.stderr)
        self._answer(code, {"error": message})

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.connection.settimeout(self.timeout)
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Stay silent: the platform asks for /health many times."""
