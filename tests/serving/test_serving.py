"""The invoke server, as Grand Challenge drives it: a process, real HTTP, folders that are wiped between calls."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from challenge_names import MULTICLASS
from small_models import make_model
from stand_in import OBLIQUE, scan, write_image

from umamba2.models.folder import slim
from umamba2.scans.volumes import read_labels

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = "images/oral-pharyngeal-segmentation"
PATIENCE = 120  # seconds; much longer than anything here takes


def wait_until(condition, what, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


class Served:
    """A server process and its folders."""

    def __init__(self, folder: Path, model: Path, code: str | None = None):
        self.input, self.output, self.stderr = folder / "input", folder / "output", folder / "stderr"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        program = ["-m", "umamba2.serving"] if code is None else ["-c", code]
        command = [sys.executable, *program, "--host", "127.0.0.1", "--port", str(self.port)]
        folders = ["--input", str(self.input), "--output", str(self.output), "--model", str(model)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UMAMBA2_")}
        environment |= {"UMAMBA2_CHALLENGE": MULTICLASS, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with open(self.stderr, "ab") as stderr:
            self.process = subprocess.Popen(
                [*command, *folders, "--precision", "fp32"], cwd=folder, env=environment, stderr=stderr
            )
        wait_until(self.listens, "the port")

    def listens(self):
        assert self.process.poll() is None, self.stderr.read_text()
        try:
            self.ask("GET", "/health")
        except ConnectionRefusedError:
            return False
        return True

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            assert answer.getheader("Content-Type") == "application/json"
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def talk(self, *parts, wait=0.0):
        """Send the parts of a request, slowly, and return the whole answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(wait)
            return connection.makefile("rb").read()

    def wipe(self):
        """What the platform does between calls, and worse: the folders themselves are new."""
        for folder in (self.input, self.output):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def errors(self):
        """The lines of stderr since the last time."""
        lines = self.stderr.read_text().splitlines()
        self.stderr.write_text("")
        return lines

    def open_files(self):
        links = Path(f"/proc/{self.process.pid}/fd").iterdir()
        targets = [os.readlink(link) for link in links]
        return [path for path in targets if path.startswith((str(self.input), str(self.output)))]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model(folder / "full", classes=47, mirror_axes=(0, 1, 2))
    return slim(folder / "full", folder / "slim")


@pytest.fixture(scope="module")
def running(tmp_path_factory, model):
    served = Served(tmp_path_factory.mktemp("served"), model)
    # The port answers before torch is even imported.
    assert served.ask("GET", "/health") == (503, {"error": "the model is being loaded"})
    assert served.ask("POST", "/invoke")[0] == 503
    wait_until(lambda: served.ask("GET", "/health") == (200, {"status": "ready"}), "the model")
    yield served
    served.process.kill()
    served.process.wait()


@pytest.fixture
def served(running):
    running.wipe()
    running.errors()
    return running


def test_invokes_with_wiped_folders_in_between(served):
    for name in ("first", "second"):
        served.wipe()
        image = write_image(served.input / f"images/cbct/{name}.mha", scan((1, 2)))
        assert served.ask("POST", "/invoke") == (201, {"cases": 1, "warnings": []})
        labels, geometry = read_labels(served.output / OUTPUTS / image.name)
        assert geometry == OBLIQUE
        assert labels.dtype == np.uint8
        (entry,) = json.loads((served.output / "results.json").read_text())
        assert entry["outputs"][0]["filename"] == image.name
        names = sorted(path.name for path in served.output.iterdir())
        assert names == ["images", "metadata", "results.json"]
        if Path("/proc/self/fd").exists():
            assert served.open_files() == []
    assert served.errors() == []


def test_a_bad_case_is_an_error_and_the_next_one_is_fine(served):
    broken = served.input / "images/cbct/broken.mha"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"ObjectType = Image\nNDims = 3\n")
    code, answer = served.ask("POST", "/invoke")
    assert code == 500
    assert str(broken) in answer["error"]
    assert served.errors() == [f"error: {answer['error']}"]

    served.wipe()
    code, answer = served.ask("POST", "/invoke")
    assert code == 500
    assert "found no images" in answer["error"]
    assert served.errors() == [f"error: {answer['error']}"]

    served.wipe()
    array = scan((1, 2)).astype(np.float32)
    array[0, 0, 0] = np.nan
    write_image(served.input / "images/cbct/mended.nrrd", array)
    code, answer = served.ask("POST", "/invoke", b"a body that nobody asked for")
    assert (code, answer["cases"]) == (201, 1)
    (warning,) = answer["warnings"]
    assert "1 NaN" in warning
    assert served.errors() == [f"warning: {warning}"]
    assert (served.output / OUTPUTS / "mended.nrrd").is_file()


def test_unknown_paths_and_methods(served):
    wrong = (("GET", "/", 404), ("POST", "/invoke/", 404), ("GET", "/invoke", 405), ("PUT", "/x", 404))
    for method, path, code in wrong:
        found, answer = served.ask(method, path)
        assert found == code
        assert "expected" in answer["error"]
        assert served.errors() == [f"error: {answer['error']}"]
    assert served.ask("PATCH", "/health")[0] == 501
    assert served.ask("GET", "/health")[0] == 200


