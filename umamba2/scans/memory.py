"""How much memory is left for this process, in a container too.

Linux hands out more memory than there is. Where it runs out no error is raised: the process is killed, and its outputs
are missing. So whoever starts something large asks first.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of a control group, by its controllers (versions 2 and 1): the limit, the use, and how much of that are unused copies
# of files.
GROUPS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
# Of this process (`ulimit -v`, `ulimit -d`): the limit, and what counts against it.
LIMITS = {"Max address space": "VmSize:", "Max data size": "VmData:"}


def available(root: Path = Path("/")) -> float:
    """The bytes that this process may still take; infinity where the system does not say.

    All limits count: the machine's memory, those of the process, and those of every control group it is in.

    Args:
        root: The folder that holds the system's ``proc`` and ``sys``.
    """
    left = [math.inf]
    with suppress(OSError, KeyError, ValueError):
        left.append(_numbers(root / "proc/meminfo")["MemAvailable:"] * 1024)
    with suppress(OSError, KeyError, ValueError):
        used = _numbers(root / "proc/self/status")
        for line in (root / "proc/self/limits").read_text().splitlines():
            for name, use in LIMITS.items():
                if line.startswith(name) and (limit := line.removeprefix(name).split()[0]) != "unlimited":
                    left.append(int(limit) - used[use] * 1024)
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in GROUPS:
                mount = root / "sys/fs/cgroup" / controllers
                # A limit holds for all groups below it; in a container the path may be that of the host.
                group = mount / path.strip("/")
                left += [_left(g, *GROUPS[controllers]) for g in (group, *group.parents) if g.is_relative_to(mount)]
    return max(0, min(left))


def free_on_gpu(device: torch.device) -> int:
    """The bytes that may still be taken on a CUDA device, with those that torch holds without using them."""
    import torch

    held_unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held_unused


def _left(group: Path, limit: str, use: str, files: str) -> float:
    with suppress(OSError, ValueError):  # "max", for one, is no number
        return int((group / limit).read_text()) - int((group / use).read_text()) + _files(group, files)
    return math.inf


def _files(group: Path, name: str) -> int:
    with suppress(OSError, KeyError):
        return _numbers(group / "memory.stat")[name]
    return 0


def _numbers(file: Path) -> dict[str, int]:
    """The lines of a file that are a name and a number."""
    lines = (line.split() for line in file.read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
