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
cargo build --release --locked --quiet --package costrel-vmm-kvm --package costrel-sandbox --examples
printf '\nOn KVM: 1 vCPU, 256 MiB; time is instructions, 1 ns each (medians of %s)\n' "$runs"
export KVM_LAB_ENV_COSTREL_VMM=$target/costrel/lib/costrel/costrel-vmm
export KVM_LAB_ENV_COSTREL_BOOT=$target/release/examples/boot
export KVM_LAB_ENV_FIRECRACKER=${FIRECRACKER-}
tests/kvm-lab/kvm-lab run --icount --timeout 1800 -- tests/kvm-lab/bench/bench-vmm.sh \
    "$target/bench-kvm" "$target/costrel/lib/costrel/vmlinux" "$runs" costrel qemu-microvm firecracker

printf '\nThe agent behind vsock: from the start to its first answer, a call, bytes to a program and back\n'
# shellcheck disable=SC2016
tests/kvm-lab/kvm-lab run --icount --timeout 1800 -- bash -c '
    set -euo pipefail
    export TMPDIR=/dev/shm
    cp -L "$2/vmlinux" "$2/vminitd" "$2/costrel-vmm" /dev/shm/
    for ((round = 0; round < $3; round++)); do
        "$1" /dev/shm/costrel-vmm /dev/shm/vmlinux /dev/shm/vminitd "$(command -v busybox)"
    done | sort -k1,1 -k2,2n | awk "{ values[\$1, ++n[\$1]] = \$2; unit[\$1] = \$3 }
        END { for (name in n) printf \"  %-24s %10.3f %s\n\", name, values[name, int((n[name] + 1) / 2)], unit[name] }"
' - "$target/release/examples/round_trips" "$target/costrel/lib/costrel" "$runs"

printf '\nA snapshot: the pause and the save, and from a restore to the first answer\n'
# With favordynmods, creating a VM does not wait for the kernel to move a helper thread of its own
# (Linux before 6.13).
for options in "" "-o remount,favordynmods"; do
    # shellcheck disable=SC2016
    tests/kvm-lab/kvm-lab run --icount --timeout 600 -- bash -c '
        set -euo pipefail
        [[ -z $5 ]] || mount $5 /sys/fs/cgroup
        mkdir /dev/shm/files
        cp -L "$2/vmlinux" "$2/costrel-vmm" "$3/guest.ext4" /dev/shm/
        "$1" /dev/shm/costrel-vmm /dev/shm/vmlinux 256 1 /dev/shm/files "$4" /dev/shm/guest.ext4 -- init=/sbin/init serve |
            sort -k1,1 -k2,2n | awk -v with="${5:+, favordynmods}" "{ values[\$1, ++n[\$1]] = \$2; unit[\$1] = \$3 }
                END { for (name in n) printf \"  %-24s %10.3f %s%s\n\", name, values[name, int((n[name] + 1) / 2)], unit[name], with }"
    ' - "$target/release/examples/snapshot" "$target/costrel/lib/costrel" "$target/bench-kvm" "$runs" "$options"
done
