//! What a caller says of an invocation beside its payload, and the payload itself.

use axum::body::Body;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde::de::IgnoredAny;

use crate::{
    ApiError, ErrorKind,
    body::{BodyError, collect},
};

/// The longest client context, in bytes of base64.
const LONGEST_CLIENT_CONTEXT: usize = 3583;

/// `X-Amz-Invocation-Type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InvocationType {
    RequestResponse,
    Event,
    DryRun,
}

/// `X-Amz-Log-Type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LogType {
    None,
    Tail,
}

/// What stands in the headers and the query of an invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parameters {
    pub(super) qualifier: Option<String>,
    pub(super) invocation_type: InvocationType,
    pub(super) log_type: LogType,
    /// JSON.
    pub(super) client_context: Option<String>,
}

impl Parameters {
    /// # Errors
    /// What the caller is told of a value that is none.
    pub(super) fn read(headers: &HeaderMap, query: Option<&str>) -> Result<Self, ApiError> {
        let invocation_type = match text(headers, "x-amz-invocation-type")? {
            None | Some("" | "RequestResponse") => InvocationType::RequestResponse,
            Some("Event") => InvocationType::Event,
            Some("DryRun") => InvocationType::DryRun,
            Some(other) => {
                return Err(not_in_enum(
                    other,
                    "invocationType",
                    "[RequestResponse, Event, DryRun]",
                ));
            }
        };
        let log_type = match text(headers, "x-amz-log-type")? {
            None | Some("" | "None") => LogType::None,
            Some("Tail") => LogType::Tail,
            Some(other) => return Err(not_in_enum(other, "logType", "[None, Tail]")),
        };
        Ok(Self {
            qualifier: qualifier(query),
            invocation_type,
            log_type,
            client_context: client_context(headers).map_err(|ClientContextError| {
                ApiError::new(
                    ErrorKind::InvalidRequestContent,
                    "Client context must be a valid Base64-encoded JSON object.",
                )
            })?,
        })
    }
}

fn qualifier(query: Option<&str>) -> Option<String> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix("Qualifier="))?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
        .filter(|value| !value.is_empty())
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, ApiError> {
    let value = headers.get(name).map(http::HeaderValue::to_str).transpose();
    value.map_err(|_| ApiError::invalid_parameter(format!("The header {name} is not text.")))
}

/// In AWS's words.
fn not_in_enum(value: &str, member: &str, values: &str) -> ApiError {
    ApiError::invalid_parameter(format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: \
         Member must satisfy enum value set: {values}"
    ))
}

/// A client context that is not JSON in base64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClientContextError;

/// `X-Amz-Client-Context`, decoded. An empty one is none.
///
/// # Errors
/// [`ClientContextError`].
pub(crate) fn client_context(headers: &HeaderMap) -> Result<Option<String>, ClientContextError> {
    let value = headers.get("x-amz-client-context").map(http::HeaderValue::as_bytes);
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    if value.len() > LONGEST_CLIENT_CONTEXT {
        return Err(ClientContextError);
    }
    let decoded = BASE64_STANDARD.decode(value).map_err(|_| ClientContextError)?;
    let context = String::from_utf8(decoded).map_err(|_| ClientContextError)?;
    // It goes on into a header of the runtime's API, where it has to stand in one line: written
    // anew, as it may be laid out in several.
    let value: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&context).map_err(|_| ClientContextError)?;
    Ok(Some(serde_json::Value::Object(value).to_string()))
}

/// The payload of an invocation: JSON, or `{}` where there is none.
///
/// # Errors
/// It is too large, is no JSON, or never came.
pub(super) async fn payload(
    body: Body,
    invocation_type: &str,
    limit: usize,
) -> Result<Bytes, ApiError> {
    let payload = collect(body, limit).await.map_err(|error| match error {
        BodyError::TooLarge { size } => too_large(size, invocation_type, limit),
        BodyError::Broken(_) => ApiError::new(
            ErrorKind::InvalidRequestContent,
            "Could not read the request body: it ended early",
        ),
    })?;
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let text = std::str::from_utf8(&payload).map_err(|error| not_json(&error))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| not_json(&error))?;
    Ok(payload)
}

/// In AWS's words.
pub(crate) fn too_large(size: u64, invocation_type: &str, limit: usize) -> ApiError {
    ApiError::new(
        ErrorKind::RequestTooLarge,
        format!(
            "{size} byte payload is too large for the {invocation_type} invocation type \
             (limit {limit} bytes)"
        ),
    )
}

fn not_json(error: &dyn std::error::Error) -> ApiError {
    ApiError::new(
        ErrorKind::InvalidRequestContent,
        format!("Could not parse request body into json: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn a_qualifier_stands_in_the_query() {
        assert_eq!(qualifier(None), None);
        assert_eq!(qualifier(Some("Qualifier=")), None);
        assert_eq!(qualifier(Some("a=b&Qualifier=%24LATEST")).as_deref(), Some("$LATEST"));
    }

    #[test]
    fn values_are_awss() {
        let read = |name, value| Parameters::read(&headers(name, value), None);
        let parameters = read("x-amz-invocation-type", "Event").unwrap();
        assert_eq!(parameters.invocation_type, InvocationType::Event);
        assert_eq!(read("x-amz-log-type", "Tail").unwrap().log_type, LogType::Tail);
        let error = read("x-amz-invocation-type", "Sync").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidParameterValue);
        assert!(error.message().contains("'Sync' at 'invocationType'"), "{error}");
        assert!(read("x-amz-log-type", "Head").is_err());
    }

    #[test]
    fn a_client_context_is_an_object_in_base64() {
        let read = |json: &str| {
            client_context(&headers("x-amz-client-context", &BASE64_STANDARD.encode(json)))
        };
        assert_eq!(client_context(&HeaderMap::new()), Ok(None));
        assert_eq!(read("{\"custom\":\n{\"é\":1}}"), Ok(Some(r#"{"custom":{"é":1}}"#.to_owned())));
        for json in ["[]", "{", "7", "null"] {
            assert_eq!(read(json), Err(ClientContextError), "{json}");
        }
        assert_eq!(client_context(&headers("x-amz-client-context", "{}")), Err(ClientContextError));
        let long = format!("{{\"a\":\"{}\"}}", "a".repeat(LONGEST_CLIENT_CONTEXT));
        assert_eq!(read(&long), Err(ClientContextError));
    }
}
