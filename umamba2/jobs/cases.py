"""The cases of ``umamba2 predict``: from what the options name to scans, their clicks, and a place for each output."""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from umamba2.challenges import Challenge
from umamba2.errors import InputError
from umamba2.files import OutputRegistry
from umamba2.jobs.job import Case
from umamba2.jobs.locate import find_images
from umamba2.scans.clicks import click_file
from umamba2.scans.dicom.files import files_below
from umamba2.scans.find import find_scans
from umamba2.scans.volumes import SUFFIXES, stem, suffix

DEFAULT_SUFFIX = ".nii.gz"  # of outputs for scans that are DICOM
COLUMNS = ("scan", "clicks", "name")  # of a list of cases; the first is needed
_MOST_BYTES, _MOST_ROWS = 10_000_000, 100_000


def cases_of(
    source: Path,
    output: Path,
    clicks: Path | None = None,
    challenge: Challenge | None = None,
    ending: str | None = None,
) -> list[Case]:
    """The cases that an input names, each with its output.

    Args:
        source: A scan, a folder that is searched (also below), a pattern such as ``scans/*/ct.nii.gz``, or a CSV list.
        output: A folder, which gets the input's subfolders; for one scan also a file name.
        clicks: A click file for one scan, or a folder of them.
        challenge: Whose folders to look for in a folder.
        ending: Of the outputs' names, such as ".mha"; None: that of the scan, for DICOM ``DEFAULT_SUFFIX``.

    Returns:
        The cases, in an order that depends on their names alone. A case with a ``problem`` cannot be done: a row of a
        list that is wrong, or an output that another case has.

    Raises:
        InputError: There are none, or the options do not fit each other.
    """
    if _is_list(source):
        if clicks is not None:
            raise InputError(f"{clicks}: found --clicks beside a list of cases, expected them in its column 'clicks'")
        cases = list(_listed(source, output))
    else:
        cases = _found(source, output, clicks, challenge, ending)
    if ending is not None:
        cases = [case if case.problem else replace(case, output=_ending_in(case.output, ending)) for case in cases]
    return _apart(cases)


def part_of(cases: list[Case], part: tuple[int, int] | None) -> list[Case]:
    """The cases of part i of n, counted from 1: every n-th, whatever is done already. None: all."""
    return cases if part is None else cases[part[0] - 1 :: part[1]]


def _is_list(source: Path) -> bool:
    return source.suffix.lower() == ".csv" and source.is_file()


def _is_pattern(source: Path) -> bool:
    return glob.has_magic(str(source)) and not os.path.lexists(source)


# --- folders and patterns -----------------------------------------------------------------------------------------


def _found(
    source: Path, output: Path, clicks: Path | None, challenge: Challenge | None, ending: str | None
) -> list[Case]:
    scans = _scans(source, output, challenge)
    single = [scan for scan, _ in scans] == [source]
    to_file = single and output.suffix != "" and not output.is_dir()
    if to_file and ending is not None and not output.name.lower().endswith("." + ending.split(".")[-1]):
        raise InputError(f"{output}: found another file name ending than {ending}, expected that or a folder")
    if to_file and ending is None and suffix(output) is None:
        raise InputError(f"{output}: found an unknown file name ending, expected {', '.join(SUFFIXES)} or a folder")
    in_folder = clicks is not None and clicks.is_dir()
    if clicks is not None and not in_folder and len(scans) > 1:
        raise InputError(f"{clicks}: found one click file for {len(scans)} images, expected a folder of them")
    names = [stem(scan) for scan, _ in scans]
    cases = []
    for (scan, place), name in zip(scans, names):
        own = click_file(_clicks_below(clicks, place), name, names) if clicks is not None and in_folder else clicks
        cases.append(Case(scan, output if to_file else output / place, own))
    return cases


def _ending_in(output: Path, ending: str) -> Path:
    """An output with another ending of its name, unless it has that already."""
    if output.name.lower().endswith("." + ending.split(".")[-1]):
        return output
    return output.with_name(stem(output) + ending)


def _clicks_below(clicks: Path, place: PurePosixPath) -> Path:
    """The subfolder for clicks that corresponds to that of an output, if there is one."""
    return clicks / place.parent if (clicks / place.parent).is_dir() else clicks


def _scans(source: Path, output: Path, challenge: Challenge | None) -> list[tuple[Path, PurePosixPath]]:
    """The scans, each with the place of its output below the output folder."""
    if source.is_dir():
        root, scans = _in_folder(source, output, challenge)
    elif _is_pattern(source):
        matches = sorted(set(_matches(source)))
        root, scans = _fixed_part(source), [path for match in matches for path in find_scans(match)]
    else:
        root, scans = source.parent, [source]
    if not scans:
        raise InputError(f"{source}: found no images, expected at least one of {', '.join(SUFFIXES)}")
    return [(scan, _place(PurePosixPath(scan.relative_to(root).as_posix()), scan)) for scan in dict.fromkeys(scans)]


def _matches(pattern: Path) -> Iterator[Path]:
    """What a pattern matches; ``**`` stands for all folders below, each once, however many links lead to it."""
    if "**" not in pattern.parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    place = pattern.parts.index("**")
    for base in _matches(Path(*pattern.parts[:place])) if place else [Path()]:
        rest = pattern.parts[place + 1 :]
        if not rest:
            yield base
        elif base.is_dir():
            for folder, _ in files_below(base):
                yield from _matches(Path(glob.escape(str(folder)), *rest))


