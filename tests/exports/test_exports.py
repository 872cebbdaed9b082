from __future__ import annotations

import errno
import os
import sys

import highdicom as hd
import nrrd
import numpy as np
import pytest
import slicerio
import trimesh
from dicom_cases import write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from stand_in import DIRECTION, OBLIQUE, write_image

from umamba2 import cli
from umamba2.anatomy.groups import slug
from umamba2.anatomy.numberings import from_training, to_training
from umamba2.anatomy.structures import ANATOMY
from umamba2.challenges import STSR
from umamba2.errors import Cancelled, InputError
from umamba2.exports import export
from umamba2.exports.meshes import make_surface
from umamba2.scans.orientation import to_patient
from umamba2.scans.volumes import Geometry, read_labels
from umamba2.synthetic.phantoms import make_phantom

TILTED = Geometry((50, 44, 40), (0.31, 0.27, 0.55), (-12.25, 40.5, 7.125), DIRECTION)
LEFT_HANDED = Geometry(
    (50, 44, 40), (0.31, 0.27, 0.55), (3.0, 2.0, 1.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
)
PHARYNX = ANATOMY[6]


def ball(radius, centre=(20, 22, 25), shape=(40, 44, 50)):
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum((axis - middle) ** 2 for axis, middle in zip((z, y, x), centre)) <= radius**2


def surface_of(labels, geometry, smooth=False):
    box = ndimage.find_objects(labels)[PHARYNX.training - 1]
    return make_surface(labels, box, PHARYNX, geometry, smooth)


@pytest.fixture(scope="module")
def mouth(tmp_path_factory):
    """A small phantom as a label map in platform ids, on an oblique grid."""
    phantom = make_phantom(3, (64, 100, 120), (0.8, 0.8, 0.8))
    geometry = Geometry((120, 100, 64), (0.8, 0.8, 0.8), (5.0, -3.0, 2.0), DIRECTION)
    labels = from_training(ANATOMY)[to_training(ANATOMY, "dataset")[phantom.labels]]
    return write_image(tmp_path_factory.mktemp("mouth") / "mouth.mha", labels, geometry)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("geometry", [TILTED, LEFT_HANDED])
def test_meshes_are_closed_and_as_large_as_the_voxels(geometry, smooth):
    labels = np.where(ball(9), 7, 0).astype(np.uint8)
    surface = surface_of(labels, geometry, smooth)
    assert surface.mesh.is_watertight
    assert surface.mesh.is_winding_consistent
    assert surface.volume == pytest.approx(ball(9).sum() * np.prod(geometry.spacing))
    assert surface.mesh.volume == pytest.approx(surface.volume, rel=0.02)  # positive: the faces look outwards


def test_a_mesh_lies_where_the_voxels_lie():
    labels = np.zeros((40, 44, 50), np.uint8)
    labels[5:31, 7:20, 9:33] = 7
    box = surface_of(labels, TILTED).mesh
    # The surface passes half-way between voxel centres: half a voxel beyond the outermost ones.
    ends = np.array([(z, y, x) for z in (4.5, 30.5) for y in (6.5, 19.5) for x in (8.5, 32.5)])
    expected = to_patient(TILTED, ends)
    slack = 0.75 * max(TILTED.spacing)  # corners are cut
    np.testing.assert_allclose(box.bounds, [expected.min(0), expected.max(0)], atol=slack)
    direction = np.reshape(TILTED.direction, (3, 3))
    along_axes = (box.vertices - TILTED.origin) @ direction / TILTED.spacing
    np.testing.assert_allclose(along_axes.min(0), (8.5, 6.5, 4.5), atol=0.01)
    np.testing.assert_allclose(along_axes.max(0), (32.5, 19.5, 30.5), atol=0.01)
    np.testing.assert_allclose(box.centroid, to_patient(TILTED, np.array([[17.5, 13, 20.5]]))[0], atol=0.01)


def test_smooth_meshes_are_smoother_and_keep_thin_canals():
    labels = np.zeros((40, 44, 50), np.uint8)
    labels[4:36, 20:23, 24:27] = 7  # three voxels thick
    plain, smooth = (surface_of(labels, TILTED, flag) for flag in (False, True))
    assert smooth.mesh.volume == pytest.approx(smooth.volume, rel=0.02)
    assert plain.mesh.volume < 0.97 * plain.volume
    rounded = np.where(ball(9), 7, 0).astype(np.uint8)
    plain, smooth = (surface_of(rounded, TILTED, flag).mesh for flag in (False, True))
    assert smooth.face_adjacency_angles.mean() < 0.6 * plain.face_adjacency_angles.mean()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99), st.booleans())
