//! Functions without machines, for the tests of what is above them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use bytes::Bytes;
use costrel_catalog::FunctionReference;
use costrel_fleet::{FleetStatus, InvokeError, Invoked, StartKind, Throttle};
use costrel_functions::{
    FunctionError, Invocation, Outcome, Reply, Report, ResponsePart, Timeline, log::FailureStatus,
};
use costrel_logs::LogLine;
use http::{HeaderMap, Request, StatusCode};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::{
    ApiError, ApiSettings, Callable, FunctionRow, FunctionUrl, GaugeSource, Gauges, History,
    HistoryEntry, Invoker, Metrics, Services, StatusSource, Token, body::collect, router,
};

/// The log that every invocation leaves.
pub(crate) const LOG: &str = "START\nEND\n";

/// Functions that do what their names say.
#[derive(Default)]
pub(crate) struct Functions {
    pub(crate) urls: Mutex<Vec<FunctionUrl>>,
    /// What was enqueued.
    pub(crate) events: Mutex<Vec<Invocation>>,
    /// The payload of the last invocation.
    pub(crate) last: Mutex<Option<Invocation>>,
    /// What `fixed` and `parts` respond with.
    pub(crate) fixed: Mutex<(String, Vec<Bytes>)>,
    pub(crate) running: AtomicUsize,
    pub(crate) most_running: AtomicUsize,
    /// How many pieces `endless` got rid of.
    pub(crate) sent: AtomicUsize,
    pub(crate) completed: AtomicUsize,
}

/// `slow` waits for leave.
pub(crate) static LEAVE: Semaphore = Semaphore::const_new(0);

pub(crate) fn services(functions: &Arc<Functions>, token: Option<&str>) -> Services {
    Services {
        settings: Arc::new(ApiSettings {
            account_id: "000000000000".to_owned(),
            region: "us-east-1".to_owned(),
            token: token.map(|token| Token::new(token.to_owned())),
            host_aliases: Vec::new(),
        }),
        catalog: None,
        invoker: Arc::new(functions.clone()),
        gauges: Arc::new(Nothing),
        history: History::new(10),
        status: Arc::new(Nothing),
        metrics: Metrics::default(),
        spans: None,
    }
}

/// The whole API over functions of its own.
pub(crate) fn api() -> (Router, Arc<Functions>) {
    let functions = Arc::<Functions>::default();
    (router(&services(&functions, None)), functions)
}

