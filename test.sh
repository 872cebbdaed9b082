#!/usr/bin/env bash
# Run the main job on the sample cases, as the platforms would, and check what comes out.
set -euo pipefail

usage() {
    cat <<'END'
Usage: ./test.sh [--local | --docker] [--tag TAG] [--no-build] [--base IMAGE] [--challenge NAME] [--contract]
                 [--update]

Segments the sample cases in test/ for all three challenges and prints one line per case: its scores against the
ground truth, the time, the most memory the process has had by then, and where the output is (test/output/). Real
scans join where a folder holds cbct_*.mha or cbct_*.nii.gz; they have no ground truth, so only the grid and the
labels of the output are checked.

Runs in the container, with the platforms' limits, where a Docker daemon answers, else in a virtual environment in
.venv that is made on the first run.

  --local, --docker   choose instead of looking for a daemon
  --tag TAG           test this image as it is (default: build umamba2:test and test that)
  --no-build          test umamba2:test as it is
  --base IMAGE        base image for building umamba2:test
  --challenge NAME    only this one (default: the one that the image was built for, else all three)
  --contract          only what the platforms ask for (grid, labels, names, results.json), no minimum scores; an image
                      with a model of your own is tested like that anyway
  --update            store the scores, less a margin, as the minimum for later runs

Environment: UMAMBA2_SCANS, the folder of real scans (default: ../shared/data beside the repository, if there is one);
PYTHON, the interpreter of a new .venv.
END
}

fail() {
    echo "test.sh: $*" >&2
    exit 2
}

mode="" tag="" build=yes base=() chosen="" contract=no update=()
challenges=(toothfairy3-multiclass toothfairy3-interactive stsr)
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit 0 ;;
        --local | --docker) mode="${1#--}" ;;
        --tag | --challenge | --base)
            [ $# -ge 2 ] || fail "$1: found no value"
            case "$1" in
                --tag) tag="$2" ;;
                --base) base=(--base "$2") ;;
                --challenge)
                    [[ " ${challenges[*]} " == *" $2 "* ]] ||
                        fail "--challenge: found '$2', expected one of ${challenges[*]}"
                    chosen="$2"
                    ;;
            esac
            shift
            ;;
        --no-build) build=no ;;
        --contract) contract=yes ;;
        --update) update=(--update) ;;
        *) fail "unknown option $1 (see --help)" ;;
    esac
    shift
done

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
output="$root/test/output"
scans="${UMAMBA2_SCANS-$root/../shared/data}"
if [ -d "$scans" ]; then scans="$(cd "$scans" && pwd)"; else scans=""; fi

rm -rf "$output"
mkdir -p "$output"

[ "${#base[@]}" -eq 0 ] || [ -z "$tag" ] || fail "--base: is for the image that test.sh builds, which has no --tag"
if [ -n "$tag" ]; then
    [ "$mode" != local ] || fail "--tag: names an image, but --local tests without Docker"
    mode=docker build=no
fi
if [ -z "$mode" ]; then
    if docker info >/dev/null 2>&1; then mode=docker; else mode=local; fi
fi

