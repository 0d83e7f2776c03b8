# Firecracker: the program $FIRECRACKER.
vmm=$(basename "${FIRECRACKER:-firecracker}")
[[ -x ${FIRECRACKER-} ]] || lacking "a Firecracker (FIRECRACKER=PATH)"

start() {
    rm -f "$WORK/firecracker.vsock"
    cat >"$WORK/firecracker.json" <<JSON
{"boot-source": {"kernel_image_path": "$KERNEL", "boot_args": "$ARGUMENTS $*"},
 "machine-config": {"vcpu_count": 1, "mem_size_mib": $MEMORY},
 "drives": [
   {"drive_id": "root", "path_on_host": "$DISK", "is_root_device": false, "is_read_only": true},
   {"drive_id": "data", "path_on_host": "$DATA", "is_root_device": false, "is_read_only": true}],
 "vsock": {"guest_cid": 7, "uds_path": "$WORK/firecracker.vsock"}}
JSON
    CMD=("$FIRECRACKER" --no-api --config-file "$WORK/firecracker.json")
    VSOCK=unix:$WORK/firecracker.vsock
}
