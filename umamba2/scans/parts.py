"""The files that an image consists of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from umamba2.errors import InputError
from umamba2.scans.headers import metaimage_header, nrrd_header
from umamba2.scans.volumes import suffix

_HEADERS = {".mhd": metaimage_header, ".mha": metaimage_header, ".nrrd": nrrd_header}


def parts_of(image: str | Path) -> list[Path]:
    """The files of an image: the file itself, and the one beside it that holds its voxels where it is but a header.

    Of a file that cannot be read, the file alone: who reads it will say what is wrong.
    """
    image = Path(image)
    header = _HEADERS.get(suffix(image) or "")
    data = image
    with suppress(InputError, OSError):
        data = header(image).data if header and image.is_file() else image
    return [image] if data == image else [image, data]
