//! `/2018-06-01/…`: the runtime's calls.
//!
//! Specification: AWS's Lambda Runtime API, version 2018-06-01, with what SnapStart adds to it.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use costrel_agent_proto::v1::{
    ErrorReport, Invoke, ResponseEnd, ResponseMode, ResponseStart, guest_message::Message,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

use super::{
    body::{read_bounded, text_header},
    invocation::UnderWay,
    protocol::{self, RESPONSE_LIMIT},
    readiness::Pause,
    replies::{self, Reply},
    session::Shared,
    state::{Ended, Refusal, RuntimeState},
};

/// Answers a call; `path` is what follows `/2018-06-01/`.
pub(super) async fn handle(shared: &Arc<Shared>, path: &str, request: Request<Incoming>) -> Reply {
    let get = request.method() == Method::GET;
    let post = request.method() == Method::POST;
    let segments: Vec<&str> = path.split('/').collect();
    match segments[..] {
        ["ping"] if get => replies::pong(),
        ["runtime", "invocation", "next"] if get => next(shared).await,
        ["runtime", "invocation", id, "response"] if post => response(shared, id, request).await,
        ["runtime", "invocation", id, "error"] if post => {
            invocation_error(shared, id, request).await
        }
        ["runtime", "init", "error"] if post => init_error(shared, request).await,
        ["runtime", "restore", _] if !shared.runtime().snap_start => replies::not_found(),
        ["runtime", "restore", "next"] if get => restore_next(shared).await,
        ["runtime", "restore", "error"] if post => restore_error(shared, request).await,
        ["ping"]
        | ["runtime", "invocation", "next"]
        | ["runtime", "invocation", _, "response" | "error"]
        | ["runtime", "init", "error"]
        | ["runtime", "restore", "next" | "error"] => replies::method_not_allowed(),
        _ => replies::not_found(),
    }
}

async fn next(shared: &Arc<Shared>) -> Reply {
    let ended = match shared.runtime().state.ask_next() {
        Ok(ended) => ended,
        Err(refusal) => return replies::refused(&refusal),
    };
    match ended {
        Ended::Init => shared.runtime_ready(Pause::Init),
        Ended::Restore => shared.runtime_ready(Pause::Restore),
        Ended::Invocation => shared.runtime_ready(Pause::Invocation),
        Ended::Nothing => {}
    }
    // Nobody is left who would see the refusal.
    shared.next_invocation().await.map_or_else(replies::not_found, invocation)
}

fn invocation(invoke: Invoke) -> Reply {
    let mut reply = Response::new(Full::new(invoke.payload));
    let headers = reply.headers_mut();
    let mut set = |name: HeaderName, text: &str| {
        // A text that cannot stand in a header is left out; the host checks them before.
        if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_bytes(text.as_bytes())) {
            headers.insert(name, value);
        }
    };
    let content_type =
        if invoke.content_type.is_empty() { "application/json" } else { &invoke.content_type };
    set(header::CONTENT_TYPE, content_type);
    set(protocol::REQUEST_ID, &invoke.request_id);
    set(protocol::DEADLINE, &invoke.deadline_unix_ms.to_string());
    set(protocol::FUNCTION_ARN, &invoke.function_arn);
    set(protocol::TRACE_ID, &invoke.trace_id);
    set(protocol::CLIENT_CONTEXT, &invoke.client_context);
    set(protocol::COGNITO_IDENTITY, &invoke.cognito_identity);
    reply
}

