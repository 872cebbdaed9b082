#!/usr/bin/env bash
# Write requirements.lock and requirements-fused.lock anew: what the image installs, with the hashes of its files on PyPI.
set -euo pipefail

usage() {
    cat <<'END_OF_USAGE'
Usage: scripts/lock.sh

Run it after every change of requirements.txt or requirements-fused.txt. Needs uv (https://docs.astral.sh/uv), from the
PATH or as UV=path/to/uv, and PyPI. Versions are those of the .txt files; tests/test_supply_chain.py checks that both agree.
END_OF_USAGE
}

case "${1-}" in
    "") ;;
    -h | --help) usage && exit 0 ;;
    *)
        echo "lock.sh: unknown option $1 (see --help)" >&2
        exit 2
        ;;
esac
uv="${UV:-uv}"
command -v "$uv" >/dev/null || {
    echo "lock.sh: found no uv, expected it on the PATH (pip install uv)" >&2
    exit 2
}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# torch comes with the base image, built for its CUDA. --no-config and the index: no setting of this machine gets in.
while read -r name python; do
    env -u UV_INDEX -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS -u UV_CONSTRAINT \
        "$uv" pip compile --quiet --no-config --default-index https://pypi.org/simple --universal --python-version "$python" \
        --no-deps --no-emit-package torch --generate-hashes --no-annotate --custom-compile-command scripts/lock.sh \
        "$name.txt" --output-file "$name.lock.new"
    mv "$name.lock.new" "$name.lock"
done <<<$'requirements 3.10\nrequirements-fused 3.11' # the lowest Python that each is for