def _place(place: PurePosixPath, scan: Path) -> PurePosixPath:
    """The place of a scan's output: that of the scan, with an ending that can be written."""
    if suffix(place.name) is not None:
        return place
    name = place.name or Path(os.path.abspath(scan)).name
    if os.path.isfile(scan) and scan.suffix.lower() in (".dcm", ".zip"):
        name = name[: -len(scan.suffix)]
    return place.parent / (name + DEFAULT_SUFFIX)


def _in_folder(source: Path, output: Path, challenge: Challenge | None) -> tuple[Path, list[Path]]:
    """The folder that outputs are placed by, and the scans in it."""
    if challenge is not None:
        try:
            images = find_images(challenge, source)
        except InputError:
            images = []
        if images and images[0].parent != source:  # what the platform mounts
            return images[0].parent, images
    own = Path(os.path.realpath(output))  # what an earlier run has written is no input
    inside = own.is_relative_to(os.path.realpath(source)) and own != Path(os.path.realpath(source))
    return source, [
        scan for scan in find_scans(source) if not (inside and Path(os.path.realpath(scan)).is_relative_to(own))
    ]


def _fixed_part(pattern: Path) -> Path:
    """The folders at the beginning of a pattern that are no pattern."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


# --- lists --------------------------------------------------------------------------------------------------------


def _listed(source: Path, output: Path) -> Iterator[Case]:
    """The cases of a CSV list; those of rows that are wrong have a problem that names the line."""
    rows = _rows(source)
    try:
        _, header = next(rows)
    except StopIteration:
        raise InputError(f"{source}: found an empty file, expected a line with {', '.join(COLUMNS)}") from None
    names = [name.strip().lower() for name in header]
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or len(set(names)) != len(names) or COLUMNS[0] not in names:
        expected = f"{COLUMNS[0]}, and perhaps {' and '.join(COLUMNS[1:])}"
        raise InputError(f"{source}: line 1: found the columns {', '.join(names)[:200]}, expected {expected}")
    count = 0
    for number, row in rows:
        if any(value.strip() for value in row):
            count += 1
            if count > _MOST_ROWS:
                raise InputError(f"{source}: found more than {_MOST_ROWS:,} rows, expected lists of at most those")
            yield _row(source, number, names, row, output)
    if not count:
        raise InputError(f"{source}: found no rows below the header, expected a case in each")


def _row(source: Path, number: int, names: list[str], row: list[str], output: Path) -> Case:
    values = dict(zip(names, (value.strip() for value in row)))
    scan, clicks, name = (values.get(column, "") for column in COLUMNS)
    image, click_path = source.parent / scan, source.parent / clicks if clicks else None
    place = PurePosixPath(name or image.name)
    if suffix(place.name) is None:
        place = place.parent / (place.name + (suffix(image) or "")) if name and suffix(image) else _place(place, image)
    problem = ""
    if len(row) != len(names):
        problem = f"found {len(row)} columns, expected {len(names)}"
    elif not scan:
        problem = "found no scan, expected a path"
    elif not os.path.exists(image):  # not Path.exists, which raises where a name is too long
        problem = f"found no such file as {image}, expected a scan"
    elif click_path is not None and not os.path.isfile(click_path):
        problem = f"found no such file as {click_path}, expected clicks"
    elif place.is_absolute() or ".." in place.parts or name in (".", "/") or "\0" in name:
        problem = f"found the name {name}, expected one below the output folder"
    line = f"{source}: line {number}"
    return Case(image, output / place, click_path, line, problem and f"{line}: {problem}")


def _rows(source: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the number of its first line; commas, semicolons or tabs."""
    if source.stat().st_size > _MOST_BYTES:
        raise InputError(f"{source}: found more than {_MOST_BYTES:,} bytes, expected a list of cases")
    try:
        text = source.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
        before = 0
        for row in reader:
            yield before + 1, row
            before = reader.line_num
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{source}: found no readable CSV in UTF-8 ({reason}), expected a list of cases") from None


# --- one output for each ------------------------------------------------------------------------------------------


def _apart(cases: list[Case]) -> list[Case]:
    """The cases; those whose output is an image of any, or belongs to an earlier one, get a problem.

    Outputs that differ in their endings alone, as a.mha and a.nii.gz, share the names of what else is written: of these
    the first has them, in every run and process.
    """
    outputs = OutputRegistry(part for case in cases if not case.problem for part in case.files)
    taken: set[Path] = set()
    beside: dict[Path, Path] = {}
    checked = []
    for case in cases:
        if not case.problem:
            try:
                outputs.claim(case.output, case.image)
                if case.output in taken:
                    raise InputError(f"{case.image}: found the output {case.output} twice, expected one for each case")
                taken.add(case.output)
                first = beside.setdefault(case.output.with_name(stem(case.output).removesuffix(".seg")), case.output)
                case = case if first == case.output else replace(case, taken=first)
            except InputError as error:
                case = replace(case, problem=f"{case.line}: {error}" if case.line else str(error))
        checked.append(case)
    return checked
