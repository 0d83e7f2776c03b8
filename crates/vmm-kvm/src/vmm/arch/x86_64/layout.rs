//! Where things are in the guest's physical address space and among its interrupts.
//!
//! ```text
//!          0   RAM: start info, kernel arguments, MP table below 640 KiB
//!     640 KiB  reserved, as on every PC
//!       1 MiB  RAM: the kernel
//!       3 GiB  devices' registers, I/O APIC, local APICs, KVM's own three pages
//!       4 GiB  RAM above 3 GiB, if there is any
//! ```

use std::ops::Range;

use costrel_virtio::MmioTransport;
use vm_memory::GuestAddress;

/// The end of low memory, where the extended BIOS data area of a PC begins.
pub(super) const LOW_MEMORY_END: u64 = 0x9_fc00;
/// The MP table is looked for in the last KiB of 640.
pub(super) const MP_TABLE: u64 = LOW_MEMORY_END;
pub(super) const MP_TABLE_SIZE: usize = 1024;
/// The start of memory above the legacy hole.
pub(super) const HIGH_MEMORY: u64 = 0x10_0000;

pub(super) const START_INFO: u64 = 0x6000;
pub(super) const MEMORY_MAP: u64 = 0x7000;
pub(super) const KERNEL_ARGUMENTS: u64 = 0x2_0000;
/// Linux' `COMMAND_LINE_SIZE` on x86.
pub(super) const KERNEL_ARGUMENTS_SIZE: usize = 2048;

/// RAM leaves out what is from here to 4 GiB.
const GAP: u64 = 3 << 30;
const GAP_END: u64 = 4 << 30;
const DEVICES: u64 = 0xd000_0000;
pub(super) const IO_APIC: u32 = 0xfec0_0000;
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM uses on Intel's processors for real mode.
pub(super) const KVM_TSS: usize = 0xfffb_d000;
/// And one for an identity-mapped page table.
pub(super) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// The ports of the first serial line.
pub(crate) const SERIAL_PORTS: Range<u16> = 0x3f8..0x400;
/// The interrupt of the PIT.
pub(super) const TIMER_INTERRUPT: u32 = 0;
/// The serial line's interrupt.
pub(crate) const SERIAL_INTERRUPT: u32 = 4;

/// Interrupts below are the serial line's and the legacy devices'.
const FIRST_INTERRUPT: u32 = 5;
/// Linux knows legacy interrupts without being told of them; above 15 it would have to be.
#[cfg(test)]
const LAST_INTERRUPT: u32 = 15;
/// How many virtio devices there can be.
#[cfg(test)]
pub(crate) const MAX_DEVICES: usize = (LAST_INTERRUPT - FIRST_INTERRUPT + 1) as usize;

/// The interrupt line of a virtio device.
pub(crate) fn device_interrupt(index: usize) -> u32 {
    FIRST_INTERRUPT + u32::try_from(index).unwrap_or(u32::MAX - FIRST_INTERRUPT)
}

/// The addresses of a virtio device's registers.
pub(crate) fn device_window(index: usize) -> Range<u64> {
    let size = MmioTransport::<()>::SIZE;
    let start = DEVICES + index as u64 * size;
    start..start + size
}

/// The ranges of RAM: address and length in bytes.
pub(crate) fn memory_ranges(bytes: u64) -> Vec<(GuestAddress, usize)> {
    let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut ranges = vec![(GuestAddress(0), length(bytes.min(GAP)))];
    if bytes > GAP {
        ranges.push((GuestAddress(GAP_END), length(bytes - GAP)));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_the_gap_out() {
        assert_eq!(memory_ranges(256 << 20), [(GuestAddress(0), 256 << 20)]);
        assert_eq!(memory_ranges(GAP), [(GuestAddress(0), 3 << 30)]);
        let ranges = memory_ranges(64 << 30);
        assert_eq!(ranges, [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 61 << 30)]);
    }

    #[test]
    fn devices_are_in_the_gap_and_apart() {
        assert!(device_window(0).start >= GAP);
        assert!(device_window(MAX_DEVICES - 1).end <= u64::from(IO_APIC));
        assert_eq!(device_window(0).end, device_window(1).start);
        assert_eq!(device_interrupt(MAX_DEVICES - 1), LAST_INTERRUPT);
    }
}
