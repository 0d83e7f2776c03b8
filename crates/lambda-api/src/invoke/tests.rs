use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use axum::Router;
use serde_json::json;
use std::sync::atomic::Ordering;

use super::*;
use crate::{
    HistoryOutcome, router,
    testing::{Answer, Functions, LEAVE, LOG, api, call, services},
};

async fn invoke_named(
    router: &Router,
    name: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let uri = format!("/2015-03-31/functions/{name}/invocations");
    call(router, "POST", &uri, headers, body).await
}

#[track_caller]
fn assert_error(answer: &Answer, status: u16, name: &str, body: &serde_json::Value) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("x-amzn-errortype"), Some(name));
    assert_eq!(answer.json(), *body);
    assert!(answer.header("x-amzn-requestid").is_some());
}

#[tokio::test]
async fn a_function_is_invoked_and_its_answer_comes_back() {
    let (router, _) = api();
    let answer = invoke_named(&router, "echo", &[], r#"{"a": 1}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), r#"{"a": 1}"#);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(answer.header("x-amz-function-error"), None);
    assert_eq!(answer.header("x-amz-log-result"), None);
    assert!(answer.header("x-amzn-trace-id").unwrap().starts_with("Root=1-"));
}

#[tokio::test]
async fn the_request_id_is_the_runtimes_and_the_trace_the_callers() {
    let (router, _) = api();
    let trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
    let context = BASE64_STANDARD.encode(r#"{"custom":{"k":"v"}}"#);
    let headers = [("x-amzn-trace-id", trace), ("x-amz-client-context", &*context)];
    let answer = invoke_named(&router, "describe", &headers, "").await;
    let described = answer.json();
    assert_eq!(described["requestId"], answer.header("x-amzn-requestid").unwrap());
    assert_eq!(described["trace"], trace);
    assert_eq!(answer.header("x-amzn-trace-id"), Some(trace));
    assert_eq!(described["clientContext"], r#"{"custom":{"k":"v"}}"#);
}

#[tokio::test]
async fn functions_are_named_in_all_ways() {
    let (router, _) = api();
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:describe";
    for (name, expected, version) in [
        ("describe", arn.to_owned(), "$LATEST"),
        ("describe:live", format!("{arn}:live"), "7"),
        ("describe%3Alive", format!("{arn}:live"), "7"),
        ("000000000000%3Afunction%3Adescribe", arn.to_owned(), "$LATEST"),
        (
            "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Adescribe%3Alive",
            format!("{arn}:live"),
            "7",
        ),
    ] {
        let answer = invoke_named(&router, name, &[], "").await;
        assert_eq!(answer.json()["arn"], expected, "{name}");
        assert_eq!(answer.header("x-amz-executed-version"), Some(version));
    }
    let qualified = "/2015-03-31/functions/describe/invocations?Qualifier=live";
    let answer = call(&router, "POST", qualified, &[], "").await;
    assert_eq!(answer.json()["arn"], format!("{arn}:live"));
    let twice = "/2015-03-31/functions/describe:1/invocations?Qualifier=live";
    let answer = call(&router, "POST", twice, &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.json()["Type"].as_str()), (400, Some("User")));
}

#[tokio::test]
async fn nothing_is_an_empty_object() {
    let (router, _) = api();
    assert_eq!(invoke_named(&router, "echo", &[], "").await.text(), "{}");
}

#[tokio::test]
async fn the_logs_end_is_sent_to_who_asks_for_it() {
    let (router, _) = api();
    for name in ["echo", "fails"] {
        let answer = invoke_named(&router, name, &[("x-amz-log-type", "Tail")], "").await;
        assert_eq!(answer.header("x-amz-log-result"), Some(&*BASE64_STANDARD.encode(LOG)));
    }
}

#[tokio::test]
async fn a_functions_error_is_an_answer() {
    let (router, _) = api();
    let answer = invoke_named(&router, "fails", &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-amz-function-error"), Some("Unhandled"));
    assert_eq!(answer.json(), json!({ "errorType": "Error", "errorMessage": "boom" }));
}

#[tokio::test]
async fn events_are_queued_and_dry_runs_are_not_run() {
    let (router, functions) = api();
    let event = [("x-amz-invocation-type", "Event")];
    let answer = invoke_named(&router, "echo:live", &event, r#"{"b":2}"#).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (202, &b""[..]));
    let dry = [("x-amz-invocation-type", "DryRun")];
    let answer = invoke_named(&router, "echo", &dry, "").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (204, &b""[..]));
    assert_eq!(invoke_named(&router, "none", &dry, "").await.status, 404);
    let legacy = "/2014-11-13/functions/echo/invoke-async/";
    let answer = call(&router, "POST", legacy, &[], "{}").await;
    assert_eq!(answer.status, 202);
    let events = functions.events.lock().unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(&events[0].payload[..], br#"{"b":2}"#);
    assert!(events[0].function_arn.ends_with(":function:echo:live"));
    assert!(functions.last.lock().unwrap().is_none(), "nothing has run");
}

#[tokio::test]
async fn unknown_functions_are_not_found() {
    let (router, _) = api();
    let answer = invoke_named(&router, "none", &[], "").await;
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:none";
    let body = json!({ "Type": "User", "Message": format!("Function not found: {arn}") });
    assert_error(&answer, 404, "ResourceNotFoundException", &body);
    let answer = invoke_named(&router, "no%20name", &[], "").await;
    assert_eq!(answer.header("x-amzn-errortype"), Some("InvalidParameterValueException"));
}

#[tokio::test]
async fn what_is_no_json_is_refused() {
    let (router, functions) = api();
    for body in [&b"{"[..], b"{} {}", b"nope", b"\"\xff\"", b"[1,]"] {
        let answer = invoke_named(&router, "echo", &[], body).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.header("x-amzn-errortype"), Some("InvalidRequestContentException"));
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("Could not parse request body into json: "), "{message}");
    }
    for context in ["%%%", "bm90IGpzb24="] {
        let answer = invoke_named(&router, "echo", &[("x-amz-client-context", context)], "").await;
        assert_eq!(answer.header("x-amzn-errortype"), Some("InvalidRequestContentException"));
    }
    assert!(functions.last.lock().unwrap().is_none(), "nothing has run");
}

#[tokio::test]
async fn payloads_are_limited_to_the_byte() {
    let (router, functions) = api();
    let json_of = |size: usize| format!("\"{}\"", "a".repeat(size - 2));
    for (invocation_type, limit, accepted) in
        [("RequestResponse", SYNCHRONOUS_LIMIT, 200), ("Event", ASYNCHRONOUS_LIMIT, 202)]
    {
        let headers = [("x-amz-invocation-type", invocation_type)];
        let answer = invoke_named(&router, "echo", &headers, json_of(limit)).await;
        assert_eq!(answer.status, accepted);
        let answer = invoke_named(&router, "echo", &headers, json_of(limit + 1)).await;
        let text = format!(
            "{} byte payload is too large for the {invocation_type} invocation type (limit {limit} bytes)",
            limit + 1
        );
        let body = json!({ "Type": "User", "message": text });
        assert_error(&answer, 413, "RequestTooLargeException", &body);
    }
    assert_eq!(functions.events.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_throttled_are_told_why() {
    let (router, _) = api();
    for (name, reason) in [
        ("reserved", "ReservedFunctionConcurrentInvocationLimitExceeded"),
        ("account", "ConcurrentInvocationLimitExceeded"),
        ("full", "ConcurrentInvocationLimitExceeded"),
    ] {
        let answer = invoke_named(&router, name, &[], "").await;
        let body = json!({ "Type": "User", "message": "Rate Exceeded.", "Reason": reason });
        assert_error(&answer, 429, "TooManyRequestsException", &body);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}

#[tokio::test]
async fn what_has_no_outcome_is_an_error_of_the_service() {
    let (router, _) = api();
    let answer = invoke_named(&router, "draining", &[], "").await;
    let body = json!({ "Type": "Service", "Message": "the fleet is ending" });
    assert_error(&answer, 500, "ServiceException", &body);
    let answer = invoke_named(&router, "lost", &[], "").await;
    assert_eq!(answer.header("x-amzn-errortype"), Some("ServiceException"));
    let answer = invoke_named(&router, "too-large", &[], "").await;
    assert_eq!(answer.header("x-amzn-errortype"), Some("InvalidParameterValueException"));
}

#[tokio::test]
async fn hooks_that_fail_after_a_restore_are_no_answer() {
    let (router, _) = api();
    let answer = invoke_named(&router, "restore-times-out", &[], "").await;
    let body = json!({ "Type": "User", "Message": "too slow" });
    assert_error(&answer, 408, "SnapStartTimeoutException", &body);
    let answer = invoke_named(&router, "restore-fails", &[], "").await;
    let message = "The function's hooks failed after its restore.";
    let body = json!({ "Type": "User", "Message": message });
    assert_error(&answer, 400, "SnapStartException", &body);
    let answer = invoke_named(&router, "pretends", &[], "").await;
    assert_eq!(answer.header("x-amz-function-error"), Some("Unhandled"));
}

#[tokio::test]
async fn an_invocation_goes_on_without_its_caller() {
    let (router, functions) = api();
    let caller = tokio::spawn({
        let router = router.clone();
        async move { invoke_named(&router, "slow", &[], "").await }
    });
    while functions.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    caller.abort();
    assert!(caller.await.is_err());
    LEAVE.add_permits(1);
    while functions.completed.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn invocations_are_remembered_with_their_phases_and_counted() {
    let services = services(&std::sync::Arc::<Functions>::default(), None);
    let router = router(&services);
    let answer = invoke_named(&router, "fails", &[], "").await;
    invoke_named(&router, "reserved", &[], "").await;
    let recent = services.history.recent();
    let [throttled, failed] = &recent[..] else { panic!("{recent:?}") };
    assert_eq!(throttled.outcome, HistoryOutcome::Refused("TooManyRequestsException"));
    assert_eq!(failed.request_id, answer.header("x-amzn-requestid").unwrap());
    assert_eq!(failed.outcome, HistoryOutcome::FunctionError("Error".to_owned()));
    assert_eq!((failed.function.as_str(), failed.start), ("fails", Some("restore")));
    let phases: Vec<_> = failed.phases.iter().map(|phase| phase.name).collect();
    assert!(phases.contains(&"invoke"), "{phases:?}");
    for phase in &failed.phases {
        assert!(
            phase.took < std::time::Duration::from_secs(1),
            "what was before is cut: {phase:?}"
        );
    }
    let figures = call(&router, "GET", "/metrics", &[], "").await;
    assert!(figures.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    for line in [
        r#"costrel_function_errors_total{function="fails"} 1"#,
        r#"costrel_throttles_total{function="reserved"} 1"#,
        r#"costrel_http_requests_total{operation="invoke",status="429"} 1"#,
        r#"costrel_cold_starts_total{function="fails",kind="restore"} 1"#,
    ] {
        assert!(figures.text().contains(line), "{line}:\n{}", figures.text());
    }
}

fn frames(answer: &Answer) -> Vec<(String, Bytes)> {
    let mut decoder = MessageFrameDecoder::new();
    let mut rest = answer.body.clone();
    let mut frames = Vec::new();
    while let DecodedFrame::Complete(message) = decoder.decode_frame(&mut rest).unwrap() {
        let name = message.headers().iter().find(|header| header.name().as_str() == ":event-type");
        let name = name.unwrap().value().as_string().unwrap().as_str().to_owned();
        frames.push((name, message.payload().clone()));
    }
    assert!(rest.is_empty(), "the last frame is whole");
    frames
}

async fn stream(router: &Router, name: &str, headers: &[(&str, &str)]) -> Answer {
    let uri = format!("/2021-11-15/functions/{name}/response-streaming-invocations");
    call(router, "POST", &uri, headers, "{}").await
}

#[tokio::test]
async fn a_response_in_pieces_is_a_frame_a_piece() {
    let (router, functions) = api();
    *functions.fixed.lock().unwrap() =
        ("text/plain".to_owned(), vec!["one".into(), "".into(), "two".into()]);
    let answer = stream(&router, "parts", &[("x-amz-log-type", "Tail")]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/vnd.amazon.eventstream"));
    assert_eq!(answer.header("x-amz-executed-version"), Some("$LATEST"));
    let complete = json!({ "LogResult": BASE64_STANDARD.encode(LOG) }).to_string();
    let expected = [
        ("PayloadChunk".to_owned(), Bytes::from("one")),
        ("PayloadChunk".to_owned(), Bytes::from("two")),
        ("InvokeComplete".to_owned(), Bytes::from(complete)),
    ];
    assert_eq!(frames(&answer), expected);
    let buffered = frames(&stream(&router, "echo", &[]).await);
    assert_eq!(buffered[0], ("PayloadChunk".to_owned(), Bytes::from("{}")));
    assert_eq!(buffered[1], ("InvokeComplete".to_owned(), Bytes::from("{}")));
}

#[tokio::test]
async fn an_error_is_in_the_last_frame() {
    let (router, functions) = api();
    *functions.fixed.lock().unwrap() = (String::new(), vec!["one".into()]);
    for (name, count, message) in [("breaks", 2, "broke off"), ("fails", 1, "boom")] {
        let answer = stream(&router, name, &[]).await;
        assert_eq!(answer.status, 200);
        let frames = frames(&answer);
        assert_eq!(frames.len(), count);
        let (kind, payload) = frames.last().unwrap();
        assert_eq!(kind, "InvokeComplete");
        let end: serde_json::Value = serde_json::from_slice(payload).unwrap();
        assert_eq!(end["ErrorCode"], "Unhandled");
        let details: serde_json::Value =
            serde_json::from_str(end["ErrorDetails"].as_str().unwrap()).unwrap();
        assert_eq!(details["errorMessage"], message);
    }
}

#[tokio::test]
async fn what_never_ran_is_no_stream() {
    let (router, _) = api();
    let answer = stream(&router, "reserved", &[]).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("x-amzn-errortype"), Some("TooManyRequestsException"));
    assert_eq!(stream(&router, "none", &[]).await.status, 404);
    let event = [("x-amz-invocation-type", "Event")];
    assert_eq!(stream(&router, "echo", &event).await.status, 400);
}

#[tokio::test]
async fn a_function_waits_for_who_takes_its_pieces() {
    use tower::ServiceExt as _;
    let (router, functions) = api();
    let request = Request::post("/2021-11-15/functions/endless/response-streaming-invocations")
        .header("host", "localhost")
        .body(Body::empty())
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let ahead = functions.sent.load(Ordering::SeqCst);
    assert!((1..=8).contains(&ahead), "{ahead} pieces were sent that nobody has taken");
    drop(response);
    while functions.completed.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn other_paths_have_no_operation() {
    let (router, _) = api();
    for (method, uri) in [("GET", "/nope"), ("GET", "/2015-03-31/functions/echo/invocations")] {
        let answer = call(&router, method, uri, &[], "").await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("x-amzn-errortype"), Some("UnknownOperationException"));
    }
}

#[tokio::test]
async fn pages_and_strange_hosts_invoke_nothing() {
    let (router, functions) = api();
    for headers in [
        &[("origin", "http://evil.example")][..],
        &[("host", "evil.example")],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
    ] {
        let answer = invoke_named(&router, "echo", headers, "").await;
        assert_eq!(answer.status, 403, "{headers:?}");
        assert_eq!(answer.header("x-amzn-errortype"), Some("AccessDeniedException"));
        assert_eq!(call(&router, "GET", "/_costrel", headers, "").await.status, 403);
        assert_eq!(call(&router, "GET", "/metrics", headers, "").await.status, 403);
    }
    assert!(functions.last.lock().unwrap().is_none());
}

#[tokio::test]
async fn a_token_is_needed_everywhere_if_there_is_one() {
    let router = router(&services(&std::sync::Arc::<Functions>::default(), Some("secret")));
    for uri in ["/2015-03-31/functions/echo/invocations", "/metrics", "/_costrel", "/nope"] {
        let answer = call(&router, "POST", uri, &[("host", "any.example")], "").await;
        assert_eq!(answer.status, 403, "{uri}");
        let name = Some("MissingAuthenticationTokenException");
        assert_eq!(answer.header("x-amzn-errortype"), name);
    }
    let token = [("authorization", "Bearer secret"), ("host", "any.example")];
    assert_eq!(invoke_named(&router, "echo", &token, "").await.status, 200);
}
