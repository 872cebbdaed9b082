"""Packed pixels, which SimpleITK unpacks in a process of its own: damaged ones can end, or never leave, its codecs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter
from pathlib import Path
from struct import pack, unpack
from threading import Timer
from types import TracebackType
from typing import cast

import numpy as np

from umamba2.errors import InputError, naming
from umamba2.scans.geometry import Array

_SECONDS, _BYTES_PER_SECOND = 60, 1_000_000  # for one slice: a hundredth of what even a slow machine does
_MEMORY = 4 << 30  # bytes of addresses for the child, besides what its slice takes
RLE, _LS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"
_SOS = 0xFFDA  # the marker after whose segment data follow
_J2K = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
# For each line with a path: says what the file holds and sends it, or says what is wrong.
_CHILD = """
import json, os, sys, tempfile
import SimpleITK as sitk
heard = tempfile.TemporaryFile()
os.dup2(heard.fileno(), 2)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
except (ImportError, ValueError, OSError):
    pass
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
for path in sys.stdin:
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(path.rstrip("\\n"))
        array = sitk.GetArrayFromImage(reader.Execute())
        os.lseek(2, 0, 0)
        said = os.read(2, 10000)
        os.ftruncate(2, 0)
        os.lseek(2, 0, 0)
        # The codec of JPEG makes up what is missing, and says so here alone.
        if b"premature end of data" in said or b"bad Huffman" in said:
            raise RuntimeError
        print(json.dumps([array.shape, array.dtype.str, b"extraneous" in said]), flush=True)
        sys.stdout.buffer.write(array)
        sys.stdout.buffer.flush()
    except Exception as error:
        print(json.dumps(type(error).__name__), flush=True)
"""


@dataclass(frozen=True)
class Packed:
    """How a packed slice is to be understood: transfer syntax, size, and numbers as `pixels.Numbers` has them."""

    syntax: str
    rows: int
    columns: int
    allocated: int
    stored: int
    high: int
    signed: bool


class Decoder:
    """The process that unpacks; it starts with the first slice and ends with the ``with`` statement."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._child is not None:
            self._child.kill()
            with suppress(OSError, ValueError):
                self._child.communicate()
        if self._folder is not None:
            self._folder.cleanup()

    def decode(self, label: str, packed: bytes, how: Packed, warnings: list[str]) -> Array:
        """Unpack a slice.

        Args:
            label: What messages call the file.
            packed: The slice.
            how: How to understand it.
            warnings: Gets a line where the slice itself states a sign or bits that leave values in doubt.

        Returns:
            The stored numbers (rows, columns).

        Raises:
            InputError: It is damaged, not of that size, or of numbers for which the header leaves no room.
        """
        if how.syntax == RLE and not _rle_is_whole(packed, how):
            raise InputError(f"{label}: found damaged pixels, expected {how.columns} x {how.rows} voxels")
        if how.syntax in _J2K and not _tiles_are_whole(packed):
            raise InputError(f"{label}: found pixels with tiles missing, expected {how.columns} x {how.rows} voxels")
        of_stream = _of_codestream if how.syntax in _J2K else _of_frame_header
        stated = None if how.syntax == RLE else of_stream(packed)
        if stated and stated[4] != 1:
            raise InputError(f"{label}: found {stated[4]} values for each packed voxel, expected 1")
        if stated and all(stated[2:4]) and stated[2:4] != (how.columns, how.rows):  # and no memory for what it asks
            size_said = f"{stated[2]} x {stated[3]} packed voxels"
            raise InputError(f"{label}: found {size_said}, expected {how.columns} x {how.rows} voxels")
        # The codec is told what the stream states: with other numbers it cuts values off, or changes their sign.
        bits, signed = stated[:2] if stated else (how.allocated, how.signed)
        most = 16 if how.syntax in _J2K else 32  # GDCM takes larger ones apart at the wrong places
        if not 0 < bits <= most:
            raise InputError(f"{label}: found packed numbers of {bits} bits, expected 1 to {most}")
        allocated = (8 if bits <= 8 else 16 if bits <= 16 else 32) if stated else how.allocated
        child = self._started(how)
        path = Path(self._folder.name if self._folder else "", "slice.dcm")
        with naming(path):
            path.write_bytes(_bare_file(packed, how, allocated, bits, signed))
        size = how.rows * how.columns
        timer = Timer(_SECONDS + size / _BYTES_PER_SECOND, child.kill)
        timer.start()
        try:
            found, odd = self._answer(path, size)
        finally:
            timer.cancel()
        if isinstance(found, str):
            why = "" if found == "RuntimeError" else f" ({found})"  # which says that the codec gave up
            raise InputError(f"{label}: found damaged pixels{why}, expected {how.columns} x {how.rows} voxels")
        if found.size != size or found.dtype.kind not in "iu":
            shape = " x ".join(map(str, reversed(found.shape)))
            raise InputError(f"{label}: found {shape} packed voxels, expected {how.columns} x {how.rows} voxels")
        if odd:
            more = f"{label}: found bytes in its packed pixels that belong to no voxel, expected none"
            warnings.append(f"{more}; grey values may be damaged")
        return _as_stated(label, found.reshape(how.rows, how.columns), how, bits, signed, warnings)

    def _started(self, how: Packed) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._folder = tempfile.TemporaryDirectory(prefix="umamba2-")
            limit = _MEMORY + 64 * how.rows * how.columns
            self._child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(limit)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._child

    def _answer(self, path: Path, most: int) -> tuple[Array | str, bool]:
        """The slice in a file, or what is wrong; and whether the codec passed over bytes."""
        child = cast("subprocess.Popen[bytes]", self._child)
        answers, orders = cast(BufferedReader, child.stdout), cast(BufferedWriter, child.stdin)
        try:
            orders.write(f"{path}\n".encode())
            orders.flush()
            said = json.loads(answers.readline() or b"null")
            if isinstance(said, list):
                shape, kind, odd = said
                array = np.empty(shape, kind)
                if array.size != most:
                    return f"{' x '.join(map(str, reversed(shape)))} voxels", odd
                if answers.readinto(array.reshape(-1).view(np.uint8).data) == array.nbytes:
                    return array, odd
            elif said is not None:
                return str(said), False
        except OSError:
            pass
        child.kill()
        child.wait()
        self._child = None  # the next slice gets another
        return f"its reader was ended by signal {-child.returncode}", False


