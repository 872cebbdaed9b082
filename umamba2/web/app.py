"""The application: the interface, the page's files, and what ends with the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from umamba2.errors import InputError
from umamba2.messages import unexpected
from umamba2.web.answers import Answer, LastAnswer
from umamba2.web.intake import TooMuch, TooSlow
from umamba2.web.routes import Desk
from umamba2.web.tasks import Busy

PAGE = Path(__file__).parent / "static"
_CODES: dict[type[Exception], int] = {TooMuch: 413, TooSlow: 408, Busy: 503}
_LOOK_EVERY = 20.0  # seconds, for scans that nobody uses


def make_app(desk: Desk, more: Sequence[BaseRoute] = ()) -> Starlette:
    """Put the application together.

    Args:
        desk: What requests are about.
        more: Routes of other interfaces to the same models and the same line of tasks.
    """

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_close_idle(desk))
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
            await run_in_threadpool(desk.line.end)
            for study in desk.studies:
                desk.studies.close(study)

    return Starlette(
        routes=[Route("/", page), *desk.routes(), *more, Mount("/static", StaticFiles(directory=PAGE))],
        exception_handlers={
            InputError: _refused,
            KeyError: _gone,
            ClientDisconnect: _hung_up,
            HTTPException: _as_json,
            Exception: _failed,
        },
        lifespan=living,
    )


async def _close_idle(desk: Desk) -> None:
    while True:
        await asyncio.sleep(min(_LOOK_EVERY, desk.studies.idle))
        for study in desk.studies.idle_ones():
            if not desk.line.of(study.name):
                desk.studies.close(study)


async def _refused(request: Request, error: Exception) -> Response:
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), 400)
    # Who sends too much or too slowly is not listened to for long.
    return (LastAnswer if code in (408, 413) else Answer)({"error": str(error)}, code)


async def _gone(request: Request, error: Exception) -> Response:
    return Answer({"error": "found nothing of that name (any more), expected an open scan; open it again"}, 404)


async def _hung_up(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # an answer to nobody; as an unexpected error it would be logged


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Answer({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    return Answer({"error": f"found {unexpected(error)}, expected to answer"}, 500)
