#!/usr/bin/env bash
# Builds the Rust extension as one static binary and zips it as a layer.
#
#   examples/rust-extension/build.sh OUT.zip
set -euo pipefail

(($# == 1)) || { echo "usage: examples/rust-extension/build.sh OUT.zip" >&2; exit 2; }
out=$(realpath -m "$1")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$(uname -m)-unknown-linux-gnu

# crt-static needs an explicit --target, or build scripts and macros would get it too.
cd "$here"
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target "$target" \
    --target-dir "${CARGO_TARGET_DIR:-$here/target}" >&2
binary=${CARGO_TARGET_DIR:-$here/target}/$target/release/observer

# A fixed time and no extra fields: the same binary gives the same zip.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install -D -m 755 "$binary" "$work/extensions/observer"
touch -d @1700000000 "$work/extensions/observer"
mkdir -p "$(dirname "$out")"
(cd "$work" && TZ=UTC zip -q -X -9 -D -r new.zip extensions)
mv "$work/new.zip" "$out"