def _bare_file(packed: bytes, how: Packed, allocated: int, bits: int, signed: bool) -> bytes:
    """A DICOM file with the pixels of a slice and nothing of a patient."""

    def element(group: int, number: int, kind: bytes, content: bytes) -> bytes:
        content += (b"\0" if kind in (b"UI", b"OB") else b" ") * (len(content) % 2)
        length = b"\0\0" + pack("<I", len(content)) if kind == b"OB" else pack("<H", len(content))
        return pack("<HH", group, number) + kind + length + content

    def short(number: int, content: int) -> bytes:
        return element(0x28, number, b"US", pack("<H", content))

    kind = b"1.2.840.10008.5.1.4.1.1.7"  # a secondary capture: nothing but a picture
    meta = element(2, 1, b"OB", b"\0\1") + element(2, 2, b"UI", kind) + element(2, 3, b"UI", b"2.25.1")
    meta += element(2, 0x10, b"UI", how.syntax.encode()) + element(2, 0x12, b"UI", b"2.25.2")
    content = element(8, 0x16, b"UI", kind) + element(8, 0x18, b"UI", b"2.25.1")
    content += short(2, 1) + element(0x28, 4, b"CS", b"MONOCHROME2") + short(0x10, how.rows) + short(0x11, how.columns)
    content += short(0x100, allocated) + short(0x101, bits) + short(0x102, bits - 1) + short(0x103, int(signed))
    packed += b"\0" * (len(packed) % 2)
    content += pack("<HH", 0x7FE0, 0x10) + b"OB\0\0" + pack("<I", 0xFFFFFFFF)
    content += pack("<HHI", 0xFFFE, 0xE000, 0) + pack("<HHI", 0xFFFE, 0xE000, len(packed)) + packed
    content += pack("<HHI", 0xFFFE, 0xE0DD, 0)
    length = element(2, 0, b"UL", pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta + content


def _as_stated(label: str, found: Array, how: Packed, bits: int, signed: bool, warnings: list[str]) -> Array:
    """Numbers of so many bits, with a sign or without, in the type that the header states."""
    numbers = found.astype(np.dtype(f"{'i' if how.signed else 'u'}{how.allocated // 8}"), copy=False)
    sizes = [
        f"{count} bits with{'out' * (not sign)} a sign" for count, sign in ((bits, signed), (how.stored, how.signed))
    ]
    line = f"{label}: found packed numbers of {sizes[0]}, expected {sizes[1]}, as the header states"
    if bits > how.allocated and (numbers != found).any():
        raise InputError(line)
    is_cut = how.signed and not signed and bits < how.stored
    line += "; which of them are negative is not certain"
    if (
        (signed and not how.signed and found.min() < 0) or (is_cut and found.max() >> (bits - 1))
    ) and line not in warnings:
        warnings.append(line)
    return numbers


def _rle_is_whole(packed: bytes, how: Packed) -> bool:
    """Whether run lengths make just as many bytes as a slice has; GDCM makes up zeros, and leaves the others out."""
    if len(packed) < 64:
        return False
    count, *starts = unpack("<16I", packed[:64])
    ends = [*starts[1:count], len(packed)]
    if count != how.allocated // 8:
        return False
    for start, end in zip(starts, ends):
        made, at = 0, start
        while at < min(end, len(packed)) and made < how.rows * how.columns:
            run = packed[at]
            made += run + 1 if run < 128 else 257 - run if run > 128 else 0
            at += run + 2 if run < 128 else 2 if run > 128 else 1
        if made != how.rows * how.columns or at > len(packed) or packed[at:end].strip(b"\0\x80"):  # but for padding
            return False
    return True


def _tiles_are_whole(packed: bytes) -> bool:
    """Whether every tile of a JPEG 2000 code stream has a part at least; OpenJPEG makes zeros of those without."""
    start = packed.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(packed) < start + 43:
        return True  # no stream at all, or one that is refused all the same
    right, bottom, _, _, width, height, left, top = unpack(">8I", packed[start + 8 : start + 40])
    if not width or not height:
        return False
    tiles = -(-(right - left) // width) * -(-(bottom - top) // height)
    at, seen = start + 2, set[int]()
    while at + 12 <= len(packed):
        marker, length = unpack(">HH", packed[at : at + 4])
        if marker != 0xFF90:  # of the main header, as long as there is no part of a tile
            if seen or marker < 0xFF00:
                break
            at += 2 + length
            continue
        tile, size = unpack(">HI", packed[at + 4 : at + 10])
        seen.add(tile)
        if size < 14:  # 0: the last part, to the end
            break
        at += size
    return bool(len(seen) >= tiles)


def _of_codestream(packed: bytes) -> tuple[int, bool, int, int, int] | None:
    """Bits and sign of the numbers in a JPEG 2000 code stream, which headers contradict at times; columns, rows, and
    values for each voxel."""
    start = packed.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(packed) < start + 43:
        return None
    values, depth = unpack(">HB", packed[start + 40 : start + 43])
    right, bottom, left, top = unpack(">4I", packed[start + 8 : start + 24])
    return (depth & 0x7F) + 1, bool(depth & 0x80), right - left, bottom - top, values


def _segments(packed: bytes, start: bytes) -> Iterator[tuple[int, bytes]]:
    """The marker segments of a JPEG, JPEG-LS or JPEG 2000 stream, which has that start, up to its first data."""
    at = packed.find(start) + 2
    while at + 4 <= len(packed):
        marker, length = unpack(">HH", packed[at : at + 4])
        if marker != 0xFFFF:
            yield marker, packed[at + 4 : at + 2 + length]
            if marker in (_SOS, 0xFF90):
                return
        at += 1 if marker == 0xFFFF else 2 + length


def _of_frame_header(packed: bytes) -> tuple[int, bool, int, int, int] | None:
    """What `_of_codestream` finds, in a JPEG or JPEG-LS stream, which knows no sign; 0 for a size left open."""
    for marker, content in _segments(packed, b"\xff\xd8"):
        is_frame = marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC))
        if is_frame and len(content) >= 6:
            bits, rows, columns, values = unpack(">BHHB", content[:6])
            return bits, False, columns, rows, values
    return None


def is_lossy(packed: bytes, syntax: str) -> bool:
    """Whether a slice was packed with loss though its transfer syntax has none (JPEG-LS, JPEG 2000)."""
    if syntax == _J2K[0]:
        coding = next((content for marker, content in _segments(packed, b"\xff\x4f") if marker == 0xFF52), b"")
        return coding[9:10] == b"\0"  # the irreversible wavelet
    if syntax == _LS:
        scan = next((content for marker, content in _segments(packed, b"\xff\xd8") if marker == _SOS), b"")
        return bool(scan) and scan[1 + 2 * scan[0] :][:1] > b"\0"  # by how much values may differ
    return False
