"""nnInteractive's remote protocol, so that programs which speak it can click on canals here.

Spoken is what client 2.6.0 sends (`nninteractive-client`, Apache-2.0; facts taken, no code). There an object is drawn
by positive and negative points, boxes, scribbles and lassos, and the answer is one mask. Here there are two canals and
points on them. So a point goes to the canal that lies nearest to it, as far as canals are found by then, and the mask
is that of the canals which have points. What has no meaning here is refused with a line that says so.

The protocol says nothing about how an array lies in the patient. It is taken as it comes, as if its axes (z, y, x) grew
to the top, to the back and to the patient's left.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umamba2.engine.session import SIDES, box_around
from umamba2.errors import InputError, MissingExtra
from umamba2.scans.geometry import Geometry
from umamba2.scans.volumes import as_volume
from umamba2.web import intake, packing
from umamba2.web.answers import Answer
from umamba2.web.routes import Desk, Handler
from umamba2.web.studies import Study
from umamba2.web.tasks import Busy, Task
from umamba2.web.work import needed_for_clicks

if TYPE_CHECKING:
    from umamba2.engine.session import Session

USUAL_SPACING = 0.3  # mm: what is taken where a client says nothing
LEASE, META = "x-lease-token", "x-meta"
VERSION = 2  # of nnInteractive's inference session, which clients ask for
_REFUSED = {
    "/add_bbox_interaction": "boxes",
    "/add_scribble_interaction": "scribbles",
    "/add_lasso_interaction": "lassos",
    "/add_initial_seg_interaction": "segmentations to start from",
}


class NoLease(InputError):
    """A request for a lease that is unknown or over."""


@dataclass(eq=False)
class Client:
    """What one client works on.

    Attributes:
        shape: Of its image, (z, y, x).
        spacing: In mm, (z, y, x).
        dtype: Of its mask.
        mask: What it has been told, bool (z, y, x).
        waiting: Points that came without being asked to be run.
        last: What is said of the last point.
    """

    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] = (USUAL_SPACING,) * 3
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))
    mask: npt.NDArray[np.bool_] | None = None
    waiting: list[tuple[float, ...]] = field(default_factory=list)
    last: dict[str, str] = field(default_factory=dict)


class Adapter:
    """The routes of the protocol.

    Args:
        desk: The models, the open scans and the line of tasks, shared with the page. Every lease is a study there.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._clients: dict[str, Client] = {}

    def routes(self) -> list[Route]:
        """All of them."""
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/healthz", self._health),
            ("GET", "/capabilities", self._capabilities),
            ("POST", "/claim", self._claim),
            ("POST", "/release", self._release),
            ("POST", "/heartbeat", self._beat),
            ("GET", "/lease_status", self._beat),
            ("POST", "/set_image", self._set_image),
            ("POST", "/set_target_buffer", self._set_buffer),
            ("POST", "/set_do_autozoom", self._nothing),
            ("POST", "/reset_interactions", self._reset),
            ("POST", "/add_point_interaction", self._point),
            ("POST", "/predict", self._predict),
            ("POST", "/undo", self._undo),
            *(("POST", path, self._refuse) for path in _REFUSED),
        ]
        return [Route(path, _speaking(handler), methods=[method]) for method, path, handler in table]

    # --- leases

    async def _health(self, request: Request) -> Response:
        return Answer({"ok": True})

    async def _capabilities(self, request: Request) -> Response:
        kinds = ("points", "bbox2d", "bbox3d", "scribble", "lasso")
        return Answer(
            {
                "supported_interactions": {kind: kind == "points" for kind in kinds},
                "channel_mapping": {"points": [0, 1]},
                "num_interaction_channels": 2,
                "supports_initial_label": False,
                "supports_zero_shot_label_refinement": False,
                "preferred_scribble_thickness": [2, 2, 2],  # none can be drawn, but the napari plug-in looks it up
                "interaction_decay": None,
                "do_autozoom": False,
                "inference_session_version": VERSION,
                "license": "see the model",
                "supports_undo": True,
            }
        )

    async def _claim(self, request: Request) -> Response:
        needed_for_clicks(self.desk.models)
        open_ones = {study.name for study in self.desk.studies}
        self._clients = {name: client for name, client in self._clients.items() if name in open_ones}
        try:
            study = self.desk.studies.new()
        except InputError as error:
            raise Busy(str(error)) from None
        self._clients[study.name] = Client()
        # No liveness: a client that only thinks need not say so, and one that is gone is idle in the end.
        times = {"idle_timeout_seconds": self.desk.studies.idle, "liveness_timeout_seconds": 0}
        return Answer({"lease_token": study.name, **times})

    async def _release(self, request: Request) -> Response:
        try:
            study, _ = self._lease(request)
        except NoLease:
            return Answer({"released": False})
        for task in self.desk.line.of(study.name):
            self.desk.line.cancel(task)
        self.desk.studies.close(study)
        self._clients.pop(study.name, None)
        return Answer({"released": True})

    async def _beat(self, request: Request) -> Response:
        self._lease(request)
        return Answer({"remaining_seconds": self.desk.studies.idle, "idle_timeout_seconds": self.desk.studies.idle})

    async def _nothing(self, request: Request) -> Response:
        self._lease(request)
        return Answer({})

    # --- the image

    async def _set_image(self, request: Request) -> Response:
        study, client = self._lease(request)
        spacing, warnings = _spacing(_meta(request))
        path = study.place_apart()  # a client may send two at once
        await intake.save_body(request, path, study.folder)

        def work(task: Task) -> dict[str, Any]:
            content = path.read_bytes()
            shape, dtype = packing.announced(content)
            if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
                raise InputError(f"image: found shape {shape}, expected (1, z, y, x)")
            study.session, study.volume = None, None
            self.desk.studies.check_memory(math.prod(shape) * dtype.itemsize)
            array = packing.unpack(content)[0]
            del content
            volume = as_volume(array, Geometry.of_array(array.shape, spacing), "image")
            session: Session[Any] = self.desk.models.find(needed_for_clicks(self.desk.models)).session(volume)
            # The client waits long for this request and not for the next: what takes longest is done here.
            session.look(watch=task.watch)
            study.volume, study.session = volume, session
            client.shape, client.spacing = session.labels.shape, spacing
            client.mask, client.waiting, client.last = np.zeros(session.labels.shape, bool), [], {}
            return {"original_image_shape": list(shape), "warnings": [*warnings, *session.warnings]}

        try:
            return Answer(await self._run(request, "open the image", study, work))
        finally:
            path.unlink(missing_ok=True)

    async def _set_buffer(self, request: Request) -> Response:
        _, client = self._lease(request)
        asked = await intake.read_json(request)
        shape, name = asked.get("shape"), asked.get("dtype")
        if client.shape is None or shape != list(client.shape):
            raise InputError(f"target buffer: found shape {str(shape)[:60]}, expected the image's, {client.shape}")
        try:
            dtype = np.dtype(str(name))
        except (TypeError, ValueError, SyntaxError):  # NumPy reads it as a part of Python
            dtype = np.dtype(float)
        if dtype.kind not in "bui":
            raise InputError(f"target buffer: found type {str(name)[:40]!r}, expected bool or whole numbers")
        client.dtype, client.mask = dtype, np.zeros(client.shape, bool)
        return Answer({})

    # --- points

    async def _point(self, request: Request) -> Response:
        study, client = self._lease(request)
        asked = await intake.read_json(request)
        if asked.get("include_interaction") is not True:
            raise InputError("point: found a negative one, expected points on canals alone; undo takes one back")
        session, point = self._session(study), asked.get("coordinates")
        numbers = isinstance(point, list) and len(point) == 3 and all(type(c) in (int, float) for c in point)
        inside = numbers and all(-0.5 <= c < n - 0.5 for c, n in zip(point, session.labels.shape))  # type: ignore[arg-type]
        if not inside:
            found, shape = str(point)[:60], session.labels.shape
            raise InputError(f"point: found {found}, expected a voxel (z, y, x) inside an image of shape {shape}")
        client.waiting.append(tuple(point))  # type: ignore[arg-type]
        if asked.get("run_prediction", True) is False:
            return _answer(client, None, None)
        return await self._ran(request, study, client, self._place_waiting)

    async def _predict(self, request: Request) -> Response:
        study, client = self._lease(request)
        if not client.waiting:
            return _answer(client, None, None)
        return await self._ran(request, study, client, self._place_waiting)

    async def _undo(self, request: Request) -> Response:
        study, client = self._lease(request)
        session = self._session(study)
        if client.waiting:
            client.waiting.pop()
            return _answer(client, None, None)
        if not session.clicks:
            return _answer(client, None, None)
        client.last = {}
        return await self._ran(request, study, client, lambda s, c, task: s.remove(s.clicks[-1].id, watch=task.watch))

    async def _reset(self, request: Request) -> Response:
        study, client = self._lease(request)
        session = self._session(study)
        client.waiting, client.last = [], {}
        if session.clicks:
            await self._ran(request, study, client, lambda s, c, task: s.replace(watch=task.watch))
        client.mask = np.zeros(session.labels.shape, bool)
        return Answer({})

    async def _refuse(self, request: Request) -> Response:
        what = _REFUSED[request.url.path]
        raise InputError(f"{what}: found one, expected points on the canals: this model takes no {what}")

    def _place_waiting(self, session: Session[Any], client: Client, task: Task) -> None:
        try:
            for point in client.waiting:
                side, why = nearest_side(session.labels, point, client.spacing)
                session.click(side, voxel=point, watch=task.watch)
                client.last = {"side": side, "why": why}
        finally:
            client.waiting = []

    async def _ran(
        self, request: Request, study: Study, client: Client, change: Callable[[Session[Any], Client, Task], object]
    ) -> Response:
        """Change the clicks, and tell the client what of its mask differs then."""

        def work(task: Task) -> dict[str, Any]:
            session = self._session(study)
            change(session, client, task)
            clicked = [SIDES.index(side) + 1 for side in SIDES if any(click.side == side for click in session.clicks)]
            mask = np.isin(session.labels, clicked) if clicked else np.zeros(session.labels.shape, bool)
            before = np.zeros(mask.shape, bool) if client.mask is None else client.mask
            box = box_around(mask != before)
            part = None
            if box is not None:
                part = mask[tuple(slice(a, b) for a, b in zip(*box))].astype(client.dtype)
            client.mask = mask
            return {"box": box, "part": part}

        done = await self._run(request, "click", study, work)
        return _answer(client, done["box"], done["part"], ran=True)

    # --- what the handlers share

    def _lease(self, request: Request) -> tuple[Study, Client]:
        name = request.headers.get(LEASE, "")
        try:
            return self.desk.studies.find(name), self._clients[name]
        except KeyError:
            raise NoLease("lease: found none of that name (any more), expected one from /claim") from None

    def _session(self, study: Study) -> Session[Any]:
        if study.session is None:
            raise InputError("image: found none, expected set_image first")
        return study.session

    async def _run(
        self, request: Request, what: str, study: Study, work: Callable[[Task], dict[str, Any]]
    ) -> dict[str, Any]:
        """Wait in line, compute, and give what came out; whoever hangs up takes the task along."""
        task = self.desk.line.add(what, study.name, work)
        try:
            while not task.over:
                await asyncio.sleep(0.01)
                if await request.is_disconnected():
                    self.desk.line.cancel(task)
                    break
        except asyncio.CancelledError:
            self.desk.line.cancel(task)
            raise
        if task.result is None:
            raise InputError(task.error or f"{what}: found it cancelled, expected it to finish")
        result, task.result = task.result, None
        return result


