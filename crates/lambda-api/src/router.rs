//! The whole API on one router.

use axum::{
    Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::header;

use crate::{
    ApiError, ErrorKind, Services, control, data_plane, front::Front, guard::Purpose, metrics,
    status,
};

/// The whole API: invocations, the control plane, function URLs, `/metrics` and the status page,
/// behind the guard.
pub fn router(services: &Services) -> Router {
    let data_plane = services.data_plane();
    let api = Router::new()
        .merge(data_plane::routes(data_plane.clone()))
        .merge(control::routes(services))
        .merge(status::routes(services.status.clone(), services.history.clone()))
        .route("/metrics", get(figures).with_state(services.clone()))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown);
    let front = Front {
        guard: services.guard(),
        metrics: services.metrics.clone(),
        api,
        purpose: Purpose::Operation,
        urls: Some(data_plane),
    };
    front.into_router()
}

/// What AWS says of paths that it has no operation for.
async fn unknown() -> ApiError {
    ApiError::new(ErrorKind::UnknownOperation, "")
}

async fn figures(State(services): State<Services>) -> Response {
    let gauges = services.gauges.read();
    let text = services.metrics.text(gauges.fleet.as_ref(), gauges.events);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
