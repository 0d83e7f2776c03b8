//! The table by which a kernel without ACPI finds processors and interrupts (Intel, MultiProcessor
//! Specification 1.4).

use super::layout::{IO_APIC, LOCAL_APIC, MP_TABLE_SIZE};

const POINTER: usize = 16;
const HEADER: usize = 44;
const VERSION: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
const EVERY_APIC: u8 = 0xff;

#[derive(Clone, Copy)]
enum InterruptKind {
    Vectored = 0,
    NonMaskable = 1,
    External = 3,
}

/// The floating pointer, and behind it the table for `vcpus` (at most 16) processors whose APICs'
/// ids are 0, 1, …; to be put at `address`. Of the bus's lines only `interrupts` are in it: a kernel
/// sets each of them up, at a dozen exits a line.
pub(super) fn mp_table(
    address: u64,
    vcpus: u8,
    interrupts: impl Iterator<Item = u32>,
) -> [u8; MP_TABLE_SIZE] {
    let io_apic_id = vcpus;
    let mut entries = Vec::with_capacity(MP_TABLE_SIZE);
    let mut count: u16 = 0;
    let mut entry = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..vcpus {
        let flags = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        let mut processor = [0; 20];
        // Type, APIC id and version, flags; then a signature (family 6) and features (FPU, APIC)
        // that nobody looks at where there is CPUID.
        processor[..8].copy_from_slice(&[0, id, APIC_VERSION, flags, 0, 6, 0, 0]);
        processor[8..12].copy_from_slice(&0x201u32.to_le_bytes());
        entry(&processor);
    }
    entry(b"\x01\x00ISA   ");
    let [a, b, c, d] = IO_APIC.to_le_bytes();
    entry(&[2, io_apic_id, APIC_VERSION, ENABLED, a, b, c, d]);
    // Each line of the bus to the input of the same number, as KVM's own routing has it.
    for line in interrupts.filter_map(|line| u8::try_from(line).ok()) {
        entry(&[3, InterruptKind::Vectored as u8, 0, 0, 0, line, io_apic_id, line]);
    }
    entry(&[4, InterruptKind::External as u8, 0, 0, 0, 0, 0, 0]);
    entry(&[4, InterruptKind::NonMaskable as u8, 0, 0, 0, 0, EVERY_APIC, 1]);

    let mut header = [0; HEADER];
    header[..4].copy_from_slice(b"PCMP");
    let length = u16::try_from(HEADER + entries.len()).unwrap_or(u16::MAX);
    header[4..6].copy_from_slice(&length.to_le_bytes());
    header[6] = VERSION;
    header[8..16].copy_from_slice(b"COSTREL ");
    header[16..28].copy_from_slice(b"VM          ");
    header[34..36].copy_from_slice(&count.to_le_bytes());
    header[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    header[7] = complement(header.iter().chain(&entries));

    let table = u32::try_from(address + POINTER as u64).unwrap_or(0);
    let mut pointer = [0; POINTER];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&table.to_le_bytes());
    pointer[8..10].copy_from_slice(&[1, VERSION]);
    pointer[10] = complement(pointer.iter());

    let mut bytes = [0; MP_TABLE_SIZE];
    let all = pointer.iter().chain(&header).chain(&entries);
    bytes.iter_mut().zip(all).for_each(|(target, byte)| *target = *byte);
    bytes
}

/// What makes the sum of all bytes 0.
fn complement<'a>(bytes: impl Iterator<Item = &'a u8>) -> u8 {
    bytes.fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_and_lengths_hold() {
        for vcpus in [1, 2, 16] {
            let bytes = mp_table(0x9_fc00, vcpus, 0..24);
            let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum(&bytes[..16]), 0);
            let length = usize::from(u16::from_le_bytes([bytes[20], bytes[21]]));
            assert!(16 + length <= MP_TABLE_SIZE, "{vcpus} processors take {length} bytes");
            assert_eq!(sum(&bytes[16..16 + length]), 0);
            let count = usize::from(u16::from_le_bytes([bytes[50], bytes[51]]));
            let vcpus = usize::from(vcpus);
            assert_eq!(length, 44 + vcpus * 20 + (count - vcpus) * 8);
        }
    }
}
