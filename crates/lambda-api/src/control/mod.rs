//! The control plane: functions, versions, aliases, layers and what is set of them.
//!
//! A module for each resource: its wire types, which end here, and its routes. What it does is the
//! catalog's ([`costrel_catalog::Catalog`]), and waits for the disk on threads that may wait.

mod account;
mod aliases;
mod code;
mod concurrency;
mod configuration;
mod error;
mod event_invoke;
mod functions;
mod input;
mod layers;
mod management;
mod policies;
mod provisioned;
mod reply;
mod signing;
mod tags;
mod unsupported;
mod urls;
mod versions;

use std::sync::Arc;

use axum::Router;
use costrel_catalog::{Catalog, CatalogError};

use crate::{ApiError, Services};

pub(crate) use code::is_presigned;

/// The control plane's routes, where the server has a catalog.
pub(crate) fn routes(services: &Services) -> Router {
    services.catalog.as_ref().map(|catalog| control_plane(catalog.clone())).unwrap_or_default()
}

/// The control plane of a catalog, by itself.
pub fn control_plane(catalog: Catalog) -> Router {
    let control = Arc::new(Control { catalog, secret: *uuid::Uuid::new_v4().as_bytes() });
    Router::new()
        .merge(functions::routes())
        .merge(versions::routes())
        .merge(aliases::routes())
        .merge(layers::routes())
        .merge(policies::routes())
        .merge(tags::routes())
        .merge(concurrency::routes())
        .merge(provisioned::routes())
        .merge(urls::routes())
        .merge(event_invoke::routes())
        .merge(management::routes())
        .merge(signing::routes())
        .merge(account::routes())
        .merge(unsupported::routes())
        .merge(code::routes())
        .with_state(control)
}

/// What the operations work with.
pub(crate) struct Control {
    pub(crate) catalog: Catalog,
    /// What addresses of code are signed with.
    secret: [u8; 16],
}

type Shared = Arc<Control>;

impl Control {
    /// Runs an operation where it may wait for the disk.
    async fn run<T: Send + 'static>(
        self: Arc<Self>,
        operation: impl FnOnce(&Catalog) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let done = tokio::task::spawn_blocking(move || operation(&self.catalog)).await;
        match done {
            Ok(result) => Ok(result?),
            // It has panicked, or the server ends.
            Err(_) => {
                Err(ApiError::new(crate::ErrorKind::Service, "The operation was interrupted."))
            }
        }
    }
}
