//! Writes a guest's memory into a file in which what is zero is a hole.
//!
//! What was never touched is not looked at: that would allocate nothing, but take page tables and
//! time. `mincore` tells, but takes what was swapped out for untouched, so it is believed only while
//! the host's swap is empty; and in a machine that was restored it tells of the file's pages, so
//! there all is looked at.

#![expect(unsafe_code, reason = "memory that no guest runs on is looked at as bytes")]

use std::{fs::File, io, os::unix::fs::FileExt as _};

use costrel_virtio::GuestMemory;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::{SavingError, SnapshotError};
use crate::vmm::memory::Backing;

const PAGE: usize = 4096;
/// How much is looked at before anything is written: `mincore` has a byte for each page.
const CHUNK: usize = 4 << 20;

/// Writes all memory. Nothing may change it meanwhile: vCPUs and devices stand still.
pub(crate) fn write_memory(
    file: &File,
    memory: &GuestMemory,
    backing: Backing,
) -> Result<(), SavingError> {
    let failed = SavingError::host("write the machine's memory");
    let length = memory.iter().map(|region| region.len()).sum();
    file.set_len(length).map_err(&failed)?;
    if backing == Backing::Anonymous && swap_is_empty() {
        write_pages(file, memory, Look::AtTouched).map_err(&failed)?;
        // What was swapped out meanwhile is still there: nobody but us has touched anything.
        if swap_is_empty() {
            return Ok(());
        }
    }
    write_pages(file, memory, Look::AtAll).map_err(failed)
}

/// Whether a file is as long as a memory: what is beyond a mapped file's end ends whoever reads it.
pub(crate) fn check_length(file: &File, wanted: u64) -> Result<(), SnapshotError> {
    let found = file.metadata().map_err(SnapshotError::Unreadable)?.len();
    if found == wanted { Ok(()) } else { Err(SnapshotError::MemoryLength { found, wanted }) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    AtTouched,
    AtAll,
}

fn swap_is_empty() -> bool {
    let info = rustix::system::sysinfo();
    info.totalswap == info.freeswap
}

fn write_pages(file: &File, memory: &GuestMemory, look: Look) -> io::Result<()> {
    let mut offset = 0;
    let mut touched = [1; CHUNK / PAGE];
    for region in memory.iter() {
        let length = usize::try_from(region.len()).unwrap_or(0);
        // SAFETY: the region is mapped as long as the memory is there, and nothing writes to it
        // while the machine stands still.
        let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), length) };
        for chunk in bytes.chunks(CHUNK) {
            if look == Look::AtTouched {
                find_touched(chunk, &mut touched)?;
            }
            write_chunk(file, offset, chunk, &touched)?;
            offset += chunk.len() as u64;
        }
    }
    Ok(())
}

/// Sets a byte's lowest bit for each page that is there.
fn find_touched(chunk: &[u8], touched: &mut [u8; CHUNK / PAGE]) -> io::Result<()> {
    let start = chunk.as_ptr().cast_mut().cast();
    // SAFETY: the range is mapped and begins with a page, and there is a byte for each of its pages.
    match unsafe { libc::mincore(start, chunk.len(), touched.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes each run of pages that are not zero.
fn write_chunk(file: &File, offset: u64, chunk: &[u8], touched: &[u8]) -> io::Result<()> {
    let mut run = 0..0;
    for (page, touched) in chunk.chunks(PAGE).zip(touched) {
        if touched & 1 != 0 && !is_zero(page) {
            run.end += page.len();
            continue;
        }
        if !run.is_empty() {
            file.write_all_at(&chunk[run.clone()], offset + run.start as u64)?;
        }
        run = run.end + page.len()..run.end + page.len();
    }
    if run.is_empty() {
        Ok(())
    } else {
        file.write_all_at(&chunk[run.clone()], offset + run.start as u64)
    }
}

fn is_zero(page: &[u8]) -> bool {
    let (blocks, rest) = page.as_chunks::<64>();
    // A block at a time, so that the compiler makes a few wide instructions of it.
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd as _, unix::fs::MetadataExt as _};

    use rustix::fs::SeekFrom;
    use vm_memory::{Bytes as _, GuestAddress};

    use super::*;

    fn data_ranges(file: &File) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
            at = rustix::fs::seek(file.as_fd(), SeekFrom::Hole(start)).unwrap();
            ranges.push((start, at));
        }
        ranges
    }

    #[test]
    fn only_what_is_not_zero_is_written() {
        const REGION: usize = 8 << 20;
        for backing in [Backing::Anonymous, Backing::Snapshot] {
            let ranges = [(GuestAddress(0), REGION), (GuestAddress(1 << 32), REGION)];
            let memory = GuestMemory::from_ranges(&ranges).unwrap();
            memory.write_slice(&[1; 5000], GuestAddress(4090)).unwrap();
            memory.write_slice(&[0; 9000], GuestAddress(1 << 20)).unwrap();
            memory.write_slice(&[2], GuestAddress((4 << 20) - 1)).unwrap();
            memory.write_slice(&[3], GuestAddress(4 << 20)).unwrap();
            memory.write_slice(&[4], GuestAddress((1 << 32) + (8 << 20) - 1)).unwrap();
            let file = tempfile::tempfile().unwrap();
            write_memory(&file, &memory, backing).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 2 * REGION as u64);
            let page = 4096;
            let end = 2 * REGION as u64;
            let wanted = [(0, 3 * page), ((4 << 20) - page, (4 << 20) + page), (end - page, end)];
            assert_eq!(data_ranges(&file), wanted);
            assert_eq!(file.metadata().unwrap().blocks() * 512, 6 * page);
            let mut whole = vec![0; 2 * REGION];
            file.read_exact_at(&mut whole, 0).unwrap();
            let mut expected = vec![0; 2 * REGION];
            memory.read_slice(&mut expected[..REGION], GuestAddress(0)).unwrap();
            memory.read_slice(&mut expected[REGION..], GuestAddress(1 << 32)).unwrap();
            assert!(whole == expected);
        }
    }

    #[test]
    fn a_page_is_zero_or_is_not() {
        let mut page = [0; PAGE];
        assert!(is_zero(&page));
        for at in [0, 63, 64, 2000, PAGE - 1] {
            page[at] = 1;
            assert!(!is_zero(&page), "{at}");
            page[at] = 0;
        }
    }
}
