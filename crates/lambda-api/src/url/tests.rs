use axum::Router;
use serde_json::{Value, json};

use super::*;
use crate::{
    UrlCors,
    testing::{Answer, Functions, api, call},
};

const HOST: &str = "abc123.lambda-url.us-east-1.localhost:9000";

fn with_url(functions: &Functions, function: &str, mode: UrlMode) {
    let url = FunctionUrl {
        id: "abc123".to_owned(),
        function: function.to_owned(),
        qualifier: None,
        auth: UrlAuth::None,
        mode,
        cors: None,
    };
    *functions.urls.lock().unwrap() = vec![url];
}

fn change(functions: &Functions, change: impl FnOnce(&mut FunctionUrl)) {
    change(&mut functions.urls.lock().unwrap()[0]);
}

fn returns(functions: &Functions, content_type: &str, pieces: &[&'static str]) {
    let pieces = pieces.iter().map(|&piece| piece.into()).collect();
    *functions.fixed.lock().unwrap() = (content_type.to_owned(), pieces);
}

async fn get(router: &Router, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("host", HOST)], headers].concat();
    call(router, "GET", "/", &headers, "").await
}

/// The event that an echoing function saw.
async fn event(
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: &'static [u8],
) -> (Value, Answer) {
    let (router, functions) = api();
    with_url(&functions, "echo", UrlMode::Buffered);
    let headers = [&[("host", HOST)], headers].concat();
    let answer = call(&router, method, uri, &headers, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.json(), answer)
}

#[tokio::test]
async fn a_request_becomes_an_event() {
    let (event, answer) = event(
        "POST",
        "/a%20b/c?x=1&y=%C3%A9&x=2",
        &[
            ("user-agent", "test/1"),
            ("cookie", "one=1; two=2"),
            ("X-Multi", "a"),
            ("x-multi", "b"),
            ("content-type", "application/json"),
        ],
        b"{\"k\":1}",
    )
    .await;
    let request_id = answer.header("x-amzn-requestid").unwrap();
    let context = &event["requestContext"];
    let time = context["time"].as_str().unwrap();
    let time = jiff::Timestamp::strptime("%d/%b/%Y:%H:%M:%S %z", time).unwrap();
    assert_eq!(context["timeEpoch"].as_i64().unwrap() / 1000, time.as_second());
    assert_eq!(
        event,
        json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/a%20b/c",
            "rawQueryString": "x=1&y=%C3%A9&x=2",
            "cookies": ["one=1", "two=2"],
            "headers": {
                "host": HOST,
                "user-agent": "test/1",
                "x-multi": "a,b",
                "content-type": "application/json",
                "x-forwarded-for": "127.0.0.1",
                "x-forwarded-proto": "http",
                "x-forwarded-port": "9000",
                "x-amzn-trace-id": answer.header("x-amzn-trace-id").unwrap(),
            },
            "queryStringParameters": { "x": "1,2", "y": "é" },
            "requestContext": {
                "accountId": "anonymous",
                "apiId": "abc123",
                "domainName": "abc123.lambda-url.us-east-1.localhost",
                "domainPrefix": "abc123",
                "http": {
                    "method": "POST",
                    "path": "/a%20b/c",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "127.0.0.1",
                    "userAgent": "test/1",
                },
                "requestId": request_id,
                "routeKey": "$default",
                "stage": "$default",
                "time": context["time"],
                "timeEpoch": context["timeEpoch"],
            },
            "body": "{\"k\":1}",
            "isBase64Encoded": false,
        })
    );
}

#[tokio::test]
async fn what_is_not_there_is_left_out() {
    let (event, _) = event("GET", "/", &[], b"").await;
    let event = event.as_object().unwrap();
    for absent in ["cookies", "queryStringParameters", "body"] {
        assert!(!event.contains_key(absent), "{absent}");
    }
    assert_eq!(event["rawQueryString"], "");
}

#[tokio::test]
async fn binary_bodies_and_forms_come_in_base64() {
    for (media_type, body, encoded) in [
        ("application/octet-stream", &b"text"[..], "dGV4dA=="),
        ("application/x-www-form-urlencoded", b"a=b", "YT1i"),
        ("text/plain", b"\xff\xfe", "//4="),
    ] {
        let (event, _) = event("POST", "/", &[("content-type", media_type)], body).await;
        assert_eq!(event["body"], encoded, "{media_type}");
        assert_eq!(event["isBase64Encoded"], true);
    }
}

#[tokio::test]
async fn a_request_that_grows_too_large_is_refused() {
    let (router, functions) = api();
    with_url(&functions, "echo", UrlMode::Buffered);
    let headers = [("host", HOST), ("content-type", "application/octet-stream")];
    let large = vec![0; 5 << 20];
    let answer = call(&router, "POST", "/", &headers, large).await;
    assert_eq!(answer.status, 413);
    assert!(functions.last.lock().unwrap().is_none());
}

#[tokio::test]
async fn a_function_url_is_found_by_its_path_as_well() {
    let (router, functions) = api();
    with_url(&functions, "echo", UrlMode::Buffered);
    let answer = call(&router, "GET", "/_costrel/url/abc123/a/b?c=d", &[], "").await;
    assert_eq!(answer.json()["rawPath"], "/a/b");
    assert_eq!(answer.json()["requestContext"]["apiId"], "abc123");
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.starts_with("sandbox") && !policy.contains("same-origin"), "{policy}");
    let root = call(&router, "GET", "/_costrel/url/abc123", &[], "").await;
    assert_eq!(root.json()["rawPath"], "/");
}

