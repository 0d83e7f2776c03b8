//! What operations answer.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::ApiError;

/// What an operation answers, or why it does not.
pub(super) type Reply = Result<Response, ApiError>;

/// A JSON body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(body).map_err(|error| {
        ApiError::new(crate::ErrorKind::Service, format!("The answer cannot be written: {error}"))
    })?;
    let kind = HeaderValue::from_static("application/json");
    Ok((status, [(header::CONTENT_TYPE, kind)], body).into_response())
}

/// 200 and a JSON body.
pub(super) fn ok(body: &impl Serialize) -> Reply {
    json(StatusCode::OK, body)
}

/// 201 and a JSON body.
pub(super) fn created(body: &impl Serialize) -> Reply {
    json(StatusCode::CREATED, body)
}

/// 202 and a JSON body.
pub(super) fn accepted(body: &impl Serialize) -> Reply {
    json(StatusCode::ACCEPTED, body)
}

/// 204.
#[expect(clippy::unnecessary_wraps, reason = "it stands where the others do")]
pub(super) fn no_content() -> Reply {
    Ok(StatusCode::NO_CONTENT.into_response())
}
