//! Staging that nobody watches.

use costrel_image::{BlobOutcome, PullProgress};
use costrel_rootfs::StageProgress;
use costrel_store::Digest;

/// A [`crate::StageReporter`] that reports to nobody.
#[derive(Clone, Copy, Default, Debug)]
pub struct Silent;

impl PullProgress for Silent {
    fn blob_started(&self, _digest: &Digest, _size: u64) {}
    fn blob_advanced(&self, _digest: &Digest, _bytes: u64) {}
    fn blob_finished(&self, _digest: &Digest, _outcome: BlobOutcome) {}
    fn note(&self, _text: &str) {}
}

impl StageProgress for Silent {
    fn started(&self, _what: &str, _total_bytes: Option<u64>) {}
    fn advanced(&self, _bytes: u64) {}
    fn finished(&self) {}
}
