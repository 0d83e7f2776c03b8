//! The API of AWS's Runtime Interface Emulator: one function, at one path, by any method.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::any,
};
use bytes::Bytes;
use costrel_fleet::Invoked;
use costrel_functions::{FunctionError, log::FailureStatus};
use http::{HeaderName, Request, StatusCode, header};
use tokio::sync::Mutex;

use crate::{
    ApiError, InvocationMode, Invoker, Services,
    body::{BodyError, collect},
    front::Front,
    guard::Purpose,
    invoke::{SYNCHRONOUS_LIMIT, arrival, client_context, too_large},
    recorder::Recorder,
};

/// The only path that there is.
const PATH: &str = "/2015-03-31/functions/function/invocations";

#[derive(Clone)]
struct Emulator {
    invoker: Arc<dyn Invoker>,
    recorder: Recorder,
    function: Arc<str>,
    /// Invocations run one after the other: the emulator has one sandbox.
    turn: Arc<Mutex<()>>,
}

/// The emulator's API over one function, named as for `Invoke`.
pub fn rie_router(services: &Services, function: &str) -> Router {
    let emulator = Emulator {
        invoker: services.invoker.clone(),
        recorder: services.recorder(),
        function: function.into(),
        turn: Arc::default(),
    };
    let api = Router::new()
        .route(PATH, any(invoke))
        .fallback(|| async { text(StatusCode::NOT_FOUND, "404 page not found\n") })
        .with_state(emulator);
    let front = Front {
        guard: services.guard(),
        metrics: services.metrics.clone(),
        api,
        purpose: Purpose::AnyMethod,
        urls: None,
    };
    front.into_router()
}

const TEXT: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    (status, TEXT, text.into()).into_response()
}

async fn invoke(
    State(emulator): State<Emulator>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let arrival = arrival(&request);
    let (parts, body) = request.into_parts();
    let payload = collect(body, SYNCHRONOUS_LIMIT).await.map_err(|error| match error {
        BodyError::TooLarge { size } => too_large(size, "RequestResponse", SYNCHRONOUS_LIMIT),
        BodyError::Broken(_) => ApiError::invalid_parameter("The request's body ended early."),
    })?;
    let Ok(context) = client_context(&parts.headers) else {
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new()));
    };
    let _turn = emulator.turn.lock().await;
    let callable = emulator.invoker.resolve(&emulator.function, None)?;
    let mut call = emulator.recorder.new_call(
        callable,
        payload,
        InvocationMode::RequestResponse,
        (arrival, &parts.headers),
    );
    call.invocation.client_context = context;
    let invoked = emulator.recorder.run(call).await?;
    Ok(answer(invoked))
}

/// A function's own error is a result like any other. What the sandbox says is not, but for a
/// timeout, which is a result in plain words.
fn answer(invoked: Invoked) -> Response {
    let failure = invoked.outcome.report.failure;
    match invoked.outcome.reply {
        Ok(reply) => text(StatusCode::OK, reply.payload),
        Err(error) if error.error_type == "Sandbox.Timedout" => {
            text(StatusCode::OK, timeout_text(&error))
        }
        Err(error)
            if matches!(failure, Some(FailureStatus::Error(_)))
                || error.error_type == "Function.ResponseSizeTooLarge" =>
        {
            text(StatusCode::BAD_GATEWAY, error.payload)
        }
        Err(error) => text(StatusCode::OK, error.payload),
    }
}

/// `Task timed out after 2.00 seconds`, out of what a caller of Lambda is told.
fn timeout_text(error: &FunctionError) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(&error.payload).ok();
    let message = message.as_ref().and_then(|error| error.get("errorMessage")?.as_str());
    let message = message.unwrap_or_default();
    message.split_once(" Error: ").map_or(message, |(_, text)| text).to_owned()
}

#[cfg(test)]
mod tests;
