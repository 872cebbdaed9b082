"""Drive the image built for invoke as Grand Challenge does: real HTTP, and folders wiped between calls.

    python3 tests/container/drive_server.py IMAGE FOLDER

Calls are made inside the container (`docker exec`), because it has no network. Standard library only: this runs on
the bare machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "test/toothfairy3-interactive"
NAME = "umamba2-served"
LIMITS = ["--network=none", "--memory=8g", "--memory-swap=8g", "--shm-size=128m", "--pids-limit=256", "--read-only"]
LIMITS += ["--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
READY_WITHIN = 300  # seconds, the platform's
CALL = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", 4743, timeout=600)
connection.request(*sys.argv[1:])
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


def docker(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def call(method: str, path: str) -> tuple[int, dict]:
    """Status and JSON of a request; 0 while nobody listens."""
    done = docker("exec", NAME, "python", "-c", CALL, method, path)
    if done.returncode:
        return 0, {"error": done.stderr}
    status, _, body = done.stdout.partition(" ")
    return int(status), json.loads(body)


def expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        sys.exit(f"drive_server.py: {what}: found {found}, expected {expected}\n{docker('logs', NAME).stderr}")


def mount(folder: Path, case: str | None) -> None:
    """Empty the two folders, as the platform does, and put one case there."""
    for path in (*folder.glob("input/*"), *folder.glob("output/*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    images = folder / "input/images/cbct"
    images.mkdir(parents=True)
    if case is not None:
        shutil.copy(SAMPLE / f"input/images/cbct/{case}.mha", images)
        shutil.copy(SAMPLE / f"input/iac_clicks_{case}.json", folder / "input")


def check(image: str, folder: Path) -> None:
    """Have test/check.py judge what the server wrote."""
    where = ["--volume", f"{ROOT}:{ROOT}:ro", "--volume", f"{folder}:{folder}", "--workdir", str(ROOT)]
    command = ["python", "test/check.py", "toothfairy3-interactive", str(folder / "input"), str(folder / "output")]
    done = docker("run", "--rm", "--network=none", *where, image, *command, "--expected", str(SAMPLE / "expected"))
    print(done.stdout, end="")
    expect(f"check.py ({done.stderr})", done.returncode, 0)


def main(image: str, folder: Path) -> None:
    (folder / "input").mkdir(parents=True)
    (folder / "output").mkdir()
    (folder / "output").chmod(0o777)  # the container's user is somebody else
    mounts = ["--volume", f"{folder / 'input'}:/input:ro", "--volume", f"{folder / 'output'}:/output"]
    started = docker("run", "--detach", "--name", NAME, *LIMITS, *mounts, image)
    expect(f"docker run ({started.stderr})", started.returncode, 0)

    start = time.monotonic()
    while (answer := call("GET", "/health"))[0] != 200:
        ended = docker("inspect", "--format", "{{.State.Running}}", NAME).stdout.strip() != "true"
        if answer[0] not in (0, 503) or ended or time.monotonic() - start > READY_WITHIN:
            expect("GET /health", answer, 200)
        time.sleep(0.2)
    print(f"ready after {time.monotonic() - start:.1f} s")

    cases = sorted(path.stem for path in (SAMPLE / "input/images/cbct").iterdir())
    for case in (cases[0], None, cases[-1]):
        mount(folder, case)
        start = time.monotonic()
        status, answer = call("POST", "/invoke")
        print(f"invoke: {status} after {time.monotonic() - start:.1f} s: {answer}")
        if case is None:  # nothing to segment: an error, and the server lives on
            expect("POST /invoke without an image", (status, list(answer)), (500, ["error"]))
        else:
            # The small samples have too little air to be harmonised by, which costs a warning each.
            answer["warnings"] = [w for w in answer["warnings"] if "found no separate peaks of air" not in w]
            expect("POST /invoke", (status, answer), (201, {"cases": 1, "warnings": []}))
            check(image, folder)
    mount(folder, None)
    (folder / "input/images/cbct/broken.mha").write_bytes(b"no image")
    status, answer = call("POST", "/invoke")
    expect("POST /invoke with a broken image", (status, list(answer)), (500, ["error"]))
    expect("GET /elsewhere", call("GET", "/elsewhere")[0], 404)
    lines = docker("logs", NAME).stderr.splitlines()
    kinds = [line.partition(":")[0] for line in lines]
    expect("lines on stderr", [kind for kind in kinds if kind != "warning"], ["error"] * 3)

    docker("kill", "--signal", "TERM", NAME)
    expect("exit code after SIGTERM", docker("wait", NAME).stdout.strip(), "0")
    docker("rm", NAME)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
