//! One event's turn: an attempt, and what follows from its outcome.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::{
    Destination, Event, EventPolicy, RunOutcome,
    destination::{self, DeliveryError},
    entry::{Condition, Entry, Progress, Response},
    queue::{Inner, accept},
    schedule::Ticket,
    store::Read,
};

/// An event whose turn it is. However its task ends, the place is free again, and the event is
/// forgotten only if it was said so.
pub(crate) struct Slot {
    inner: Arc<Inner>,
    function: String,
    ticket: Option<Ticket>,
    pause: Duration,
}

/// What is to become of an event after its turn.
enum Next {
    /// It is gone.
    Gone,
    /// It has another turn after so long.
    Later(Duration),
}

impl Slot {
    pub(crate) fn new(inner: Arc<Inner>, ticket: Ticket) -> Self {
        let pause = inner.settings.backoff[1];
        Self { function: ticket.function.clone(), inner, ticket: Some(ticket), pause }
    }

    pub(crate) async fn run(mut self) {
        let inner = Arc::clone(&self.inner);
        let Some(ticket) = &mut self.ticket else { return };
        match take_turn(&inner, ticket).await {
            Next::Gone => {
                self.ticket = None;
                inner.forget();
            }
            Next::Later(pause) => self.pause = pause,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut schedule = self.inner.schedule();
        schedule.ended(&self.function);
        if let Some(ticket) = self.ticket.take() {
            schedule.add_later(ticket, Instant::now() + self.pause);
        }
        drop(schedule);
        self.inner.wake();
    }
}

async fn take_turn(inner: &Arc<Inner>, ticket: &mut Ticket) -> Next {
    let entry = match read(inner, &ticket.id).await {
        Ok(Read::Entry(entry)) => entry,
        Ok(Read::Gone) => return Next::Gone,
        Ok(Read::Damaged) => {
            inner.damaged.fetch_add(1, Ordering::Relaxed);
            return Next::Gone;
        }
        Err(pause) => return Next::Later(pause),
    };
    let Entry { event, mut progress, good } = *entry;
    if let Some(unnoted) = ticket.unnoted.take() {
        progress = unnoted;
    }
    if !ticket.told {
        let policy = inner.runner.policy(&event);
        let condition = match progress.ended {
            Some(condition) => condition,
            None => match attempt(inner, ticket, &event, &policy, &mut progress).await {
                Ok(condition) => condition,
                Err(pause) => {
                    // What the function has answered is written down; that it could not run is not.
                    if progress.due.is_some() {
                        note(inner, ticket, progress, good).await;
                    }
                    return Next::Later(pause);
                }
            },
        };
        let destinations = destinations(&policy, condition);
        if !destinations.is_empty() {
            // Before anybody is told: the function is not to run again for a destination's sake.
            if progress.ended.is_none() {
                progress.ended = Some(condition);
                progress.due = None;
                note(inner, ticket, progress.clone(), good).await;
            }
            let now = Timestamp::try_from(inner.now()).unwrap_or(Timestamp::UNIX_EPOCH);
            let record = destination::record(&event, &progress, condition, now);
            for destination in destinations {
                tell(inner, &event, destination, &record).await;
            }
        } else if condition != Condition::Success {
            tracing::warn!(
                function = event.function,
                request = event.request_id,
                ?condition,
                "an event is given up"
            );
        }
        ticket.told = true;
    }
    remove(inner, &ticket.id).await
}

/// One attempt. Returns how the event has ended, or how long to wait for the next attempt.
async fn attempt(
    inner: &Inner,
    ticket: &mut Ticket,
    event: &Event,
    policy: &EventPolicy,
    progress: &mut Progress,
) -> Result<Condition, Duration> {
    let left = |inner: &Inner| {
        let age = inner.now().duration_since(event.accepted).unwrap_or_default();
        policy.maximum_age.checked_sub(age).filter(|left| !left.is_zero())
    };
    if left(inner).is_none() {
        return Ok(Condition::EventAgeExceeded);
    }
    progress.due = None;
    let (response, condition) = match inner.runner.run(event).await {
        RunOutcome::Succeeded { executed_version, payload } => {
            (Response { executed_version, function_error: None, payload }, Some(Condition::Success))
        }
        RunOutcome::Failed { executed_version, function_error, payload } => {
            let exhausted = progress.runs >= policy.retries;
            let function_error = Some(function_error);
            let condition = exhausted.then_some(Condition::RetriesExhausted);
            (Response { executed_version, function_error, payload }, condition)
        }
        RunOutcome::NotRun { reason } => {
            ticket.refused += 1;
            let Some(left) = left(inner) else { return Ok(Condition::EventAgeExceeded) };
            let pause = inner.settings.backoff_after(ticket.refused).min(left);
            tracing::debug!(request = event.request_id, reason, "an event did not run");
            return Err(pause);
        }
        RunOutcome::Impossible { reason } => {
            tracing::warn!(request = event.request_id, reason, "an event cannot run");
            return Ok(Condition::RetriesExhausted);
        }
    };
    ticket.refused = 0;
    progress.runs += 1;
    progress.response = Some(response);
    condition.ok_or_else(|| {
        let pause = inner.settings.retry_delay(progress.runs);
        progress.due = Some(inner.now() + pause);
        pause
    })
}

fn destinations(policy: &EventPolicy, condition: Condition) -> Vec<&Destination> {
    match condition {
        Condition::Success => policy.on_success.iter().collect(),
        Condition::RetriesExhausted | Condition::EventAgeExceeded => {
            policy.on_failure.iter().chain(&policy.dead_letters).collect()
        }
    }
}

/// Tells a destination of an outcome, again if need be. Then it is given up.
async fn tell(inner: &Arc<Inner>, event: &Event, destination: &Destination, record: &Bytes) {
    let mut pause = inner.settings.delivery_pause;
    let mut left = inner.settings.delivery_attempts.max(1);
    loop {
        let Err(error) = tell_once(inner, event, destination, record).await else { return };
        left -= 1;
        let request = &*event.request_id;
        if left == 0 {
            let error: &dyn std::error::Error = &error;
            tracing::error!(request, ?destination, error, "an outcome cannot be told");
            return;
        }
        sleep(pause).await;
        pause *= 2;
    }
}

async fn tell_once(
    inner: &Arc<Inner>,
    event: &Event,
    destination: &Destination,
    record: &Bytes,
) -> Result<(), DeliveryError> {
    match destination {
        Destination::Http(address) => destination::post(address, record.clone()).await,
        Destination::File(path) => {
            let (path, record) = (path.clone(), record.clone());
            let appended = spawn_blocking(move || destination::append(&path, &record)).await;
            appended.unwrap_or_else(|error| Err(DeliveryError::File(std::io::Error::other(error))))
        }
        Destination::Function(arn) => {
            let function = destination::function_of(arn);
            let (function, qualifier) = function.ok_or_else(|| DeliveryError::Arn(arn.clone()))?;
            let told = Event {
                request_id: Uuid::new_v4().to_string(),
                function,
                qualifier,
                function_arn: arn.clone(),
                payload: record.clone(),
                trace_id: event.trace_id.clone(),
                client_context: None,
                accepted: inner.now(),
            };
            accept(Arc::clone(inner), told).await.map_err(DeliveryError::Enqueue)
        }
    }
}

async fn read(inner: &Arc<Inner>, id: &str) -> Result<Read, Duration> {
    let again = inner.settings.backoff[1];
    let (store, name) = (Arc::clone(inner), id.to_owned());
    match spawn_blocking(move || store.store.read(&name)).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(event = id, error, "an event cannot be read");
            Err(again)
        }
        Err(_) => Err(again),
    }
}

/// Writes down how far an event has come. Where that fails, it is known as long as the queue is
/// open; thereafter, an attempt may be repeated.
async fn note(inner: &Arc<Inner>, ticket: &mut Ticket, progress: Progress, good: u64) {
    let (store, id, noted) = (Arc::clone(inner), ticket.id.clone(), progress.clone());
    let written = spawn_blocking(move || store.store.note(&id, &noted, good)).await;
    if let Ok(Err(error)) = &written {
        let error: &dyn std::error::Error = error;
        tracing::error!(event = ticket.id, error, "what has become of an event is not on disk");
    }
    if !matches!(written, Ok(Ok(_))) {
        ticket.unnoted = Some(progress);
    }
}

async fn remove(inner: &Arc<Inner>, id: &str) -> Next {
    let (store, name) = (Arc::clone(inner), id.to_owned());
    match spawn_blocking(move || store.store.remove(&name)).await {
        Ok(Ok(())) => Next::Gone,
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(event = id, error, "an event that is over cannot be removed");
            Next::Later(inner.settings.backoff[1])
        }
        Err(_) => Next::Later(inner.settings.backoff[1]),
    }
}