def test_head_is_get_without_the_body(served):
    for path, code in (("/health", 200), ("/invoke", 405), ("/", 404)):
        head, _, body = served.talk(f"HEAD {path} HTTP/1.1\r\n\r\n".encode()).partition(b"\r\n\r\n")
        assert head.split()[1] == str(code).encode()
        assert b"Content-Length: " in head
        assert body == b""


@pytest.mark.parametrize("length", ["-1", "ten", "1, 1", "0x10", "\u0663", "9" * 5000, ""])
def test_lengths_that_are_none_are_answered(served, length):
    request = f"POST /invoke HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
    head, _, body = served.talk(request.encode()).partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    (line,) = served.errors()
    assert line == f"error: {json.loads(body)['error']}"
    assert line.startswith("error: Content-Length: found '")


def test_a_body_that_never_comes_is_answered(served):
    head, _, body = served.talk(b"POST /invoke HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc").partition(b"\r\n\r\n")
    assert head.split()[1] == b"408"
    assert "expected all of them" in json.loads(body)["error"]


def test_calls_queue_and_health_answers_meanwhile(served):
    write_image(served.input / "images/cbct/a.mha", scan(shape=(20, 40, 40)))
    answers = []
    calls = [threading.Thread(target=lambda: answers.append(served.ask("POST", "/invoke"))) for _ in range(3)]
    for call in calls:
        call.start()
    while any(call.is_alive() for call in calls):
        start = time.monotonic()
        assert served.ask("GET", "/health")[0] == 200
        assert time.monotonic() - start < 10  # the platform's limit
        time.sleep(0.05)
    assert answers == [(201, {"cases": 1, "warnings": []})] * 3


def test_sigterm_ends_the_call_in_progress_with_an_answer(tmp_path, model):
    served = Served(tmp_path, model)
    served.wipe()
    wait_until(lambda: served.ask("GET", "/health")[0] == 200, "the model")
    for name in ("a", "b"):
        write_image(served.input / f"images/cbct/{name}.mha", scan(shape=(20, 40, 40)))
    answers = []
    call = threading.Thread(target=lambda: answers.append(served.ask("POST", "/invoke")))
    call.start()
    wait_until((served.output / OUTPUTS / "a.mha").exists, "the first case")  # so the second is in progress
    assert served.stop() == 0
    call.join(PATIENCE)
    ((code, answer),) = answers
    assert (code, answer["cases"]) == (201, 2)  # the second scan has an output too, whatever was found in it by then
    assert (served.output / OUTPUTS / "b.mha").exists()


def test_sigterm_waits_for_no_slow_client(tmp_path, model):
    served = Served(tmp_path, model)
    wait_until(lambda: served.ask("GET", "/health")[0] == 200, "the model")

    def drip():
        with suppress(OSError):
            served.talk(b"GET /health HTTP/1.1\r\nX: ", *[b"y"] * 300, wait=0.2)

    slow = threading.Thread(target=drip, daemon=True)
    slow.start()
    time.sleep(1)
    assert slow.is_alive()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0  # the client would go on for a minute


# A server whose signals take longer to handle than it waits for calls at a time.
DAWDLING = """
import sys, time
from umamba2.serving import server
from umamba2.serving.__main__ import main
def stop(*arguments, original=server.Server._stop):
    time.sleep(3 * server._POLL)
    original(*arguments)
    time.sleep(3 * server._POLL)
server.Server._stop = stop
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_outlast_the_wait_for_calls_end_an_idle_server(tmp_path, model, number):
    served = Served(tmp_path, model, DAWDLING)
    wait_until(lambda: served.ask("GET", "/health")[0] == 200, "the model")
    time.sleep(0.5)  # it waits by now
    served.process.send_signal(number)
    try:
        assert served.process.wait(30) == 0
    finally:
        served.process.kill()


# A server with little patience and few places, whose calls take until somebody says "go".
BUSY = """
import sys, time
from pathlib import Path
from umamba2.serving import server
from umamba2.serving.__main__ import main
def invoke(*_):
    with open("calls", "a") as calls:
        print("call", file=calls)
    while not Path("go").exists():
        time.sleep(0.01)
    return 201, {}