/// A response that was read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Sends a request to `localhost`, unless the headers have another host.
pub(crate) async fn call(
    router: &Router,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(uri);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = collect(body, 64 << 20).await.unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

struct Nothing;

impl GaugeSource for Nothing {
    fn read(&self) -> Gauges {
        Gauges::default()
    }
}

impl StatusSource for Nothing {
    fn functions(&self) -> Vec<FunctionRow> {
        Vec::new()
    }

    fn fleet(&self) -> FleetStatus {
        FleetStatus {
            instances: Vec::new(),
            waiting: Vec::new(),
            concurrency: 0,
            concurrency_limit: 0,
            memory: 0,
            memory_limit: 0,
        }
    }

    fn log(&self, _invocation: &HistoryEntry) -> Result<Vec<LogLine>, String> {
        Ok(Vec::new())
    }
}

struct Named {
    functions: Arc<Functions>,
    name: String,
    version: String,
    arn: String,
}

const NAMES: [&str; 21] = [
    "echo",
    "describe",
    "fails",
    "crashes",
    "oversize",
    "times-out",
    "plain-error",
    "reserved",
    "account",
    "full",
    "draining",
    "too-large",
    "slow",
    "fixed",
    "parts",
    "breaks",
    "endless",
    "lost",
    "restore-times-out",
    "restore-fails",
    "pretends",
];

impl Invoker for Arc<Functions> {
    fn resolve(
        &self,
        function: &str,
        qualifier: Option<&str>,
    ) -> Result<Arc<dyn Callable>, ApiError> {
        let wrong =
            |error: costrel_catalog::ReferenceError| ApiError::invalid_parameter(error.to_string());
        let reference: FunctionReference = function.parse().map_err(wrong)?;
        let reference = reference.qualified(qualifier).map_err(wrong)?;
        let suffix = reference.qualifier.as_ref().map(|it| format!(":{it}")).unwrap_or_default();
        let arn =
            format!("arn:aws:lambda:us-east-1:000000000000:function:{}{suffix}", reference.name);
        if !NAMES.contains(&&*reference.name) {
            return Err(ApiError::function_not_found(&arn));
        }
        let version = if suffix.is_empty() { "$LATEST" } else { "7" }.to_owned();
        Ok(Arc::new(Named { functions: self.clone(), name: reference.name, version, arn }))
    }

    fn function_url(&self, id: &str) -> Option<Arc<FunctionUrl>> {
        let urls = self.urls.lock().unwrap();
        urls.iter().find(|url| url.id == id).cloned().map(Arc::new)
    }
}

fn failure(kind: &str, payload: impl Into<Bytes>, status: Option<FailureStatus>) -> Ended {
    let error = FunctionError { error_type: kind.to_owned(), payload: payload.into() };
    (Err(error), status)
}

type Ended = (Result<Reply, FunctionError>, Option<FailureStatus>);

fn error_json(kind: &str, message: &str) -> String {
    json!({ "errorType": kind, "errorMessage": message }).to_string()
}

impl Named {
    async fn run(
        &self,
        invocation: &Invocation,
        response: Option<&mpsc::Sender<ResponsePart>>,
    ) -> Result<Ended, InvokeError> {
        let ok = |payload: Bytes| {
            (Ok(Reply { content_type: "application/json".to_owned(), payload }), None)
        };
        let exit = "RequestId: id Error: Runtime exited with error: exit status 3";
        Ok(match &*self.name {
            "echo" => ok(invocation.payload.clone()),
            "describe" => ok(Bytes::from(
                json!({
                    "requestId": invocation.request_id,
                    "arn": invocation.function_arn,
                    "trace": invocation.trace_id,
                    "clientContext": invocation.client_context,
                })
                .to_string(),
            )),
            "fails" => failure("Error", error_json("Error", "boom"), None),
            "crashes" => failure(
                "Runtime.ExitError",
                error_json("Runtime.ExitError", exit),
                Some(FailureStatus::Error("Runtime.ExitError".to_owned())),
            ),
            "oversize" => failure(
                "Function.ResponseSizeTooLarge",
                error_json("Function.ResponseSizeTooLarge", "too large"),
                None,
            ),
            "times-out" => failure(
                "Sandbox.Timedout",
                error_json(
                    "Sandbox.Timedout",
                    "RequestId: id Error: Task timed out after 2.00 seconds",
                ),
                Some(FailureStatus::Timeout),
            ),
            "restore-times-out" => failure(
                "SnapStartTimeoutException",
                error_json("SnapStartTimeoutException", "too slow"),
                Some(FailureStatus::Timeout),
            ),
            "restore-fails" => failure(
                "Runtime.AfterRestoreError",
                "no json",
                Some(FailureStatus::Error("Runtime.AfterRestoreError".to_owned())),
            ),
            "pretends" => failure("SnapStartTimeoutException", "{}", None),
            "plain-error" => failure("Error", "no json", None),
            "reserved" => return Err(Throttle::ReservedConcurrency.into()),
            "account" => return Err(Throttle::AccountConcurrency.into()),
            "full" => return Err(Throttle::QueueFull.into()),
            "draining" => return Err(InvokeError::Draining),
            "too-large" => return Err(InvokeError::OversizedForHost { needed: 2, limit: 1 }),
            "lost" => panic!("this function is not well"),
            "slow" => {
                LEAVE.acquire().await.unwrap().forget();
                ok(invocation.payload.clone())
            }
            "fixed" => ok(self.functions.fixed.lock().unwrap().1.concat().into()),
            name @ ("parts" | "breaks") => {
                let (content_type, parts) = self.functions.fixed.lock().unwrap().clone();
                if let Some(response) = response {
                    let start = ResponsePart::Start { content_type, streaming: true };
                    let _ = response.send(start).await;
                    for part in parts {
                        let _ = response.send(ResponsePart::Chunk(part)).await;
                    }
                }
                if name == "breaks" {
                    failure("Error", error_json("Error", "broke off"), None)
                } else {
                    ok(Bytes::new())
                }
            }
            _ => {
                let response = response.expect("it streams");
                let start = ResponsePart::Start { content_type: String::new(), streaming: true };
                let _ = response.send(start).await;
                let piece = Bytes::from(vec![b'.'; 64 << 10]);
                while response.send(ResponsePart::Chunk(piece.clone())).await.is_ok() {
                    self.functions.sent.fetch_add(1, Ordering::SeqCst);
                }
                ok(Bytes::new())
            }
        })
    }
}

#[async_trait]
impl Callable for Named {
    fn function(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn arn(&self) -> &str {
        &self.arn
    }

    async fn invoke(
        &self,
        invocation: Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
    ) -> Result<Invoked, InvokeError> {
        let functions = &self.functions;
        let began = Instant::now();
        let running = functions.running.fetch_add(1, Ordering::SeqCst) + 1;
        functions.most_running.fetch_max(running, Ordering::SeqCst);
        *functions.last.lock().unwrap() = Some(invocation.clone());
        let ended = self.run(&invocation, response.as_ref()).await;
        functions.running.fetch_sub(1, Ordering::SeqCst);
        functions.completed.fetch_add(1, Ordering::SeqCst);
        let (reply, failure) = ended?;
        if let (Some(response), Ok(reply)) = (&response, &reply)
            && !["parts", "endless"].contains(&&*self.name)
        {
            let content_type = reply.content_type.clone();
            let _ = response.send(ResponsePart::Start { content_type, streaming: false }).await;
            let _ = response.send(ResponsePart::Chunk(reply.payload.clone())).await;
        }
        let mut timeline = Timeline::default();
        timeline.add("stage", began.checked_sub(Duration::from_secs(9)).unwrap(), began);
        timeline.end("invoke", began);
        Ok(Invoked {
            outcome: Outcome {
                reply,
                report: Report {
                    duration: Duration::from_millis(2),
                    init_duration: None,
                    restore_duration: None,
                    memory_size_mb: 128,
                    max_memory_used_mb: 30,
                    failure,
                },
            },
            timeline,
            log_tail: Bytes::from_static(LOG.as_bytes()),
            instance: Uuid::nil(),
            start: StartKind::Restored,
        })
    }

    async fn enqueue(&self, invocation: Invocation) -> Result<(), ApiError> {
        self.functions.events.lock().unwrap().push(invocation);
        Ok(())
    }
}
