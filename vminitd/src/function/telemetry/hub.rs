//! Takes records in, and hands each to those who subscribed to it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::{
    Category, Record, delivery,
    lines::Lines,
    queue::Queue,
    subscription::{Schema, Subscription},
};
use crate::output::Stream;

/// How much is kept for those who subscribe later, in bytes.
const BACKLOG_LIMIT: usize = 1 << 20;

/// The subscribers of one life of the runtime, and what there is for them.
#[derive(Debug, Default)]
pub(in super::super) struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    subscribers: Vec<Subscriber>,
    /// What came since the initialisation began: a subscriber gets it all. None once nobody can
    /// subscribe any more.
    backlog: Option<Backlog>,
    lines: HashMap<(String, Stream), (Category, Lines)>,
}

#[derive(Debug, Default)]
struct Backlog {
    records: Vec<Record>,
    bytes: usize,
}

#[derive(Debug)]
struct Subscriber {
    name: String,
    subscription: Subscription,
    queue: Arc<Queue>,
    delivery: AbortHandle,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.delivery.abort();
    }
}

/// Why nobody can subscribe so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SubscribeRefusal {
    /// The initialisation is done.
    Closed,
    /// It has subscribed by the other API.
    OtherApi,
}

impl Hub {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew, without subscribers.
    pub(in super::super) fn open(&self) {
        *self.inner() = Inner { backlog: Some(Backlog::default()), ..Inner::default() };
    }

    /// Nobody can subscribe from now on.
    pub(in super::super) fn close(&self) {
        self.inner().backlog = None;
    }

    /// Ends all deliveries.
    pub(in super::super) fn end(&self) {
        *self.inner() = Inner::default();
    }

    /// Adds a subscriber; one that has subscribed before subscribes anew.
    pub(super) fn subscribe(
        &self,
        name: &str,
        subscription: Subscription,
    ) -> Result<(), SubscribeRefusal> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let backlog = inner.backlog.as_ref().ok_or(SubscribeRefusal::Closed)?;
        if let Some(index) = inner.subscribers.iter().position(|it| it.name == name) {
            let before = &inner.subscribers[index].subscription;
            if !before.schema.is_same_api(subscription.schema) {
                return Err(SubscribeRefusal::OtherApi);
            }
            if *before == subscription {
                return Ok(());
            }
            inner.subscribers.remove(index);
        }
        let queue = Arc::new(Queue::new(subscription.buffering));
        for record in backlog.records.iter().filter(|record| subscription.wants(record)) {
            queue.push(record.text.clone());
        }
        let delivering = delivery::deliver(Arc::clone(&queue), subscription.destination.clone());
        let delivery = tokio::spawn(delivering).abort_handle();
        let name = name.to_owned();
        inner.subscribers.push(Subscriber { name, subscription, queue, delivery });
        Ok(())
    }

    /// Hands a record on.
    pub(in super::super) fn publish(&self, record: &Record) {
        self.inner().publish(record);
    }

    /// Takes in what a process has printed; `process` tells it from others.
    pub(in super::super) fn printed(
        &self,
        category: Category,
        process: &str,
        stream: Stream,
        data: &Bytes,
    ) {
        let mut inner = self.inner();
        if !inner.is_heard(category) {
            return;
        }
        let (_, mut lines) = inner
            .lines
            .remove(&(process.to_owned(), stream))
            .unwrap_or_else(|| (category, Lines::default()));
        lines.push(data, |line| inner.publish(&Record::line(category, line)));
        inner.lines.insert((process.to_owned(), stream), (category, lines));
    }

    /// What was printed without a line's end is taken for a line.
    pub(in super::super) fn finish_lines(&self) {
        let mut inner = self.inner();
        for (_, (category, mut lines)) in std::mem::take(&mut inner.lines) {
            lines.finish(|line| inner.publish(&Record::line(category, line)));
        }
    }

    /// Returns when all subscribers have what there is for them, or do not take it.
    pub(in super::super) async fn flush(&self) {
        let queues: Vec<_> =
            self.inner().subscribers.iter().map(|it| Arc::clone(&it.queue)).collect();
        for queue in queues {
            queue.flush().await;
        }
    }
}

impl Inner {
    fn is_heard(&self, category: Category) -> bool {
        self.backlog.is_some()
            || self.subscribers.iter().any(|it| it.subscription.types.contains(&category))
    }

    fn publish(&mut self, record: &Record) {
        for subscriber in self.subscribers.iter().filter(|it| it.subscription.wants(record)) {
            subscriber.queue.push(record.text.clone());
        }
        if let Some(backlog) = &mut self.backlog
            && backlog.bytes + record.text.len() <= BACKLOG_LIMIT
        {
            backlog.bytes += record.text.len();
            backlog.records.push(record.clone());
        }
    }
}

impl Schema {
    /// The platform's own word for a subscription: the event's type, and the log line's first word.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Telemetry => ("platform.telemetrySubscription", "TELEMETRY"),
            Self::Logs { .. } => ("platform.logsSubscription", "LOGS"),
        }
    }
}
