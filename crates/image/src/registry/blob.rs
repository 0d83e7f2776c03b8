//! The transfer of a blob into a file: verified as it streams, resumed where it broke off.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
};

use costrel_store::{Digest, Hasher};
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};

use super::{Registry, RegistryError, error::transport};
use crate::manifest::Blob;

/// Why a blob cannot be transferred. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registry gives something else.
    #[error("the content has the digest {found}")]
    Digest {
        /// The digest of what it gives.
        found: Digest,
    },
    /// The registry gives more than the manifest says.
    #[error("the content is longer than the {size} bytes that the manifest says")]
    TooLong {
        /// The length by the manifest, in bytes.
        size: u64,
    },
    /// The registry gives less than the manifest says, again and again.
    #[error("the content ends after {found} of {size} bytes")]
    TooShort {
        /// What it gives, in bytes.
        found: u64,
        /// The length by the manifest, in bytes.
        size: u64,
    },
    /// It cannot be written.
    #[error("cannot write it")]
    Write(#[from] io::Error),
    /// Another blob of the image failed, or the pull was given up.
    #[error("the transfer was given up")]
    Abandoned,
}

/// A blob on its way: the bytes so far are in the file and in the hasher.
struct Transfer<'a> {
    registry: &'a Registry,
    blob: Blob,
    file: &'a mut File,
    hasher: Hasher,
    position: u64,
}

/// Fetches the blob into `file`, which is empty.
///
/// Hashes and writes as it goes: for a thread where that may block.
pub(crate) async fn fetch(
    registry: &Registry,
    blob: Blob,
    file: &mut File,
) -> Result<(), BlobError> {
    let mut transfer = Transfer { registry, blob, file, hasher: Hasher::new(), position: 0 };
    registry.reporter.started(blob.digest, blob.size);
    let mut whole_again = true;
    let mut attempt = 0;
    loop {
        let before = transfer.position;
        let cut = match transfer.advance().await {
            Ok(()) => match transfer.verify() {
                // Line noise, or a resumed transfer that does not fit: once from the start.
                Err(error @ BlobError::Digest { .. }) if whole_again => {
                    whole_again = false;
                    registry.reporter.note(format!("{}: {error}: once more", blob.digest));
                    transfer.restart()?;
                    continue;
                }
                result => return result,
            },
            Err(BlobError::Registry(error)) if error.may_pass() => BlobError::Registry(error),
            Err(error @ BlobError::TooShort { .. }) => error,
            Err(error) => return Err(error),
        };
        // As long as something arrives it goes on.
        attempt = if transfer.position > before { 1 } else { attempt + 1 };
        if attempt >= registry.retry.attempts {
            return Err(cut);
        }
        registry.pause(attempt, &format!("{}: {cut}", blob.digest)).await;
    }
}

impl Transfer<'_> {
    /// Takes what comes until the blob is complete or the connection ends.
    async fn advance(&mut self) -> Result<(), BlobError> {
        if self.position == self.blob.size && self.position > 0 {
            return Ok(());
        }
        let mut response = self.registry.blob(&self.blob.digest, self.position).await?;
        if self.position > 0 && !continues(&response, self.position) {
            self.restart()?;
            if response.status() != StatusCode::OK {
                response = self.registry.blob(&self.blob.digest, 0).await?;
            }
        }
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Err(transport(self.registry.host(), error).into()),
            };
            self.position += chunk.len() as u64;
            if self.position > self.blob.size {
                return Err(BlobError::TooLong { size: self.blob.size });
            }
            self.hasher.update(&chunk);
            self.file.write_all(&chunk)?;
            self.registry.reporter.advanced(self.blob.digest, self.position);
        }
        if self.position < self.blob.size {
            return Err(BlobError::TooShort { found: self.position, size: self.blob.size });
        }
        Ok(())
    }

    fn verify(&self) -> Result<(), BlobError> {
        let found = self.hasher.clone().finish();
        if found == self.blob.digest { Ok(()) } else { Err(BlobError::Digest { found }) }
    }

    fn restart(&mut self) -> Result<(), BlobError> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = Hasher::new();
        self.position = 0;
        self.registry.reporter.advanced(self.blob.digest, 0);
        Ok(())
    }
}

/// Whether the answer is what follows the first `position` bytes.
fn continues(response: &Response, position: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.and_then(range_start) == Some(position)
}

fn range_start(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_ranges() {
        assert_eq!(range_start("bytes 100-199/200"), Some(100));
        assert_eq!(range_start("bytes 0-/*"), Some(0));
        assert_eq!(range_start("items 1-2"), None);
        assert_eq!(range_start(""), None);
    }
}
