//! The guest's physical memory.

#![expect(unsafe_code, reason = "KVM is told where guest memory is mapped")]

use std::sync::Arc;

use costrel_virtio::GuestMemory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::{BuildError, arch};

/// Maps a machine's memory. Nothing is allocated before the guest uses it.
pub(crate) fn map(bytes: u64) -> Result<GuestMemory, BuildError> {
    GuestMemory::from_ranges(&arch::memory_ranges(bytes)).map_err(BuildError::Memory)
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
        // SAFETY: the range is a mapping of that size, which lives as long as the VM: both until
        // the process ends, since devices and vCPUs hold the memory.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(BuildError::kvm("give the machine its memory"))?;
    }
    Ok(())
}
