"""``umamba2 read``: a scan as it would be segmented, for a look at it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from umamba2.arguments import some_path
from umamba2.files import OutputRegistry
from umamba2.messages import say


def add_parser(commands: Any) -> None:
    """Add ``read`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "read",
        help="write a scan as it would be segmented",
        description="Read a scan, DICOM too, with every check and repair, and write what would be segmented.",
    )
    parser.set_defaults(command=run)
    parser.add_argument("scan", type=some_path, help="image, or folder, zip or file of DICOM")
    parser.add_argument("-o", "--output", required=True, type=some_path, help="where to write it (.nii.gz, .mha, ...)")
    add_series(parser)
    parser.add_argument("--strict", action="store_true", help="fail if anything was not as it should be")


def add_series(parser: argparse.ArgumentParser) -> None:
    """Add ``--series`` to a command that reads scans."""
    what = "UID or number of the DICOM series to read (default: the largest of the one patient that there is)"
    parser.add_argument("--series", metavar="SERIES", help=what)


def run(options: argparse.Namespace) -> int:
    """Write one scan; 0, or 1 if there were warnings and they count."""
    from umamba2.scans.orientation import code
    from umamba2.scans.parts import parts_of
    from umamba2.scans.volumes import read_volume, write_volume

    OutputRegistry(parts_of(options.scan)).claim(options.output, options.scan)
    volume = read_volume(options.scan, options.series)
    for warning in volume.warnings:
        say(f"warning: {warning}", sys.stderr)
    write_volume(options.output, volume.array, volume.geometry)
    size = " x ".join(map(str, volume.geometry.size))
    mm = " x ".join(f"{side:.4g}" for side in volume.grid.spacing)
    lies = code(volume.grid) if volume.oriented else "orientation unknown"
    values = f"values {volume.array.min():g} to {volume.array.max():g}"
    say(f"{options.output}  {size} voxels of {mm} mm, {lies}, {values}")
    return 1 if options.strict and volume.warnings else 0