async fn response(shared: &Shared, id: &str, request: Request<Incoming>) -> Reply {
    if let Err(refusal) = shared.runtime().state.check_answer(id, "InvocationResponse") {
        return replies::refused(&refusal);
    }
    let mode = match request.headers().get(protocol::RESPONSE_MODE).map(HeaderValue::as_bytes) {
        None | Some(b"") => ResponseMode::Buffered,
        Some(mode) if mode.eq_ignore_ascii_case(b"streaming") => ResponseMode::Streaming,
        Some(_) => return replies::invalid_response_mode(),
    };
    let content_type = text_header(request.headers(), &header::CONTENT_TYPE);
    let start = ResponseStart { request_id: id.to_owned(), mode: mode.into(), content_type };
    shared.under_way(UnderWay::response_begins);
    shared.send(Message::ResponseStart(start)).await;

    let mut body = request.into_body();
    let mut length = 0;
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            if mode == ResponseMode::Streaming {
                let error_type = "Runtime.TruncatedResponse".to_owned();
                shared
                    .send(Message::ResponseEnd(ResponseEnd {
                        error_type,
                        error_body: Bytes::new(),
                    }))
                    .await;
                shared.runtime().state.answered(id);
            }
            return replies::truncated();
        };
        match frame.into_data() {
            // What is above the limit is read, so that the runtime gets to see the refusal.
            Ok(data) => {
                length += data.len();
                shared.under_way(|it| it.produced(data.len()));
                if mode == ResponseMode::Streaming || length <= RESPONSE_LIMIT {
                    shared.send(Message::ResponseChunk(data)).await;
                }
            }
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    shared.under_way(UnderWay::response_ends);
    if mode == ResponseMode::Buffered && length > RESPONSE_LIMIT {
        shared.send(Message::InvokeError(response_too_large(id))).await;
        shared.runtime().state.answered(id);
        return replies::too_large();
    }
    let error_body = trailers
        .get(protocol::ERROR_BODY)
        .and_then(|body| BASE64.decode(body).ok())
        .unwrap_or_default();
    let error_type = protocol::error_type(&trailers);
    shared
        .send(Message::ResponseEnd(ResponseEnd { error_type, error_body: error_body.into() }))
        .await;
    shared.runtime().state.answered(id);
    replies::accepted()
}

fn response_too_large(id: &str) -> ErrorReport {
    let error_type = "Function.ResponseSizeTooLarge";
    let message = format!(
        "Response payload size exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes)."
    );
    // Not through a map: the order of the fields is AWS's.
    let body = format!(r#"{{"errorType":"{error_type}","errorMessage":"{message}"}}"#);
    ErrorReport { error_type: error_type.to_owned(), body: body.into(), request_id: id.to_owned() }
}

async fn invocation_error(shared: &Shared, id: &str, request: Request<Incoming>) -> Reply {
    if let Err(refusal) = shared.runtime().state.check_answer(id, "InvocationErrorResponse") {
        return replies::refused(&refusal);
    }
    let report = match error_report(id, request).await {
        Ok(report) => report,
        Err(reply) => return reply,
    };
    shared.send(Message::InvokeError(report)).await;
    shared.runtime().state.answered(id);
    replies::accepted()
}

async fn init_error(shared: &Shared, request: Request<Incoming>) -> Reply {
    failure(shared, request, RuntimeState::init_failed, Message::InitError).await
}

async fn restore_error(shared: &Shared, request: Request<Incoming>) -> Reply {
    failure(shared, request, RuntimeState::restore_failed, Message::RestoreError).await
}

/// The runtime reports that it cannot come to its first invocation.
async fn failure(
    shared: &Shared,
    request: Request<Incoming>,
    fail: fn(&mut RuntimeState) -> Result<(), Refusal>,
    message: fn(ErrorReport) -> Message,
) -> Reply {
    let report = match error_report("", request).await {
        Ok(report) => report,
        Err(reply) => return reply,
    };
    if let Err(refusal) = fail(&mut shared.runtime().state) {
        return replies::refused(&refusal);
    }
    shared.drain_output().await;
    shared.send(message(report)).await;
    replies::accepted()
}

async fn restore_next(shared: &Arc<Shared>) -> Reply {
    if let Err(refusal) = shared.runtime().state.ask_restore() {
        return replies::refused(&refusal);
    }
    shared.runtime_ready(Pause::RestoreReady);
    shared.restored().await;
    replies::restored()
}

async fn error_report(id: &str, request: Request<Incoming>) -> Result<ErrorReport, Reply> {
    let error_type = protocol::error_type(request.headers());
    let body =
        read_bounded(request.into_body()).await.map_err(|_: hyper::Error| replies::truncated())?;
    let body = body.ok_or_else(replies::too_large)?;
    Ok(ErrorReport { error_type, body, request_id: id.to_owned() })
}
