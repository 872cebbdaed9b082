"""Every command that writes, killed while it writes and on a disk that is full: nothing may be half-written.

    python benchmarks/failing_machine.py [--work FOLDER] [--kills 3] [--only NAME ...]

Needs root on Linux (for small disks in memory) and all extras. Each command is forked from this process, which has
imported everything, so that a try costs what the command does. Moments are counted in changes of the output folder, not
in seconds. A command is first run twice undisturbed: what differs then, such as dates, is compared by name only. Then

- it is killed (SIGKILL) at moments spread over its changes, into an empty folder and, where it replaces files, over its
  own output; every file must be readable in full, and the command, run once more, leave what it leaves undisturbed. Of
  preprocessed cases (.b2nd) the voxels are compared, because blosc2's threads pack their blocks in any order; of
  checkpoints, which hold dates, the epoch, the logged values and the names and shapes of the weights;
- it runs where 4 kB, and where half of the room for its output, are free, each with nothing there and over its own
  output: it must fail with a line that names the file and the full disk, and leave whole files, old or new.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SHAPE, SPACING = ("40", "60", "72"), "1.4"
SMALL = ["--network", "small", "--patch", "16", "32", "32"]
BRIEF = ["--epochs", "2", "--iterations", "2", "--validation-iterations", "1", "--device", "cpu"]
TEMPORARY = re.compile(r"\.umamba2-[0-9a-f]{16}|\.unfinished_")
FULL = re.compile(r"disk (is )?full|No space left|[kMG]B free|free disk", re.IGNORECASE)
BEFORE = re.compile(r"[kMG]B free|free disk")  # it was looked at before anything was written
PAGE = 4096  # bytes; the smallest piece of a disk in memory
TIMEOUT = 900  # seconds
IMAGES = (".mha", ".nii.gz", ".nrrd", ".tif", ".nii")
WARM = [
    "umamba2.jobs.command", "umamba2.jobs.cluster", "umamba2.jobs.container", "umamba2.segmenter",
    "umamba2.models.command", "umamba2.evaluation.command", "umamba2.evaluation.cases", "umamba2.reports.page",
    "umamba2.exports.meshes", "umamba2.exports.dicom_seg", "umamba2.synthetic.phantoms", "umamba2.training.run",
    "umamba2.training.pretrain", "umamba2.training.preprocess", "umamba2.training.nnunet_plugin.umamba2_trainers",
    "nnunetv2.run.run_training",
]  # fmt: skip


@dataclass
class Command:
    """A command line; ``{out}`` in it is the output folder.

    Attributes:
        arguments: Of `umamba2`, or of inference.py.
        start: A folder that the output folder is a copy of before.
        over: More arguments with which it replaces its own output; None if it never does.
        again: More arguments with which it goes on after it was killed.
        code: Its exit code when nothing is wrong.
        container: Whether it is inference.py.
    """

    arguments: list[str]
    start: Path | None = None
    over: list[str] | None = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    code: int = 0
    container: bool = False


def commands(at: Path) -> dict[str, Command]:
    """What is tried, by name; ``at`` holds the inputs."""
    scans, labels, scan = f"{at}/phantoms/images", f"{at}/phantoms/labels", f"{at}/phantoms/images/phantom_0000.mha"
    truth = f"{labels}/phantom_0000.mha"
    predict = ["predict", "-m", "stsr", "--quiet", "--no-mirroring", "-o", "{out}"]
    fresh, shape = ["--overwrite"], ["--shape", *SHAPE, "--spacing", SPACING]
    raw = ["303", "--workers", "1", "--raw", f"{at}/raw"]
    tried = {
        f"predict to {ending}": Command([*predict, "-i", scan, "--format", ending], over=fresh)
        for ending in ("mha", "nii.gz", "nrrd", "dicom-seg")
    }
    tried |= {
        f"predict to a named {ending}": Command([*predict[:-1], "{out}/labels" + ending, "-i", scan], over=fresh)
        for ending in (".nii", ".tif")
    }
    beside = ["--report", "--preview", "--statistics"]
    tried["predict and all beside"] = Command([*predict, "-i", scans, *beside], over=fresh)
    tried["predict, two workers"] = Command([*predict, "-i", scans, "--workers", "2"], over=fresh)
    for challenge in ("stsr", "toothfairy3-multiclass", "toothfairy3-interactive"):
        mounted = ["--challenge", challenge, "--input", f"{at}/mounted/{challenge}", "--output", "{out}"]
        tried[f"inference.py, {challenge}"] = Command(mounted, container=True)
    for ending in (".mha", ".nii.gz", ".nrrd", ".tif"):
        tried[f"read to {ending}"] = Command(["read", scan, "-o", "{out}/scan" + ending])
    pair = ["-p", labels, "-g", labels, "-o", "{out}/scores.json", "--numbering", "public"]
    tried["evaluate"] = Command(["evaluate", "toothfairy3-multiclass", *pair])
    shown = ["-i", scan, "-s", truth, "--numbering", "public", "-o", "{out}/page.html"]
    tried["report"] = Command(["report", *shown])
    for kind in ("stl", "obj", "glb", "seg.nrrd", "nii.gz", "dicom-seg"):
        named = ["--format", kind, "--numbering", "public", "-o", "{out}"]
        tried[f"export to {kind}"] = Command(["export", truth, *named])
    tried["slim"] = Command(["slim", f"{at}/model", "{out}/slim"], over=None)
    tried["models add"] = Command(["models", "add", "name", f"{at}/model"], over=None)
    tried["phantom"] = Command(["phantom", "{out}", "--count", "2", *shape])
    tried["package-predictions"] = Command(["package-predictions", f"{at}/masks", "-o", "{out}/masks.zip"])
    tried["convert"] = Command(["convert", "stsr", f"{at}/download", "{out}", "--workers", "1"], over=None)
    where = ["--preprocessed", "{out}"]
    tried["plan"] = Command(["plan", *raw, *where, *SMALL])
    tried["preprocess"] = Command(["preprocess", *raw, *where], start=at / "planned", over=None)
    train = ["train", "303", "--preprocessed", f"{at}/preprocessed", "--results", "{out}", *BRIEF]
    tried["train"] = Command(train, over=None, again=["--continue"])
    pretrain = ["pretrain", scans, "-o", "{out}", "--preset", "stsr", "--spacing", "3", "3", "3", "--workers", "1"]
    tried["pretrain"] = Command([*pretrain, *SMALL, *BRIEF], over=None, again=["--continue"])
    return tried


def make_inputs(at: Path) -> None:
    """Phantoms, a model, mounted folders, and a dataset in every stage of its way to a training."""
    from challenge_names import MULTICLASS
    from downloads import stsr
    from small_models import make_model

    must(at, "phantom", f"{at}/phantoms", "--count", "2", "--shape", *SHAPE, "--spacing", SPACING)
    make_model(at / "model", description={"challenge": MULTICLASS})
    (at / "masks").mkdir()
    for number in range(2):
        case = f"{at}/phantoms/stsr/phantom_{number:04}_Mask.mha"
        must(at, "read", case, "-o", f"{at}/masks/STS25_Validation_000{number}_Mask.nii.gz")
    for challenge, place in (
        ("stsr", ""),
        ("toothfairy3-multiclass", "images/cbct"),
        ("toothfairy3-interactive", "images/cbct"),
    ):
        folder = at / "mounted" / challenge / place
        folder.mkdir(parents=True)
        name = "scan.nii.gz" if challenge == "stsr" else "scan.mha"
        must(at, "read", f"{at}/phantoms/images/phantom_0000.mha", "-o", str(folder / name))
    clicks = at / "phantoms/clicks/iac_clicks_phantom_0000_2.json"
    shutil.copy(clicks, at / "mounted/toothfairy3-interactive/iac_clicks_scan.json")
    stsr(at / "download")
    must(at, "convert", "stsr", f"{at}/download", f"{at}/raw", "--workers", "1")
    raw = ["303", "--workers", "1", "--raw", f"{at}/raw"]
    must(at, "plan", *raw, "--preprocessed", f"{at}/planned", *SMALL)
    shutil.copytree(at / "planned", at / "preprocessed")
    must(at, "preprocess", *raw, "--preprocessed", f"{at}/preprocessed")


def must(at: Path, *arguments: str) -> None:
    """Run a command that makes an input."""
    code, said = Try(Command(list(arguments)), at, at / "log").wait()
    if code:
        sys.exit(f"umamba2 {' '.join(arguments)}: exit code {code}\n{said[-3000:]}")


class Try:
    """A command at work in a process of its own, which all that it starts belongs to."""

    def __init__(self, command: Command, out: Path, log: Path, more: list[str] | None = None):
        arguments = [word.replace("{out}", str(out)) for word in [*command.arguments, *(more or [])]]
        self.log = log
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setsid()
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.environ["UMAMBA2_MODELS"] = str(out)
            main = import_module("inference" if command.container else "umamba2.cli").main
            code = main(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        os._exit(code)

    def ended(self) -> int | None:
        """The exit code, None while it works."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self) -> tuple[int, str]:
        """Wait for its end; its exit code and what it said."""
        until = time.monotonic() + TIMEOUT
        while (code := self.ended()) is None:
            if time.monotonic() > until:
                self.kill()
                return -99, "it never ended"
            time.sleep(0.01)
        return code, self.log.read_text(errors="replace")

    def kill(self) -> bool:
        """Kill it alone, then wait for what it has started; whether that ended by itself."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        os.killpg(self.pid, signal.SIGKILL)
        return False

    def changes(self, folder: Path, most: int | None = None) -> tuple[int, int | None]:
        """Watch a folder until it has changed so often; how often it has, and the exit code if the command ended."""
        count, before, until = 0, state(folder), time.monotonic() + TIMEOUT
        while (code := self.ended()) is None and time.monotonic() < until:
            now = state(folder)
            if now != before:
                count, before = count + 1, now
                if count == most:
                    return count, None
            time.sleep(0.0005)
        return count, code


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of every file below a folder."""
    found = {}
    for where, _, names in os.walk(folder):  # which passes over folders that go in between
        for path in (Path(where) / name for name in names):
            with suppress(OSError):
                at = path.lstat()
                found[str(path.relative_to(folder))] = (at.st_ino, at.st_size, at.st_mtime_ns)
    return found


