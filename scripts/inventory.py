"""What is in the image, for people and for machines: THIRD_PARTY.txt and sbom.cdx.json (CycloneDX 1.6).

    python scripts/inventory.py FOLDER [--models FOLDER]

Run while the image is built, on what is installed there: Python packages, packages of conda and Debian if the base has
them, and the files of the models. Needs nothing but Python, and the same image gives the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True)
class Package:
    """Something from elsewhere: what kind of package ("pypi", "conda", "deb"), its licence, where its text is."""

    kind: str
    name: str
    version: str
    licence: str = ""  # as its makers wrote it
    expression: bool = False  # whether that is an expression of SPDX identifiers
    texts: tuple[str, ...] = ()

    def component(self) -> dict[str, Any]:
        """As CycloneDX has it."""
        purl = f"pkg:{self.kind}/{quote(self.name, safe='/')}@{quote(self.version, safe='')}"
        found: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": self.name.rpartition("/")[2]}
        found |= {"version": self.version, "purl": purl}
        if self.licence:
            found["licenses"] = [
                {"expression": self.licence} if self.expression else {"license": {"name": self.licence}}
            ]
        return found


def of_python() -> Iterator[Package]:
    """What is installed in this Python."""
    for one in metadata.distributions():
        name = one.metadata.get("Name")
        if not name:  # what an interrupted installation left
            continue
        expression = one.metadata.get("License-Expression")
        stated = (one.metadata.get("License") or "").strip()
        classes = [c for c in one.metadata.get_all("Classifier", []) if c.startswith("License :: ")]
        of_classes = " OR ".join(c.rpartition(" :: ")[2] for c in classes if c != "License :: OSI Approved")
        # Some have the whole text of the licence in that field.
        licence = expression or (stated if len(stated) < 60 and "\n" not in stated else "") or of_classes
        where = [f for f in one.files or [] if re.match(r"(LICEN[CS]E|COPYING|NOTICE)", f.name, re.IGNORECASE)]
        texts = tuple(sorted(str(one.locate_file(file)) for file in where))
        name = re.sub(r"[-_.]+", "-", name).lower()
        yield Package("pypi", name, one.version, licence, bool(expression), texts)


def of_conda(prefix: Path) -> Iterator[Package]:
    """What conda has installed in a folder."""
    for path in prefix.glob("conda-meta/*.json"):
        one = json.loads(path.read_text(encoding="utf-8"))
        yield Package("conda", one["name"], one["version"], one.get("license") or "")


def of_debian(listing: str, system: str) -> Iterator[Package]:
    """What a list of `dpkg-query` holds, names and versions with a tab between, on Debian or Ubuntu."""
    for name, version in (line.split("\t") for line in listing.splitlines()):
        texts = (f"/usr/share/doc/{name}/copyright",)
        yield Package("deb", f"{system}/{name}", version, texts=texts)


def model_files(folder: Path) -> list[dict[str, Any]]:
    """The weights in a folder, with their checksums, as CycloneDX has them."""
    found = []
    for path in sorted(path for kind in ("*.safetensors", "*.pth") for path in folder.rglob(kind)):
        name = path.relative_to(folder).as_posix()
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
        hashes = [{"alg": "SHA-256", "content": digest.hexdigest()}]
        found.append({"type": "file", "bom-ref": f"model:{name}", "name": name, "hashes": hashes})
    return found


def third_party(packages: list[Package]) -> str:
    """The list for people."""
    lines = ["What this image holds from elsewhere, with its licences as the packages state them.", ""]
    for package in packages:
        texts = [text for text in package.texts if Path(text).exists()]
        licence = package.licence or ("see the file" if texts else "not stated")
        lines += [f"{package.name} {package.version}: {licence}", *(f"    {text}" for text in texts)]
    return "\n".join(lines) + "\n"


def bill_of_materials(packages: list[Package], models: list[dict[str, Any]], version: str) -> dict[str, Any]:
    """The list for machines, CycloneDX 1.6."""
    image = {"type": "container", "bom-ref": "image", "name": "umamba2", "version": version}
    licence = [{"license": {"id": "Apache-2.0"}}]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**image, "licenses": licence}},
        "components": [*(package.component() for package in packages), *models],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write THIRD_PARTY.txt and sbom.cdx.json.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=Path, help="folder of models")
    options = parser.parse_args()
    try:
        command = ["dpkg-query", "--show", "--showformat=${Package}\\t${Version}\\n"]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        release = Path("/etc/os-release").read_text(encoding="utf-8")
        system = next(iter(re.findall(r"^ID=\"?(\w+)", release, re.MULTILINE)), "debian")
    except (OSError, subprocess.CalledProcessError):
        listing, system = "", ""
    found: dict[tuple[str, str], Package] = {}
    for one in (*of_python(), *of_conda(Path(sys.prefix)), *of_debian(listing, system)):
        found.setdefault((one.kind, one.name), one)  # of two in different folders Python takes the first
    order = ("pypi", "conda", "deb")  # the longest last
    packages = sorted(found.values(), key=lambda one: (order.index(one.kind), one.name))
    version = next(iter(re.findall(r'^__version__ = "(.+)"', _package(options.folder), re.MULTILINE)), "unknown")
    bom = bill_of_materials(packages, model_files(options.models) if options.models else [], version)
    (options.folder / "THIRD_PARTY.txt").write_text(third_party(packages), encoding="utf-8")
    (options.folder / "sbom.cdx.json").write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")


def _package(folder: Path) -> str:
    """The source of `umamba2`, which lies beside the lists."""
    path = folder / "umamba2/__init__.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    main()
