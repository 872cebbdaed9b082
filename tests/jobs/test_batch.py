"""Many cases into one folder: what survives, what is done again, and what two processes do with each other's cases."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from challenge_names import INTERACTIVE, STSR
from stand_in import StandInLoader, scan, use_stand_in, write_clicks, write_image, write_model

from umamba2 import cli
from umamba2.errors import InputError
from umamba2.jobs import batch as batches
from umamba2.jobs import succeeded
from umamba2.jobs.batch import Batch, Plan
from umamba2.jobs.cases import cases_of
from umamba2.jobs.fingerprint import Fingerprint
from umamba2.jobs.manifest import Manifest
from umamba2.scans.volumes import read_labels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def predict(tmp_path, monkeypatch, capfd):
    """Runs `umamba2 predict` on in/ into out/ with a stand-in; exit code, lines of stderr, last line of stdout."""
    use_stand_in(monkeypatch)
    write_model(tmp_path / "model", STSR)

    def run(*options, source="in", out="out", model="model"):
        StandInLoader.made.clear()
        files = ["-i", str(tmp_path / source), "-o", str(tmp_path / out), "-m", str(tmp_path / model)]
        code = cli.main(["predict", *files, "--orientation", "keep", *map(str, options)])
        said = capfd.readouterr()
        return code, said.err.splitlines(), said.out.splitlines()[-1] if said.out else ""

    return run


def calls():
    return sum(len(made.calls) for made in StandInLoader.made)


def records(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def write_scans(folder, count, broken=()):
    for number in range(count):
        path = folder / f"case{number:03}.mha"
        if number in broken:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"rubbish")
        else:
            write_image(path, scan((1 + number % 12, number % 7)))


def test_two_hundred_scans_ten_of_them_broken(predict, tmp_path):
    broken = set(range(5, 200, 20))
    write_scans(tmp_path / "in", 200, broken)
    code, errors, last = predict()
    assert (code, last) == (1, "190 done, 0 skipped, 0 degraded, 10 failed"), errors
    assert sorted(line.split(": ")[1] for line in errors) == [
        str(tmp_path / f"in/case{number:03}.mha") for number in sorted(broken)
    ]
    assert len(list((tmp_path / "out").glob("*.mha"))) == 190
    assert calls() == 190
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.mha")}
    code, errors, last = predict()
    assert (code, len(errors), last) == (1, 10, "0 done, 190 skipped, 0 degraded, 10 failed")
    assert calls() == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.mha")} == first
    statuses = [case["status"] for case in json.loads((tmp_path / "out/run.json").read_text())["cases"]]
    assert [number for number, status in enumerate(statuses) if status == "failed"] == sorted(broken)


def test_a_record_says_what_was_done_and_with_what(predict, tmp_path):
    write_image(tmp_path / "in/sub/a.mha", scan((1, 2)))
    assert predict("--tile-step", "0.5")[0] == 0
    (record,) = records(tmp_path / "out")
    assert record["output"] == "sub/a.mha"
    assert record["status"] == "done"
    assert record["settings"]["tile_step"] == 0.5
    assert record["versions"]["umamba2"]
    assert record["seconds"].keys() >= {"read", "write"}
    for name, file in (("scan", "in/sub/a.mha"), ("written", "out/sub/a.mha"), ("model", "model/model.json")):
        content = (tmp_path / file).read_bytes()
        assert record[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert record[name]["bytes"] == len(content)


def change_scan(folder):
    write_image(folder / "in/case001.mha", scan((5, 5)))


def rewrite_scan(folder):
    path = folder / "in/case001.mha"
    path.write_bytes(path.read_bytes())


def delete_output(folder):
    (folder / "out/case001.mha").unlink()


def change_output(folder):
    path = folder / "out/case001.mha"
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as an archive does that is unpacked


def change_model(folder):
    (folder / "model/plans.json").write_text("{}")


def edit_manifest(folder):
    path = folder / "out/manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    path.write_bytes(b"[1, 2]\n" + lines[0] + lines[1][:70] + b"\n\n\xff\xfe\n" + lines[2] + b'{"output": "case00')


def odd_record(folder):
    path = folder / "out/manifest.jsonl"
    odd = {"output": "case001.mha", "scan": 3, "written": [], "asked_sha256": None, "warnings": 7, "status": {}}
    path.write_text(path.read_text() + json.dumps(odd) + "\n")


@pytest.mark.parametrize(
    ("change", "options", "again"),
    [
        (lambda folder: None, [], 0),
        (rewrite_scan, [], 0),
        (change_scan, [], 1),
        (delete_output, [], 1),
        (change_output, [], 1),
        (edit_manifest, [], 1),
        (odd_record, [], 1),
        (change_model, [], 3),
        (lambda folder: (folder / "out/manifest.jsonl").unlink(), [], 3),
        (lambda folder: None, ["--tile-step", "0.5"], 3),
        (lambda folder: None, ["--overwrite"], 3),
        (lambda folder: None, ["--quiet", "--strict", "--device", "cpu"], 0),
    ],
)
def test_what_is_done_again(predict, tmp_path, change, options, again):
    write_scans(tmp_path / "in", 3)
    assert predict()[0] == 0
    change(tmp_path)
    code, errors, last = predict(*options)
    assert (code, calls()) == (0, again)
    assert last == f"{again} done, {3 - again} skipped, 0 degraded, 0 failed"
    if change is change_output:
        assert errors == [
            f"warning: {tmp_path / 'out/case001.mha'}: found changed since it was written, doing it again"
        ]
    else:
        assert errors == []
    predict(*(option for option in options if option != "--overwrite"))
    assert calls() == 0


def test_what_is_finished_takes_no_share_of_the_time(predict, tmp_path):
    write_scans(tmp_path / "in", 4)
    predict("--time-limit", "1000")
    (tmp_path / "out/case000.mha").unlink()
    (tmp_path / "out/manifest.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records(tmp_path / "out")[1:])
    )
    start = time.monotonic()
    assert predict("--time-limit", "1000")[2] == "1 done, 3 skipped, 0 degraded, 0 failed"
    (deadline,) = StandInLoader.made[-1].deadlines
    assert 900 < deadline - start < 1000  # and no quarter of it


def test_voxels_in_a_file_of_their_own_count(predict, tmp_path):
    for value in (1, 2):
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(scan((value, 2))), str(tmp_path / "in/a.mhd"))
        assert predict()[0] == 0
        assert calls() == 1
        assert np.unique(read_labels(tmp_path / "out/a.mhd")[0]).tolist() == [0, value]


def test_clicks_count(predict, tmp_path):
    write_model(tmp_path / "model", INTERACTIVE)
    write_image(tmp_path / "in/a.mha", scan())
    write_image(tmp_path / "in/b.mha", scan())
    options = ["--clicks", tmp_path / "clicks"]
    for name in "ab":
        write_clicks(tmp_path / f"clicks/iac_clicks_{name}.json", ("Left_IAC", [1, 1, 1]))
    predict(*options)
    assert calls() == 2
    write_clicks(tmp_path / "clicks/iac_clicks_b.json", ("Left_IAC", [1, 2, 1]))
    predict(*options)
    assert calls() == 1
    (tmp_path / "clicks/iac_clicks_b.json").unlink()
    for again in (1, 0):  # missing clicks are a warning, each time
        code, (warning,), last = predict(*options)
        assert (code, calls()) == (0, again)
        assert "iac_clicks_b_b.json: found no such file" in warning
    assert last == "0 done, 2 skipped (1 of them degraded), 0 degraded, 0 failed"
    assert predict(*options, "--strict")[0] == 1


def test_files_beside_the_output_are_made_again(predict, tmp_path):
    pytest.importorskip("edt")
    write_model(tmp_path / "model", STSR, STSR)
    write_image(tmp_path / "in/a.mha", scan((1, 2)))
    for options, again in (([], 1), (["--statistics"], 1), (["--statistics"], 0)):
        predict(*options)
        assert calls() == again
    path = tmp_path / "out/a.statistics.json"
    whole = path.read_text()
    for damage in (path.unlink, lambda: path.write_text(whole[:-1]), lambda: path.write_text("")):
        damage()
        errors = predict("--statistics")[1]
        assert calls() == 1
        assert all("a.statistics.json: found changed since it was written, doing it again" in line for line in errors)
        assert path.read_text() == whole


@pytest.mark.parametrize("name", ["preview.png", "statistics.json", "report.html"])
def test_a_case_is_not_finished_before_all_that_was_asked_for_is_there(predict, tmp_path, monkeypatch, name):
    """One file beside the output that cannot be written costs a line and the exit code, and the others nothing."""
    pytest.importorskip("edt")
    import umamba2.reports as reports

    write_model(tmp_path / "model", STSR, STSR)
    write_image(tmp_path / "in/a.mha", scan((1, 2)))
    options, function = ("--preview", "--statistics", "--report"), f"write_{name.partition('.')[0]}"
    whole = getattr(reports, function)

    def full(path, case):
        raise InputError(f"{path}: could not be written (No space left on device), expected a writable folder")

    def broken(path, case):
        raise ZeroDivisionError("by 0")

    for fault, line in ((full, "No space left on device"), (broken, "found ZeroDivisionError (by 0)")):
        monkeypatch.setattr(reports, function, fault)
        for _ in range(2):  # the next run tries again
            code, (error,), _ = predict(*options)
            assert f"error: {tmp_path}/out/a.{name}: " in error
            assert line in error
            assert (code, calls()) == (1, 1)
            there = {path.name for path in (tmp_path / "out").glob("a.*")}
            assert there == {"a.mha", "a.preview.png", "a.statistics.json", "a.report.html"} - {f"a.{name}"}
        assert predict(*options, "--strict")[0] == 1
    monkeypatch.setattr(reports, function, whole)
    assert predict(*options)[1] == []
    assert calls() == 1
    assert (tmp_path / f"out/a.{name}").exists()
    assert predict(*options)[0] == 0
    assert calls() == 0


def test_what_a_worker_could_not_write_counts(predict, tmp_path):
    """Whoever has asked for the case learns it from its record."""
    write_scans(tmp_path / "in", 2)
    predict()
    manifest = Manifest(tmp_path / "out")
    batch = Batch(Plan(tmp_path / "out", Fingerprint(0, "", ""), {}), manifest, lambda: pytest.fail("a model"))
    cases = cases_of(tmp_path / "in", tmp_path / "out")
    manifest.append({**records(tmp_path / "out")[0], "beside": None})
    for case in cases:
        batch.settle(case, "no record")
    manifest.close()
    assert [outcome.written for outcome in batch.outcomes] == [True, True]
    assert [succeeded([outcome]) for outcome in batch.outcomes] == [False, True]


def test_a_large_scan_that_cannot_be_read_is_not_looked_at_byte_by_byte(predict, tmp_path, monkeypatch):
    write_scans(tmp_path / "in", 2)
    path = tmp_path / "in/case001.mha"
    path.write_bytes(path.read_bytes().replace(b"DimSize = 13 11 7", b"DimSize = 1300 1100 700"))
    monkeypatch.setattr(batches, "_LARGE", 100)
    whole, seen = batches.fingerprint, []
    monkeypatch.setattr(batches, "fingerprint", lambda files, known=(): seen.extend(files) or whole(files, known))
    code, (error,), _ = predict()
    assert code == 1
    assert "case001.mha: found the end of the file too early" in error
    assert {path.name for path in seen if path.parent.name == "in"} == {"case000.mha"}


def test_a_record_that_somebody_has_filled_with_warnings(predict, tmp_path):
    write_scans(tmp_path / "in", 1)
    predict()
    (record,) = records(tmp_path / "out")
    record["warnings"] = ["x" * 10_000, *(f"warning {n}" for n in range(200_000))]
    (tmp_path / "out/manifest.jsonl").write_text(json.dumps(record) + "\n")
    errors = predict()[1]
    assert calls() == 0
    assert len(errors) == 51
    assert errors[-1] == f"warning: {tmp_path}/in/case000.mha: found 199951 more warnings in its record, expected fewer"
    assert max(map(len, errors)) < 2100
    assert (tmp_path / "out/run.json").stat().st_size < 100_000


def detached(folder, data):
    """A scan whose voxels lie in a file of another name."""
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(scan((1, 2))), str(folder / "a.mhd"))
    (folder / "a.raw").rename(folder / data)
    text = (folder / "a.mhd").read_text()
    (folder / "a.mhd").write_text(text.replace("a.raw", data))
    return folder / "a.mhd"


@pytest.mark.parametrize("to_folder", [False, True])
def test_the_voxels_of_a_header_are_input_too(predict, tmp_path, to_folder):
    header = detached(tmp_path / "in", "a.nii.gz")
    before = (tmp_path / "in/a.nii.gz").read_bytes()
    code, errors, _ = predict("--format", "nii.gz", source="in/a.mhd", out="in" if to_folder else "in/a.nii.gz")
    assert (code, errors) == (1, [f"error: {header}: found an input as its output ({tmp_path}/in/a.nii.gz), expected "
                                  "another place"])  # fmt: skip
    assert (tmp_path / "in/a.nii.gz").read_bytes() == before


def test_clicks_are_input_too(predict, tmp_path):
    write_model(tmp_path / "model", INTERACTIVE)
    write_image(tmp_path / "in/a.mha", scan())
    clicks = write_clicks(tmp_path / "clicks.mha", ("Left_IAC", [1, 1, 1]))
    before = clicks.read_bytes()
    code, errors, _ = predict("--clicks", clicks, source="in/a.mha", out="clicks.mha")
    assert code == 1
    assert "found an input as its output" in errors[0]
    assert clicks.read_bytes() == before


def test_files_beside_the_output_do_not_take_the_place_of_voxels(predict, tmp_path):
    pytest.importorskip("edt")
    write_model(tmp_path / "model", STSR, STSR)
    detached(tmp_path / "in", "b.report.html")
    before = (tmp_path / "in/b.report.html").read_bytes()
    code, errors, _ = predict("--report", "--strict", source="in/a.mhd", out="in/b.mha")
    assert code == 1
    assert "found an input as its output" in errors[0]
    assert (tmp_path / "in/b.report.html").read_bytes() == before


def test_a_scan_that_changes_while_it_is_read(predict, tmp_path, monkeypatch):
    write_scans(tmp_path / "in", 1)
    path, read = tmp_path / "in/case000.mha", batches.read_scan

    def read_and_change(outcome):
        volume = read(outcome)
        write_image(path, scan((3, 3)))
        return volume

    monkeypatch.setattr(batches, "read_scan", read_and_change)
    code, (error,), _ = predict()
    assert code == 1
    assert error == f"error: {path}: found a file that changed while it was read, expected a complete one"


def test_a_model_that_changes_while_it_is_loaded(predict, tmp_path, monkeypatch):
    """A record that names the new one would keep the old one's results for good."""
    write_scans(tmp_path / "in", 1)
    load = StandInLoader.load

    def loaded(folder, **settings):
        found = load(folder, **settings)
        with open(tmp_path / "model/model.json", "a") as file:
            file.write("\n")
        return found

    monkeypatch.setattr(StandInLoader, "load", loaded)
    code, errors, _ = predict()
    found = "found a model that changed while it was read, expected a finished one"
    assert (code, errors) == (1, [f"error: {tmp_path}/model: {found}"])
    assert not records(tmp_path / "out")
    assert predict()[0] == 0  # there is a folder of outputs: the model is looked at before it is loaded
    monkeypatch.setattr(StandInLoader, "load", load)
    assert (predict()[0], calls()) == (0, 1)  # its record names the model of before
    assert (predict()[0], calls()) == (0, 0)


