from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR
from stand_in import OBLIQUE, StandInLoader, load_stand_in, scan, write_clicks, write_image, write_model

import umamba2
from umamba2 import cli
from umamba2.jobs import container
from umamba2.models import folder as checkpoints
from umamba2.scans.volumes import read_labels


@pytest.fixture
def predict(tmp_path, monkeypatch, capfd):
    """Runs `umamba2 predict` with a stand-in model for a task; returns exit code and lines of stderr."""
    stand_in = types.ModuleType("umamba2.engine.predict")
    stand_in.Predictor = StandInLoader
    monkeypatch.setitem(sys.modules, "umamba2.engine.predict", stand_in)
    monkeypatch.setattr(checkpoints, "load_model", load_stand_in)
    monkeypatch.setattr(container, "process_start", time.monotonic)  # that of the test runner may be long ago
    StandInLoader.made.clear()

    def run(task, source, out, *options, states=None):
        model = write_model(tmp_path / "model", task, states)
        files = ["-i", str(source), "-o", str(out), "-m", str(model)]
        code = cli.main(["predict", *files, "--orientation", "keep", *map(str, options)])
        return code, capfd.readouterr().err.splitlines()

    return run


def ids(path):
    return np.unique(read_labels(path)[0]).tolist()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_plain_prediction_of_a_file(predict, tmp_path):
    image = write_image(tmp_path / "a.mha", scan((45, 2), (46, 4)))
    assert predict(MULTICLASS, image, tmp_path / "out") == (0, [])
    assert ids(tmp_path / "out/a.mha") == [0, 45, 46]
    assert read_labels(tmp_path / "out/a.mha")[1] == OBLIQUE
    (made,) = StandInLoader.made
    assert made.settings == {
        "folder": tmp_path / "model", "folds": None, "device": "auto", "precision": "auto", "progress": False,
        "deterministic": False, "dental_field": None,
    }  # fmt: skip


def test_the_output_may_be_a_file_of_another_format(predict, tmp_path):
    image = write_image(tmp_path / "a.mha", scan((1, 2)))
    assert predict(STSR, image, tmp_path / "new/b.nrrd") == (0, [])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.nrrd"]
    geometry = read_labels(tmp_path / "new/b.nrrd")[1]
    assert geometry.size == OBLIQUE.size
    np.testing.assert_allclose(geometry.spacing, OBLIQUE.spacing, rtol=1e-14)  # NRRD multiplies it into the axes
    np.testing.assert_allclose(geometry.direction, OBLIQUE.direction, rtol=0, atol=1e-14)


def test_a_folder_of_images(predict, tmp_path):
    for name in ("b.nrrd", "a.mha", "c.tif"):
        write_image(tmp_path / "in" / name, scan((1, 2)), None)
    (tmp_path / "in/notes.txt").touch()
    code, (warning,) = predict(STSR, tmp_path / "in", tmp_path / "out")
    assert code == 0
    assert warning.startswith(f"warning: {tmp_path / 'in/c.tif'}: found no voxel size, expected")
    assert names(tmp_path / "out") == ["a.mha", "b.nrrd", "c.tif", "manifest.jsonl", "run.json"]


def test_the_run_leaves_a_record_in_a_folder(predict, tmp_path):
    """One that cannot be written costs a line and the exit code."""
    image = write_image(tmp_path / "a.mha", scan((1, 2)))
    assert predict(STSR, image, tmp_path / "out", "--tile-step", "0.5", "--time-limit", "1000") == (0, [])
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["settings"]["tile_step"] == 0.5
    assert 0 < record["seconds_left"] < 1000
    assert [case["output"] for case in record["cases"]] == ["a.mha"]
    (tmp_path / "out/run.json").unlink()
    (tmp_path / "out/run.json/in the way").mkdir(parents=True)
    code, (error,) = predict(STSR, image, tmp_path / "out")
    assert code == 1
    assert error.startswith(f"error: {tmp_path / 'out/run.json'}: could not be written")


@pytest.mark.parametrize("told", [True, False])
def test_a_challenge_brings_its_settings(predict, tmp_path, told):
    image = write_image(tmp_path / "a.mha", scan((1, 2), (46, 4), (7, 6)))
    options = ["--challenge", MULTICLASS] if told else []
    assert predict(MULTICLASS, image, tmp_path / "out", *options, states=None if told else MULTICLASS) == (0, [])
    assert ids(tmp_path / "out/a.mha") == [0, 1, 50]  # 21 voxels are no pharynx
    settings = StandInLoader.made[-1].settings
    assert settings["tile_step"] == 0.95
    assert settings["blend"] == "published"
    assert (3, 4) in settings["left_right_pairs"]