# --- Two ways to run Python and the main job; the rest of the script does not know which. ----------------------------
if [ "$mode" = docker ]; then
    tag="${tag:-umamba2:test}"
    echo "Testing in Docker, image $tag"
    if [ "$build" = yes ]; then
        echo "Building it (the first time takes minutes)"
        if ! "$root/build.sh" --tag "$tag" ${base[@]+"${base[@]}"} >"$output/build.log" 2>&1; then
            tail -n 40 "$output/build.log" >&2
            fail "the image could not be built, see $output/build.log"
        fi
    fi
    docker image inspect "$tag" >/dev/null 2>&1 || fail "found no image $tag, expected one (make it with ./build.sh --tag $tag)"
    describe() { docker image inspect --format "$1" "$tag"; }
    own="$(describe '{{range .Config.Env}}{{println .}}{{end}}' | sed -n 's/^UMAMBA2_CHALLENGE=//p')"
    chosen="${chosen:-$own}"
    if [ "$(describe '{{index .Config.Labels "org.umamba2.model"}}')" != demo ]; then contract=yes; fi
    # Grand Challenge's limits and the tighter ones of Codabench's guide, together.
    # The data segment too: what Grand Challenge starts the process with limits it to 1 GiB less than the memory.
    limits=(--network none --memory 8g --memory-swap 8g --ulimit "data=$((7 << 30))" --shm-size 128m --pids-limit 256
        --read-only --tmpfs /tmp
        --cap-drop ALL --security-opt no-new-privileges)
    if [[ "$(docker info --format '{{json .Runtimes}}')" == *nvidia* ]]; then limits+=(--gpus all); fi

    run_python() { # on the repository, as the calling user
        docker run --rm --network none --user "$(id -u):$(id -g)" --volume "$root:$root" --workdir "$root" \
            ${scans:+--volume "$scans:$scans:ro"} "$tag" python "$@"
    }
    run_challenge() { # CHALLENGE INPUT OUTPUT
        local status=0
        chmod 777 "$3" # the container's user is somebody else
        if [ "$1" = stsr ]; then
            docker run --rm "${limits[@]}" --volume "$2:/inputs:ro" --volume "$3:/outputs" "$tag" \
                /bin/bash -c "sh /opt/algorithm/predict.sh" || status=$?
        else
            # Also of an image built for invoke, the batch way in is tested.
            docker run --rm "${limits[@]}" --env UMAMBA2_API=exec --volume "$2:/input:ro" --volume "$3:/output" "$tag" \
                --challenge "$1" || status=$?
        fi
        # So that the calling user can delete what the container's user wrote.
        docker run --rm --network none --volume "$3:/output" "$tag" \
            find /output -mindepth 1 -exec chmod a+rwX {} + || status=$?
        chmod 755 "$3"
        return "$status"
    }
else
    echo "Testing in the virtual environment .venv (no Docker)"
    # shellcheck source=scripts/venv.sh
    source "$root/scripts/venv.sh"
    prepare_venv requirements.txt

    run_python() {
        (cd "$root" && .venv/bin/python "$@")
    }
    run_challenge() { # CHALLENGE INPUT OUTPUT
        "$root/.venv/bin/python" "$root/inference.py" --challenge "$1" --input "$2" --output "$3"
    }
fi

[ -z "$chosen" ] || challenges=("$chosen")
if [ "$contract" = yes ]; then echo "Only the platforms' contract is checked, no minimum scores"; fi

failures=0
run_and_check() { # CHALLENGE INPUT OUTPUT [OPTIONS OF check.py]
    local challenge="$1" input="$2" folder="$3"
    shift 3
    mkdir -p "$folder"
    touch "$folder.started"
    if [ -t 1 ]; then printf '%s: segmenting ...\r' "$challenge"; fi # overwritten by the result
    if ! run_challenge "$challenge" "$input" "$folder" >"$folder.log" 2>&1; then
        failures=$((failures + 1))
        echo "  wrong: inference failed on $input; the end of $folder.log:" >&2
        tail -n 20 "$folder.log" >&2
    fi
    run_python test/check.py "$challenge" "$input" "$folder" --started "$folder.started" --log "$folder.log" "$@" ||
        failures=$((failures + 1))
}

for challenge in "${challenges[@]}"; do
    scores=(--expected "$root/test/$challenge/expected")
    if [ "$contract" = yes ]; then scores+=(--contract); fi
    run_and_check "$challenge" "$root/test/$challenge/input" "$output/$challenge" "${scores[@]}" \
        ${update[@]+"${update[@]}"}
done

if [ -n "$scans" ] && compgen -G "$scans/cbct_*" >/dev/null; then
    echo "Real scans from $scans (no ground truth)"
    mkdir -p "$output/scans/input"
    run_python test/stage_scans.py "$scans" "$output/scans/input"
    for challenge in "${challenges[@]}"; do
        run_and_check "$challenge" "$output/scans/input/$challenge" "$output/scans/$challenge"
    done
fi

if [ "$failures" -gt 0 ]; then
    echo "FAILED: $failures of the steps above went wrong" >&2
    exit 1
fi
echo "All cases passed. Outputs are in $output"
