//! Puts a kernel into guest memory: its pages are those of the file, mapped privately.
//!
//! Nothing is copied, and what machines of one kernel do not write to, which is most of it, is in
//! the host's memory once. As with a disk, whoever writes into the file while machines run changes
//! what they execute.

#![expect(unsafe_code, reason = "a file is mapped in place of guest memory")]

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
};

use costrel_virtio::GuestMemory;
use costrel_vmm::KernelSegment;
use vm_memory::{Bytes as _, GuestAddress, GuestMemory as _, Permissions, VolatileSlice};

use super::BuildError;

const PAGE: u64 = 4096;

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
    file: &File,
    segment: KernelSegment,
) -> Result<(), BuildError> {
    let KernelSegment { offset, file_length, address, memory_length } = segment;
    let outside = || BuildError::KernelOutsideMemory;
    // All of it has its place.
    slice(memory, address, memory_length).ok_or_else(outside)?;
    // Whole pages that are whole pages of the file as well.
    let head = (address.next_multiple_of(PAGE) - address).min(file_length);
    let pages = (file_length - head) / PAGE * PAGE;
    if pages == 0 || (address + head) % PAGE != (offset + head) % PAGE {
        return copy(memory, file, offset, address, file_length);
    }
    copy(memory, file, offset, address, head)?;
    let target = slice(memory, address + head, pages).ok_or_else(outside)?;
    map(file, offset + head, &target)?;
    copy(memory, file, offset + head + pages, address + head + pages, file_length - head - pages)
}

/// A range of guest memory that is one range for the host as well.
fn slice(memory: &GuestMemory, address: u64, length: u64) -> Option<VolatileSlice<'_>> {
    let length = usize::try_from(length).ok()?;
    let mut slices =
        memory.get_slices(GuestAddress(address), length, Permissions::ReadWrite).ok()?;
    match slices.next() {
        Some(slice) => slice.ok().filter(|slice| slice.len() == length),
        None => None,
    }
}

fn copy(
    memory: &GuestMemory,
    file: &File,
    offset: u64,
    address: u64,
    length: u64,
) -> Result<(), BuildError> {
    let mut buffer = vec![0; usize::try_from(length.min(64 << 10)).unwrap_or(0)];
    let mut done = 0;
    while done < length {
        let count = usize::try_from(length - done).map_or(buffer.len(), |n| n.min(buffer.len()));
        let piece = &mut buffer[..count];
        file.read_exact_at(piece, offset + done).map_err(BuildError::host("read the kernel"))?;
        memory
            .write_slice(piece, GuestAddress(address + done))
            .map_err(|_| BuildError::KernelOutsideMemory)?;
        done += count as u64;
    }
    Ok(())
}

fn map(file: &File, offset: u64, target: &VolatileSlice<'_>) -> Result<(), BuildError> {
    let failed = BuildError::host("map the kernel");
    let Ok(offset) = libc::off_t::try_from(offset) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let at = target.ptr_guard_mut().as_ptr();
    // SAFETY: the range is the guest's memory, whole pages of it, and nobody has a reference into
    // that: all accesses are volatile, by pointer or by system call. The mapping is as readable,
    // writable and private as the one that it replaces.
    let mapped = unsafe {
        libc::mmap(
            at.cast(),
            target.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(failed(io::Error::last_os_error()));
    }
    Ok(())
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
    fn mapped_or_copied_it_is_the_same() {
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