def test_options_beat_the_challenges_settings(predict, tmp_path):
    image = write_image(tmp_path / "a.mha", scan((7, 6), (46, 4)))
    options = [
        "--challenge", MULTICLASS, "--tile-step", "0.5", "--no-mirroring", "--no-postprocess", "--label-map", "public",
        "--folds", "0", "2", "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip
    assert predict(MULTICLASS, image, tmp_path / "out", *options) == (0, [])
    assert ids(tmp_path / "out/a.mha") == [0, 7, 150]
    settings = StandInLoader.made[-1].settings
    assert (settings["tile_step"], settings["mirror_axes"], settings["folds"]) == (0.5, (), ["0", "2"])
    assert (settings["device"], settings["precision"]) == ("cpu", "fp32")


def test_a_stated_challenge_can_be_declined(predict, tmp_path):
    image = write_image(tmp_path / "a.mha", scan((46, 4)))
    assert predict(MULTICLASS, image, tmp_path / "out", "--challenge", "none", states=MULTICLASS) == (0, [])
    assert ids(tmp_path / "out/a.mha") == [0, 46]
    assert "blend" not in StandInLoader.made[-1].settings


def test_clicks_from_a_file_a_folder_or_not_at_all(predict, tmp_path):
    for name in ("a_1", "b_2"):
        write_image(tmp_path / f"in/{name}.mha", scan())
    a = write_clicks(tmp_path / "clicks/iac_clicks_a_1.json", ("Left_IAC", [1, 1, 1]))
    write_clicks(tmp_path / "clicks/iac_clicks_b_2.json", ("Left_IAC", [1, 1, 1]), ("Right_IAC", [2, 2, 2]))

    def counts():
        return [len(clicks.labels) for _, _, clicks in StandInLoader.made[-1].calls]

    assert predict(INTERACTIVE, tmp_path / "in", tmp_path / "out", "--clicks", tmp_path / "clicks") == (0, [])
    assert counts() == [1, 2]
    assert predict(INTERACTIVE, tmp_path / "in/b_2.mha", tmp_path / "out", "--clicks", a) == (0, [])
    assert counts() == [1]
    assert predict(INTERACTIVE, tmp_path / "in", tmp_path / "out") == (0, [])
    assert counts() == [0, 0]
    code, errors = predict(INTERACTIVE, tmp_path / "in", tmp_path / "out", "--clicks", a)
    assert code == 1
    assert errors == [f"error: {a}: found one click file for 2 images, expected a folder of them"]
    (tmp_path / "clicks/iac_clicks_b_2.json").unlink()
    for strict in ([], ["--strict"]):
        options = ["--clicks", tmp_path / "clicks", *strict]
        code, (error,) = predict(INTERACTIVE, tmp_path / "in", tmp_path / "out", *options)
        assert code == len(strict)
    assert error.startswith(f"warning: {tmp_path / 'clicks/iac_clicks_b_2.json'}: found no such file, expected")
    assert counts() == [1, 0]


def test_clicks_for_a_model_without(predict, tmp_path):
    image = write_image(tmp_path / "a.mha", scan())
    path = write_clicks(tmp_path / "c.json")
    code, (error,) = predict(STSR, image, tmp_path / "out", "--clicks", path)
    assert code == 1
    assert error == f"error: {tmp_path / 'model'}: found a model without clicks, expected one that takes them " + (
        "(or no --clicks)"
    )


def test_links_that_lead_to_themselves(predict, tmp_path):
    image, loop = write_image(tmp_path / "a.mha", scan()), tmp_path / "b.mha"
    (tmp_path / "c.json").symlink_to(tmp_path / "c.json")
    code, (warning,) = predict(INTERACTIVE, image, tmp_path / "out", "--clicks", tmp_path / "c.json")
    assert code == 0
    assert warning.startswith(f"warning: {tmp_path / 'c.json'}: found a link that leads nowhere, expected the clicks")
    loop.symlink_to(loop)
    code, (error,) = predict(STSR, loop, tmp_path / "out")
    assert code == 1
    assert error == f"error: {loop}: found a link that leads nowhere, expected an image"


def test_a_very_long_path_is_not_said_whole(predict, tmp_path):
    code, (error,) = predict(STSR, tmp_path / "/".join(["x" * 200] * 15) / "a.mha", tmp_path / "out")
    assert code == 1
    assert error.startswith(f"error: {tmp_path}/xxx")
    assert "xxx...xxx" in error
    assert error.endswith("x/a.mha: found no such file, expected an image")
    assert len(error) < 500


def test_bad_images_cost_one_line_each_and_leave_no_output(predict, tmp_path):
    write_image(tmp_path / "in/a.mha", scan((1, 2)))
    (tmp_path / "in/b.mha").write_bytes(b"")
    (tmp_path / "in/c.nii.gz").write_bytes(b"rubbish")
    array = scan()
    array[0, 0, 0] = 9999
    write_image(tmp_path / "in/d.mha", array)
    code, errors = predict(STSR, tmp_path / "in", tmp_path / "out")
    assert code == 1
    assert [line.split(": ")[1] for line in errors] == [
        str(tmp_path / "in" / n) for n in ("b.mha", "c.nii.gz", "d.mha")
    ]
    assert all(line.startswith("error: ") and "expected" in line for line in errors)
    assert names(tmp_path / "out") == ["a.mha", "manifest.jsonl", "run.json"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "found no such file, expected an image"),
        (lambda path: path.mkdir(), "found no images, expected at least one of .mha"),
    ],
)
def test_nothing_to_segment(predict, tmp_path, make, says):
    source = tmp_path / "source.mha"
    make(source)
    code, (error,) = predict(STSR, source, tmp_path / "out")
    assert code == 1
    assert error.startswith(f"error: {source}: {says}")


