//! Asynchronous invocations: a durable queue, retries, destinations.

mod event;
mod queue;

pub use event::{Destination, Event, EventPolicy, EventRunner, RunOutcome};
pub use queue::{EnqueueError, EventQueue, EventSettings, OpenError};
