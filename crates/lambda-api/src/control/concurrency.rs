//! Concurrency that is reserved for functions.

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, put},
};
use costrel_catalog::{FunctionReference, Violations};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    input::Input,
    reply::{Reply, no_content, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/2017-10-31/functions/{name}/concurrency", put(reserve).delete(unreserve))
        .route("/2019-09-30/functions/{name}/concurrency", get(read))
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Concurrency {
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_concurrent_executions: Option<i64>,
}

async fn reserve(
    State(control): State<Shared>,
    Path(name): Path<String>,
    Input(input): Input<Concurrency>,
) -> Reply {
    let reference: FunctionReference = name.parse()?;
    let executions = input.reserved_concurrent_executions;
    let mut violations = Violations::new();
    violations.required("reservedConcurrentExecutions", executions.as_ref());
    violations.check()?;
    let reserved = control
        .run(move |catalog| catalog.reserve_concurrency(&reference, executions.unwrap_or_default()))
        .await?;
    ok(&Concurrency { reserved_concurrent_executions: Some(reserved.into()) })
}

async fn read(State(control): State<Shared>, Path(name): Path<String>) -> Reply {
    let reserved = control.catalog.reservation(&name.parse()?)?;
    ok(&Concurrency { reserved_concurrent_executions: reserved.map(i64::from) })
}

async fn unreserve(State(control): State<Shared>, Path(name): Path<String>) -> Reply {
    let reference: FunctionReference = name.parse()?;
    control.run(move |catalog| catalog.unreserve_concurrency(&reference)).await?;
    no_content()
}
