//! The whole API on one router.

use axum::Router;

use crate::{ApiError, ErrorKind, Services, control, status};

/// The whole API.
pub fn router(services: &Services) -> Router {
    Router::new()
        .merge(control::routes(services))
        .merge(status::routes(std::sync::Arc::clone(&services.status), services.history.clone()))
        .fallback(unknown)
}

/// What AWS says of paths that it has no operation for.
async fn unknown() -> ApiError {
    ApiError::new(ErrorKind::UnknownOperation, "")
}
