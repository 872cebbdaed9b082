"""The page's files: the viewer is the one that was published, with its licences, and nothing comes from elsewhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import umamba2.web

STATIC = Path(umamba2.web.__file__).parent / "static"
OWN = sorted(path for path in STATIC.iterdir() if path.is_file())


def test_the_viewer_is_the_published_file():
    stated = re.search(r"sha256: ([0-9a-f]{64})", (STATIC / "niivue/README.md").read_text())
    assert stated
    assert hashlib.sha256((STATIC / "niivue/niivue.umd.js").read_bytes()).hexdigest() == stated[1]
    assert "BSD 2-Clause" in (STATIC / "niivue/LICENSE").read_text()
    bundled = (STATIC / "niivue/LICENSE-BUNDLED").read_text()
    for library in ("fflate", "gl-matrix", "nifti-reader-js", "zarrita", "numcodecs", "array-equal", "uuid"):
        assert f"{library} MIT" in bundled


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(path):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//cdn|@import", text)


def test_no_script_or_style_stands_in_the_page_itself():
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)", page)


def test_every_id_that_the_scripts_ask_for_is_in_the_page():
    ids = set(re.findall(r'\sid="([\w-]+)"', (STATIC / "index.html").read_text(encoding="utf-8")))
    asked = {name for path in STATIC.glob("*.js") for name in re.findall(r"\$\('([\w-]+)'\)", path.read_text("utf-8"))}
    assert len(asked) > 30
    assert asked <= ids
