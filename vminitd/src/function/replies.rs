//! The replies to runtime and extensions, but for invocations.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;

use super::{extensions::ExtensionRefusal, protocol::RESPONSE_LIMIT, state::Refusal};

/// A reply with its body.
pub(super) type Reply = Response<Full<Bytes>>;

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    reply
}

pub(super) fn error(status: StatusCode, error_type: &str, message: &str) -> Reply {
    let body = serde_json::json!({ "errorMessage": message, "errorType": error_type });
    reply(status, "application/json", body.to_string())
}

pub(super) fn accepted() -> Reply {
    reply(StatusCode::ACCEPTED, "application/json", r#"{"status":"OK"}"#)
}

/// A telemetry subscription was taken.
pub(super) fn subscribed() -> Reply {
    reply(StatusCode::OK, "text/plain", "\"OK\"")
}

pub(super) fn json(body: &serde_json::Value) -> Reply {
    reply(StatusCode::OK, "application/json", body.to_string())
}

pub(super) fn extension_refused(refusal: &ExtensionRefusal) -> Reply {
    error(StatusCode::FORBIDDEN, refusal.kind(), &refusal.to_string())
}

pub(super) fn restored() -> Reply {
    reply(StatusCode::OK, "application/json", "")
}

pub(super) fn credentials(body: Bytes) -> Reply {
    reply(StatusCode::OK, "application/json", body)
}

/// Without a token, or with the wrong one.
pub(super) fn no_credentials(status: StatusCode) -> Reply {
    reply(status, "text/plain", "cannot get credentials for the provided token\n")
}

pub(super) fn pong() -> Reply {
    reply(StatusCode::OK, "text/plain", "pong")
}

pub(super) fn not_found() -> Reply {
    reply(StatusCode::NOT_FOUND, "text/plain", "404 page not found\n")
}

pub(super) fn method_not_allowed() -> Reply {
    reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "")
}

pub(super) fn refused(refusal: &Refusal) -> Reply {
    let (status, kind) = match refusal {
        Refusal::Transition { .. } => (StatusCode::FORBIDDEN, "InvalidStateTransition"),
        Refusal::RequestId => (StatusCode::BAD_REQUEST, "InvalidRequestID"),
    };
    error(status, kind, &refusal.to_string())
}

pub(super) fn too_large() -> Reply {
    let message = format!("Exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes).");
    error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
}

pub(super) fn truncated() -> Reply {
    error(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "HTTP request detected as truncated")
}

pub(super) fn invalid_response_mode() -> Reply {
    error(StatusCode::BAD_REQUEST, "InvalidFunctionResponseMode", "Invalid function response mode")
}
