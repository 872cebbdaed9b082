#!/usr/bin/env bash
# Set up .venv, check style and types, run the test suite with one process per core.
set -euo pipefail

usage() {
    cat <<'END'
Usage: ./run_tests.sh [PYTEST ARGUMENTS]

Makes a virtual environment in .venv (Python 3.10-3.12), installs the project and its test tools,
then runs ruff, mypy and pytest (one process per core). A second run skips the set-up unless the requirements changed.

Examples:
  ./run_tests.sh
  ./run_tests.sh -m "not slow"
  ./run_tests.sh tests/test_labels.py -k canal

Environment: PYTHON chooses the interpreter of a new .venv.
END
}

case "${1-}" in -h | --help)
    usage
    exit 0
    ;;
esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/venv.sh
source "$root/scripts/venv.sh"
prepare_venv requirements-dev.txt

cd "$root"
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy
.venv/bin/python -m pytest --numprocesses auto "$@"
