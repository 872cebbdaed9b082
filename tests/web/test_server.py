"""The interface behind the page, over a socket: opening, segmenting, clicking, saving, and what can go wrong."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import time
import zipfile
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import SimpleITK as sitk
import uvicorn
from stand_in_page import INTERACTIVE, MULTICLASS, RADIUS, TOKEN, make_desk, serving, write_scan

from umamba2.exports import meshes
from umamba2.reports import overview
from umamba2.web import answers, intake, listening, saving, studies
from umamba2.web.layers import FIRST_SHOWN

BLOCKS = {"_3": np.s_[2:5, 3:6, 4:9], "_36": np.s_[8:12, 10:14, 10:14]}


class Page:
    """What the page does, without a browser."""

    def __init__(self, url: str):
        self.http = httpx.Client(base_url=url, timeout=60, headers={"authorization": f"Bearer {TOKEN}"})

    def done(self, answer: httpx.Response) -> dict:
        task = answer.json()
        assert answer.status_code == 202, task
        while task["state"] in ("queued", "running"):
            asked = {"after": task["version"], "place": task["place"]}
            task = self.http.get(f"/api/tasks/{task['task']}", params=asked).json()
        return task

    def send(self, *files: tuple[str, bytes]) -> str:
        scan = self.http.post("/api/scans").json()["scan"]
        for name, content in files:
            answer = self.http.put(f"/api/scans/{scan}/files", params={"name": name}, content=content)
            assert answer.status_code == 201, answer.text
        return scan

    def open(self, *files: tuple[str, bytes]) -> dict:
        return self.done(self.http.post(f"/api/scans/{self.send(*files)}/open", json={}))

    def post(self, path: str, **content) -> dict:
        return self.done(self.http.post(path, json=content))

    def drawn(self, facts: dict, box=None) -> np.ndarray:
        asked = {"box": ",".join(map(str, np.ravel(box)))} if box else {}
        content = self.http.get(f"/api/scans/{facts['scan']}/drawn", params=asked).content
        shape = np.subtract(box[1], box[0]) if box else facts["shape"][::-1]
        return np.frombuffer(content, np.uint8).reshape(shape)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    with serving(folder) as (desk, url):
        yield desk, Page(url)
    assert list(folder.iterdir()) == []  # all that was sent, and all that was made of it


@pytest.fixture
def scan(tmp_path):
    write_scan(tmp_path / "scan.nii.gz", "RSA", **BLOCKS)
    return "scan.nii.gz", (tmp_path / "scan.nii.gz").read_bytes()


def test_open_segment_click_and_save(server, scan, tmp_path):
    _, page = server
    facts = page.open(scan)["result"]
    path = f"/api/scans/{facts['scan']}"
    assert facts["size"] == [40, 20, 30]
    assert facts["code"] == "RSA"
    shown = page.http.get(f"{path}/image").content
    (tmp_path / "shown.nii").write_bytes(shown)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "shown.nii")))
    whole = page.post(f"{path}/segment", challenge=MULTICLASS)["result"]["layer"]
    rows = {row["name"]: row for row in whole["rows"]}
    assert rows["lower left first molar"]["fdi"] == 36
    assert rows["lower left first molar"]["mm3"] == pytest.approx(64 * 0.7 * 0.5 * 0.4)
    assert whole["warnings"] == ["something odd"]
    drawn = page.drawn(facts)
    np.testing.assert_array_equal(drawn == 3, array == 2003)
    z, y, x = np.round(np.array(rows["lower left first molar"]["centre"])[::-1] / np.array(facts["spacing"])[[1, 2, 0]])
    assert drawn[int(z), int(y), int(x)] == rows["lower left first molar"]["shown"]

    answer = page.post(f"{path}/clicks", side="left", position=[4.0, 5.0, 7.0])["result"]
    (click,) = answer["clicks"]
    np.testing.assert_allclose(click["position"], [4.0, 5.0, 7.0], atol=0.5)
    box = answer["box"]
    changed = page.drawn(facts, box)
    assert (changed == FIRST_SHOWN["canals"] + 1).any()
    after = page.drawn(facts)
    np.testing.assert_array_equal(after[tuple(slice(a, b) for a, b in zip(*box))], changed)
    labels = (after == FIRST_SHOWN["canals"] + 1).sum()

    saved = {}
    for kind, what in [
        (k, w) for k in ("whole", "canals") for w in ("labels", "segments", "meshes", "report", "clicks")
    ]:
        name = page.post(f"{path}/saved", kind=kind, what=what)["result"]["saved"]
        answer = page.http.get(f"{path}/saved/{name}")
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
        saved[name] = answer.content
    assert set(saved) == {
        "iac_clicks_scan.json",
        *(
            f"scan.{kind}{end}"
            for kind in ("labels", "canals")
            for end in (".nii.gz", ".seg.nrrd", ".stl.zip", ".report.html")
        ),
    }
    (tmp_path / "out.nii.gz").write_bytes(saved["scan.labels.nii.gz"])
    out, given = (sitk.ReadImage(str(tmp_path / name)) for name in ("out.nii.gz", "scan.nii.gz"))
    values = sitk.GetArrayFromImage(given)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(out), np.where(values >= 2000, values - 2000, 0))
    np.testing.assert_allclose(out.GetDirection(), given.GetDirection())
    assert zipfile.ZipFile(io.BytesIO(saved["scan.labels.stl.zip"])).namelist()[0] == "36_lower_left_first_molar.stl"
    assert b"36" in saved["scan.labels.report.html"]
    content = json.loads(saved["iac_clicks_scan.json"])
    assert content == {
        "version": {"major": 1, "minor": 0},
        "type": "Multiple points",
        "points": [{"point": click["voxel"], "name": "Left_IAC"}],
    }
    # What was saved of the canals is the full answer, and shown from now on.
    now = page.http.get(path).json()
    assert now["layers"]["canals"]["final"] is True
    assert (page.drawn(facts) == FIRST_SHOWN["canals"] + 1).sum() > labels


def test_clicks_are_undone_moved_removed_and_loaded(server, scan):
    _, page = server
    facts = page.open(scan)["result"]
    path = f"/api/scans/{facts['scan']}/clicks"
    page.post(path, side="left", position=[3, 3, 3])
    second = page.post(path, side="right", position=[9, 9, 7])["result"]["clicks"]
    assert [click["side"] for click in second] == ["left", "right"]
    moved = page.post(f"{path}/{second[1]['id']}", position=[9, 9, 9])["result"]["clicks"]
    assert moved[1]["position"][2] > second[1]["position"][2]
    assert page.post(f"{path}/undo")["result"]["clicks"] == second
    assert page.done(page.http.delete(f"{path}/{second[0]['id']}"))["result"]["clicks"] == second[1:]
    points = [{"point": [10, 11, 12], "name": "Left_IAC"}, {"point": [99, 0, 0], "name": "Left_IAC"}]
    loaded = page.done(page.http.put(path, params={"name": "c.json"}, content=json.dumps({"points": points})))["result"]
    assert [(click["side"], click["voxel"]) for click in loaded["clicks"]] == [("left", [10, 11, 12])]
    assert loaded["layer"]["warnings"][0].startswith("c.json: click 2 left out, found the point [99, 0, 0]")
    for content in (b"nonsense", b"[1]"):
        assert page.done(page.http.put(path, params={"name": "c.json"}, content=content))["error"].startswith(
            "c.json: "
        )
    (study,) = server[0].studies
    assert list(study.sent.iterdir()) == []  # or the disk fills up with what was loaded
    rows = page.http.get(f"/api/scans/{facts['scan']}").json()["layers"]["canals"]["rows"]
    assert rows[0]["mm3"] > rows[1]["mm3"] == 0


def test_a_label_map_is_loaded_if_it_belongs_to_the_scan(server, scan, tmp_path):
    _, page = server
    facts = page.open(scan)["result"]
    path = f"/api/scans/{facts['scan']}/labels"
    given = sitk.ReadImage(str(tmp_path / "scan.nii.gz"))

    def load(change):
        labels = sitk.Cast(given >= 2000, sitk.sitkUInt8) * 21
        sitk.WriteImage(change(labels), str(tmp_path / "labels.nrrd"))
        content = (tmp_path / "labels.nrrd").read_bytes()
        return page.done(page.http.put(path, params={"name": "labels.nrrd", "challenge": MULTICLASS}, content=content))

    (row,) = load(lambda labels: labels)["result"]["layer"]["rows"]
    assert row["title"] == "21 upper left central incisor"
    assert load(lambda labels: labels[1:])["error"].startswith(
        "labels.nrrd: found size (39, 20, 30), expected (40, 20, 30)"
    )
    assert load(lambda labels: labels * 3)["error"].startswith("labels.nrrd: found unknown ids 63")
    (study,) = server[0].studies
    assert list(study.sent.iterdir()) == []


def test_uploads_of_one_name_at_once_keep_apart(server, scan):
    desk, page = server
    path = f"/api/scans/{page.open(scan)['result']['scan']}/clicks"
    (study,) = desk.studies

    def content(z: int) -> str:
        return json.dumps({"points": [{"point": [z, 11, 12], "name": "Left_IAC"}]})

    head = f"PUT {path}?name=c.json HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    with connection(page) as slow:
        slow.sendall(f"{head}Content-Length: {500 + len(content(12))}\r\n\r\n".encode() + b" " * 500)
        until(lambda: any(file.is_file() for file in study.sent.rglob("*")))
        task = page.done(page.http.put(path, params={"name": "c.json"}, content=content(10)))
        assert [click["voxel"] for click in task["result"]["clicks"]] == [[10, 11, 12]]
        slow.sendall(content(12).encode())
        until(lambda: not list(study.sent.iterdir()))
    clicks = page.http.get(f"/api/scans/{study.name}").json()["clicks"]
    assert [click["voxel"] for click in clicks] == [[12, 11, 12]]


def test_what_was_sent_for_a_task_goes_with_it(server, scan):
    """Names that a client has used as a folder or a file, and tasks that are cancelled before they begin."""
    desk, page = server
    facts = page.open(scan)["result"]
    path = f"/api/scans/{facts['scan']}/clicks"
    (study,) = desk.studies
    for name in ("a/b.json", "a", "a/b.json"):
        answer = page.http.put(path, params={"name": name}, content=b"nonsense")
        assert page.done(answer)["error"].startswith(f"{name}: "), name
    hold = threading.Event()
    first = desk.line.add("first", study.name, lambda task: {"held": hold.wait(20)})
    waits = page.http.put(path, params={"name": "c.json"}, content=b"nonsense").json()["task"]
    assert list(study.sent.iterdir())
    assert page.http.delete(f"/api/tasks/{waits}").json()["state"] == "cancelled"
    assert list(study.sent.iterdir()) == []
    hold.set()
    until(lambda: first.over)


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ([("a.nii.gz", b"")], "a.nii.gz: found an empty file"),
        ([("a.mha", b"nonsense" * 100)], "a.mha: "),
        ([("a.png", b"nonsense")], "a.png: "),
        ([("a.mha", b"x"), ("b.mha", b"x")], "scan: found 2 images (a.mha, b.mha), expected one"),
        ([], "scan: found no file"),
    ],
)
def test_broken_files_cost_one_line(server, files, line):
    _, page = server
    task = page.open(*files)
    assert task["state"] == "failed"
    assert task["error"].startswith(line)
    assert "private" not in task["error"]  # where the server keeps its files is nobody's business


@pytest.mark.parametrize(
    "name", ["", "..", "../a.mha", "/etc/passwd", "a/../../b", "..\\b", ".hidden", "a\0b", "x" * 300, "a/" * 20 + "b"]
)
def test_file_names_lead_nowhere_else(server, name, tmp_path):
    _, page = server
    scan = page.send()
    answer = page.http.put(f"/api/scans/{scan}/files", params={"name": name}, content=b"x")
    assert answer.status_code < 500
    inside = answer.status_code == 201 and name == "/etc/passwd"
    assert inside or answer.json()["error"].startswith("file name: found")
    assert not (tmp_path / "b").exists()
    assert page.http.get(f"/api/scans/{scan}/saved/..%2F..%2Fx").status_code in (400, 404)


def test_uploads_are_bounded(server, monkeypatch):
    _, page = server
    monkeypatch.setattr(intake, "MOST_BYTES", 1000)
    monkeypatch.setattr(intake, "MOST_FILES", 2)
    scan = page.send(("a", b"x" * 600))
    path = f"/api/scans/{scan}/files"
    assert page.http.put(path, params={"name": "b"}, content=b"x" * 500).status_code == 413
    assert page.http.put(path, params={"name": "b"}, content=iter([b"x" * 300, b"x" * 300])).status_code == 413
    assert page.http.post(f"/api/scans/{scan}/segment", content=b"x" * (2 << 20)).status_code == 413
    scan = page.send(("a", b"x"), ("b", b"x"))
    answer = page.http.put(f"/api/scans/{scan}/files", params={"name": "c"}, content=b"x")
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "scan: found more than 2 files, expected at most those",
    )
    with pytest.raises(AssertionError, match="found it twice"):
        page.send(("a", b"x"), ("a", b"x"))
    scan = page.send(("a", b"x"))
    answer = page.http.put(f"/api/scans/{scan}/files", params={"name": "a/b/c/d"}, content=b"x")
    assert (answer.status_code, answer.json()["error"][:27]) == (400, "d: could not be taken in (F")


def test_what_comes_for_a_closed_scan_makes_no_folder_anew(server, monkeypatch):
    """A request that has found its scan, which is closed before its first byte is written."""
    desk, page = server
    scan = page.send()
    (study,) = desk.studies
    path_of = intake.safe_path

    def close_first(*arguments):
        desk.studies.close(study)
        return path_of(*arguments)

    monkeypatch.setattr(intake, "safe_path", close_first)
    for name in ("a", "b/c/d"):
        answer = page.http.put(f"/api/scans/{scan}/files", params={"name": name}, content=b"x")
        assert answer.status_code in (400, 404)
        assert not study.folder.exists()


def test_what_is_on_its_way_counts(server, monkeypatch):
    desk, page = server
    monkeypatch.setattr(intake, "MOST_BYTES", 1000)
    scan = page.send()
    (study,) = desk.studies
    head = f"PUT /api/scans/{scan}/files?name=a HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    with connection(page) as first:
        first.sendall(f"{head}Content-Length: 600\r\n\r\n".encode() + b"x" * 599)
        until(lambda: study.received[0] == 599)
        assert page.http.put(f"/api/scans/{scan}/files", params={"name": "b"}, content=b"x" * 500).status_code == 413
        assert study.received[0] == 599
    until(lambda: study.received[0] == 0)  # it never came whole
    assert page.http.put(f"/api/scans/{scan}/files", params={"name": "a"}, content=b"x" * 900).status_code == 201


def test_a_scan_that_is_closed_midway_leaves_nothing(server, scan, monkeypatch):
    desk, page = server
    facts = page.open(scan)["result"]
    path = f"/api/scans/{facts['scan']}"
    page.post(f"{path}/segment", challenge=MULTICLASS)
    (study,) = desk.studies
    reached, go_on, real = threading.Event(), threading.Event(), saving.write_labels

    def slowly(*arguments):
        reached.set()
        assert go_on.wait(30)
        real(*arguments)

    monkeypatch.setattr(saving, "write_labels", slowly)
    task = page.http.post(f"{path}/saved", json={"kind": "whole", "what": "segments"})
    assert reached.wait(30)
    assert page.http.delete(path).status_code == 200
    go_on.set()
    assert page.done(task)["state"] in ("cancelled", "failed")
    assert not study.folder.exists()


def test_without_its_temporary_folder_the_server_says_so(tmp_path, scan):
    folder = tmp_path / "private"
    folder.mkdir()
    with serving(folder) as (_, url):
        page = Page(url)
        facts = page.open(scan)["result"]
        shutil.rmtree(folder)  # as programs do that tidy up
        answer = page.http.get(f"/api/scans/{facts['scan']}/image")
        assert (answer.status_code, answer.json()["error"][:39]) == (400, "scan: found its temporary file gone, ex")
        answer = page.http.post("/api/scans")
        assert (answer.status_code, answer.json()["error"][:44]) == (
            400,
            "scans: found the server's temporary folder u",
        )
        assert not folder.exists()  # nor is one made where others could look


def until(what):
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def connection(page: Page):
    with socket.create_connection((page.http.base_url.host, page.http.base_url.port), 30) as opened:
        yield opened


def whole(client: socket.socket) -> bytes:
    """All that is sent until the server closes; head and body may come in one piece or in several."""
    return b"".join(iter(lambda: client.recv(1000), b""))


@pytest.mark.parametrize("pause", [0, 0.3])
def test_a_refused_client_that_sends_on_gets_its_answer(server, monkeypatch, pause):
    _, page = server
    monkeypatch.setattr(intake, "MOST_BYTES", 1000)
    head = f"PUT /api/scans/{page.send()}/files?name=a HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    with connection(page) as client:
        client.sendall(f"{head}Content-Length: 3000000\r\n\r\n".encode() + b"x")
        time.sleep(pause)  # the server refuses at the head
        for _ in range(3):
            client.sendall(b"x" * 999_999)
            time.sleep(pause)
        client.sendall(b"xx")
        assert whole(client).startswith(b"HTTP/1.1 413")  # and is not kept waiting


def test_a_refused_client_that_never_ends_is_not_waited_for(server, monkeypatch):
    _, page = server
    monkeypatch.setattr(intake, "MOST_BYTES", 1000)
    monkeypatch.setattr(answers, "LINGER", 0.3)
    head = f"PUT /api/scans/{page.send()}/files?name=a HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    with connection(page) as client:
        client.sendall(f"{head}Content-Length: 3000000\r\n\r\n".encode() + b"x")
        assert whole(client).startswith(b"HTTP/1.1 413")


def test_slow_clients_are_not_waited_for(server, monkeypatch):
    _, page = server
    monkeypatch.setattr(listening, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(intake, "SILENCE", 0.3)
    with connection(page) as silent, connection(page) as halfway:
        halfway.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert silent.recv(100) == b""
        assert halfway.recv(100) == b""
    scan = page.send()
    head = f"PUT /api/scans/{scan}/files?name=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
    with connection(page) as pausing:
        pausing.sendall(f"{head}Authorization: Bearer {TOKEN}\r\n\r\nabc".encode())
        assert pausing.recv(1000).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(intake, "_GRACE", 0.2)
    with connection(page) as trickling:
        trickling.sendall(f"{head.replace('name=a', 'name=b')}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
        trickling.settimeout(0.05)
        answer = b""
        for _ in range(100):
            try:
                trickling.sendall(b"x")
                answer = trickling.recv(1000)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")
    assert page.http.get("/api").status_code == 200


@contextmanager
def answering(*pieces: bytes):
    """A server that answers everything with these pieces, and its address."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    listens = listening.bind("127.0.0.1", 0)
    listens.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    settings = listening.config(app)
    settings.lifespan, settings.timeout_keep_alive = "off", 1
    served = uvicorn.Server(settings)
    thread = threading.Thread(target=served.run, kwargs={"sockets": [listens]}, daemon=True)
    thread.start()
    try:
        yield served, listens.getsockname()
    finally:
        served.should_exit = True
        thread.join(30)
        listens.close()


