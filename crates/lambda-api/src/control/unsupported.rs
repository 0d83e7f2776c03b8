//! What AWS has and this server has not: there is none of it to list or to find, and none can be
//! made.

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use costrel_catalog::Invalid;
use serde_json::json;

use super::{
    Shared,
    input::Parameters,
    reply::{Reply, ok},
};
use crate::{ApiError, ErrorKind};

pub(super) fn routes() -> Router<Shared> {
    let mappings = || get(list_mappings).post(create_mapping);
    Router::new()
        .route("/2015-03-31/event-source-mappings", mappings())
        .route("/2015-03-31/event-source-mappings/", mappings())
        .route("/2015-03-31/event-source-mappings/{id}", get(missing).put(missing).delete(missing))
        .route("/2025-11-30/capacity-providers", get(list_providers).post(create_provider))
        .route("/2025-11-30/capacity-providers/{name}", get(missing).put(missing).delete(missing))
        .route("/2025-11-30/capacity-providers/{name}/function-versions", get(missing))
        .route("/2025-12-01/functions/{name}/durable-executions", get(list_executions))
        .route("/2025-12-01/durable-executions/{arn}", get(missing).delete(missing))
        .route("/2025-12-01/durable-executions/{arn}/history", get(missing))
        .route("/2025-12-01/durable-executions/{arn}/state", get(missing))
        .route("/2025-12-01/durable-executions/{arn}/checkpoint", post(missing))
        .route("/2025-12-01/durable-executions/{arn}/pause", post(missing))
        .route("/2025-12-01/durable-executions/{arn}/resume", post(missing))
        .route("/2025-12-01/durable-executions/{arn}/stop", post(missing))
        .route("/2025-12-01/durable-execution-callbacks/{id}/{outcome}", post(missing))
}

async fn missing() -> ApiError {
    ApiError::new(ErrorKind::ResourceNotFound, "The resource you requested does not exist.")
}

async fn list_mappings(State(control): State<Shared>, parameters: Parameters) -> Reply {
    if let Some(name) = parameters.get("FunctionName") {
        control.catalog.get_function(&name.parse()?)?;
    }
    ok(&json!({ "EventSourceMappings": [] }))
}

async fn create_mapping() -> ApiError {
    Invalid::Unsupported(
        "Event source mappings are not supported here: there are no queues or streams beside this \
         endpoint. Invoke the function instead.",
    )
    .into()
}

async fn list_providers() -> Reply {
    ok(&json!({ "CapacityProviders": [] }))
}

async fn create_provider() -> ApiError {
    Invalid::Unsupported("Capacity providers are not supported here.").into()
}

async fn list_executions(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    control.catalog.get_function(&parameters.reference(&name)?)?;
    ok(&json!({ "DurableExecutions": [] }))
}
