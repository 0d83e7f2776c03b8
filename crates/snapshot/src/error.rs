//! What goes wrong with snapshots.

use std::{io, path::PathBuf};

use costrel_store::StoreError;

/// A failure of the file system under the snapshots.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be used.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a snapshot is not used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Its manifest says nothing that could be understood.
    #[error("its manifest is damaged")]
    Manifest,
    /// It was written in another form than this program reads.
    #[error("its format is {found}, and this program reads {known}")]
    Format {
        /// The snapshot's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It is of something else than it should be.
    #[error("it was taken with another {fact}: {found}, not {wanted}")]
    Foreign {
        /// In what they differ: `kernel`, `processor`, ….
        fact: String,
        /// The snapshot's.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// One of its files is not there, or cannot be read.
    #[error("its {file} file cannot be read: {reason}")]
    Unreadable {
        /// Which: `memory`, ….
        file: &'static str,
        /// What the system said.
        reason: String,
    },
    /// One of its files has another length than it was written with.
    #[error("its {file} file has {found} bytes instead of {wanted}")]
    Length {
        /// Which: `memory`, ….
        file: &'static str,
        /// Its length.
        found: u64,
        /// What it should be.
        wanted: u64,
    },
    /// The content of one of its files is not what was written.
    #[error("its {file} file is damaged: the checksum is wrong")]
    Checksum {
        /// Which: `memory`, ….
        file: &'static str,
    },
}

pub(crate) fn at(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.into();
    move |source| SnapshotError::Io { operation, path, source }
}