@pytest.mark.parametrize("pieces", [1, 400])
@pytest.mark.parametrize("ends", ["keep-alive", "close"])
def test_who_does_not_take_an_answer_is_not_waited_for(monkeypatch, pieces, ends):
    """Whether it comes at once or in pieces, and also where the client has taken most of it."""
    monkeypatch.setattr(listening, "ANSWER_SECONDS", 0.5)
    size = 4_000_000
    with answering(*[bytes(size // pieces)] * pieces) as (served, address):
        clients = []
        for left in (size, size // 2, *range(160_000, 400_000, 40_000)):
            client = socket.socket()
            clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            client.settimeout(30)
            client.connect(address)
            taken = size - left
            client.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: {ends}\r\n\r\n".encode())
            while taken > 0:
                taken -= len(client.recv(min(taken, 1 << 16)))
        end = time.monotonic() + 60
        while served.server_state.connections and time.monotonic() < end:
            time.sleep(0.05)
        assert not served.server_state.connections
        for client in clients:
            client.close()
        assert not served.server_state.tasks


def test_who_takes_an_answer_slowly_gets_it(monkeypatch):
    monkeypatch.setattr(listening, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(listening, "SLOWEST", 1)  # bytes in a second
    with answering(*[bytes(100_000)] * 100) as (_, address), socket.create_connection(address, 30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        time.sleep(1)
        got = b""
        while piece := client.recv(1 << 20):
            got += piece
        assert got.count(b"\0") == 100 * 100_000


def test_connections_are_bounded(server, monkeypatch):
    _, page = server
    monkeypatch.setattr(listening, "MOST_CONNECTIONS", 3)
    assert page.http.get("/api").status_code == 200
    others = [socket.create_connection((page.http.base_url.host, page.http.base_url.port), 30) for _ in range(4)]
    try:
        assert others[-1].recv(100) == b""
        assert page.http.get("/api").status_code == 200  # who was there first stays
    finally:
        for other in others:
            other.close()


def test_a_failed_computation_leaves_everybody_else_alone(server, scan, tmp_path):
    _, page = server
    for number, value in enumerate((9999, 9998)):
        write_scan(tmp_path / "bad.nii.gz", _3=np.s_[0:1, 0:1, 0:1])
        image = sitk.ReadImage(str(tmp_path / "bad.nii.gz"))
        image[1, 1, 1] = value
        sitk.WriteImage(image, str(tmp_path / "bad.nii.gz"))
        bad = page.open(("bad.nii.gz", (tmp_path / "bad.nii.gz").read_bytes()))["result"]
        task = page.post(f"/api/scans/{bad['scan']}/segment", challenge=MULTICLASS)
        assert task["state"] == "failed"
        assert ("RuntimeError (the accelerator fell over)", "too little memory")[number] in task["error"]
    facts = page.open(scan)["result"]
    assert page.post(f"/api/scans/{facts['scan']}/segment", challenge=MULTICLASS)["state"] == "done"


@pytest.mark.parametrize("what", ["meshes", "report", "labels"])
def test_saving_can_be_cancelled_midway_and_leaves_nothing(server, scan, monkeypatch, what):
    desk, page = server
    facts = page.open(scan)["result"]
    path = f"/api/scans/{facts['scan']}"
    page.post(f"{path}/segment", challenge=MULTICLASS)
    (study,) = desk.studies
    reached, go_on = threading.Event(), threading.Event()
    module, name, calls = {
        "meshes": (meshes, "make_surface", 2),
        "report": (overview, "_render", 2),
        "labels": (saving, "write_labels", 1),
    }[what]
    real, left = getattr(module, name), [calls]

    def slowly(*arguments):
        left[0] -= 1
        if not left[0]:
            reached.set()
            assert go_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(module, name, slowly)
    task = page.http.post(f"{path}/saved", json={"kind": "whole", "what": what})
    assert reached.wait(30)
    news = page.http.get(f"/api/tasks/{task.json()['task']}").json()
    told = {"meshes": ("mesh", 1, 2), "report": ("", 1, 37), "labels": ("", 0, 0)}[what]
    assert (news["each"], news["done"], news["total"]) == told
    page.http.delete(f"/api/tasks/{news['task']}")
    go_on.set()
    assert page.done(task)["state"] == "cancelled"
    assert left[0] == 0  # the step at work was the last
    assert sorted(path.name for path in study.folder.rglob("*") if path.is_file()) == ["scan.nii"]
    assert page.post(f"{path}/saved", kind="whole", what=what)["state"] == "done"


def test_two_at_once_wait_for_each_other_and_keep_apart(server, scan):
    desk, page = server
    one, other = (page.open(scan)["result"]["scan"] for _ in range(2))
    slow = desk.models.find(MULTICLASS).slow
    slow.set()
    first = page.http.post(f"/api/scans/{one}/segment", json={"challenge": MULTICLASS}).json()
    second = page.http.post(f"/api/scans/{other}/clicks", json={"side": "right", "position": [4, 4, 4]}).json()
    news = page.http.get(f"/api/tasks/{second['task']}").json()
    assert (news["state"], news["place"]) == ("queued", 1)
    stopped = page.http.delete(f"/api/tasks/{first['task']}")
    assert stopped.status_code == 200
    slow.clear()
    deadline = time.monotonic() + 30
    while page.http.get(f"/api/tasks/{second['task']}").json()["state"] != "done":
        assert time.monotonic() < deadline
    assert page.http.get(f"/api/tasks/{first['task']}").json()["state"] == "cancelled"
    assert page.http.get(f"/api/scans/{one}").json()["layers"] == {}
    assert list(page.http.get(f"/api/scans/{other}").json()["layers"]) == ["canals"]
    assert page.http.delete(f"/api/scans/{one}").status_code == 200
    assert page.http.get(f"/api/scans/{one}").status_code == 404
    assert page.http.get(f"/api/scans/{other}").status_code == 200


@pytest.mark.parametrize(
    ("path", "content", "line"),
    [
        ("clicks", {"side": "middle", "position": [1, 1, 1]}, "side: found 'middle', expected left or right"),
        ("clicks", {"side": "left", "position": [1, 1]}, "position: found [1, 1]"),
        ("clicks", {"side": "left", "position": [1, 1, "1"]}, "position: found"),
        ("clicks", {"side": "left", "position": [1, 1, 1e9]}, "position: found"),
        ("clicks", {"side": "left", "position": [10**400, 1, 1]}, "position: found"),
        ("clicks", {"side": "left", "position": [-9, 1, 1]}, "position: found [-9, 1, 1], expected a place inside"),
        ("clicks", {"side": "left", "position": [True, 1, 1]}, "position: found"),
        ("segment", {"challenge": "tongue"}, "challenge: found 'tongue', expected one of"),
        ("saved", {"kind": "whole", "what": "money"}, "save: found 'money'"),
        ("saved", {"kind": "whole", "what": []}, "save: found '[]'"),
        ("saved", {"kind": {}, "what": {}}, "save: found '{}'"),
    ],
)
def test_what_makes_no_sense_is_refused(server, scan, path, content, line):
    _, page = server
    facts = page.open(scan)["result"]
    answer = page.http.post(f"/api/scans/{facts['scan']}/{path}", json=content)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(line)


def test_what_is_not_there(server, scan):
    _, page = server
    empty = page.send()
    for answer in (
        page.http.get("/api/scans/nobody"),
        page.http.get("/api/tasks/nothing"),
        page.http.get("/favicon.ico"),
        page.http.get("/static/../app.py"),
        page.http.get("/static/%2e%2e/app.py"),
    ):
        assert answer.status_code == 404
    for method, path in (("GET", "image"), ("GET", "drawn"), ("POST", "clicks/undo")):
        assert page.http.request(method, f"/api/scans/{empty}/{path}").json()["error"].startswith("scan: found none")
    for content in (b"", b"[]", b"{", b"[" * 100_000):
        assert page.http.post(f"/api/scans/{empty}/segment", content=content).status_code == 400
    facts = page.open(scan)["result"]
    assert (
        "found nothing segmented"
        in page.post(f"/api/scans/{facts['scan']}/saved", kind="whole", what="labels")["error"]
    )
    for box in ("1", "0,0,0,1,1,999", "3,0,0,2,1,1", "a,b,c,d,e,f", "0,0,0,0,1,1"):
        assert page.http.get(f"/api/scans/{facts['scan']}/drawn", params={"box": box}).status_code == 400


def test_clicks_of_no_number_are_not_there(server, scan):
    _, page = server
    clicks = f"/api/scans/{page.open(scan)['result']['scan']}/clicks"
    for number in ("9" * 5000, "-1", "1.5", "%D9%A3", "one"):
        assert page.http.delete(f"{clicks}/{number}").status_code == 404
        assert page.http.post(f"{clicks}/{number}", json={"position": [1, 1, 1]}).status_code == 404


@pytest.mark.parametrize(
    "rest",
    [
        "Content-Length: 50\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_body_that_breaks_off_is_no_error_of_the_server(capsys, server, rest):  # in this order: it logs to stderr
    _, page = server
    scan, url = page.send(), page.http.base_url
    head = f"POST /api/scans/{scan}/open HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((url.host, url.port), timeout=20) as client:
        client.sendall((head + rest).encode())
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 16):
            pass
    assert page.http.get("/api").status_code == 200
    assert "Traceback" not in capsys.readouterr().err


def test_dicom_comes_as_files_of_a_folder_or_as_a_zip(server, tmp_path):
    pytest.importorskip("pydicom")
    from dicom_series import SHAPE, truth, write_slices

    _, page = server
    series = write_slices(tmp_path / "series")
    files = [(f"series/{path.name}", path.read_bytes()) for path in sorted(series.iterdir())]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
    for sent, name in ((files, "series"), ([("export.zip", packed.getvalue())], "export.zip")):
        facts = page.open(*sent)["result"]
        assert facts["size"] == list(SHAPE[::-1])
        assert facts["file"] == name
        (study,) = (study for study in server[0].studies if study.name == facts["scan"])
        assert np.abs(study.volume.array - truth(study.volume.geometry)).max() < 0.51
        page.post(f"/api/scans/{facts['scan']}/clicks", side="left", position=[2, 2, 2])
        saved = page.post(f"/api/scans/{facts['scan']}/saved", kind="canals", what="labels")["result"]["saved"]
        assert saved == f"{name.removesuffix('.zip')}.canals.nii.gz"
    answer = page.open(*files[:3], ("series/second.nrrd", b"x"))  # an image among them is taken for the scan
    assert answer["error"].startswith("series/second.nrrd: ")


class Keeps:
    """A session that keeps so many bytes."""

    def __init__(self, kept_bytes: int):
        self.kept_bytes = kept_bytes

    def forget(self):
        self.kept_bytes = 0


def test_what_sessions_keep_is_bounded(tmp_path):
    (tmp_path / "private").mkdir()
    held = studies.Studies(tmp_path / "private")
    held.most_kept = 100
    opened = [held.new() for _ in range(4)]
    for study, kept in zip(opened, (60, 70, 80, 90)):
        study.session = Keeps(kept)
    held.find(opened[0].name)  # used last
    held.forget_all_but(opened[3])
    assert [study.session.kept_bytes for study in opened] == [60, 0, 0, 90]


def test_scans_nobody_looks_at_are_closed_and_memory_is_bounded(tmp_path, scan, monkeypatch):
    monkeypatch.setattr(studies, "MOST_STUDIES", 3)
    (tmp_path / "private").mkdir()
    with serving(tmp_path, make_desk(tmp_path / "private", most_bytes=60_000, idle=0.5)) as (desk, url):
        page = Page(url)
        first = page.open(scan)
        assert first["state"] == "done"
        assert "memory: found" in page.open(scan)["error"]
        instead = {"instead": first["result"]["scan"]}
        assert page.done(page.http.post(f"/api/scans/{page.send(scan)}/open", json=instead))["state"] == "done"
        assert "found 3 open ones" in page.http.post("/api/scans").json()["error"]
        deadline = time.monotonic() + 30
        while list(desk.studies) or list((tmp_path / "private").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert page.http.get(f"/api/scans/{first['result']['scan']}").status_code == 404


def test_interactive_models_are_found_by_name(server):
    _, page = server
    about = page.http.get("/api").json()
    assert [(m["challenge"], m["clicks"], m["demo"]) for m in about["models"]] == [
        (MULTICLASS, False, False),
        (INTERACTIVE, True, False),
    ]
    assert RADIUS < 10


@pytest.mark.parametrize("line", [b"Anal\xffys = Origin = 0 0 0\n", b"BinaryData = \xff\n"])
def test_bytes_of_a_header_that_are_no_text_reach_the_page(server, tmp_path, line):
    write_scan(tmp_path / "scan.mha", "RSA", **BLOCKS)
    content = (tmp_path / "scan.mha").read_bytes()
    at = content.index(b"BinaryData")
    after = content.index(b"\n", at) + 1 if line.startswith(b"Binary") else at
    task = server[1].open(("scan.mha", content[:at] + line + content[after:]))
    told = task["result"]["warnings"] if task["state"] == "done" else [task["error"]]
    assert any("\udcff" in one for one in told), task