def sums(folder: Path) -> dict[str, str]:
    """A checksum of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(content(path)).hexdigest() for path in files}


def content(path: Path) -> bytes:
    """What is compared of a file: its bytes, the voxels of a preprocessed case, the course of a training."""
    if path.suffix == ".b2nd" and not broken(path):
        import blosc2

        return blosc2.open(str(path), mode="r")[:].tobytes()
    if path.suffix == ".pth" and not broken(path):
        import torch

        found = torch.load(path, map_location="cpu", weights_only=False)
        if "logging" in found:
            shapes = {name: tuple(weight.shape) for name, weight in found["network_weights"].items()}
            logged = {name: values for name, values in found["logging"].items() if "timestamps" not in name}
            return repr((found["current_epoch"], shapes, logged)).encode()
    return path.read_bytes()


def broken(path: Path) -> str | None:
    """What is wrong with a file that shall be whole, by the readers of its format; None if nothing is."""
    name = path.name
    try:
        if name.endswith(IMAGES):
            import nibabel
            import SimpleITK as sitk

            from umamba2.scans.volumes import read_array

            read_array(path)
            sitk.ReadImage(str(path))
            if ".nii" in name:
                nibabel.load(path).get_fdata()
        elif name.endswith(".jsonl"):
            [json.loads(line) for line in path.read_text().splitlines()]
        elif name.endswith(".json"):
            json.loads(path.read_text())
        elif name.endswith(".csv"):
            widths = {len(row) for row in csv.reader(path.open())}
            assert len(widths) == 1, f"rows of {widths} columns"
        elif name.endswith(".html"):
            assert path.read_text().rstrip().endswith("</html>"), "no end"
        elif name.endswith(".png"):
            from PIL import Image

            Image.open(path).load()
        elif name.endswith(".dcm"):
            import pydicom

            assert pydicom.dcmread(path).pixel_array.size
        elif name.endswith((".stl", ".obj", ".glb")):
            import trimesh

            assert not trimesh.load(path).is_empty, "empty"
        elif name.endswith((".pth", ".pt")):
            import torch

            torch.load(path, map_location="cpu", weights_only=False)
        elif name.endswith(".safetensors"):
            from safetensors.torch import load_file

            load_file(path)
        elif name.endswith((".npz", ".npy")):
            import numpy as np

            found = np.load(path, allow_pickle=True)
            [found[key] for key in getattr(found, "files", ())]
        elif name.endswith(".b2nd"):
            import blosc2

            blosc2.open(str(path), mode="r")[:]
        elif name.endswith(".pkl"):
            import pickle

            pickle.loads(path.read_bytes())
        elif name.endswith(".zip"):
            assert zipfile.ZipFile(path).testzip() is None, "damaged"
        elif name.endswith((".ctbl", ".txt")):
            assert path.read_bytes().endswith(b"\n"), "no end of the last line"
        elif "lock" not in name:
            return "of an unknown kind"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return None


class Trial:
    """All tries of one command, and what was wrong in them."""

    def __init__(self, name: str, command: Command, work: Path):
        self.name, self.command, self.work = name, command, work
        self.faults: list[str] = []
        self.out = work / "out"
        self.first, self.varying, self.count = self.undisturbed()

    def fault(self, when: str, what: str) -> None:
        """Keep a fault, and say it at once."""
        self.faults.append(f"{when}: {what}")
        print(f"    {self.name}, {when}: {what}", flush=True)

    def fresh(self, over: bool = False) -> None:
        """Make the output folder as it is before the command, or with its output there."""
        shutil.rmtree(self.out, ignore_errors=True)
        start = self.work / "first" if over else self.command.start
        if start:
            shutil.copytree(start, self.out, symlinks=True)
        else:
            self.out.mkdir(parents=True)

    def undisturbed(self) -> tuple[dict[str, str], set[str], int]:
        """Run it twice: the sums of what it writes, names of files that differ, and the changes that were seen."""
        found, count = [], 0
        for _ in range(2):
            self.fresh()
            at_work = Try(self.command, self.out, self.work / "log")
            count, code = at_work.changes(self.out)
            if code is None:
                at_work.kill()
            if code != self.command.code:
                said = (self.work / "log").read_text()
                self.fault("undisturbed", f"exit code {code}\n{said[-2000:]}")
            found.append(sums(self.out))
            time.sleep(1.1)  # for times in whole seconds
        shutil.rmtree(self.work / "first", ignore_errors=True)
        shutil.copytree(self.out, self.work / "first", symlinks=True)
        return found[0], {name for name in {**found[0], **found[1]} if found[0].get(name) != found[1].get(name)}, count

    def check_whole(self, when: str) -> None:
        """Every file that has its name is whole."""
        for path in sorted(path for path in self.out.rglob("*") if path.is_file()):
            name = path.relative_to(self.out)
            if not any(TEMPORARY.match(part) for part in name.parts) and (problem := broken(path)):
                self.fault(when, f"{name}: {problem}")

    def check_again(self, when: str, more: list[str]) -> None:
        """The same command now does all of it, and nothing else is left."""
        before = sums(self.out)
        code, said = Try(self.command, self.out, self.work / "log", more).wait()
        done = self.command.over is None and before.keys() >= self.first.keys()  # and so the name is taken
        if code != self.command.code and not done:
            lines = [line for line in said.splitlines() if line.strip()] or [""]
            self.fault(when, f"run again: exit code {code}, {lines[-1][:300]}")
        now = sums(self.out)
        for name in sorted({*self.first, *now}):
            if (name in self.first) != (name in now):
                if name not in self.varying and "training_log_" not in name:  # of nnU-Net, one for each start
                    self.fault(when, f"run again: {name} is {'missing' if name in self.first else 'left over'}")
            elif name not in self.varying and self.first[name] != now[name]:
                self.fault(when, f"run again: {name} has other bytes")
        self.check_whole(f"{when}, run again")

    def killed(self, kills: int) -> int:
        """Kill it so often; how often it was still at work."""
        landed = 0
        ways = [False] if self.command.over is None else [False, True]
        for number in range(kills):
            over = ways[number % len(ways)]
            self.fresh(over)
            before = state(self.out)
            at_work = Try(self.command, self.out, self.work / "log", self.command.over if over else None)
            most = max(1, round(self.count * (number + 1) / (kills + 0.5)))
            seen, code = at_work.changes(self.out, most)
            if code is not None:
                continue
            landed += 1
            when = f"killed {'over its output ' * over}at change {seen} of {self.count}"
            if not at_work.kill():
                self.fault(when, "its processes went on for 30 s")
            self.check_whole(when)
            new = [name for name, at in state(self.out).items() if before.get(name) != at]
            print(f"    {self.name}, {when}: new {', '.join(sorted(new))[:200] or 'nothing'}", flush=True)
            more = (self.command.over if over else None) or self.command.again
            self.check_again(when, more)
        return landed

    def full(self) -> tuple[int, int]:
        """Run it on full disks; how many there were, and on how many of them it found room."""
        size = sum(path.stat().st_size + PAGE for path in (self.work / "first").rglob("*"))
        tries = fitted = 0
        for over in [False] if self.command.over is None else [False, True]:
            for free in (PAGE, size // 2):
                when = f"{free // 1024} kB free{', over its output' * over}"
                with small_disk(self.out, 2 * size + (8 << 20)):
                    start = self.work / "first" if over else self.command.start
                    if start:
                        shutil.copytree(start, self.out, symlinks=True, dirs_exist_ok=True)
                    fill(self.out / ".filler", free)
                    before = state(self.out)
                    more = self.command.over if over else None
                    code, said = Try(self.command, self.out, self.work / "log", more).wait()
                    tries += 1
                    if code == self.command.code and sums(self.out).keys() >= self.first.keys():
                        fitted += 1
                    else:
                        self.check_said(when, code, said)
                    (self.out / ".filler").unlink()
                    left = [name for name in state(self.out) if TEMPORARY.search(name)]
                    if left:
                        self.fault(when, f"left over: {', '.join(left)[:200]}")
                    gone = [name for name in before if name != ".filler" and not (self.out / name).exists()]
                    if gone:
                        self.fault(when, f"gone: {', '.join(gone)[:200]}")
                    self.check_whole(when)
        return tries, fitted

    def check_said(self, when: str, code: int, said: str) -> None:
        """The failure was told as one line that names a file."""
        lines = [line for line in said.splitlines() if FULL.search(line)]
        if code not in (1, 2):
            self.fault(when, f"exit code {code}")
        if "Traceback" in said:
            self.fault(when, "a traceback")
        if not lines:
            self.fault(when, f"no word of the disk: {' | '.join(said.splitlines()[-3:])[:400]}")
        for line in lines:
            if TEMPORARY.search(line) or (str(self.out) not in line and not BEFORE.search(line)):
                self.fault(when, f"names no file of the user's: {line[:300]}")
        print(f"    {self.name}, {when}: {' | '.join(lines)[:300]}", flush=True)


@contextmanager
def small_disk(at: Path, size: int) -> Iterator[None]:
    """A disk in memory."""
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def fill(filler: Path, free: int) -> None:
    """Fill a disk but for so many bytes."""
    with filler.open("wb") as file:
        at = os.statvfs(filler.parent)
        os.posix_fallocate(file.fileno(), 0, max(1, at.f_bavail * at.f_frsize - free // PAGE * PAGE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="inputs are kept here for another run (default: a temporary folder)")
    parser.add_argument("--kills", type=int, default=3, help="of each command (default: 3)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="commands whose name begins so")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "nnUNet_compile": "false"}
    for name in WARM:
        import_module(name)
    with tempfile.TemporaryDirectory() as apart:
        work = (options.work or Path(apart)).resolve()
        if not (work / "inputs/preprocessed").exists():
            shutil.rmtree(work / "inputs", ignore_errors=True)
            (work / "inputs").mkdir(parents=True)
            make_inputs(work / "inputs")
        known = commands(work / "inputs")
        wanted = dict.fromkeys(name for begin in options.only for name in known if name.startswith(begin))
        rows = [one(name, known[name], work, options.kills) for name in wanted]
    print("\n| command | changes | kills | full disks | had room | faults |\n|---|---|---|---|---|---|")
    print("\n".join(rows))


def one(name: str, command: Command, work: Path, kills: int) -> str:
    """Try a command in all ways; its row of the table."""
    trial = Trial(name, command, work / "try")
    landed = trial.killed(kills)
    disks, fitted = trial.full()
    row = f"| {name} | {trial.count} | {landed} | {disks} | {fitted} | {len(trial.faults)} |"
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
