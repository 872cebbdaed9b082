#!/usr/bin/env bash
# Set up .venv, check style and types, run the test suite with one process per core, measure its coverage.
set -euo pipefail

usage() {
    cat <<'END'
Usage: ./run_tests.sh [PYTEST ARGUMENTS]

Makes a virtual environment in .venv (Python 3.10-3.12), installs the project and its test tools,
then runs ruff, mypy and pytest (one process per core). A second run skips the set-up unless the requirements changed.
Without arguments it also measures how much of the package the tests reach, and fails below 90 % of its lines.

Examples:
  ./run_tests.sh
  ./run_tests.sh -m "not slow"
  ./run_tests.sh tests/anatomy -k canal

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
# Threads of test processes side by side must not spin for long while they wait for each other.
export GOMP_SPINCOUNT=1000
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy
# A part of the tests says nothing about how much all of them reach.
[ $# -gt 0 ] || set -- --cov
.venv/bin/python -m pytest --numprocesses auto "$@"
