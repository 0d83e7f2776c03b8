//! Snapshots of virtual machines on disk.
//!
//! ```text
//! snapshots/KEY/manifest     what it is of, and the checksums of the others
//!              /state        virtual CPUs and devices, in the backend's form
//!              /memory       the guest's memory, sparse
//!              /scratch      the disk that it could write to, sparse
//!              /verified     when the others were last read and found as they should be
//! ```
//! A snapshot is found by its [`SnapshotKey`]: all that a machine depends on which goes on from it.
//! It is made once ([`SnapshotStore::begin`]), appears complete or not at all, and is checked before
//! each use ([`SnapshotStore::find`]): one that is not as it was written, or not of what it should
//! be of, is refused with the reason and thrown away.
//!
//! # Invariants
//! - Nothing here waits for another process: who finds a snapshot being made goes without.
//! - Memory and environment of a function may hold secrets: directories have mode 0700, files 0600.
//! - Contents are read as a whole once after each start of the host, or when a file's change time
//!   says that somebody touched it; in between, that time and the length vouch for them.

mod checksum;
mod error;
mod key;
mod manifest;
mod seal;
mod sparse;
mod store;

pub use error::{Refusal, SnapshotError};
pub use key::{Fact, SnapshotKey};
pub use sparse::copy_sparse;
pub use store::{Found, Snapshot, SnapshotDraft, SnapshotInfo, SnapshotStore};
