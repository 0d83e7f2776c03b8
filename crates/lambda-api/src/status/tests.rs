//! The page without a browser; `tests/tests/status_page.rs` looks at it with one.

use std::time::{Duration, Instant};

use axum::body::Body;
use costrel_fleet::{FleetStatus, InstanceState, InstanceStatus, VersionKey};
use costrel_logs::{LogLine, Source};
use http::Request;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::*;
use crate::{HistoryEntry, HistoryOutcome, HistoryPhase, InvocationMode};

const EVIL: &str = "<script>alert(1)</script>\"'&\u{202e}\u{0}";

struct Fake;

impl StatusSource for Fake {
    fn functions(&self) -> Vec<FunctionRow> {
        let row = |name: &str| FunctionRow {
            name: name.to_owned(),
            origin: FunctionOrigin::Declared,
            state: "Active".to_owned(),
            runtime: EVIL.to_owned(),
            memory: 256,
            timeout: 3,
            versions: vec!["1".to_owned(), "2".to_owned()],
            aliases: vec![("live".to_owned(), "2".to_owned())],
            url: Some("http://abc.lambda-url.localhost:9001/".to_owned()),
        };
        let mut scripted = row("scripted");
        scripted.url = Some("javascript:alert(1)".to_owned());
        vec![row("hello"), row(EVIL), scripted]
    }

    fn fleet(&self) -> FleetStatus {
        let version = VersionKey {
            function: "hello".to_owned(),
            version: "$LATEST".to_owned(),
            revision: "r".to_owned(),
        };
        FleetStatus {
            instances: vec![InstanceStatus {
                id: Uuid::nil(),
                version: version.clone(),
                state: InstanceState::Busy("request-1".to_owned()),
                since: Instant::now(),
                memory: 384 << 20,
                provisioned: false,
            }],
            waiting: vec![(version, 3)],
            concurrency: 4,
            concurrency_limit: 1000,
            memory: 384 << 20,
            memory_limit: 16 << 30,
        }
    }

    fn log(&self, invocation: &HistoryEntry) -> Result<Vec<LogLine>, String> {
        if invocation.function != "hello" {
            return Err("the disk is gone".to_owned());
        }
        Ok(vec![LogLine {
            at: Timestamp::UNIX_EPOCH,
            function: invocation.function.clone(),
            version: invocation.version.clone(),
            instance: Uuid::nil(),
            request_id: Some(invocation.request_id.clone()),
            source: Source::Stdout,
            bytes: format!("one\rtwo {EVIL}").into_bytes(),
        }])
    }
}

fn entry(request_id: &str, function: &str) -> HistoryEntry {
    let phase = |name, began, took| HistoryPhase {
        name,
        began: Duration::from_millis(began),
        took: Duration::from_millis(took),
    };
    HistoryEntry {
        request_id: request_id.to_owned(),
        function: function.to_owned(),
        version: "$LATEST".to_owned(),
        mode: InvocationMode::RequestResponse,
        at: Timestamp::UNIX_EPOCH,
        took: Duration::from_millis(1000),
        start: Some("boot"),
        outcome: HistoryOutcome::FunctionError(EVIL.to_owned()),
        phases: vec![
            phase("stage", 0, 100),
            phase("boot", 100, 500),
            phase("init", 600, 150),
            phase("invoke", 750, 250),
        ],
        trace_id: EVIL.to_owned(),
        is_trace_own: false,
    }
}

async fn get(path: &str, seen: Option<&str>) -> (StatusCode, HeaderMap, String) {
    let history = History::new(10);
    history.add(entry("request-1", "hello"));
    history.add(entry("<request>/2", EVIL));
    let mut request = Request::get(path);
    if let Some(tag) = seen {
        request = request.header(header::IF_NONE_MATCH, tag);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = routes(Arc::new(Fake), history).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn shows_functions_instances_queues_and_invocations() {
    let (status, _, html) = get("/_costrel", None).await;
    assert_eq!(status, StatusCode::OK);
    for expected in [
        "data-function=\"hello\"",
        "live <small>→ 2</small>",
        "href=\"http://abc.lambda-url.localhost:9001/\"",
        "<span class=\"badge good\">busy</span> <small>request-1</small>",
        "384 MiB",
        "3 waiting",
        "data-phase=\"boot\" x=\"10.00%\" y=\"0\" width=\"50.00%\"",
        "aria-label=\"stage 100 ms, boot 500 ms, init 150 ms, handler 250 ms\"",
        "href=\"/_costrel/invocations/%3Crequest%3E%2F2\"",
    ] {
        assert!(html.contains(expected), "{expected}: {html}");
    }
}

#[tokio::test]
async fn an_invocation_shows_its_waterfall_and_its_log() {
    let (status, _, html) = get("/_costrel/invocations/request-1", None).await;
    assert_eq!(status, StatusCode::OK);
    for expected in ["<tr data-phase=\"init\"", "250 ms", "1.00 s", ">one\ntwo &lt;script&gt;"] {
        assert!(html.contains(expected), "{expected}: {html}");
    }
    let (status, _, html) = get("/_costrel/invocations/%3Crequest%3E%2F2", None).await;
    assert_eq!(status, StatusCode::OK);
    assert!(html.contains("the disk is gone"), "{html}");
    let (status, _, html) = get("/_costrel/invocations/%3Cscript%3E", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(html.contains("<code>&lt;script&gt;</code>"), "{html}");
}

#[tokio::test]
async fn text_stays_text() {
    for path in ["/_costrel", "/_costrel/api/overview", "/_costrel/invocations/request-1"] {
        let (_, headers, html) = get(path, None).await;
        let scripts = html.matches("<script").count();
        assert_eq!(scripts, usize::from(!path.contains("api")), "only the page's own: {html}");
        assert!(!html.contains("javascript:"), "{html}");
        assert!(!html.contains('\u{202e}') && !html.contains('\0'), "{html:?}");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        // The policy would keep it from having an effect.
        assert!(!html.contains(" style=") && !html.contains("<style"), "{html}");
    }
}

#[tokio::test]
async fn content_that_was_seen_is_not_sent_again() {
    let (status, headers, html) = get("/_costrel/api/overview", None).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!html.contains("<html"), "only the content");
    let tag = headers[header::ETAG].to_str().unwrap();
    let (status, _, html) = get("/_costrel/api/overview", Some(tag)).await;
    assert_eq!((status, html.as_str()), (StatusCode::NOT_MODIFIED, ""));
    let (status, ..) = get("/_costrel/api/overview", Some("\"other\"")).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn what_the_page_needs_is_served_with_it() {
    let (_, _, html) = get("/_costrel", None).await;
    let links =
        html.split(['"']).filter(|part| part.starts_with("/_costrel/") && part.contains('.'));
    let links: Vec<&str> = links.collect();
    assert_eq!(links, ["/_costrel/icon.svg", "/_costrel/style.css", "/_costrel/script.js"]);
    for link in links {
        let (status, headers, content) = get(link, None).await;
        assert_eq!(status, StatusCode::OK);
        assert!(!content.is_empty() && headers.contains_key(header::CONTENT_TYPE), "{link}");
        assert!(!content.contains("http://") || link.ends_with("svg"), "nothing from elsewhere");
    }
}
