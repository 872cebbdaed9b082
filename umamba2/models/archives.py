"""Archives that somebody sends: of all that is in them only a model's files are written, and only so much.

Nothing of an archive decides where a file goes: only names that a model's files have are taken, into folders that are
numbered here. An archive with a link, a device, or a name that leads out of it is refused as a whole.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from umamba2.errors import InputError, ModelError
from umamba2.models.zips import open_zip

LARGEST_MODEL = 2**34  # bytes, unpacked; five folds of the published network with their optimizers have 4e9
MOST_EXPANSION = 100  # times the size of the archive; weights hardly get smaller
SMALL = 2**26  # bytes that may be unpacked from any archive
MOST_ENTRIES = 10_000  # of an archive; nnU-Net's results folder with its validation has a few thousand
_MOST_FOLDERS = 100  # of an archive that have a file of a model's name in them
_PIECE = 2**20  # bytes that are read at a time

# A model's files, in either layout, with the folder that the archive has them in.
_FILE = re.compile(
    r"(?P<folder>(?:[^/]+/)*)"
    r"(?P<file>model\.json|[\w.-]{1,100}\.safetensors|plans\.json|dataset\.json|"
    r"fold_\w{1,8}/checkpoint_(?:best|final)\.pth)",
    re.ASCII,
)


def unpack(file: IO[bytes], name: str, target: Path) -> None:
    """Write the model in an archive into a folder.

    Args:
        file: The archive, a .zip, .tar or .tar.gz, opened for reading at its beginning.
        name: What messages call it.
        target: The folder, which exists.

    Raises:
        InputError: It is no such archive, damaged, unsafe or too large, or has no model or several in it.
    """
    size = file.seek(0, io.SEEK_END)
    start = check_kind(file, name)
    room = _Room(min(LARGEST_MODEL, max(SMALL, MOST_EXPANSION * size), shutil.disk_usage(target).free))
    folders: dict[str, Path] = {}
    try:
        if start.startswith(b"PK"):
            entries = _zip_entries(file)
        else:
            entries = _tar_entries(file, start, room)
        for path, read in entries:
            match = _FILE.fullmatch(path)
            if match is None:
                continue
            place = folders.setdefault(match["folder"], target / f".{len(folders)}") / match["file"]
            if len(folders) > _MOST_FOLDERS:
                raise ValueError(f"files of models in more than {_MOST_FOLDERS} folders")
            if place.exists():
                raise ValueError(f"{path} twice")
            place.parent.mkdir(parents=True, exist_ok=True)
            with read() as source, open(place, "xb") as out:
                while piece := source.read(_PIECE):
                    room.take(len(piece))
                    out.write(piece)
    except InputError as error:
        raise ModelError(f"{name}: {error}") from None
    except Exception as error:  # whatever a damaged or hostile file leads to
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise  # a full disk is no fault of the archive
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{name}: found {reason}, expected a .zip, .tar or .tar.gz with a model in it") from None
    _keep_the_model(folders, name, target)


def check_kind(file: IO[bytes], name: str) -> bytes:
    """The first bytes of an archive, which stands at its beginning then; ModelError if it is none that `unpack` takes.

    Args:
        file: Opened for reading.
        name: What messages call it.
    """
    file.seek(0)
    start = file.read(512)
    file.seek(0)
    if not start.startswith((b"PK", b"\x1f\x8b")) and start[257:262] != b"ustar":
        raise ModelError(f"{name}: found another kind of file, expected a .zip, .tar or .tar.gz with a model in it")
    return start


class _Room:
    """How many bytes may still be written."""

    def __init__(self, size: int):
        self.size = self._left = size

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InputError(f"found more than {self.size} bytes in it, expected a model, or more free disk")


def _keep_the_model(folders: dict[str, Path], name: str, target: Path) -> None:
    """Of several folders with files of a model's names, keep the one that is a model."""
    models = [f for f, place in folders.items() if (place / "model.json").is_file() or any(place.glob("fold_*/*.pth"))]
    if len(models) != 1:
        found = f"{len(models)} models ({', '.join(f or '.' for f in sorted(models)[:5])})" if models else "no model"
        raise ModelError(f"{name}: found {found}, expected one: model.json or fold_*/checkpoint_best.pth")
    model = folders[models[0]]
    for place in model.iterdir():
        place.replace(target / place.name)
    for place in folders.values():
        shutil.rmtree(place)


def _checked(path: str) -> str:
    """The path of an entry without "./" at its beginning, refused if it could lead anywhere else."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or re.match(r"[A-Za-z]:", path):
        raise InputError(f"found the path {path[:100]!r} in it, expected none that leads out of the archive")
    return "/".join(parts)


def _zip_entries(file: IO[bytes]) -> Iterator[tuple[str, Callable[[], Any]]]:
    with open_zip(file, MOST_ENTRIES) as archive:
        for entry in archive.infolist():
            path = _checked(entry.filename)
            kind = entry.external_attr >> 28  # as Unix has them: 4 a folder, 8 a file, 0 not stated
            if kind not in (0, 4, 8):
                raise InputError(f"found the link or device {path[:100]!r} in it, expected files and folders")
            if entry.is_dir():
                continue
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
                raise InputError(f"found {path[:100]!r} encrypted or packed in a rare way, expected a plain zip")
            yield path, partial(archive.open, entry)


def _tar_entries(file: IO[bytes], start: bytes, room: _Room) -> Iterator[tuple[str, Callable[[], Any]]]:
    plain: Any = gzip.GzipFile(fileobj=file) if start.startswith(b"\x1f\x8b") else file
    with tarfile.open(fileobj=_Careful(plain, room.size), mode="r:") as archive:
        count = 0
        while (entry := archive.next()) is not None:
            count += 1
            if count > MOST_ENTRIES:
                raise InputError(f"found more than {MOST_ENTRIES} files in it, expected fewer")
            path = _checked(entry.name)
            if entry.isdir():
                continue
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise InputError(f"found the link or device {path[:100]!r} in it, expected files and folders")
            if entry.issparse():  # holes, which a few bytes may declare any number of
                raise InputError(f"found the sparse file {path[:100]!r} in it, expected a plain tar")
            yield path, partial(archive.extractfile, entry)
        _check_end(_Careful(plain, room.size), archive.offset)


def _check_end(file: _Careful, start: int) -> None:
    """Raise ValueError unless a tar has nothing but zeros from where its files end: tarfile ends at damage, too.

    The checksum of a .gz comes last.
    """
    file.seek(start)
    count = 0
    while piece := file.read(_PIECE):
        if piece.strip(b"\0"):
            raise ValueError("a damaged header, or more behind the end of the archive")
        count += len(piece)
        file.seek(file.tell())  # which knows how much is too much
    if count < tarfile.BLOCKSIZE:
        raise ValueError("no end of the archive: it is cut off")


class _Careful(io.RawIOBase):
    """A file in which tarfile can neither go on without end nor read more at a time than a header may have."""

    def __init__(self, file: IO[bytes], size: int):
        # Whole archives with files that are passed over may be as large once more.
        self._file, self._size = file, 2 * size + SMALL

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE:
            raise ValueError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or not 0 <= offset <= self._size:
            raise InputError(f"found more than {self._size} bytes in it, expected a model")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
