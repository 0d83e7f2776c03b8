use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::*;
use crate::testing::{Answer, Functions, LOG, call, services};

async fn invoked(function: &str, headers: &[(&str, &str)]) -> (Answer, Arc<Functions>) {
    let functions = Arc::<Functions>::default();
    let router = docker_lambda_router(&services(&functions, None), function);
    let path = "/2015-03-31/functions/anything/invocations";
    (call(&router, "POST", path, headers, r#"{"a":1}"#).await, functions)
}

#[tokio::test]
async fn a_function_of_any_name_is_invoked() {
    let (answer, _) = invoked("echo", &[("x-amz-log-type", "Tail")]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, r#"{"a":1}"#));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-amz-log-result"), Some(&*BASE64_STANDARD.encode(LOG)));
    let (answer, _) = invoked("fails", &[]).await;
    assert_eq!(answer.header("x-amz-function-error"), Some("Unhandled"));
    assert_eq!(answer.json()["errorMessage"], "boom");
}

#[tokio::test]
async fn types_of_invocations_have_their_statuses() {
    let (answer, functions) = invoked("echo", &[("x-amz-invocation-type", "DryRun")]).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
    assert!(functions.last.lock().unwrap().is_none());
    let (answer, functions) = invoked("echo", &[("x-amz-invocation-type", "Event")]).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (202, 0));
    while functions.last.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn errors_are_in_docker_lambdas_form() {
    let (answer, _) = invoked("echo", &[("x-amz-client-context", "%")]).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["errorType"], "ClientContextDecodingError");
    let (answer, _) = invoked("plain-error", &[]).await;
    assert_eq!(answer.status.as_u16(), 299);
    assert_eq!(answer.json()["errorType"], "InvalidErrorShape");
}

#[tokio::test]
async fn pages_of_this_host_may_call_and_others_may_not() {
    let functions = Arc::<Functions>::default();
    let router = docker_lambda_router(&services(&functions, None), "echo");
    let path = "/2015-03-31/functions/f/invocations";
    let asked = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x-amz-user-agent"),
        ]
    };
    let answer = call(&router, "OPTIONS", path, &asked("http://localhost:3000"), "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-amz-user-agent"));
    assert_eq!(answer.header("access-control-max-age"), Some("172800"));
    let page = [("origin", "http://localhost:3000")];
    let answer = call(&router, "POST", path, &page, "{}").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:3000"));
    let answer = call(&router, "OPTIONS", path, &asked("http://evil.example"), "").await;
    assert_eq!(answer.status, 403);
    assert_eq!(call(&router, "OPTIONS", path, &[], "").await.status, 403);
}
