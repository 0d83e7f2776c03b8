//! Asynchronous invocations: a durable queue, retries, destinations.
//!
//! ```text
//!   enqueue ──► entry on disk ──► schedule ──turn──► attempt ──► ended ──► destinations ──► removed
//!                                    ▲                  │        noted      told, or
//!                                    └── retry noted ◄──┘                   given up
//! ```
//! An event is in one file from before its sender is told that it was accepted until its outcome is
//! told, or nobody wants to know it. What is done is noted after it was done: whatever dies in
//! between, the step is repeated. So everything happens at least once, as on AWS; twice only where
//! the process or the host dies at that moment. The request id is the same at every attempt.
//!
//! Functions take turns, and none has more than its part of what runs at a time.

mod delivery;
mod destination;
mod entry;
mod event;
#[cfg(test)]
mod fault;
mod queue;
mod schedule;
mod settings;
mod store;
#[cfg(test)]
mod tests;

pub use event::{Destination, Event, EventPolicy, EventRunner, RunOutcome};
pub use queue::{EnqueueError, EventQueue, EventQueueStatus};
pub use settings::EventSettings;
pub use store::{OpenError, QueueError};
