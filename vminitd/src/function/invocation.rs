//! The invocation under way, as it is told to subscribers.

use std::time::{Instant, SystemTime};

use costrel_agent_proto::v1::Invoke;
use serde_json::{Value, json};

use super::telemetry::{Record, rfc3339};

/// What is known of the invocation that the runtime works on.
#[derive(Debug)]
pub(super) struct UnderWay {
    request_id: String,
    trace_id: String,
    began: Moment,
    response_began: Option<Moment>,
    response_ended: Option<Moment>,
    produced_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Moment {
    instant: Instant,
    time: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }

    fn milliseconds_to(self, later: Self) -> f64 {
        // To a microsecond, as AWS's figures are.
        let micros = later.instant.saturating_duration_since(self.instant).as_micros();
        u32::try_from(micros).map_or(f64::MAX, f64::from) / 1000.0
    }

    fn span_to(self, later: Self, name: &str) -> Value {
        let (start, duration) = (rfc3339(self.time), self.milliseconds_to(later));
        json!({ "name": name, "start": start, "durationMs": duration })
    }
}

impl UnderWay {
    pub(super) fn begin(invoke: &Invoke) -> Self {
        Self {
            request_id: invoke.request_id.clone(),
            trace_id: invoke.trace_id.clone(),
            began: Moment::now(),
            response_began: None,
            response_ended: None,
            produced_bytes: 0,
        }
    }

    pub(super) fn response_begins(&mut self) {
        self.response_began = Some(Moment::now());
        self.produced_bytes = 0;
    }

    pub(super) fn produced(&mut self, bytes: usize) {
        self.produced_bytes += bytes as u64;
    }

    pub(super) fn response_ends(&mut self) {
        self.response_ended = Some(Moment::now());
    }

    /// `platform.runtimeDone`.
    pub(super) fn runtime_done(&self, status: Status<'_>) -> Record {
        let now = Moment::now();
        let mut spans = Vec::new();
        if let Some(response_began) = self.response_began {
            spans.push(self.began.span_to(response_began, "responseLatency"));
            let ended = self.response_ended.unwrap_or(now);
            spans.push(response_began.span_to(ended, "responseDuration"));
        }
        if let Some(response_ended) = self.response_ended {
            spans.push(response_ended.span_to(now, "runtimeOverhead"));
        }
        let mut record = json!({
            "requestId": self.request_id,
            "status": status.name(),
            "spans": spans,
            "metrics": {
                "durationMs": self.began.milliseconds_to(now),
                "producedBytes": self.produced_bytes,
            },
        });
        if let Status::Error(error_type) = status {
            record["errorType"] = error_type.into();
        }
        if !self.trace_id.is_empty() {
            record["tracing"] = tracing(&self.trace_id);
        }
        Record::platform("platform.runtimeDone", &record)
    }
}

/// How something ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status<'a> {
    Success,
    Timeout,
    /// With an error of this type.
    Error(&'a str),
}

impl Status<'_> {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Timeout => "timeout",
            Self::Error(_) => "error",
        }
    }
}

/// A trace header as records have it.
fn tracing(trace_id: &str) -> Value {
    let mut tracing = json!({ "type": "X-Amzn-Trace-Id", "value": trace_id });
    if let Some(parent) = trace_id.split(';').find_map(|part| part.strip_prefix("Parent=")) {
        tracing["spanId"] = parent.into();
    }
    tracing
}
