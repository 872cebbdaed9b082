#!/usr/bin/env bash
# Write the archives that the platforms take, and make sure that they load.
set -euo pipefail

usage() {
    cat <<'END'
Usage: ./export.sh [--tag TAG] [--team NAME] [--model FOLDER] [--output FOLDER]

  --tag TAG         image to export (default: umamba2:latest)
  --team NAME       your team's name on Codabench: lower case letters, digits, - and _. The image is saved as
                    NAME:latest in NAME.tar.gz. Without it only the Grand Challenge archive is written.
  --model FOLDER    also pack this model folder as model.tar.gz, which Grand Challenge unpacks at /opt/ml/model
  --output FOLDER   where the archives go (default: export/ in the repository)

Prints the size and sha256 of each archive.
END
}

fail() {
    echo "export.sh: $*" >&2
    exit 2
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
tag="umamba2:latest" team="" model="" output="$root/export"
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit 0 ;;
        --tag | --team | --model | --output)
            [ $# -ge 2 ] || fail "$1: found no value"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        *) fail "unknown option $1 (see --help)" ;;
    esac
done
[[ -z "$team" || "$team" =~ ^[a-z0-9][a-z0-9_-]*$ ]] ||
    fail "--team: found '$team', expected lower case letters, digits, - and _"
[ -z "$model" ] || [ -d "$model" ] || fail "--model: found no folder '$model'"
docker image inspect "$tag" >/dev/null 2>&1 || fail "found no image $tag (run ./build.sh first)"
mkdir -p "$output"
output="$(cd "$output" && pwd)"

report() {
    local size sum
    size="$(wc -c <"$1")"
    sum="$( (sha256sum "$1" 2>/dev/null || shasum -a 256 "$1") | cut -d ' ' -f 1)"
    awk -v size="$size" -v path="$1" -v sum="$sum" 'BEGIN {printf "%s  %.2f GB  sha256 %s\n", path, size / 1e9, sum}'
    if [ "$size" -gt 10000000000 ]; then
        echo "export.sh: $1: found $size bytes, Grand Challenge takes at most 10 GB" >&2
        exit 1
    fi
}

save() { # IMAGE FILE: written under another name first, so that a file with the final name is whole
    local before after
    echo "Saving $1"
    docker save "$1" | gzip >"$2.partial"
    before="$(docker image inspect --format '{{.Id}}' "$1")"
    docker load --quiet --input "$2.partial" >/dev/null
    after="$(docker image inspect --format '{{.Id}}' "$1")"
    [ "$before" = "$after" ] || fail "$2: found image $after after loading, expected $before"
    mv "$2.partial" "$2"
    report "$2"
}

save "$tag" "$output/umamba2.tar.gz"
if [ -n "$team" ]; then
    docker tag "$tag" "$team:latest"
    save "$team:latest" "$output/$team.tar.gz"
fi
if [ -n "$model" ]; then
    tar -C "$model" --exclude='validation*' --exclude='training_log*' --exclude='progress.png' \
        --exclude='checkpoint_latest.pth' -czf "$output/model.tar.gz.partial" .
    mv "$output/model.tar.gz.partial" "$output/model.tar.gz"
    report "$output/model.tar.gz"
fi