def nearest_side(
    labels: npt.NDArray[np.uint8], point: tuple[float, ...], spacing: tuple[float, ...]
) -> tuple[str, str]:
    """The side of the canal nearest to a point, and how that is known.

    Args:
        labels: (z, y, x), 1 left and 2 right canal.
        point: (z, y, x) in voxels.
        spacing: In mm, (z, y, x).
    """
    distances = [
        float(
            np.sqrt(
                (((np.argwhere(labels == label) - np.array(point, float)) * spacing) ** 2).sum(1).min(initial=np.inf)
            )
        )
        for label in (1, 2)
    ]
    if min(distances) == np.inf:
        side = SIDES[int(point[2] < (labels.shape[2] - 1) / 2)]
        return (
            side,
            "no canal is found yet, and the point is in that half of the image if x grows to the patient's left",
        )
    side = SIDES[int(np.argmin(distances))]
    told = [f"{d:.1f} mm away" if d < np.inf else "not found" for d in distances]
    return side, f"the left canal is {told[0]}, the right one {told[1]}"


def _answer(client: Client, box: Any, part: npt.NDArray[Any] | None, ran: bool = False) -> Response:
    meta: dict[str, Any] = {"ran_prediction": ran, "bbox": None, **client.last}
    if part is None:
        return Response(b"", headers={META: json.dumps(meta)}, media_type="application/octet-stream")
    meta |= {"bbox": [list(side) for side in zip(*box)], "dtype": str(part.dtype), "shape": list(part.shape)}
    return Response(packing.pack(part), headers={META: json.dumps(meta)}, media_type="application/octet-stream")


