"""Adding a model to those at hand: copied or fetched, checked, there only when it is whole. Nothing in it is run."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from umamba2.errors import InputError, ModelError
from umamba2.files import found_at
from umamba2.models.archives import LARGEST_MODEL, check_kind, unpack
from umamba2.models.folder import SLIM_FILE, available_folds, load_model
from umamba2.models.locate import SHELVES, is_model, shelves

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

Progress = Callable[[int, int], None]  # bytes so far, and in all; 0 where that is not known
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OWN = re.compile(r"\.umamba2-[0-9a-f]{16}")  # folders in which a model is put together
_PIECE = 2**20


def add_model(name: str, source: str, sha256: str | None = None, progress: Progress | None = None) -> tuple[Path, str]:
    """Put a model into the first folder of `shelves`, under a name that ``-m`` then takes.

    Args:
        name: Letters, digits, dots, dashes and underscores.
        source: A model folder; an archive (.zip, .tar, .tar.gz) with one model in it; or the address of an archive,
            https, http or file. Over http a checksum is needed.
        sha256: The checksum that the archive must have.
        progress: Called while an archive is fetched.

    Returns:
        The new folder, and the archive's checksum ("" for a folder).

    Raises:
        InputError: The name is taken or none, the source is no model or not the one that the checksum is of, or the
            folder cannot be written.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name[:100]!r}: expected a name of letters, digits, dots, dashes and underscores")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256 := sha256.lower().removeprefix("sha256:")):
        raise InputError(f"--sha256: found {sha256[:100]!r}, expected 64 hexadecimal digits")
    places = shelves()
    if not places:
        raise InputError(f"{SHELVES}: found none and no home folder, expected a folder for models")
    folder = places[0] / name
    if os.path.lexists(folder):
        raise InputError(f"{folder}: found one already, expected another name (or remove that folder)")
    try:
        with _new_folder(places[0]) as partial:
            found = _bring(source, partial, sha256, progress)
            try:
                load_model(partial).check()  # all folds: what is listed can be used
            except InputError as error:
                raise ModelError(str(error).replace(str(partial), source)) from None
            _publish(partial, folder)
    except OSError as error:
        place, why = error.filename or f"{source} or {folder}", error.strerror or error
        raise InputError(f"{place}: could not be copied ({why}), expected a model and a writable folder") from None
    return folder, found


def _bring(source: str, partial: Path, sha256: str | None, progress: Progress | None) -> str:
    """Put the files of a source into a folder; the checksum of an archive, "" for a folder."""
    try:
        address = urlsplit(source) if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) else None
    except ValueError as error:  # such as brackets around no IPv6 address
        raise InputError(f"{source}: found no address ({error}), expected one such as https://host/model.zip") from None
    if address is not None and address.scheme.lower() != "file":
        from umamba2.models.fetching import fetch

        if address.scheme.lower() == "http" and sha256 is None:
            raise InputError(f"{source}: found no --sha256, expected one: over http anybody on the way could change it")
        archive = partial / ".archive"
        with open(archive, "w+b") as file:
            fetch(source, file, LARGEST_MODEL, progress)
            found = _checksum(file, source, sha256)
            unpack(file, source, partial)
        archive.unlink()
        return found
    path = Path(source)
    if address is not None:
        from urllib.request import url2pathname

        if address.netloc not in ("", "localhost"):
            raise InputError(f"{source}: found the host {address.netloc}, expected file:///path")
        path = Path(url2pathname(address.path))
    if path.is_dir():
        if sha256 is not None:
            raise InputError(f"{source}: found a folder, expected an archive, of which --sha256 is the checksum")
        _copy(path, partial)
        return ""
    if not path.exists():
        found = found_at(path, "file or folder")
        raise InputError(f"{source}: found {found}, expected a model folder, an archive or its address")
    if not path.is_file():
        raise InputError(f"{source}: found neither a file nor a folder, expected a model folder or an archive")
    with open(path, "rb") as file:
        check_kind(file, source)
        found = _checksum(file, source, sha256)
        unpack(file, source, partial)
    return found


def _copy(source: Path, target: Path) -> None:
    """Copy what `load_model` reads of a model, and nothing that lies beside it or that a link leads to from there."""
    if not is_model(source):
        raise ModelError(f"{source}: found no model, expected model.json or fold_*/checkpoint_best.pth")
    described = (
        [source / SLIM_FILE]
        if (source / SLIM_FILE).is_file()
        else [source / name for name in ("plans.json", "dataset.json")]
    )
    files = [*filter(os.path.isfile, described), *available_folds(source).values()]
    size = sum(path.stat().st_size for path in files)
    room = min(LARGEST_MODEL, shutil.disk_usage(target).free)
    if size > room:
        raise InputError(f"{source}: found {size} bytes, expected a model of at most {room}, or more free disk")
    load_model(source)  # gigabytes that are no model are not copied first
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)


def _checksum(file: IO[bytes], name: str, expected: str | None) -> str:
    """The sha256 of a file, which is then at its beginning again; InputError if it is not the expected one."""
    if file.seek(0, os.SEEK_END) > LARGEST_MODEL:
        raise InputError(f"{name}: found more than {LARGEST_MODEL} bytes, expected a model's archive")
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(_PIECE):
        digest.update(piece)
    file.seek(0)
    if expected is not None and digest.hexdigest() != expected:
        raise InputError(f"{name}: found sha256 {digest.hexdigest()}, expected {expected}")
    return digest.hexdigest()


# --- whole or not at all ----------------------------------------------------------------------------------------------


def _publish(partial: Path, folder: Path) -> None:
    """Give a finished folder its name, readable for everybody and safely on the disk."""
    for path in [*partial.rglob("*"), partial]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    try:
        os.rename(partial, folder)
    except OSError:
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: found one already, which came while this was copied") from None
        raise


@contextmanager
def _new_folder(place: Path) -> Iterator[Path]:
    """A folder of our own in another one, gone in the end unless it has been renamed.

    What processes that were killed have left there is removed: the folders on which nobody holds a lock any more.
    """
    place.mkdir(parents=True, exist_ok=True)
    for left in [path for path in place.iterdir() if _OWN.fullmatch(path.name) and not path.is_symlink()]:
        with suppress(OSError):
            handle = _lock(left)
            if handle is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(handle)
    while True:
        path = place / f".umamba2-{os.urandom(8).hex()}"
        path.mkdir(mode=0o700)
        handle = None
        with suppress(OSError):  # some network drives have no locks; nothing is removed there
            handle = _lock(path)
        if path.is_dir():
            break  # else another process took it for a leftover before it was locked
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if handle is not None:
            os.close(handle)
        shutil.rmtree(path, ignore_errors=True)  # where there was no handle left to look into the folder with


def _lock(folder: Path) -> int | None:
    """Lock a folder until the handle is closed or this process ends; None where there are no locks, else OSError."""
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
