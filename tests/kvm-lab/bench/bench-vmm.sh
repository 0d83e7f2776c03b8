#!/usr/bin/env bash
# Compares VMMs side by side, and prints a table. To be run in the lab, with --icount:
#
#   bench-vmm.sh BUILT VMLINUX RUNS CONTESTANT…
#
# BUILT is the directory that build.sh filled. A contestant is a file in contestants/ that sets
# `vmm`, the program's name, and defines `start ARGUMENT…`, which sets CMD, the command to start a
# machine with (its serial console on standard output), and VSOCK, how the host reaches port 1024 (see
# vmtime.c). It is given KERNEL, DISK (vda, the root), DATA (vdb), MEMORY (MiB), ARGUMENTS (the
# kernel's) and WORK, a directory in RAM; it calls `lacking` with what is not there.
#
# The contestants take turns in each round, and the first round is thrown away. Ratios are to the
# first contestant.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
(($# >= 4)) || { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 2; }
built=$1 kernel=$2 runs=$3
shift 3
WORK=$(mktemp -d /dev/shm/bench.XXXXXX)
trap 'rm -rf "$WORK"' EXIT
cp -L "$kernel" "$WORK/vmlinux"
cp "$built/vmtime" "$built/guest.ext4" "$WORK/"
head -c $((64 << 20)) /dev/urandom >"$WORK/data"
KERNEL=$WORK/vmlinux DISK=$WORK/guest.ext4 DATA=$WORK/data MEMORY=256
ARGUMENTS="console=ttyS0 reboot=t panic=-1 quiet noreplace-smp root=/dev/vda ro rootfstype=ext4 init=/sbin/init"

lacking() { echo "  $name is skipped: it takes $1" >&2; exit 9; }

measure() { # CONTESTANT
    name=$1
    source "$here/contestants/$name.sh"
    local steps
    start stay
    "$WORK/vmtime" -t 60 --until GUEST-UP --lap boot --memory "$vmm" -- "${CMD[@]}"
    start blocks stay
    "$WORK/vmtime" -t 60 --result --result -- "${CMD[@]}"
    start serve
    "$WORK/vmtime" -t 60 --until SERVING --vsock "$VSOCK" -- "${CMD[@]}"
}

contestants=("$@")
for ((round = 0; round <= runs; round++)); do
    for name in "${contestants[@]}"; do
        status=0
        (set -e; measure "$name") >"$WORK/out" 2>"$WORK/err" </dev/null || status=$?
        if ((status == 9)); then
            [[ $round != 0 ]] || cat "$WORK/err" >&2
        elif ((status)); then
            echo "  $name failed:" >&2
            cat "$WORK/out" "$WORK/err" >&2
            touch "$WORK/failed"
        fi
        [[ $round == 0 ]] || sed "s/^/$name /" "$WORK/out" >>"$WORK/all"
    done
done
awk -v order="${contestants[*]}" '
    { key = $2 SUBSEP $1; value[key, ++count[key]] = $3; unit[$2] = $4
      if (!($2 in seen)) { seen[$2]; rows[++last] = $2 } }
    function median(key,   i, j, n, swap, a) {
        n = count[key]
        for (i = 1; i <= n; i++) a[i] = value[key, i] + 0
        for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j] < a[j - 1]; j--) { swap = a[j]; a[j] = a[j - 1]; a[j - 1] = swap }
        return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
    }
    END {
        names = split(order, name, " ")
        for (row = 1; row <= last; row++) {
            base = 0
            for (i = 1; i <= names; i++) {
                key = rows[row] SUBSEP name[i]
                if (!(key in count)) continue
                m = median(key)
                if (!base) base = m
                printf "  %-24s %-16s %10.2f %-6s %6.2f x\n", rows[row], name[i], m, unit[rows[row]], m / base
            }
        }
    }' "$WORK/all"
[[ ! -e $WORK/failed ]]
