#!/usr/bin/env bash
# Run the main job on the sample cases, as the platforms would, and check what comes out.
set -euo pipefail

usage() {
    cat <<'END'
Usage: ./test.sh [--local | --docker] [--tag TAG] [--no-build] [--challenge NAME] [--update]

Segments the sample cases in test/ for all three challenges and prints one line per case: its scores against the
ground truth, the time, the most memory the process has had by then, and where the output is (test/output/). Real
scans join where a folder holds cbct_*.mha or cbct_*.nii.gz; they have no ground truth, so only the grid and the
labels of the output are checked.

Runs in the container, with the platforms' limits, where a Docker daemon answers, else in a virtual environment in
.venv that is made on the first run.

  --local, --docker   choose instead of looking for a daemon
  --tag TAG           image to build and test (default: umamba2:test)
  --no-build          test the image as it is
  --challenge NAME    only this one
  --update            store the scores, less a margin, as the minimum for later runs

Environment: UMAMBA2_SCANS, the folder of real scans (default: ../shared/data beside the repository, if there is one);
PYTHON, the interpreter of a new .venv.
END
}

fail() {
    echo "test.sh: $*" >&2
    exit 2
}

mode="" tag="umamba2:test" build=yes update=()
challenges=(toothfairy3-multiclass toothfairy3-interactive stsr)
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit 0 ;;
        --local | --docker) mode="${1#--}" ;;
        --tag | --challenge)
            [ $# -ge 2 ] || fail "$1: found no value"
            if [ "$1" = --tag ]; then
                tag="$2"
            else
                [[ " ${challenges[*]} " == *" $2 "* ]] || fail "--challenge: found '$2', expected one of ${challenges[*]}"
                challenges=("$2")
            fi
            shift
            ;;
        --no-build) build=no ;;
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

if [ -z "$mode" ]; then
    if docker info >/dev/null 2>&1; then mode=docker; else mode=local; fi
fi

# --- Two ways to run Python and the main job; the rest of the script does not know which. ----------------------------
if [ "$mode" = docker ]; then
    echo "Testing in Docker, image $tag (building it the first time takes minutes)"
    if [ "$build" = yes ] && ! "$root/build.sh" --tag "$tag" >"$output/build.log" 2>&1; then
        tail -n 40 "$output/build.log" >&2
        fail "the image could not be built, see $output/build.log"
    fi
    # Grand Challenge's limits and the tighter ones of Codabench's guide, together.
    limits=(--network none --memory 8g --memory-swap 8g --shm-size 128m --pids-limit 256 --read-only --tmpfs /tmp
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
    run_and_check "$challenge" "$root/test/$challenge/input" "$output/$challenge" \
        --expected "$root/test/$challenge/expected" ${update[@]+"${update[@]}"}
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
