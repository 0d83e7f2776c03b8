//! Why images cannot be imported.

use std::{io, path::PathBuf};

use costrel_store::{Digest, StoreError};

use crate::{LocalError, ManifestError, PullError};

/// Why an image cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file or directory cannot be read, or is no tar.
    #[error("cannot read {} as an image", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// Neither kind of image is in it.
    #[error(
        "{} is neither an OCI layout (it has no index.json) nor a docker archive (it has no \
         manifest.json)",
        path.display()
    )]
    NoImage {
        /// The file or directory.
        path: PathBuf,
    },
    /// A file that the image refers to is missing.
    #[error("{} lacks {member}", path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
        /// The file within.
        member: String,
    },
    /// The image that was asked for is not among those that are there.
    #[error("{} has no image {wanted:?}, but {}", path.display(), there.join(", "))]
    NoSuchImage {
        /// The file or directory.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// The names that are there.
        there: Vec<String>,
    },
    /// One image was asked for, and there are several.
    #[error("{} has several images: choose one of {}", path.display(), there.join(", "))]
    Several {
        /// The file or directory.
        path: PathBuf,
        /// The names that are there.
        there: Vec<String>,
    },
    /// The image cannot be used.
    #[error("cannot use the image {name} in {}", path.display())]
    Manifest {
        /// The file or directory.
        path: PathBuf,
        /// The image's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Box<ManifestError>,
    },
    /// A blob is not what its digest says.
    #[error("the blob {wanted} in {} is damaged: it has the digest {found}", path.display())]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// The digest that it should have.
        wanted: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// A blob cannot be copied.
    #[error("cannot copy the blob {digest} from {}", path.display())]
    Copy {
        /// The file or directory.
        path: PathBuf,
        /// The blob.
        digest: Digest,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Local(#[from] LocalError),
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::Local(error.into())
    }
}

/// Why [`ImageStore::obtain`] has no image.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// From a registry.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// From a layout or an archive.
    #[error(transparent)]
    Import(#[from] ImportError),
}
