"""Which folder a name stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in import write_model

from umamba2.errors import ModelError
from umamba2.models import locate
from umamba2.models.locate import DEMO_MODELS, find_model, model_folder, models_in, shelves


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UMAMBA2_MODELS", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    return tmp_path


def test_names_are_looked_for_in_order(places):
    assert model_folder("stsr") == DEMO_MODELS / "stsr"
    second = write_model(places / "two/stsr", "stsr")
    assert model_folder("stsr") == second
    (places / "one/stsr").mkdir(parents=True)  # no model
    assert model_folder("stsr") == second
    first = write_model(places / "one/stsr", "stsr")
    assert model_folder("stsr") == first
    assert find_model("stsr", ["stsr"]) == first


def test_a_path_that_exists_wins(places):
    write_model(places / "one/stsr", "stsr")
    (places / "stsr").mkdir()
    assert model_folder("stsr") == Path("stsr")
    assert model_folder(places / "one/stsr") == places / "one/stsr"
    for path in ("one/stsr", "no/such", "../stsr", ".", "..", "/nowhere", ".hidden", "stsr/"):
        assert model_folder(path) == Path(path)


@pytest.mark.parametrize("name", ["their", pytest.param("a" * 300, id="a name longer than names of files")])
def test_an_unknown_name_names_the_known(places, name):
    write_model(places / "two/mine", "stsr")
    with pytest.raises(ModelError) as caught:
        model_folder(name)
    known = "mine, stsr, toothfairy3-interactive, toothfairy3-multiclass"
    found = f"{name}: found no such folder, and no model of that name"
    assert str(caught.value) == f"{found}, expected a model folder or one of {known}"


def test_hidden_folders_are_no_models(places):
    write_model(places / "one/.partial", "stsr")
    assert models_in(places / "one") == []
    assert models_in(places / "no folder") == []
    (places / "one/.partial").rename(places / "one/whole")
    assert models_in(places / "one") == [places / "one/whole"]


def test_the_folders_of_models(places, monkeypatch):
    assert shelves() == [places / "one", places / "two"]
    monkeypatch.setenv("UMAMBA2_MODELS", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert shelves() == [Path("/data/umamba2/models")]
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/someone")
    assert shelves() == [Path("/home/someone/.local/share/umamba2/models")]
    monkeypatch.setattr(locate.os.path, "expanduser", lambda path: path)  # as where a user has no home
    assert shelves() == []
