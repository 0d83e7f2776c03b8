use std::sync::Mutex;

use axum::{Router, extract::State, routing::post};
use http::HeaderMap;
use prost::Message as _;

use super::*;
use crate::{HistoryPhase, InvocationMode};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span,
};

type Received = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

async fn take(State(received): State<Received>, headers: HeaderMap, body: Bytes) {
    received.lock().unwrap().push((headers, body));
}

fn entry(trace_id: &str, is_trace_own: bool) -> HistoryEntry {
    HistoryEntry {
        request_id: "id".to_owned(),
        function: "f".to_owned(),
        version: "1".to_owned(),
        mode: InvocationMode::RequestResponse,
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        took: Duration::from_millis(30),
        start: Some("restore"),
        outcome: HistoryOutcome::FunctionError("Boom".to_owned()),
        phases: vec![HistoryPhase {
            name: "invoke",
            began: Duration::from_millis(10),
            took: Duration::from_millis(20),
        }],
        trace_id: trace_id.to_owned(),
        is_trace_own,
    }
}

/// Exports, and gives what a collector got.
async fn exported(entries: Vec<HistoryEntry>) -> Vec<(HeaderMap, ExportTraceServiceRequest)> {
    let received = Received::default();
    let collector = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = crate::Server::of(listener);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        server.serve(collector, async { drop(stopped.await) }, Duration::ZERO).await;
    });
    let settings = SpanSettings {
        endpoint,
        headers: [("x-key".to_owned(), "k".to_owned())].into(),
        service_name: "costrel".to_owned(),
    };
    let spans = Spans::new(&settings, "1.2.3").unwrap();
    for entry in &entries {
        spans.export(entry);
    }
    tokio::task::spawn_blocking(move || spans.shut_down()).await.unwrap();
    drop(stop);
    serving.await.unwrap();
    let received = received.lock().unwrap();
    let decoded = received.iter().map(|(headers, body)| {
        (headers.clone(), ExportTraceServiceRequest::decode(body.clone()).unwrap())
    });
    decoded.collect()
}

fn all(requests: &[(HeaderMap, ExportTraceServiceRequest)]) -> Vec<Span> {
    let resources = requests.iter().flat_map(|(_, request)| &request.resource_spans);
    resources.flat_map(|it| &it.scope_spans).flat_map(|it| it.spans.clone()).collect()
}

const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_is_a_span_with_its_phases_below() {
    let requests = exported(vec![entry(TRACE, false)]).await;
    assert_eq!(requests[0].0["x-key"], "k");
    assert_eq!(requests[0].0["content-type"], "application/x-protobuf");
    let spans = all(&requests);
    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (invocation, phase) = (find("invoke f"), find("invoke"));
    assert_eq!(crate::signature::hex(&invocation.trace_id), "5759e988bd862e3fe1be46a994272793");
    assert_eq!(crate::signature::hex(&invocation.parent_span_id), "53995c3f42cd8ad8");
    assert_eq!(phase.trace_id, invocation.trace_id);
    assert_eq!(phase.parent_span_id, invocation.span_id);
    let arrived = 1_767_225_600_000_000_000;
    assert_eq!(invocation.start_time_unix_nano, arrived);
    assert_eq!(invocation.end_time_unix_nano, arrived + 30_000_000);
    assert_eq!(phase.start_time_unix_nano, arrived + 10_000_000);
    assert_eq!(phase.end_time_unix_nano, arrived + 30_000_000);
    assert_eq!(invocation.status.as_ref().unwrap().message, "Boom");
    assert!(invocation.attributes.iter().any(|it| it.key == "faas.coldstart"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_of_our_own_begins_with_the_span_that_the_function_sees() {
    let spans = all(&exported(vec![entry(TRACE, true)]).await);
    let invocation = spans.iter().find(|span| span.name == "invoke f").unwrap();
    assert_eq!(crate::signature::hex(&invocation.span_id), "53995c3f42cd8ad8");
    assert!(invocation.parent_span_id.iter().all(|byte| *byte == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_is_not_exported() {
    let unsampled = TRACE.replace("Sampled=1", "Sampled=0");
    assert!(all(&exported(vec![entry(&unsampled, false), entry("", false)]).await).is_empty());
}
