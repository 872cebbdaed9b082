"""``manifest.jsonl``: a line for every case that is finished, written at once, by any number of processes.

The last line about an output counts. Lines that cannot be read, as a process leaves that is killed while it writes,
count as if they were not there: their cases are done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from umamba2.errors import InputError
from umamba2.files import own_file, try_lock, unlock

MANIFEST = "manifest.jsonl"
LOCKS = ".umamba2.lock"
_MOST_BYTES = 1 << 30  # of a million cases
_MANIFEST_BYTE = 0  # of the file of locks; all others are for cases


class Manifest:
    """The records of the finished cases of a folder, and who is at work on the others.

    Args:
        folder: The output folder; made if need be.

    Raises:
        InputError: It cannot be written to.
    """

    def __init__(self, folder: Path):
        self.path = folder / MANIFEST
        self._records: dict[str, tuple[int, dict[str, Any]]] = {}  # by output: where the line begins, the line
        self._read = 0  # bytes
        self._mutex = threading.Lock()  # the locks of files are for processes alone
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # One byte for each case: they need no files of their own, and none is left behind.
            self._locks = own_file(folder / LOCKS, os.O_RDWR | os.O_CREAT)
            os.close(own_file(self.path, os.O_RDWR | os.O_CREAT))
        except OSError as error:
            raise InputError(
                f"{self.path}: could not be written ({error.strerror}), expected a writable folder"
            ) from None
        self.refresh()

    def close(self) -> None:
        """Give back all cases."""
        os.close(self._locks)

    @property
    def end(self) -> int:
        """Where the next line will begin, as far as is known: a point in time between records."""
        return self._read

    def refresh(self) -> None:
        """Read what was added since the last time, by whomever. Raises InputError if that is not possible."""
        with self._mutex, self._opened() as file:
            end = file.seek(0, os.SEEK_END)
            if end - self._read > _MOST_BYTES:
                raise InputError(f"{self.path}: found {end:,} bytes, expected at most {_MOST_BYTES:,} of records")
            if end < self._read:  # somebody has made it shorter
                self._records, self._read = {}, 0
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # still being written, or never to be
                    break
                self._take(line)
                self._read += len(line)

    def _opened(self) -> IO[bytes]:
        try:
            return os.fdopen(own_file(self.path, os.O_RDWR), "rb")
        except FileNotFoundError:  # somebody has removed it
            return BytesIO()
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"{self.path}: could not be read ({why}), expected the records of this folder") from None

    def _take(self, line: bytes) -> None:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            record = json.loads(line)
            self._records[str(record["output"])] = self._read, dict(record)

    def find(self, output: str, since: int = 0) -> dict[str, Any] | None:
        """The last record of an output (its path below the folder) that was written since a point in time, if any."""
        place, record = self._records.get(output, (-1, None))
        return record if place >= since else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (record for _, record in self._records.values())

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; it is on the disk when this returns. Raises OSError if that is not possible."""
        line = json.dumps(record, default=str).encode() + b"\n"
        with self._alone():
            handle = own_file(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                end = os.fstat(handle).st_size
                os.lseek(handle, max(0, end - 1), os.SEEK_SET)
                if os.read(handle, 1) not in (b"\n", b""):
                    line = b"\n" + line  # behind what a killed process has left
                if (written := os.write(handle, line)) != len(line):
                    if os.fstat(handle).st_size == end + written:  # else somebody's line, too, lies behind it
                        os.ftruncate(handle, end)
                    raise OSError(None, "the line is not complete; is the disk full?")
                os.fsync(handle)
            finally:
                os.close(handle)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # O_APPEND is enough on one machine; network drives need a lock.
        with self._mutex:
            while not try_lock(self._locks, _MANIFEST_BYTE, 1):
                time.sleep(0.01)
            try:
                yield
            finally:
                unlock(self._locks, _MANIFEST_BYTE, 1)

    def claim(self, output: str) -> bool:
        """Take a case for this process, until `release` or its death; False if another process has it."""
        return try_lock(self._locks, _byte(output), 1)

    def release(self, output: str) -> None:
        """Give a case back."""
        unlock(self._locks, _byte(output), 1)


def _byte(output: str) -> int:
    # Two outputs that share a byte, one pair in 10^8, wait for each other and no more.
    return 1 + int.from_bytes(hashlib.sha256(output.encode(errors="surrogateescape")).digest()[:7], "big")
