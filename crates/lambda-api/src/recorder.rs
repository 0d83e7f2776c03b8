//! Invocations as all ways into the API make them: run to their end, counted, and remembered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use costrel_fleet::{InvokeError, Invoked, StartKind};
use costrel_functions::{Invocation, ResponsePart};
use http::HeaderMap;
use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    ApiError, Callable, ErrorKind, History, HistoryEntry, HistoryOutcome, HistoryPhase,
    InvocationMode, Metrics, Spans, error::kind_of, trace,
};

/// So many pieces of a response may be on their way to a caller that is slow to take them.
const PIECES: usize = 4;

/// When a request arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// On the wall.
    pub(crate) at: Timestamp,
    /// The same moment.
    pub(crate) instant: Instant,
}

impl Arrival {
    pub(crate) fn now() -> Self {
        Self { at: Timestamp::now(), instant: Instant::now() }
    }
}

/// Makes invocations, and remembers what came of them. A clone is another handle to the same.
#[derive(Clone)]
pub struct Recorder {
    history: History,
    metrics: Metrics,
    spans: Option<Spans>,
}

/// An invocation to be run: of what, how it was asked for, and since when it is there.
pub(crate) struct Call {
    pub(crate) callable: Arc<dyn Callable>,
    pub(crate) invocation: Invocation,
    pub(crate) mode: InvocationMode,
    pub(crate) arrival: Arrival,
    /// Whether its trace was made here.
    pub(crate) is_trace_own: bool,
}

/// An invocation whose response comes piece by piece.
pub(crate) struct StreamedCall {
    /// The pieces.
    pub(crate) parts: mpsc::Receiver<ResponsePart>,
    /// What came of it, known after the last piece.
    pub(crate) end: JoinHandle<Result<Invoked, ApiError>>,
}

impl Recorder {
    /// Remembers in `history`, counts in `metrics`, and hands spans to `spans`.
    #[must_use]
    pub fn new(history: History, metrics: Metrics, spans: Option<Spans>) -> Self {
        Self { history, metrics, spans }
    }

    /// A call with a new request id, in the trace that the caller names or in a new one.
    pub(crate) fn new_call(
        &self,
        callable: Arc<dyn Callable>,
        payload: Bytes,
        mode: InvocationMode,
        (arrival, headers): (Arrival, &HeaderMap),
    ) -> Call {
        let mut invocation = Invocation::new(callable.arn(), payload);
        let named = trace::named(headers);
        if let Some(trace) = named {
            trace.clone_into(&mut invocation.trace_id);
        } else if self.spans.is_some() {
            // Whoever has traces exported wants to see this one.
            invocation.trace_id = invocation.trace_id.replace("Sampled=0", "Sampled=1");
        }
        Call { callable, invocation, mode, arrival, is_trace_own: named.is_none() }
    }

    /// Runs an invocation. It goes on to its end even if nobody waits for that any more, as on AWS.
    ///
    /// # Errors
    /// What the caller is told where there is no outcome.
    pub(crate) async fn run(&self, call: Call) -> Result<Invoked, ApiError> {
        joined(self.spawn(call, None)).await
    }

    /// Runs an invocation whose response goes out as it comes.
    pub(crate) fn run_streamed(&self, call: Call) -> StreamedCall {
        let (sender, parts) = mpsc::channel(PIECES);
        StreamedCall { parts, end: self.spawn(call, Some(sender)) }
    }

    /// Forgets the figures of a function that is no more.
    pub fn forget_function(&self, function: &str) {
        self.metrics.forget_function(function);
    }

    /// Runs an attempt at an asynchronous invocation, which the queue has kept until now.
    ///
    /// # Errors
    /// [`InvokeError`]: it has no outcome.
    pub async fn run_event(
        &self,
        callable: &dyn Callable,
        invocation: Invocation,
    ) -> Result<Invoked, InvokeError> {
        let arrival = Arrival::now();
        let entry = entry(callable, &invocation, InvocationMode::Event, arrival);
        self.run_recorded(callable, invocation, None, entry, arrival.instant).await
    }

