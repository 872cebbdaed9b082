"""``umamba2 export``: a label map for other programs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from umamba2.anatomy.groups import slug
from umamba2.anatomy.structures import WRITTEN_NUMBERINGS
from umamba2.challenges import CHALLENGES, MULTICLASS, find_challenge
from umamba2.errors import InputError
from umamba2.exports.formats import FORMATS, MESHES
from umamba2.messages import say


def add_parser(commands) -> None:
    """Add ``export`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "export",
        help="turn a label map into meshes, or add names and colours to it",
        description="Meshes (stl, obj, glb) are in patient millimetres, LPS as ITK has them: x to the patient's left, "
        "y to the back, z to the top.",
    )
    parser.set_defaults(command=run)
    parser.add_argument("labels", type=Path, help="label map")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder")
    parser.add_argument("--format", choices=FORMATS, default="stl", help="default: stl")
    parser.add_argument(
        "--structures",
        metavar="NAME,...",
        help="teeth, restorations, pulp, canals, jaws, sinuses, pharynx, or FDI numbers (default: everything)",
    )
    parser.add_argument("--smooth", action="store_true", help="smooth meshes that keep the structures' volumes")
    parser.add_argument("--challenge", choices=CHALLENGES, default=MULTICLASS.name, help=f"default: {MULTICLASS.name}")
    parser.add_argument(
        "--numbering", "--label-map", choices=WRITTEN_NUMBERINGS, default="platform", help="ids in the file (platform)"
    )


def run(options: argparse.Namespace) -> int:
    """Export one label map, a line on stdout per structure; returns 0, or 1 if a mesh is not closed."""
    if options.smooth and options.format not in MESHES:
        raise InputError(f"--smooth: found it with {options.format}, expected a mesh format ({', '.join(MESHES)})")
    try:
        import scipy  # noqa: F401

        if options.format in MESHES:
            import skimage  # noqa: F401
            import trimesh  # noqa: F401
    except ImportError as error:
        raise InputError(f"export: found no {error.name}, expected pip install 'umamba2[exports]'") from None
    from umamba2.exports.files import export

    wanted = None if options.structures is None else [name.strip() for name in options.structures.split(",")]
    exported = export(
        options.labels,
        options.output,
        options.format,
        wanted,
        options.smooth,
        find_challenge(options.challenge),
        options.numbering,
    )
    for one in exported:
        mesh = "" if one.mesh_volume is None else f", mesh {one.mesh_volume:.1f} mm^3"
        say(f"{slug(one.structure)}  voxels {one.volume:.1f} mm^3{mesh}")
        if one.closed is False:
            say(f"warning: {slug(one.structure)}: the mesh is not closed", sys.stderr)
    say(f"{options.output}  {len(exported)} structures as {options.format}")
    return 1 if any(one.closed is False for one in exported) else 0
