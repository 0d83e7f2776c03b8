use std::sync::atomic::Ordering;

use super::*;
use crate::testing::{Answer, Functions, LEAVE, call, services};

fn emulator(function: &str) -> (Router, Arc<Functions>) {
    let functions = Arc::<Functions>::default();
    (rie_router(&services(&functions, None), function), functions)
}

async fn invoked(function: &str, body: &'static str) -> Answer {
    let (router, _) = emulator(function);
    let answer = call(&router, "POST", PATH, &[], body).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    answer
}

#[tokio::test]
async fn results_and_the_functions_own_errors_are_results() {
    let answer = invoked("echo", r#"{"a":1}"#).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, r#"{"a":1}"#));
    let answer = invoked("fails", "{}").await;
    assert_eq!((answer.status.as_u16(), answer.json()["errorType"].as_str()), (200, Some("Error")));
}

#[tokio::test]
async fn what_is_sent_is_sent_on_as_it_is() {
    assert_eq!(invoked("echo", "no json").await.text(), "no json");
    assert_eq!(invoked("echo", "").await.text(), "");
}

#[tokio::test]
async fn the_sandboxs_errors_are_bad_gateways() {
    for (function, kind) in
        [("crashes", "Runtime.ExitError"), ("oversize", "Function.ResponseSizeTooLarge")]
    {
        let answer = invoked(function, "{}").await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["errorType"].as_str()),
            (502, Some(kind))
        );
    }
}

#[tokio::test]
async fn a_timeout_is_a_result_in_plain_words() {
    let answer = invoked("times-out", "{}").await;
    let got = (answer.status.as_u16(), answer.text());
    assert_eq!(got, (200, "Task timed out after 2.00 seconds"));
}

#[tokio::test]
async fn any_method_will_do_and_no_other_path() {
    let (router, _) = emulator("echo");
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        assert_eq!(call(&router, method, PATH, &[], "1").await.status, 200, "{method}");
    }
    for path in ["/", "/2015-03-31/functions/echo/invocations", "/_costrel", "/metrics"] {
        let answer = call(&router, "POST", path, &[], "{}").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (404, "404 page not found\n"));
    }
}

#[tokio::test]
async fn a_client_context_that_is_none_is_an_error() {
    let (router, _) = emulator("echo");
    let answer = call(&router, "POST", PATH, &[("x-amz-client-context", "%")], "{}").await;
    assert_eq!(answer.status, 500);
}

#[tokio::test]
async fn invocations_run_one_after_the_other() {
    let (router, functions) = emulator("slow");
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let router = router.clone();
            tokio::spawn(async move { call(&router, "POST", PATH, &[], "1").await })
        })
        .collect();
    LEAVE.add_permits(3);
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(functions.most_running.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_page_drives_it_be_it_by_an_image() {
    let (router, _) = emulator("echo");
    let image = [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")];
    assert_eq!(call(&router, "GET", PATH, &image, "").await.status, 403);
    let navigation = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    assert_eq!(call(&router, "GET", PATH, &navigation, "").await.status, 403);
    assert_eq!(call(&router, "GET", PATH, &[("host", "evil.example")], "").await.status, 403);
}
