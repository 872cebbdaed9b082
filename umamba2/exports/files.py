"""One label map to the files of another format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from umamba2.anatomy.groups import select, slug
from umamba2.anatomy.numberings import as_training, from_training, ids_in
from umamba2.anatomy.structures import TOOTH_PULPS, Structure
from umamba2.challenges import MULTICLASS, Challenge
from umamba2.engine.progress import Watch, steps
from umamba2.engine.pulp import pulp_per_tooth as split_pulp
from umamba2.errors import InputError
from umamba2.exports.formats import DICOM_SEG, ENDINGS, FORMATS, MESHES, SEGMENT_TYPES
from umamba2.exports.tables import itksnap_table, segmentation, slicer_table
from umamba2.files import OutputRegistry, together, write_file
from umamba2.scans.geometry import Geometry
from umamba2.scans.parts import parts_of
from umamba2.scans.volumes import read_labels, stem, write_image, write_labels


@dataclass(frozen=True)
class Exported:
    """A structure that was exported.

    Attributes:
        structure: Which.
        volume: Of its voxels, mm^3.
        mesh_volume: Of its mesh, mm^3; None for a label map.
        closed: Whether its mesh is closed; None for a label map.
    """

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
    pulp_per_tooth: bool = False,
    segment_type: str = SEGMENT_TYPES[0],
    scan: str | Path | None = None,
    series: str | None = None,
    warnings: list[str] | None = None,
    watch: Watch | None = None,
) -> list[Exported]:
    """Write the structures of a label map file into a folder, in another format.

    Args:
        source: The label map.
        folder: Where to.
        kind: ``stl`` or ``obj``: a file per structure, ``<case>/36_lower_left_first_molar.stl`` (those of structures
            that are wanted but not there any more are removed). ``glb``: one scene, ``<case>.glb``. Mesh coordinates
            are patient millimetres, LPS. ``seg.nrrd``: ``<case>.seg.nrrd`` for 3D Slicer. ``nii.gz``:
            ``<case>.nii.gz``, with ``<case>.ctbl`` for Slicer and ``<case>.itksnap.txt``. ``dicom-seg``:
            ``<case>.seg.dcm``, a DICOM Segmentation.
        structures: Groups or FDI numbers; None for all.
        smooth: Whether to smooth the meshes.
        challenge: What the label map is of.
        numbering: Its ids, and those of what is written: "platform", "public" or "training".
        pulp_per_tooth: Whether pulp is told apart by the tooth that encloses it, as it is where the label map does so.
        segment_type: Of a DICOM Segmentation, "binary" or "labelmap".
        scan: The DICOM series that a DICOM Segmentation belongs to, as `read_volume` takes it.
        series: Which one, where there are several.
        warnings: Gets one line for everything that is doubtful.
        watch: Is told after each mesh how many are done and how many there are. What it raises, such as
            `umamba2.Cancelled`, ends the work and is raised here; nothing is written or removed then.

    Returns:
        What was there, in the order of the challenge's structures.

    Raises:
        InputError: The file cannot be used, names or ids are unknown, nothing is there to export, ``source`` would be
            overwritten, or the scan is another one.
    """
    if kind not in FORMATS:
        raise InputError(f"format: found {kind!r}, expected one of {', '.join(FORMATS)}")
    source, folder = Path(source), Path(folder)
    warnings = [] if warnings is None else warnings
    raw, geometry = read_labels(source, warnings, as_taken=True)
    challenge = challenge.as_found(numbering, ids_in(raw))
    if pulp_per_tooth:
        if numbering == "training":
            raise InputError(f"{source}: found the training numbering, expected one that has the pulps of single teeth")
        challenge = challenge.with_tooth_pulps()
    wanted = select(challenge.structures, structures)
    labels = as_training(raw, str(source), challenge.structures, numbering)
    if pulp_per_tooth:
        labels, problem = split_pulp(labels, challenge, geometry.zyx_spacing)
        warnings += [f"{source}: {problem}"] * bool(problem)
    boxes = dict(enumerate(ndimage.find_objects(labels), start=1))
    present = [structure for structure in wanted if boxes.get(structure.training)]
    if not present:
        raise InputError(f"{source}: found none of {', '.join(structures or ())}, expected at least one")
    if kind in MESHES:
        places = [_mesh_file(folder, source, structure, kind) for structure in challenge.structures]
        for output in [folder / f"{stem(source)}.glb"] if kind == "glb" else places:
            OutputRegistry(parts_of(source)).claim(output, source)
        at = {s: boxes[s.training] for s in present}
        meshes = _write_meshes(folder, source, kind, labels, at, geometry, smooth, watch)
        if kind != "glb":
            pulps = TOOTH_PULPS if any(structure.group == "pulp" for structure in wanted) else ()
            for structure in {*wanted, *pulps} - set(present):
                _mesh_file(folder, source, structure, kind).unlink(missing_ok=True)
        return meshes
    ids = from_training(challenge.structures, numbering)
    kept = np.zeros(256, np.uint8)
    for structure in present:
        kept[structure.training] = ids[structure.training]
    shown, table = kept[labels], {int(ids[s.training]): s for s in present}
    path = folder / f"{stem(source)}.{ENDINGS.get(kind, kind)}"
    tables = [folder / f"{stem(source)}.{ending}" for ending in ("ctbl", "itksnap.txt")]
    for output in (path, *tables):
        OutputRegistry(parts_of(source)).claim(output, source)
    if kind == DICOM_SEG:
        from umamba2.exports.dicom_seg import headers_of, write_dicom_seg

        headers = [] if scan is None else headers_of(scan, geometry, str(source), series)
        warnings += write_dicom_seg(path, shown, geometry, table, headers, segment_type)
    elif kind == "seg.nrrd":
        write_image(path, segmentation(shown, geometry, table))
    else:
        with together():
            write_labels(path, shown, geometry)
            write_file(tables[0], slicer_table(table))
            write_file(tables[1], itksnap_table(table))
    counts = {s: np.count_nonzero(labels[boxes[s.training]] == s.training) for s in present}
    return [Exported(structure, count * float(np.prod(geometry.spacing))) for structure, count in counts.items()]


def _mesh_file(folder: Path, source: Path, structure: Structure, kind: str) -> Path:
    return folder / stem(source) / f"{slug(structure)}.{kind}"


def _write_meshes(
    folder: Path,
    source: Path,
    kind: str,
    labels: npt.NDArray[np.uint8],
    boxes: dict[Structure, tuple[slice, ...]],
    geometry: Geometry,
    smooth: bool,
    watch: Watch | None,
) -> list[Exported]:
    from umamba2.exports.meshes import encode, encode_scene, make_surface

    surfaces, exported, step = [], [], steps(watch, len(boxes))
    with together():
        for structure, box in boxes.items():
            surface = make_surface(labels, box, structure, geometry, smooth)
            mesh = surface.mesh
            exported.append(Exported(structure, surface.volume, float(mesh.volume), bool(mesh.is_watertight)))
            if kind == "glb":
                surfaces.append(surface)
            else:
                write_file(_mesh_file(folder, source, structure, kind), encode(surface, kind))
            step()
    if surfaces:
        write_file(folder / f"{stem(source)}.glb", encode_scene(surfaces))
    return exported
