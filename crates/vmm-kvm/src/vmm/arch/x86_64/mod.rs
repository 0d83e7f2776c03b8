//! A PC without firmware: memory, the PVH boot protocol, an MP table, CPUID, registers.

mod board;
mod boot;
mod cpuid;
mod layout;
mod mp_table;
mod state;
mod vcpu;

pub(crate) use board::BoardState;
pub(crate) use boot::{BootLayout, prepare_vm, write_boot_data};
pub(crate) use layout::{
    SERIAL_INTERRUPT, SERIAL_PORTS, device_interrupt, device_window, memory_ranges,
};
pub(crate) use state::{KVM_GET_DEVICE_ATTR, Moment, Vcpu, VcpuMismatch, VcpuState, check_savable};
pub(crate) use vcpu::{VcpuTemplate, processor};
