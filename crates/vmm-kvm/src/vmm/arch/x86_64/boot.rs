//! What the board has, and what the PVH boot protocol hands to a kernel.

use std::io;

use costrel_virtio::GuestMemory;
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::VmFd;
use linux_loader::{
    configurator::{BootConfigurator as _, BootParams, pvh::PvhBootConfigurator},
    loader::elf::start_info::{hvm_memmap_table_entry, hvm_start_info},
};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::{
    layout::{
        HIGH_MEMORY, KERNEL_ARGUMENTS, KERNEL_ARGUMENTS_SIZE, KVM_IDENTITY_MAP, KVM_TSS,
        LOW_MEMORY_END, MEMORY_MAP, MP_TABLE, SERIAL_INTERRUPT, START_INFO, TIMER_INTERRUPT,
        device_interrupt,
    },
    mp_table::mp_table,
};
use crate::vmm::BuildError;

/// Where the boot processor begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootLayout {
    pub(super) entry: u64,
    pub(super) start_info: u64,
}

/// Gives a VM what belongs to the board: interrupt controllers and timer, all in the kernel.
pub(crate) fn prepare_vm(vm: &VmFd) -> Result<(), BuildError> {
    vm.set_tss_address(KVM_TSS).map_err(BuildError::kvm("place the task state segment"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP)
        .map_err(BuildError::kvm("place the identity map"))?;
    vm.create_irq_chip().map_err(BuildError::kvm("create the interrupt controllers"))?;
    // Kernels that know the TSC's frequency and its deadline timer never touch the PIT; others
    // calibrate by it.
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
    vm.create_pit2(pit).map_err(BuildError::kvm("create the timer"))
}

/// Writes what the kernel reads at its start: arguments, memory map, MP table.
pub(crate) fn write_boot_data(
    memory: &GuestMemory,
    entry: u32,
    arguments: &str,
    vcpus: u8,
    devices: usize,
) -> Result<BootLayout, BuildError> {
    if arguments.len() >= KERNEL_ARGUMENTS_SIZE {
        return Err(BuildError::ArgumentsTooLong { bytes: arguments.len() });
    }
    let mut text = arguments.as_bytes().to_vec();
    text.push(0);
    let outside = |_| BuildError::OutsideMemory;
    memory.write_slice(&text, GuestAddress(KERNEL_ARGUMENTS)).map_err(outside)?;
    let interrupts = [TIMER_INTERRUPT, SERIAL_INTERRUPT];
    let interrupts = interrupts.into_iter().chain((0..devices).map(device_interrupt));
    let table = mp_table(MP_TABLE, vcpus, interrupts);
    memory.write_slice(&table, GuestAddress(MP_TABLE)).map_err(outside)?;

    let map = memory_map(memory);
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC,
        version: 1,
        cmdline_paddr: KERNEL_ARGUMENTS,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..hvm_start_info::default()
    };
    let mut parameters = BootParams::new(&info, GuestAddress(START_INFO));
    parameters.set_sections(&map, GuestAddress(MEMORY_MAP));
    PvhBootConfigurator::write_bootparams(&parameters, memory)
        .map_err(|_| BuildError::OutsideMemory)?;
    Ok(BootLayout { entry: entry.into(), start_info: START_INFO })
}

/// xen/include/public/arch-x86/hvm/start_info.h
const XEN_HVM_START_MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

fn memory_map(memory: &GuestMemory) -> Vec<hvm_memmap_table_entry> {
    let entry = |start: u64, end: u64, kind: u32| hvm_memmap_table_entry {
        addr: start,
        size: end - start,
        type_: kind,
        reserved: 0,
    };
    let mut map = vec![
        entry(0, LOW_MEMORY_END, RAM),
        // The MP table among others: Linux wants it reserved.
        entry(LOW_MEMORY_END, HIGH_MEMORY, RESERVED),
    ];
    for region in memory.iter() {
        let start = region.start_addr().0.max(HIGH_MEMORY);
        map.push(entry(start, region.start_addr().0 + region.len(), RAM));
    }
    map
}

impl BuildError {
    pub(crate) fn kvm(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Host { operation, source: io::Error::from_raw_os_error(error.errno()) }
    }
}
