//! Figures for Prometheus.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use costrel_events::EventQueueStatus;
use costrel_fleet::{FleetStatus, InstanceState, Invoked};
use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{ErrorKind, HistoryEntry, HistoryOutcome, InvocationMode};

/// The media type of what [`Metrics::text`] gives.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds: from a warm invocation to the longest that there may be.
const DURATIONS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 900.0];

/// What comes of invocations.
const OUTCOMES: [&str; 4] = ["success", "function_error", "throttled", "failed"];
/// How instances come to be that were not there before.
const COLD_STARTS: [&str; 2] = ["boot", "restore"];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct FunctionLabels {
    function: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct InvocationLabels {
    function: String,
    mode: &'static str,
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StartLabels {
    function: String,
    kind: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: u16,
}

/// Figures of all that goes on in the API. A clone is another handle to the same.
#[derive(Clone)]
pub struct Metrics {
    figures: Figures,
    registry: Arc<Mutex<Registry>>,
}

#[derive(Clone)]
struct Figures {
    invocations: Family<InvocationLabels, Counter>,
    errors: Family<FunctionLabels, Counter>,
    throttles: Family<FunctionLabels, Counter>,
    durations: Family<FunctionLabels, Histogram>,
    latencies: Family<FunctionLabels, Histogram>,
    cold_starts: Family<StartLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    requests_in_flight: Gauge,
    instances: Family<StateLabels, Gauge>,
    memory: Gauge,
    memory_limit: Gauge,
    concurrency: Gauge,
    concurrency_limit: Gauge,
    waiting: Gauge,
    events: Family<StateLabels, Gauge>,
    oldest_event: Gauge,
}

/// What is to be told of the fleet and the queue, as they are at a moment.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// The fleet.
    pub fleet: Option<FleetStatus>,
    /// The queue of asynchronous invocations.
    pub events: EventQueueStatus,
}

/// Knows what the fleet and the queue are like.
pub trait GaugeSource: Send + Sync + 'static {
    /// What they are like now.
    fn read(&self) -> Gauges;
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = || Histogram::new(DURATIONS);
        let figures = Figures {
            invocations: Family::default(),
            errors: Family::default(),
            throttles: Family::default(),
            durations: Family::new_with_constructor(histogram),
            latencies: Family::new_with_constructor(histogram),
            cold_starts: Family::default(),
            requests: Family::default(),
            requests_in_flight: Gauge::default(),
            instances: Family::default(),
            memory: Gauge::default(),
            memory_limit: Gauge::default(),
            concurrency: Gauge::default(),
            concurrency_limit: Gauge::default(),
            waiting: Gauge::default(),
            events: Family::default(),
            oldest_event: Gauge::default(),
        };
        let registry = figures.registry();
        Self { figures, registry: Arc::new(Mutex::new(registry)) }
    }
}

impl Figures {
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("costrel");
        let r = &mut registry;
        let figures = self.clone();
        r.register("invocations", "Invocations that are over", figures.invocations);
        r.register("function_errors", "Invocations that the function failed", figures.errors);
        r.register("throttles", "Invocations that were throttled", figures.throttles);
        r.register_with_unit(
            "invocation_duration",
            "How long functions ran, as REPORT has it",
            Unit::Seconds,
            figures.durations,
        );
        r.register_with_unit(
            "invocation_latency",
            "From an invocation's arrival to its end",
            Unit::Seconds,
            figures.latencies,
        );
        r.register("cold_starts", "Instances started for an invocation", figures.cold_starts);
        r.register("http_requests", "Requests that were answered", figures.requests);
        r.register("http_requests_in_flight", "Requests under way", figures.requests_in_flight);
        r.register("instances", "Instances, by what they do", figures.instances);
        r.register_with_unit("memory", "Memory of all machines", Unit::Bytes, figures.memory);
        r.register_with_unit(
            "memory_limit",
            "The most memory that all machines may have",
            Unit::Bytes,
            figures.memory_limit,
        );
        r.register("concurrency", "Invocations under way", figures.concurrency);
        r.register(
            "concurrency_limit",
            "The most invocations that may be under way",
            figures.concurrency_limit,
        );
        r.register("waiting", "Invocations that wait for an instance", figures.waiting);
        r.register(
            "events",
            "Asynchronous invocations in the queue, by what becomes of them",
            figures.events,
        );
        r.register_with_unit(
            "oldest_event_age",
            "The age of the oldest asynchronous invocation that waits",
            Unit::Seconds,
            figures.oldest_event,
        );
        registry
    }
}

