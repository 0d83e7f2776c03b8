//! What can go wrong while a disk is staged.

use std::{io, path::PathBuf};

use costrel_ext4::WriteError;
use costrel_store::{CreateError, Digest, StoreError};

use crate::{LayerError, path::EntryError};

/// Why a disk could not be staged. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The cache's directory failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk's image could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// There is no room for the image.
    #[error("no space is left for {}", path.display())]
    NoSpace {
        /// The image.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: WriteError,
    },
    /// The staged disk is damaged, and in use, so that it cannot be staged again.
    #[error("{} is damaged, and another process uses it", path.display())]
    Damaged {
        /// The image.
        path: PathBuf,
    },
    /// A layer cannot be opened.
    #[error("cannot open layer {}", path.display())]
    OpenLayer {
        /// Its blob.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A layer cannot be put on those below it.
    #[error("layer {number} of {count} ({}) cannot be staged", path.display())]
    Layer {
        /// Which one, counted from 1.
        number: usize,
        /// How many there are.
        count: usize,
        /// Its blob.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// A layer's content is not what the image says it is.
    #[error("layer {} is damaged: its content is {actual}, but the image says {expected}", path.display())]
    DiffId {
        /// Its blob.
        path: PathBuf,
        /// The digest in the image's configuration.
        expected: Digest,
        /// The digest of what is there.
        actual: Digest,
    },
    /// More layers than can be counted.
    #[error("{0} layers are too many")]
    TooManyLayers(usize),
    /// The agent's binary cannot be read.
    #[error("cannot read the agent {}", path.display())]
    Agent {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A function's code or layer cannot be staged.
    #[error("cannot stage {}", path.display())]
    Code {
        /// The directory or zip file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CodeError,
    },
    /// A scratch disk cannot be made.
    #[error("cannot make the disk {}", path.display())]
    Scratch {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// A scratch disk's file cannot be made.
    #[error("cannot create {}", path.display())]
    CreateScratch {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with a function's code, or with a layer of it.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// It is not a zip file, or a damaged one.
    #[error("it is not a sound zip file")]
    Zip(#[source] zip::result::ZipError),
    /// It is neither a directory nor a zip file.
    #[error("it is neither a directory nor a zip file")]
    Kind,
    /// An entry of it cannot be honoured.
    #[error("the entry {name:?} cannot be honoured")]
    Entry {
        /// Its path within.
        name: String,
        /// Why not.
        #[source]
        source: EntryError,
    },
    /// An entry of it cannot be read.
    #[error("the entry {name:?} cannot be read")]
    ReadEntry {
        /// Its path within.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An entry of a zip file cannot be unpacked.
    #[error("the entry {name:?} cannot be unpacked")]
    Unpack {
        /// Its path within.
        name: String,
        /// Why not.
        #[source]
        source: zip::result::ZipError,
    },
    /// Code and layers together are larger than they may be.
    #[error("with the entry {name:?}, code and layers exceed {limit} bytes unpacked")]
    TooLarge {
        /// The entry with which the limit was exceeded.
        name: String,
        /// The limit.
        limit: u64,
    },
    /// It changed while it was read.
    #[error("it changed while it was read")]
    Changed,
    /// The image cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<CreateError<Self>> for StageError {
    fn from(error: CreateError<Self>) -> Self {
        match error {
            CreateError::Store(error) => Self::Store(error),
            CreateError::Writer(error) => error,
        }
    }
}

impl StageError {
    /// Says it plainly if the error, however deep, is that the device is full.
    pub(crate) fn at(self, path: &std::path::Path) -> Self {
        match self {
            Self::Write(source)
            | Self::Layer { source: LayerError::Write(source), .. }
            | Self::Code { source: CodeError::Write(source), .. }
                if is_full(&source) =>
            {
                Self::NoSpace { path: path.to_owned(), source }
            }
            other => other,
        }
    }
}

fn is_full(error: &WriteError) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, WriteError::Io { source, .. }
        if matches!(source.kind(), StorageFull | QuotaExceeded))
}
