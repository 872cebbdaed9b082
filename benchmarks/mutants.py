"""Would the tests notice? Break the package in one place at a time, and run the tests that should say so.

    python benchmarks/mutants.py [--only TEXT]

The mutants are in `mutant_list.py`. Each is applied to a copy of what git tracks, never to the working tree, and only
the tests named with it are run there, up to the first that fails. They must pass without the mutant, which is tried
once for each selection of tests. A line for each mutant, then the counts; exit code 1 if any survived that is not
marked equivalent.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mutant_list import GROUPS, Mutant

LIBRARIES = ("torch", "SimpleITK", "scipy.ndimage", "hypothesis", "skimage.measure", "trimesh", "cc3d")
LIBRARIES += ("nnunetv2.training.nnUNetTrainer.nnUNetTrainer", "nnunetv2.inference.predict_from_raw_data")
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds for one run of tests: a mutant that hangs is noticed, too
# To find the smallest example that fails takes hypothesis minutes, and nobody looks at it.
HURRY = """
from hypothesis import Phase, settings
settings.register_profile("hurry", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("hurry")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default="", help="those of whose file or text this is a part")
    only = parser.parse_args().only
    for library in LIBRARIES:
        with suppress(ImportError):  # the tests that need it are skipped
            importlib.import_module(library)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        copy_tree(copy)
        sound: dict[str, bool] = {}
        for group in GROUPS:
            for mutant in group.mutants:
                if not any(only in text for text in (group.file, mutant.old, mutant.new)):
                    continue
                tests = mutant.tests or group.tests
                if tests not in sound:
                    sound[tests] = run_tests(copy, tests) == 0
                start = time.monotonic()
                result = tried(copy, group.file, mutant, tests) if sound[tests] else "its tests fail without it"
                counts[result] = counts.get(result, 0) + 1
                print(
                    f"{result}  {time.monotonic() - start:.0f} s  {group.file}: {mutant.old} => {mutant.new}",
                    flush=True,
                )
    print(", ".join(f"{count} {result}" for result, count in sorted(counts.items())))
    return int(bool(counts.keys() - {"killed", "equivalent"}))


def copy_tree(copy: Path) -> None:
    """Copy what git tracks, or would if asked to, as it is now; models and samples are linked."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in (".mha", ".gz", ".safetensors", ".pth"):
            target.symlink_to(source)
        elif source.is_file():
            shutil.copy2(source, target)
    (copy / "hurry.py").write_text(HURRY)


def tried(copy: Path, file: str, mutant: Mutant, tests: str) -> str:
    """What became of a mutant: killed, equivalent (it survived, as expected), survived, or stale."""
    path = copy / "umamba2" / file
    text, times = path.read_text(), path.stat()
    if text.count(mutant.old) != 1:
        return "stale"
    path.write_text(text.replace(mutant.old, mutant.new))
    # Python takes bytecode for current if its source has the same size and second.
    os.utime(path, (times.st_atime, times.st_mtime + 100 + hash(mutant.new) % 10**6))
    try:
        killed = run_tests(copy, tests) != 0
    finally:
        path.write_text(text)
        os.utime(path, (times.st_atime, times.st_mtime))
    return "killed" if killed else "equivalent" if mutant.equivalent else "survived"


def run_tests(copy: Path, tests: str) -> int:
    """Run tests up to the first that fails; pytest's exit code, or -1 if they had to be ended."""
    child = os.fork()  # has the libraries already, which would take longer to import than most tests to run
    if child == 0:
        os.setsid()
        os.chdir(copy)
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silence, stream)
        os.environ |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        sys.path.insert(0, str(copy))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "hurry", "--hypothesis-seed=0"]
        os._exit(pytest.main([*options, *shlex.split(tests)]))
    end = time.monotonic() + PATIENCE
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)  # with the processes that tests have started
            os.waitpid(child, 0)
            return -1
        time.sleep(0.05)
    code = os.waitstatus_to_exitcode(done[1])
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        sys.exit(f"{tests}: found no tests, expected some")
    return code


if __name__ == "__main__":
    sys.exit(main())