server.invoke, server.MOST_CALLS, server.MOST_CONNECTIONS, server._Handler.timeout = invoke, 3, 6, 1
sys.exit(main())
"""
CALL = b"POST /invoke HTTP/1.1\r\n\r\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory, model):
    served = Served(tmp_path_factory.mktemp("busy"), model, BUSY)
    wait_until(lambda: served.ask("GET", "/health")[0] == 200, "the model")
    yield served
    served.process.kill()
    served.process.wait()


@pytest.fixture
def busy(impatient):
    for name in ("calls", "go"):
        (impatient.input.parent / name).unlink(missing_ok=True)
    impatient.errors()
    return impatient


def calls_begun(served):
    calls = served.input.parent / "calls"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def test_calls_that_nobody_waits_for_are_not_begun(busy):
    answers = []
    first = threading.Thread(target=lambda: answers.append(busy.ask("POST", "/invoke")))
    first.start()
    wait_until(lambda: calls_begun(busy) == 1, "the first call")
    for number in range(1, 11):
        with socket.create_connection(("127.0.0.1", busy.port)) as connection:
            connection.sendall(CALL)
        wait_until(lambda: len(busy.stderr.read_text().splitlines()) == number, "a word on it")  # noqa: B023
    assert set(busy.errors()) == {"error: connection: found it closed before its turn, expected a client that waits"}
    others = [threading.Thread(target=lambda: answers.append(busy.ask("POST", "/invoke"))) for _ in range(3)]
    for other in others:
        other.start()
    wait_until(lambda: answers, "the one that is too many")
    assert answers == [(503, {"error": "/invoke: found 3 calls that wait, expected fewer"})]
    (busy.input.parent / "go").touch()
    for thread in (first, *others):
        thread.join(PATIENCE)
    assert answers[1:] == [(201, {})] * 3
    assert calls_begun(busy) == 3


@pytest.mark.parametrize(
    "start", [b"GET /health HTTP/1.1\r\nX: ", b"POST /invoke HTTP/1.1\r\nContent-Length: 900\r\n\r\n"]
)
def test_a_byte_now_and_then_holds_nobody_up(busy, start):
    """Six such clients take all places, until the time of each is over; who comes after them gets an answer."""
    clients = [socket.create_connection(("127.0.0.1", busy.port)) for _ in range(6)]
    for client in clients:
        client.sendall(start)
    dripping = threading.Event()

    def drip():
        while not dripping.wait(0.2):
            for client in clients:
                with suppress(OSError):
                    client.sendall(b"y")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert busy.ask("GET", "/health")[0] == 200
        for client in clients:
            client.settimeout(PATIENCE)
            with suppress(ConnectionResetError):
                answer = client.makefile("rb").read()  # to its end, although the client still sends
                assert answer.split()[1:2] == ([b"408"] if b"Content-Length" in start else [])
    finally:
        dripping.set()
        thread.join()
        for client in clients:
            client.close()
    assert calls_begun(busy) == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="found no /proc, expected Linux")
def test_connections_are_bounded(busy):
    def threads():
        lines = Path(f"/proc/{busy.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))

    before, most = threads(), 0
    idle = [socket.create_connection(("127.0.0.1", busy.port)) for _ in range(30)]
    try:
        wait_until(lambda: threads() > before, "the first of them")
        for _ in range(20):
            most = max(most, threads())
            time.sleep(0.02)
    finally:
        for connection in idle:
            connection.close()
    assert most - before <= 6
    assert busy.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize("framing", ["Content-Length: 67108864", "Transfer-Encoding: chunked"])
def test_a_body_is_taken_in_before_the_connection_ends(busy, framing):
    """Else the client, which sends all of it first, would see a reset and no answer."""
    (busy.input.parent / "go").touch()
    head, _, body = busy.talk(f"POST /invoke HTTP/1.1\r\n{framing}\r\n\r\n".encode(), bytes(2**26)).partition(
        b"\r\n\r\n"
    )
    if "chunked" in framing:
        assert head.split()[1] == b"201"
    else:
        assert head.split()[1] == b"413"
        assert json.loads(body)["error"] == "body: found 67108864 bytes, expected none, and at most 1048576"


# A server whose stderr cannot be written from the first call on, as on a full disk.
DEAF = """
import os, sys
from umamba2.serving import server
from umamba2.serving.__main__ import main
ready = server.warm
def warm(job):
    ready(job)
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
server.warm = warm
sys.exit(main())
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="found no /dev/full, expected Linux")
def test_errors_are_answered_without_stderr(tmp_path, model):
    served = Served(tmp_path, model, DEAF)
    try:
        wait_until(lambda: served.ask("GET", "/health")[0] == 200, "the model")
        for _ in range(2):
            code, answer = served.ask("POST", "/invoke")
            assert code == 500
            assert "found no such folder" in answer["error"]
        assert served.ask("GET", "/nowhere")[0] == 404
        served.wipe()
        write_image(served.input / "images/cbct/a.mha", scan((1, 2)))
        assert served.ask("POST", "/invoke")[0] == 201
        assert served.stop() == 0
    finally:
        served.process.kill()


def test_sigterm_while_loading(tmp_path, model):
    assert Served(tmp_path, model).stop() == 0


@pytest.mark.parametrize("challenge", ["", "toothfairy9", MULTICLASS])
def test_no_server_without_challenge_and_model(tmp_path, challenge):
    command = [sys.executable, "-m", "umamba2.serving", "--host", "127.0.0.1", "--port", "0"]
    environment = os.environ | {"UMAMBA2_CHALLENGE": challenge, "UMAMBA2_MODEL": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "expected" in line
