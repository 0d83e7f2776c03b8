# QEMU's microvm under KVM, with what it does not need left out.
vmm=qemu-system-x86_64
[[ -x $(command -v $vmm) ]] || lacking "QEMU"

start() {
    CMD=(
        $vmm -M microvm,accel=kvm,isa-serial=on,acpi=off,pit=off,pic=off,rtc=off -cpu host -m "$MEMORY" -smp 1
        -nodefaults -no-user-config -display none -no-reboot -serial stdio -global virtio-mmio.force-legacy=off
        -kernel "$KERNEL" -append "$ARGUMENTS $*"
        # Linux finds the devices in this order.
        -drive if=none,id=root,file="$DISK",format=raw,readonly=on -device virtio-blk-device,drive=root
        -drive if=none,id=data,file="$DATA",format=raw,readonly=on -device virtio-blk-device,drive=data
        -device vhost-vsock-device,guest-cid=7
    )
    VSOCK=cid:7
}
