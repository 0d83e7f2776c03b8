//! How a pull or an import tells what it is doing.

use std::{future::Future, pin::pin};

use costrel_store::Digest;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// How a blob came to be in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobOutcome {
    /// It was transferred now, whole and verified.
    Fetched,
    /// It was there already, or another process brought it meanwhile.
    Cached,
}

/// Hears of the progress of a pull or an import. Blobs run in parallel, so that their calls
/// interleave. All calls come from the task that awaits the pull.
pub trait PullProgress: Send + Sync {
    /// The transfer of a blob of `size` bytes starts.
    fn blob_started(&self, digest: &Digest, size: u64);
    /// `bytes` of the blob have arrived in all: less than before where a transfer starts anew.
    fn blob_advanced(&self, digest: &Digest, bytes: u64);
    /// The blob is in the store. Comes without [`Self::blob_started`] for a cached one.
    fn blob_finished(&self, digest: &Digest, outcome: BlobOutcome);
    /// Something that the user may want to know: a retry, a credential helper that failed.
    fn note(&self, text: &str);
}

/// Progress that nobody watches.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoProgress;

impl PullProgress for NoProgress {
    fn blob_started(&self, _digest: &Digest, _size: u64) {}
    fn blob_advanced(&self, _digest: &Digest, _bytes: u64) {}
    fn blob_finished(&self, _digest: &Digest, _outcome: BlobOutcome) {}
    fn note(&self, _text: &str) {}
}

enum Event {
    Started(Digest, u64),
    Advanced(Digest, u64),
    Finished(Digest, BlobOutcome),
    Note(String),
}

/// The end of the channel that worker threads hold. [`PullProgress`] itself is borrowed and
/// stays with the task that awaits them.
#[derive(Clone)]
pub(crate) struct Reporter(UnboundedSender<Event>);

pub(crate) struct Events(UnboundedReceiver<Event>);

pub(crate) fn channel() -> (Reporter, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Reporter(sender), Events(receiver))
}

impl Reporter {
    fn send(&self, event: Event) {
        // Nobody listens any more once the pull was given up.
        let _ = self.0.send(event);
    }

    pub(crate) fn started(&self, digest: Digest, size: u64) {
        self.send(Event::Started(digest, size));
    }

    pub(crate) fn advanced(&self, digest: Digest, bytes: u64) {
        self.send(Event::Advanced(digest, bytes));
    }

    pub(crate) fn finished(&self, digest: Digest, outcome: BlobOutcome) {
        self.send(Event::Finished(digest, outcome));
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        self.send(Event::Note(text.into()));
    }
}

impl Events {
    /// Awaits `work` and meanwhile passes its events on.
    pub(crate) async fn relay<T>(
        mut self,
        progress: &dyn PullProgress,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                Some(event) = self.0.recv() => event.tell(progress),
                result = &mut work => {
                    while let Ok(event) = self.0.try_recv() {
                        event.tell(progress);
                    }
                    return result;
                }
            }
        }
    }
}

impl Event {
    fn tell(self, progress: &dyn PullProgress) {
        match self {
            Self::Started(digest, size) => progress.blob_started(&digest, size),
            Self::Advanced(digest, bytes) => progress.blob_advanced(&digest, bytes),
            Self::Finished(digest, outcome) => progress.blob_finished(&digest, outcome),
            Self::Note(text) => progress.note(&text),
        }
    }
}
