"""Whether a scan is whole and one scan, by what headers say beside the places of its slices.

What is lost at an end leaves no gap.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from umamba2.errors import InputError
from umamba2.scans.dicom.files import without_dicom_ending
from umamba2.scans.dicom.headers import EVERYTHING, item, read_header, text, value, whole
from umamba2.scans.dicom.places import Stack
from umamba2.scans.dicom.sources import Files


def check_listed(files: Files, path: Path, warnings: list[str]) -> None:
    """Say how many files a DICOMDIR lists that are not there; one that cannot be read lists none.

    Args:
        files: What there is.
        path: The folder, the zip, or the DICOMDIR.
        warnings: Gets a line for each DICOMDIR.
    """
    there = {_bare(name) for name in files.names} if files.directories else set[str]()
    for directory, folder in files.directories:
        try:
            values = read_header(directory, EVERYTHING, complete=True).values
        except InputError:
            continue
        listed = list[str]()
        while (record := item(values, "DirectoryRecordSequence", len(listed))) is not None:
            parts = value(record, "ReferencedFileID")
            several = isinstance(parts, Sequence) and not isinstance(parts, str)
            listed.append("/".join(map(str, parts)) if several else str(parts or ""))
        # Discs are copied with other cases and endings.
        gone = [name for name in listed if name and not any(_bare(folder + tail) in there for tail in _tails(name))]
        if path.suffix.lower() != ".zip":
            gone = [name for name in gone if not os.path.lexists(Path(directory.label).parent / name)]
        if gone:
            first = "" if path.suffix.lower() == ".zip" else f" ({gone[0][:70]!r}{', ...' * (len(gone) > 1)})"
            found = f"found {len(gone)} files that its DICOMDIR lists and that are not there"
            warnings.append(f"{path}: {found}{first}, expected all; slices may be missing")


def _tails(name: str) -> list[str]:
    """A file's path, and what is left of it below each of its folders, in which a copy of the directory may lie."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _bare(name: str) -> str:
    return without_dicom_ending(name.replace("\\", "/").partition(";")[0]).upper()


def check_whole(stack: Stack, alone: bool, name: str, warnings: list[str]) -> None:
    """Say where slices state that more belong to them than there are, or that they are not of one scan.

    Args:
        stack: The slices.
        alone: Whether no other volume is there, to which what is missing may belong.
        name: What messages call the scan.
        warnings: Gets a line for each.
    """
    frames = {frame.header.label: frame for frame in stack.frames}.values()
    headers = [frame.header.values for frame in frames]
    concatenated = [whole(values, "InConcatenationNumber") for values in headers]
    parts = max(whole(v, f"InConcatenation{what}Number") or 0 for v in headers for what in ("", "Total"))
    if parts > len(set(concatenated)):
        found = f"found {len(set(concatenated))} of the {parts} parts of a concatenation (InConcatenationTotalNumber)"
        warnings.append(f"{name}: {found}, expected all; slices are missing")
    uids = Counter(text(values, "SOPInstanceUID") for values in headers)
    shared = sum(count for uid, count in uids.items() if uid and count > 1)
    if shared:
        found = f"found {shared} slices that share a SOPInstanceUID, expected one of its own for each"
        warnings.append(f"{name}: {found}; taken for different slices")
    for what in ("PatientName", "PatientBirthDate"):
        names = [text(values, what).partition("=")[0].casefold() for values in headers]
        stated = {words for name_said in names if (words := frozenset(re.findall(r"\w+", name_said)))}
        if len(stated) > 1:
            found = f"found {len(stated)} different entries of {what} in one series"
            warnings.append(f"{name}: {found}, expected one patient; taken for one")
    depth = max(int(stack.layers[-1]) + 1, len(stack.frames) + len(stack.copies))
    for what in ("NumberOfSlices", "ImagesInAcquisition"):
        counts = {whole(values, what) for values in headers}
        count = (counts.pop() if len(counts) == 1 else None) or 0
        # Of what one acquisition made, several series may have been computed, and this be one of them.
        if alone and count > depth and (what == "NumberOfSlices" or count % depth):
            warnings.append(f"{name}: found {depth} slices, expected the {count} of its {what}; some may be missing")
