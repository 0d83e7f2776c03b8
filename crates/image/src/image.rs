//! An image in the store, ready to be unpacked.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use costrel_store::{Digest, Lease};
use serde::{Deserialize, Serialize};

use crate::{ImageConfig, Platform, Reference};

/// An image whose blobs are all in the store, and stay there until this and its clones are
/// dropped.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name that it was asked for by.
    pub reference: Reference,
    /// What it is built for.
    pub platform: Platform,
    /// The digest of its manifest. What it contains depends on this alone.
    pub manifest_digest: Digest,
    /// The digest of its configuration, docker's "image id".
    pub config_digest: Digest,
    /// The manifest's file, JSON.
    pub manifest_path: PathBuf,
    /// The configuration's file, JSON.
    pub config_path: PathBuf,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    // Held for their locks.
    pub(crate) _leases: Arc<[Lease]>,
}

/// A layer: a tar, compressed or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// The digest of the file as it is stored.
    pub digest: Digest,
    /// The digest of the tar in it, by the image's word: whoever unpacks it compares, and calls
    /// [`crate::ImageStore::forget_blob`] if it differs.
    pub diff_id: Digest,
    /// How the tar is compressed.
    pub compression: Compression,
    /// The file.
    pub path: PathBuf,
    /// The file's length in bytes.
    pub size: u64,
}

/// How a layer is compressed, by its first bytes: as docker and podman, which builders rely on,
/// the media type is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, of one member or many.
    Gzip,
    /// zstd, of one frame or many.
    Zstd,
}

impl Compression {
    /// How content that starts with `bytes` (four, if there are as many) is compressed.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // zstd's skippable frames, which may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let mut start = Vec::with_capacity(4);
        File::open(path)?.take(4).read_to_end(&mut start)?;
        Ok(Self::detect(&start))
    }

    /// The content of `compressed`, unpacked: every gzip member, every zstd frame.
    ///
    /// # Errors
    /// If the decompressor cannot be made.
    pub fn reader<'a>(
        self,
        compressed: impl io::BufRead + Send + 'a,
    ) -> io::Result<Box<dyn io::Read + Send + 'a>> {
        Ok(match self {
            Self::Plain => Box::new(compressed),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(compressed)?),
        })
    }
}

impl Layer {
    /// The layer's tar, unpacked as it is read.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn tar(&self) -> io::Result<Box<dyn io::Read + Send>> {
        self.compression.reader(io::BufReader::with_capacity(128 << 10, File::open(&self.path)?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn unpacked(bytes: &[u8]) -> String {
        let mut text = String::new();
        Compression::detect(bytes).reader(bytes).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn unpacks_every_member_and_frame() {
        let gzip = |text: &str| {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            writer.write_all(text.as_bytes()).unwrap();
            writer.finish().unwrap()
        };
        let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
        assert_eq!(unpacked(b"plain"), "plain");
        assert_eq!(unpacked(b""), "");
        assert_eq!(unpacked(&[gzip("one "), gzip("two")].concat()), "one two");
        assert_eq!(unpacked(&[zstd("one "), zstd("two")].concat()), "one two");
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        assert_eq!(unpacked(&[&skippable[..], &zstd("text")].concat()), "text");
    }
}
