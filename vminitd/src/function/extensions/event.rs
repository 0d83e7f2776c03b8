//! What extensions are told.

use costrel_agent_proto::v1::{Invoke, ShutdownReason};
use serde_json::{Value, json};

/// What an extension can register for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Subscription {
    Invoke,
    Shutdown,
}

impl Subscription {
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::Invoke => "INVOKE",
            Self::Shutdown => "SHUTDOWN",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Self::Invoke, Self::Shutdown].into_iter().find(|subscription| subscription.name() == name)
    }
}

/// An event for extensions.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) struct Event {
    pub(super) kind: Subscription,
    /// The reply's body.
    pub(super) body: Value,
}

impl Event {
    pub(in super::super) fn invoke(invoke: &Invoke) -> Self {
        let mut body = json!({
            "eventType": Subscription::Invoke.name(),
            "deadlineMs": invoke.deadline_unix_ms,
            "requestId": invoke.request_id,
            "invokedFunctionArn": invoke.function_arn,
        });
        if !invoke.trace_id.is_empty() {
            body["tracing"] = json!({ "type": "X-Amzn-Trace-Id", "value": invoke.trace_id });
        }
        Self { kind: Subscription::Invoke, body }
    }

    /// `deadline`: in milliseconds since 1970.
    pub(in super::super) fn shutdown(reason: ShutdownReason, deadline: u64) -> Self {
        let body = json!({
            "eventType": Subscription::Shutdown.name(),
            "shutdownReason": reason_name(reason),
            "deadlineMs": deadline,
        });
        Self { kind: Subscription::Shutdown, body }
    }
}

fn reason_name(reason: ShutdownReason) -> &'static str {
    match reason {
        ShutdownReason::Spindown => "spindown",
        ShutdownReason::Timeout => "timeout",
        ShutdownReason::Failure => "failure",
    }
}
