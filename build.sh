#!/usr/bin/env bash
# Build the submission image.
set -euo pipefail

usage() {
    cat <<'END'
Usage: ./build.sh [--challenge NAME] [--model FOLDER] [--api exec|invoke] [--tag TAG] [--base IMAGE] [--fused]

  --challenge NAME   toothfairy3-multiclass, toothfairy3-interactive or stsr. Without it the image recognises the
                     challenge from what is mounted.
  --model FOLDER     bake in this model folder (nnU-Net's layout or the output of `umamba2 slim`) instead of the demo
                     models; needs --challenge
  --api exec|invoke  how Grand Challenge talks to the image: one run per job (exec, the default), or a server that
                     keeps the model loaded (invoke; needs --challenge)
  --tag TAG          name of the image (default: umamba2:latest)
  --base IMAGE       base image with Python 3.10-3.12 and torch (default: see Dockerfile); name@sha256:... fixes it
  --fused            add mamba-ssm and causal-conv1d, compiled in a builder stage (for GPUs of compute capability 8.0
                     or newer; a T4 does without them)

Training logs and validation results in FOLDER are left out of the image.
Environment: UMAMBA2_BUILD_OPTIONS, further options for docker build, such as --network=host.
END
}

fail() {
    echo "build.sh: $*" >&2
    exit 2
}

challenge="" model="" api=exec tag="umamba2:latest" base="" fused=no whose=demo
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit 0 ;;
        --fused)
            fused=yes
            shift
            ;;
        --challenge | --model | --api | --tag | --base)
            [ $# -ge 2 ] || fail "$1: found no value"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        *) fail "unknown option $1 (see --help)" ;;
    esac
done
case "$challenge" in
    "" | toothfairy3-multiclass | toothfairy3-interactive | stsr) ;;
    *) fail "--challenge: found '$challenge', expected toothfairy3-multiclass, toothfairy3-interactive or stsr" ;;
esac
case "$api" in
    exec) ;;
    invoke) [ -n "$challenge" ] || fail "--api invoke: needs --challenge, because the model is loaded before any input" ;;
    *) fail "--api: found '$api', expected exec or invoke" ;;
esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
resources=resources
if [ -n "$model" ]; then
    [ -d "$model" ] || fail "--model: found no folder '$model'"
    [ -n "$challenge" ] || fail "--model: needs --challenge to know what the model is for"
    # The build only sees the repository, so the model is staged there.
    resources=build/resources whose=own
    rm -rf "${root:?}/$resources"
    mkdir -p "$root/$resources"
    cp -RL "$model" "$root/$resources/$challenge"
    find "$root/$resources" \( -name 'validation*' -o -name 'training_log*' -o -name 'progress.png' \
        -o -name 'debug.json' -o -name 'checkpoint_latest.pth' \) -prune -exec rm -rf {} +
fi
[ -d "$root/$resources" ] || fail "found no folder $root/$resources, expected the demo models (or give --model)"

arguments=(--platform linux/amd64 --tag "$tag" --build-arg "RESOURCES=$resources" --build-arg "CHALLENGE=$challenge"
    --build-arg "API_METHOD=$api" --build-arg "FUSED=$fused" --build-arg "MODEL=$whose")
# By digest, so that the base that is named below is the base that was used: a tag may be moved at any time.
base="${base:-$(sed -n 's/^ARG BASE_IMAGE=//p' "$root/Dockerfile")}"
docker image inspect "$base" >/dev/null 2>&1 || docker pull --quiet --platform linux/amd64 "$base" >/dev/null ||
    fail "--base: found no image '$base' here or in its registry"
digest="$(docker image inspect --format '{{join .RepoDigests "\n"}}' "$base" | head -n 1)" # empty: in no registry
arguments+=(--build-arg "BASE_IMAGE=${digest:-$base}" --build-arg "BASE_NAME=$base" --build-arg "BASE_DIGEST=${digest#*@}")
read -r -a further <<<"${UMAMBA2_BUILD_OPTIONS-}"
echo "Base $base, ${digest:-image $(docker image inspect --format '{{.Id}}' "$base") of this machine, which no registry has}"
DOCKER_BUILDKIT=1 docker build "${arguments[@]}" ${further[@]+"${further[@]}"} "$root"

# The layers above the base are those down to the Dockerfile's first instruction.
docker history --human=false --no-trunc --format '{{.Size}} {{.CreatedBy}}' "$tag" | awk -v tag="$tag" '
    {all += $1}
    !done {own += $1}
    /groupadd --system algorithm/ {done = 1}
    END {printf "Built %s: %.2f GB unpacked, %.0f MB of it on top of the base\n", tag, all / 1e9, own / 1e6}'
