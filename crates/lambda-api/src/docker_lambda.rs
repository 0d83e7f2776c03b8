//! The API that docker-lambda has when it stays open: `Invoke` for a function of any name.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
    routing::{options, post},
};
use bytes::Bytes;
use costrel_fleet::Invoked;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use serde::de::IgnoredAny;

use crate::{
    ApiError, InvocationMode, Invoker, Services,
    body::collect,
    front::Front,
    guard::Purpose,
    invoke::{
        ClientContextError, FUNCTION_ERROR, LOG_RESULT, SYNCHRONOUS_LIMIT, arrival, call_headers,
        client_context, log_result,
    },
    recorder::Recorder,
};

/// What a web page may read of a response.
const EXPOSED: &str = "x-amzn-RequestId,x-amzn-ErrorType,x-amzn-ErrorMessage,Date,\
                       x-amz-log-result,x-amz-function-error";

#[derive(Clone)]
struct DockerLambda {
    invoker: Arc<dyn Invoker>,
    recorder: Recorder,
    function: Arc<str>,
}

/// docker-lambda's API over one function, named as for `Invoke`, whatever callers name.
pub fn docker_lambda_router(services: &Services, function: &str) -> Router {
    let state = DockerLambda {
        invoker: services.invoker.clone(),
        recorder: services.recorder(),
        function: function.into(),
    };
    let api = Router::new()
        .route("/2015-03-31/functions/{function}/invocations", post(invoke).options(preflight))
        .route("/{*path}", options(preflight))
        .with_state(state);
    let front = Front {
        guard: services.guard(),
        metrics: services.metrics.clone(),
        api,
        purpose: Purpose::HostsPages,
        urls: None,
    };
    front.into_router()
}

/// An error in docker-lambda's form.
fn error(status: u16, error_type: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::json!({ "errorType": error_type, "errorMessage": message }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn preflight(request: Request<Body>) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("172800"));
    for (asked, allowed) in [
        (header::ACCESS_CONTROL_REQUEST_HEADERS, header::ACCESS_CONTROL_ALLOW_HEADERS),
        (header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_ALLOW_METHODS),
    ] {
        if let Some(asked) = request.headers().get(asked) {
            headers.insert(allowed, asked.clone());
        }
    }
    (StatusCode::OK, headers).into_response()
}

async fn invoke(
    State(docker): State<DockerLambda>,
    Path(_any_name): Path<String>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = answer(docker, request).await?;
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    Ok(response)
}

async fn answer(docker: DockerLambda, request: Request<Body>) -> Result<Response, ApiError> {
    let arrival = arrival(&request);
    let (parts, body) = request.into_parts();
    let header_is = |name, value| parts.headers.get(name).is_some_and(|header| header == value);
    if header_is("x-amz-invocation-type", "DryRun") {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let payload = match collect(body, SYNCHRONOUS_LIMIT).await {
        Ok(payload) if payload.is_empty() => Bytes::from_static(b"{}"),
        Ok(payload) => payload,
        Err(broken) => return Ok(error(500, "BodyReadError", &broken.to_string())),
    };
    let context = match client_context(&parts.headers) {
        Ok(context) => context,
        Err(ClientContextError) => {
            let message = "The client context is no JSON object in base64";
            return Ok(error(400, "ClientContextDecodingError", message));
        }
    };
    let callable = docker.invoker.resolve(&docker.function, None)?;
    let is_event = header_is("x-amz-invocation-type", "Event");
    let mode = if is_event { InvocationMode::Event } else { InvocationMode::RequestResponse };
    let mut call = docker.recorder.new_call(callable, payload, mode, (arrival, &parts.headers));
    call.invocation.client_context = context;
    let headers = call_headers(&call);
    if is_event {
        // Nothing is kept of it: docker-lambda has no queue.
        tokio::spawn(async move {
            if let Err(error) = docker.recorder.run(call).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "an event was lost");
            }
        });
        return Ok((StatusCode::ACCEPTED, headers).into_response());
    }
    let invoked = docker.recorder.run(call).await?;
    Ok(respond(invoked, headers, header_is("x-amz-log-type", "Tail")))
}

fn respond(invoked: Invoked, mut headers: HeaderMap, with_log: bool) -> Response {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if with_log && let Ok(log) = HeaderValue::try_from(log_result(&invoked.log_tail)) {
        headers.insert(LOG_RESULT, log);
    }
    match invoked.outcome.reply {
        Ok(reply) => (StatusCode::OK, headers, reply.payload).into_response(),
        Err(failed) if serde_json::from_slice::<IgnoredAny>(&failed.payload).is_err() => {
            let mut response = error(299, "InvalidErrorShape", "The error's body is not JSON");
            headers.remove(header::CONTENT_TYPE);
            response.headers_mut().extend(headers);
            response
        }
        Err(failed) => {
            headers.insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
            (StatusCode::OK, headers, failed.payload).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
