//! Puts a kernel into guest memory.
//!
//! It is copied. Mapping the file in its place saves that, and was measured: but a booting kernel
//! patches nearly every page of its own text, so that each is copied all the same, one fault at a
//! time.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom},
};

use costrel_virtio::GuestMemory;
use costrel_vmm::KernelSegment;
use vm_memory::{Bytes as _, GuestAddress, GuestMemory as _, Permissions};

use super::BuildError;

/// Loads all pieces of a kernel into memory that nobody has used yet, hence reads as zeroes.
pub(crate) fn load(
    memory: &GuestMemory,
    file: &File,
    segments: &[KernelSegment],
) -> Result<(), BuildError> {
    segments.iter().try_for_each(|segment| load_segment(memory, file, *segment))
}

fn load_segment(
    memory: &GuestMemory,
    mut file: &File,
    segment: KernelSegment,
) -> Result<(), BuildError> {
    let KernelSegment { offset, file_length, address, memory_length } = segment;
    let start = GuestAddress(address);
    let length = usize::try_from(memory_length).map_err(|_| BuildError::KernelOutsideMemory)?;
    if !memory.check_range(start, length, Permissions::Write) {
        return Err(BuildError::KernelOutsideMemory);
    }
    file.seek(SeekFrom::Start(offset)).map_err(BuildError::host("read the kernel"))?;
    // No longer than the length in memory, by the order.
    let in_file = usize::try_from(file_length.min(memory_length)).unwrap_or(0);
    memory
        .read_exact_volatile_from(start, &mut file, in_file)
        .map_err(|error| BuildError::host("read the kernel")(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What ends up where, by the rule itself.
    fn expected(file: &[u8], segments: &[KernelSegment], length: usize) -> Vec<u8> {
        let mut memory = vec![0; length];
        for segment in segments {
            let [from, to, count] = [segment.offset, segment.address, segment.file_length]
                .map(|number| usize::try_from(number).unwrap());
            memory[to..to + count].copy_from_slice(&file[from..from + count]);
        }
        memory
    }

    #[test]
    fn every_byte_finds_its_place() {
        const LENGTH: usize = 1 << 20;
        let content: Vec<u8> = (0..300_000u32).map(|n| (n / 7 % 251) as u8 | 1).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let segment = |offset, address, file_length, memory_length| KernelSegment {
            offset,
            file_length,
            address,
            memory_length,
        };
        for segments in [
            vec![segment(0, 0, 300_000, 300_000)],
            vec![segment(4096, 65536, 8192, 8192), segment(16384, 131_072, 5000, 9000)],
            vec![segment(100, 4196, 20_000, 20_000)],
            vec![segment(100, 5000, 20_000, 30_000)],
            vec![segment(1, 1, 4095, 4095), segment(8191, 8191, 2, 2)],
            vec![segment(0, 0, 0, 4096)],
        ] {
            let memory = GuestMemory::from_ranges(&[(GuestAddress(0), LENGTH)]).unwrap();
            load(&memory, &file, &segments).unwrap();
            let mut found = vec![0; LENGTH];
            memory.read_slice(&mut found, GuestAddress(0)).unwrap();
            assert!(found == expected(&content, &segments, LENGTH), "{segments:?}");
        }
    }

    #[test]
    fn nothing_goes_outside_memory() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        for (address, memory_length) in [(1 << 20, 1), (4096, 1 << 20), (u64::MAX - 10, 20)] {
            let file_length = memory_length.min(4096);
            let segment = KernelSegment { offset: 0, file_length, address, memory_length };
            let error = load(&memory, &file, &[segment]).unwrap_err();
            assert!(matches!(error, BuildError::KernelOutsideMemory));
        }
    }
}
