//! The queue as its users see it.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{Event, EventRunner};

/// A durable queue of events. A clone is another handle to the same.
#[derive(Clone)]
pub struct EventQueue;

/// How a queue works.
#[derive(Clone, Debug)]
pub struct EventSettings {
    /// The pauses before the first and the second retry of a function that failed.
    pub retry_delays: [Duration; 2],
    /// How many events run at a time.
    pub concurrency: usize,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { retry_delays: [Duration::from_secs(60), Duration::from_secs(120)], concurrency: 16 }
    }
}

/// The queue's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

/// An event was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {}

impl EventQueue {
    /// Opens the queue in a directory and goes on with what is in it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        _directory: &Path,
        _settings: EventSettings,
        _runner: Arc<dyn EventRunner>,
    ) -> Result<Self, OpenError> {
        unimplemented!()
    }

    /// Returns once the event is durable.
    ///
    /// # Errors
    /// [`EnqueueError`].
    pub async fn enqueue(&self, _event: Event) -> Result<(), EnqueueError> {
        unimplemented!()
    }

    /// Takes no more events, and returns when none is under way any more: at the latest after so
    /// long. What is left is gone on with when the queue is opened the next time.
    pub async fn close(&self, _limit: Duration) {
        unimplemented!()
    }
}
