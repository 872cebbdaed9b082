"""Label maps as closed surfaces in patient millimetres.

Marching cubes come from scikit-image (Lewiner's variant, which leaves no holes), file formats and checks from trimesh:
both install everywhere with pip and need no graphics library, unlike VTK.

Vertices are in ITK's and DICOM's patient coordinates, LPS: x to the patient's left, y to the back, z to the top; the
image's origin, spacing and direction are applied. Programs that count x and y the other way (RAS) have to be told so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import trimesh
from scipy import ndimage
from skimage.measure import marching_cubes
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from umamba2.anatomy.groups import slug
from umamba2.anatomy.structures import Structure
from umamba2.scans.geometry import Array, Geometry
from umamba2.scans.orientation import to_patient

# Between 0 and 1, but not half-way: there, diagonal neighbours tie, and a tie can leave a hole.
_LEVEL = 0.499
_SMOOTH = 1.0  # voxels
_CLOSE_ENOUGH, _STEPS = 0.02, 8  # of the volume of a smooth surface: relative error, tries


@dataclass(frozen=True)
class Surface:
    """The mesh of a structure, in patient mm (LPS), and the volume in mm^3 of the voxels that it was made of."""

    structure: Structure
    mesh: trimesh.Trimesh
    volume: float


def make_surface(
    labels: npt.NDArray[np.uint8],
    box: tuple[slice, ...],
    structure: Structure,
    geometry: Geometry,
    smooth: bool = False,
) -> Surface:
    """The surface of one structure of a label map.

    The plain surface passes half-way between the voxels inside and outside, cutting their corners off. The smooth one
    is that of the blurred mask, at the level that keeps the structure's volume to two per cent, however thin it is.

    Args:
        labels: (z, y, x) in training ids.
        box: Where in it the structure is.
        structure: Which.
        geometry: The grid of the label map.
        smooth: Which surface.
    """
    mask = labels[box] == structure.training
    count = int(np.count_nonzero(mask))
    margin = 4 if smooth else 1  # so that the surface closes, even at the edge of the scan
    field = np.pad(mask, margin).astype(np.float32)
    if smooth:
        vertices, faces = _level_of_volume(ndimage.gaussian_filter(field, _SMOOTH, truncate=3.0), count)
    else:
        vertices, faces, _, _ = marching_cubes(field, _LEVEL)
    start = np.array([axis.start for axis in box]) - margin
    mesh = trimesh.Trimesh(to_patient(geometry, vertices + start), faces, process=False)
    if mesh.volume < 0:  # the axes may be left-handed
        mesh.invert()
    return Surface(structure, mesh, count * float(np.prod(geometry.spacing)))


def _level_of_volume(field: Array, count: int) -> tuple[Array, Array]:
    """Vertices and faces, in voxels, of the level surface of a field that holds about ``count`` voxels."""
    low, high = 0.0, float(field.max())
    # A good guess where the field varies: as many voxels lie above. Bisection does the rest.
    level = 0.9999 * float(np.partition(field, field.size - count, axis=None)[field.size - count])
    for _ in range(_STEPS):
        vertices, faces, _, _ = marching_cubes(field, level)
        corners = vertices[faces].astype(np.float64)
        volume = abs(np.linalg.det(corners - vertices[0]).sum()) / 6
        if abs(volume / count - 1) < _CLOSE_ENOUGH:
            break
        low, high = (level, high) if volume > count else (low, level)
        level = (low + high) / 2
    return vertices, faces


def encode(surface: Surface, kind: str) -> bytes:
    """One surface as the content of an ``stl`` (binary) or ``obj`` file (coloured per vertex)."""
    mesh = surface.mesh.copy()
    if kind == "obj":
        mesh.visual = ColorVisuals(mesh, vertex_colors=(*surface.structure.colour, 255))
        return str(mesh.export(file_type="obj", include_normals=False)).encode()
    content = mesh.export(file_type=kind)
    assert isinstance(content, bytes)
    return content


def encode_scene(surfaces: list[Surface]) -> bytes:
    """All surfaces as the content of one ``glb`` file, each a coloured mesh under its name."""
    scene = trimesh.Scene()
    for surface in surfaces:
        mesh, name = surface.mesh.copy(), slug(surface.structure)
        colour = [channel / 255 for channel in surface.structure.colour] + [1.0]
        material = PBRMaterial(name=name, baseColorFactor=colour, metallicFactor=0.0, roughnessFactor=0.7)
        mesh.visual = TextureVisuals(material=material)
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    content = scene.export(file_type="glb")
    assert isinstance(content, bytes)
    return content
