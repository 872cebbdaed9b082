from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from challenge_names import MULTICLASS
from PIL import Image
from report_cases import SHAPE, Page, grid
from stand_in import DIRECTION, OBLIQUE, scan, write_image
from test_cli import predict  # noqa: F401  a fixture

from umamba2 import cli
from umamba2.anatomy.numberings import from_training, to_training
from umamba2.anatomy.structures import ANATOMY
from umamba2.errors import InputError
from umamba2.reports.reading import read_case


def test_report_from_files(tmp_path, capsys, phantom):
    geometry = grid(phantom.labels.shape, phantom.spacing[::-1], DIRECTION)
    image = write_image(tmp_path / "a.mha", phantom.image, geometry)
    truth = write_image(tmp_path / "truth.mha", phantom.labels, geometry)
    public = from_training(ANATOMY, "public")[to_training(ANATOMY, "dataset")[phantom.labels]]
    labels = write_image(tmp_path / "a.nii.gz", public, geometry)
    out = tmp_path / "new/report.html"
    files = ["-i", str(image), "-s", str(labels), "-o", str(out)]
    assert cli.main(["report", *files, "-g", str(truth), "--label-map", "public"]) == 0
    assert capsys.readouterr().out.startswith(str(out))
    page = out.read_text()
    assert "marks name the nearest" in page
    assert page.count("<td>1.000</td><td>0.00</td>") == len(Page(page).rows)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spacing": (1.0, 1.0, 1.1)}, "found spacing (1, 1, 1.1), expected (1, 1, 1) as"),
        ({"size": (60, 40, 39)}, "found size (60, 40, 39), expected (60, 40, 40) as"),
        ({"origin": (0.0, 7.0, 11.0)}, "found origin (0, 7, 11), expected (-5, 7, 11) as"),
        ({"direction": (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}, "found direction (-1, 0, 0, 0, 1, 0, 0, 0, 1), expected"),
    ],
)
def test_grids_that_differ(tmp_path, change, says, capsys):
    image = write_image(tmp_path / "a.mha", np.zeros(SHAPE, np.int16), grid(SHAPE))
    other = replace(grid(SHAPE), **change)
    labels = write_image(tmp_path / "b.mha", np.ones(other.size[::-1], np.uint8), other)
    assert cli.main(["report", "-i", str(image), "-s", str(labels), "-o", str(tmp_path / "r.html")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {labels}: {says}")
    assert not (tmp_path / "r.html").exists()


def test_bad_numberings_and_places_cost_one_line(tmp_path, capsys):
    image = write_image(tmp_path / "a.mha", np.zeros(SHAPE, np.int16), grid(SHAPE))
    for value, place, says in ((0, "r.html", "found no structure"), (200, "r.html", "found unknown ids 200"),
                               (1, "a.mha/r.html", "could not be written")):  # fmt: skip
        labels = write_image(tmp_path / "b.mha", np.full(SHAPE, value, np.uint8), grid(SHAPE))
        assert cli.main(["report", "-i", str(image), "-s", str(labels), "-o", str(tmp_path / place)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert says in line


def test_the_voxels_of_a_header_are_not_overwritten(tmp_path, capsys):
    for name in ("image", "labels"):
        write_image(tmp_path / f"{name}.mhd", np.ones(SHAPE, np.uint8), grid(SHAPE))
        voxels = next(tmp_path.glob(f"{name}.*raw"))
        text = (tmp_path / f"{name}.mhd").read_text().replace(voxels.name, f"{name}.html")
        (tmp_path / f"{name}.mhd").write_text(text)
        before = voxels.rename(tmp_path / f"{name}.html").read_bytes()
    files = ["-i", str(tmp_path / "image.mhd"), "-s", str(tmp_path / "labels.mhd")]
    for name in ("image", "labels"):
        assert cli.main(["report", *files, "-o", str(tmp_path / f"{name}.html")]) == 1
        assert "found an input as its output" in capsys.readouterr().err
        assert (tmp_path / f"{name}.html").read_bytes() == before
    assert cli.main(["read", files[1], "-o", str(tmp_path / "image.html")]) == 1
    assert "found an input as its output" in capsys.readouterr().err


def test_tiff_states_no_orientation(tmp_path):
    image = write_image(tmp_path / "a.tif", np.zeros(SHAPE, np.int16), None)
    labels = write_image(tmp_path / "b.tif", np.ones(SHAPE, np.uint8), None)
    assert not read_case(image, labels).oriented


def test_what_is_odd_about_the_files_is_on_the_page(tmp_path, capsys):
    image = write_image(tmp_path / "a.mha", np.zeros(SHAPE, np.int16), grid(SHAPE, spacing=(0.0005,) * 3))
    labels = write_image(tmp_path / "b.mha", np.ones(SHAPE, np.uint8), grid(SHAPE, spacing=(0.0005,) * 3))
    out = tmp_path / "r.html"
    assert cli.main(["report", "-i", str(image), "-s", str(labels), "-o", str(out)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" found")[0] for line in lines] == ["warning: a.mha:", "warning: b.mha:"]
    page = Page(out.read_text())
    assert all(line.removeprefix("warning: ") in " ".join(page.text) for line in lines)
    assert "0.5 × 0.5 × 0.5 mm" in " ".join(page.text)  # what the volumes are measured with


def test_predict_leaves_its_results_beside_the_segmentation(predict, tmp_path):  # noqa: F811
    write_image(tmp_path / "in/a.mha", scan((1, 2), (16, 4)))
    write_image(tmp_path / "in/b.mha", scan())
    options = ["--challenge", MULTICLASS, "--no-postprocess", "--preview", "--statistics", "--report"]
    code, errors = predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options)
    assert code == 0  # nothing was found in b, which is no failure
    b = tmp_path / "out/b.mha"
    assert errors == [f"warning: {b}: found no structure (every voxel is 0), expected at least one"]
    names = ["a.mha", "a.preview.png", "a.report.html", "a.statistics.json", "b.mha", "manifest.jsonl", "run.json"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == names
    statistics = json.loads((tmp_path / "out/a.statistics.json").read_text())
    voxel = np.prod(OBLIQUE.spacing)
    assert [(s["id"], s["fdi"], s["name"], s["voxels"]) for s in statistics["structures"]] == [
        (1, None, "lower jawbone", 21), (16, 16, "upper right first molar", 21),
    ]  # fmt: skip
    assert [s["volume_mm3"] for s in statistics["structures"]] == [round(21 * voxel, 4)] * 2
    assert statistics["remarks"]
    assert statistics["missing_teeth"] == []  # 4 mm of a mouth show the place of no other tooth
    assert Image.open(tmp_path / "out/a.preview.png").size[0] == 1500
    assert Page((tmp_path / "out/a.report.html").read_text()).rows == [16, 1]


def test_what_lies_beside_is_of_one_scan_and_of_now(predict, tmp_path):  # noqa: F811
    image = write_image(tmp_path / "in/a.mha", scan((1, 2), (16, 4)))
    other = write_image(tmp_path / "in/a.nii.gz", scan((2, 2)))
    options = ["--challenge", MULTICLASS, "--no-postprocess", "--statistics"]
    code, (error,) = predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options)
    statistics = tmp_path / "out/a.statistics.json"
    assert code == 1
    beside = f"{tmp_path / 'out/a.nii.gz'} taken by those beside {tmp_path / 'out/a.mha'}"
    assert error == f"error: {other}: found the names of files beside {beside}, expected a name of its own"
    assert json.loads(statistics.read_text())["case"] == "a.mha"
    for more in ([], ["--part", "2/2"]):  # no later run and no other process takes it
        assert predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options, *more) == (1, [error])
        assert json.loads(statistics.read_text())["case"] == "a.mha"
    (tmp_path / "out/run.2-of-2.json").unlink()
    names = {"a.mha", "a.nii.gz", "a.statistics.json", "manifest.jsonl", "run.json"}
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == names
    other.unlink()
    assert predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options) == (0, [])
    write_image(image, scan())
    code, (warning,) = predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options)
    assert code == 0
    assert "found no structure" in warning
    assert not statistics.exists()


