"""Meshes of bone: their solids against formulas of spheres and boxes, and the way they face."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from umamba2.errors import InputError
from umamba2.synthetic.bone_meshes import read_bone_meshes
from umamba2.synthetic.heads import make_head


def sphere(centre, radii, count=1500):
    """Vertices and triangles (from 0) of an ellipsoid."""
    turns = np.arange(count) * np.pi * (3 - np.sqrt(5))
    height = np.linspace(-1, 1, count)
    across = np.sqrt(1 - height**2)
    points = np.stack([across * np.cos(turns), across * np.sin(turns), height], axis=1)
    return points * radii + centre, ConvexHull(points).simplices


def write(path, *parts):
    lines, before = ["# made up"], 1
    for points, faces in parts:
        lines += ["v {:.4f} {:.4f} {:.4f}".format(*point) for point in points]
        lines += ["f " + " ".join(f"{corner + before}//1" for corner in face) for face in faces]
        before += len(points)
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["shell.obj", "shell.obj.gz"])
def test_a_shell_is_solid_between_its_surfaces_and_hollow_inside(tmp_path, name):
    outer, inner = sphere((-120, 30, 9), (60, 60, 60)), sphere((-120, 30, 9), (50, 50, 50))
    [mesh] = read_bone_meshes([write(tmp_path / name, outer, inner)])
    assert mesh.kind == "skull"
    x, y, z = np.random.default_rng(0).uniform((-70, -10, -130), (70, 130, 10), (4000, 3)).T
    radius = np.sqrt(x**2 + (y - 60) ** 2 + (z + 60) ** 2)  # the origin is the middle of the front, at the top
    true = np.maximum(radius - 60, 50 - radius)
    near = true < 3
    assert np.abs(mesh.distance(x, y, z) - true)[near].max() < 1.0
    assert np.all(mesh.distance(x, y, z)[~near] > 1.5)


def test_volume_is_that_of_a_spine_of_boxes(tmp_path):
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]  # four corners each
    bodies = [(corners * (20.2, 15.3, 12.7) + (3, 7, 17 * n), sides) for n in range(5)]
    [mesh] = read_bone_meshes([write(tmp_path / "spine.obj", *bodies)])
    assert mesh.kind == "spine"
    assert (mesh.surface < 0).sum() == pytest.approx(5 * 20.2 * 15.3 * 12.7, rel=0.1)  # cells of 1 mm


@pytest.mark.parametrize("facing", [1.0, -1.0])
def test_the_front_is_where_most_of_the_surface_is(tmp_path, facing):
    body, tail = sphere((0, 0, 0), (12, 10, 40)), sphere((6, 35, 0), (2, 25, 2))
    turned = [(points * (facing, facing, 1), faces) for points, faces in (body, tail)]
    [mesh] = read_bone_meshes([write(tmp_path / "spine.obj", *turned)])
    assert mesh.distance(np.array([0.0]), np.array([10.0]), np.array([-40.0])) < -5
    assert mesh.distance(np.array([5.0]), np.array([60.0]), np.array([-40.0])) < 1


def test_heads_wear_them(tmp_path):
    mesh = write(tmp_path / "skull.obj", sphere((0, 0, 0), (75, 90, 80)), sphere((0, 0, 0), (45, 60, 50)))
    meshes = read_bone_meshes([mesh])
    worn = 0
    for seed in range(4):
        plain, other = (make_head(seed, "upper head", (3.0,) * 3, bone_meshes=m) for m in ((), meshes))
        assert plain.image.shape == other.image.shape
        if (plain.image != other.image).mean() > 0.1:
            worn += 1
            hard = np.percentile(plain.image, 90)
            assert (other.image > hard).mean() > 1.3 * (plain.image > hard).mean()  # its bone is far thicker
    assert worn


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("v 0 0 0\n", "no face"),
        ("v 0 0 x\nf 1 1 1\n", "could not convert"),
        ("v 0 0 0\nf 1 2 3\n", "out of bounds"),
        (
            "v 0 0 0\nv 90 0 0\nv 0 90 0\nf 1 2 3\n",
            r"a surface with holes \(100% of its edges\), expected a closed one",
        ),
    ],
)
def test_what_is_no_mesh_of_bone_is_refused(tmp_path, text, found):
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(InputError, match=rf"a\.obj: found .*{found}"):
        read_bone_meshes([tmp_path / "a.obj"])


def test_sizes_that_are_not_millimetres_are_refused(tmp_path):
    path = write(tmp_path / "metres.obj", sphere((0, 0, 0), (0.08, 0.09, 0.08), 60))
    with pytest.raises(InputError, match=r"found a mesh of 0\.1\d+ mm, expected 40 to 400"):
        read_bone_meshes([path])


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "cut.obj.gz").write_bytes(gzip.compress(b"v 0 0 0\n" * 100)[:20])
    for name in ("cut.obj.gz", "absent.obj"):
        with pytest.raises(InputError, match=name):
            read_bone_meshes([tmp_path / name])
