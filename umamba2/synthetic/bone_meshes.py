"""Skulls and spines of real people, taken from closed surface meshes, for the heads of phantoms to wear."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from umamba2.errors import InputError
from umamba2.synthetic.textbook import Array

CELL = 1.0  # mm, the grid of a mesh
MARGIN = 4  # cells around it
WIDEST_SPINE = 110.0  # mm from side to side; what is wider is a skull
OPEN = 0.02  # share of the edges that may belong to one face alone


@dataclass(frozen=True)
class BoneMesh:
    """A skull without its jaws, or a cervical spine, with x to the patient's left, y to the back and z upwards.

    The origin is the middle of its front, at its top.
    """

    kind: str  # skull or spine
    surface: Array = field(repr=False)  # grid (x, y, z) of distances to the surface in mm, negative inside the bone
    low: Array  # where its first cell lies, mm
    high: Array  # where its last cell lies, mm

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Roughly the distance in mm to the bone, negative inside; far away no less than the distance to the grid."""
        cells = np.stack([(v - low) / CELL for v, low in zip((x, y, z), self.low, strict=True)], dtype=np.float32)
        last = np.reshape(self.surface.shape, (3, *[1] * np.ndim(x))) - 1
        inside = np.clip(cells, 0, last)
        beyond = np.sqrt(np.square(cells - inside).sum(axis=0)) * np.float32(CELL)
        near = ndimage.map_coordinates(self.surface, inside, order=1, mode="nearest", output=np.float32)
        distance: Array = near + beyond
        return distance


def read_bone_meshes(paths: Iterable[str | Path]) -> list[BoneMesh]:
    """Read meshes of bone, in mm, with z upwards: each a skull without its jaws or a cervical spine.

    They may face either way along y: most of the surface of either lies in its front half.

    Args:
        paths: Wavefront files, ``.obj`` or ``.obj.gz``.

    Raises:
        InputError: A file cannot be read, holds no mesh, or one with holes.
    """
    return [_solid(path, *_read(path)) for path in paths]


def _read(path: str | Path) -> tuple[Array, Array]:
    """Vertices (n, 3) and triangles (m, 3, 3) of a Wavefront file."""
    vertices, faces = [], []
    try:
        content = Path(path).read_bytes()
        for line in (gzip.decompress(content) if str(path).endswith(".gz") else content).splitlines():
            words = line.split()
            if words[:1] == [b"v"]:
                vertices.append([float(word) for word in words[1:4]])
            elif words[:1] == [b"f"]:
                first, *others = (int(word.split(b"/")[0]) for word in words[1:])
                faces += [(first, one, two) for one, two in pairwise(others)]
        corners = np.array(faces, np.int64).reshape(-1, 3)
        points = np.array(vertices, float).reshape(-1, 3)
        triangles = points[np.where(corners > 0, corners - 1, corners)]
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise InputError(f"{path}: found {error}, expected a Wavefront mesh (.obj or .obj.gz)") from None
    if not len(triangles):
        raise InputError(f"{path}: found no face, expected a mesh of bone")
    edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    if (share := (uses == 1).mean()) > OPEN:
        raise InputError(f"{path}: found a surface with holes ({share:.0%} of its edges), expected a closed one")
    return points, triangles


def _solid(path: str | Path, points: Array, triangles: Array) -> BoneMesh:
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    size = high - low
    if not 40 < size.max() < 400:
        raise InputError(f"{path}: found a mesh of {size.max():.4g} mm, expected 40 to 400 (a skull or a spine)")
    area = np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1)
    kind = "skull" if size[0] > WIDEST_SPINE else "spine"
    middle = triangles.mean(axis=1)
    lower = middle[:, 2] < (low + high)[2] / 2 if kind == "skull" else np.ones(len(middle), bool)
    front = np.average(middle[lower, 1], weights=area[lower])
    facing = -1.0 if front > (low + high)[1] / 2 else 1.0
    origin = np.array([(low + high)[0] / 2, high[1] if facing < 0 else low[1], high[2]])
    turned = (triangles - origin) * [facing, facing, 1.0]
    first = turned.min(axis=(0, 1)) - MARGIN * CELL
    shape = np.ceil(size / CELL).astype(int) + 2 * MARGIN + 1
    votes = np.zeros(shape, np.int8)
    for axis in range(3):  # where faces are missing or doubled the rays of one direction err, seldom those of all
        others = [n for n in range(3) if n != axis]
        order = [*others, axis]
        inside = _crossed(((turned - first) / CELL)[:, :, order], tuple(shape[order]))
        votes += np.moveaxis(inside, (0, 1, 2), order)
    bone = votes > 0
    field_ = ndimage.distance_transform_edt(~bone) - ndimage.distance_transform_edt(bone)
    surface = ndimage.gaussian_filter((field_ - np.sign(field_) / 2).astype(np.float32), 0.5) * np.float32(CELL)
    return BoneMesh(kind, surface, first, first + (shape - 1) * CELL)


def _crossed(triangles: Array, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """1 for cells behind an odd number of triangles (n, 3, 3), seen along the last axis, else -1; all in cells.

    A ray that leaves the mesh inside it has met a hole, and says 0.
    """
    crossings = np.zeros((shape[0], shape[1], shape[2] + 1), np.int32)
    flat = triangles + np.array([0.0137, 0.0071, 0.0])  # no ray goes through a corner of round coordinates
    start = np.ceil(flat[:, :, :2].min(axis=1)).astype(int)
    wide = (np.floor(flat[:, :, :2].max(axis=1)).astype(int) - start + 1).max(axis=0)
    a, b, c = flat[:, 0], flat[:, 1], flat[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    for i in range(wide[0]):
        for j in range(wide[1]):
            at = start + np.array([i, j])
            weights = [
                (q[:, 0] - p[:, 0]) * (at[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (at[:, 0] - p[:, 0])
                for p, q in ((b, c), (c, a), (a, b))
            ]
            with np.errstate(divide="ignore", invalid="ignore"):
                u, v, w = (weight / area for weight in weights)
            hit = (u >= 0) & (v >= 0) & (w >= 0) & (area != 0)
            depth = (np.stack([u, v, w], axis=1)[hit] * flat[hit, :, 2]).sum(axis=1)
            np.add.at(crossings, (*at[hit].T, np.ceil(depth).astype(int).clip(0, shape[2])), 1)
    behind = crossings.cumsum(axis=2) & 1
    said: npt.NDArray[np.int8] = ((2 * behind - 1) * (1 - behind[:, :, -1:]))[:, :, :-1].astype(np.int8)
    return said