def test_what_lies_beside_stays_until_there_is_a_new_one(predict, tmp_path, monkeypatch):  # noqa: F811
    image = write_image(tmp_path / "a.mha", scan((1, 2), (16, 4)))
    options = ["--challenge", MULTICLASS, "--no-postprocess", "--statistics", "--report"]
    assert predict(MULTICLASS, image, tmp_path / "o.mha", *options)[0] == 0
    files = [tmp_path / "o.statistics.json", tmp_path / "o.report.html"]
    before = [path.read_bytes() for path in files]
    write_image(image, scan((1, 2)))

    def full(path, case):
        assert [path.read_bytes() for path in files] == before
        raise InputError(f"{path}: could not be written (No space left on device), expected a writable folder")

    for name in ("write_statistics", "write_report"):
        monkeypatch.setattr(f"umamba2.reports.{name}", full)
    code, (error,) = predict(MULTICLASS, image, tmp_path / "o.mha", *options)
    said = "could not be written (No space left on device), expected a writable folder; the one there is of an earlier"
    assert (code, error) == (1, f"error: {'; '.join(f'{path}: {said} segmentation' for path in files)}")
    assert [path.read_bytes() for path in files] == before


def test_a_report_never_overwrites_what_it_is_about(tmp_path, capsys):
    files = [
        write_image(tmp_path / name, np.ones(SHAPE, np.uint8), grid(SHAPE)) for name in ("a.mha", "b.mha", "c.mha")
    ]
    before = [path.read_bytes() for path in files]
    options = [text for pair in zip(("-i", "-s", "-g"), map(str, files)) for text in pair]
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for path in [*files, tmp_path / "link/b.mha"]:
        assert cli.main(["report", *options, "-o", str(path)]) == 1
        line = f"error: {files[0]}: found an input as its output ({path}), expected another place\n"
        assert capsys.readouterr().err == line
    assert [path.read_bytes() for path in files] == before
    for place in (tmp_path, "."):
        assert cli.main(["report", *options, "-o", str(place)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {place}: ")


def test_predict_without_a_challenge_has_no_names_for_a_report(predict, tmp_path):  # noqa: F811
    image = write_image(tmp_path / "a.mha", scan((1, 2)))
    code, (error,) = predict(MULTICLASS, image, tmp_path / "out", "--report")
    assert code == 1
    assert error.startswith("error: --preview, --statistics, --report: found no challenge")


def test_the_command_line_and_the_container_stay_light():
    def loaded(code):
        command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
        root = Path(cli.__file__).parents[1]
        return set(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split())

    assert not loaded("import umamba2.cli; umamba2.cli._parser([])") & {"PIL", "scipy", "torch", "SimpleITK", "trimesh"}
    container = loaded("import inference, umamba2.jobs.container, umamba2.challenges, umamba2.serving")
    assert not {name for name in container if name.startswith(("umamba2.reports", "umamba2.exports", "PIL"))}
