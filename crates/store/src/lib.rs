//! Entries on disk that are written once, whole or not at all, by any number of processes.
//!
//! A [`Store`] is a directory. An entry is a file in it that appears under its name complete and
//! synced, or not at all: it is written to a temporary name under an exclusive lock and renamed. An
//! entry of several files is a directory, made the same way ([`DirectoryDraft`]).
//! Whoever uses an entry holds a [`Lease`], a shared lock, so that nobody removes it meanwhile.
//! Locks are `flock`s, which the kernel drops when their process dies; what a killed process
//! left half-written is swept by [`Store::sweep`].
//!
//! What is in a store can also be used where nothing can be written: on a read-only file system,
//! without the permission, or with the disk full.

mod digest;
mod directory;
mod draft;
mod entry;

pub use digest::{Digest, DigestError, Hasher};
pub use directory::DirectoryDraft;
pub use draft::Draft;
pub use entry::{CreateError, EntryInfo, EntryName, Lease, Removal, Store, StoreError};