def test_no_memory_no_reading_ahead(predict, tmp_path, monkeypatch):
    write_scans(tmp_path / "in", 4)
    held, seen = [], []
    read, segmented = batches.read_scan, batches.segmented
    monkeypatch.setattr(batches, "read_scan", lambda outcome: held.append(outcome) or read(outcome))

    def slow(*arguments):
        time.sleep(0.2)
        seen.append(len(held))
        return segmented(*arguments)

    monkeypatch.setattr(batches, "segmented", slow)
    for room, counts in ((batches.HEADROOM, [1, 2, 3, 4]), (1 << 50, [2, 3, 4, 4])):
        held.clear(), seen.clear()
        monkeypatch.setattr(batches.memory, "available", lambda room=room: room)
        assert predict("--overwrite")[0] == 0
        assert seen == counts


def test_reading_and_writing_overlap_with_the_network(predict, tmp_path, monkeypatch):
    write_scans(tmp_path / "in", 3)
    monkeypatch.setattr(batches.memory, "available", lambda: 1 << 50)
    meet = threading.Barrier(3, timeout=20)  # breaks unless one is read, one in the network and one written at once
    read, segmented, write = batches.read_scan, batches.segmented, batches.write_scan

    def stage(function, name):
        def run(*arguments):
            case = next(a for a in arguments if hasattr(a, "case")).case
            if case.image.name == name:
                meet.wait()
            return function(*arguments)

        return run

    monkeypatch.setattr(batches, "read_scan", stage(read, "case002.mha"))
    monkeypatch.setattr(batches, "segmented", stage(segmented, "case001.mha"))
    monkeypatch.setattr(batches, "write_scan", stage(write, "case000.mha"))
    assert predict()[::2] == (0, "3 done, 0 skipped, 0 degraded, 0 failed")


