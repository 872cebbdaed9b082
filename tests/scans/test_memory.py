"""How much memory is left, from what Linux says about machines and containers."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from umamba2.scans import memory

MEMINFO = "MemTotal: 16000 kB\nMemFree: 2000 kB\nMemAvailable: 8000 kB\nHugePages_Total: 0\n"
KB = 1024


def write(root, **files):
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def group(folder, limit, use, files=0):
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{use}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {files}\n",
    }


def test_nothing_known(tmp_path):
    assert memory.available(tmp_path) == math.inf


def test_a_machine(tmp_path):
    write(tmp_path, **{"proc/self/cgroup": "0::/user.slice\n"})
    assert memory.available(tmp_path) == 8000 * KB


@pytest.mark.parametrize("path", ["/", "/docker/1234", "/a/b/c"])
def test_a_container_with_control_groups_2(tmp_path, path):
    """Where the container sees its own group as the root, and where it does not."""
    write(tmp_path, **{"proc/self/cgroup": f"0::{path}\n"}, **group("sys/fs/cgroup", 5000 * KB, 1000 * KB, 300 * KB))
    assert memory.available(tmp_path) == 4300 * KB


def test_the_tightest_of_all_groups(tmp_path):
    inner, outer = group("sys/fs/cgroup/a/b", "max", 10 * KB), group("sys/fs/cgroup/a", 100 * KB, 30 * KB)
    write(tmp_path, **{"proc/self/cgroup": "0::/a/b\n"}, **inner, **outer)
    assert memory.available(tmp_path) == 70 * KB


def test_control_groups_1(tmp_path):
    folder = "sys/fs/cgroup/memory/docker/12"
    files = {
        f"{folder}/memory.limit_in_bytes": f"{900 * KB}\n",
        f"{folder}/memory.usage_in_bytes": f"{400 * KB}\n",
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * KB}\n",
    }
    write(tmp_path, **{"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/12\n0::/\n"}, **files)
    assert memory.available(tmp_path) == 550 * KB


@pytest.mark.parametrize(
    ("size", "data", "left"),
    [("unlimited", 900, 300), (2000, "unlimited", 500), (2000, 900, 300), (10**6, 10**6, 8000)],
)
def test_limits_of_the_process(tmp_path, size, data, left):
    """As `ulimit -v` and `ulimit -d` set them; a platform may."""
    limits = [size if size == "unlimited" else size * KB, data if data == "unlimited" else data * KB]
    text = (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        f"Max data size             {limits[1]:<20} unlimited            bytes     \n"
        "Max stack size            8388608              unlimited            bytes     \n"
        f"Max address space         {limits[0]:<20} unlimited            bytes     \n"
    )
    status = "Name:\tpython\nVmSize:\t    1500 kB\nVmRSS:\t     400 kB\nVmData:\t     600 kB\n"
    write(tmp_path, **{"proc/self/limits": text, "proc/self/status": status})
    assert memory.available(tmp_path) == left * KB


def test_more_taken_than_allowed_is_nothing_left(tmp_path):
    write(tmp_path, **{"proc/self/cgroup": "0::/\n"}, **group("sys/fs/cgroup", 10, 20))
    assert memory.available(tmp_path) == 0


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::\n", "MemAvailable: many kB\n"])
def test_files_that_make_no_sense_say_nothing(tmp_path, text):
    write(tmp_path, **{"proc/self/cgroup": text, "proc/meminfo": text})
    assert memory.available(tmp_path) == math.inf


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_a_process_takes_is_missing_afterwards():
    """Under a limit of its own, because on the machine others come and go too."""
    size = 2**28
    code = f"""
import resource
from umamba2.scans.memory import available
resource.setrlimit(resource.RLIMIT_AS, (4 * {size}, 4 * {size}))
before = available()
taken = bytearray(b'1') * {size}
print(before - available())
"""
    if memory.available() < 8 * size:
        pytest.skip("needs 2 GiB of memory")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ)
    assert float(done.stdout) == pytest.approx(size, rel=0.1)
