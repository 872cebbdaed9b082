"""JSON for browsers and other clients."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

LINGER = 2.0  # seconds


class Answer(JSONResponse):
    """JSON in ASCII: what files hold that is no text, and reaches a message, cannot be written in UTF-8."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False).encode()


class LastAnswer(Answer):
    """The last one of a connection, to a client that may still be sending.

    Closing on bytes that nobody has read resets the connection, and the client loses the answer: for a while they are
    read and thrown away.
    """

    def __init__(self, content: Any, code: int):
        super().__init__(content, code, {"Connection": "close"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it, wait for the client, and close."""

        async def send_open(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await super().__call__(scope, receive, send_open)
        with suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(_read_on(receive), LINGER)
        await send({"type": "http.response.body", "body": b""})


async def _read_on(receive: Receive) -> None:
    while (await receive()).get("more_body"):  # false at the end of the body, missing if the client is gone
        pass