impl Metrics {
    /// Counts an invocation that is over; `invoked` is there if it has an outcome.
    pub(crate) fn invoked(&self, entry: &HistoryEntry, invoked: Option<&Invoked>) {
        let function = || FunctionLabels { function: entry.function.clone() };
        let outcome = match &entry.outcome {
            HistoryOutcome::Succeeded => "success",
            HistoryOutcome::FunctionError(_) => "function_error",
            HistoryOutcome::Refused(name) if *name == ErrorKind::TooManyRequests.name() => {
                "throttled"
            }
            HistoryOutcome::Refused(_) => "failed",
        };
        let labels =
            InvocationLabels { function: entry.function.clone(), mode: entry.mode.name(), outcome };
        self.figures.invocations.get_or_create_owned(&labels).inc();
        match outcome {
            "function_error" => {
                self.figures.errors.get_or_create_owned(&function()).inc();
            }
            "throttled" => {
                self.figures.throttles.get_or_create_owned(&function()).inc();
            }
            _ => {}
        }
        if let Some(invoked) = invoked {
            let took = invoked.outcome.report.duration.as_secs_f64();
            self.figures.durations.get_or_create_owned(&function()).observe(took);
        }
        self.figures.latencies.get_or_create_owned(&function()).observe(entry.took.as_secs_f64());
        if let Some(kind) = entry.start.filter(|kind| COLD_STARTS.contains(kind)) {
            let labels = StartLabels { function: entry.function.clone(), kind };
            self.figures.cold_starts.get_or_create_owned(&labels).inc();
        }
    }

    /// Forgets what was counted for a function, which is no more: names come and go.
    pub fn forget_function(&self, function: &str) {
        let labels = FunctionLabels { function: function.to_owned() };
        self.figures.errors.remove(&labels);
        self.figures.throttles.remove(&labels);
        self.figures.durations.remove(&labels);
        self.figures.latencies.remove(&labels);
        let function = || function.to_owned();
        for mode in InvocationMode::ALL.map(InvocationMode::name) {
            for outcome in OUTCOMES {
                let labels = InvocationLabels { function: function(), mode, outcome };
                self.figures.invocations.remove(&labels);
            }
        }
        for kind in COLD_STARTS {
            self.figures.cold_starts.remove(&StartLabels { function: function(), kind });
        }
    }

    /// Counts a request as under way until what is returned is told of its end, or dropped.
    pub(crate) fn request(&self, operation: &'static str) -> RequestInFlight {
        self.figures.requests_in_flight.inc();
        RequestInFlight { figures: self.figures.clone(), operation }
    }

    /// The figures as text, with those of the fleet and the queue as they are now.
    #[must_use]
    pub fn text(&self, fleet: Option<&FleetStatus>, events: EventQueueStatus) -> String {
        let figures = &self.figures;
        if let Some(fleet) = fleet {
            for (state, count) in states(fleet) {
                figures.instances.get_or_create_owned(&StateLabels { state }).set(count);
            }
            figures.memory.set(fleet.memory.try_into().unwrap_or(i64::MAX));
            figures.memory_limit.set(fleet.memory_limit.try_into().unwrap_or(i64::MAX));
            figures.concurrency.set(fleet.concurrency.into());
            figures.concurrency_limit.set(fleet.concurrency_limit.into());
            let waiting: usize = fleet.waiting.iter().map(|(_, count)| count).sum();
            figures.waiting.set(waiting.try_into().unwrap_or(i64::MAX));
        }
        for (state, count) in
            [("waiting", events.waiting), ("running", events.running), ("damaged", events.damaged)]
        {
            let gauge = figures.events.get_or_create_owned(&StateLabels { state });
            gauge.set(count.try_into().unwrap_or(i64::MAX));
        }
        figures.oldest_event.set(events.oldest.as_secs().try_into().unwrap_or(i64::MAX));
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if encode(&mut text, &registry).is_err() {
            // Writing to a string does not fail.
            let _ = text.write_str("# EOF\n");
        }
        text
    }
}

