#!/usr/bin/env bash
# The way from clone to upload, from scratch, on a machine without a registry: build, test, serve, export, reload.
set -euo pipefail

usage() {
    cat <<'END'
Usage: tests/container/run.sh

Starts a Docker daemon of its own, makes a base image that stands in for pytorch/pytorch (Debian, torch for the CPU),
and takes the user's way on it: build.sh, test.sh, the invoke server, export.sh, and the exported image once more.
Needs root on Debian; installs docker.io, mmdebstrap, pigz and skopeo where they are missing. Leaves nothing behind.

Where no daemon can be started it says so, and fails only if CI is "true".
END
}

case "${1-}" in
    "") ;;
    -h | --help) usage && exit 0 ;;
    *)
        echo "run.sh: unknown option $1 (see --help)" >&2
        exit 2
        ;;
esac

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
max_megabytes=400 # what the image may add to its base
tag=umamba2:ci

step() { echo "--- container: $* (${SECONDS} s)"; }

fail() {
    echo "container: $*" >&2
    exit 1
}

no_daemon() {
    echo "container: not tested, $*" >&2
    if [ "${CI-}" = true ]; then exit 1; fi
    exit 0
}

retry() { # whatever the network has a part in
    local attempt
    for attempt in 1 2 3; do
        if "$@"; then return; fi
        echo "container: attempt $attempt of 3 failed: $*" >&2
        sleep $((attempt * 5))
    done
    return 1
}

logged() { # NAME COMMAND...: keeps the output for when it goes wrong
    local log="$work/$1.log"
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        return 1
    }
}

# --- What it takes. ---------------------------------------------------------------------------------------------------
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || no_daemon "found $(uname -s) on $(uname -m), expected Linux on x86_64"
[ "$(id -u)" = 0 ] || no_daemon "found user $(id -un), expected root"

