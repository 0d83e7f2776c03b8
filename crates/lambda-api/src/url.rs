//! Function URLs: any HTTP request becomes an event, and what the function returns a response.
//!
//! A function URL is served at its host name, `<id>.lambda-url.<region>.localhost`, which browsers
//! and most resolvers take for this host's loopback; and below [`PATH_PREFIX`] for those that do
//! not.

mod cors;
mod event;
mod prelude;
mod response;
mod streaming;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, Method, Request, StatusCode, header};

use crate::{
    ApiError, ErrorKind, FunctionUrl, InvocationMode, UrlAuth, UrlMode,
    body::{BodyError, collect},
    data_plane::DataPlane,
    invoke::{REQUEST_ID, SYNCHRONOUS_LIMIT, TRACE_ID, arrival, too_large},
    recorder::Recorder,
    signature,
};

pub(crate) use cors::{allows, is_preflight};

/// Below this, `<id>/<path>` is the function URL's path.
pub(crate) const PATH_PREFIX: &str = "/_costrel/url/";

/// What stands between a function URL's id and its region.
const HOST_INFIX: &str = ".lambda-url.";

/// A request to a function URL.
pub(crate) struct UrlRequest {
    /// Which one.
    pub(crate) url: Arc<FunctionUrl>,
    /// The path as the function is to see it, and as it was sent: encoded.
    pub(crate) path: String,
    /// Whether it was named by its path instead of by its host.
    pub(crate) by_path: bool,
    /// Who has sent it, where that is known.
    pub(crate) peer: Option<SocketAddr>,
}

/// The id of a function URL in a host name, with or without a port.
pub(crate) fn id_in_host(host: &str) -> Option<&str> {
    let (id, rest) = host.split_once(HOST_INFIX)?;
    (is_id(id) && !rest.is_empty()).then_some(id)
}

/// The id of a function URL in a path, and the path below it.
pub(crate) fn id_in_path(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix(PATH_PREFIX)?;
    let (id, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    is_id(id).then_some((id, path))
}

fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 63
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// There is no such function URL. The words are AWS's, for one that was deleted.
pub(crate) fn unknown() -> Response {
    message(StatusCode::FORBIDDEN, "Forbidden")
}

fn message(status: StatusCode, text: &str) -> Response {
    let body = serde_json::json!({ "Message": text }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Serves a request to a function URL.
pub(crate) async fn serve(
    data_plane: &DataPlane,
    request: UrlRequest,
    http: Request<Body>,
) -> Response {
    let (url, by_path) = (request.url.clone(), request.by_path);
    let origin = http.headers().get(header::ORIGIN).cloned();
    let mut response = match &url.cors {
        Some(cors) if is_preflight(&http) => cors::preflight(cors, &http),
        _ => match answer(data_plane, request, http).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        },
    };
    if let Some(cors) = &url.cors {
        cors::apply(cors, origin.as_ref(), response.headers_mut());
    }
    if by_path {
        // What a function serves here would otherwise count as the API's own page, and could drive
        // it.
        let sandbox = HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups");
        response.headers_mut().append(header::CONTENT_SECURITY_POLICY, sandbox);
    }
    response
}

async fn answer(
    data_plane: &DataPlane,
    request: UrlRequest,
    http: Request<Body>,
) -> Result<Response, ApiError> {
    let arrival = arrival(&http);
    let (parts, body) = http.into_parts();
    let url = &request.url;
    // Whether the signature is right is told where there is a secret to tell it by, which is before
    // this. Here it is told who has none, as on AWS.
    if url.auth == UrlAuth::Iam && !signature::is_signed(&parts) {
        return Ok(message(StatusCode::FORBIDDEN, "Forbidden"));
    }
    let callable = data_plane.invoker.resolve(&url.function, url.qualifier.as_deref())?;
    let body = collect(body, SYNCHRONOUS_LIMIT).await.map_err(|error| match error {
        BodyError::TooLarge { size } => too_large(size, "RequestResponse", SYNCHRONOUS_LIMIT),
        BodyError::Broken(_) => ApiError::new(
            ErrorKind::InvalidRequestContent,
            "Could not read the request body: it ended early",
        ),
    })?;
    let mut call = data_plane.recorder.new_call(
        callable,
        bytes::Bytes::new(),
        InvocationMode::Url,
        (arrival, &parts.headers),
    );
    let event = event::Source {
        parts: &parts,
        request: &request,
        body: &body,
        request_id: &call.invocation.request_id,
        trace_id: &call.invocation.trace_id,
        arn: call.callable.arn(),
        at: arrival.at,
    };
    call.invocation.payload = event.to_json().into();
    // Base64 has made it larger.
    let size = call.invocation.payload.len();
    if size > SYNCHRONOUS_LIMIT {
        return Err(too_large(size as u64, "RequestResponse", SYNCHRONOUS_LIMIT));
    }
    let request_id = HeaderValue::try_from(&call.invocation.request_id);
    let trace_id = HeaderValue::try_from(&call.invocation.trace_id);
    let is_head = parts.method == Method::HEAD;
    let mut response = match url.mode {
        UrlMode::Buffered => buffered(&data_plane.recorder, call).await,
        UrlMode::ResponseStream => streaming::serve(&data_plane.recorder, call).await,
    }
    .unwrap_or_else(axum::response::IntoResponse::into_response);
    if let (Ok(request_id), Ok(trace_id)) = (request_id, trace_id) {
        response.headers_mut().insert(REQUEST_ID, request_id);
        response.headers_mut().insert(TRACE_ID, trace_id);
    }
    if is_head {
        *response.body_mut() = Body::empty();
    }
    Ok(response)
}

async fn buffered(recorder: &Recorder, call: crate::recorder::Call) -> Result<Response, ApiError> {
    let invoked = recorder.run(call).await?;
    Ok(match invoked.outcome.reply {
        Ok(reply) if prelude::is_type(&reply.content_type) => {
            match prelude::split(&reply.payload) {
                Some((prelude, body)) => prelude.into_response(Body::from(body)),
                None => response::bad_gateway(),
            }
        }
        Ok(reply) => response::from_payload(reply.payload),
        Err(_) => response::bad_gateway(),
    })
}