def test_parts_are_the_same_whatever_is_done(predict, tmp_path):
    write_scans(tmp_path / "in", 7)
    assert predict("--part", "2/3")[2] == "2 done, 0 skipped, 0 degraded, 0 failed"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mha")) == ["case001.mha", "case004.mha"]
    assert predict("--part", "2/3")[2] == "0 done, 2 skipped, 0 degraded, 0 failed"
    assert predict("--part", "1/3")[2] == "3 done, 0 skipped, 0 degraded, 0 failed"
    assert predict()[2] == "2 done, 5 skipped, 0 degraded, 0 failed"
    assert {path.name for path in (tmp_path / "out").glob("run*")} == {"run.json", "run.1-of-3.json", "run.2-of-3.json"}
    assert predict("--part", "9/9")[0] == 0  # more parts than cases


def outputs(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.suffix in (".mha", ".gz"))


def test_folders_within_folders_and_patterns(predict, tmp_path):
    names = ["p1/ct.mha", "p1/old/ct.mha", "p 2/ct.nii.gz", "\u00e4\n,\u2028/ct.mha", ".hidden/ct.mha", "ct.mha"]
    for name in names:
        write_image(tmp_path / "in" / name, scan((1, 2)))
    assert predict(out="in/out") == (0, [], "5 done, 0 skipped, 0 degraded, 0 failed")
    assert outputs(tmp_path / "in/out") == sorted(name for name in names if ".hidden" not in name)
    assert predict(out="in/out") == (0, [], "0 done, 5 skipped, 0 degraded, 0 failed")  # no output is an input
    assert predict(source="in/p*/ct.*", out="globbed")[2] == "2 done, 0 skipped, 0 degraded, 0 failed"
    assert outputs(tmp_path / "globbed") == ["p 2/ct.nii.gz", "p1/ct.mha"]
    code, (error,), _ = predict(source="in/q*/ct.*", out="globbed")
    assert (code, error.split(": found ")[1][:10]) == (1, "no images,")
    code, errors, last = predict(out="in")
    assert (code, last) == (1, "0 done, 0 skipped, 0 degraded, 10 failed")  # out/ is among the inputs now
    assert all("found an input as its output" in line for line in errors)


