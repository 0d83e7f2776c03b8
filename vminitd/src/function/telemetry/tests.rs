//! The Telemetry and Logs APIs over HTTP, with the test as the extension that listens.

use std::time::Duration;

use bytes::Bytes;
use costrel_agent_proto::v1::{PlatformRecord, guest_message::Message, host_message};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{Category, subscription::Subscription};
use crate::{
    function::tests::{Guest, is},
    output::Stream,
};

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn request(port: u16, types: &Value) -> Value {
    json!({
        "schemaVersion": "2022-12-13",
        "types": types,
        "buffering": { "timeoutMs": 25, "maxItems": 1000, "maxBytes": 262_144 },
        "destination": {
            "protocol": "HTTP",
            "URI": format!("http://sandbox.localdomain:{port}/in?x=1"),
        },
    })
}

/// Takes one POST, answers it with a status, and gives its head and its body.
async fn post(listener: &TcpListener, status: u16) -> (String, Value) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let reply = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
    TcpStream::write_all(stream.get_mut(), reply.as_bytes()).await.unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

/// The records of batches until there are as many, as type and record.
async fn records(listener: &TcpListener, count: usize) -> Vec<(String, Value)> {
    let mut records = Vec::new();
    while records.len() < count {
        let (_, batch) = post(listener, 200).await;
        for event in batch.as_array().unwrap() {
            let time = event["time"].as_str().unwrap();
            assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
            records.push((event["type"].as_str().unwrap().to_owned(), event["record"].clone()));
        }
    }
    records
}

impl Guest {
    async fn subscribe(&self, api: &str, identifier: &str, body: &Value) -> String {
        self.ask("PUT", api, identifier, body.to_string().as_bytes()).await
    }

    fn prints(&self, category: Category, text: &'static str) {
        let data = Bytes::from_static(text.as_bytes());
        self.service.shared().telemetry.printed(category, category.name(), Stream::Stdout, &data);
    }

    async fn record(&self, kind: &str) {
        let record = PlatformRecord { r#type: kind.into(), record: r#"{"requestId":"a"}"#.into() };
        self.tell(host_message::Message::PlatformRecord(record)).await;
    }
}

#[tokio::test]
async fn a_subscriber_gets_what_it_asked_for_from_the_start() {
    let guest = Guest::started().await;
    guest.prints(Category::Function, "early\nhalf");
    guest.prints(Category::Extension, "not asked for\n");
    let (listener, port) = listener().await;
    let identifier = guest.registered("x", &json!([])).await;
    let body = request(port, &json!(["platform", "function"]));
    for _ in ["first", "the same again"] {
        let reply = guest.subscribe("/2022-07-01/telemetry", &identifier, &body).await;
        is(&reply, "200", "\"OK\"");
        let Message::PlatformLine(line) = guest.heard().await else { panic!("no line") };
        assert_eq!(line, "TELEMETRY\tName: x\tState: Subscribed\tTypes: [platform,function]");
    }
    guest.prints(Category::Function, " a line\n");
    guest.record("platform.start").await;
    guest.record("platform.end").await;
    let subscribed =
        json!({ "name": "x", "state": "Subscribed", "types": ["platform", "function"] });
    assert_eq!(
        records(&listener, 5).await,
        [
            ("function".to_owned(), json!("early\n")),
            ("platform.telemetrySubscription".to_owned(), subscribed.clone()),
            ("platform.telemetrySubscription".to_owned(), subscribed),
            ("function".to_owned(), json!("half a line\n")),
            ("platform.start".to_owned(), json!({ "requestId": "a" })),
        ]
    );
}

#[tokio::test]
async fn an_invocation_is_recorded() {
    let guest = Guest::started().await;
    let (listener, port) = listener().await;
    let identifier = guest.registered("x", &json!([])).await;
    let mut body = request(port, &json!(["platform"]));
    body["buffering"] = json!({ "timeoutMs": 200 });
    guest.subscribe("/2022-07-01/telemetry", &identifier, &body).await;
    guest.heard().await;
    let waiting = guest.ask("GET", "/2020-01-01/extension/event/next", &identifier, b"");
    let invocation = async {
        let next = guest.call("GET", "runtime/invocation/next", "", b"");
        let host = async {
            assert!(matches!(guest.heard().await, Message::PlatformLine(_)));
            assert!(matches!(guest.heard().await, Message::InitDone(_)));
            guest.invoke("a").await;
        };
        tokio::join!(next, host);
        guest.call("POST", "runtime/invocation/a/response", "", b"12345").await;
        let next = guest.call("GET", "runtime/invocation/next", "", b"");
        let _ = tokio::time::timeout(Duration::from_millis(50), next).await;
        records(&listener, 4).await
    };
    let records = tokio::select! {
        records = invocation => records,
        event = waiting => panic!("{event}"),
    };
    let kinds: Vec<_> = records.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "platform.telemetrySubscription",
            "platform.initRuntimeDone",
            "platform.extension",
            "platform.runtimeDone"
        ]
    );
    assert_eq!(
        records[1].1,
        json!({ "initializationType": "on-demand", "phase": "init", "status": "success" })
    );
    assert_eq!(records[2].1, json!({ "name": "x", "state": "Ready", "events": [] }));
    let done = &records[3].1;
    assert_eq!((&done["requestId"], &done["status"]), (&json!("a"), &json!("success")));
    assert_eq!(done["metrics"]["producedBytes"], 5);
    assert!(done["metrics"]["durationMs"].as_f64().unwrap() > 0.0);
    let spans: Vec<_> = done["spans"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(spans, ["responseLatency", "responseDuration", "runtimeOverhead"]);
}

