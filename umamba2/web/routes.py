"""The interface that the page uses, in JSON and bytes. Whatever takes time answers at once with a task to ask for."""

from __future__ import annotations

import asyncio
import re
import shutil
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from umamba2.errors import InputError
from umamba2.web import intake, work
from umamba2.web.answers import Answer
from umamba2.web.layers import CANALS, WHOLE
from umamba2.web.models import Models
from umamba2.web.saving import SAVED, save
from umamba2.web.studies import Studies, Study
from umamba2.web.tasks import Line, Task
from umamba2.web.view import Box

_PATIENCE = 10.0  # seconds that a question for news of a task waits for some
_MOST_AT_ONCE = 20  # tasks of one study
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Desk:
    """What requests are about.

    Attributes:
        models: The loaded models.
        studies: The open scans.
        line: What is computed.
    """

    models: Models
    studies: Studies
    line: Line

    def routes(self) -> list[Route]:
        """All routes of the interface."""
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/api", self._about),
            ("POST", "/api/scans", self._new),
            ("GET", "/api/scans/{scan}", self._scan),
            ("DELETE", "/api/scans/{scan}", self._close),
            ("PUT", "/api/scans/{scan}/files", self._take),
            ("POST", "/api/scans/{scan}/open", self._open),
            ("GET", "/api/scans/{scan}/image", self._image),
            ("GET", "/api/scans/{scan}/drawn", self._drawn),
            ("POST", "/api/scans/{scan}/segment", self._segment),
            ("PUT", "/api/scans/{scan}/labels", self._labels),
            ("PUT", "/api/scans/{scan}/clicks", self._click_file),
            ("POST", "/api/scans/{scan}/clicks", self._click),
            ("POST", "/api/scans/{scan}/clicks/undo", self._undo),
            ("POST", "/api/scans/{scan}/clicks/{click}", self._move),
            ("DELETE", "/api/scans/{scan}/clicks/{click}", self._remove),
            ("POST", "/api/scans/{scan}/saved", self._save),
            ("GET", "/api/scans/{scan}/saved/{file}", self._saved),
            ("GET", "/api/tasks/{task}", self._news),
            ("DELETE", "/api/tasks/{task}", self._cancel),
        ]
        return [Route(path, handler, methods=[method]) for method, path, handler in table]

    async def _about(self, request: Request) -> Response:
        import umamba2

        return Answer({"version": umamba2.__version__, "models": self.models.facts()})

    # --- scans

    async def _new(self, request: Request) -> Response:
        return Answer({"scan": self.studies.new().name}, 201)

    async def _scan(self, request: Request) -> Response:
        study = self._study(request)
        tasks = [self._told(task) for task in self.line.of(study.name)]
        known = {"scan": study.name} if study.volume is None else await run_in_threadpool(work.facts, study)
        return Answer({**known, "tasks": tasks})

    async def _close(self, request: Request) -> Response:
        study = self._study(request)
        for task in self.line.of(study.name):
            self.line.cancel(task)
        self.studies.close(study)
        return Answer({})

    async def _take(self, request: Request) -> Response:
        study = self._study(request)
        if study.volume is not None:
            raise InputError("scan: found one already, expected a new one for other files")
        if study.received[1] >= intake.MOST_FILES:
            raise intake.TooMuch(f"scan: found more than {intake.MOST_FILES:,} files, expected at most those")
        study.received[1] += 1
        path = intake.safe_path(study.sent, request.query_params.get("name", ""))
        return Answer({"bytes": await intake.save_body(request, path, study.sent, study.received)}, 201)

    async def _open(self, request: Request) -> Response:
        study = self._study(request)
        if study.volume is not None:
            raise InputError("scan: found one already, expected a new one for other files")
        instead = str((await intake.read_json(request)).get("instead", ""))
        self.studies.check_memory(0, instead)
        return self._asked("open the scan", study, work.open_scan(study, self.studies, instead))

    async def _image(self, request: Request) -> Response:
        study = self._study(request)
        study.shown  # noqa: B018  an error if there is none
        path = study.folder / "scan.nii"
        if not path.is_file():
            raise InputError("scan: found its temporary file gone, expected it to stay; start the server anew")
        return FileResponse(path, media_type="application/octet-stream")

    async def _drawn(self, request: Request) -> Response:
        study = self._study(request)
        box = _box(request.query_params.get("box"), study)
        content = await run_in_threadpool(lambda: zlib.compress(study.drawn(box).tobytes(), 1))
        return Response(content, media_type="application/octet-stream", headers={"Content-Encoding": "deflate"})

    # --- what is found

    async def _segment(self, request: Request) -> Response:
        study, asked = self._study(request), await intake.read_json(request)
        challenge = str(asked.get("challenge", ""))
        if challenge not in self.models.names:
            known = ", ".join(self.models.names)
            raise InputError(f"challenge: found {challenge[:80]!r}, expected one of {known}")
        study.scan  # noqa: B018  an error if there is none
        return self._asked("segment everything", study, work.segment_all(study, self.models, challenge))

    async def _labels(self, request: Request) -> Response:
        study = self._study(request)
        study.scan  # noqa: B018
        challenge = request.query_params.get("challenge", "")
        if challenge not in self.models.names:
            raise InputError(f"challenge: found {challenge[:80]!r}, expected one of {', '.join(self.models.names)}")
        async with self._sent(request, study, intake.MOST_BYTES) as (path, forget):
            return self._asked("read the label map", study, work.read_label_map(path, study, challenge), forget)

    async def _click_file(self, request: Request) -> Response:
        study = self._study(request)
        study.scan  # noqa: B018
        async with self._sent(request, study, intake.MOST_JSON) as (path, forget):
            return self._clicked(
                "read the click file", study, lambda s, task: s.replace(path, watch=task.watch), forget
            )

    async def _click(self, request: Request) -> Response:
        study, asked = self._study(request), await intake.read_json(request)
        side, voxel = asked.get("side"), _voxel(asked, study)
        if side not in work.SIDES:
            raise InputError(f"side: found {str(side)[:80]!r}, expected left or right")
        return self._clicked("click", study, lambda s, task: s.click(side, voxel=voxel, watch=task.watch))

    async def _undo(self, request: Request) -> Response:
        return self._clicked("undo", self._study(request), lambda s, task: s.undo(watch=task.watch))

    async def _move(self, request: Request) -> Response:
        study, number = self._study(request), _click_number(request)
        voxel = _voxel(await intake.read_json(request), study)
        return self._clicked("move a click", study, lambda s, task: s.move(number, voxel=voxel, watch=task.watch))

    async def _remove(self, request: Request) -> Response:
        number = _click_number(request)
        return self._clicked("remove a click", self._study(request), lambda s, task: s.remove(number, watch=task.watch))

    def _clicked(
        self, what: str, study: Study, change: Callable[[Any, Task], Any], at_end: Callable[[], None] = lambda: None
    ) -> Response:
        study.scan  # noqa: B018
        return self._asked(what, study, work.click(study, self.studies, self.models, change), at_end)

    # --- saving

    async def _save(self, request: Request) -> Response:
        study, asked = self._study(request), await intake.read_json(request)
        kind, what = asked.get("kind"), asked.get("what")
        if kind not in (WHOLE, CANALS) or what not in list(SAVED):  # a list: what was sent may be no key
            raise InputError(f"save: found {str(what)[:80]!r}, expected one of {', '.join(SAVED)}")
        return self._asked(f"save {what}", study, save(study, kind, what))

    async def _saved(self, request: Request) -> Response:
        folder = self._study(request).folder / "saved"
        path = intake.safe_path(folder, request.path_params["file"])
        if not path.is_file():
            raise KeyError(path.name)
        return FileResponse(path, filename=path.name, content_disposition_type="attachment")

    # --- tasks

    async def _news(self, request: Request) -> Response:
        """How far a task is, as soon as that differs from the version which ``after`` names."""
        task = self._task(request)
        after, place = request.query_params.get("after", ""), request.query_params.get("place", "")
        end = asyncio.get_running_loop().time() + _PATIENCE
        while str(task.version) == after and str(self.line.place(task)) == place:
            if asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.03)
        return Answer(self._told(task))

    async def _cancel(self, request: Request) -> Response:
        task = self._task(request)
        self.line.cancel(task)
        return Answer(self._told(task))

    # --- what the handlers share

    def _study(self, request: Request) -> Study:
        return self.studies.find(request.path_params["scan"])

    def _task(self, request: Request) -> Task:
        task = self.line.find(request.path_params["task"])
        if task is None:
            raise KeyError(request.path_params["task"])
        for study in self.studies:
            if study.name == task.owner:
                self.studies.find(study.name)  # somebody waits for it
        return task

    @asynccontextmanager
    async def _sent(self, request: Request, study: Study, most: int) -> AsyncIterator[tuple[Path, Callable[[], None]]]:
        """What was sent, in a folder of its own, and what removes it; that is done here if no task comes of it."""
        folder = study.place_apart()
        path = intake.safe_path(folder, request.query_params.get("name", ""))

        def forget() -> None:
            shutil.rmtree(folder, ignore_errors=True)

        try:
            await intake.save_body(request, path, study.folder, most=most)
            yield path, forget
        except BaseException:
            forget()
            raise

    def _asked(
        self,
        what: str,
        study: Study,
        to_do: Callable[[Task], dict[str, Any]],
        at_end: Callable[[], None] = lambda: None,
    ) -> Response:
        if len(self.line.of(study.name)) >= _MOST_AT_ONCE:
            raise InputError(f"{what}: found {_MOST_AT_ONCE} tasks of this scan in line, expected fewer")

        def plainly(task: Task) -> dict[str, Any]:
            try:
                return to_do(task)
            except InputError as error:
                raise InputError(study.plainly(str(error))) from None
            finally:
                if study not in self.studies:  # closed meanwhile: nothing of what was written since may stay
                    shutil.rmtree(study.folder, ignore_errors=True)

        return Answer(self._told(self.line.add(what, study.name, plainly, at_end)), 202)

    def _told(self, task: Task) -> dict[str, Any]:
        return {
            "task": task.name,
            "what": task.what,
            "state": task.state,
            "place": self.line.place(task),
            "done": task.done,
            "total": task.total,
            "each": task.each,
            "result": task.result,
            "error": task.error,
            "version": task.version,
        }


