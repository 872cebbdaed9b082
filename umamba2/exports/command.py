"""``umamba2 export``: a label map for other programs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from umamba2.anatomy.groups import by_group, slug
from umamba2.anatomy.structures import WRITTEN_NUMBERINGS
from umamba2.arguments import some_path
from umamba2.challenges import CHALLENGES, MULTICLASS, find_challenge
from umamba2.errors import InputError, needing
from umamba2.exports.formats import DICOM_SEG, FORMATS, MESHES, SEGMENT_TYPES
from umamba2.messages import say
from umamba2.scans.command import add_series


def add_parser(commands: Any) -> None:
    """Add ``export`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "export",
        help="turn a label map into meshes or a DICOM Segmentation, or add names and colours to it",
        description="Meshes (stl, obj, glb) are in patient millimetres, LPS as ITK has them: x to the patient's left, "
        "y to the back, z to the top.",
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("labels", type=some_path, help="label map")
    add("-o", "--output", required=True, type=some_path, help="folder")
    add("--format", choices=FORMATS, default="stl", help="default: stl")
    groups = ", ".join(by_group(MULTICLASS.structures))
    add("--structures", metavar="NAME,...", help=f"{groups}, or FDI numbers (default: everything)")
    add("--smooth", action="store_true", help="smooth meshes that keep the structures' volumes")
    add("--pulp-per-tooth", action="store_true", help="tell the pulps of the teeth apart: ids 111-148")
    add("--seg-type", choices=SEGMENT_TYPES, default=SEGMENT_TYPES[0], help="of dicom-seg (default: binary)")
    add("--image", type=some_path, metavar="SCAN", help="the DICOM series that the label map is of (dicom-seg)")
    add_series(parser)
    add("--challenge", choices=CHALLENGES, default=MULTICLASS.name, help=f"default: {MULTICLASS.name}")
    what = "ids in the file (default: platform)"
    add("--numbering", "--label-map", choices=WRITTEN_NUMBERINGS, default="platform", help=what)


def run(options: argparse.Namespace) -> int:
    """Export one label map, a line on stdout per structure; returns 0, or 1 if a mesh is not closed."""
    if options.smooth and options.format not in MESHES:
        raise InputError(f"--smooth: found it with {options.format}, expected a mesh format ({', '.join(MESHES)})")
    if options.format == DICOM_SEG:
        with needing("dicom", f"--format {DICOM_SEG}"):
            import umamba2.exports.dicom_seg
    elif options.image is not None:
        raise InputError(f"--image: found it with {options.format}, expected --format {DICOM_SEG}")
    with needing("exports", "export"):
        from umamba2.exports.files import export

        if options.format in MESHES:
            import umamba2.exports.meshes  # noqa: F401
    wanted = None if options.structures is None else [name.strip() for name in options.structures.split(",")]
    challenge = find_challenge(options.challenge)
    warnings: list[str] = []
    exported = export(
        options.labels,
        options.output,
        options.format,
        wanted,
        options.smooth,
        challenge,
        options.numbering,
        options.pulp_per_tooth,
        options.seg_type,
        options.image,
        options.series,
        warnings,
    )
    for warning in warnings:
        say(f"warning: {warning}", sys.stderr)
    for one in exported:
        mesh = "" if one.mesh_volume is None else f", mesh {one.mesh_volume:.1f} mm^3"
        say(f"{slug(one.structure)}  voxels {one.volume:.1f} mm^3{mesh}")
        if one.closed is False:
            say(f"warning: {slug(one.structure)}: the mesh is not closed", sys.stderr)
    say(f"{options.output}  {len(exported)} structures as {options.format}")
    return 1 if any(one.closed is False for one in exported) else 0