fn states(fleet: &FleetStatus) -> [(&'static str, i64); 4] {
    let mut states = [("starting", 0), ("busy", 0), ("idle", 0), ("stopping", 0)];
    for instance in &fleet.instances {
        let index = match instance.state {
            InstanceState::Starting => 0,
            InstanceState::Busy(_) => 1,
            InstanceState::Idle => 2,
            InstanceState::Stopping => 3,
        };
        states[index].1 += 1;
    }
    states
}

/// A request under way.
pub(crate) struct RequestInFlight {
    figures: Figures,
    operation: &'static str,
}

impl RequestInFlight {
    /// It was answered.
    pub(crate) fn answered(self, status: StatusCode) {
        let labels = RequestLabels { operation: self.operation, status: status.as_u16() };
        self.figures.requests.get_or_create_owned(&labels).inc();
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.figures.requests_in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use costrel_fleet::{InstanceStatus, VersionKey};
    use uuid::Uuid;

    use super::*;

    fn entry(outcome: HistoryOutcome, start: Option<&'static str>) -> HistoryEntry {
        HistoryEntry {
            request_id: "id".to_owned(),
            function: "f".to_owned(),
            version: "1".to_owned(),
            mode: InvocationMode::Event,
            at: jiff::Timestamp::UNIX_EPOCH,
            took: Duration::from_millis(20),
            start,
            outcome,
            phases: Vec::new(),
            trace_id: String::new(),
            is_trace_own: true,
        }
    }

    #[test]
    fn invocations_are_counted_by_what_came_of_them() {
        let metrics = Metrics::default();
        metrics.invoked(&entry(HistoryOutcome::Succeeded, Some("warm")), None);
        metrics.invoked(&entry(HistoryOutcome::Succeeded, Some("restore")), None);
        metrics.invoked(&entry(HistoryOutcome::FunctionError("E".to_owned()), Some("boot")), None);
        metrics.invoked(&entry(HistoryOutcome::Refused("TooManyRequestsException"), None), None);
        metrics.invoked(&entry(HistoryOutcome::Refused("ServiceException"), None), None);
        let text = metrics.text(None, EventQueueStatus::default());
        for line in [
            r#"costrel_invocations_total{function="f",mode="event",outcome="success"} 2"#,
            r#"costrel_invocations_total{function="f",mode="event",outcome="function_error"} 1"#,
            r#"costrel_invocations_total{function="f",mode="event",outcome="throttled"} 1"#,
            r#"costrel_invocations_total{function="f",mode="event",outcome="failed"} 1"#,
            r#"costrel_function_errors_total{function="f"} 1"#,
            r#"costrel_throttles_total{function="f"} 1"#,
            r#"costrel_cold_starts_total{function="f",kind="restore"} 1"#,
            r#"costrel_cold_starts_total{function="f",kind="boot"} 1"#,
            r#"costrel_invocation_latency_seconds_bucket{le="0.025",function="f"} 5"#,
            r#"costrel_invocation_latency_seconds_bucket{le="0.01",function="f"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        metrics.forget_function("f");
        assert!(!metrics.text(None, EventQueueStatus::default()).contains("function=\"f\""));
    }

    #[test]
    fn fleet_and_queue_are_told_as_they_are() {
        let metrics = Metrics::default();
        let version = VersionKey {
            function: "f".to_owned(),
            version: "1".to_owned(),
            revision: "r".to_owned(),
        };
        let instance = |state| InstanceStatus {
            id: Uuid::nil(),
            version: version.clone(),
            state,
            since: Instant::now(),
            memory: 1,
            provisioned: false,
        };
        let fleet = FleetStatus {
            instances: vec![
                instance(InstanceState::Busy("id".to_owned())),
                instance(InstanceState::Idle),
                instance(InstanceState::Idle),
            ],
            waiting: vec![(version.clone(), 3), (version.clone(), 4)],
            concurrency: 8,
            concurrency_limit: 1000,
            memory: 5,
            memory_limit: 6,
        };
        let events = EventQueueStatus {
            waiting: 2,
            running: 1,
            oldest: Duration::from_secs(90),
            damaged: 3,
        };
        let text = metrics.text(Some(&fleet), events);
        for line in [
            r#"costrel_instances{state="busy"} 1"#,
            r#"costrel_instances{state="idle"} 2"#,
            r#"costrel_instances{state="starting"} 0"#,
            "costrel_waiting 7",
            "costrel_concurrency 8",
            "costrel_memory_bytes 5",
            "costrel_memory_limit_bytes 6",
            r#"costrel_events{state="waiting"} 2"#,
            r#"costrel_events{state="running"} 1"#,
            r#"costrel_events{state="damaged"} 3"#,
            "costrel_oldest_event_age_seconds 90",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn requests_are_counted_while_they_last_and_when_they_are_answered() {
        let metrics = Metrics::default();
        let request = metrics.request("invoke");
        let during = metrics.text(None, EventQueueStatus::default());
        assert!(during.contains("costrel_http_requests_in_flight 1\n"));
        request.answered(StatusCode::OK);
        drop(metrics.request("invoke"));
        let text = metrics.text(None, EventQueueStatus::default());
        assert!(text.contains("costrel_http_requests_in_flight 0\n"));
        assert!(text.contains(r#"costrel_http_requests_total{operation="invoke",status="200"} 1"#));
    }
}