work="$(mktemp -d /tmp/ucXXXX)" # short: paths of sockets end at 104 characters
daemon=""
clean_up() {
    local status=$? mount
    trap - EXIT INT TERM
    if [ -n "$daemon" ]; then
        docker ps --all --quiet | xargs --no-run-if-empty docker rm --force >/dev/null 2>&1 || true
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    awk -v prefix="$work/" 'index($2, prefix) == 1 {print $2}' /proc/self/mounts | sort -r |
        while read -r mount; do umount --lazy "$mount" || true; done
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "packages"
missing=()
for package in docker.io mmdebstrap pigz skopeo; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
install_missing() {
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || no_daemon "found no apt-get to install ${missing[*]} with"
    retry logged apt install_missing || no_daemon "could not install ${missing[*]}"
fi

step "daemon"
mkdir "$work/bin" "$work/config"
ln -s /usr/bin/docker "$work/bin/docker" # another one on the PATH may not know this daemon
export PATH="$work/bin:$PATH" DOCKER_HOST="unix://$work/docker.sock" DOCKER_CONFIG="$work/config" DOCKER_BUILDKIT=1
unset DOCKER_CONTEXT
/usr/sbin/dockerd --storage-driver=overlay2 --iptables=false --ip6tables=false --bridge=none --data-root "$work/data" \
    --exec-root "$work/exec" --pidfile "$work/docker.pid" --host "$DOCKER_HOST" >"$work/dockerd.log" 2>&1 &
daemon=$!
for _ in $(seq 300); do
    if docker info >/dev/null 2>&1 || ! kill -0 "$daemon" 2>/dev/null; then break; fi
    sleep 0.2
done
docker info >/dev/null 2>&1 || {
    tail -n 20 "$work/dockerd.log" >&2
    no_daemon "the Docker daemon does not start"
}

# --- The stand-in base, with the package sources and certificates of this machine. ------------------------------------
step "base image"
suite=bookworm # its Python is 3.11
pip_setting() { # NAME: from pip's environment or configuration, of the interpreter that CI uses
    local variable="PIP_${1^^}"
    variable="${variable//-/_}"
    if [ -n "${!variable-}" ]; then echo "${!variable}"; else python3 -m pip config get "global.$1" 2>/dev/null || true; fi
}
mkdir "$work/context" "$work/context/wheels"
{
    echo "[global]"
    echo "cert = /etc/ssl/certs/ca-certificates.crt"
    index="$(pip_setting index-url)"
    if [[ "$index" == http* ]]; then echo "index-url = $index"; fi
} >"$work/pip.conf"
hooks=(--customize-hook="copy-in $work/pip.conf /etc")
if compgen -G '/usr/local/share/ca-certificates/*' >/dev/null; then
    # shellcheck disable=SC2016  # mmdebstrap expands it
    hooks+=(--customize-hook='copy-in /usr/local/share/ca-certificates /usr/local/share'
        --customize-hook='chroot "$1" update-ca-certificates')
fi
mapfile -t sources < <(grep -lsE "^(Suites:|deb ).*\b$suite\b" /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources})
make_base() {
    mmdebstrap --variant=minbase --dpkgopt=force-unsafe-io "${hooks[@]}" \
        --include=ca-certificates,python3,python3-pip,python-is-python3 \
        "$suite" "$work/context/base.tar" ${sources[@]+"${sources[@]}"}
}
retry logged mmdebstrap make_base || fail "could not make the base image"

# torch for the CPU from pip's local folder of wheels if there is one; else whatever torch the index has.
torch="$(grep '^torch==' "$root/requirements.txt")"
for place in $(pip_setting find-links); do
    if compgen -G "$place/torch-*cp311*" >/dev/null; then cp "$place"/torch-*cp311* "$work/context/wheels/"; fi
done
echo "$torch $(grep -oE '^numpy==[0-9.]+' "$root/requirements.txt" | head -n 1)" >"$work/context/wheels/packages.txt"
options=(--network=host) # the daemon has no bridge
for variable in http_proxy https_proxy no_proxy; do
    if [ -n "${!variable-}" ]; then options+=(--build-arg "$variable=${!variable}"); fi
done
retry logged base docker build "${options[@]}" --tag base -f "$here/base.Dockerfile" "$work/context" ||
    fail "could not put torch into the base image"
rm -r "$work/context"

# --- The user's way. --------------------------------------------------------------------------------------------------
cd / # the scripts work from any folder
export UMAMBA2_BUILD_OPTIONS="${options[*]}" UMAMBA2_SCANS=
step "build.sh"
retry logged build "$root/build.sh" --tag "$tag" --base base || fail "build.sh failed"
tail -n 1 "$work/build.log"
megabytes="$(sed -nE 's/.* ([0-9]+) MB of it on top of the base$/\1/p' "$work/build.log")"
[ "$megabytes" -lt "$max_megabytes" ] || fail "found $megabytes MB on top of the base, expected under $max_megabytes"
inspect() { docker image inspect --format "$2" "$1"; }
[ "$(inspect "$tag" '{{.Config.User}} {{.Architecture}}')" = "algorithm amd64" ] || fail "wrong user or architecture"
api='{{index .Config.Labels "org.grand-challenge.api-method"}}'
[ "$(inspect "$tag" "$api")" = exec ] || fail "expected the label exec"

step "what is in it"
grep -q "^Base base, image sha256:" "$work/build.log" || fail "expected build.sh to say which base it took"
[ "$(inspect "$tag" '{{index .Config.Labels "org.opencontainers.image.base.name"}}')" = base ] || fail "expected the base's name"
"$root/scripts/check_image.sh" --tag "$tag"
printf 'FROM %s\nUSER root\nENV HF_TOKEN=x\nRUN chmod u+s /bin/cat && touch /opt/app/.env /opt/app/scan.mha \
    && echo -----BEGIN RSA PRIVATE KEY >/tmp/a && chmod a+w /opt/app/inference.py\n' "$tag" |
    docker build --quiet "${options[@]}" --tag "$tag-bad" - >/dev/null
if "$root/scripts/check_image.sh" --tag "$tag-bad" >"$work/bad.txt" 2>&1; then fail "check_image.sh found nothing wrong"; fi
for found in "setuid or setgid: .*cat" "hidden: /opt/app/.env" "a scan: /opt/app/scan.mha" "contents of a secret: /tmp/a" \
    "may change it: /opt/app/inference.py" "in the configuration: HF_TOKEN" "in the history: 1 lines" "found 7 things"; do
    grep -q "$found" "$work/bad.txt" || fail "expected '$found' of check_image.sh, found: $(cat "$work/bad.txt")"
done
docker image rm --force "$tag-bad" >/dev/null

step "test.sh"
"$root/test.sh" --tag "$tag"

step "build.sh --api invoke"
retry logged invoke "$root/build.sh" --tag "$tag-invoke" --base base --challenge toothfairy3-interactive --api invoke ||
    fail "build.sh --api invoke failed"
[ "$(inspect "$tag-invoke" "$api")" = invoke ] || fail "expected the label invoke"
step "the invoke server"
python3 "$here/drive_server.py" "$tag-invoke" "$work/served"

# A participant's walk: a checkpoint of one's own, an image for one challenge, the contract, two archives.
step "a model of one's own"
mkdir -p "$work/own"
chmod 777 "$work/own"
docker run --rm --network none --volume "$root/tests:/tests:ro" --volume "$work/own:/own" "$tag" python -c '
import sys
from pathlib import Path
sys.path.insert(0, "/tests")
from small_models import make_model
make_model(Path("/own/model"), classes=13, spacing=(1, 1, 1), patch=(48, 64, 64))
'
retry logged own "$root/build.sh" --tag "$tag-own" --base base --challenge stsr --model "$work/own/model" ||
    fail "build.sh --model failed"
before="$(inspect "$tag-own" '{{.Id}}')"
"$root/test.sh" --tag "$tag-own" >"$work/own.txt" || fail "test.sh failed on a model of one's own: $(cat "$work/own.txt")"
grep -q "no minimum scores" "$work/own.txt" || fail "expected test.sh to ask for no minimum scores"
if grep -q toothfairy3 "$work/own.txt"; then fail "expected only the challenge that the image was built for"; fi
[ "$(inspect "$tag-own" '{{.Id}}')" = "$before" ] || fail "test.sh built another image over the one that it was to test"
"$root/export.sh" --tag "$tag-own" --team ownteam --output "$work/own/export"
tar -tzf "$work/own/export/model.tar.gz" >"$work/own.txt"
grep -q "stsr/fold_0/checkpoint_best.pth" "$work/own.txt" || fail "found no own model in model.tar.gz: $(cat "$work/own.txt")"
if grep -q safetensors "$work/own.txt"; then fail "found a demo model in model.tar.gz"; fi
docker image rm --force "$tag-own" ownteam:latest >/dev/null

step "export.sh"
"$root/export.sh" --tag "$tag" --team citeam --output "$work/export"
for name in grand-challenge.tar.gz citeam.tar.gz model.tar.gz sbom.cdx.json THIRD_PARTY.txt; do
    [ -s "$work/export/$name" ] || fail "found no $name"
done
for name in torch numpy simpleitk connected-components-3d safetensors tqdm; do
    grep -q "\"purl\": \"pkg:pypi/$name@" "$work/export/sbom.cdx.json" || fail "found no $name in sbom.cdx.json"
done
grep -q "^connected-components-3d .*: LGPL-3.0" "$work/export/THIRD_PARTY.txt" || fail "found no licence in THIRD_PARTY.txt"
grep -q '"name": "stsr/fold_0.safetensors"' "$work/export/sbom.cdx.json" || fail "found no model in sbom.cdx.json"

step "reload"
exported="$(inspect "$tag" '{{.Id}}')"
docker image ls --all --quiet | sort -u | xargs docker image rm --force >/dev/null
docker builder prune --all --force >/dev/null
[ -z "$(docker image ls --all --quiet)" ] || fail "images are left, so reloading would prove nothing"
gunzip --stdout "$work/export/citeam.tar.gz" >"$work/image.tar"
skopeo inspect "docker-archive:$work/image.tar" >/dev/null
rm "$work/image.tar"
docker load --quiet --input "$work/export/citeam.tar.gz"
[ "$(inspect citeam:latest '{{.Id}}')" = "$exported" ] || fail "found another image after reloading"
"$root/test.sh" --tag citeam:latest --challenge stsr

step "the model archive, mounted"
mkdir "$work/model" "$work/mounted"
tar -xzf "$work/export/model.tar.gz" -C "$work/model"
chmod 777 "$work/mounted"
docker run --rm --network none --volume "$work/model:/opt/ml/model:ro" --volume "$root/test/stsr/input:/inputs:ro" \
    --volume "$work/mounted:/outputs" citeam:latest --model /opt/ml/model
[ -n "$(ls "$work/mounted")" ] || fail "found no output with the model from the archive"

step "done"
