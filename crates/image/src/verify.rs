//! Reading everything again, to find out whether the disk still holds what was put there.

use std::{
    fs::File,
    io::{self, Read},
};

use costrel_store::{Digest, EntryName, Hasher};

use crate::{Image, ImageStore, Layer, LocalError};

/// What is wrong with a blob.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Its content has changed since it was stored.
    #[error("the blob {digest} is damaged: it has the digest {found}")]
    Content {
        /// The blob.
        digest: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// It cannot be read.
    #[error("the blob {digest} cannot be read")]
    Unreadable {
        /// The blob.
        digest: Digest,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The layer is what the registry has, but its tar is not what the image says.
    #[error("the layer {digest} unpacks to {found}, the image says {wanted}")]
    DiffId {
        /// The layer.
        digest: Digest,
        /// The digest of the tar by the image's configuration.
        wanted: Digest,
        /// The digest of the tar.
        found: Digest,
    },
    /// The layer is what the registry has, but its compression is broken.
    #[error("the layer {digest} cannot be unpacked")]
    Unpack {
        /// The layer.
        digest: Digest,
        /// What the decompressor says.
        #[source]
        source: io::Error,
    },
}

impl Damage {
    /// The blob that is meant.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Content { digest, .. }
            | Self::Unreadable { digest, .. }
            | Self::DiffId { digest, .. }
            | Self::Unpack { digest, .. } => *digest,
        }
    }

    /// Whether fetching the blob again helps.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Content { .. } | Self::Unreadable { .. })
    }
}

impl ImageStore {
    /// Reads all blobs in the store, and throws those away that are damaged, so that the next
    /// pull fetches them again. Those in use are reported only. Blocks while it reads.
    ///
    /// # Errors
    /// [`LocalError`] if the store cannot be listed, or a damaged blob not be removed.
    pub fn verify(&self) -> Result<Vec<Damage>, LocalError> {
        let mut damages = Vec::new();
        for entry in self.inner.blobs.entries()? {
            let Ok(digest) = format!("sha256:{}", entry.name).parse::<Digest>() else { continue };
            let Some(lease) = self.inner.blobs.get(&EntryName::of_digest(&digest))? else {
                continue;
            };
            let found = File::open(lease.path()).and_then(digest_of);
            drop(lease);
            let damage = match found {
                Ok(found) if found == digest => continue,
                Ok(found) => Damage::Content { digest, found },
                Err(source) => Damage::Unreadable { digest, source },
            };
            self.forget_blob(digest)?;
            damages.push(damage);
        }
        Ok(damages)
    }

    /// Unpacks all layers of `image`, to nowhere, and compares them with what its configuration
    /// says. Blocks while it does.
    #[must_use]
    pub fn verify_layers(&self, image: &Image) -> Vec<Damage> {
        image.layers.iter().filter_map(|layer| verify_layer(layer).err()).collect()
    }
}

fn verify_layer(layer: &Layer) -> Result<(), Damage> {
    let digest = layer.digest;
    let found =
        layer.tar().and_then(digest_of).map_err(|source| Damage::Unpack { digest, source })?;
    if found == layer.diff_id {
        return Ok(());
    }
    Err(Damage::DiffId { digest, wanted: layer.diff_id, found })
}

fn digest_of(mut reader: impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
