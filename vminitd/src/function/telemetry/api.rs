//! `PUT /2022-07-01/telemetry` and `PUT /2020-08-15/logs`.

use costrel_agent_proto::v1::guest_message::Message;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::{Category, Record, hub::SubscribeRefusal, subscription::Subscription};
use crate::function::{
    body, extensions,
    replies::{self, Reply},
    session::Shared,
};

/// The Telemetry API.
pub(in super::super) const TELEMETRY_PATH: &str = "/2022-07-01/telemetry";

/// The Logs API, which came before it.
pub(in super::super) const LOGS_PATH: &str = "/2020-08-15/logs";

/// Answers a request to subscribe to the Telemetry API, or else to the Logs API.
pub(in super::super) async fn subscribe(
    shared: &Shared,
    request: Request<Incoming>,
    of_telemetry: bool,
) -> Reply {
    if request.method() != Method::PUT {
        return replies::method_not_allowed();
    }
    let name = extensions::identified(request.headers()).and_then(|id| {
        let runtime = shared.runtime();
        runtime.extensions.name(id).map(str::to_owned)
    });
    let name = match name {
        Ok(name) => name,
        Err(refusal) => return replies::extension_refused(&refusal),
    };
    let body = match body::read_bounded(request.into_body()).await {
        Ok(Some(body)) => body,
        Ok(None) => return replies::too_large(),
        Err(_) => return replies::truncated(),
    };
    let (api, invalid) = if of_telemetry {
        ("Telemetry", "ValidationError")
    } else {
        ("Logs", "Logs.ValidationError")
    };
    let subscription = match Subscription::read(&body, of_telemetry) {
        Ok(subscription) => subscription,
        Err(message) => return replies::error(StatusCode::BAD_REQUEST, invalid, &message),
    };
    let schema = subscription.schema;
    let types: Vec<_> = subscription.types.iter().copied().map(Category::name).collect();
    match shared.telemetry.subscribe(&name, subscription) {
        Ok(()) => {}
        Err(SubscribeRefusal::Closed) => {
            let message = format!("{api} API subscription is closed already");
            let kind = format!("{api}.SubscriptionClosed");
            return replies::error(StatusCode::FORBIDDEN, &kind, &message);
        }
        Err(SubscribeRefusal::OtherApi) => {
            let message = "the extension has subscribed by the other of Logs and Telemetry API";
            return replies::error(StatusCode::BAD_REQUEST, invalid, message);
        }
    }
    let (kind, word) = schema.names();
    let line = format!("{word}\tName: {name}\tState: Subscribed\tTypes: [{}]", types.join(","));
    shared.send(Message::PlatformLine(line)).await;
    let record = json!({ "name": name, "state": "Subscribed", "types": types });
    shared.telemetry.publish(&Record::platform(kind, &record));
    replies::subscribed()
}
