//! Where outcomes are told, and in which words.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;

use crate::{
    Event,
    entry::{Condition, Progress},
};

/// How long a server may take to answer.
const HTTP_LIMIT: Duration = Duration::from_secs(30);

/// Why an outcome was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error("the file cannot be written to")]
    File(#[source] io::Error),
    #[error("the address is none to which can be posted: http://HOST[:PORT]/PATH is expected")]
    Address,
    #[error("the server cannot be reached")]
    Connect(#[source] io::Error),
    #[error("the server does not answer as it should")]
    Http(#[source] hyper::Error),
    #[error("the server answers {0}")]
    Status(http::StatusCode),
    #[error("the server does not answer within {} s", HTTP_LIMIT.as_secs())]
    Silent,
    #[error("{0:?} is no function's ARN")]
    Arn(String),
    #[error("the event for the function cannot be kept")]
    Enqueue(#[source] crate::EnqueueError),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    version: &'static str,
    timestamp: String,
    request_context: RequestContext<'a>,
    request_payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    request_id: &'a str,
    function_arn: String,
    condition: Condition,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext<'a> {
    status_code: u16,
    executed_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'a str>,
}

/// AWS's record of an outcome, version 1.0, on one line.
pub(crate) fn record(
    event: &Event,
    progress: &Progress,
    condition: Condition,
    now: Timestamp,
) -> Bytes {
    let response = progress.response.as_ref();
    let record = Record {
        version: "1.0",
        timestamp: now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        request_context: RequestContext {
            request_id: &event.request_id,
            function_arn: qualified(event),
            condition,
            approximate_invoke_count: progress.runs,
        },
        request_payload: json(&event.payload),
        response_context: response.map(|response| ResponseContext {
            status_code: 200,
            executed_version: &response.executed_version,
            function_error: response.function_error.as_deref(),
        }),
        response_payload: response.map(|response| json(&response.payload)),
    };
    // Strings, numbers and what is JSON already: there is nothing that could fail.
    serde_json::to_vec(&record).unwrap_or_default().into()
}

/// With `$LATEST`, if it was sent to no other version.
fn qualified(event: &Event) -> String {
    match event.qualifier {
        None if event.function_arn.split(':').count() <= 7 => {
            format!("{}:$LATEST", event.function_arn)
        }
        _ => event.function_arn.clone(),
    }
}

/// A payload as it came, but for its line ends; what is no JSON, as a string.
fn json(payload: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(payload);
    // Between tokens these are spaces, and inside of strings they do not occur.
    let line = text.replace(['\n', '\r'], " ");
    let raw =
        if line.trim().is_empty() { Err(()) } else { RawValue::from_string(line).map_err(drop) };
    raw.or_else(|()| serde_json::value::to_raw_value(&*text).map_err(drop))
        .unwrap_or_else(|()| RawValue::NULL.to_owned())
}

/// Appends a line to a file, which is durable when this returns.
pub(crate) fn append(path: &Path, line: &[u8]) -> Result<(), DeliveryError> {
    let append = || {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        // At once, so that lines of several processes do not mix.
        file.write_all(&[line, b"\n"].concat())?;
        file.sync_data()
    };
    append().map_err(DeliveryError::File)
}

/// Posts JSON to an `http://` address.
pub(crate) async fn post(address: &str, body: Bytes) -> Result<(), DeliveryError> {
    let posted = tokio::time::timeout(HTTP_LIMIT, post_at_leisure(address, body));
    posted.await.unwrap_or(Err(DeliveryError::Silent))
}

async fn post_at_leisure(address: &str, body: Bytes) -> Result<(), DeliveryError> {
    let address: http::Uri = address.parse().map_err(|_| DeliveryError::Address)?;
    let (Some("http"), Some(authority)) = (address.scheme_str(), address.authority()) else {
        return Err(DeliveryError::Address);
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await;
    let stream = TokioIo::new(stream.map_err(DeliveryError::Connect)?);
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(DeliveryError::Http)?;
    let path = address.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = http::Request::post(path)
        .header(http::header::HOST, authority.as_str())
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|_| DeliveryError::Address)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(DeliveryError::Http)?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(DeliveryError::Status(status)) }
    };
    tokio::select! {
        biased;
        answer = answered => answer,
        // The connection's end without an answer: `answered` has the reason, if it has one.
        Err(error) = connection => Err(DeliveryError::Http(error)),
    }
}

/// Name and qualifier of the function with this ARN.
pub(crate) fn function_of(arn: &str) -> Option<(String, Option<String>)> {
    let parts: Vec<&str> = arn.split(':').collect();
    let (name, qualifier) = match parts[..] {
        ["arn", _, "lambda", _, _, "function", name] => (name, None),
        ["arn", _, "lambda", _, _, "function", name, qualifier] => (name, Some(qualifier)),
        _ => return None,
    };
    (!name.is_empty()).then(|| (name.to_owned(), qualifier.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Response;

    fn event(payload: &'static str) -> Event {
        Event {
            request_id: "id".into(),
            function: "f".into(),
            qualifier: None,
            function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f".into(),
            payload: Bytes::from_static(payload.as_bytes()),
            trace_id: String::new(),
            client_context: None,
            accepted: std::time::SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn records_are_awss() {
        let progress = Progress {
            runs: 3,
            response: Some(Response {
                executed_version: "$LATEST".into(),
                function_error: Some("Unhandled".into()),
                payload: Bytes::from_static(b"{\"errorMessage\":\"no\"}"),
            }),
            ..Progress::default()
        };
        let now = Timestamp::from_millisecond(1_573_755_365_568).unwrap();
        let line = record(
            &event("{\n  \"z\": 1.00,\r\n  \"a\": 12345678901234567890123\n}"),
            &progress,
            Condition::RetriesExhausted,
            now,
        );
        assert_eq!(
            line,
            concat!(
                r#"{"version":"1.0","timestamp":"2019-11-14T18:16:05.568Z","requestContext":"#,
                r#"{"requestId":"id","functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST","#,
                r#""condition":"RetriesExhausted","approximateInvokeCount":3},"requestPayload":"#,
                r#"{   "z": 1.00,    "a": 12345678901234567890123 },"responseContext":"#,
                r#"{"statusCode":200,"executedVersion":"$LATEST","functionError":"Unhandled"},"#,
                r#""responsePayload":{"errorMessage":"no"}}"#
            )
        );
        let line =
            record(&event("no json"), &Progress::default(), Condition::EventAgeExceeded, now);
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["requestPayload"], "no json");
        assert_eq!(line.get("responseContext"), None);
    }

    #[test]
    fn arns_of_functions() {
        let of = |arn| function_of(arn);
        assert_eq!(of("arn:aws:lambda:r:1:function:f"), Some(("f".into(), None)));
        assert_eq!(of("arn:aws:lambda:r:1:function:f:2"), Some(("f".into(), Some("2".into()))));
        assert_eq!(of("arn:aws:sqs:r:1:queue"), None);
        assert_eq!(of("arn:aws:lambda:r:1:function:"), None);
    }
}