    fn spawn(
        &self,
        call: Call,
        response: Option<mpsc::Sender<ResponsePart>>,
    ) -> JoinHandle<Result<Invoked, ApiError>> {
        let recorder = self.clone();
        tokio::spawn(async move {
            let Call { callable, invocation, mode, arrival, is_trace_own } = call;
            let mut entry = entry(&*callable, &invocation, mode, arrival);
            entry.is_trace_own = is_trace_own;
            let invoked = recorder
                .run_recorded(&*callable, invocation, response, entry, arrival.instant)
                .await;
            invoked.map_err(ApiError::from).and_then(restored)
        })
    }

    async fn run_recorded(
        &self,
        callable: &dyn Callable,
        invocation: Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
        mut entry: HistoryEntry,
        arrived: Instant,
    ) -> Result<Invoked, InvokeError> {
        let result = callable.invoke(invocation, response).await;
        entry.end(arrived, &result);
        self.record(entry, &result);
        result
    }

    /// Remembers an invocation that is over.
    fn record(&self, entry: HistoryEntry, result: &Result<Invoked, InvokeError>) {
        if let Err(error) = result {
            tracing::warn!(
                request_id = entry.request_id,
                function = entry.function,
                error = error as &dyn std::error::Error,
                "an invocation has no outcome"
            );
        }
        self.metrics.invoked(&entry, result.as_ref().ok());
        if let Some(spans) = &self.spans {
            spans.export(&entry);
        }
        self.history.add(entry);
    }
}

/// A function whose hooks failed after a restore has not run: that is no answer of its own.
fn restored(invoked: Invoked) -> Result<Invoked, ApiError> {
    let Err(error) = &invoked.outcome.reply else { return Ok(invoked) };
    // A function may call its own errors what it likes. Those are no failures of its sandbox.
    let kind = match error.error_type.as_str() {
        _ if invoked.outcome.report.failure.is_none() => return Ok(invoked),
        "SnapStartTimeoutException" => ErrorKind::SnapStartTimeout,
        "Runtime.AfterRestoreError" => ErrorKind::SnapStart,
        _ => return Ok(invoked),
    };
    let told = serde_json::from_slice::<serde_json::Value>(&error.payload).ok();
    let told = told.as_ref().and_then(|error| error.get("errorMessage")?.as_str());
    Err(ApiError::new(kind, told.unwrap_or("The function's hooks failed after its restore.")))
}

/// What came of a task that runs an invocation.
pub(crate) async fn joined(
    task: JoinHandle<Result<Invoked, ApiError>>,
) -> Result<Invoked, ApiError> {
    task.await.unwrap_or_else(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "an invocation was lost");
        Err(ApiError::new(ErrorKind::Service, "The invocation was lost."))
    })
}

/// An invocation that has come to nothing yet.
fn entry(
    callable: &dyn Callable,
    invocation: &Invocation,
    mode: InvocationMode,
    arrival: Arrival,
) -> HistoryEntry {
    HistoryEntry {
        request_id: invocation.request_id.clone(),
        function: callable.function().to_owned(),
        version: callable.version().to_owned(),
        mode,
        at: arrival.at,
        took: Duration::ZERO,
        start: None,
        outcome: HistoryOutcome::Succeeded,
        phases: Vec::new(),
        trace_id: invocation.trace_id.clone(),
        is_trace_own: false,
    }
}

impl HistoryEntry {
    /// Notes what came of the invocation, which has ended now.
    fn end(&mut self, arrived: Instant, result: &Result<Invoked, InvokeError>) {
        self.took = arrived.elapsed();
        match result {
            Ok(invoked) => {
                self.start = Some(start_name(invoked.start));
                if let Err(error) = &invoked.outcome.reply {
                    self.outcome = HistoryOutcome::FunctionError(error.error_type.clone());
                }
                let phases = invoked.timeline.phases().iter().filter(|phase| phase.ended > arrived);
                self.phases = phases
                    .map(|phase| {
                        // What was done ahead of the invocation began before it.
                        let began = phase.began.max(arrived);
                        HistoryPhase {
                            name: phase.name,
                            began: began - arrived,
                            took: phase.ended.saturating_duration_since(began),
                        }
                    })
                    .collect();
            }
            Err(error) => self.outcome = HistoryOutcome::Refused(kind_of(error).name()),
        }
    }
}

fn start_name(start: StartKind) -> &'static str {
    match start {
        StartKind::Warm => "warm",
        StartKind::Booted => "boot",
        StartKind::Restored => "restore",
    }
}
