//! The status page, at `/_costrel`.

use axum::Router;

use crate::Services;

/// The page's routes, all of them below `/_costrel`.
pub(crate) fn routes(_services: &Services) -> Router {
    Router::new()
}