#[tokio::test]
async fn a_batch_is_sent_until_it_is_acknowledged() {
    let guest = Guest::started().await;
    let (listener, port) = listener().await;
    let identifier = guest.registered("x", &json!([])).await;
    let body = request(port, &json!(["function"]));
    guest.subscribe("/2022-07-01/telemetry", &identifier, &body).await;
    guest.prints(Category::Function, "one\ntwo\n");
    let (head, refused) = post(&listener, 500).await;
    assert!(head.starts_with("POST /in?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: sandbox.localdomain:{port}\r\n")), "{head}");
    let (_, taken) = post(&listener, 200).await;
    assert_eq!(refused, taken);
    assert_eq!(taken.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn who_does_not_keep_up_is_told_what_was_lost() {
    let guest = Guest::started().await;
    let (listener, port) = listener().await;
    let identifier = guest.registered("x", &json!([])).await;
    let body = request(port, &json!(["function"]));
    guest.subscribe("/2022-07-01/telemetry", &identifier, &body).await;
    // The first batch has been taken, and the next cannot be delivered before it is.
    guest.prints(Category::Function, "first\n");
    let (stalled, _) = listener.accept().await.unwrap();
    let line: &'static str = Box::leak(("x".repeat(100_000) + "\n").into_boxed_str());
    for _ in 0..10 {
        guest.prints(Category::Function, line);
    }
    drop(stalled);
    let (_, again) = post(&listener, 200).await;
    assert_eq!(again[0]["record"], "first\n");
    let (_, batch) = post(&listener, 200).await;
    let batch = batch.as_array().unwrap();
    assert_eq!(batch.len(), 6, "twice 256 KiB hold five of them");
    let lost = &batch[5];
    assert_eq!(lost["type"], "platform.logsDropped");
    assert_eq!(lost["record"]["droppedRecords"], 5);
    assert!(lost["record"]["droppedBytes"].as_u64().unwrap() > 500_000);
}

#[tokio::test]
async fn the_logs_api_has_fewer_events() {
    let guest = Guest::started().await;
    let (listener, port) = listener().await;
    let identifier = guest.registered("x", &json!([])).await;
    let body = json!({
        "types": ["platform"],
        "buffering": { "timeoutMs": 100 },
        "destination": { "protocol": "TCP", "port": port },
    });
    is(&guest.subscribe("/2020-08-15/logs", &identifier, &body).await, "200", "\"OK\"");
    let Message::PlatformLine(line) = guest.heard().await else { panic!("no line") };
    assert_eq!(line, "LOGS\tName: x\tState: Subscribed\tTypes: [platform]");
    for kind in ["platform.initStart", "platform.start", "platform.runtimeDone", "platform.end"] {
        guest.record(kind).await;
    }
    let (stream, _) = listener.accept().await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    for expected in ["platform.logsSubscription", "platform.start", "platform.end"] {
        let line = lines.next_line().await.unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["type"], expected);
    }
    let other = request(port, &json!(["platform"]));
    let reply = guest.subscribe("/2022-07-01/telemetry", &identifier, &other).await;
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
}

#[tokio::test]
async fn only_extensions_subscribe_and_only_in_the_initialisation() {
    let guest = Guest::started().await;
    let body = request(4444, &json!(["platform"]));
    let reply = guest.subscribe("/2022-07-01/telemetry", "", &body).await;
    assert!(reply.contains("Extension.MissingExtensionIdentifier"), "{reply}");
    let stranger = "Lambda-Extension-Identifier: 00000000-0000-4000-8000-000000000000\r\n";
    let reply = guest.subscribe("/2022-07-01/telemetry", stranger, &body).await;
    assert!(reply.contains("Extension.UnknownExtensionIdentifier"), "{reply}");
    let identifier = guest.registered("x", &json!([])).await;
    guest.service.shared().telemetry.close();
    let reply = guest.subscribe("/2022-07-01/telemetry", &identifier, &body).await;
    is(
        &reply,
        "403",
        r#"{"errorMessage":"Telemetry API subscription is closed already","errorType":"Telemetry.SubscriptionClosed"}"#,
    );
}

#[test]
fn what_is_wrong_with_a_request_is_told_at_once() {
    let read = |body: &Value| Subscription::read(body.to_string().as_bytes(), true);
    let good = request(4444, &json!(["platform", "platform"]));
    let subscription = read(&good).unwrap();
    assert_eq!(subscription.types, [Category::Platform]);
    assert_eq!(subscription.buffering.timeout, Duration::from_millis(25));
    let with = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value;
        read(&body).unwrap_err()
    };
    assert_eq!(
        with("/destination/URI", json!("http://sandbox.localdomain")),
        "URI port is not provided"
    );
    assert_eq!(
        with("/destination/URI", json!("http://example.com:80")),
        "URI host should be sandbox.localdomain"
    );
    assert_eq!(
        with("/destination/URI", json!("https://sandbox.localdomain:80")),
        "URI scheme should be http"
    );
    assert_eq!(
        with("/destination/URI", json!("http://sandbox.localdomain:9001")),
        "port 9001 is reserved"
    );
    assert_eq!(with("/buffering/timeoutMs", json!(24)), "timeoutMs should be between 25 and 30000");
    assert_eq!(
        with("/buffering/maxItems", json!(999)),
        "maxItems should be between 1000 and 10000"
    );
    assert_eq!(with("/schemaVersion", json!("2020-08-15")), "unsupported schemaVersion 2020-08-15");
    assert_eq!(with("/types", json!([])), "types should not be empty");
    assert_eq!(with("/types", json!(["all"])), "unsupported type all");
}
