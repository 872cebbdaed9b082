"""`umamba2 slim` and `umamba2 models`, and what the package offers without being asked for torch."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
from small_models import make_model

from umamba2.errors import InputError
from umamba2.models.command import add_models, add_slim
from umamba2.models.folder import load_model


def run(*argv):
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_models(commands)
    add_slim(commands)
    arguments = parser.parse_args([str(part) for part in argv])
    return arguments.command(arguments)


def test_slim_says_how_large_it_is(tmp_path, capsys):
    folder = make_model(tmp_path / "model")
    assert run("slim", folder, tmp_path / "slim", "--half") == 0
    size = sum(path.stat().st_size for path in (tmp_path / "slim").iterdir())
    assert capsys.readouterr().out == f"{tmp_path / 'slim'}  {size / 1e6:.1f} MB\n"
    assert load_model(tmp_path / "slim").num_classes == 5


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/slim/fold_0\.safetensors: could not be written"):
        run("slim", make_model(tmp_path / "model"), tmp_path / "file" / "slim")


def test_the_package_is_lazy():
    code = (
        "import sys, umamba2.models as m; assert 'torch' not in sys.modules; m.load_model, m.Model, m.describe, m.slim"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


DEMOS = ["stsr", "toothfairy3-interactive", "toothfairy3-multiclass"]


def test_models_are_listed_and_added(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UMAMBA2_MODELS", str(tmp_path / "shelf"))
    assert run("models", "add", "mine", make_model(tmp_path / "model", folds=(0, 1))) == 0
    assert capsys.readouterr().out.startswith(f"mine  {tmp_path / 'shelf/mine'}  ")
    assert run("models") == 0
    head, mine, *demos = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "challenge", "folds", "classes", "size", "where"]
    assert mine.split()[:5] == ["mine", "-", "0", "1", "5"]
    assert mine.endswith(str(tmp_path / "shelf/mine"))
    assert [line.split()[0] for line in demos] == DEMOS
    assert all(line.endswith(", demo") for line in demos)
    assert run("models", "--json") == 0
    first, *others = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in others] == DEMOS
    assert (first["name"], first["folds"], first["classes"], first["demo"]) == ("mine", ["0", "1"], 5, False)
    assert first["size"] == sum(path.stat().st_size for path in (tmp_path / "shelf/mine").rglob("*") if path.is_file())
    assert [model["classes"] for model in others] == [13, 3, 47]
    assert [model["clicks"] for model in others] == [False, True, False]


def test_a_broken_model_does_not_hide_the_others(tmp_path, capsys, monkeypatch):
    shelf = tmp_path / "shelf"
    for name, content in (("a", b""), ("b", b"[]"), ("c", b'{"folds": {"../x": 3}}'), ("d", b"\xff" * 100)):
        (shelf / name).mkdir(parents=True)
        (shelf / name / "model.json").write_bytes(content)
    make_model(shelf / "e")
    (shelf / "e/fold_0/checkpoint_best.pth").write_bytes(b"PK\3\4 no more")
    (shelf / "f").symlink_to(shelf / "f")
    (shelf / ".umamba2-0123456789abcdef").symlink_to(make_model(tmp_path / "hidden"))
    make_model(shelf / "g")
    monkeypatch.setenv("UMAMBA2_MODELS", str(shelf))
    assert run("models") == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["a", "b", "c", "d", "e", "g", *DEMOS]
    assert [line.split(": ")[1].removeprefix(f"{shelf}/")[0] for line in err.splitlines()] == list("abcde")
    assert out.count("cannot be used") == 5


def test_of_two_models_of_a_name_the_first_counts(tmp_path, capsys, monkeypatch):
    for place in ("one", "two"):
        make_model(tmp_path / place / "stsr")
    monkeypatch.setenv("UMAMBA2_MODELS", f"{tmp_path / 'one'}:{tmp_path / 'nowhere'}:{tmp_path / 'two'}")
    assert run("models", "--json") == 0
    listed = [(model["folder"], model["hidden"]) for model in json.loads(capsys.readouterr().out)]
    assert listed[:2] == [(str(tmp_path / "one/stsr"), False), (str(tmp_path / "two/stsr"), True)]
    assert listed[2][1]  # the demo model of that name
    assert not listed[3][1]
    monkeypatch.setenv("UMAMBA2_MODELS", str(tmp_path / "one/stsr"))
    assert run("models") == 0
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path / 'one/stsr'}: found a model, expected a folder of")
