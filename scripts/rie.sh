#!/usr/bin/env bash
# Prints the path of AWS's Runtime Interface Emulator, which Costrel is compared with: a test tool,
# never shipped. Beside it, in `client`, is AWS's runtime client for this machine's python3, of the
# versions of examples/python-image.
#
# Both come from PyPI once and are kept in ${XDG_CACHE_HOME:-~/.cache}/costrel/test-tools/<key>.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${XDG_CACHE_HOME:-$HOME/.cache}/costrel/test-tools
# SAM's command line carries the emulator along.
wheel=aws_sam_cli-1.170.0-py3-none-any.whl
wheel_sha256=24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf
member=samcli/local/rapid/aws-lambda-rie-x86_64
requirements=examples/python-image/requirements.txt

die() { printf 'rie.sh: %s\n' "$*" >&2; exit 1; }

[[ $(uname -m) == x86_64 ]] || die "it is for x86_64"
key=$({ cat scripts/rie.sh "$requirements"; python3 -VV; } | sha256sum | cut -c1-16)
cached=$tools/rie-$key
mkdir -p "$tools"
exec 9>"$tools/.rie-$key.lock"
flock 9
if [[ ! -x $cached/aws-lambda-rie ]]; then
    scripts/install-deps.sh test
    rm -rf "$tools/.rie-$key".draft-*
    draft=$(mktemp -d "$tools/.rie-$key.draft-XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
    version=${wheel#*-}
    python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$draft" \
        "aws-sam-cli==${version%%-*}" >&2
    echo "$wheel_sha256  $draft/$wheel" | sha256sum --check --quiet >&2 || die "$wheel is another one"
    unzip -p "$draft/$wheel" "$member" >"$draft/aws-lambda-rie"
    rm "$draft/$wheel"
    chmod +x "$draft/aws-lambda-rie"
    # Without the hashes, which are those of another Python's files.
    cut -d ' ' -f 1 "$requirements" >"$draft/requirements.txt"
    python3 -m pip install --quiet --no-deps --only-binary=:all: --target "$draft/client" \
        -r "$draft/requirements.txt" >&2
    rm -rf "$cached"
    mv -T "$draft" "$cached"
fi
echo "$cached/aws-lambda-rie"
