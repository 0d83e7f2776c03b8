//! Disks that are staged, and what the cache holds of them.

use std::path::{Path, PathBuf};

use costrel_store::{Digest, EntryInfo, EntryName, Lease};

/// A read-only disk in the cache. It stays there until this is dropped.
#[derive(Debug)]
pub struct StagedDisk {
    pub(crate) lease: Lease,
    pub(crate) key: Digest,
}

/// What a staged disk is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StagedKind {
    /// An image's layers.
    Image,
    /// A function's code and layers.
    Function,
    /// The agent's.
    Init,
}

/// A disk in the cache, as [`Stager::entries`](crate::Stager::entries) lists it.
#[derive(Clone, Debug)]
pub struct StagedEntry {
    /// What it is.
    pub kind: StagedKind,
    /// Its name in the cache.
    pub name: EntryName,
    /// Its path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub apparent_size: u64,
    /// What it occupies on the host's disk, in bytes.
    pub allocated_size: u64,
}

impl StagedDisk {
    /// The disk image, an ext4 file system.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.lease.path()
    }

    /// What the disk is found by: another disk with this key has the same content.
    #[must_use]
    pub fn key(&self) -> &Digest {
        &self.key
    }

    /// Whether this call staged the disk (and did not find it in the cache).
    #[must_use]
    pub fn built(&self) -> bool {
        self.lease.created()
    }
}

impl StagedEntry {
    pub(crate) fn new(kind: StagedKind, info: EntryInfo) -> Self {
        Self {
            kind,
            name: info.name,
            path: info.path,
            apparent_size: info.apparent_size,
            allocated_size: info.allocated_size,
        }
    }
}
