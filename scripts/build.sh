#!/usr/bin/env bash
# Builds the command, the monitor and the agent and puts them where an installation has them.
#
#   scripts/build.sh DIRECTORY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
staged=$1
target=${CARGO_TARGET_DIR:-target}
host=x86_64-unknown-linux-gnu
mkdir -p "$staged/bin" "$staged/lib/costrel"

cargo build --release --locked --quiet --package costrel-cli
# The agent carries its C library along, since the guest's root is anybody's; so does the monitor,
# whose root is empty. Naming the target keeps these flags from what runs during the build.
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --profile static --locked --quiet --target $host --bins \
    --package costrel-vminitd --package costrel-vmm-kvm

# By rename: a command that runs keeps its file.
put() {
    cmp -s "$1" "$2" && return
    cp "$1" "$2.new" && mv -f "$2.new" "$2"
}
put "$target/release/costrel" "$staged/bin/costrel"
for program in vminitd costrel-vmm; do
    put "$target/$host/static/$program" "$staged/lib/costrel/$program"
done
