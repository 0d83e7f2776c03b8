//! What a function returns, as an HTTP response.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

/// The function has failed, or returned what is no response.
pub(super) fn bad_gateway() -> Response {
    let text = [(header::CONTENT_TYPE, "text/plain")];
    (StatusCode::BAD_GATEWAY, text, "Internal Server Error").into_response()
}

/// The head of a response, as functions describe it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

impl Head {
    /// Reads `statusCode`, `headers` and `cookies`.
    pub(super) fn read(object: &Map<String, Value>) -> Option<Self> {
        let status = match object.get("statusCode") {
            None | Some(Value::Null) => StatusCode::OK,
            Some(Value::String(status)) => status.parse().ok()?,
            Some(status) => StatusCode::from_u16(status.as_u64()?.try_into().ok()?).ok()?,
        };
        // What is below is not for functions to answer with.
        if !(200..600).contains(&status.as_u16()) {
            return None;
        }
        let mut headers = HeaderMap::new();
        if let Some(Value::Object(fields)) = object.get("headers") {
            for (name, value) in fields {
                let name = HeaderName::try_from(name).ok()?;
                if !is_ours(&name) {
                    headers.insert(name, HeaderValue::try_from(text(value)?).ok()?);
                }
            }
        }
        if let Some(Value::Array(cookies)) = object.get("cookies") {
            for cookie in cookies {
                let cookie = HeaderValue::try_from(cookie.as_str()?).ok()?;
                headers.append(header::SET_COOKIE, cookie);
            }
        }
        Some(Self { status, headers })
    }

    pub(super) fn into_response(mut self, body: Body, default_type: &'static str) -> Response {
        self.headers
            .entry(header::CONTENT_TYPE)
            .or_insert_with(|| HeaderValue::from_static(default_type));
        (self.status, self.headers, body).into_response()
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        // Several values of a name.
        Value::Array(values) => {
            let values: Option<Vec<_>> = values.iter().map(text).collect();
            Some(values?.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

/// Headers of the connection and of how the body is delimited: a function cannot know them.
fn is_ours(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
        || name == "keep-alive"
        || name == "proxy-connection"
}

/// The response that a payload stands for: the one that it describes, if it has a status code, and
/// otherwise itself, as JSON.
pub(super) fn from_payload(payload: Bytes) -> Response {
    let object = match serde_json::from_slice(&payload) {
        Ok(Value::Object(object)) if object.contains_key("statusCode") => object,
        Ok(_) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            return (StatusCode::OK, json, payload).into_response();
        }
        Err(_) => return bad_gateway(),
    };
    let response = || {
        let head = Head::read(&object)?;
        let body = match object.get("body") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(body)) if object.get("isBase64Encoded") == Some(&true.into()) => {
                BASE64_STANDARD.decode(body).ok()?
            }
            Some(Value::String(body)) => body.clone().into_bytes(),
            Some(body) => body.to_string().into_bytes(),
        };
        Some(head.into_response(Body::from(body), "application/json"))
    };
    response().unwrap_or_else(bad_gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn mapped(payload: &str) -> (StatusCode, HeaderMap, String) {
        let response = from_payload(Bytes::copy_from_slice(payload.as_bytes()));
        let (parts, body) = response.into_parts();
        let body = crate::body::collect(body, 1 << 20).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_payload_without_a_status_code_is_the_body() {
        for payload in [r#"{"a":1}"#, r#""text""#, "null", "[1]"] {
            let (status, headers, body) = mapped(payload).await;
            assert_eq!((status.as_u16(), body.as_str()), (200, payload));
            assert_eq!(headers["content-type"], "application/json");
        }
    }

    #[tokio::test]
    async fn a_payload_with_a_status_code_describes_the_response() {
        let (status, headers, body) = mapped(
            r#"{"statusCode":201,"headers":{"X-A":"b","X-N":7,"Content-Length":"99","Transfer-Encoding":"chunked"},"cookies":["a=1","b=2; Secure"],"body":"aGk=","isBase64Encoded":true}"#,
        )
        .await;
        assert_eq!((status.as_u16(), body.as_str()), (201, "hi"));
        assert_eq!(headers["x-a"], "b");
        assert_eq!(headers["x-n"], "7");
        assert_eq!(headers["content-type"], "application/json");
        assert!(!headers.contains_key("transfer-encoding"));
        assert!(headers.get("content-length").is_none_or(|length| length == "2"));
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2; Secure"]);
        let (status, headers, body) =
            mapped(r#"{"statusCode":"404","headers":{"content-type":"text/x"},"body":"é"}"#).await;
        assert_eq!((status.as_u16(), body.as_str()), (404, "é"));
        assert_eq!(headers["content-type"], "text/x");
        assert_eq!(mapped(r#"{"statusCode":204}"#).await.2, "");
        assert_eq!(mapped(r#"{"statusCode":200,"body":{"a":1}}"#).await.2, r#"{"a":1}"#);
    }

    #[tokio::test]
    async fn what_describes_no_response_is_the_functions_fault() {
        for payload in [
            "not json",
            "",
            r#"{"statusCode":99}"#,
            r#"{"statusCode":101}"#,
            r#"{"statusCode":"x"}"#,
            r#"{"statusCode":-200}"#,
            r#"{"statusCode":200,"headers":{"a b":"c"}}"#,
            r#"{"statusCode":200,"headers":{"a":"b\r\nc: d"}}"#,
            r#"{"statusCode":200,"headers":{"a":{}}}"#,
            r#"{"statusCode":200,"cookies":["a\r\nb: c"]}"#,
            r#"{"statusCode":200,"body":"%","isBase64Encoded":true}"#,
        ] {
            let (status, _, body) = mapped(payload).await;
            assert_eq!(
                (status.as_u16(), body.as_str()),
                (502, "Internal Server Error"),
                "{payload}"
            );
        }
    }
}
