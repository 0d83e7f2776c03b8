//! The guest's physical memory.
//!
//! Of a machine that boots it is anonymous: a memfd's pages cost 20 ms more of a boot's 140 in the lab, and that a process passes
//! its guest's memory on is not needed. In huge pages where the host has them to give, unless told
//! otherwise: of what a kernel touches while it boots most is next to each other, and each page
//! costs an exit the first time.
//!
//! Of a restored machine it is the snapshot's file, mapped so that what the guest writes is its own:
//! all machines of a snapshot share what none of them has written. Nothing is fetched ahead. To enter
//! 16 MiB of the file into the page tables first (`MADV_POPULATE_READ`) takes 6 ms in the lab, and
//! the guest's first answer comes 0.7 ms earlier for it: what its 530 first touches cost is their
//! exits. Memory copied into huge pages would save those, and would be shared with nobody.

#![expect(unsafe_code, reason = "memory is mapped with an alignment, and KVM is told where it is")]

use std::{fs::File, io, os::fd::AsRawFd as _, sync::Arc};

use costrel_virtio::GuestMemory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap, MmapRegion,
};

use super::{BuildError, arch};
use crate::HugePages;

/// What a huge page is on x86-64 and, with pages of 4 KiB, on ARM.
const HUGE_PAGE: usize = 2 << 20;
/// What is left unmapped before and behind the memory, at least: no device should ever reach beyond
/// it, and one that does ends the process instead of changing what is next to it.
const GUARD: usize = 64 << 10;

/// What is in a machine's memory before the guest writes to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backing {
    /// Zeroes.
    Anonymous,
    /// A file.
    Snapshot,
}

/// Maps a machine's memory. Nothing is allocated before the guest uses it.
pub(crate) fn map(bytes: u64, huge_pages: HugePages) -> Result<GuestMemory, BuildError> {
    map_with(bytes, |address, length, _| {
        let advice = match huge_pages {
            HugePages::Transparent => libc::MADV_HUGEPAGE,
            HugePages::Never => libc::MADV_NOHUGEPAGE,
        };
        // SAFETY: the range is within a mapping of ours alone.
        if unsafe { libc::mprotect(address, length, PROTECTION) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as before. It is a wish only: without huge pages all goes on.
        unsafe { libc::madvise(address, length, advice) };
        Ok(())
    })
}

/// Maps a machine's memory from a file of that length, which never changes.
pub(crate) fn map_file(bytes: u64, file: &File) -> Result<GuestMemory, BuildError> {
    const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    map_with(bytes, |address, length, offset| {
        // SAFETY: the range is within a mapping of ours alone, which this takes the place of.
        let mapped =
            unsafe { libc::mmap(address, length, PROTECTION, FLAGS, file.as_raw_fd(), offset) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    })
}

const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Maps all ranges; `fill` makes an address and a length usable that stand at an offset in the whole.
fn map_with(
    bytes: u64,
    fill: impl Fn(*mut libc::c_void, usize, libc::off_t) -> io::Result<()>,
) -> Result<GuestMemory, BuildError> {
    let mut offset: libc::off_t = 0;
    let regions = arch::memory_ranges(bytes).into_iter().map(|(start, length)| {
        let address = reserve(length).map_err(failed)?;
        fill(address, length, offset).map_err(failed)?;
        offset += libc::off_t::try_from(length).unwrap_or(0);
        region(start, address, length)
    });
    let regions = regions.collect::<Result<_, _>>()?;
    GuestMemory::from_regions(regions).map_err(|error| failed(io::Error::other(error)))
}

fn failed(source: io::Error) -> BuildError {
    BuildError::Host { operation: "map the guest's memory", source }
}

/// Addresses for a region, beginning where a huge page may, with guards around it.
fn reserve(length: usize) -> io::Result<*mut libc::c_void> {
    const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let all = length.checked_add(GUARD + HUGE_PAGE + GUARD).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping, wherever there is room.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), all, libc::PROT_NONE, FLAGS, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(base.map_addr(|address| (address + GUARD).next_multiple_of(HUGE_PAGE)))
}

/// A region that stays mapped until the process ends.
fn region(
    start: GuestAddress,
    address: *mut libc::c_void,
    length: usize,
) -> Result<GuestRegionMmap<()>, BuildError> {
    // SAFETY: the range is mapped like that, and the mapping is never undone or changed.
    let region =
        unsafe { MmapRegion::build_raw(address.cast(), length, PROTECTION, libc::MAP_PRIVATE) };
    let region = region.map_err(|error| failed(io::Error::other(error)))?;
    GuestRegionMmap::new(region, start).ok_or(BuildError::OutsideMemory)
}

/// Gives a VM its memory.
pub(crate) fn give(vm: &VmFd, memory: &Arc<GuestMemory>) -> Result<(), BuildError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a mapping of that size, which stays until the process ends.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(BuildError::kvm("give the machine its memory"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use vm_memory::Bytes as _;

    use super::*;

    #[test]
    fn nothing_is_next_to_the_memory() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        check_guards(&map(64 << 20, HugePages::Transparent).unwrap());
        check_guards(&map_file(64 << 20, &file).unwrap());
    }

    #[test]
    fn a_file_is_seen_and_not_changed() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"was", 5 << 20).unwrap();
        let memories = [0; 2].map(|_| map_file(64 << 20, &file).unwrap());
        memories[0].write_slice(b"is now", GuestAddress(5 << 20)).unwrap();
        let mut seen = [0; 3];
        memories[1].read_slice(&mut seen, GuestAddress(5 << 20)).unwrap();
        assert_eq!(&seen, b"was");
        file.read_exact_at(&mut seen, 5 << 20).unwrap();
        assert_eq!(&seen, b"was");
    }

    fn check_guards(memory: &GuestMemory) {
        let region = memory.iter().next().unwrap();
        let (start, end) = (region.as_ptr().addr(), region.as_ptr().addr() + (64 << 20));
        assert_eq!(start % HUGE_PAGE, 0);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mappings: Vec<_> = maps
            .lines()
            .map(|line| {
                let (range, rest) = line.split_once(' ').unwrap();
                let (from, to) = range.split_once('-').unwrap();
                let number = |digits| usize::from_str_radix(digits, 16).unwrap();
                (number(from)..number(to), rest.starts_with("---p"))
            })
            .collect();
        for guard in [start - GUARD, start - 1, end, end + GUARD - 1] {
            let (_, is_guard) = mappings.iter().find(|(range, _)| range.contains(&guard)).unwrap();
            assert!(is_guard, "{guard:#x} in {maps}");
        }
    }
}