#[tokio::test]
async fn an_unknown_one_is_forbidden() {
    let (router, _) = api();
    let answer = get(&router, &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (403, r#"{"Message":"Forbidden"}"#));
}

#[tokio::test]
async fn a_functions_error_is_a_bad_gateway() {
    for mode in [UrlMode::Buffered, UrlMode::ResponseStream] {
        for function in ["fails", "crashes", "times-out"] {
            let (router, functions) = api();
            with_url(&functions, function, mode);
            let answer = get(&router, &[]).await;
            let got = (answer.status.as_u16(), answer.text());
            assert_eq!(got, (502, "Internal Server Error"), "{function}");
        }
        let (router, functions) = api();
        with_url(&functions, "reserved", mode);
        assert_eq!(get(&router, &[]).await.status, 429);
    }
}

#[tokio::test]
async fn what_a_function_describes_is_the_response() {
    let (router, functions) = api();
    with_url(&functions, "fixed", UrlMode::Buffered);
    returns(
        &functions,
        "",
        &[r#"{"statusCode":418,"headers":{"x-a":"b"},"cookies":["c=d"],"body":"tea"}"#],
    );
    let answer = get(&router, &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (418, "tea"));
    assert_eq!((answer.header("x-a"), answer.header("set-cookie")), (Some("b"), Some("c=d")));
    assert!(answer.header("x-amzn-requestid").is_some());
    let head = call(&router, "HEAD", "/", &[("host", HOST)], "").await;
    assert_eq!((head.status.as_u16(), head.text()), (418, ""));
}

#[tokio::test]
async fn a_streamed_response_may_have_a_prelude() {
    let (router, functions) = api();
    with_url(&functions, "parts", UrlMode::ResponseStream);
    let prelude_type = "application/vnd.awslambda.http-integration-response";
    returns(
        &functions,
        prelude_type,
        &[
            r#"{"statusCode":201,"headers":{"content-"#,
            "type\":\"text/x\"},\"cookies\":[\"a=b\"]}\0\0\0",
            "\0\0\0\0\0one",
            "two",
        ],
    );
    let answer = get(&router, &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (201, "onetwo"));
    assert_eq!(answer.header("content-type"), Some("text/x"));
    assert_eq!(answer.header("set-cookie"), Some("a=b"));
    returns(&functions, "text/y", &["one", "two"]);
    let answer = get(&router, &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "onetwo"));
    assert_eq!(answer.header("content-type"), Some("text/y"));
    returns(&functions, prelude_type, &["no prelude"]);
    assert_eq!(get(&router, &[]).await.status, 502);
}

#[tokio::test]
async fn a_streamed_response_that_breaks_off_is_not_complete() {
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;
    let (router, functions) = api();
    with_url(&functions, "breaks", UrlMode::ResponseStream);
    returns(&functions, "text/plain", &["one"]);
    let request = Request::get("/").header("host", HOST).body(Body::empty()).unwrap();
    let mut body = router.oneshot(request).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn iam_wants_a_signature() {
    let (router, functions) = api();
    with_url(&functions, "echo", UrlMode::Buffered);
    change(&functions, |url| url.auth = UrlAuth::Iam);
    let answer = get(&router, &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (403, r#"{"Message":"Forbidden"}"#));
    let signed = "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=00";
    let answer = get(&router, &[("authorization", signed)]).await;
    let context = &answer.json()["requestContext"];
    assert_eq!(context["accountId"], "000000000000");
    assert_eq!(context["authorizer"]["iam"]["accessKey"], "AKID");
}

#[tokio::test]
async fn web_pages_are_let_in_as_the_owner_says() {
    let (router, functions) = api();
    with_url(&functions, "echo", UrlMode::Buffered);
    let cors = UrlCors {
        allow_origins: vec!["https://app.example".to_owned()],
        allow_methods: vec!["*".to_owned()],
        ..UrlCors::default()
    };
    change(&functions, |url| url.cors = Some(cors));
    let app = [("origin", "https://app.example")];
    let answer = get(&router, &app).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    let preflight = [app[0], ("access-control-request-method", "PUT"), ("host", HOST)];
    *functions.last.lock().unwrap() = None;
    let answer = call(&router, "OPTIONS", "/", &preflight, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-methods"), Some("*"));
    assert!(functions.last.lock().unwrap().is_none(), "the function is not asked");
    assert_eq!(get(&router, &[("origin", "https://evil.example")]).await.status, 403);
    change(&functions, |url| url.cors = None);
    assert_eq!(get(&router, &app).await.status, 403);
    let developer = [("origin", "http://localhost:3000"), ("host", HOST)];
    let answer = call(&router, "OPTIONS", "/", &developer, "").await;
    assert_eq!(answer.json()["requestContext"]["http"]["method"], "OPTIONS");
}

#[test]
fn ids_stand_in_hosts_and_paths() {
    assert_eq!(id_in_host(HOST), Some("abc123"));
    for host in ["lambda-url.us-east-1.localhost", "A.lambda-url.x", ".lambda-url.x", "localhost"] {
        assert_eq!(id_in_host(host), None, "{host}");
    }
    assert_eq!(id_in_path("/_costrel/url/a1/x/y"), Some(("a1", "/x/y")));
    assert_eq!(id_in_path("/_costrel/url/a1"), Some(("a1", "/")));
    for path in ["/_costrel/url/", "/_costrel/url//x", "/_costrel/urls/a", "/_costrel/url/A"] {
        assert_eq!(id_in_path(path), None, "{path}");
    }
}
