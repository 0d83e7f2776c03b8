//! `Invoke`, `InvokeWithResponseStream` and `InvokeAsync`.

mod parameters;
mod streaming;
#[cfg(test)]
mod tests;

use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use costrel_fleet::Invoked;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

use crate::{
    ApiError, InvocationMode,
    data_plane::DataPlane,
    recorder::{Arrival, Call},
};
use parameters::{InvocationType, LogType, Parameters, payload};

pub(crate) use parameters::{ClientContextError, client_context, too_large};
pub(crate) use streaming::invoke_with_response_stream;

/// The largest payload of an invocation that its caller waits for, in bytes.
pub(crate) const SYNCHRONOUS_LIMIT: usize = 6_291_456;
/// The largest payload of an asynchronous invocation, in bytes.
pub(crate) const ASYNCHRONOUS_LIMIT: usize = 1_048_576;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
pub(crate) const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
pub(crate) const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
pub(crate) const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
pub(crate) const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");

/// `Invoke`.
pub(crate) async fn invoke(
    State(data_plane): State<DataPlane>,
    Path(function): Path<String>,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let arrival = arrival(&request);
    let (parts, body) = request.into_parts();
    let parameters = Parameters::read(&parts.headers, query.as_deref())?;
    let callable = data_plane.invoker.resolve(&function, parameters.qualifier.as_deref())?;
    match parameters.invocation_type {
        InvocationType::DryRun => Ok(StatusCode::NO_CONTENT.into_response()),
        InvocationType::Event => {
            let payload = payload(body, "Event", ASYNCHRONOUS_LIMIT).await?;
            let mut call = data_plane.recorder.new_call(
                callable,
                payload,
                InvocationMode::Event,
                (arrival, &parts.headers),
            );
            call.invocation.client_context = parameters.client_context;
            accept(call).await
        }
        InvocationType::RequestResponse => {
            let payload = payload(body, "RequestResponse", SYNCHRONOUS_LIMIT).await?;
            let mut call = data_plane.recorder.new_call(
                callable,
                payload,
                InvocationMode::RequestResponse,
                (arrival, &parts.headers),
            );
            call.invocation.client_context = parameters.client_context;
            let mut headers = call_headers(&call);
            let invoked = data_plane.recorder.run(call).await;
            Ok(match invoked {
                Ok(invoked) => answer(invoked, parameters.log_type, headers),
                Err(error) => {
                    let mut response = error.into_response();
                    headers.remove(EXECUTED_VERSION);
                    response.headers_mut().extend(headers);
                    response
                }
            })
        }
    }
}

/// `InvokeAsync`, which has been out of fashion since 2014 and is still there.
pub(crate) async fn invoke_async(
    State(data_plane): State<DataPlane>,
    Path(function): Path<String>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let arrival = arrival(&request);
    let (parts, body) = request.into_parts();
    let callable = data_plane.invoker.resolve(&function, None)?;
    let payload = payload(body, "Event", ASYNCHRONOUS_LIMIT).await?;
    let call = data_plane.recorder.new_call(
        callable,
        payload,
        InvocationMode::Event,
        (arrival, &parts.headers),
    );
    accept(call).await
}

/// When a request arrived, as whoever took it has noted.
pub(crate) fn arrival<B>(request: &Request<B>) -> Arrival {
    request.extensions().get().copied().unwrap_or_else(Arrival::now)
}

/// Queues an asynchronous invocation.
async fn accept(call: Call) -> Result<Response, ApiError> {
    let mut headers = call_headers(&call);
    headers.remove(EXECUTED_VERSION);
    call.callable.enqueue(call.invocation).await?;
    Ok((StatusCode::ACCEPTED, headers).into_response())
}

/// What is known of an invocation's response before it runs.
pub(crate) fn call_headers(call: &Call) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let mut insert = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert(REQUEST_ID, &call.invocation.request_id);
    insert(TRACE_ID, &call.invocation.trace_id);
    insert(EXECUTED_VERSION, call.callable.version());
    headers
}

/// The response to a caller who has waited for it.
fn answer(invoked: Invoked, log_type: LogType, mut headers: HeaderMap) -> Response {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if log_type == LogType::Tail
        && let Ok(log) = HeaderValue::try_from(log_result(&invoked.log_tail))
    {
        headers.insert(LOG_RESULT, log);
    }
    let payload = match invoked.outcome.reply {
        Ok(reply) => reply.payload,
        Err(error) => {
            headers.insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
            error.payload
        }
    };
    (StatusCode::OK, headers, payload).into_response()
}

/// The end of an invocation's log as callers get it.
pub(crate) fn log_result(log_tail: &Bytes) -> String {
    BASE64_STANDARD.encode(log_tail)
}
