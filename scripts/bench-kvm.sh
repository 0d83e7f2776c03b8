#!/usr/bin/env bash
# Measures our VMM on KVM beside others, in kvm-lab, where time counts instructions (1 ns each): the
# same kernel, root disk, vCPU and memory for all, in one run. BENCH_RUNS (5) is the number of rounds;
# FIRECRACKER=PATH adds Firecracker to the contestants.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
runs=${BENCH_RUNS:-5}
scripts/install-deps.sh build test lab
if ! tests/kvm-lab/kvm-lab check; then
    echo "Nothing is measured on KVM: this machine cannot run kvm-lab" >&2
    exit 0
fi
tests/kvm-lab/bench/build.sh "$target/bench-kvm"
cargo build --release --locked --quiet --package costrel-vmm-kvm --examples
printf '\nOn KVM: 1 vCPU, 256 MiB; time is instructions, 1 ns each (medians of %s)\n' "$runs"
export KVM_LAB_ENV_COSTREL_VMM=$target/costrel/lib/costrel/costrel-vmm
export KVM_LAB_ENV_COSTREL_BOOT=$target/release/examples/boot
export KVM_LAB_ENV_FIRECRACKER=${FIRECRACKER-}
tests/kvm-lab/kvm-lab run --icount --timeout 1800 -- tests/kvm-lab/bench/bench-vmm.sh \
    "$target/bench-kvm" "$target/costrel/lib/costrel/vmlinux" "$runs" costrel qemu-microvm firecracker
