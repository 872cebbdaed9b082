"""Where what the image holds comes from: locks with hashes that agree with the requirements, lists of what is in it."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements", "requirements-fused")


def entries(text: str) -> dict[str, set[str]]:
    """Requirements of a file, each as name==version and marker, with the hashes that follow it."""
    found: dict[str, set[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = line.partition("#")[0].strip()
        if line:
            stated, *hashes = re.split(r"\s+--hash=", line)
            found[stated.strip()] = set(hashes)
    return found


def normal(requirement: str) -> tuple[str, str, tuple[str, ...]]:
    """Name, version and marker, however they are written."""
    stated, _, marker = requirement.partition(";")
    name, _, version = stated.strip().partition("==")
    words = marker.replace("python_full_version", "python_version").replace("'", '"').split()
    return re.sub(r"[-_.]+", "-", name).lower(), version, tuple(words)


@pytest.mark.parametrize("name", LOCKS)
def test_locks_agree_with_the_requirements(name):
    """Else: scripts/lock.sh."""
    wanted = {normal(line) for line in entries((ROOT / f"{name}.txt").read_text())} - {normal("torch==2.13.0")}
    lock = entries((ROOT / f"{name}.lock").read_text())
    assert {one for one in wanted if one[0] == "torch"} == set(), "the base's torch stays: mend this test"
    assert {normal(line) for line in lock} == wanted
    for requirement, hashes in lock.items():
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_place(name):
    """No index, no host, no path of whoever made them."""
    text = (ROOT / f"{name}.lock").read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted|file:|@ ", text)
    assert "scripts/lock.sh" in text


def test_the_image_installs_nothing_without_a_hash():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:install|wheel)[^&;\n]*", text)
    assert len(installs) == 3
    for install in installs:
        assert "--no-deps" in install
        assert "--require-hashes" in install or ("--no-index" in install and "/wheels/" in install)


def test_only_what_is_named_gets_into_the_build():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    kept_out = [line for line in lines if line[0] not in "!*"] + [line for line in lines if line.startswith("**/")]
    assert allowed == {
        "inference.py", "predict.sh", "requirements.lock", "requirements-fused.lock", "LICENSE", "umamba2", "resources",
        "scripts/entrypoint.sh", "scripts/inventory.py", "build/resources",
    }  # fmt: skip
    # Later lines count: what is kept out comes after what is let in.
    assert max(lines.index(f"!{one}") for one in allowed) < min(map(lines.index, kept_out))
    for name in (".env", ".git", "__pycache__", "a.pyc"):
        assert any(fnmatch.fnmatch(f"umamba2/{name}", line.replace("**", "*")) for line in kept_out), name
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source.rstrip("/").replace("${RESOURCES}", "resources") for line in copied for source in line.split()}
    assert sources <= allowed


# --- the lists in the image -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Both lists of this environment, with a made-up package and a model."""
    folder = tmp_path_factory.mktemp("lists")
    (folder / "umamba2").mkdir()
    (folder / "umamba2/__init__.py").write_text('__version__ = "1.2.3"\n')
    for name, fields in {
        "odd_One": "License: " + "text of a licence\n        " * 9,
        "classy": "Classifier: License :: OSI Approved :: MIT License",
        "modern": "License-Expression: MIT OR Apache-2.0\nLicense-File: LICENSE.txt",
    }.items():
        info = folder / f"{name}-1.0+local.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0+local\n{fields}\n")
    (folder / "modern-1.0+local.dist-info/LICENSE.txt").write_text("do what you like")
    (folder / "modern-1.0+local.dist-info/RECORD").write_text("modern-1.0+local.dist-info/LICENSE.txt,,\n")
    (folder / "models/fold_0").mkdir(parents=True)
    (folder / "models/fold_0/checkpoint_best.pth").write_bytes(b"abc")
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); sys.argv = sys.argv[1:]; import runpy; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    script = [str(ROOT / "scripts/inventory.py"), str(folder), "--models", str(folder / "models")]
    texts = []
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", code, *script], check=True, env={**os.environ, "PATH": str(folder)}
        )  # no dpkg
        texts.append(((folder / "THIRD_PARTY.txt").read_text(), (folder / "sbom.cdx.json").read_text()))
    assert texts[0] == texts[1]
    return texts[0][0], json.loads(texts[0][1]), folder


@pytest.mark.slow
def test_the_bill_of_materials_is_cyclonedx(lists):
    pytest.importorskip("cyclonedx")
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    try:
        problem = validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(lists[1]))
    except Exception as error:
        if type(error).__name__ != "MissingOptionalDependencyException":
            raise
        pytest.skip("cyclonedx-python-lib without its validator")
    assert problem is None, problem


