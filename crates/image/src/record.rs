//! What a name stands for: the small files that lead from a reference to an image's blobs.

use costrel_store::{Digest, EntryName, Hasher};
use serde::{Deserialize, Serialize};

use crate::{Compression, Platform, Reference, manifest::Blob};

/// A name in the store and the image that it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageRecord {
    /// The name.
    pub reference: Reference,
    /// The digest of the image's manifest.
    pub manifest_digest: Digest,
    /// What the name led to: this manifest, or the index that it was chosen from.
    pub target_digest: Digest,
    /// The digest of its configuration, docker's "image id".
    pub config_digest: Digest,
    /// What it is built for.
    pub platform: Platform,
    /// Its number of layers.
    pub layers: usize,
    /// What its blobs occupy, in bytes, including those that other images share.
    pub size: u64,
    /// When it was built, as RFC 3339 has it.
    pub created: Option<String>,
    /// When the name was last made to stand for it, in seconds since 1970.
    pub pulled: u64,
}

/// [`ImageRecord`] as it is written, with all that is needed to use the image.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) reference: Reference,
    /// What was asked for, which finds the record again.
    pub(crate) wanted: Platform,
    pub(crate) platform: Platform,
    pub(crate) target: Digest,
    pub(crate) manifest: Blob,
    pub(crate) config: Blob,
    pub(crate) layers: Vec<LayerRecord>,
    pub(crate) created: Option<String>,
    pub(crate) pulled: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    #[serde(flatten)]
    pub(crate) blob: Blob,
    pub(crate) diff_id: Digest,
    pub(crate) compression: Compression,
}

impl Record {
    /// Names are longer than file names may be, and have other letters.
    pub(crate) fn entry_name(reference: &Reference, wanted: &Platform) -> EntryName {
        let mut hasher = Hasher::new();
        hasher.field(reference.to_string().as_bytes());
        hasher.field(wanted.to_string().as_bytes());
        EntryName::of_digest(&hasher.finish())
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = Blob> {
        [self.manifest, self.config].into_iter().chain(self.layers.iter().map(|layer| layer.blob))
    }

    /// Whether this is what `reference` means: by name, or by digest in the same repository.
    pub(crate) fn answers(&self, reference: &Reference) -> bool {
        let same_repository = || {
            self.reference.registry() == reference.registry()
                && self.reference.repository() == reference.repository()
        };
        self.reference == *reference
            || reference.digest().is_some_and(|digest| {
                (digest == self.target || digest == self.manifest.digest) && same_repository()
            })
    }

    /// Whether the two differ in nothing but the time at which they were written.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        *self == Self { pulled: self.pulled, ..other.clone() }
    }

    pub(crate) fn summary(&self) -> ImageRecord {
        ImageRecord {
            reference: self.reference.clone(),
            manifest_digest: self.manifest.digest,
            target_digest: self.target,
            config_digest: self.config.digest,
            platform: self.platform.clone(),
            layers: self.layers.len(),
            size: self.blobs().map(|blob| blob.size).sum(),
            created: self.created.clone(),
            pulled: self.pulled,
        }
    }
}
