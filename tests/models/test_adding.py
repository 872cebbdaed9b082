"""Models that are added: from folders, archives and addresses, whole or not at all, and whatever somebody sends."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import contextmanager, suppress

import pytest
from small_models import make_model

from umamba2.errors import InputError, ModelError
from umamba2.models import adding, archives, fetching
from umamba2.models.adding import add_model
from umamba2.models.folder import load_model, slim
from umamba2.models.listing import list_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One model in both layouts, with what training leaves beside it."""
    place = tmp_path_factory.mktemp("models")
    slim(make_model(place / "nnunet", folds=(0, 1)), place / "slim")
    (place / "nnunet/fold_0/validation").mkdir()
    (place / "nnunet/fold_0/validation/case.nii.gz").write_bytes(b"labels")
    (place / "nnunet/fold_0/training_log.txt").write_text("loss")
    return place


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv("UMAMBA2_MODELS", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def everything(shelf):
    """Names in the shelf, hidden ones too."""
    return sorted(path.name for path in shelf.iterdir()) if shelf.exists() else []


SLIM = ["fold_0.safetensors", "fold_1.safetensors", "model.json"]
NNUNET = ["dataset.json", "fold_0/checkpoint_best.pth", "fold_1/checkpoint_best.pth", "plans.json"]


def make_zip(path, folder, prefix="", **extra):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files(folder):
            archive.write(folder / name, prefix + name)
        for name, content in extra.items():
            archive.writestr(name, content)
    return path


def make_tar(path, folder, prefix=".", members=()):
    """A tar archive of a folder and of further (TarInfo, content)."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        archive.add(folder, prefix)
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


@pytest.mark.parametrize(("layout", "expected"), [("slim", SLIM), ("nnunet", NNUNET)])
def test_from_folders_and_archives(models, shelf, tmp_path, layout, expected):
    folder = models / layout
    sources = {
        "folder": folder,
        "zip": make_zip(tmp_path / "a.zip", folder),
        "deep": make_zip(tmp_path / "b.zip", folder, "results/Trainer__Plans/", **{"__MACOSX/._model.json": b"x"}),
        "tar": make_tar(tmp_path / "a.tar", folder),
        "tgz": make_tar(tmp_path / "a.tgz", folder, "./stsr"),
        "file": (tmp_path / "a.zip").as_uri(),
    }
    for name, source in sources.items():
        added, checksum = add_model(name, str(source))
        assert added == shelf / name
        assert files(added) == expected
        assert load_model(added).folds.keys() == {"0", "1"}
        assert (added.stat().st_mode & 0o777, (added / expected[0]).stat().st_mode & 0o777) == (0o755, 0o644)
        if name == "folder":
            assert checksum == ""
    assert checksum == hashlib.sha256((tmp_path / "a.zip").read_bytes()).hexdigest()
    assert everything(shelf) == sorted(sources)


def test_a_model_json_may_name_its_files(models, tmp_path):
    text = (
        (models / "slim/model.json").read_text().replace("fold_0.saf", "Weights-0.saf").replace("fold_1.saf", "w.saf")
    )
    folder = tmp_path / "renamed"
    folder.mkdir()
    (folder / "model.json").write_text(text)
    (folder / "Weights-0.safetensors").symlink_to(models / "slim/fold_0.safetensors")
    (folder / "w.safetensors").symlink_to(models / "slim/fold_1.safetensors")
    added, _ = add_model("a", str(folder))
    assert not (added / "w.safetensors").is_symlink()
    assert load_model(added).folds.keys() == {"0", "1"}


@pytest.mark.parametrize(("layout", "expected"), [("slim", SLIM), ("nnunet", NNUNET)])
def test_what_lies_beside_a_model_is_not_copied(models, shelf, tmp_path, layout, expected):
    """Whatever it is called, and wherever links lead from there."""
    folder = tmp_path / "folder"
    shutil.copytree(models / layout, folder)
    (tmp_path / "secret").write_text("secret")
    odd = ["fold_7.safetensors", "fold_0/checkpoint_final.pth", "model.json.pth", "fold_0_old/checkpoint_best.pth"]
    for name in [name for name in odd if name not in expected]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(tmp_path / "secret")
    added, _ = add_model("a", str(folder))
    assert files(added) == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", ".a", "-a", "a b", "a\n", "ä", "a" * 101, "a\\b"])
def test_names_that_are_none(models, shelf, name):
    with pytest.raises(InputError, match="expected a name of letters"):
        add_model(name, str(models / "slim"))
    assert not shelf.exists()


def test_a_name_that_is_taken(models, shelf):
    (shelf / "dir").mkdir(parents=True)
    (shelf / "file").write_text("mine")
    (shelf / "link").symlink_to("nowhere")
    for name in ("dir", "file", "link"):
        with pytest.raises(InputError, match=f"{name}: found one already"):
            add_model(name, str(models / "slim"))
    assert (shelf / "file").read_text() == "mine"
    assert everything(shelf) == ["dir", "file", "link"]


def test_checksums(models, shelf, tmp_path):
    source = make_zip(tmp_path / "a.zip", models / "slim")
    right = hashlib.sha256(source.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=f"found sha256 {right}, expected {'0' * 64}"):
        add_model("a", str(source), "0" * 64)
    for wrong in ("", "0" * 63, "g" * 64):
        with pytest.raises(InputError, match="--sha256: found"):
            add_model("a", str(source), wrong)
    with pytest.raises(InputError, match="found a folder, expected an archive"):
        add_model("a", str(models / "slim"), right)
    assert everything(shelf) == []
    assert add_model("a", str(source), f"sha256:{right.upper()}".replace("SHA", "sha"))[1] == right


# --- what is no model -------------------------------------------------------------------------------------------------


def refused(source, match, shelf):
    with pytest.raises(InputError, match=match) as caught:
        add_model("a", str(source))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(source))
    assert ".umamba2-" not in str(caught.value)
    assert everything(shelf) == []


def test_sources_that_are_none(models, shelf, tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "none", "found no such file or folder", shelf)
    refused(tmp_path / "text", "found another kind of file, expected a .zip", shelf)
    refused(tmp_path / "empty", "found another kind of file", shelf)
    refused(tmp_path / "folder", "found no model", shelf)
    refused(tmp_path / "pipe", "found neither a file nor a folder", shelf)
    refused(models / "nnunet/fold_0/checkpoint_best.pth", "found no model", shelf)  # a zip archive, too
    refused("ftp://example.org/a.zip", "found the scheme ftp", shelf)
    refused("file://example.org/a.zip", "found the host example.org", shelf)
    refused("http://example.org/a.zip", "found no --sha256, expected one", shelf)
    refused("https://[::1/a.zip", "found no address", shelf)


def test_names_longer_than_a_file_system_takes(models, shelf, tmp_path):
    """A hundred letters may be 300 bytes: what is no name of a model's file is passed over."""
    path = make_zip(tmp_path / "a.zip", models / "slim", **{"\u6a21" * 100 + ".safetensors": b"x"})
    assert files(add_model("a", str(path))[0]) == SLIM


def test_models_that_cannot_be_used(models, shelf, tmp_path):
    for name in ("model.json", "fold_1.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        for path in (models / "slim").iterdir():
            content = path.read_bytes()
            (folder / path.name).write_bytes(content[: len(content) // 2] if path.name == name else content)
        refused(folder, name, shelf)
        refused(make_tar(tmp_path / f"{name}.tar.gz", folder), name, shelf)
    missing = make_zip(tmp_path / "missing.zip", models / "slim")
    with zipfile.ZipFile(missing) as archive, zipfile.ZipFile(tmp_path / "m.zip", "w") as out:
        for name in archive.namelist():
            if name != "fold_1.safetensors":
                out.writestr(name, archive.read(name))
    refused(tmp_path / "m.zip", "found no such file, expected the weights of fold 1", shelf)


def test_gigabytes_that_are_no_model_are_neither_copied_nor_summed_up(models, shelf, tmp_path, monkeypatch):
    """Files of zeros that take no room on a disk."""
    monkeypatch.setattr(adding, "_PIECE", None)
    monkeypatch.setattr(adding.shutil, "copyfile", lambda *_: pytest.fail("it was copied"))
    for name in ("a.zip", "model/fold_0/checkpoint_best.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 10**10)
    refused(tmp_path / "a.zip", "found another kind of file", shelf)
    refused(tmp_path / "model", "could not be read", shelf)


def test_several_models_in_an_archive(models, shelf, tmp_path):
    path = make_zip(tmp_path / "two.zip", models / "slim", "a/")
    with zipfile.ZipFile(path, "a") as archive:
        for name in NNUNET:
            archive.write(models / "nnunet" / name, f"b/{name}")
    refused(path, r"found 2 models \(a/, b/\), expected one", shelf)


# --- what somebody made to do harm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../fold_9.safetensors", "/tmp/plans.json", "a/../../plans.json", "a\\..\\b", "C:/x"])
def test_paths_that_lead_out(models, shelf, tmp_path, name):
    match = "found the path .* expected none that leads out"
    refused(make_zip(tmp_path / "a.zip", models / "slim", **{name: b"x"}), match, shelf)
    refused(make_tar(tmp_path / "a.tgz", models / "slim", members=[member(name, b"x")]), match, shelf)


def test_a_folder_larger_than_the_disk(models, shelf, tmp_path):
    """A file of holes takes no room where it lies, and all there is where it is copied to."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.json").write_text('{"folds": {"0": "fold_0.safetensors"}}')
    with open(folder / "fold_0.safetensors", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"found 10995116278\d\d bytes, expected a model of at most"):
        add_model("x", str(folder))
    assert not list(shelf.glob("*"))


def test_models_in_more_folders_than_anybody_has(models, shelf, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(102):
            archive.writestr(f"{number}/model.json", "{}")
    with pytest.raises(ModelError, match="found files of models in more than 100 folders"):
        add_model("x", str(tmp_path / "a.zip"))


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.SYMTYPE, "linkname": "."},
        {"type": tarfile.LNKTYPE, "linkname": "model.json"},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        {"type": tarfile.GNUTYPE_SPARSE},
    ],
)
def test_links_and_devices(models, shelf, tmp_path, fields):
    odd = member("fold_7.safetensors", **fields)
    refused(make_tar(tmp_path / "a.tar", models / "slim", members=[odd]), "found the link or device", shelf)
    info = zipfile.ZipInfo("fold_7.safetensors")
    info.external_attr = 0o120777 << 16
    path = make_zip(tmp_path / "a.zip", models / "slim")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(path, "found the link or device", shelf)


def test_more_than_fits(models, shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 2**20)
    monkeypatch.setattr(archives, "MOST_EXPANSION", 5)
    zeros = bytes(2**25)
    refused(make_zip(tmp_path / "a.zip", models / "slim", **{"fold_7.safetensors": zeros}), "found more than", shelf)
    bomb = member("fold_7.safetensors", zeros)
    refused(make_tar(tmp_path / "a.tgz", models / "slim", members=[bomb]), "found more than", shelf)
    elsewhere = member("validation/zeros", bytes(2**26))  # not to be written, but to be unpacked
    refused(make_tar(tmp_path / "b.tgz", models / "slim", members=[elsewhere]), "found more than", shelf)
    sparse = "a sparse file of 8 EB in a kilobyte"
    info, _ = member("fold_7.safetensors", b"", pax_headers={"GNU.sparse.major": "0", "GNU.sparse.minor": "1"})
    info.pax_headers |= {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**62), "comment": sparse}
    refused(make_tar(tmp_path / "c.tar", models / "slim", members=[(info, b"")]), "found the sparse file", shelf)


def test_headers_without_end(models, shelf, tmp_path):
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        large = member("name", bytes(2**24), type=kind)
        refused(make_tar(tmp_path / "a.tgz", models / "slim", members=[large]), "found a header of 16777216", shelf)


def test_files_without_end(models, shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_ENTRIES", 50)
    many = [member(f"x/{i}") for i in range(60)]
    refused(make_tar(tmp_path / "a.tgz", models / "slim", members=many), "found more than 50 files", shelf)
    extra = {f"x/{i}": b"" for i in range(60)}
    refused(make_zip(tmp_path / "a.zip", models / "slim", **extra), "found 63 files in it, expected at most 50", shelf)


def test_the_same_file_twice(models, shelf, tmp_path):
    again = member("./model.json", b"{}")
    refused(make_tar(tmp_path / "a.tar", models / "slim", members=[again]), "model.json twice", shelf)


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_a_flipped_bit_is_found_anywhere(models, shelf, tmp_path, ending):
    make = make_zip if ending == "zip" else make_tar
    whole = bytearray(make(tmp_path / f"whole.{ending}", models / "slim").read_bytes())
    unnoticed = []
    for place in range(60, len(whole), len(whole) // 15):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        (tmp_path / f"a.{ending}").write_bytes(flipped)
        try:
            added, _ = add_model(f"n{place}", str(tmp_path / f"a.{ending}"))
        except InputError:
            continue
        same = all((added / name).read_bytes() == (models / "slim" / name).read_bytes() for name in SLIM)
        unnoticed += [] if same else [place]
    assert unnoticed == []


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_damaged_archives_are_one_line_and_leave_nothing(models, shelf, tmp_path, ending):
    make = make_zip if ending == "zip" else make_tar
    whole = make(tmp_path / f"whole.{ending}", models / "slim").read_bytes()
    before = files(tmp_path)
    rng = random.Random(5)
    refusals = []
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 2, 5, 30))):
            place = rng.choice((rng.randrange(len(damaged)), rng.randrange(1500), -1 - rng.randrange(500)))
            damaged[place] = rng.choice((0, 255, 128, ord("."), ord("/"), damaged[place] ^ 1))
        (tmp_path / "shelf.damaged").write_bytes(damaged)
        try:
            add_model("a", str(tmp_path / "shelf.damaged"))
            shutil.rmtree(shelf / "a")
        except InputError as error:
            refusals.append(str(error))
        assert everything(shelf) == []
    assert len(refusals) > 20
    assert "\n" not in "".join(refusals)
    assert files(tmp_path) == sorted([*before, "shelf.damaged"])


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_an_archive_that_ends_too_soon(models, shelf, tmp_path, ending):
    make = make_zip if ending == "zip" else make_tar
    whole = make(tmp_path / f"whole.{ending}", models / "slim").read_bytes()
    for part in (0.02, 0.3, 0.9):
        (tmp_path / f"a.{ending}").write_bytes(whole[: int(part * len(whole))])
        refused(tmp_path / f"a.{ending}", "expected", shelf)


def cut_at(content, name):
    """Where the header of a file in a tar begins."""
    return content.index(name.encode()) // 512 * 512


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("how", ["checksum", "header of zeros", "cut in a header", "cut between", "another behind"])
def test_a_tar_that_seems_to_end_before_it_does(models, shelf, tmp_path, ending, how):
    """Python's tarfile takes damage for the end: a fold would be lost without a word."""
    with tarfile.open(tmp_path / "whole.tar", "w", format=tarfile.USTAR_FORMAT) as archive:  # one header a file
        archive.add(models / "slim", ".")
    content = (tmp_path / "whole.tar").read_bytes()
    start = cut_at(content, "fold_1.safetensors")
    content = {
        "checksum": content[: start + 150] + b"x" + content[start + 151 :],
        "header of zeros": content[:start] + bytes(512) + content[start + 512 :],
        "cut in a header": content[: start + 300],
        "cut between": content[:start],
        "another behind": content + content,
    }[how]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(content) if ending == "tar.gz" else content)
    refused(path, "damaged header, or more behind the end|no end of the archive|truncated header", shelf)


@pytest.mark.parametrize("how", ["list cut short", "junk in front", "another in front"])
def test_a_zip_that_seems_to_hold_less_than_it_does(models, shelf, tmp_path, how):
    content = make_zip(tmp_path / "whole.zip", models / "slim").read_bytes()
    if how == "list cut short":
        end = content.index(b"PK\5\6")
        last = content.rindex(b"PK\1\2", 0, end)
        size, start = struct.unpack("<LL", content[end + 12 : end + 20])
        kept = struct.pack("<LL", size - (end - last), start)
        content = content[:last] + content[end : end + 12] + kept + content[end + 20 :]
    else:
        content = (b"PK\3\4junk" if how == "junk in front" else content) + content
    (tmp_path / "a.zip").write_bytes(content)
    expected = "found 2 files in its list, expected the 3 that it states" if how == "list cut short" else "in front of"
    refused(tmp_path / "a.zip", expected, shelf)


# --- whole or not at all ----------------------------------------------------------------------------------------------


def test_a_killed_copy_is_never_listed_and_swept_by_the_next(models, shelf, tmp_path):
    code = (
        "import sys, time, umamba2.models.adding as a\n"
        "a.load_model = lambda folder: (print('copied', flush=True), time.sleep(60))\n"
        f"a.add_model('mine', {str(models / 'slim')!r})"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "copied\n"
    (half,) = everything(shelf)
    assert half.startswith(".umamba2-")
    assert all(model.demo for model in list_models())
    add_model("other", str(models / "slim"))  # while that one is at work, its folder stays
    assert everything(shelf) == [half, "other"]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    add_model("mine", str(models / "slim"))
    assert everything(shelf) == ["mine", "other"]


def test_of_two_at_once_one_wins(models, shelf, monkeypatch):
    real = adding.load_model

    def slowly(folder):
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=add_model, args=("mine", str(models / "nnunet")))
            other.start()
            other.join()
        return real(folder)

    monkeypatch.setattr(adding, "load_model", slowly)
    with pytest.raises(InputError, match="mine: found one already, which came while this was copied"):
        add_model("mine", str(models / "slim"))
    assert everything(shelf) == ["mine"]
    assert files(shelf / "mine") == NNUNET


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError])
def test_nothing_is_left_of_what_fails(models, shelf, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(adding.shutil, "copyfile", fail)
    with pytest.raises((InputError, KeyboardInterrupt, MemoryError)):
        add_model("mine", str(models / "slim"))
    assert everything(shelf) == []


def test_folders_that_cannot_be_written(models, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UMAMBA2_MODELS", str(tmp_path / "file/shelf"))
    with pytest.raises(InputError, match="could not be copied"):
        add_model("mine", str(models / "slim"))
    monkeypatch.setattr(adding, "shelves", list)
    with pytest.raises(InputError, match="UMAMBA2_MODELS: found none and no home folder"):
        add_model("mine", str(models / "slim"))
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        monkeypatch.setattr(adding, "shelves", lambda: [tmp_path / "closed"])
        with pytest.raises(InputError, match=r"closed.*: could not be copied"):
            add_model("mine", str(models / "slim"))


# --- over the network -------------------------------------------------------------------------------------------------


@contextmanager
def serving(answer):
    """A server that answers every GET by a function of the handler; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a.zip"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def replies(handler, content, stated=None, status=200, **headers):
    handler.send_response(status)
    for name, value in {"Content-Length": len(content) if stated is None else stated, **headers}.items():
        handler.send_header(name, str(value))
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_proxy")
def test_fetched_with_its_checksum_and_nothing_else(models, shelf, tmp_path):
    content = make_zip(tmp_path / "a.zip", models / "slim").read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    seen = []
    with serving(lambda handler: replies(handler, content)) as address:
        with pytest.raises(InputError, match="found no --sha256, expected one: over http anybody"):
            add_model("a", address)
        with pytest.raises(InputError, match=f"found sha256 {checksum}, expected 00"):
            add_model("a", address, "0" * 64)
        assert everything(shelf) == []
        added, found = add_model("a", address, checksum, lambda done, size: seen.append((done, size)))
    assert found == checksum
    assert files(added) == SLIM
    assert seen[-1] == (len(content), len(content))


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (lambda h: replies(h, b"no", status=404), r"could not be fetched \(404 "),
        (lambda h: replies(h, b"part", status=206), "found the answer 206 Partial Content, expected the whole file"),
        (lambda h: replies(h, b"half", stated=1000), "found 4 of 1000 bytes|could not be fetched"),
        (lambda h: replies(h, b"", stated=2**60), "found more than|could not be fetched|found 0 of"),
        (lambda h: replies(h, bytes(5000)), "found more than 4096 bytes"),
        (lambda h: replies(h, b"", status=302, Location="file:///etc/passwd"), "file:///etc/passwd. is not allowed"),
        (lambda h: replies(h, b"", status=302, Location="ftp://example.org/a"), "sent on to ftp:"),
        (lambda h: replies(h, b"", status=302, Location="/again"), "could not be fetched"),
        (lambda h: h.wfile.write(b"nonsense\r\n\r\n"), "could not be fetched"),
        (lambda h: h.connection.close(), "could not be fetched"),
    ],
)
def test_answers_that_are_none(shelf, answer, match, monkeypatch):
    monkeypatch.setattr(adding, "LARGEST_MODEL", 4096)
    with serving(answer) as address, pytest.raises(InputError, match=match) as caught:
        add_model("a", address, "0" * 64)
    assert "\n" not in str(caught.value)
    assert everything(shelf) == []


@pytest.mark.usefixtures("no_proxy")
def test_a_server_that_says_nothing(shelf, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    done = threading.Event()
    with serving(lambda handler: done.wait(20)) as address:
        with pytest.raises(InputError, match=r"could not be fetched .*timed out|found 0 bytes in 0\.2 s"):
            add_model("a", address, "0" * 64)
        done.set()


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("where", ["before the answer", "in it", "beside a redirection"])
def test_a_server_that_never_comes_to_an_end(shelf, monkeypatch, where):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.5)
    over = threading.Event()

    def answer(handler):
        if where == "in it":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        elif where == "beside a redirection" and "again" not in handler.path:
            handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n")
        elif where == "beside a redirection":
            return replies(handler, b"no", status=404)
        with suppress(OSError):
            while not over.wait(0.05):
                handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" if where == "before the answer" else b"x")
        return None

    expected = r"could not be fetched \(404 " if "redirection" in where else r"found \d+ bytes in 0\.5 s, expected"
    with serving(answer) as address:
        try:
            with pytest.raises(InputError, match=expected):
                add_model("a", address, "0" * 64)
        finally:
            over.set()
    assert everything(shelf) == []


def test_https_is_not_sent_on_to_http():
    class Request:
        type = "https"

    with pytest.raises(ValueError, match="sent on to http:"):
        fetching._Redirects().redirect_request(Request(), None, 302, "", {}, "http://example.org/a.zip")


def test_gzip_that_is_none(shelf, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"hello"))
    refused(tmp_path / "a.tar.gz", "expected a .zip, .tar or .tar.gz", shelf)
