"""What pyproject.toml cannot say: the demo models of resources/ lie in the package as umamba2/models/demo.

They are in the repository once, at the top level. Only a built package has them inside; an editable installation and
the container find them where they are.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class WithDemoModels(build_py):
    """Copies the demo models and the page about them beside the modules."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self._models().items():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target), preserve_mode=False)

    def get_source_files(self):
        return [*super().get_source_files(), *(source.as_posix() for source in self._models())]

    def get_outputs(self, include_bytecode=1):
        models = [] if self.editable_mode else map(str, self._models().values())
        return [*super().get_outputs(include_bytecode), *models]

    def _models(self):
        folder = Path(self.build_lib, "umamba2/models/demo")
        found = (path for kind in ("*/model.json", "*/*.safetensors") for path in ROOT.glob(f"resources/{kind}"))
        sources = sorted(path.relative_to(ROOT) for path in [*found, ROOT / "resources/README.md"])
        return {source: folder / source.relative_to("resources") for source in sources}


setup(cmdclass={"build_py": WithDemoModels})