def test_links_in_a_circle_below_a_pattern(predict, tmp_path):
    """Three of them make 3^40 paths."""
    write_scans(tmp_path / "in/a/b", 1)
    for name in ("1", "2", "3"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    write_scans(tmp_path / "elsewhere", 2)
    (tmp_path / "in/a/link").symlink_to(tmp_path / "elsewhere")
    code, errors, last = predict(source="in/**/case*.mha")
    assert (code, errors, last) == (0, [], "3 done, 0 skipped, 0 degraded, 0 failed")


def test_a_pattern_that_is_a_name(predict, tmp_path):
    write_image(tmp_path / "in/a[1].mha", scan((1, 2)))
    assert predict(source="in/a[1].mha")[:2] == (0, [])
    assert predict(source="in/a[1].mha") == (0, [], "0 done, 1 skipped, 0 degraded, 0 failed")
    assert outputs(tmp_path / "out") == ["a[1].mha"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_list_of_cases(predict, tmp_path, delimiter):
    write_model(tmp_path / "model", INTERACTIVE)
    write_scans(tmp_path / "in", 3)
    write_clicks(tmp_path / "c.json", ("Left_IAC", [1, 1, 1]))
    rows = [
        ["\ufeffScan", "clicks", "name"],
        ["in/case000.mha", "c.json", ""],
        ["in/case000.mha", "", "again/with other clicks"],
        [str(tmp_path / "in/case001.mha"), "c.json", "b.nii.gz"],
    ]
    (tmp_path / "list.csv").write_text("\n".join(delimiter.join(row) for row in rows) + "\n\n")
    assert predict(source="list.csv")[::2] == (0, "3 done, 0 skipped, 0 degraded, 0 failed")
    assert outputs(tmp_path / "out") == ["again/with other clicks.mha", "b.nii.gz", "case000.mha"]
    assert [len(clicks.labels) for _, _, clicks in StandInLoader.made[-1].calls] == [1, 0, 1]


def test_bad_rows_are_named_and_cost_nobody_else_anything(predict, tmp_path):
    write_scans(tmp_path / "in", 2)
    rows = [
        "scan,clicks,name", "in/case000.mha,,", "in/gone.mha,,", ",,x", "in/case001.mha,gone.json,",
        "in/case001.mha,,../out of it", '"in/case001.mha",,"two\nlines"', "in/case001.mha,", "in/case000.mha,,",
        "in/case001.mha,,case000.mha", "in/case001.mha,,/abs", "in/case001.mha,,.",
    ]  # fmt: skip
    (tmp_path / "list.csv").write_text("\n".join(rows))
    code, errors, last = predict(source="list.csv")
    assert (code, last) == (1, "2 done, 0 skipped, 0 degraded, 9 failed")
    lines = [line.split(": ")[2] for line in errors]
    assert lines == [f"line {n}" for n in (3, 4, 5, 6, 9, 10, 11, 12, 13)]
    assert outputs(tmp_path / "out") == ["case000.mha", "two\nlines.mha"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"), (b"scan\n", "no rows below the header"), (b"file\na\n", "the columns file"),
        (b"scan,scan\na,b\n", "the columns scan, scan"), (b"scan\n\xff\xfe\n", "no readable CSV in UTF-8"),
        (b'scan,name\na.mha,"p0\nb.mha,p1\n', "no readable CSV in UTF-8"),
        (b'scan,name\na.mha,"p0\nb.mha,p1\nc.mha,"p2"\n', "no readable CSV in UTF-8"),
        (b"clicks,name\n", "the columns clicks, name"),
    ],
)  # fmt: skip
def test_lists_that_are_none(predict, tmp_path, content, found):
    (tmp_path / "list.csv").write_bytes(content)
    code, (error,), _ = predict(source="list.csv")
    assert code == 1
    assert f"found {found}" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/", "-1/3", ""])
def test_wrong_parts(predict, text):
    with pytest.raises(SystemExit) as caught:
        predict("--part", text)
    assert caught.value.code == 2


def test_a_folder_that_cannot_be_written(predict, tmp_path):
    write_scans(tmp_path / "in", 2)
    (tmp_path / "out").write_text("in the way")
    code, (error,), _ = predict()
    assert code == 1
    assert error.startswith(f"error: {tmp_path / 'out/manifest.jsonl'}: could not be written (")


def test_files_that_are_larger_than_the_memory_are_not_read_for_their_checksum(predict, tmp_path):
    """A sparse file of a terabyte takes no room on a disk."""
    write_scans(tmp_path / "in", 2)
    write_clicks(tmp_path / "c.json")
    (tmp_path / "list.csv").write_text("scan,clicks\nin/case000.mha,c.json\nin/case001.mha,\n")
    write_model(tmp_path / "clicks", INTERACTIVE)
    for path in (tmp_path / "c.json", tmp_path / "in/case001.mha"):
        os.truncate(path, 10**12)
    code, errors, last = predict(source="list.csv", model="clicks")
    assert (code, last) == (1, "0 done, 0 skipped, 1 degraded, 1 failed")
    assert "c.json: found 1,000,000,000,000 bytes, expected at most" in errors[0]
    os.truncate(tmp_path / "out/manifest.jsonl", 10**12)
    code, (error,), _ = predict()
    assert code == 1
    assert "out/manifest.jsonl: found 1,000,000,000,000 bytes, expected at most 1,073,741,824 of records" in error
    (tmp_path / "model/plans.json").touch()
    os.truncate(tmp_path / "model/plans.json", 10**12)
    code, (error,), _ = predict(source="in/case000.mha", out="new")
    assert code == 1
    assert "model/plans.json: found 1,000,000,000,000 bytes, expected at most the free memory" in error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_among_the_scans_are_not_waited_for(predict, tmp_path):
    write_scans(tmp_path / "in", 1)
    for name in ("a.mha", "b.nii.gz", "c.nrrd", "d.tif"):
        os.mkfifo(tmp_path / "in" / name)
    (tmp_path / "in/e.nii").symlink_to("/dev/zero")
    code, errors, last = predict()
    assert (code, last) == (1, "1 done, 0 skipped, 0 degraded, 5 failed")
    assert all("found no regular file, expected an image" in error for error in errors)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["manifest.jsonl", ".umamba2.lock"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_planted_for_a_record_is_neither_followed_nor_waited_for(predict, tmp_path, name, kind):
    write_scans(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_text("precious")
    if kind == "link":
        (tmp_path / "out" / name).symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(tmp_path / "out" / name)
    code, (error,), _ = predict()
    assert code == 1
    assert error.startswith(f"error: {tmp_path / 'out/manifest.jsonl'}: could not be written (")
    assert (tmp_path / "victim").read_text() == "precious"


def test_records_that_somebody_has_changed(predict, tmp_path):
    write_scans(tmp_path / "in", 1)
    predict()
    (record,) = records(tmp_path / "out")
    for change in ({"beside": 5}, {"beside": ["\0", "x" * 300]}, {"warnings": 3, "seconds": "x"}, {"written": []}):
        (tmp_path / "out/manifest.jsonl").write_text(json.dumps({**record, **change}) + "\n")
        assert predict()[0] == 0


def test_names_in_lists_that_no_file_has(predict, tmp_path):
    write_scans(tmp_path / "in", 1)
    (tmp_path / "list.csv").write_text(
        "scan,clicks\nin/case000.mha,\n" + "x" * 5000 + ",\nin/case000.mha," + "y" * 5000
    )
    code, errors, last = predict(source="list.csv")
    assert (code, last) == (1, "1 done, 0 skipped, 0 degraded, 2 failed")
    assert ["line 3: found no such file" in errors[0], "line 4: found no such file" in errors[1]] == [True, True]


def test_lists_without_end(predict, tmp_path, monkeypatch):
    monkeypatch.setattr("umamba2.jobs.cases._MOST_ROWS", 2)
    (tmp_path / "list.csv").write_text("scan\n" + "a\n" * 3)
    code, (error,), _ = predict(source="list.csv")
    assert (code, "found more than 2 rows" in error) == (1, True)


def test_a_manifest_that_cannot_be_written_is_an_error(predict, tmp_path, monkeypatch):
    write_scans(tmp_path / "in", 2)

    def full(handle, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("umamba2.jobs.manifest.os.write", full)
    code, errors, last = predict()
    assert (code, last) == (1, "2 done, 0 skipped, 0 degraded, 0 failed")
    found = f"{tmp_path}/out/manifest.jsonl: could not be written (No space left on device)"
    assert errors == [f"error: {found}, the next run will do {tmp_path}/out/case00{n}.mha again" for n in range(2)]


def test_half_a_line_of_a_full_disk_does_not_stay(tmp_path, monkeypatch):
    manifest, write = Manifest(tmp_path), os.write
    manifest.append({"output": "a"})
    whole = (tmp_path / "manifest.jsonl").read_bytes()
    monkeypatch.setattr("umamba2.jobs.manifest.os.write", lambda handle, content: write(handle, content[:5]))
    with pytest.raises(OSError, match="the line is not complete"):
        manifest.append({"output": "b"})
    manifest.close()
    assert (tmp_path / "manifest.jsonl").read_bytes() == whole


@pytest.mark.parametrize("instead", [None, "pipe", "folder"])
def test_a_manifest_that_goes_away_during_a_run(predict, tmp_path, monkeypatch, instead):
    write_scans(tmp_path / "in", 5)
    manifest, write = tmp_path / "out/manifest.jsonl", batches.write_scan

    def removing(outcome, *arguments):
        if outcome.case.image.name == "case000.mha":
            manifest.unlink()
            _ = {"pipe": os.mkfifo, "folder": os.mkdir}[instead](manifest) if instead else None
        return write(outcome, *arguments)

    monkeypatch.setattr(batches, "write_scan", removing)
    code, errors, last = predict()
    if instead is None:
        assert (code, errors, last) == (0, [], "5 done, 0 skipped, 0 degraded, 0 failed")
        assert [record["output"] for record in records(tmp_path / "out")] == [f"case00{n}.mha" for n in range(5)]
        return
    assert code == 1
    why = "it is no regular file" if instead == "pipe" else "Is a directory"
    assert errors[-1] == f"error: {manifest}: could not be read ({why}), expected the records of this folder"
    assert read_labels(tmp_path / "out/case000.mha")


# --- several processes ------------------------------------------------------------------------------------------------

# Runs the command line with a stand-in that takes its time: for its first scan as long as the first argument says.
SLOW = f"""
import sys, time, types
sys.path.insert(0, {str(ROOT / "tests")!r})
from stand_in import StandIn, StandInLoader, load_stand_in
stand_in = types.ModuleType("umamba2.engine.predict")
stand_in.Predictor = StandInLoader
sys.modules["umamba2.engine.predict"] = stand_in
from umamba2.models import folder
folder.load_model = load_stand_in
predict = StandIn.predict
def slowly(self, *arguments, **named):
    time.sleep(0.02 if self.calls else float(sys.argv[1]))
    return predict(self, *arguments, **named)
StandIn.predict = slowly
from umamba2.cli import main
sys.exit(main(sys.argv[2:]))
"""


def start(folder, seconds=0.02, *options, out="out"):
    files = ["-i", str(folder / "in"), "-o", str(folder / out), "-m", str(folder / "model"), "--orientation", "keep"]
    command = [sys.executable, "-c", SLOW, str(seconds), "predict", *files, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def prepared(folder, count):
    write_model(folder / "model", STSR)
    write_scans(folder / "in", count)
    return folder


def check_whole(folder):
    """Every file under the name of an output is whole; how many there are."""
    outputs = list(folder.rglob("*.mha"))
    for path in outputs:
        if not path.name.startswith("."):
            assert read_labels(path)[0].shape == scan().shape
    return sum(not path.name.startswith(".") for path in outputs)


def finished(process):
    """How many cases a process says it has done, once it has ended well."""
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    return int(said.splitlines()[-1].split(" done, ")[0])


def wait_for(condition, *processes):
    while not condition():
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.02)


def test_two_processes_do_each_case_once(tmp_path):
    prepared(tmp_path, 30)
    processes = [start(tmp_path), start(tmp_path, 0.1, "--part", "1/2")]
    assert sum(map(finished, processes)) == 30
    assert sorted(record["output"] for record in records(tmp_path / "out")) == [f"case{n:03}.mha" for n in range(30)]
    assert check_whole(tmp_path / "out") == 30


def test_a_case_is_taken_over_from_a_killed_process(tmp_path):
    prepared(tmp_path, 4)
    manifest = Manifest(tmp_path / "out")

    def is_taken():
        free = manifest.claim("case000.mha")
        if free:
            manifest.release("case000.mha")
        return not free

    first = start(tmp_path, 600)
    wait_for(is_taken, first)
    second = start(tmp_path)
    wait_for(lambda: len(records(tmp_path / "out")) >= 2, first, second)
    time.sleep(1)
    assert second.poll() is None  # it waits
    first.kill()
    assert finished(second) == 4
    first.communicate()


@pytest.mark.slow
def test_kill_at_any_moment(tmp_path):
    """Whatever lies there is whole, every run goes on where the last one was stopped, and nothing is left over."""
    prepared(tmp_path, 40)
    moments = np.random.default_rng(0).uniform(0.8, 2.5, 12)
    for moment in moments:
        process = start(tmp_path)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        check_whole(tmp_path / "out")
    before = {record["output"] for record in records(tmp_path / "out")} if (tmp_path / "out").exists() else set()
    assert finished(start(tmp_path)) == 40 - len(before)
    assert check_whole(tmp_path / "out") == 40
    assert sorted(record["output"] for record in records(tmp_path / "out")) == [f"case{n:03}.mha" for n in range(40)]
    hidden = [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert hidden == [".umamba2.lock"]


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    prepared(tmp_path, 60)
    out = tmp_path / "out"
    out.mkdir()

    def mount(*options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", *options, "tmpfs", out], capture_output=True, check=False)

    if mount("size=64k").returncode:
        pytest.skip("may not mount")
    try:
        process = start(tmp_path)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 1, said
        assert "could not be written" in said
        assert 0 < check_whole(out) < 60
        assert mount("remount,size=4m").returncode == 0
        assert finished(start(tmp_path)) > 0
        assert check_whole(out) == 60
        assert finished(start(tmp_path)) == 0
    finally:
        subprocess.run(["umount", out], check=True)


def test_an_interrupt_leaves_a_record(tmp_path):
    prepared(tmp_path, 40)
    process = start(tmp_path, 0.2)
    wait_for(lambda: (tmp_path / "out/manifest.jsonl").exists() and len(records(tmp_path / "out")) > 3, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 130
    assert said[-1] == "error: interrupted"
    cases = json.loads((tmp_path / "out/run.json").read_text())["cases"]
    done = [record["output"] for record in records(tmp_path / "out")]
    assert [case["output"] for case in cases] == done
    assert said[-2] == f"{len(done)} done, 0 skipped, 0 degraded, 0 failed"
    assert check_whole(tmp_path / "out") == len(done) < 40
