#!/usr/bin/env bash
# Runs the end-to-end tests, and those of what KVM's machines are made of, on KVM: inside kvm-lab,
# whose KVM is the real one on an emulated CPU.
#
#   scripts/test-kvm.sh [NAME[=PREFIX]…]     (what the names mean: see tests/kvm-lab/run-tests.py)
#
# A machine that cannot run the lab skips it and says so; with COSTREL_KVM_LAB=required, as in CI,
# that is a failure. COSTREL_BACKEND (kvm unless set) is the backend that is tested.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# Enough for a guest with memory above 4 GiB, where there is as much.
memory=6656
tests/kvm-lab/kvm-lab check $memory 2>/dev/null || memory=4096
limit=${COSTREL_KVM_LAB_SECONDS:-2400}

if (($# == 0)); then
    # The jail, the VMM, and the agent (whose tests reap, each in a process of its own)…
    set -- costrel_vminitd= costrel-vmm-process costrel-vmm-kvm
    # …and those end-to-end tests that boot machines.
    set -- "$@" jail= isolation= sandbox= instance= machine= vsock= functions_rust= \
        bad_input=a_guest_,a_kernel_,a_kvm_,a_blob_that_rots,a_backend,no_qemu killed= functions_python= \
        hostile_guests= snapshots_kvm=
    # Of what takes minutes there, one of each kind; all of it in `make test-long`.
    if [[ -n ${COSTREL_LONG_TESTS-} ]]; then
        set -- "$@" snapshots= cold_starts= host_ports=
    else
        set -- "$@" snapshots=what_was,files_that,another,only_a_paused,a_monitor_killed \
            cold_starts=versions::the_second,clones,damage::a_failed,killed
    fi
fi

if ! tests/kvm-lab/kvm-lab check $memory; then
    echo "===== The tests on KVM are SKIPPED: this machine cannot run kvm-lab =====" >&2
    [[ ${COSTREL_KVM_LAB-} != required ]] || exit 1
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# The whole workspace, as the other tests are built: the same features, so nothing is built twice.
cargo test --workspace --locked --no-run --quiet --message-format=json >"$work/messages"
tests/kvm-lab/run-tests.py plan "$work/messages" "$@" >"$work/plan"

# The Python image is staged here, in the home that tests share: in the lab it would take minutes.
HOME=$target/test-home XDG_DATA_HOME=$target/test-home/data XDG_CACHE_HOME=$target/test-home/cache \
    XDG_CONFIG_HOME=$target/test-home/config COSTREL_BACKEND=auto \
    "$target/costrel/bin/costrel" invoke --runtime python3.11 --image "oci:$target/test-inputs/python-image" \
    --code examples/python-cases --handler cases.echo '{}' >"$work/staged" 2>&1 ||
    { cat "$work/staged" >&2; exit 1; }

# In the lab all temporary files are on a tmpfs, for its root is an overlay, which lacks what the
# store asks of a file system; and the tests' shared home is a copy, one of the lab's own.
cat >"$work/inside" <<'INSIDE'
set -euo pipefail
mkdir -p /dev/shm/tmp /dev/shm/home
mount -t tmpfs -o size=75% tmp /dev/shm/tmp
mount -t tmpfs -o size=75% home /dev/shm/home
cp -a --sparse=always "$1/test-home/." /dev/shm/home
mount --move /dev/shm/home "$1/test-home"
export TMPDIR=/dev/shm/tmp
"$2/tests/kvm-lab/run-tests.py" run "$3/plan" "$(nproc)" 400 "$3/record/tests"
INSIDE
export KVM_LAB_ENV_CARGO_TARGET_DIR=$target
export KVM_LAB_ENV_COSTREL_BACKEND=${COSTREL_BACKEND:-kvm}
export KVM_LAB_ENV_COSTREL_TEST_SLOWNESS=4
export KVM_LAB_ENV_COSTREL_TEST_KERNEL=$target/costrel/lib/costrel/vmlinux
mkdir "$work/record"
: >"$work/record/tests"
began=$SECONDS

# One lab, while it shows signs of life. Its processors are emulated, and now and then both of them
# stop for good with a stock kernel's locks held, or the lab ends as if it had faulted thrice; then
# what is left is run in another one. What no lab survives is not run in the end, which is a failure.
lab=
one_lab() {
    local pulse
    tests/kvm-lab/kvm-lab run --mem $memory --timeout $((limit - SECONDS + began)) --dir "$work/record" -- \
        bash "$work/inside" "$target" "$root" "$work" &
    lab=$!
    trap 'kill $lab 2>/dev/null || true; wait $lab || true; rm -rf "$work"' EXIT
    touch "$work/record/tests"
    while kill -0 $lab 2>/dev/null; do
        sleep 1
        pulse=$(stat -c %Y "$work/record/tests")
        if (($(date +%s) - pulse > silence)); then
            kill $lab 2>/dev/null || true
            wait $lab || true
            return 75
        fi
    done
    wait $lab
}
# Longer than the lab takes to start, and to be starved by others.
silence=150
for attempt in 1 2 3 4 5 6 7 8; do
    status=0
    one_lab || status=$?
    ((attempt < 8)) || break
    case $status in
        75) echo "===== kvm-lab has stopped; going on in another one =====" >&2 ;;
        125) echo "===== kvm-lab has ended by itself; going on in another one =====" >&2 ;;
        *) break ;;
    esac
done
echo "On KVM, in $((SECONDS - began)) s:"
tests/kvm-lab/run-tests.py sum "$work/plan" "$work/record/tests"