def _click_number(request: Request) -> int:
    """Which click a path names. Raises KeyError if it is no number, or one that Python turns no text into."""
    text: str = request.path_params["click"]
    if not re.fullmatch("[0-9]{1,18}", text):
        raise KeyError(text)
    return int(text)


def _voxel(asked: dict[str, Any], study: Study) -> tuple[float, float, float]:
    """The voxel (z, y, x) of the file that a position in the viewer lies in. Raises InputError if there is none."""
    position: Any = asked.get("position")
    numbers = isinstance(position, list) and len(position) == 3 and all(type(c) in (int, float) for c in position)
    if not numbers or not all(abs(c) < 1e6 for c in position):  # no NaN, and no integer that no float can hold
        raise InputError(f"position: found {str(position)[:80]}, expected three numbers in mm (x, y, z)")
    voxel = np.rint(study.shown.voxel(position))
    if not all(0 <= index < length for index, length in zip(voxel, study.scan.array.shape)):
        raise InputError(f"position: found {str(position)[:80]}, expected a place inside the scan")
    z, y, x = (int(index) for index in voxel)
    return z, y, x


def _box(text: str | None, study: Study) -> Box | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) == 6 and all(part.isdecimal() and len(part) < 7 for part in parts):
        a, b, c, d, e, f = map(int, parts)
        if all(low < high <= length for low, high, length in zip((a, b, c), (d, e, f), study.shown.shape)):
            return (a, b, c), (d, e, f)
    raise InputError(f"box: found {text[:80]!r}, expected six indices z,y,x,z,y,x inside {study.shown.shape}")
