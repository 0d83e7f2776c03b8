//! All that is particular to a processor architecture.

mod x86_64;

pub(crate) use x86_64::{
    BoardState, BootLayout, KVM_GET_DEVICE_ATTR, Moment, SERIAL_INTERRUPT, SERIAL_PORTS, Vcpu,
    VcpuMismatch, VcpuState, VcpuTemplate, check_savable, device_interrupt, device_window,
    memory_ranges, prepare_vm, processor, write_boot_data,
};