def test_the_input_is_never_overwritten(predict, tmp_path):
    image = write_image(tmp_path / "a.mha", scan())
    before = image.read_bytes()
    for out in (tmp_path, image):
        code, (error,) = predict(STSR, image, out)
        assert code == 1
        assert error == f"error: {image}: found an input as its output ({image}), expected another place"
    assert image.read_bytes() == before


def test_no_input_of_the_batch_is_overwritten(predict, tmp_path):
    a, b = (write_image(tmp_path / "in" / name, scan((1, 2))) for name in ("a.mha", "b.mha"))
    before = a.read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.mha").symlink_to(a)
    code, (error,) = predict(STSR, tmp_path / "in", tmp_path / "out")
    assert code == 1
    assert error == f"error: {b}: found an input as its output ({tmp_path / 'out/b.mha'}), expected another place"
    assert a.read_bytes() == before
    assert ids(tmp_path / "out/a.mha") == [0, 1]


def test_an_output_of_an_unknown_format(predict, tmp_path):
    image = write_image(tmp_path / "a.mha", scan())
    code, (error,) = predict(STSR, image, tmp_path / "x.png")
    assert code == 1
    assert error.startswith(f"error: {tmp_path / 'x.png'}: found an unknown file name ending, expected .mha, ")
    assert StandInLoader.made == []
    (tmp_path / "x.png").mkdir()
    assert predict(STSR, image, tmp_path / "x.png") == (0, [])
    assert (tmp_path / "x.png/a.mha").is_file()


def test_wrong_models(predict, tmp_path):
    image = write_image(tmp_path / "a.mha", scan())
    code, (error,) = predict(STSR, image, tmp_path / "out", "--challenge", MULTICLASS)
    assert code == 1
    assert error.startswith(f"error: {tmp_path / 'model'}: found a model of 13 classes without clicks, expected 47")
    code, (error,) = predict(STSR, image, tmp_path / "out", "--label-map", "public")
    assert code == 1
    assert error == "error: numbering: found 'public' without a challenge, expected the name of a challenge"
    code, (error,) = predict(STSR, image, tmp_path / "out", "--challenge", STSR, states="stsr-2026")
    assert code == 1
    assert error == f"error: {tmp_path / 'model'}: found a model for stsr-2026, expected one for stsr"


@pytest.mark.parametrize("stated", ["toothfairy4", ["stsr"]])
def test_a_model_for_an_unknown_challenge(predict, tmp_path, stated):
    image = write_image(tmp_path / "a.mha", scan((1, 2)))
    code, (error,) = predict(STSR, image, tmp_path / "out", states=stated)
    assert code == 1
    assert error.startswith(f"error: {tmp_path / 'model'}: found a model for {stated!r}, expected toothfairy3-multi")
    assert not (tmp_path / "out").exists()
    assert predict(STSR, image, tmp_path / "out", "--challenge", "none", states=stated) == (0, [])


def test_a_folder_of_models_serves_a_named_challenge(predict, tmp_path, monkeypatch):
    image = write_image(tmp_path / "a.mha", scan((1, 1)))
    write_model(tmp_path / "models" / STSR, STSR)
    arguments = ["predict", "-i", str(image), "-o", str(tmp_path / "out"), "-m", str(tmp_path / "models")]
    assert cli.main([*arguments, "--challenge", STSR]) == 0
    assert cli.main([*arguments, "--challenge", MULTICLASS]) == 1


