"""The zip of predictions that STSR's validation phase on Codabench takes."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from umamba2.errors import InputError, naming
from umamba2.files import OutputRegistry, replacing
from umamba2.jobs.manifest import MANIFEST
from umamba2.scans.volumes import read_labels

_NAME = re.compile(r"STS25_Validation_\d{4}_Mask\.nii\.gz")
_RECORDS = re.compile(rf"run(\.\d+-of-\d+)?\.json|{re.escape(MANIFEST)}")  # of the runs that made them
EXPECTED = "STS25_Validation_<four digits>_Mask.nii.gz"


def package_predictions(folder: str | Path, out: str | Path | None = None) -> Path:
    """Zip the label maps of a folder, flat, for Codabench; returns the zip (default: ``<folder>.zip``).

    The records of the runs that made them stay outside. The zip appears under its name only when it is whole. Raises
    InputError for a folder without files, a file whose name Codabench does not expect, and one that is no label map.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected one with {EXPECTED}")
    files = sorted(path for path in folder.iterdir() if path.name[0] != "." and not _RECORDS.fullmatch(path.name))
    if not files:
        raise InputError(f"{folder}: found no files, expected at least one {EXPECTED}")
    for path in files:
        if not _NAME.fullmatch(path.name) or not path.is_file():
            kind = "folder" if path.is_dir() else "file name"
            raise InputError(f"{path}: found the {kind} {path.name}, expected {EXPECTED}")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: found an empty file (0 bytes), expected a label map")
        read_labels(path)  # or it says what is wrong: there are few submissions a day
    whole = Path(os.path.abspath(folder))  # "." has a name, too
    target = whole.with_name(f"{whole.name}.zip") if out is None else Path(out)
    OutputRegistry(files).claim(target, folder)
    with replacing(target) as partial, zipfile.ZipFile(partial, "w", strict_timestamps=False) as archive:
        for path in files:  # compressed already
            with naming(path):
                content = path.read_bytes()
            archive.writestr(zipfile.ZipInfo.from_file(path, path.name, strict_timestamps=False), content)
    return target
