"""How much of the host's memory is left for this process, in a container too.

Linux hands out more memory than there is. Where it runs out nobody is told: the process is killed, and its outputs are
missing. So the engine looks before it leaps.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

# The limit, the use, and what of the use is only a copy of files, of a control group (versions 2 and 1).
GROUPS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available(root: Path = Path("/")) -> float:
    """Bytes that may still be taken; infinity where the system does not tell. ``root`` is the system's, for tests."""
    left = [math.inf]
    with suppress(OSError, KeyError, ValueError):
        left.append(_numbers(root / "proc/meminfo")["MemAvailable:"] * 1024)
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in GROUPS:
                mount = root / "sys/fs/cgroup" / controllers
                # A limit holds for all groups below it; in a container the path may be that of the host.
                group = mount / path.strip("/")
                left += [_left(g, *GROUPS[controllers]) for g in (group, *group.parents) if g.is_relative_to(mount)]
    return max(0, min(left))


def _left(group: Path, limit: str, use: str, files: str) -> float:
    with suppress(OSError, ValueError):  # "max", for one, is no number
        return int((group / limit).read_text()) - int((group / use).read_text()) + _files(group, files)
    return math.inf


def _files(group: Path, name: str) -> int:
    with suppress(OSError, KeyError, ValueError):
        return _numbers(group / "memory.stat")[name]
    return 0


def _numbers(file: Path) -> dict[str, int]:
    """A file of lines that start with a name and a number."""
    return {name: int(number) for name, number, *_ in (line.split() for line in file.read_text().splitlines())}
