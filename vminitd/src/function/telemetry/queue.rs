//! What waits for a subscriber, within bounds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;
use tokio::{sync::Notify, time::Instant};

use super::{Record, subscription::Buffering};

/// Why records are dropped, in AWS's words.
const FALLEN_BEHIND: &str =
    "Consumer seems to have fallen behind as it has not acknowledged receipt of logs.";

/// The records that wait for one subscriber.
#[derive(Debug)]
pub(super) struct Queue {
    buffering: Buffering,
    waiting: Mutex<Waiting>,
    /// A record came, or all are to go out.
    arrived: Notify,
    /// All have been delivered, or are lost.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<String>,
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
    /// Whether they are to go out now.
    urgent: bool,
    /// Whether a batch is under way.
    delivering: bool,
    dropped_records: u64,
    dropped_bytes: u64,
}

impl Queue {
    pub(super) fn new(buffering: Buffering) -> Self {
        Self {
            buffering,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            emptied: Notify::new(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record, or counts it as dropped: a subscriber that does not keep up must not fill
    /// the memory.
    pub(super) fn push(&self, text: String) {
        let mut waiting = self.waiting();
        let bytes = waiting.bytes + text.len();
        // As AWS documents it: a batch has up to twice the bytes that were asked for.
        if waiting.records.len() >= 2 * self.buffering.max_items
            || bytes > 2 * self.buffering.max_bytes
        {
            waiting.dropped_records += 1;
            waiting.dropped_bytes += text.len() as u64;
            return;
        }
        waiting.bytes = bytes;
        waiting.records.push(text);
        waiting.since.get_or_insert_with(Instant::now);
        drop(waiting);
        self.arrived.notify_waiters();
    }

    /// Counts records as dropped that were taken and could not be delivered.
    pub(super) fn lost(&self, batch: &[String]) {
        let mut waiting = self.waiting();
        waiting.dropped_records += batch.len() as u64;
        waiting.dropped_bytes += batch.iter().map(|text| text.len() as u64).sum::<u64>();
    }

    /// The next batch, when it is complete.
    pub(super) async fn batch(&self) -> Vec<String> {
        loop {
            let arrived = self.arrived.notified();
            let due = {
                let mut waiting = self.waiting();
                waiting.delivering = false;
                if waiting.is_due(self.buffering) {
                    return waiting.take();
                }
                if waiting.records.is_empty() {
                    waiting.urgent = false;
                    self.emptied.notify_waiters();
                }
                waiting.since.map(|since| since + self.buffering.timeout)
            };
            match due {
                Some(due) => {
                    tokio::select! {
                        () = arrived => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => arrived.await,
            }
        }
    }

    /// Sends what waits without further ado, and returns when it has arrived.
    pub(super) async fn flush(&self) {
        self.waiting().urgent = true;
        self.arrived.notify_waiters();
        loop {
            let emptied = self.emptied.notified();
            {
                let waiting = self.waiting();
                if waiting.records.is_empty() && !waiting.delivering {
                    return;
                }
            }
            emptied.await;
        }
    }
}

impl Waiting {
    fn is_due(&self, buffering: Buffering) -> bool {
        let Some(since) = self.since else { return false };
        self.urgent
            || self.records.len() >= buffering.max_items
            || self.bytes >= buffering.max_bytes
            || since.elapsed() >= buffering.timeout
    }

    fn take(&mut self) -> Vec<String> {
        let mut batch = std::mem::take(&mut self.records);
        if self.dropped_records > 0 {
            let record = json!({
                "droppedRecords": self.dropped_records,
                "droppedBytes": self.dropped_bytes,
                "reason": FALLEN_BEHIND,
            });
            batch.push(Record::platform("platform.logsDropped", &record).text);
        }
        *self = Self { delivering: true, urgent: self.urgent, ..Self::default() };
        batch
    }
}
