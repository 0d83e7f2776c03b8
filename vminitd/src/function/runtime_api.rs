//! The HTTP server on 127.0.0.1:9001 that the function's runtime talks to.
//!
//! Specification: AWS's Lambda Runtime API, version 2018-06-01, with what SnapStart adds to it; and
//! the container credentials provider of AWS's SDKs.

use std::{convert::Infallible, io, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use costrel_agent_proto::v1::{
    ErrorReport, InitDone, Invoke, InvokeDone, ResponseEnd, ResponseMode, ResponseStart,
    RestoreReady, guest_message::Message,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::{
    protocol::{self, RESPONSE_LIMIT},
    replies::{self, Reply},
    session::Shared,
    state::{Ended, Refusal, RuntimeState},
};

/// Serves connections until the executor ends.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve_connection(stream, Arc::clone(&shared)));
            }
            // Out of file descriptors: connections must end before another can begin.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn serve_connection(stream: tokio::net::TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(handle(&shared, request).await) }
    });
    // A runtime that breaks off is seen by its process's end, or by its next call.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle(shared: &Shared, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    let get = request.method() == Method::GET;
    let post = request.method() == Method::POST;
    if path == protocol::CREDENTIALS_PATH && get {
        return credentials(shared, request.headers());
    }
    let Some(path) = path.strip_prefix("/2018-06-01/") else {
        return replies::not_found();
    };
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

async fn next(shared: &Shared) -> Reply {
    let ended = match shared.runtime().state.ask_next() {
        Ok(ended) => ended,
        Err(refusal) => return replies::refused(&refusal),
    };
    if ended != Ended::Nothing {
        shared.drain_output().await;
        shared
            .send(match ended {
                Ended::Init => Message::InitDone(InitDone {}),
                _ => Message::InvokeDone(InvokeDone { peak_memory_bytes: shared.peak_memory() }),
            })
            .await;
    }
    invocation(shared.next_invocation().await)
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
    let content_type = text_header(request.headers(), header::CONTENT_TYPE);
    let start = ResponseStart { request_id: id.to_owned(), mode: mode.into(), content_type };
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
                if mode == ResponseMode::Streaming || length <= RESPONSE_LIMIT {
                    shared.send(Message::ResponseChunk(data)).await;
                }
            }
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
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

async fn restore_next(shared: &Shared) -> Reply {
    if let Err(refusal) = shared.runtime().state.ask_restore() {
        return replies::refused(&refusal);
    }
    shared.drain_output().await;
    shared.send(Message::RestoreReady(RestoreReady {})).await;
    shared.restored().await;
    replies::restored()
}

fn credentials(shared: &Shared, headers: &HeaderMap) -> Reply {
    let Some(credentials) = shared.credentials() else { return replies::not_found() };
    match headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) {
        None | Some(b"") => replies::no_credentials(StatusCode::UNAUTHORIZED),
        Some(token) if token == credentials.authorization_token.as_bytes() => {
            replies::credentials(credentials.body)
        }
        Some(_) => replies::no_credentials(StatusCode::FORBIDDEN),
    }
}

async fn error_report(id: &str, request: Request<Incoming>) -> Result<ErrorReport, Reply> {
    let error_type = protocol::error_type(request.headers());
    let body =
        read_bounded(request.into_body()).await.map_err(|_: hyper::Error| replies::truncated())?;
    let body = body.ok_or_else(replies::too_large)?;
    Ok(ErrorReport { error_type, body, request_id: id.to_owned() })
}

/// The whole body, or nothing if it is above the limit; it is read to its end in any case.
async fn read_bounded(mut body: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut whole = Vec::new();
    let mut fits = true;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            fits = fits && whole.len() + data.len() <= RESPONSE_LIMIT;
            if fits {
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(fits.then(|| whole.into()))
}

fn text_header(headers: &HeaderMap, name: HeaderName) -> String {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}

/// Binds the Runtime API's port, or any free one in tests.
pub(super) async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).await
}
