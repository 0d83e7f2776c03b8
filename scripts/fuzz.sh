#!/usr/bin/env bash
# Runs every fuzz target for so many seconds, as many at a time as there are processors, and fails
# where one crashes.
#
#   scripts/fuzz.sh SECONDS [TARGET...]
#
# What was found worth keeping stays below target/fuzz, so that the next run goes on from there; an
# input that crashes lies in target/fuzz/crashes/TARGET.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
(($# >= 1)) || { echo "usage: scripts/fuzz.sh SECONDS [TARGET...]" >&2; exit 2; }
export SECONDS_EACH=$1
shift
export WORK
WORK=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
mkdir -p "$WORK"

command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz
# libFuzzer's instrumentation wants flags that only the nightly compiler allows. No sanitizer: the
# code has no unsafe blocks to speak of, and gets through more inputs without.
export RUSTC_BOOTSTRAP=1
options=(--fuzz-dir tests/fuzz --sanitizer none --target-dir "$WORK/build")
cargo fuzz build "${options[@]}" >&2
(($#)) || mapfile -t targets < <(cargo fuzz list --fuzz-dir tests/fuzz)

one() {
    local target=$1 corpus=$WORK/corpus/$1 crashes=$WORK/crashes/$1 log=$WORK/$1.log
    mkdir -p "$corpus" "$crashes"
    python3 tests/fuzz/seeds.py "$target" "$corpus"
    if "$WORK/build/x86_64-unknown-linux-gnu/release/$target" "$corpus" -max_total_time="$SECONDS_EACH" \
        -timeout=20 -rss_limit_mb=2048 -max_len=32768 -artifact_prefix="$crashes/" >"$log" 2>&1; then
        echo "$target: $(grep '^Done' "$log")" >&2
    else
        tail -n 60 "$log" >&2
        echo "fuzz.sh: $target crashes; the input is in $crashes" >&2
        return 1
    fi
}
export -f one
printf '%s\n' "${@:-${targets[@]}}" | xargs -P "${FUZZ_JOBS:-$(nproc)}" -I{} bash -c 'one {}'
