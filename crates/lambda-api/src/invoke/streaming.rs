//! `InvokeWithResponseStream`.

use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use costrel_fleet::Invoked;
use costrel_functions::ResponsePart;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    EXECUTED_VERSION, SYNCHRONOUS_LIMIT, arrival, call_headers, log_result,
    parameters::{InvocationType, LogType, Parameters, payload},
};
use crate::{
    ApiError, InvocationMode,
    data_plane::DataPlane,
    event_stream::{CONTENT_TYPE, Completion, invoke_complete, payload_chunk},
    recorder::{StreamedCall, joined},
};

/// `InvokeWithResponseStream`.
pub(crate) async fn invoke_with_response_stream(
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
        InvocationType::RequestResponse => {}
        InvocationType::DryRun => return Ok(StatusCode::NO_CONTENT.into_response()),
        InvocationType::Event => {
            return Err(ApiError::invalid_parameter(
                "A response stream cannot be had of an asynchronous invocation.",
            ));
        }
    }
    let payload = payload(body, "RequestResponse", SYNCHRONOUS_LIMIT).await?;
    let mut call = data_plane.recorder.new_call(
        callable,
        payload,
        InvocationMode::ResponseStream,
        (arrival, &parts.headers),
    );
    call.invocation.client_context = parameters.client_context;
    let mut headers = call_headers(&call);
    let mut streamed = data_plane.recorder.run_streamed(call);
    let first = streamed.parts.recv().await;
    let end = match first {
        // It is over already, without a word: only now is it known that there is something to
        // stream at all.
        None => match joined(streamed.end).await {
            Ok(invoked) => End::Known(Box::new(invoked)),
            Err(error) => {
                headers.remove(EXECUTED_VERSION);
                let mut response = error.into_response();
                response.headers_mut().extend(headers);
                return Ok(response);
            }
        },
        Some(first) => End::Awaited(streamed, first),
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    Ok(respond(headers, end, parameters.log_type))
}

enum End {
    Known(Box<Invoked>),
    Awaited(StreamedCall, ResponsePart),
}

fn respond(headers: HeaderMap, end: End, log_type: LogType) -> Response {
    let body = match end {
        End::Known(invoked) => Body::from(invoke_complete(completion(Ok(*invoked), log_type))),
        End::Awaited(mut streamed, first) => {
            // One frame ahead: the function waits for whoever takes its frames.
            let (sender, frames) = mpsc::channel::<Result<Bytes, std::convert::Infallible>>(1);
            tokio::spawn(async move {
                let mut part = Some(first);
                while let Some(next) = part {
                    if let ResponsePart::Chunk(chunk) = next
                        && !chunk.is_empty()
                        && sender.send(Ok(payload_chunk(chunk))).await.is_err()
                    {
                        // The caller went away. The function is told so by what it sends next.
                        return;
                    }
                    part = streamed.parts.recv().await;
                }
                let completion = completion(joined(streamed.end).await, log_type);
                let _ = sender.send(Ok(invoke_complete(completion))).await;
            });
            Body::from_stream(ReceiverStream::new(frames))
        }
    };
    (StatusCode::OK, headers, body).into_response()
}

fn completion(end: Result<Invoked, ApiError>, log_type: LogType) -> Completion {
    match end {
        Ok(invoked) => Completion {
            error: invoked.outcome.reply.err().map(|error| {
                let details = String::from_utf8_lossy(&error.payload).into_owned();
                ("Unhandled".to_owned(), details)
            }),
            log_result: (log_type == LogType::Tail).then(|| log_result(&invoked.log_tail)),
        },
        // The status is sent: what is left to say it with is the last frame.
        Err(error) => Completion {
            error: Some((error.kind().name().to_owned(), error.to_json().to_string())),
            log_result: None,
        },
    }
}
