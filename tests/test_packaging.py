"""What pip installs: the demo models are inside, and the source package holds what its tests need."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMOS = ("stsr", "toothfairy3-interactive", "toothfairy3-multiclass")
# What only the repository needs: its platform's files, what git is not to look at, what CI runs.
LEFT_OUT = (".github/", ".ci/", ".gitignore")


def tracked() -> set[str]:
    """The files of the repository; none where this is an unpacked source package."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return (
        {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()} if (ROOT / ".git").exists() else set()
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Wheel and source package of a copy of the repository, made as pip makes them, but without a network."""
    names = tracked()
    if not names:
        pytest.skip("no repository around the tests")
    pytest.importorskip("setuptools", "77")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(ROOT / name, copy / name) if os.stat(ROOT).st_dev == os.stat(copy).st_dev else (
            copy / name
        ).write_bytes((ROOT / name).read_bytes())
    code = (
        "import sys; from setuptools import build_meta as b; out = sys.argv[1]; b.build_sdist(out); b.build_wheel(out)"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], cwd=copy, capture_output=True, check=True)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_holds_the_demo_models_once_and_nothing_strange(packages):
    with zipfile.ZipFile(packages[1]) as archive:
        names = archive.namelist()
        for demo in DEMOS:
            for name in ("model.json", "fold_0.safetensors"):
                inside = archive.read(f"umamba2/models/demo/{demo}/{name}")
                assert inside == (ROOT / "resources" / demo / name).read_bytes()
    assert {name.split("/")[0] for name in names} == {
        "umamba2",
        next(n for n in names if "dist-info" in n).split("/")[0],
    }
    assert len([name for name in names if name.endswith(".safetensors")]) == len(DEMOS)
    assert not [name for name in names if "train_demo" in name]
    assert {name for name in tracked() if name.startswith("umamba2/")} <= set(names)


@pytest.mark.slow
def test_the_source_package_holds_what_the_repository_holds(packages):
    with tarfile.open(packages[0]) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    missing = {name for name in tracked() - names if not name.startswith(LEFT_OUT)}
    assert missing == set()
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in names - tracked() - made if not name.startswith("umamba2.egg-info/")} == set()


@pytest.mark.slow
def test_an_installed_package_segments_without_a_model(packages, tmp_path):
    """In an environment of its own, which borrows the libraries of this one."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    with zipfile.ZipFile(packages[1]) as archive:
        archive.extractall(site)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "UMAMBA2_MODELS")}
    arguments = ["-i", str(ROOT / "test/stsr/input/phantom_9003.nii.gz"), "-o", "out", "--challenge", "stsr", "--quiet"]
    command = [str(tmp_path / "venv/bin/python"), "-m", "umamba2", "predict", *arguments, "--time-limit", "0.1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    demo, *_ = done.stderr.splitlines()
    assert demo == "warning: no --model: taking the demo model stsr, which has never seen a patient"
    assert (tmp_path / "out/phantom_9003.nii.gz").is_file()
    where = "from umamba2.models.locate import DEMO_MODELS as d; print(d)"
    shown = subprocess.run([command[0], "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(shown.stdout.strip()) == site / "umamba2/models/demo"
