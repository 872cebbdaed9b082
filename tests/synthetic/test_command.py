"""The phantom command: its options, its one line, its errors."""

import argparse
import sys

import pytest
import SimpleITK as sitk

from umamba2.errors import InputError, MissingExtra
from umamba2.synthetic.command import add_parser


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(["phantom", *map(str, arguments)])
    return options.command(options)


def test_phantoms_are_written_on_the_grid_that_was_asked_for(tmp_path, capsys):
    grid = ("--shape", 24, 26, 28, "--spacing", 3, 2.5, 2)
    assert run(tmp_path, "--count", 2, "--seed", 7, *grid) == 0
    assert capsys.readouterr().out == f"{tmp_path}  2 phantoms: phantom_0007, phantom_0008\n"
    image = sitk.ReadImage(str(tmp_path / "images/phantom_0008.mha"))
    assert (image.GetSize(), image.GetSpacing()) == ((28, 26, 24), (2, 2.5, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--spacing", 1, 2), "--spacing: found 2 numbers, expected one or three"),
        (("--seed", -1, "--shape", 5, 5, 5), "seed is -1, expected 0 or more"),
    ],
)
def test_wrong_values_are_one_line(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, *options)


@pytest.mark.parametrize("wrong", [("--count", 0), ("--spacing", "nan"), ("--shape", 5, 5, -5)])
def test_numbers_that_are_not_positive_are_wrong_options(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, *wrong)
    assert f"found {wrong[-1]}, expected a positive" in capsys.readouterr().err


def test_without_scipy_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "umamba2.synthetic.phantoms", raising=False)
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "umamba2.synthetic.appearance", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'umamba2\[phantoms\]'"):
        run(tmp_path)
