"""One label map to the files of another format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from umamba2.anatomy.groups import select, slug, title
from umamba2.anatomy.numberings import as_training, from_training
from umamba2.anatomy.structures import Structure
from umamba2.challenges import MULTICLASS, Challenge
from umamba2.errors import InputError
from umamba2.exports.formats import FORMATS, MESHES
from umamba2.exports.tables import Label, itksnap_table, segmentation, slicer_table
from umamba2.files import OutputRegistry, write_file
from umamba2.scans.volumes import Geometry, read_labels, stem, write_image, write_labels


@dataclass(frozen=True)
class Exported:
    """A structure that was exported, and how: the volume in mm^3 of its voxels; for a mesh also that of the mesh, and
    whether the mesh is closed."""

    structure: Structure
    volume: float
    mesh_volume: float | None = None
    closed: bool | None = None


def export(
    source: str | Path,
    folder: str | Path,
    kind: str,
    structures: Sequence[str] | None = None,
    smooth: bool = False,
    challenge: Challenge = MULTICLASS,
    numbering: str = "platform",
) -> list[Exported]:
    """Write the structures of a label map file into a folder, in a format of ``FORMATS``.

    ``stl``, ``obj``: a file per structure, ``<case>/36_lower_left_first_molar.stl``; those of structures that are
    wanted but not there any more are removed. ``glb``: one scene, ``<case>.glb``. Mesh coordinates are patient
    millimetres, LPS. ``seg.nrrd``: ``<case>.seg.nrrd``. ``nii.gz``: ``<case>.nii.gz``, with ``<case>.ctbl`` for Slicer
    and ``<case>.itksnap.txt``. ``structures``: groups or FDI numbers, default all of them. Raises InputError for a file
    that cannot be used, unknown names or ids, if there is nothing to export, and rather than overwrite ``source``.
    """
    if kind not in FORMATS:
        raise InputError(f"format: found {kind!r}, expected one of {', '.join(FORMATS)}")
    source, folder = Path(source), Path(folder)
    raw, geometry = read_labels(source)
    wanted = select(challenge.structures, structures)
    labels = as_training(raw, str(source), challenge.structures, numbering)
    counts = np.bincount(labels.ravel(), minlength=256)
    present = [structure for structure in wanted if counts[structure.training]]
    if not present:
        raise InputError(f"{source}: found none of {', '.join(structures or ())}, expected at least one")
    if kind in MESHES:
        return _export_meshes(folder, stem(source), kind, labels, geometry, wanted, smooth)
    shown = np.zeros(256, np.uint8)
    ids = from_training(challenge.structures, numbering)
    for structure in present:
        shown[structure.training] = ids[structure.training]
    table = [_label(structure, int(ids[structure.training])) for structure in present]
    path = folder / f"{stem(source)}.{kind}"
    OutputRegistry([source]).claim(path, source)
    if kind == "seg.nrrd":
        write_image(path, segmentation(shown[labels], geometry, sorted(table, key=lambda label: label.id)))
    else:
        write_labels(path, shown[labels], geometry)
        write_file(folder / f"{stem(source)}.ctbl", slicer_table(table))
        write_file(folder / f"{stem(source)}.itksnap.txt", itksnap_table(table))
    voxel = float(np.prod(geometry.spacing))
    return [Exported(structure, float(counts[structure.training]) * voxel) for structure in present]


def _export_meshes(
    folder: Path,
    name: str,
    kind: str,
    labels: np.ndarray,
    geometry: Geometry,
    wanted: list[Structure],
    smooth: bool,
) -> list[Exported]:
    from umamba2.exports.meshes import encode, encode_scene, make_surface

    surfaces, exported = [], []
    boxes = ndimage.find_objects(labels, 255)
    for structure in wanted:
        box, path = boxes[structure.training - 1], folder / name / f"{slug(structure)}.{kind}"
        if box is None:
            if kind != "glb":
                path.unlink(missing_ok=True)
            continue
        surface = make_surface(labels, box, structure, geometry, smooth)
        mesh = surface.mesh
        exported.append(Exported(structure, surface.volume, float(mesh.volume), bool(mesh.is_watertight)))
        if kind == "glb":
            surfaces.append(surface)
        else:
            write_file(path, encode(surface, kind))
    if surfaces:
        write_file(folder / f"{name}.glb", encode_scene(surfaces))
    return exported


def _label(structure: Structure, number: int) -> Label:
    return Label(number, title(structure), slug(structure), structure.colour)
