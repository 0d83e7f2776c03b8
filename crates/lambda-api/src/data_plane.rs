//! Invoking functions over HTTP: the routes, and what they share.

use std::sync::Arc;

use axum::{Router, routing::post};

use crate::{Invoker, invoke, recorder::Recorder};

/// What the ways to invoke a function share.
#[derive(Clone)]
pub(crate) struct DataPlane {
    pub(crate) invoker: Arc<dyn Invoker>,
    pub(crate) recorder: Recorder,
}

/// The routes of Lambda's operations that invoke functions.
pub(crate) fn routes(data_plane: DataPlane) -> Router {
    Router::new()
        .route("/2015-03-31/functions/{function}/invocations", post(invoke::invoke))
        .route(
            "/2021-11-15/functions/{function}/response-streaming-invocations",
            post(invoke::invoke_with_response_stream),
        )
        // Of the legacy operation's path there is one with a trailing slash, which SDKs send, and
        // one without.
        .route("/2014-11-13/functions/{function}/invoke-async", post(invoke::invoke_async))
        .route("/2014-11-13/functions/{function}/invoke-async/", post(invoke::invoke_async))
        .with_state(data_plane)
}