@pytest.mark.slow
def test_the_bill_of_materials_says_what_is_there(lists):
    _, bom, _ = lists
    assert bom["metadata"]["component"]["version"] == "1.2.3"
    components = {one["bom-ref"]: one for one in bom["components"]}
    assert len(components) == len(bom["components"])
    assert components["pkg:pypi/modern@1.0%2Blocal"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert components["pkg:pypi/classy@1.0%2Blocal"]["licenses"] == [{"license": {"name": "MIT License"}}]
    assert "licenses" not in components["pkg:pypi/odd-one@1.0%2Blocal"]
    assert any(ref.startswith("pkg:pypi/numpy@") for ref in components)
    (model,) = (one for one in bom["components"] if one["type"] == "file")
    assert model["name"] == "fold_0/checkpoint_best.pth"
    assert model["hashes"][0]["content"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.slow
def test_licences_are_listed_with_their_texts(lists):
    text, _, folder = lists
    lines = text.splitlines()
    place = lines.index("modern 1.0+local: MIT OR Apache-2.0")
    assert lines[place + 1] == f"    {folder}/modern-1.0+local.dist-info/LICENSE.txt"
    assert "odd-one 1.0+local: not stated" in lines
    assert any(re.fullmatch(r"connected-components-3d \S+: LGPL-3.0-or-later", line) for line in lines)


def test_conda_and_debian_are_listed_too(tmp_path, monkeypatch):
    import importlib.util

    spec = importlib.util.spec_from_file_location("inventory", ROOT / "scripts/inventory.py")
    inventory = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "inventory", inventory)  # dataclasses look for their module
    spec.loader.exec_module(inventory)
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta/a.json").write_text(json.dumps({"name": "ncurses", "version": "6.4", "license": "X11"}))
    (tmp_path / "conda-meta/history").write_text("")
    (conda,) = inventory.of_conda(tmp_path)
    assert conda.component()["licenses"] == [{"license": {"name": "X11"}}]
    first, second = inventory.of_debian("base-files\t12.4+deb12u11\nlibc6\t1:2.36~1\n", "debian")
    assert first.component()["purl"] == "pkg:deb/debian/base-files@12.4%2Bdeb12u11"
    assert second.component()["purl"] == "pkg:deb/debian/libc6@1%3A2.36~1"
    assert second.component()["name"] == "libc6"


def test_the_documentation_names_every_library_with_its_licence():
    """Of what the package and its extras ask for; a new one gets a line in docs/third-party.md."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: asked for name, asked in project["optional-dependencies"].items() if name not in ("dev", "docs")}
    asked = [*project["dependencies"], *(one for some in extras.values() for one in some)]
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in asked} - {"umamba2"}
    rows = re.findall(r"^\| ([\w.-]+) \| ", (ROOT / "docs/third-party.md").read_text(), re.MULTILINE)
    assert names - {row.lower() for row in rows} == set()


# --- build.sh ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "digests", "taken"),
    [
        (True, "some/base@sha256:abc\nmirror/base@sha256:abc", "some/base@sha256:abc"),
        (False, "some/base@sha256:abc", "some/base@sha256:abc"),  # pulled first
        (True, "", "some/base:1"),  # made on this machine
    ],
)
def test_the_base_is_taken_by_its_digest(tmp_path, here, digests, taken):
    docker = tmp_path / "docker"
    docker.write_text(
        f"""#!/bin/sh
        echo "$*" >>{tmp_path}/log
        case "$*" in
            *RepoDigests*) printf '{digests.replace(chr(10), chr(92) + "n")}' ;;
            *"image inspect --format {{{{.Id}}}}"*) echo sha256:123 ;;
            "image inspect some/base:1") {"exit 0" if here else f"[ -e {tmp_path}/pulled ]"} ;;
            pull*) touch {tmp_path}/pulled ;;
        esac
        """
    )
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "UMAMBA2_BUILD_OPTIONS": ""}
    command = [str(ROOT / "build.sh"), "--base", "some/base:1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = taken if digests else "image sha256:123 of this machine, which no registry has"
    assert done.stdout.splitlines()[0] == f"Base some/base:1, {expected}"
    (build,) = (line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("build "))
    assert f"--build-arg BASE_IMAGE={taken} --build-arg BASE_NAME=some/base:1 --build-arg BASE_DIGEST=" in build
    assert ("BASE_DIGEST=sha256:abc" in build) == bool(digests)
    assert (tmp_path / "pulled").exists() != here
