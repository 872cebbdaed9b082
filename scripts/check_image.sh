#!/usr/bin/env bash
# Look through an image before it is uploaded: secrets, scans, programs that make somebody root, files that anybody may change.
set -euo pipefail

usage() {
    cat <<'END_OF_USAGE'
Usage: scripts/check_image.sh [--tag TAG]

Prints a line for each thing in the image (default: umamba2:latest) that should not be there, and exits with 1 if there is
any: setuid and setgid programs; in the project's own folders and the homes, files with the names or the contents of keys,
tokens and passwords, hidden files, scans, files that anybody may change; secrets in the environment or the history; root
as the user.
END_OF_USAGE
}

tag=umamba2:latest
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit 0 ;;
        --tag)
            [ $# -ge 2 ] || { echo "check_image.sh: --tag: found no value" >&2 && exit 2; }
            tag="$2"
            shift 2
            ;;
        *)
            echo "check_image.sh: unknown option $1 (see --help)" >&2
            exit 2
            ;;
    esac
done
docker image inspect "$tag" >/dev/null 2>&1 || {
    echo "check_image.sh: found no image $tag (run ./build.sh first)" >&2
    exit 2
}

# Not within a longer word: data in base64 hold anything.
secrets='(^|[^0-9A-Za-z+/])AKIA[0-9A-Z]{16}([^0-9A-Za-z+/]|$)|gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{22}|glpat-[0-9A-Za-z_-]{20}'
secrets+='|hf_[0-9A-Za-z]{30}|pypi-AgE[0-9A-Za-z_-]{16}|xox[abprs]-[0-9A-Za-z-]{10}|-----BEGIN [A-Z ]*PRIVATE KEY'
secrets+='|://[^/[:space:]":@]+:[^/[:space:]"@]+@'

inside="$(
    cat <<'END_OF_SCRIPT'
list() { # WHAT: each line of the input is one
    while read -r found; do echo "$1: $found"; done
}
find / -xdev -type f -perm /6000 2>/dev/null | list "setuid or setgid"
for place in /opt/app /opt/algorithm /root /home /tmp /input /inputs /output /outputs /opt/ml; do
    [ -e "$place" ] || continue
    find "$place" -xdev \( -iname "id_rsa*" -o -iname "id_ed25519*" -o -iname "*.pem" -o -iname "*.key" -o -iname "*.p12" \
        -o -iname "*credential*" -o -iname "*.kdbx" -o -iname "*history" \) -type f | list "has the name of a secret"
    find "$place" -xdev \( -iname "*.dcm" -o -iname "*.mha" -o -iname "*.mhd" -o -iname "*.nii" -o -iname "*.nii.gz" \
        -o -iname "*.nrrd" \) -type f | list "a scan"
    # what a shell or the base leaves in a home is no secret
    find "$place" -xdev -mindepth 1 -name ".*" ! -name .bashrc ! -name .profile ! -name .bash_logout ! -name .cache \
        ! -name .conda ! -name .wget-hsts | list "hidden"
    grep -rIlE -e "$SECRETS" "$place" 2>/dev/null | list "has the contents of a secret"
done
find /opt/app /opt/algorithm -xdev ! -type l -perm -0002 | list "anybody may change it"
find /opt/app -xdev ! -user root | list "not root's"
END_OF_SCRIPT
)"

found="$(
    docker run --rm --network none --read-only --user 0 --env "SECRETS=$secrets" --entrypoint /bin/sh "$tag" -c "$inside"
    docker image inspect --format '{{range .Config.Env}}{{println .}}{{end}}{{json .Config.Labels}}' "$tag" |
        { grep -E -e "$secrets|^[A-Z_]*(PASSWORD|SECRET|TOKEN|API_KEY)[A-Z_]*=." || true; } | sed 's/[=:].*//; s/^/in the configuration: /'
    docker history --no-trunc --format '{{.CreatedBy}}' "$tag" |
        { grep -cE -e "$secrets" || true; } | sed '/^0$/d; s/.*/in the history: & lines with a secret/'
    [ -n "$(docker image inspect --format '{{.Config.User}}' "$tag")" ] || echo "runs as root"
)"
if [ -n "$found" ]; then
    printf '%s\n' "$found"
    echo "check_image.sh: found $(printf '%s\n' "$found" | wc -l | tr -d ' ') things in $tag that should not be there" >&2
    exit 1
fi
echo "$tag: no secrets, scans, setuid programs or files that anybody may change"
