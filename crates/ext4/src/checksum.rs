//! CRC-32C as ext4 uses it: a running value without the usual final inversion.

/// A checksum in progress. Every checksum of a file system starts from its UUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Checksum(u32);

impl Checksum {
    /// A checksum that starts from nothing, as the superblock's does.
    pub(crate) fn new() -> Self {
        Self(!0)
    }

    /// What all checksums of a file system but the superblock's start from.
    pub(crate) fn seed(uuid: &[u8; 16]) -> Self {
        Self::new().with(uuid)
    }

    /// What all checksums that belong to an inode start from. Generations are always 0 here.
    pub(crate) fn inode(self, number: u32) -> Self {
        self.with(&number.to_le_bytes()).with(&[0; 4])
    }

    /// Adds `bytes`.
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        Self(!crc32c::crc32c_append(!self.0, bytes))
    }

    /// The value.
    pub(crate) fn get(self) -> u32 {
        self.0
    }

    /// Its lower half.
    pub(crate) fn low(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Its upper half.
    pub(crate) fn high(self) -> u16 {
        (self.0 >> 16) as u16
    }
}
