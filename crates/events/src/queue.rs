//! The queue as its users see it.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};
use uuid::Uuid;

use crate::{
    Event, EventRunner, EventSettings, OpenError, QueueError,
    delivery::Slot,
    schedule::{Schedule, Ticket},
    store::{QueueStore, Read},
};

/// A durable queue of events. A clone is another handle to the same. When the last one is dropped,
/// what is under way is broken off, and run again when the queue is opened the next time.
#[derive(Clone)]
pub struct EventQueue {
    inner: Arc<Inner>,
    dispatcher: Arc<Dispatcher>,
}

/// An event was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] QueueError),
    /// There are too many already.
    #[error("{0} events wait already")]
    Full(usize),
    /// The queue is closed.
    #[error("the queue of events is closed")]
    Closed,
}

/// What a queue is like at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventQueueStatus {
    /// How many events wait: for their turn, or for their next attempt.
    pub waiting: usize,
    /// How many run.
    pub running: usize,
    /// The age of the oldest one that waits.
    pub oldest: Duration,
    /// How many were found damaged since the queue was opened, and put aside.
    pub damaged: usize,
}

/// What the tasks of a queue work with.
pub(crate) struct Inner {
    pub(crate) store: QueueStore,
    pub(crate) settings: EventSettings,
    pub(crate) runner: Arc<dyn EventRunner>,
    schedule: Mutex<Schedule>,
    changed: Notify,
    closing: watch::Sender<bool>,
    /// All that are on disk, or about to be.
    count: AtomicUsize,
    pub(crate) damaged: AtomicUsize,
    /// The host's clock and the runtime's, at the same moment.
    opened: (SystemTime, Instant),
}

struct Dispatcher {
    abort: AbortHandle,
    /// Closed when nothing is under way any more.
    over: watch::Receiver<()>,
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl EventQueue {
    /// Opens the queue in a directory and goes on with what is in it. Entries that are damaged are
    /// put aside, and counted.
    ///
    /// # Errors
    /// [`OpenError`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(
        directory: &Path,
        settings: EventSettings,
        runner: Arc<dyn EventRunner>,
    ) -> Result<Self, OpenError> {
        let directory = directory.to_owned();
        let opened = spawn_blocking(move || {
            let store = QueueStore::open(&directory)?;
            let (entries, damaged) = found(&store)?;
            Ok::<_, OpenError>((store, entries, damaged))
        });
        let (store, entries, damaged) = opened.await.map_err(|_| OpenError::Interrupted)??;
        Ok(Self::with_store(store, entries, damaged, settings, runner))
    }

    fn with_store(
        store: QueueStore,
        entries: Vec<(Ticket, Option<SystemTime>)>,
        damaged: usize,
        settings: EventSettings,
        runner: Arc<dyn EventRunner>,
    ) -> Self {
        let inner = Arc::new(Inner {
            store,
            settings,
            runner,
            schedule: Mutex::default(),
            changed: Notify::new(),
            closing: watch::Sender::new(false),
            count: AtomicUsize::new(entries.len()),
            damaged: AtomicUsize::new(damaged),
            opened: (SystemTime::now(), Instant::now()),
        });
        {
            let mut schedule = inner.schedule();
            for (ticket, due) in entries {
                let wait = due.and_then(|due| due.duration_since(inner.now()).ok());
                match wait {
                    Some(wait) => schedule.add_later(ticket, Instant::now() + wait),
                    None => schedule.add(ticket),
                }
            }
        }
        let (over_sender, over) = watch::channel(());
        let dispatching = tokio::spawn(dispatch(Arc::clone(&inner), over_sender));
        Self { inner, dispatcher: Arc::new(Dispatcher { abort: dispatching.abort_handle(), over }) }
    }

    /// Accepts an event. When this returns, it is durable: it will be run at least once, whatever
    /// happens to this process or the host; and more often only where one of them dies between the
    /// function's answer and the note of it. If this is dropped before, it may be accepted or not.
    ///
    /// # Errors
    /// [`EnqueueError`]; then it will not be run, unless the disk fails in such a way that it cannot
    /// be removed again either.
    pub async fn enqueue(&self, event: Event) -> Result<(), EnqueueError> {
        if *self.inner.closing.borrow() {
            return Err(EnqueueError::Closed);
        }
        let waiting = self.inner.count.load(Ordering::Relaxed);
        if waiting >= self.inner.settings.capacity {
            return Err(EnqueueError::Full(waiting));
        }
        // In a task of its own: what is on disk must be in the schedule, whoever still waits.
        let accepting = tokio::spawn(accept(Arc::clone(&self.inner), event));
        accepting.await.unwrap_or(Err(EnqueueError::Closed))
    }

