"""``umamba2 info``: what a report of a fault should say about the installation, or what is in a model folder."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from umamba2.messages import say

LIBRARIES = ("numpy", "SimpleITK", "connected-components-3d", "safetensors", "tqdm")  # besides torch
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")  # of a CPU, that decide how fast it is here


def add_info(commands: Any) -> None:
    """Add ``info`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "info",
        help="describe this installation, or a model",
        description="Describe a model, or without one this installation: versions, devices, memory, models at hand.",
    )
    parser.set_defaults(command=_info)
    parser.add_argument("model", nargs="?", help="model folder, or name of a model")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _info(options: argparse.Namespace) -> int:
    from umamba2.models.locate import model_folder

    if options.model is None:
        facts = installation()
        lines = [f"{name:12} {_text(value)}" for name, value in facts.items()]
    elif options.json:
        from umamba2.models.folder import facts as facts_of

        facts = dict(facts_of(model_folder(options.model)))
    else:
        from umamba2.models.folder import describe

        lines = describe(model_folder(options.model)).splitlines()
    for line in [json.dumps(facts)] if options.json else lines:
        say(line)
    return 0


def installation() -> dict[str, Any]:
    """What this installation is and would do, by topic; texts, numbers, lists and dicts that JSON can hold."""
    import torch

    import umamba2
    from umamba2.engine.network import PRECISIONS, resolve_device, resolve_precision
    from umamba2.models.locate import DEMO_MODELS, models_in, shelves
    from umamba2.scans.memory import available

    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    left = available()
    places = [*shelves(), DEMO_MODELS]
    return {
        "umamba2": f"{umamba2.__version__} in {Path(umamba2.__file__).parent}",
        "python": f"{platform.python_version()} in {sys.prefix}",
        "system": f"{platform.platform()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} threads",
        "libraries": {name: _version(name) for name in LIBRARIES},
        "cpu": _cpu(torch.backends.cpu.get_cpu_capability()),
        "gpus": [_gpu(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())],
        "chosen": f"{device}, {next(name for name, dtype in PRECISIONS.items() if dtype == precision)}",
        "memory left": f"{left / 2**30:.1f} GiB" if math.isfinite(left) else "not known",
        "extras": _extras(),
        "models": {str(place): [folder.name for folder in models_in(place)] for place in places},
        "environment": {name: value for name, value in sorted(os.environ.items()) if _matters(name)},
    }


def _text(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_text(item)}" if item else str(name) for name, item in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _cpu(capability: str) -> str:
    """Name, usable cores, and which of the instructions that matter there are; the latter as far as Linux says."""
    name, flags = platform.processor(), set[str]()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = " ".join(one for one in INSTRUCTIONS if one in flags) or "unknown"
    return f"{name or 'unknown'}, {cores} cores, instructions: {found}, torch uses {capability}"


def _gpu(device: Any) -> str:
    return f"{device.name}, {device.total_memory / 2**30:.1f} GiB, compute capability {device.major}.{device.minor}"


def _extras() -> dict[str, list[str]]:
    """The extras of the package, each with those of its libraries that are missing; none if pip did not install it."""
    with suppress(metadata.PackageNotFoundError):
        missing: dict[str, list[str]] = {}
        for line in metadata.requires("umamba2") or []:
            found = re.fullmatch(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"].*", line)
            if found:
                lacking = missing.setdefault(found[2], [])
                if _version(found[1]) is None:
                    lacking.append(f"without {found[1]}")
        return missing
    return {}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _matters(name: str) -> bool:
    return name.startswith(("UMAMBA2_", "OMP_", "MKL_", "CUDA_VISIBLE", "ITK_", "PYTORCH_", "nnUNet_"))
