"""The scans that a folder holds: image files, and DICOM in folders, zips and single files."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from umamba2.scans.dicom.files import ENDINGS, files_below, is_dicom, is_dicom_start
from umamba2.scans.volumes import suffix

_MOST_PEEKED = 200  # files of a zip that are looked into, to see whether any is DICOM


class _Source(NamedTuple):
    """A DICOM file: whose it is and of which visit, and whether it holds several slices."""

    path: Path
    patient: str
    study: str
    frames: int


def find_scans(source: Path) -> list[Path]:
    """The scans in a folder and the folders below it, each as a path that `read_volume` reads, sorted.

    - Every image file is a scan.
    - A folder whose DICOM files, at any depth and of any name, are of one patient and one study is one scan, unless
      there are other scans below it and no DICOM file right in it: then the folders below are looked at one by one.
    - Where they are of several, these are looked at, too; each file right in the folder that holds several slices is
      a scan, and what else is right in the folder is one.
    - A zip is a scan if it holds DICOM, or cannot be opened, for its reader to say why.

    Hidden files are left out. Without pydicom, every folder with DICOM files right in it is one scan, whose reader
    says what is missing.

    Args:
        source: The folder. A file is returned as it is.
    """
    source = Path(source)
    if not source.is_dir():
        return [source]
    scans, dicom = list[Path](), dict[Path, list[_Source]]()
    for folder, files in files_below(source):
        for path in files:
            if suffix(path):
                if not path.is_dir():
                    scans.append(path)
            elif path.suffix.lower() == ".zip":
                if _is_dicom_zip(path):
                    scans.append(path)
            elif path.name.upper() != "DICOMDIR" and is_dicom(path):
                dicom.setdefault(folder, []).append(_source(path))
    return sorted({*scans, *_dicom_scans(source, dicom, scans)})


def _dicom_scans(folder: Path, dicom: dict[Path, list[_Source]], others: list[Path]) -> Iterable[Path]:
    below = {place: files for place, files in dicom.items() if place.is_relative_to(folder)}
    own = below.get(folder, [])
    everything = [file for files in below.values() for file in files]
    if not everything:
        return
    one = len({(file.patient, file.study) for file in everything}) == 1
    if one and (own or not any(other.is_relative_to(folder) for other in others)):
        yield folder
        return
    yield from (file.path for file in own if file.frames > 1)
    if any(file.frames <= 1 for file in own):
        yield folder
    inner = sorted({place.relative_to(folder).parts[0] for place in below if place != folder})
    for name in inner:
        yield from _dicom_scans(folder / name, below, others)


def _source(path: Path) -> _Source:
    """Whose a DICOM file is; a patient of its folder's own where pydicom is missing or cannot say."""
    try:
        from pydicom.filereader import read_partial
    except ImportError:
        return _Source(path, "", str(path.parent), 1)
    try:
        last = 0x00280008  # NumberOfFrames, the last that is asked for
        with open(path, "rb") as file:
            header = read_partial(file, stop_when=lambda tag, vr, length: tag > last, force=True)
        patient = f"{header.get('PatientID', '')}\n{header.get('PatientName', '')}"
        study = str(header.get("StudyInstanceUID", ""))
        if not patient.strip() and not study:
            study = str(path.parent)
        return _Source(path, patient, study, int(header.get("NumberOfFrames") or 1))
    except Exception:  # whatever is wrong with it is said when it is read
        return _Source(path, "", str(path.parent), 1)


def _is_dicom_zip(path: Path) -> bool:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in members[:_MOST_PEEKED]:
                if member.filename.lower().endswith(ENDINGS):
                    return True
                with archive.open(member) as file:
                    if is_dicom_start(file.read(132)):
                        return True
            return False
    except Exception:
        return True