def test_info_and_slim(tmp_path, monkeypatch, capsys):
    asked = []

    def slim(model, out, half=False):
        asked.append((str(model), out, half))
        out.mkdir()
        (out / "model.json").write_bytes(b"x" * 1_500_000)

    checkpoints = types.ModuleType("umamba2.models.folder")
    checkpoints.describe, checkpoints.slim = (lambda folder: f"describing {folder}"), slim
    monkeypatch.setitem(sys.modules, "umamba2.models.folder", checkpoints)
    assert cli.main(["info", "some/model"]) == 0
    assert capsys.readouterr().out == "describing some/model\n"
    assert cli.main(["slim", "some/model", str(tmp_path / "out"), "--half"]) == 0
    assert asked == [("some/model", tmp_path / "out", True)]
    assert capsys.readouterr().out == f"{tmp_path / 'out'}  1.5 MB\n"


def test_phantoms(tmp_path, monkeypatch, capsys):
    asked = []
    phantoms = types.ModuleType("umamba2.synthetic.phantoms")
    phantoms.write_phantoms = lambda *arguments: asked.append(arguments) or ["phantom_0007", "phantom_0008"]
    monkeypatch.setitem(sys.modules, "umamba2.synthetic.phantoms", phantoms)
    options = ["--count", "2", "--seed", "7", "--shape", "40", "50", "60"]
    assert cli.main(["phantom", str(tmp_path), *options, "--spacing", "0.6"]) == 0
    assert cli.main(["phantom", str(tmp_path), *options, "--spacing", "0.6", "0.5", "0.4"]) == 0
    assert asked == [(tmp_path, 2, 7, (40, 50, 60), s) for s in ((0.6, 0.6, 0.6), (0.6, 0.5, 0.4))]
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}  2 phantoms: phantom_0007, phantom_0008"
    assert cli.main(["phantom", str(tmp_path), "--spacing", "1", "2"]) == 1
    assert capsys.readouterr().err == "error: --spacing: found 2 numbers, expected one or three\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["predict"], ["predict", "-i", "a", "-o", "b", "-m", "c", "--precision", "fp8"],
        ["predict", "-i", "a", "-o", "", "-m", "c"], ["phantom", "out", "--count", "0"],
        ["phantom", "out", "--spacing", "nan"], ["nonsense"],
    ],
)  # fmt: skip
def test_wrong_options(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "umamba2" in capsys.readouterr().err


def test_runs_as_a_module_and_answers_without_torch():
    for options in (["--help"], ["predict", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-m", "umamba2", *options], capture_output=True, text=True, check=True)
        assert done.stdout
        code = f"import sys\nfrom umamba2.cli import main\ntry: main({options!r})\nexcept SystemExit: pass\n"
        code += "assert 'torch' not in sys.modules and 'SimpleITK' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == f"umamba2 {umamba2.__version__}\n"


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("umamba2 mod", {"models"}, {"slim"}),
        ("umamba2 predict --ti", {"--tile-step", "--time-limit"}, {"--model"}),
        ("umamba2 predict --challenge s", {"stsr"}, {"none"}),
        ("umamba2 models ", {"add", "--json"}, {"slim"}),
    ],
)
def test_a_shell_completes_commands_and_options(line, wanted, unwanted, tmp_path):
    pytest.importorskip("argcomplete")
    wants = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    wants |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}
    command = [sys.executable, "-m", "umamba2"]
    subprocess.run(command, env={**os.environ, **wants}, capture_output=True, check=True)
    found = {word.strip() for word in (tmp_path / "found").read_text().split("\n")}
    assert wanted <= found
    assert not unwanted & found


