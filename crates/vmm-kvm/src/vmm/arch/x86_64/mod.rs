//! A PC without firmware: memory, the PVH boot protocol, an MP table, CPUID, registers.

mod boot;
mod cpuid;
mod layout;
mod mp_table;
mod vcpu;

pub(crate) use boot::{BootLayout, prepare_vm, write_boot_data};
pub(crate) use layout::{
    SERIAL_INTERRUPT, SERIAL_PORTS, device_interrupt, device_window, memory_ranges,
};
pub(crate) use vcpu::VcpuTemplate;
