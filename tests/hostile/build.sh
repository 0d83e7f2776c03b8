#!/usr/bin/env bash
# Makes the hostile guest, a program without an operating system, into FILE.
#
#   tests/hostile/build.sh FILE
set -euo pipefail
guest=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"
[[ ! -e $guest || -n $(find . -newer "$guest") ]] || exit 0
mkdir -p "$(dirname "$guest")"
rustc --edition 2024 --crate-name hostile --target x86_64-unknown-linux-gnu -D warnings \
    -C opt-level=2 -C panic=abort -C relocation-model=static -C no-redzone=yes \
    -C default-linker-libraries=no \
    -C link-args="-nostdlib -nostartfiles -static -no-pie -Wl,-Tlink.ld,--build-id=none" \
    -o "$guest.new" main.rs
mv -f "$guest.new" "$guest"
