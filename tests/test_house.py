"""The house rules of CONTRIBUTING.md that a machine can check: which way imports go, and how large things may be."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "umamba2"

# Bottom to top: a file imports only from the lines below its own, and from its own room. What stands beside each other
# in a line does not import each other.
LAYERS = (
    ("errors", "messages", "lazy", "arguments", "files"),
    ("anatomy",),
    ("scans",),
    ("nets",),
    ("challenges",),
    ("models",),
    ("engine",),
    ("training", "reports", "exports", "evaluation", "synthetic"),
    ("segmenter",),
    ("jobs",),
    ("serving", "web"),
    ("cli",),
    ("", "__main__"),  # the package itself
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
BESIDE = {("reports", "umamba2.evaluation.metrics")}  # reports show the graders' metrics
BOTTOM = LAYERS[0]  # these few may use each other
MOST_LINES, MOST_LOOSE = 450, 9


class Import(NamedTuple):
    """A module that another imports, the names taken from it, and whether that is for type checkers alone."""

    module: str
    names: tuple[str, ...]
    typing: bool


@cache
def files() -> dict[str, Path]:
    """Every module of the package with its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    return [*module.split("."), ""][1]


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """The imports of a file from this package at any depth, those by `lazily` too."""
    found = []

    def visit(node: ast.AST, typing: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            positive = not isinstance(node.test, ast.UnaryOp)
            for part, applies in ((node.body, positive), (node.orelse, not positive)):
                for child in part:
                    visit(child, typing or applies)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, (), typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                if below in files():
                    found.append(Import(below, (), typing))
                else:
                    found.append(Import(str(node.module), (alias.name,), typing))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazily":
            package = ".".join(path.relative_to(ROOT).parts[:-1])
            homes = [n.value for n in ast.walk(node.args[1]) if isinstance(n, ast.Constant)]
            found.extend(Import(f"{package}.{home}", (), False) for home in homes if f"{package}.{home}" in files())
        for child in ast.iter_child_nodes(node):
            visit(child, typing)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return tuple(i for i in found if i.module.split(".")[0] == "umamba2")


def test_every_room_has_its_place():
    assert {room(module) for module in files()} == set(LEVEL)


def test_imports_go_downwards():
    wrong = set()
    for module, path in files().items():
        own = room(module)
        for one in imports(path):
            other = room(one.module)
            version = other == "" and (one.names in ((), ("__version__",)))
            fine = LEVEL[other] < LEVEL[own] or other == own or (own in BOTTOM and other in BOTTOM) or version
            if not fine and (own, one.module) not in BESIDE:
                wrong.add(f"{module} -> {one.module}")
    assert wrong == set()


def test_no_module_imports_itself_in_the_end():
    arrows = {m: {i.module for i in imports(path) if not i.typing} - {m, "umamba2"} for m, path in files().items()}
    circles = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            circles.add(" -> ".join(sorted(way[way.index(module) :])))
        elif module not in done:
            for other in arrows.get(module, ()):
                follow(other, (*way, module))
            done.add(module)

    done: set[str] = set()
    for module in arrows:
        follow(module, ())
    assert circles == set()


def test_nothing_below_the_jobs_talks():
    talking = set()
    for module, path in files().items():
        if LEVEL[room(module)] >= LEVEL["jobs"] or path.name == "command.py" or module == "umamba2.messages":
            continue
        if any(i.module == "umamba2.messages" and "say" in i.names for i in imports(path)):
            talking.add(module)
        calls = (node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
        if any(isinstance(call, ast.Name) and call.id == "print" for call in calls):
            talking.add(module)
    assert talking == set()


@pytest.mark.parametrize("quiet", ["anatomy", "nets", "challenges"])
def test_rooms_that_read_and_write_no_files(quiet):
    forbidden = {"json", "os", "pathlib", "SimpleITK", "safetensors", "umamba2.files"}
    for path in (PACKAGE / quiet).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & forbidden, path


def test_files_are_short_and_few_are_loose():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_LOOSE
    lines = {module: path.read_text(encoding="utf-8").count("\n") for module, path in files().items()}
    assert {module for module, count in lines.items() if count > MOST_LINES} == set()


def test_tests_lie_as_the_package_does():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert all((PACKAGE / folder).is_dir() for folder in folders), folders
    rooms = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py")}
    bare = {str(room) for room in rooms - folders}
    # nnU-Net looks in that folder for trainers: it holds one file, which imports them
    assert bare == {"training/nnunet_plugin"}
