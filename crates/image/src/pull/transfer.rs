//! The blobs of an image, several at a time.

use std::time::Duration;

use costrel_store::{CreateError, Digest, EntryName, Lease};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{Pull, PullError};
use crate::{
    BlobOutcome, ImageStore, LocalError,
    manifest::Blob,
    progress::Reporter,
    registry::{self, BlobError, Registry},
};

/// After so long without a lock it is worth a note.
const PATIENCE: Duration = Duration::from_secs(1);

impl Pull {
    /// Takes leases on the blobs, transferring those that are missing, several at a time.
    pub(super) async fn fetch(&mut self, blobs: Vec<Blob>) -> Result<(), PullError> {
        let mut waiting = Vec::new();
        for blob in blobs {
            if !waiting.contains(&blob) {
                waiting.push(blob);
            }
        }
        waiting.reverse();
        let parallel = self.store.inner.settings.registry.parallel_downloads.max(1);
        // Dropping the sender, here or with the whole pull, ends all transfers.
        let (proceed, abandoned) = watch::channel(());
        let mut running = JoinSet::new();
        let mut failure = None;
        loop {
            while failure.is_none()
                && running.len() < parallel
                && let Some(blob) = waiting.pop()
            {
                let (store, registry) = (self.store.clone(), self.registry.clone());
                let (reporter, abandoned) = (self.reporter.clone(), abandoned.clone());
                let handle = Handle::current();
                running.spawn_blocking(move || {
                    (blob, fetch_blob(&store, &registry, blob, &reporter, abandoned, &handle))
                });
            }
            match running.join_next().await {
                None => break,
                Some(Ok((_, Ok(lease)))) => self.leases.push(lease),
                Some(Ok((blob, Err(error)))) => {
                    // The others stop, and are waited for, so that nothing of them is left.
                    failure.get_or_insert((blob, error));
                    let _ = proceed.send(());
                }
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        match failure {
            None => Ok(()),
            Some((_, CreateError::Store(error))) => Err(error.into()),
            Some((blob, CreateError::Writer(BlobError::Write(source)))) => {
                let path = self.store.blob_path(&blob.digest);
                Err(LocalError::Io { operation: "write", path, source }.into())
            }
            Some((blob, CreateError::Writer(source))) => Err(PullError::Blob {
                reference: self.reference.clone(),
                digest: blob.digest,
                registry: self.registry.host().to_owned(),
                source: Box::new(source),
            }),
        }
    }
}

/// On a thread of its own: waits for locks, hashes and writes.
fn fetch_blob(
    store: &ImageStore,
    registry: &Registry,
    blob: Blob,
    reporter: &Reporter,
    mut abandoned: watch::Receiver<()>,
    handle: &Handle,
) -> Result<Lease, CreateError<BlobError>> {
    let damaged = |error| match error {
        LocalError::Store(error) => CreateError::Store(error),
        LocalError::Io { source, .. } => CreateError::Writer(BlobError::Write(source)),
    };
    let waiting = AbortOnDrop(handle.spawn(note_waiting(reporter.clone(), blob.digest)));
    // Throws one of the wrong length away.
    let cached = store.lease(blob).map_err(damaged)?;
    let lease = match cached {
        Some(lease) => lease,
        None => store.inner.blobs.get_or_create(&EntryName::of_digest(&blob.digest), |draft| {
            waiting.0.abort();
            handle.block_on(async {
                tokio::select! {
                    biased;
                    _ = abandoned.changed() => Err(BlobError::Abandoned),
                    result = registry::fetch(registry, blob, draft.file()) => result,
                }
            })
        })?,
    };
    let outcome = if lease.created() { BlobOutcome::Fetched } else { BlobOutcome::Cached };
    reporter.finished(blob.digest, outcome);
    Ok(lease)
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn note_waiting(reporter: Reporter, digest: Digest) {
    tokio::time::sleep(PATIENCE).await;
    reporter.note(format!("{digest}: waiting for another process that fetches it"));
}
