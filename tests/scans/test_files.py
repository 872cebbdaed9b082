"""Files are whole or not there, whatever happens, and are never written over what was read."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from stand_in import OBLIQUE

from umamba2 import files
from umamba2.errors import InputError
from umamba2.evaluation.cases import read_results
from umamba2.files import OutputRegistry, replacing, together, write_file
from umamba2.scans.volumes import read_labels, write_labels, write_volume
from umamba2.training.dataset import read_description, read_splits

SHAPE = OBLIQUE.size[::-1]
ENDINGS = [".mha", ".mhd", ".nii", ".nii.gz", ".nrrd", ".tif", ".NII.GZ", ".MHA"]


@pytest.fixture(autouse=True)
def forget_folders(monkeypatch):
    """Let each test sweep its folders as a new process does."""
    monkeypatch.setattr(files, "_swept", set())


def test_devices_are_not_replaced(tmp_path, monkeypatch):
    """Which root may do."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "log").touch()
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices/stdout").symlink_to(tmp_path / "log")
    (tmp_path / "same").symlink_to(tmp_path / "devices")
    monkeypatch.setattr(files, "_DEVICES", os.path.realpath(tmp_path / "devices"))
    before = sorted((path, path.lstat().st_ino) for path in tmp_path.rglob("*"))
    for name in ("pipe", "folder", "null", "devices/stdout", "same/stdout", "devices/new"):
        with pytest.raises(InputError, match=rf"{name}: could not be written \(it is no regular file\), expected"):
            write_file(tmp_path / name, "text")
    assert sorted((path, path.lstat().st_ino) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError("no space")])
def test_files_are_whole_or_not_there(tmp_path, error):
    path = tmp_path / "new/a.json"
    for content in ("first", "second"):
        with replacing(path) as partial:
            partial.write_text(content)
            assert partial.suffix == path.suffix
        assert path.read_text() == content

    def fail():
        with replacing(path) as partial:
            partial.write_text("third")
            raise error

    with pytest.raises(InputError if isinstance(error, OSError) else error):
        fail()
    assert [file.read_text() for file in path.parent.iterdir()] == ["second"]
    for place in (".", "/"):
        with pytest.raises(InputError, match="found a folder, expected a file name"), replacing(place):
            pass


def test_files_written_together(tmp_path):
    def write(content, fault=None):
        with together():
            for name in "ab":
                write_file(tmp_path / name, content)
            with together():  # which ends with the outer one
                write_file(tmp_path / "c", content)
            assert not any((tmp_path / name).exists() and (tmp_path / name).read_text() == content for name in "abc")
            if fault:
                raise fault

    write("first")
    for fault in (KeyboardInterrupt, ValueError):
        with pytest.raises(fault):
            write("second", fault)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("abc", "first")
    write("third")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("abc", "third")
    write_file(tmp_path / "a", "alone")
    assert (tmp_path / "a").read_text() == "alone"


def test_what_the_system_says_is_said_with_the_file(tmp_path, monkeypatch):
    """Also of a handle that cannot be closed, which harms nothing; and of another file that is copied."""
    close = os.close

    def failing(handle):
        close(handle)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", failing)
        write_file(tmp_path / "a", "text")
        unreadable = pytest.raises(InputError, match=r"b: could not be written \(Input/output error\), expected")
        with unreadable, replacing(tmp_path / "b"):
            raise OSError(errno.EIO, "Input/output error")
    missing = pytest.raises(InputError, match=r"b: could not be written \(No such file or directory with .*/c\), exp")
    with missing, replacing(tmp_path / "b") as partial:
        shutil.copyfile(tmp_path / "c", partial)
    (tmp_path / "d").mkdir()
    for fault in ("mkdir", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, fault, refusing)
            with pytest.raises(InputError, match=r"d/e/c: could not be written \(Permission denied\), expected"):
                write_file(tmp_path / "d/e/c", "text")
    assert not (tmp_path / "c").exists()
    assert (tmp_path / "a").read_text() == "text"


