"""What README and the pages say: the Python in them runs, the commands in them exist, and so do their links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from umamba2.cli import COMMANDS, _parser
from umamba2.synthetic import write_phantoms

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("resources/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_python_in_it_runs(page, tmp_path, monkeypatch):
    write_phantoms(tmp_path, 1, 3, (43, 68, 86), (1.2, 1.2, 1.2))
    (tmp_path / "images/phantom_0003.mha").rename(tmp_path / "scan.mha")
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(ROOT / page, "python"):
        exec(compile(block, page, "exec"), names)
    assert (tmp_path / "labels.mha").is_file()


def test_the_commands_exist():
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("umamba2 ")]
    assert len(commands) > 20
    for words in commands:
        _parser(words[:1]).parse_args(words)  # exits for an option that is none


def test_the_exit_codes_of_every_command_are_told():
    table = (ROOT / "docs/command-line.md").read_text(encoding="utf-8").partition("| command | exit code 1 |")[2]
    told = set(re.findall(r"`([a-z-]+)[ `]", table.partition("\n\n")[0]))
    assert set(COMMANDS) - told == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_workflows_use_actions_of_one_commit_each():
    for workflow in ROOT.glob(".github/workflows/*.yml"):
        used = re.findall(r"uses: (\S+)", workflow.read_text(encoding="utf-8"))
        assert used
        assert all(re.search(r"@[0-9a-f]{40}$", action) for action in used), used
