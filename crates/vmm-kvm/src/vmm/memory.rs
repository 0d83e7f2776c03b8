//! The guest's physical memory.
//!
//! Anonymous: a memfd's pages cost 20 ms more of a boot's 140 in the lab, and that a process passes
//! its guest's memory on is not needed. In huge pages where the host has them to give, unless told
//! otherwise: of what a kernel touches while it boots most is next to each other, and each page
//! costs an exit the first time.

#![expect(unsafe_code, reason = "memory is mapped with an alignment, and KVM is told where it is")]

use std::{io, sync::Arc};

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

/// Maps a machine's memory. Nothing is allocated before the guest uses it.
pub(crate) fn map(bytes: u64, huge_pages: HugePages) -> Result<GuestMemory, BuildError> {
    let ranges = arch::memory_ranges(bytes).into_iter();
    let regions = ranges.map(|(start, length)| map_region(start, length, huge_pages));
    let regions = regions.collect::<Result<_, _>>()?;
    GuestMemory::from_regions(regions).map_err(|error| failed(io::Error::other(error)))
}

fn failed(source: io::Error) -> BuildError {
    BuildError::Host { operation: "map the guest's memory", source }
}

/// A region that begins where a huge page may, and stays mapped until the process ends.
fn map_region(
    start: GuestAddress,
    length: usize,
    huge_pages: HugePages,
) -> Result<GuestRegionMmap<()>, BuildError> {
    const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
    const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let all = length
        .checked_add(GUARD + HUGE_PAGE + GUARD)
        .ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
    // SAFETY: a new mapping, wherever there is room.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), all, libc::PROT_NONE, FLAGS, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(failed(io::Error::last_os_error()));
    }
    let address = base.map_addr(|address| (address + GUARD).next_multiple_of(HUGE_PAGE));
    // SAFETY: the range is within the mapping, which is ours alone.
    if unsafe { libc::mprotect(address, length, PROTECTION) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    let advice = match huge_pages {
        HugePages::Transparent => libc::MADV_HUGEPAGE,
        HugePages::Never => libc::MADV_NOHUGEPAGE,
    };
    // SAFETY: the range is within the mapping. It is a wish only: without huge pages all goes on.
    unsafe { libc::madvise(address, length, advice) };
    // SAFETY: as before; the mapping is never undone or changed.
    let region = unsafe { MmapRegion::build_raw(address.cast(), length, PROTECTION, FLAGS) };
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
    use super::*;

    #[test]
    fn nothing_is_next_to_the_memory() {
        let memory = map(64 << 20, HugePages::Transparent).unwrap();
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
