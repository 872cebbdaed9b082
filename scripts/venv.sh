# shellcheck shell=bash
# Sourced by test.sh and run_tests.sh: one virtual environment in .venv for both.
#
#   prepare_venv requirements.txt        what inference needs
#   prepare_venv requirements-dev.txt    that, and what the tests need
#
# Set PYTHON to choose the interpreter of a new environment.

_is_usable_python() {
    # Runs it, because a name on the PATH may be a stub (pyenv) or lack the venv module (Debian).
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1
}

_find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11 python3.10; do
        if _is_usable_python "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "No usable Python: found none of 3.10, 3.11, 3.12 with the venv module" \
        "(on Debian and Ubuntu: apt-get install python3-venv; or set PYTHON)." >&2
    return 1
}

_hash() { # of what decides the environment's content; sha256sum is absent on macOS
    local sum=sha256sum
    command -v sha256sum >/dev/null || sum="shasum -a 256"
    # shellcheck disable=SC2086  # a command with its options
    (cd "$1" && cat pyproject.toml requirements.txt requirements-dev.txt && pwd) | $sum | cut -d ' ' -f 1
}

prepare_venv() {
    local requirements="$1" root python hash stamp
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    hash="$(_hash "$root")"
    stamp="$root/.venv/$requirements.stamp"
    # The development environment holds everything the smaller one does.
    if [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ] ||
        [ "$(cat "$root/.venv/requirements-dev.txt.stamp" 2>/dev/null)" = "$hash" ]; then
        return
    fi
    if ! _is_usable_python "$root/.venv/bin/python"; then
        python="$(_find_python)"
        echo "Creating .venv with $("$python" --version)"
        rm -rf "$root/.venv"
        "$python" -m venv "$root/.venv"
    fi
    echo "Installing $requirements into .venv (the first time takes minutes)"
    rm -f "$root"/.venv/*.stamp
    # One call for everything: a later one could replace the pinned torch.
    (cd "$root" && .venv/bin/python -m pip install -qq --disable-pip-version-check -r "$requirements" -e .)
    echo "$hash" >"$stamp"
}
