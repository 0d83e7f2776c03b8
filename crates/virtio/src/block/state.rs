//! What is saved of a disk.

use serde::{Deserialize, Serialize};

/// What a disk was, by which to tell that another is not it. Between requests, which is when a
/// machine stands still, a disk has no state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlockState {
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether the guest could write.
    pub writable: bool,
}
