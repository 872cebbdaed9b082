"""Which challenge this is, and where its images are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from umamba2.challenges import CHALLENGES, Challenge
from umamba2.errors import InputError
from umamba2.scans.volumes import SUFFIXES, list_volumes, suffix

_MOST_BYTES = 10_000_000  # of the platform's inputs.json, which has some hundred


def recognise(folder: str | Path | None = None) -> Challenge:
    """The challenge whose input lies in a folder (None: in one of the platforms' mounts).

    1. A challenge's image folder or an `inputs.json` means Grand Challenge: with clicks its interactive task, else the
       other one.
    2. Images in the folder itself, all with the file name ending of a challenge's outputs, mean that challenge.

    Where several challenges fit, the first one in the registry counts. Raises InputError if nothing of the kind is
    there.
    """
    folders = [Path(folder)] if folder is not None else _mounted_inputs()
    for candidate in folders:
        if not candidate.is_dir():
            continue
        clicks = _has_clicks(candidate)
        mounted = [c for c in CHALLENGES.values() if c.has_results and c.takes_clicks == clicks]
        sockets = (candidate / "inputs.json").is_file()
        found = mounted if clicks or sockets else [c for c in mounted if (candidate / c.image_folder).is_dir()]
        endings = {suffix(image) for image in list_volumes(candidate)}
        if not found and endings:
            bare = [c for c in CHALLENGES.values() if not c.image_folder and {suffix(Path(c.output_name))} == endings]
            found = bare or mounted
        if found:
            return found[0]
    places = " or ".join(map(str, folders))
    raise InputError(f"{places}: found no input of a known challenge, expected images/cbct/<image> or <case>.nii.gz")


def find_images(challenge: Challenge, folder: str | Path) -> list[Path]:
    """The images to segment, sorted by name, from the first place that has some.

    That is the challenge's image folder, a folder that `inputs.json` names, or the input folder itself.
    Raises InputError if there are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected one with images")
    for place in _image_places(challenge, folder):
        images = list_volumes(place) if place.is_dir() else []
        if images:
            return images
    place = folder / challenge.image_folder
    raise InputError(f"{place}: found no images, expected at least one of {', '.join(SUFFIXES)}")


def _image_places(challenge: Challenge, folder: Path) -> Iterator[Path]:
    yield folder / challenge.image_folder
    if not challenge.image_folder:
        return
    for _, path in _sockets(folder):
        try:
            if (folder / path).resolve().is_relative_to(folder.resolve()) and (folder / path).is_dir():
                yield folder / path
        except (OSError, ValueError, RuntimeError):  # no path at all, too long a one, a link to itself
            continue
    yield folder


def _mounted_inputs() -> list[Path]:
    return [Path(mount) for mount in dict.fromkeys(challenge.mounts[0] for challenge in CHALLENGES.values())]


def _has_clicks(folder: Path) -> bool:
    return any(folder.glob("*clicks*.json")) or any("clicks" in slug for slug, _ in _sockets(folder))


def _sockets(folder: Path) -> list[tuple[str, str]]:
    """Slug and relative path of what Grand Challenge's `inputs.json` lists; nothing if it cannot be understood."""
    path = folder / "inputs.json"
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:  # pipes and devices have no end
            return []
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return []
    sockets = []
    for entry in entries if isinstance(entries, list) else []:
        # The platform renamed interfaces to sockets in 2025.
        socket = (entry.get("socket") or entry.get("interface")) if isinstance(entry, dict) else None
        if isinstance(socket, dict) and isinstance(socket.get("relative_path"), str):
            sockets.append((str(socket.get("slug", "")), socket["relative_path"]))
    return sockets
