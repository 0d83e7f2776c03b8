#!/usr/bin/env bash
# `make test`: formatting, lints, all tests. COSTREL_LONG_TESTS=1 makes the random ones thousands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
began=$SECONDS
say() { printf '[%3d s] %s\n' $((SECONDS - began)) "$*" >&2; }

say "looking for what the tests need"
scripts/install-deps.sh
say "formatting"
cargo fmt --all --check
say "clippy"
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
say "building command, agent and kernel"
# Side by side: where one waits for its last file, the other has work.
make -j2 build
say "making the tests' image and function"
scripts/test-inputs.sh "$target/test-inputs"
say "tests"
export COSTREL_TEST_KERNEL=$target/costrel/lib/costrel/vmlinux
failed=0
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --workspace --locked --no-fail-fast || failed=1
else
    cargo test --workspace --locked --no-fail-fast || failed=1
fi
say "tests on KVM"
scripts/test-kvm.sh || failed=1
if ((failed)); then
    say "FAILED: see above"
    exit 1
fi
say "done"
