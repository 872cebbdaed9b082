"""The scans that a folder holds: image files, and DICOM in folders, zips and single files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from umamba2.errors import InputError
from umamba2.scans.dicom.files import files_below, has_dicom_ending, is_dicom_start
from umamba2.scans.dicom.headers import quiet, read_header, text, whole
from umamba2.scans.dicom.sources import Source, is_blank, open_zip, source_of, start_of
from umamba2.scans.volumes import suffix

_LAST = 0x00280008  # the tag of NumberOfFrames, the last that is asked for here
_MOST_PEEKED = 20_000  # files of a zip that are looked into; one with more is for its reader to look through


class _Owned(NamedTuple):
    """A DICOM file: whose it is and of which visit, and whether it holds several slices."""

    path: Path
    patient: str
    study: str
    frames: int
    readable: bool = True


def find_scans(source: Path) -> list[Path]:
    """The scans in a folder and the folders below it, each as a path that `read_volume` reads, sorted.

    - Every image file is a scan.
    - A folder whose DICOM files, at any depth and of any name, are of one patient and one study is one scan, unless
      there are other scans below it and no DICOM file right in it: then the folders below are looked at one by one.
    - Where they are of several, these are looked at, too; each file right in the folder that holds several slices is
      a scan, and what else is right in the folder is one.
    - A zip is a scan if it holds DICOM, or cannot be opened, for its reader to say why; so is a folder that cannot.

    Hidden files are left out. Without pydicom, every folder with DICOM files right in it is one scan, whose reader
    says what is missing.

    Args:
        source: The folder. A file is returned as it is.
    """
    root = Path(source)
    if not root.is_dir():
        return [root]
    scans, unread, dicom = list[Path](), list[Path](), dict[Path, list[_Owned]]()
    for folder, files in files_below(root, unread):
        for path in files:
            if suffix(path):
                if not path.is_dir():
                    scans.append(path)
            elif path.suffix.lower() == ".zip":
                if _is_dicom_zip(path):
                    scans.append(path)
            elif (found := _source_of(path)) is not None:
                dicom.setdefault(folder, []).append(_owned(found, path))
    return sorted({*scans, *unread, *_dicom_scans(root, dicom, scans)})


def _dicom_scans(folder: Path, dicom: dict[Path, list[_Owned]], others: list[Path]) -> Iterable[Path]:
    below = {place: files for place, files in dicom.items() if place.is_relative_to(folder)}
    own = below.get(folder, [])
    everything = [file for files in below.values() for file in files]
    if not everything:
        return
    one = len({(file.patient, file.study) for file in everything if file.readable}) <= 1
    if one and (own or not any(other.is_relative_to(folder) for other in others)):
        yield folder
        return
    yield from (file.path for file in own if file.frames > 1)
    if any(file.frames <= 1 for file in own):
        yield folder
    inner = sorted({place.relative_to(folder).parts[0] for place in below if place != folder})
    for name in inner:
        yield from _dicom_scans(folder / name, below, others)


def _source_of(path: Path) -> Source | None:
    anybodys = not has_dicom_ending(path.name) and path.is_file() and is_blank(path)
    return None if anybodys else source_of(path)


def _owned(source: Source, path: Path) -> _Owned:
    """Whose a DICOM file is; a patient of its folder's own where pydicom is missing."""
    try:
        with quiet():
            values = read_header(source, last=_LAST).values
        patient = text(values, "PatientID") or text(values, "PatientName")
        study = text(values, "StudyInstanceUID")
        if not (patient or study):
            study = str(path.parent)
        return _Owned(path, patient, study, whole(values, "NumberOfFrames") or 1)
    except ImportError:
        return _Owned(path, "", str(path.parent), 1)
    except InputError:  # what is wrong with it is said when it is read
        return _Owned(path, "", "", 1, readable=False)


def _is_dicom_zip(path: Path) -> bool:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open_zip(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > _MOST_PEEKED:
                return True
            for member in members:
                if has_dicom_ending(member.filename):
                    return True
                if is_dicom_start(start_of(archive, member)):
                    return True
            return False
    except Exception:
        return True
