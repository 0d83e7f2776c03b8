//! An event, and what is done with it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// An invocation that nobody waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its request id, a UUID: the same at every attempt.
    pub request_id: String,
    /// The function's name.
    pub function: String,
    /// The version or alias that it was sent to, if it was sent to one.
    pub qualifier: Option<String>,
    /// The function's ARN, as the sender named it: qualified or not.
    pub function_arn: String,
    /// The payload, at most 1 MiB.
    pub payload: Bytes,
    /// `X-Amzn-Trace-Id`.
    pub trace_id: String,
    /// The client context, as JSON.
    pub client_context: Option<String>,
    /// When it was accepted. Its age counts from here.
    pub accepted: SystemTime,
}

/// What one attempt came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunOutcome {
    /// The function has responded.
    Succeeded {
        /// The version that ran.
        executed_version: String,
        /// What it responded.
        payload: Bytes,
    },
    /// The function has failed. It is tried again, if attempts are left.
    Failed {
        /// The version that ran.
        executed_version: String,
        /// `Unhandled`, or `Handled`.
        function_error: String,
        /// What it is told by.
        payload: Bytes,
    },
    /// It did not run: throttled, or the host's fault. It is tried again until it is too old; no
    /// attempt is used up.
    NotRun {
        /// Why, for people.
        reason: String,
    },
    /// It will never run: there is no such function any more, say.
    Impossible {
        /// Why, for people.
        reason: String,
    },
}

/// How the events of a function are dealt with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventPolicy {
    /// `MaximumRetryAttempts`: 0 to 2, by default 2.
    pub retries: u32,
    /// `MaximumEventAgeInSeconds`: 60 s to 6 h, by default the latter.
    pub maximum_age: Duration,
    /// Where successes are told.
    pub on_success: Option<Destination>,
    /// Where failures are told.
    pub on_failure: Option<Destination>,
    /// The dead letter queue: where failures are told as well.
    pub dead_letters: Option<Destination>,
}

impl Default for EventPolicy {
    fn default() -> Self {
        Self {
            retries: 2,
            maximum_age: Duration::from_secs(6 * 3600),
            on_success: None,
            on_failure: None,
            dead_letters: None,
        }
    }
}

/// Where records go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// A function, by its ARN: it is invoked asynchronously.
    Function(String),
    /// A file on this host, to which lines of JSON are appended.
    File(std::path::PathBuf),
    /// An `http://` address, to which JSON is POSTed.
    Http(String),
}

/// Runs events, and knows how they are dealt with.
#[async_trait::async_trait]
pub trait EventRunner: Send + Sync + 'static {
    /// Makes one attempt.
    async fn run(&self, event: &Event) -> RunOutcome;

    /// How events of this function are dealt with, as it is configured now.
    fn policy(&self, event: &Event) -> EventPolicy;
}
