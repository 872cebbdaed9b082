"""The list of mutants is of the package as it is now."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from mutant_list import GROUPS  # noqa: E402


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.file)
def test_no_mutant_is_stale(group):
    """What each replaces is there once, Python can still read the file, and the tests that should notice exist."""
    source = (ROOT / "umamba2" / group.file).read_text()
    for mutant in group.mutants:
        assert source.count(mutant.old) == 1, mutant
        changed = source.replace(mutant.old, mutant.new)
        assert changed != source
        compile(changed, group.file, "exec")
        for name in shlex.split(mutant.tests or group.tests):
            if name.startswith("tests/"):
                assert (ROOT / name.partition("::")[0]).exists(), name