def test_without_argcomplete_nothing_is_completed_and_nothing_breaks(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    assert cli.main(["models", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_interrupted_is_what_shells_call_it(monkeypatch, capsys):
    def stopped(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("umamba2.models.command._list", stopped)
    assert cli.main(["models"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.usefixtures("predict")
def test_a_model_by_its_name(tmp_path, monkeypatch, capfd):
    image = write_image(tmp_path / "a.mha", scan((1, 2)))
    monkeypatch.setenv("UMAMBA2_MODELS", str(tmp_path / "shelf"))
    write_model(tmp_path / "shelf/mine", STSR, STSR)
    arguments = ["predict", "-i", str(image), "-o", str(tmp_path / "out")]
    for more in ([], ["--challenge", STSR]):
        assert cli.main([*arguments, "-m", "mine", *more]) == 0
        assert StandInLoader.made[-1].settings["folder"] == tmp_path / "shelf/mine"
    assert "demo" not in capfd.readouterr().err
    assert cli.main([*arguments, "-m", "theirs"]) == 1
    assert capfd.readouterr().err.startswith("error: theirs: found no such folder, and no model of that name, expec")
    write_model(tmp_path / "demos" / STSR, STSR, STSR)
    monkeypatch.setattr("umamba2.models.locate.DEMO_MODELS", tmp_path / "demos")
    assert cli.main([*arguments, "-m", STSR]) == 0
    assert "stsr is a demo model, which has never seen a patient\n" in capfd.readouterr().err


def test_a_fault_in_one_package_leaves_the_other_commands_alone(monkeypatch, capsys):
    for package in ("evaluation", "reports", "exports"):
        monkeypatch.setitem(sys.modules, f"umamba2.{package}", None)
        monkeypatch.delitem(sys.modules, f"umamba2.{package}.command", raising=False)
    for options in (["--help"], ["predict", "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(options)
        assert caught.value.code == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "stsr"]) == 1
    assert capsys.readouterr().err.startswith("error: found ModuleNotFoundError (")


def test_what_nobody_foresaw_is_one_line_too(monkeypatch, capsys):
    checkpoints = types.ModuleType("umamba2.models.folder")
    checkpoints.describe = lambda folder: {}["no\nsuch key"]
    monkeypatch.setitem(sys.modules, "umamba2.models.folder", checkpoints)
    monkeypatch.delenv("UMAMBA2_DEBUG", raising=False)
    assert cli.main(["info", "some/model"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: found KeyError (")
    monkeypatch.setenv("UMAMBA2_DEBUG", "1")
    assert cli.main(["info", "some/model"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ((), "found OSError ([Errno 5] Input/output error), expected to finish; UMAMBA2_DEBUG=1 shows where"),
        (("a",), "a: found no usable one (Input/output error), expected a file or folder"),
        (("a", None, "b"), "a -> b: found no usable one (Input/output error), expected a file or folder"),
    ],
)
def test_what_the_system_says(monkeypatch, capsys, names, line):
    """Of a copy, it may be either file."""
    checkpoints = types.ModuleType("umamba2.models.folder")

    def describe(folder):
        raise OSError(5, "Input/output error", *names)

    checkpoints.describe = describe
    monkeypatch.setitem(sys.modules, "umamba2.models.folder", checkpoints)
    monkeypatch.delenv("UMAMBA2_DEBUG", raising=False)
    assert cli.main(["info", "some/model"]) == 1
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="found no /dev/full, expected Linux")
@pytest.mark.parametrize(("where", "code"), [("> /dev/full", 1), ("| true", 0)])
def test_output_that_is_lost_is_said(tmp_path, where, code):
    """On a full disk what was asked for is not there; a reader that ends, as ``head`` does, had enough."""
    command = f'set -o pipefail; "$0" -c "$1" {where}'
    script = "import sys; from umamba2.cli import main; sys.exit(main(['models']))"
    environment = {**os.environ, "UMAMBA2_MODELS": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.count("error: standard output: found it unusable (No space left on device)") == code


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that is in use")
def test_a_current_folder_that_was_removed(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = "import os, sys; os.rmdir(os.getcwd()); from umamba2.cli import main; sys.exit(main(['info']))"
    environment = {**os.environ, "PYTHONPATH": str(Path(umamba2.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=gone, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: current folder: found none (")


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-"])
def test_a_process_without_standard_streams(tmp_path, closed):
    """The next file that is opened gets the number of one that is closed, and with it what is printed there."""
    image = write_image(tmp_path / "a.mha", scan((1, 2)))
    script = f"""
import sys
from umamba2.cli import main
code = main(["read", {str(image)!r}, "-o", {str(tmp_path / "b.mha")!r}])
with open({str(tmp_path / "said")!r}, "w") as file:
    print(code, file.fileno() > 2, all(stream is not None for stream in (sys.stdin, sys.stdout, sys.stderr)), file=file)
    print("printed", flush=True)
    print("printed", file=sys.stderr, flush=True)
"""
    root = Path(cli.__file__).parents[1]
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", script]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, timeout=120, check=False)
    assert (tmp_path / "said").read_text() == "0 True True\n"
    np.testing.assert_array_equal(read_labels(tmp_path / "b.mha")[0], scan((1, 2)))
