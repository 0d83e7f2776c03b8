//! `/2020-01-01/extension/…` over HTTP.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use hyper::body::Incoming;
use serde_json::json;
use uuid::Uuid;

use super::{ExtensionRefusal, Fault};
use crate::function::{
    body,
    replies::{self, Reply},
    session::Shared,
};

const NAME: HeaderName = HeaderName::from_static("lambda-extension-name");
const IDENTIFIER: HeaderName = HeaderName::from_static("lambda-extension-identifier");
const FEATURES: HeaderName = HeaderName::from_static("lambda-extension-accept-feature");
const EVENT_IDENTIFIER: HeaderName = HeaderName::from_static("lambda-extension-event-identifier");
const ERROR_TYPE: HeaderName = HeaderName::from_static("lambda-extension-function-error-type");

/// Answers a call; `path` is what follows `/2020-01-01/`.
pub(in super::super) async fn handle(
    shared: &Shared,
    path: &str,
    request: Request<Incoming>,
) -> Reply {
    let get = request.method() == Method::GET;
    let post = request.method() == Method::POST;
    let result = match path {
        "extension/register" if post => register(shared, request).await,
        "extension/event/next" if get => next(shared, request.headers()).await,
        "extension/init/error" if post => failed(shared, request, Fault::Init).await,
        "extension/exit/error" if post => failed(shared, request, Fault::Exit).await,
        "extension/register"
        | "extension/event/next"
        | "extension/init/error"
        | "extension/exit/error" => return replies::method_not_allowed(),
        _ => return replies::not_found(),
    };
    result.unwrap_or_else(|refusal| replies::extension_refused(&refusal))
}

/// Whose call it is, by its header.
pub(in super::super) fn identified(headers: &HeaderMap) -> Result<Uuid, ExtensionRefusal> {
    match headers.get(IDENTIFIER).map(HeaderValue::as_bytes) {
        None | Some(b"") => Err(ExtensionRefusal::NoIdentifier),
        Some(id) => Uuid::try_parse_ascii(id).map_err(|_| ExtensionRefusal::BadIdentifier),
    }
}

#[derive(serde::Deserialize)]
struct Registration {
    #[serde(default)]
    events: Vec<String>,
}

async fn register(shared: &Shared, request: Request<Incoming>) -> Result<Reply, ExtensionRefusal> {
    let name = body::text_header(request.headers(), &NAME);
    if name.is_empty() {
        return Err(ExtensionRefusal::EmptyName);
    }
    let features = body::text_header(request.headers(), &FEATURES);
    let body = match body::read_bounded(request.into_body()).await {
        Ok(Some(body)) => body,
        Ok(None) => return Ok(replies::too_large()),
        Err(_) => return Ok(replies::truncated()),
    };
    let registration: Registration = serde_json::from_slice(&body)
        .map_err(|error| ExtensionRefusal::Format(error.to_string()))?;
    let (id, function) = {
        let mut runtime = shared.runtime();
        let id = runtime.extensions.register(&name, &registration.events)?;
        (id, runtime.function.clone())
    };
    shared.changed();
    let mut reply = json!({
        "functionName": function.name,
        "functionVersion": function.version,
        "handler": function.handler,
    });
    if features.split(',').any(|feature| feature.trim() == "accountId") {
        reply["accountId"] = function.account_id.into();
    }
    Ok(with(IDENTIFIER, &id.to_string(), replies::json(&reply)))
}

async fn next(shared: &Shared, headers: &HeaderMap) -> Result<Reply, ExtensionRefusal> {
    let id = identified(headers)?;
    shared.runtime().extensions.ask_next(id)?;
    shared.changed();
    let event = loop {
        let change = shared.change();
        if let Some(event) = shared.runtime().extensions.take_event(id)? {
            break event;
        }
        change.await;
    };
    let event_id = Uuid::new_v4().to_string();
    Ok(with(EVENT_IDENTIFIER, &event_id, replies::json(&event.body)))
}

async fn failed(
    shared: &Shared,
    request: Request<Incoming>,
    fault: Fault,
) -> Result<Reply, ExtensionRefusal> {
    let id = identified(request.headers())?;
    let error_type = body::text_header(request.headers(), &ERROR_TYPE);
    if error_type.is_empty() {
        return Err(ExtensionRefusal::NoErrorType);
    }
    // It says no more than the header does that anybody is told, but it is read: a client may not
    // look at the reply before it is rid of it.
    let _ = body::read_bounded(request.into_body()).await;
    shared.runtime().extensions.failed(id, fault, &error_type)?;
    shared.changed();
    Ok(replies::accepted())
}

fn with(name: HeaderName, value: &str, mut reply: Reply) -> Reply {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
    reply
}
