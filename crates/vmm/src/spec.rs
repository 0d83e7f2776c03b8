//! What a virtual machine is made of.

use std::{fmt, path::PathBuf};

use crate::BootError;

/// A virtual machine to boot. The first disk is the kernel's root file system, `/dev/vda`.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// How many virtual CPUs.
    pub vcpus: VcpuCount,
    /// How much memory.
    pub memory: Memory,
    /// The kernel, an ELF `vmlinux` with a PVH note.
    pub kernel: KernelImage,
    /// Kernel arguments beyond those that the backend itself needs (console, clock, devices): each
    /// of printable ASCII without spaces and quotes, which would make it several, or part of another.
    pub kernel_arguments: Vec<String>,
    /// Block devices, in the order in which the guest names them: `vda`, `vdb`, ….
    pub disks: Vec<Disk>,
    /// The guest ports that [`crate::Machine::dial`] may reach.
    pub ports: Vec<GuestPort>,
    /// Whether the machine will be saved.
    pub saving: Saving,
    /// Where the guest's serial console goes.
    pub console: Console,
    /// A directory of this machine's own for sockets and the like; the owner removes it.
    pub directory: PathBuf,
}

/// A kernel image on the host.
#[derive(Clone, Debug)]
pub struct KernelImage {
    /// Its path.
    pub path: PathBuf,
}

/// A number of virtual CPUs, 1 to 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuCount(u8);

/// An amount of guest memory in MiB, 64 MiB to 64 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Memory(u32);

/// A raw disk image on the host, as a virtio block device.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What the guest finds the disk by (its virtio serial number).
    pub name: DiskName,
    /// The image.
    pub path: PathBuf,
    /// Whether the guest may write.
    pub access: DiskAccess,
}

/// Whether the guest may write to a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskAccess {
    /// Any number of machines may use the image at once.
    ReadOnly,
    /// The image is this machine's alone, and what is written is safe once the guest has flushed.
    ReadWrite,
    /// The image is this machine's alone, and does not outlive it: a flush does nothing.
    Scratch,
}

/// The serial number of a disk: 1 to 20 ASCII letters, digits and `-` (20 is virtio-blk's limit).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskName(String);

/// A port in the guest that its agent listens on: a vsock port, or a virtio-serial port of that
/// number's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GuestPort(pub u32);

/// Whether a machine will be saved ([`crate::Machine::saver`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saving {
    /// It cannot be.
    Never,
    /// It can be. Where the backend needs memory of another kind for that, it boots slower.
    Expected,
}

/// Where the serial console's output goes.
#[derive(Clone, Debug)]
pub struct Console {
    /// The log file. It keeps the first and the last part of what the guest prints.
    pub path: PathBuf,
    /// The most it may hold, in bytes.
    pub limit: u64,
}

/// A value that no machine can have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not between 1 and 16.
    #[error("{0} vCPUs: the number must be between 1 and 16")]
    Vcpus(u32),
    /// Not between 64 MiB and 64 GiB.
    #[error("{0} MiB of guest memory: it must be between 64 and 65536 MiB")]
    Memory(u64),
    /// Not of the form that [`DiskName`] describes.
    #[error("{0:?} cannot be a disk's serial number")]
    DiskName(String),
}

impl MachineSpec {
    /// Looks at what the types leave open. Backends do so before they start anything.
    ///
    /// # Errors
    /// [`BootError::KernelArgument`].
    pub fn check(&self) -> Result<(), BootError> {
        let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'');
        let is_word = |argument: &&String| !argument.is_empty() && argument.bytes().all(fits);
        match self.kernel_arguments.iter().find(|argument| !is_word(argument)) {
            Some(argument) => Err(BootError::KernelArgument { argument: argument.clone() }),
            None => Ok(()),
        }
    }
}

impl VcpuCount {
    /// One virtual CPU.
    pub const ONE: Self = Self(1);

    /// Checks the number.
    ///
    /// # Errors
    /// [`SpecError::Vcpus`].
    pub fn new(count: u32) -> Result<Self, SpecError> {
        u8::try_from(count)
            .ok()
            .filter(|count| (1..=16).contains(count))
            .map(Self)
            .ok_or(SpecError::Vcpus(count))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Memory {
    /// Checks an amount in MiB.
    ///
    /// # Errors
    /// [`SpecError::Memory`].
    pub fn mib(mib: u64) -> Result<Self, SpecError> {
        u32::try_from(mib)
            .ok()
            .filter(|mib| (64..=65536).contains(mib))
            .map(Self)
            .ok_or(SpecError::Memory(mib))
    }

    /// The amount in MiB.
    #[must_use]
    pub fn as_mib(self) -> u32 {
        self.0
    }

    /// The amount in bytes.
    #[must_use]
    pub fn as_bytes(self) -> u64 {
        u64::from(self.0) << 20
    }
}

impl DiskName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`SpecError::DiskName`].
    pub fn new(name: impl Into<String>) -> Result<Self, SpecError> {
        let name = name.into();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if (1..=20).contains(&name.len()) && name.bytes().all(fits) {
            Ok(Self(name))
        } else {
            Err(SpecError::DiskName(name))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GuestPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(VcpuCount::new(0), Err(SpecError::Vcpus(0)));
        assert_eq!(VcpuCount::new(17), Err(SpecError::Vcpus(17)));
        assert_eq!(VcpuCount::new(16).unwrap().get(), 16);
        assert_eq!(Memory::mib(63), Err(SpecError::Memory(63)));
        assert_eq!(Memory::mib(64).unwrap().as_bytes(), 64 << 20);
        assert!(Memory::mib(1 << 40).is_err());
        assert!(DiskName::new("scratch").is_ok());
        assert!(DiskName::new("").is_err());
        assert!(DiskName::new("a,b=c").is_err(), "must not reach a command line");
        assert!(DiskName::new("x".repeat(21)).is_err());
    }
}