def refusing(path, *arguments, **named):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_places_know_files_by_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mha").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    places = OutputRegistry(["a.mha"])
    for name in ("a.mha", "./a.mha", "link/a.mha", tmp_path / "a.mha"):
        with pytest.raises(InputError, match="found an input as its output"):
            places.claim(name, "a.mha")
    places.claim("new/b.mha", "a.mha")
    places.claim("./new/b.mha", "a.mha")
    with pytest.raises(InputError, match=r"c.mha: found link/new/b.mha taken by a.mha, expected an output of its own"):
        places.claim("link/new/b.mha", "c.mha")


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 50, SHAPE).astype(np.uint8)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def full_disk(size):
    """Files cannot grow beyond a size, which is as near to a full disk as one comes without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [0, 100, 400, 700])
def test_a_full_disk_leaves_the_old_file_or_none(tmp_path, ending, size):
    path = tmp_path / f"a{ending}"
    said = rf"/a{ending}: could not be written \(the file is not complete; is the disk full\?\), expected"
    with full_disk(size), pytest.raises(InputError, match=said):
        write_labels(path, noise(), OBLIQUE)
    assert names(tmp_path) == []
    write_labels(path, noise(), OBLIQUE)
    with full_disk(size), pytest.raises(InputError, match="could not be written"):
        write_labels(path, noise(1), OBLIQUE)
    assert names(tmp_path) == [path.name]
    np.testing.assert_array_equal(read_labels(path)[0], noise())


@pytest.mark.parametrize(
    ("free", "words", "said"),
    [
        (100, "[nrrd] _nrrdGzClose: failed to flush pending data", "the file is not complete; is the disk full"),
        (1 << 40, "File cannot be written: {}", "the file is not complete; is the disk full"),
        (1 << 40, "unsupported pixel type", "unsupported pixel type"),
    ],
)
def test_what_itk_says_of_a_full_disk_is_said_in_words_of_ours(tmp_path, monkeypatch, free, words, said):
    def refuse(image, name, **options):
        raise RuntimeError(f"sitk::ERROR: {words.format(name)}")

    monkeypatch.setattr(sitk, "WriteImage", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(InputError, match=rf"/a.nrrd: could not be written \({said}"):
        write_labels(tmp_path / "a.nrrd", noise(), OBLIQUE)
    assert names(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 8, 12, 300])
def test_what_itk_wrote_is_read_back(tmp_path, monkeypatch, cut):
    write = sitk.WriteImage

    def cut_off(image, name, **options):
        write(image, name, **options)
        os.truncate(name, os.path.getsize(name) - cut)

    monkeypatch.setattr(sitk, "WriteImage", cut_off)
    for ending in ENDINGS:
        if ending == ".tif" and cut < 300:
            continue  # the last bytes of a TIFF file are dispensable
        with pytest.raises(InputError, match=r"could not be written \(the file is not complete; is the disk full?"):
            write_labels(tmp_path / f"a{ending}", noise(), OBLIQUE)
    assert names(tmp_path) == []


def test_other_voxels_than_those_that_were_to_be_written(tmp_path, monkeypatch):
    write = sitk.WriteImage
    monkeypatch.setattr(sitk, "WriteImage", lambda image, name, **options: write(image + 1, name, **options))
    with pytest.raises(InputError, match="the file is not complete"):
        write_labels(tmp_path / "a.nii.gz", noise(), OBLIQUE)


@pytest.mark.parametrize("direction", [(1, 0.0157, 0, 0, 1, 0, 0, 0, 1), (1.015, 0, 0, 0, 1, 0, 0, 0, 1)])
def test_a_grid_that_the_format_cannot_hold(tmp_path, direction):
    """NIfTI has room for one, but ITK writes the nearest at right angles."""
    grid = replace(OBLIQUE, direction=direction)
    for ending in ENDINGS:
        path = tmp_path / f"a{ending}"
        if ".nii" not in ending.lower():
            write_labels(path, noise(), grid)
            if ending != ".tif":
                found, wanted = (np.reshape(g.direction, (3, 3)) * g.spacing for g in (read_labels(path)[1], grid))
                np.testing.assert_allclose(found, wanted, atol=1e-3 * min(grid.spacing))
            path.unlink()
            continue
        wide = replace(grid, size=(120, 90, 60))  # where it comes to more than half a voxel
        with pytest.raises(InputError, match=r"found a corner .* mm off once written.*expected right angles and"):
            write_labels(path, np.zeros(wide.size[::-1], np.uint8), wide)
    assert names(tmp_path) == []


def test_grids_far_away_are_written(tmp_path):
    """Single precision, as in NIfTI, is coarser there than two grids may differ near the origin."""
    for ending in ENDINGS:
        write_labels(tmp_path / f"a{ending}", noise(), replace(OBLIQUE, origin=(-1e5 / 3, 2e6 / 7, 123456.789)))


def test_another_place_than_where_it_was_to_lie(tmp_path, monkeypatch):
    write = sitk.WriteImage

    def moved(image, name, **options):
        image = sitk.Image(image)
        image.SetOrigin([mm + min(OBLIQUE.spacing) for mm in image.GetOrigin()])
        write(image, name, **options)

    monkeypatch.setattr(sitk, "WriteImage", moved)
    for ending in (".mha", ".nii.gz", ".nrrd"):
        with pytest.raises(InputError, match=r"found a corner .* mm off once written"):
            write_labels(tmp_path / f"a{ending}", noise(), OBLIQUE)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_whatever_is_written_passes(tmp_path, kind):
    array = noise().astype(kind)
    if kind == np.float32:
        array[0, 0, 0] = np.nan
    for ending in ENDINGS:
        if ending != ".tif" or kind != np.float64:
            write_volume(tmp_path / f"a{ending}", array, OBLIQUE)


def test_a_planted_link_is_neither_followed_nor_in_the_way(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    tokens = iter([bytes(8), bytes([17] * 8)])
    monkeypatch.setattr(files.os, "urandom", lambda _: next(tokens))
    (out / f".umamba2-{'0' * 16}.json").symlink_to(victim)
    with pytest.raises(InputError, match=r"could not be written \(File exists"):
        write_file(out / "a.json", "new")
    (out / "b.json").symlink_to(victim)
    write_file(out / "b.json", "new")
    assert victim.read_text() == "precious"
    assert not (out / "b.json").is_symlink()


def test_two_that_write_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert names(tmp_path) == ["a.txt"]


def killed(folder):
    with replacing(folder / "a.txt") as partial:
        partial.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_leftovers_of_killed_runs_are_swept(tmp_path):
    others = [".umamba2-note.txt", f".umamba2-{'g' * 16}", f".umamba2-{'0' * 17}", ".partial.a.txt", "b.txt"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / f".umamba2-{'0' * 16}").mkdir()
    (tmp_path / f".umamba2-{'1' * 16}.txt").symlink_to(tmp_path / "b.txt")
    there = names(tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(names(tmp_path)) == len(there) + 1
    with replacing(tmp_path / "c.txt") as ours:
        ours.write_text("in use")
        files._swept.clear()
        write_file(tmp_path / "d.txt", "")
        assert names(tmp_path) == sorted([*there, ours.name, "d.txt"])
    assert names(tmp_path) == sorted([*there, "c.txt", "d.txt"])
    assert (tmp_path / "c.txt").read_text() == "in use"


def test_a_file_that_a_sweep_took_before_it_was_locked(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    flock, first = fcntl.flock, []

    def late(handle, how):
        if not first:
            first.extend(tmp_path.iterdir())
            first[0].unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with replacing(tmp_path / "a.txt") as partial:
        assert partial.exists()
        partial.write_text("whole")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize(
    "name", ["x" * 247 + ".mha", "x" * 244 + ".nii.gz", "a." + "b" * 249 + ".mha", "ä" * 125 + ".mha"]
)
def test_names_as_long_as_names_may_be(tmp_path, name):
    path = tmp_path / name
    write_labels(path, noise(), OBLIQUE)
    np.testing.assert_array_equal(read_labels(path)[0], noise())
    write_file(tmp_path / ("y" * 255), "text")
    write_file(tmp_path / ("z." + "y" * 253), "text")
    with pytest.raises(InputError, match=r"could not be written \(File name too long"):
        write_file(tmp_path / ("y" * 256), "text")


def test_what_is_no_text_is_written_escaped(tmp_path):
    write_file(tmp_path / "page.html", "found \udcff and é")
    assert (tmp_path / "page.html").read_bytes() == b"found \\udcff and \xc3\xa9"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("read", [files.read_json, read_splits, read_results, read_description])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_pipes_and_devices_in_the_place_of_json_are_not_waited_for(tmp_path, read, kind):
    path = tmp_path / "dataset.json"
    make = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}
    make[kind](path)
    found = "a folder" if kind == "folder" else "no regular file"
    with pytest.raises(InputError, match=rf"dataset\.json: found {found}, expected"):
        read(tmp_path if read is read_description else path)