def test_every_mask_has_a_closed_mesh(seed, share, smooth):
    mask = np.random.default_rng(seed).random((5, 6, 7)) < share
    mask[2, 3, 4] = True
    surface = surface_of(np.where(mask, 7, 0).astype(np.uint8), OBLIQUE, smooth)
    assert surface.mesh.is_watertight
    assert surface.mesh.volume > 0


@pytest.mark.parametrize("kind", ["stl", "obj"])
def test_one_file_per_structure(mouth, tmp_path, kind):
    exported = export(mouth, tmp_path / "out", kind, ["canals", "36", "11"])
    names = {path.name for path in (tmp_path / "out/mouth").iterdir()}
    assert names == {f"{slug(one.structure)}.{kind}" for one in exported}
    assert f"11_upper_right_central_incisor.{kind}" in names
    assert f"left_inferior_alveolar_canal.{kind}" in names
    array, geometry = read_labels(mouth)
    for one in exported:
        mesh = trimesh.load(tmp_path / f"out/mouth/{slug(one.structure)}.{kind}", force="mesh")
        assert mesh.is_watertight
        assert one.closed
        assert mesh.volume == pytest.approx(one.mesh_volume, rel=1e-3)
        points = to_patient(geometry, np.argwhere(array == one.structure.platform))
        np.testing.assert_allclose(mesh.bounds, [points.min(0), points.max(0)], atol=0.8)
        if kind == "obj":
            assert tuple(mesh.visual.vertex_colors[0][:3]) == one.structure.colour


