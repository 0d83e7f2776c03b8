//! The control plane: functions, versions, aliases, layers and what is set of them.

use axum::Router;

use crate::Services;

/// The control plane's routes.
pub(crate) fn routes(_services: &Services) -> Router {
    Router::new()
}
