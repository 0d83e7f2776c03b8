//! Asynchronous invocations, as the queue has them run.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use costrel_catalog::{FunctionReference, ResolveError};
use costrel_events::{Destination, Event, EventPolicy, EventRunner, RunOutcome};
use costrel_fleet::InvokeError;
use costrel_functions::Invocation;

use super::{Engine, invoker::Found};

#[async_trait]
impl EventRunner for Engine {
    async fn run(&self, event: &Event) -> RunOutcome {
        let reference = FunctionReference {
            qualifier: event.qualifier.clone(),
            ..FunctionReference::of_name(&*event.function)
        };
        let resolved = match self.0.catalog.resolve(&reference) {
            Ok(resolved) => resolved,
            Err(error @ ResolveError::Pending { .. }) => {
                return RunOutcome::NotRun { reason: error.to_string() };
            }
            Err(error) => return RunOutcome::Impossible { reason: error.to_string() },
        };
        let version = match self.fleet_version(&resolved.version) {
            Ok(version) => version,
            Err(error) => return RunOutcome::Impossible { reason: error.to_string() },
        };
        let executed_version = version.key.version.clone();
        let mut invocation = Invocation::new(event.function_arn.clone(), event.payload.clone());
        invocation.request_id.clone_from(&event.request_id);
        invocation.trace_id.clone_from(&event.trace_id);
        invocation.client_context.clone_from(&event.client_context);
        let callable = Found {
            engine: self.clone(),
            version,
            arn: event.function_arn.clone(),
            qualifier: event.qualifier.clone(),
        };
        match self.0.recorder.run_event(&callable, invocation).await {
            Ok(invoked) => match invoked.outcome.reply {
                Ok(reply) => RunOutcome::Succeeded { executed_version, payload: reply.payload },
                Err(error) => RunOutcome::Failed {
                    executed_version,
                    function_error: "Unhandled".to_owned(),
                    payload: error.payload,
                },
            },
            Err(error @ InvokeError::OversizedForHost { .. }) => {
                RunOutcome::Impossible { reason: error.to_string() }
            }
            Err(error) => RunOutcome::NotRun { reason: error.to_string() },
        }
    }

    fn policy(&self, event: &Event) -> EventPolicy {
        let qualifier = event.qualifier.as_deref();
        let config = self.0.catalog.event_invoke_config(&event.function, qualifier);
        let mut policy = EventPolicy {
            dead_letters: self.dead_letters(event).as_deref().and_then(destination),
            ..EventPolicy::default()
        };
        let Some(config) = config else { return policy };
        let destination = |target: Option<String>| target.as_deref().and_then(destination);
        policy.retries = config.maximum_retry_attempts.unwrap_or(policy.retries);
        if let Some(seconds) = config.maximum_event_age {
            policy.maximum_age = Duration::from_secs(seconds.into());
        }
        policy.on_success = destination(config.on_success);
        policy.on_failure = destination(config.on_failure);
        policy
    }
}

impl Engine {
    /// What the version that the event is for names as its dead-letter queue.
    fn dead_letters(&self, event: &Event) -> Option<String> {
        let reference = FunctionReference {
            qualifier: event.qualifier.clone(),
            ..FunctionReference::of_name(&*event.function)
        };
        let resolved = self.0.catalog.resolve(&reference).ok()?;
        resolved.version.configuration().dead_letter.clone()
    }
}

/// Where records go, by its ARN or its address.
fn destination(target: &str) -> Option<Destination> {
    if let Some(path) = target.strip_prefix("file://") {
        return Some(Destination::File(PathBuf::from(path)));
    }
    if target.starts_with("http://") {
        return Some(Destination::Http(target.to_owned()));
    }
    if target.contains(":lambda:") {
        return Some(Destination::Function(target.to_owned()));
    }
    tracing::warn!(
        destination = target,
        "nothing is delivered there: it is no function, no file and no http:// address"
    );
    None
}