def _meta(request: Request) -> dict[str, Any]:
    try:
        meta = json.loads(request.headers.get(META, "{}"))
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise InputError(f"{META}: found no JSON object, expected one")
    return meta


def _spacing(meta: dict[str, Any]) -> tuple[tuple[float, float, float], list[str]]:
    """The spacing (z, y, x) in mm that a client states, and what is odd about it."""
    properties = meta.get("image_properties")
    stated = properties.get("spacing") if isinstance(properties, dict) else None
    if stated is None:
        return (USUAL_SPACING,) * 3, [f"spacing: found none, taken as {USUAL_SPACING} mm"]
    numbers = isinstance(stated, list) and len(stated) == 3 and all(type(s) in (int, float) for s in stated)
    if not numbers or not all(0 < s < 1e6 for s in stated):
        raise InputError(f"spacing: found {str(stated)[:60]}, expected three positive numbers of mm (z, y, x)")
    z, y, x = (float(s) for s in stated)
    return (z, y, x), []


def _speaking(handler: Handler) -> Handler:
    """A handler whose errors are told as clients of the protocol read them."""

    async def speaking(request: Request) -> Response:
        try:
            return await handler(request)
        except NoLease as error:
            return Answer({"detail": str(error)}, 410)
        except Busy as error:
            return Answer({"detail": str(error)}, 503)
        except MissingExtra as error:
            return Answer({"detail": str(error)}, 501)
        except (intake.TooMuch, intake.TooSlow):
            raise  # the connection is closed as well
        except InputError as error:
            return Answer({"detail": str(error)}, 400)

    return speaking
