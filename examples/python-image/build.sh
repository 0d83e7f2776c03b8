#!/usr/bin/env bash
# Builds a Python Lambda image of real parts: Debian 12's python3.11 and AWS's
# own runtime client, as an OCI layout.
#
#   examples/python-image/build.sh OUT_DIR
#
# The image is made once and kept in ${XDG_CACHE_HOME:-~/.cache}/costrel/
# test-images/<key>; OUT_DIR becomes a copy, free to be spoilt. The key
# covers the files of this directory; remove the cached image to take up newer
# Debian packages. Needs mmdebstrap and pip, no root (see scripts/install-deps.sh).
set -euo pipefail

(($# == 1)) || { echo "usage: examples/python-image/build.sh OUT_DIR" >&2; exit 2; }
out=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
images=${XDG_CACHE_HOME:-$HOME/.cache}/costrel/test-images
suite=bookworm
export SOURCE_DATE_EPOCH=1700000000 LC_ALL=C TZ=UTC
umask 022

say() { printf 'python image: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[[ $(uname -m) == x86_64 ]] || die "is built for x86_64 on x86_64 only"
key=$(cat "$here"/build.sh "$here"/layout.py "$here"/requirements.txt "$here"/files/* | sha256sum | cut -c1-16)
cached=$images/$key

# A new directory beside OUT_DIR takes its place, so that nobody sees half of it.
deliver() {
    local new
    mkdir -p "$(dirname "$out")"
    new=$(mktemp -d "$(dirname "$out")/.python-image-XXXXXX")
    cp -a --reflink=auto "$cached/layout" "$new/layout"
    rm -rf "$out"
    mv -T "$new/layout" "$out"
    rmdir "$new"
}

mkdir -p "$images"
exec 9>"$images/.$key.lock"
flock 9
if [[ -e $cached/layout/index.json ]]; then
    deliver
    exit
fi

"$here/../../scripts/install-deps.sh" test
rm -rf "$images/.$key".build-*
work=$(mktemp -d "$images/.$key.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The mirror is the one the machine itself uses, whatever its own release is.
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Identifier: Packages' | sort -u |
    while IFS='|' read -r uri release component; do
        [[ $component == main && -n $codename ]] || continue
        case $release in
            "$codename" | "$codename"-updates | "$codename"-security)
                echo "deb $uri $suite${release#"$codename"} main" ;;
        esac
    done >"$work/sources.list"
[[ -s $work/sources.list ]] || die "apt knows no Debian mirror on this machine"

# Extracted only: no maintainer script runs, which takes seconds instead of a
# minute and works without root. What the scripts would have made, layout.py makes.
say "fetching Debian $suite's python3.11"
packages=base-files,base-passwd,bash,ca-certificates,coreutils,dash,findutils,grep,hostname,libc-bin,procps,python3.11,sed,tar,libstdc++6
(cd "$work" && mmdebstrap --quiet --variant=extract --skip=output/dev --include="$packages" \
    "$suite" base.tar - <sources.list >&2 9>&-)

say "fetching AWS's runtime client"
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
pip3 install --quiet --target "$work/client" --no-deps --no-compile --require-hashes \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
    --platform manylinux2014_x86_64 --platform any \
    -r "$here/requirements.txt" >&2

say "laying out the image"
python3 "$here/layout.py" --base "$work/base.tar" --client "$work/client" --files "$here/files" \
    --work "$work" --epoch "$SOURCE_DATE_EPOCH" --out "$work/layout" >&2

mkdir "$work/entry"
mv "$work/layout" "$work/entry/layout"
rm -rf "$cached"
mv -T "$work/entry" "$cached"
deliver
say "$(du -sh "$out" | cut -f1) in $out"
