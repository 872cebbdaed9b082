#!/usr/bin/env bash
# Write the archives that the platforms take, and make sure that they load.
set -euo pipefail

usage() {
    cat <<'END'
Usage: ./export.sh [--tag TAG] [--team NAME] [--model FOLDER] [--output FOLDER]

Writes, and prints the size and sha256 of:
  grand-challenge.tar.gz   the image, for Grand Challenge
  NAME.tar.gz              the same image, for Codabench, where it has to be called NAME:latest
  model.tar.gz             the model that is in the image, for Grand Challenge to unpack at /opt/ml/model; what is there
                           comes before what is in the image
  sbom.cdx.json            what the image holds (CycloneDX), and THIRD_PARTY.txt, the same with licences to read

  --tag TAG         image to export (default: umamba2:latest)
  --team NAME       your team's name on Codabench: lower case letters, digits, - and _ (default: TAG's name)
  --model FOLDER    put this model folder into model.tar.gz instead
  --output FOLDER   where the archives go (default: export/ in the repository)
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
if [ -z "$team" ]; then # the last part of the name: registry:5000/lab/name:version
    team="${tag##*/}"
    team="${team%%:*}"
fi
[[ "$team" =~ ^[a-z0-9][a-z0-9_-]*$ ]] || fail "--team: found '$team', expected lower case letters, digits, - and _"
[[ "$team" != model && "$team" != grand-challenge ]] || fail "--team: found '$team', the name of another archive"
has_model() { [ -n "$(find -L "$1" -name model.json -o -name 'checkpoint_*.pth' 2>/dev/null)" ]; }
[ -z "$model" ] || has_model "$model" ||
    fail "--model: found no model in '$model', expected model.json or fold_*/checkpoint_*.pth"
docker image inspect "$tag" >/dev/null 2>&1 || fail "found no image $tag (run ./build.sh first)"
mkdir -p "$output"
output="$(cd "$output" && pwd)"

# Everything is written under another name first, so that a file with the final name is whole.
partial="$output/.partial.tar.gz" unpacked="" container=""
clean_up() {
    rm -rf "$partial" ${unpacked:+"$unpacked"}
    if [ -n "$container" ]; then docker rm --force "$container" >/dev/null; fi
}
trap clean_up EXIT

finish() { # FILE...: the names of what has been written
    local size sum file
    size="$(wc -c <"$partial")"
    [ "$size" -le 10000000000 ] || fail "$1: found $size bytes, expected at most 10 GB (Grand Challenge's limit)"
    sum="$( (sha256sum "$partial" 2>/dev/null || shasum -a 256 "$partial") | cut -d ' ' -f 1)"
    for file in "$@"; do
        rm -f "$output/$file"
        ln "$partial" "$output/$file" 2>/dev/null || cp "$partial" "$output/$file"
        awk -v size="$size" -v path="$output/$file" -v sum="$sum" \
            'BEGIN {printf "%s  %.3f GB  sha256 %s\n", path, size / 1e9, sum}'
    done
    rm -f "$partial"
}

image="$team:latest"
[ "$(docker image inspect --format '{{.Id}}' "$tag")" = "$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null)" ] ||
    docker tag "$tag" "$image"
compress=gzip
if command -v pigz >/dev/null; then compress=pigz; fi # the same format, on all cores
echo "Saving $tag as $image (minutes)"
docker save "$image" | "$compress" >"$partial"
before="$(docker image inspect --format '{{.Id}}' "$image")"
loaded="$(docker load --quiet --input "$partial")"
[[ "$loaded" == *"$image"* ]] || fail "the archive: found '$loaded' when loading it, expected $image"
after="$(docker image inspect --format '{{.Id}}' "$image")"
[ "$before" = "$after" ] || fail "the archive: found image $after after loading it, expected $before"
finish grand-challenge.tar.gz "$team.tar.gz"

container="$(docker create "$tag")"
for name in sbom.cdx.json THIRD_PARTY.txt; do
    docker cp "$container:/opt/app/$name" "$output/.partial.$name" >/dev/null 2>&1 || {
        echo "No $name: found none in $tag, which an older build.sh has made" >&2
        continue
    }
    mv "$output/.partial.$name" "$output/$name"
    echo "$output/$name"
done
if [ -z "$model" ]; then
    unpacked="$(mktemp -d "${TMPDIR:-/tmp}/umamba2-model.XXXXXX")"
    docker cp "$container:/opt/app/resources/." "$unpacked" >/dev/null 2>&1 || true
    model="$unpacked"
    if ! has_model "$model"; then
        echo "No model.tar.gz: found no model in $tag (--model names one)"
        exit 0
    fi
fi
# Readable for whatever user unpacks and runs it.
modes=()
if [[ "$(tar --version)" == *GNU* ]]; then modes=(--mode=a+rX --owner=0 --group=0); fi
tar -C "$model" -h ${modes[@]+"${modes[@]}"} --exclude='validation*' --exclude='training_log*' --exclude='progress.png' \
    --exclude='debug.json' --exclude='checkpoint_latest.pth' --exclude='*.py' -czf "$partial" .
tar -tzf "$partial" >/dev/null
finish model.tar.gz