@pytest.mark.parametrize("kind", ["obj", "nii.gz"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("after", [0, 2])
def test_one_file_of_many_that_cannot_be_written(mouth, tmp_path, monkeypatch, kind, step, after):
    """No new ones beside old ones; should the disk fail when all are whole, it is said which are new."""
    export(mouth, tmp_path, kind, ["36", "11", "46"])
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    labels, geometry = read_labels(mouth)
    swapped = np.where((labels == 36) | (labels == 46), 82 - labels, labels)
    source = write_image(tmp_path / "other/mouth.nii.gz", swapped, geometry)
    done, real = [], getattr(os, step)

    def failing(*arguments):
        if len(done) == after:
            raise OSError(errno.EIO, "Input/output error")
        done.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(os, step, failing)
    with pytest.raises(InputError, match=r"could not be written \(Input/output error\), expected a") as error:
        export(source, tmp_path, kind, ["36", "11", "46"])
    monkeypatch.undo()
    source.unlink()
    found = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found.keys() == before.keys()  # and none of our own
    new = [os.path.basename(path) for _, path in done] if step == "replace" else []
    assert str(error.value).partition("; already new: ")[2] == ", ".join(new)
    assert {name for name in found if found[name] != before[name]} <= set(new)


@pytest.mark.parametrize("kind", ["stl", "glb"])
def test_a_watcher_hears_of_every_mesh_and_may_stop_them(mouth, tmp_path, kind):
    told = []
    exported = export(mouth, tmp_path, kind, ["teeth"], watch=lambda *so_far: told.append(so_far))
    assert told == [(done, len(exported)) for done in range(len(exported) + 1)]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any("11_" in path.name for path in before) == (kind == "stl")

    def stop(done, total):
        if done == 3:
            raise Cancelled("enough")

    # Other meshes, and a tooth that is not there any more: nothing of it may show.
    labels, geometry = read_labels(mouth)
    source = write_image(tmp_path / "other" / "mouth.mha", np.where(labels == 11, 0, labels), geometry)
    with pytest.raises(Cancelled):
        export(source, tmp_path, kind, ["teeth"], smooth=True, watch=stop)
    source.unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_scene_of_all(mouth, tmp_path):
    exported = export(mouth, tmp_path, "glb", smooth=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mouth.glb"]
    scene = trimesh.load(tmp_path / "mouth.glb")
    assert list(scene.geometry) == [slug(one.structure) for one in exported]
    for one, mesh in zip(exported, scene.geometry.values()):
        assert tuple(mesh.visual.material.baseColorFactor[:3]) == pytest.approx(one.structure.colour, abs=1)
        assert mesh.volume == pytest.approx(one.mesh_volume, rel=1e-3)
    points = to_patient(read_labels(mouth)[1], np.argwhere(read_labels(mouth)[0] > 0))
    np.testing.assert_allclose(scene.bounds, [points.min(0), points.max(0)], atol=1.0)


def test_volumes_are_those_of_the_voxels(mouth, tmp_path):
    array, _ = read_labels(mouth)
    for one in export(mouth, tmp_path, "nii.gz"):
        assert one.volume == pytest.approx((array == one.structure.platform).sum() * 0.8**3)


@pytest.mark.parametrize("kind", ["stl", "nii.gz", "seg.nrrd"])
def test_a_voxel_size_in_metres_is_taken_for_the_one_that_is_said(tmp_path, capsys, kind):
    grid = Geometry((36, 30, 20), (0.0014, 0.0014, 0.0014))
    path = write_image(tmp_path / "a.mha", make_phantom(0, (20, 30, 36), (1.4, 1.4, 1.4)).labels, grid)
    warnings = []
    found = export(path, tmp_path / "out", kind, numbering="public", warnings=warnings)
    assert any("taken for 1.4 x 1.4 x 1.4 mm" in line for line in warnings)
    assert max(one.volume for one in found) > 100
    for written in (tmp_path / "out").rglob("*.*"):
        if kind == "stl":
            assert max(trimesh.load(written).extents) > 1
        elif written.suffix != ".ctbl" and "".join(written.suffixes[-2:]) in (".nii.gz", ".seg.nrrd"):
            assert read_labels(written)[1].spacing == pytest.approx((1.4, 1.4, 1.4))


def test_slicer_reads_the_segmentation(mouth, tmp_path):
    export(mouth, tmp_path, "seg.nrrd")
    path = tmp_path / "mouth.seg.nrrd"
    array, geometry = read_labels(mouth)
    copy, copied = read_labels(path)
    np.testing.assert_array_equal(copy, array)
    np.testing.assert_allclose(copied.direction, geometry.direction, atol=1e-12)
    np.testing.assert_allclose(copied.origin, geometry.origin)
    read = slicerio.read_segmentation(str(path))
    assert read["containedRepresentationNames"] == ["Binary labelmap"]
    assert [segment["labelValue"] for segment in read["segments"]] == np.unique(array)[1:].tolist()
    colours = {s.platform: s.colour for s in ANATOMY}
    for segment in read["segments"]:
        at = np.argwhere(array == segment["labelValue"])[:, ::-1]
        assert segment["extent"] == np.stack([at.min(0), at.max(0)], axis=1).ravel().tolist()
        np.testing.assert_allclose(segment["color"], np.array(colours[segment["labelValue"]]) / 255, atol=1e-5)
        assert segment["layer"] == 0
    named = {segment["labelValue"]: (segment["id"], segment["name"]) for segment in read["segments"]}
    assert named[11] == ("11_upper_right_central_incisor", "11 upper right central incisor")
    assert named[3] == ("left_inferior_alveolar_canal", "left inferior alveolar canal")
    header = nrrd.read_header(str(path))
    assert header["space"] == "left-posterior-superior"
    assert header["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"


def test_label_map_with_its_tables(mouth, tmp_path):
    exported = export(mouth, tmp_path, "nii.gz", ["jaws", "48"])
    array, _ = read_labels(mouth)
    assert set(np.unique(read_labels(tmp_path / "mouth.nii.gz")[0])) == {0, 1, 2, 48}
    np.testing.assert_array_equal(
        read_labels(tmp_path / "mouth.nii.gz")[0], np.where(np.isin(array, (1, 2, 48)), array, 0)
    )
    slicer = (tmp_path / "mouth.ctbl").read_text().splitlines()
    assert slicer[0].startswith("# Color table file")
    assert slicer[2:4] == ["0 Background 0 0 0 0", "1 lower_jawbone 222 203 164 255"]
    assert all(len(line.split()) == 6 for line in slicer[2:])
    snap = [line for line in (tmp_path / "mouth.itksnap.txt").read_text().splitlines() if line[0] != "#"]
    assert snap[0] == '0 0 0 0 0 0 0 "Clear Label"'
    assert snap[-1].endswith('1 1 1 "48 lower right third molar"')
    assert [int(line.split()[0]) for line in snap] == [0, *(one.structure.platform for one in exported)]


def test_other_numberings_and_challenges(tmp_path):
    labels = np.zeros((40, 44, 50), np.uint8)
    labels[5:9, 5:9, 5:9], labels[20:30, 20:30, 20:30] = 1, 12
    source = write_image(tmp_path / "a.nrrd", labels, TILTED)
    exported = export(source, tmp_path / "stsr", "stl", ["teeth", "pulp"], challenge=STSR)
    names = [one.structure.name for one in exported]
    assert names == ["tooth", "wisdom tooth"]
    names = [one.structure.name for one in export(source, tmp_path / "training", "stl", numbering="training")]
    assert names == ["lower jawbone", "upper right lateral incisor"]


@pytest.mark.parametrize(
    ("value", "options", "says"),
    [
        (0, [], "found no structure (every voxel is 0), expected at least one"),
        (99, [], "found unknown ids 99, expected ids of the platform numbering"),
        (7, ["--structures", "teeth"], "found none of teeth, expected at least one"),
        (7, ["--structures", "nose"], "structures: found 'nose', expected teeth, "),
        (7, ["--format", "nii.gz", "--smooth"], "--smooth: found it with nii.gz, expected a mesh format"),
    ],
)
def test_bad_input_costs_one_line(tmp_path, capsys, value, options, says):
    source = write_image(tmp_path / "a.mha", np.full((7, 11, 13), value, np.uint8))
    assert cli.main(["export", str(source), "-o", str(tmp_path / "out"), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (tmp_path / "out").exists()


def test_cases_do_not_mix_and_meshes_do_not_go_stale(tmp_path):
    labels = np.zeros((40, 44, 50), np.uint8)
    labels[5:9, 5:9, 5:9], labels[20:30, 20:30, 20:30], labels[32:36, 5:9, 5:9] = 1, 11, 7
    first = write_image(tmp_path / "a b.mha", labels, TILTED)
    second = write_image(tmp_path / "ü.mha", np.where(labels == 11, 12, labels), TILTED)
    for source in (first, second):
        export(source, tmp_path / "out", "stl")
    names = {"lower_jawbone.stl", "pharynx.stl"}
    incisors = {"11_upper_right_central_incisor.stl", "12_upper_right_lateral_incisor.stl"}
    found = {path.name: {mesh.name for mesh in path.iterdir()} for path in (tmp_path / "out").iterdir()}
    assert sorted(found) == ["a b", "ü"]
    assert found["a b"] | found["ü"] == names | incisors
    assert found["a b"] & found["ü"] == names
    # The tooth has another number now, and there is no pharynx; but only teeth are asked for.
    write_image(first, np.where(labels == 11, 12, labels % 7), TILTED)
    (tmp_path / "out/a b/notes.txt").touch()
    export(first, tmp_path / "out", "stl", ["teeth"])
    left = {path.name for path in (tmp_path / "out/a b").iterdir()}
    assert left == names | {"12_upper_right_lateral_incisor.stl", "notes.txt"}


@pytest.mark.parametrize("kind", ["nii.gz", "seg.nrrd"])
def test_the_input_is_never_overwritten(tmp_path, kind):
    source = write_image(tmp_path / f"a.{kind}", np.full((7, 11, 13), 7, np.uint8))
    link = tmp_path / f"other/a{'.seg' if kind == 'seg.nrrd' else ''}.{kind}"
    link.parent.mkdir()
    link.symlink_to(source)
    before = source.read_bytes()
    if kind == "nii.gz":
        with pytest.raises(InputError, match="found an input as its output"):
            export(source, tmp_path, kind)
    with pytest.raises(InputError, match="found an input as its output"):
        export(source, link.parent, kind)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("nii.gz", "a.nii.gz"), ("nii.gz", "a.ctbl"), ("nii.gz", "a.itksnap.txt"), ("seg.nrrd", "a.seg.nrrd"),
        ("glb", "a.glb"), ("dicom-seg", "a.seg.dcm"), ("stl", "lower_jawbone.stl"),
        ("stl", "upper_jawbone.stl"),  # what is not there is removed
    ],
)  # fmt: skip
def test_the_voxels_of_a_header_are_not_overwritten_either(tmp_path, kind, data):
    folder = tmp_path / "a"
    source = write_image(folder / "a.mhd", np.full((7, 11, 13), 1, np.uint8))
    text = source.read_text()
    voxels = next(path for path in folder.iterdir() if path != source)
    source.write_text(text.replace(voxels.name, data))
    voxels.rename(folder / data)
    before = (folder / data).read_bytes()
    with pytest.raises(InputError, match="found an input as its output"):
        export(source, tmp_path if kind == "stl" else folder, kind)
    assert (folder / data).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(["a.mhd", data])


def test_the_command_line_lists_what_it_wrote(mouth, tmp_path, capsys):
    assert cli.main(["export", str(mouth), "-o", str(tmp_path), "--structures", "jaws", "--smooth"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["lower_jawbone", "upper_jawbone"]
    assert lines[-1] == f"{tmp_path}  2 structures as stl"


def pulpy(path):
    """A tooth with its pulp, and a lump of pulp far away."""
    labels = np.zeros((20, 20, 40), np.uint8)
    labels[2:18, 2:18, 2:18], labels[6:14, 6:14, 6:14], labels[8:12, 8:12, 30:34] = 36, 50, 50
    return write_image(path, labels, Geometry((40, 20, 20), (0.3, 0.3, 0.3))), labels


def test_pulp_is_exported_per_tooth(tmp_path, capsys):
    source, labels = pulpy(tmp_path / "a.mha")
    assert cli.main(["export", str(source), "-o", str(tmp_path / "out"), "--pulp-per-tooth", "--format", "nii.gz"]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {source}: pulp per tooth: found no tooth around 64 voxels")
    written, _ = read_labels(tmp_path / "out/a.nii.gz")
    expected = labels.copy()
    expected[6:14, 6:14, 6:14] = 136
    np.testing.assert_array_equal(written, expected)
    assert '"pulp of tooth 36"' in (tmp_path / "out/a.itksnap.txt").read_text()
    # What is told apart in a file stays so.
    names = [one.structure.name for one in export(tmp_path / "out/a.nii.gz", tmp_path / "meshes", "stl", ["pulp"])]
    assert names == ["pulp", "pulp of tooth 36"]
    meshes = {path.name for path in (tmp_path / "meshes/a").iterdir()}
    assert meshes == {"pulp.stl", "pulp_of_tooth_36.stl"}
    # And what is not does not leave the others lying there.
    assert [one.structure.name for one in export(source, tmp_path / "meshes", "stl", ["pulp"])] == ["pulp"]
    assert {path.name for path in (tmp_path / "meshes/a").iterdir()} == {"pulp.stl"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--numbering", "training"], "found the training numbering, expected one that has the pulps of single teeth"),
        (["--challenge", "stsr"], "pulp per tooth: found the challenge stsr, expected one with pulp"),
    ],
)
def test_pulp_per_tooth_needs_teeth_by_number(tmp_path, capsys, options, says):
    source = write_image(tmp_path / "a.mha", np.full((7, 11, 13), 7, np.uint8))
    assert cli.main(["export", str(source), "-o", str(tmp_path / "out"), "--pulp-per-tooth", *options]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_dicom_segmentation_of_a_label_map(mouth, tmp_path, capsys, kind):
    options = ["--format", "dicom-seg", "--seg-type", kind, "--structures", "teeth"]
    assert cli.main(["export", str(mouth), "-o", str(tmp_path), *options]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"warning: {tmp_path}/mouth.seg.dcm: found a scan that is no DICOM")
    seg = hd.seg.segread(tmp_path / "mouth.seg.dcm")
    assert seg.SegmentationType == kind.upper()
    segments = {segment.SegmentLabel for segment in seg.SegmentSequence if segment.SegmentNumber}
    assert segments == {line.split("  ")[0].replace("_", " ") for line in said.out.splitlines()[:-1]}


def test_a_dicom_segmentation_belongs_to_the_scan_that_is_named(tmp_path, capsys):
    geometry = Geometry((13, 11, 9), (0.3, 0.3, 0.5), (1.0, 2.0, 3.0))
    series = write_series(tmp_path / "series", geometry)
    labels = np.zeros((9, 11, 13), np.uint8)
    labels[2:5, 3:6, 4:9] = 36
    source = write_image(tmp_path / "a.nii.gz", labels, geometry)
    options = ["-o", str(tmp_path / "out"), "--format", "dicom-seg", "--image"]
    assert cli.main(["export", str(source), *options, str(series)]) == 0
    assert capsys.readouterr().err == ""
    seg = hd.seg.segread(tmp_path / "out/a.seg.dcm")
    assert seg.PatientID == "PHANTOM-7"
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 9
    # Another place, or no DICOM
    moved = write_image(tmp_path / "b.nii.gz", labels, Geometry((13, 11, 9), (0.3, 0.3, 0.5), (1.0, 2.0, 4.0)))
    assert cli.main(["export", str(moved), *options, str(series)]) == 1
    assert "b.nii.gz: found origin (1, 2, 4), expected (1, 2, 3) as " in capsys.readouterr().err
    assert cli.main(["export", str(source), *options, str(source)]) == 1
    assert "found no DICOM, expected the series that" in capsys.readouterr().err
    assert cli.main(["export", str(source), "-o", str(tmp_path / "out"), "--image", str(series)]) == 1
    assert "--image: found it with stl, expected --format dicom-seg" in capsys.readouterr().err


def test_without_the_library_the_extra_is_named(tmp_path, capsys, monkeypatch):
    source = write_image(tmp_path / "a.mha", np.full((7, 11, 13), 7, np.uint8))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.delitem(sys.modules, "umamba2.exports.dicom_seg", raising=False)
    assert cli.main(["export", str(source), "-o", str(tmp_path), "--format", "dicom-seg"]) == 1
    assert "--format dicom-seg: found no highdicom, expected pip install 'umamba2[dicom]'" in capsys.readouterr().err
