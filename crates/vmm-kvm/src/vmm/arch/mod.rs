//! All that is particular to a processor architecture.

mod x86_64;

pub(crate) use x86_64::{
    BootLayout, SERIAL_INTERRUPT, SERIAL_PORTS, VcpuTemplate, device_interrupt, device_window,
    memory_ranges, prepare_vm, write_boot_data,
};