    /// What it is like now.
    #[must_use]
    pub fn status(&self) -> EventQueueStatus {
        let schedule = self.inner.schedule();
        EventQueueStatus {
            waiting: schedule.waiting(),
            running: schedule.running(),
            oldest: schedule
                .oldest()
                .and_then(|accepted| self.inner.now().duration_since(accepted).ok())
                .unwrap_or_default(),
            damaged: self.inner.damaged.load(Ordering::Relaxed),
        }
    }

    /// Takes no more events, begins no more attempts, and returns when none is under way any more:
    /// at the latest after so long, when it breaks them off. What is left is gone on with when the
    /// queue is opened the next time.
    pub async fn close(&self, limit: Duration) {
        self.inner.closing.send_replace(true);
        self.inner.changed.notify_one();
        let mut over = self.dispatcher.over.clone();
        // Nothing is ever sent: its end is the news.
        let ended = async { while over.changed().await.is_ok() {} };
        if timeout(limit, ended).await.is_err() {
            self.dispatcher.abort.abort();
        }
    }
}

/// What is in the directory, the oldest first, and when it is due; and how many were damaged.
type Found = (Vec<(Ticket, Option<SystemTime>)>, usize);

fn found(store: &QueueStore) -> Result<Found, QueueError> {
    let mut entries = Vec::new();
    let mut damaged = 0;
    for id in store.list()? {
        match store.read(&id)? {
            Read::Entry(entry) => {
                let ticket = Ticket::new(id, entry.event.function, entry.event.accepted);
                entries.push((entry.event.accepted, ticket, entry.progress.due));
            }
            Read::Damaged => damaged += 1,
            Read::Gone => {}
        }
    }
    entries.sort_by_key(|(accepted, _, _)| *accepted);
    Ok((entries.into_iter().map(|(_, ticket, due)| (ticket, due)).collect(), damaged))
}

/// Returns when the event is durable. What destinations are told is let in however full it is.
pub(crate) async fn accept(inner: Arc<Inner>, event: Event) -> Result<(), EnqueueError> {
    inner.count.fetch_add(1, Ordering::Relaxed);
    let id = Uuid::new_v4().simple().to_string();
    let ticket = Ticket::new(id.clone(), event.function.clone(), event.accepted);
    let created = {
        let inner = Arc::clone(&inner);
        spawn_blocking(move || inner.store.create(&id, &event)).await
    };
    match created {
        Ok(Ok(())) => {
            inner.schedule().add(ticket);
            inner.changed.notify_one();
            Ok(())
        }
        Ok(Err(error)) => {
            inner.forget();
            Err(error.into())
        }
        Err(_) => {
            inner.forget();
            Err(EnqueueError::Closed)
        }
    }
}

/// Runs what is due, until the queue is closed. The tasks are its own: they end with it.
async fn dispatch(inner: Arc<Inner>, _over: watch::Sender<()>) {
    let mut tasks = JoinSet::new();
    loop {
        let closing = *inner.closing.borrow();
        if closing && tasks.is_empty() {
            return;
        }
        let next = {
            let mut schedule = inner.schedule();
            while !closing && let Some(ticket) = schedule.take(Instant::now(), &inner.settings) {
                tasks.spawn(Slot::new(Arc::clone(&inner), ticket).run());
            }
            schedule.next_due()
        };
        let due = async {
            match next {
                Some(due) if !closing => sleep_until(due).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = inner.changed.notified() => {}
            () = due => {}
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "an attempt to run an event ended half-way");
                }
            }
        }
    }
}

impl Inner {
    /// A lock that was poisoned protects nothing that could be inconsistent.
    pub(crate) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// There is one less.
    pub(crate) fn forget(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// The time, as the host's clock had it when the queue was opened: setting that clock makes no
    /// event older.
    pub(crate) fn now(&self) -> SystemTime {
        self.opened.0 + self.opened.1.elapsed()
    }
}

#[cfg(test)]
impl EventQueue {
    pub(crate) fn fault(&self) -> &crate::fault::Fault {
        &self.inner.store.fault
    }
}
