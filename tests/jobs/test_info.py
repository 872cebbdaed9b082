"""`umamba2 info`: this installation, or a model."""

from __future__ import annotations

import json

import pytest
from small_models import make_model

import umamba2
from umamba2 import cli
from umamba2.jobs import info


def test_a_model_in_lines_and_as_json(tmp_path, capsys):
    folder = make_model(tmp_path / "model")
    assert cli.main(["info", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"model        {folder}"
    assert cli.main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [f"{name:12} {' '.join(value.split())}" for name, value in facts.items()] == lines
    assert facts["network"].startswith("umamba2.nets.UMamba2, ")
    assert cli.main(["info", "stsr"]) == 0
    assert "13: 0 background, 1 tooth" in capsys.readouterr().out
    assert cli.main(["info", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: found no such folder")


def test_the_installation(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UMAMBA2_MODELS", str(tmp_path))
    make_model(tmp_path / "mine")
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["umamba2"].startswith(f"{umamba2.__version__} in ")
    assert facts["models"][str(tmp_path)] == ["mine"]
    assert facts["environment"]["UMAMBA2_MODELS"] == str(tmp_path)
    assert facts["chosen"].split(", ")[1] in ("fp16", "bf16", "fp32")
    assert facts["libraries"]["SimpleITK"]
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [name.split()[0] for name in facts]
    assert any(line.startswith("models       ") and f"{tmp_path}: mine" in line for line in lines)


@pytest.mark.parametrize("line", ['edt>=3.1; extra == "reports"', "edt>=3.1 ; extra == 'reports'"])
def test_extras_say_what_they_lack(line, monkeypatch):
    monkeypatch.setattr(info.metadata, "requires", lambda name: ["numpy>=1", line, 'no-such-lib; extra == "reports"'])
    assert info._extras() == {"reports": ["without no-such-lib"]}

    def nothing(name):
        raise info.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(info.metadata, "requires", nothing)
    assert info._extras() == {}
