# Our own VMM, started by the library as the command does it: its jail is part of what is timed.
# Programs: $COSTREL_BOOT (crates/vmm-kvm/examples/boot.rs) and $COSTREL_VMM.
vmm=costrel-vmm
[[ -x ${COSTREL_BOOT-} && -x ${COSTREL_VMM-} ]] || lacking "costrel-vmm"

start() {
    rm -rf "$WORK/machine"
    mkdir "$WORK/machine"
    CMD=("$COSTREL_BOOT" "$COSTREL_VMM" "$KERNEL" "$MEMORY" 1 "$WORK/machine" "$DISK" "$DATA" -- dial=1 $ARGUMENTS "$@")
    VSOCK=unix:$WORK/machine/vsock.sock
}
