//! One invocation: what goes in, what comes out, what is reported of it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use costrel_agent_client::wire::Invoke;
use uuid::Uuid;

use crate::{FunctionError, log::FailureStatus};

/// An invocation to make.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Its id, a UUID.
    pub request_id: String,
    /// The ARN that its caller has named the function by, with the qualifier if there was one.
    pub function_arn: String,
    /// The event, at most 6 MiB.
    pub payload: Bytes,
    /// `X-Amzn-Trace-Id`.
    pub trace_id: String,
    /// The client context, as JSON.
    pub client_context: Option<String>,
    /// The caller's Cognito identity, as JSON.
    pub cognito_identity: Option<String>,
}

/// What came of an invocation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the caller is told. Where the response went out in parts ([`crate::ResponsePart`]), its
    /// payload is not repeated here; an error may come after some of them.
    pub reply: Result<Reply, FunctionError>,
    /// What REPORT says.
    pub report: Report,
}

/// A function's response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Its content type, as the runtime gave it.
    pub content_type: String,
    /// What it is.
    pub payload: Bytes,
}

/// The figures of an invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// From the invocation's start to the runtime's readiness for the next.
    pub duration: Duration,
    /// How long the initialisation took that this invocation has waited for.
    pub init_duration: Option<Duration>,
    /// How long the restore took that this invocation has waited for, hooks included.
    pub restore_duration: Option<Duration>,
    /// The function's memory, in MB.
    pub memory_size_mb: u32,
    /// The most that it has used, in MB.
    pub max_memory_used_mb: u32,
    /// How it failed other than by an error that the function itself reported.
    pub failure: Option<FailureStatus>,
}

impl Report {
    /// The duration in begun milliseconds.
    #[must_use]
    pub fn billed_milliseconds(&self) -> u128 {
        billed_milliseconds(self.duration)
    }
}

/// Begun milliseconds.
pub(crate) fn billed_milliseconds(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000)
}

impl Invocation {
    /// An invocation with a new id and trace.
    #[must_use]
    pub fn new(function_arn: impl Into<String>, payload: Bytes) -> Self {
        Self {
            request_id: Uuid::new_v4().to_string(),
            function_arn: function_arn.into(),
            payload,
            trace_id: new_trace_id(),
            client_context: None,
            cognito_identity: None,
        }
    }

    pub(crate) fn to_wire(&self, deadline: SystemTime) -> Invoke {
        let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Invoke {
            request_id: self.request_id.clone(),
            deadline_unix_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            function_arn: self.function_arn.clone(),
            trace_id: self.trace_id.clone(),
            client_context: self.client_context.clone().unwrap_or_default(),
            cognito_identity: self.cognito_identity.clone().unwrap_or_default(),
            content_type: String::new(),
            payload: self.payload.clone(),
        }
    }
}

/// `Root=1-<seconds>-<96 bits>;Parent=<64 bits>;Sampled=0`, in hex.
fn new_trace_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let random = Uuid::new_v4().simple().to_string();
    let parent = Uuid::new_v4().simple().to_string();
    format!("Root=1-{:08x}-{};Parent={};Sampled=0", now.as_secs(), &random[..24], &parent[..16])
}
