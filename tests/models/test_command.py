"""`umamba2 info` and `umamba2 slim`, and what the package offers without being asked for torch."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
from small_models import make_model

from umamba2.errors import InputError
from umamba2.models.command import add_info, add_slim
from umamba2.models.folder import load_model


def run(*argv):
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_info(commands)
    add_slim(commands)
    arguments = parser.parse_args([str(part) for part in argv])
    return arguments.command(arguments)


def test_info_describes_and_slim_says_how_large_it_is(tmp_path, capsys):
    folder = make_model(tmp_path / "model")
    assert run("info", folder) == 0
    assert capsys.readouterr().out.startswith(f"model        {folder}\n")
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
