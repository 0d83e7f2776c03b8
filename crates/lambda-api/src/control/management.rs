//! Settings that are kept for those who ask: runtime updates, loops, scaling.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use costrel_catalog::{
    FunctionReference, Invalid, RecursiveLoop, RuntimeManagement, UpdateRuntimeOn, Violations,
};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    input::{Input, Parameters, choose},
    reply::{Reply, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/2021-07-20/functions/{name}/runtime-management-config",
            get(read_runtime).put(put_runtime),
        )
        .route(
            "/2024-08-31/functions/{name}/recursion-config",
            get(read_recursion).put(put_recursion),
        )
        .route(
            "/2025-11-30/functions/{name}/function-scaling-config",
            get(read_scaling).put(put_scaling),
        )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RuntimeInput {
    update_runtime_on: Option<String>,
    runtime_version_arn: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RuntimeOutput {
    update_runtime_on: UpdateRuntimeOn,
    function_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_version_arn: Option<String>,
}

async fn put_runtime(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Input(input): Input<RuntimeInput>,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let mut violations = Violations::new();
    violations.required("updateRuntimeOn", input.update_runtime_on.as_ref());
    let choices = [
        ("Auto", UpdateRuntimeOn::Auto),
        ("Manual", UpdateRuntimeOn::Manual),
        ("FunctionUpdate", UpdateRuntimeOn::FunctionUpdate),
    ];
    let update_runtime_on =
        choose(&mut violations, "updateRuntimeOn", input.update_runtime_on.as_deref(), &choices);
    violations.check()?;
    let management = RuntimeManagement {
        update_runtime_on: update_runtime_on.unwrap_or_default(),
        runtime_version_arn: input.runtime_version_arn,
    };
    let kept = management.clone();
    let function_arn =
        control.run(move |catalog| catalog.put_runtime_management(&reference, management)).await?;
    ok(&RuntimeOutput {
        update_runtime_on: kept.update_runtime_on,
        function_arn,
        runtime_version_arn: kept.runtime_version_arn,
    })
}

async fn read_runtime(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let (function_arn, management) =
        control.catalog.runtime_management(&parameters.reference(&name)?)?;
    ok(&RuntimeOutput {
        update_runtime_on: management.update_runtime_on,
        function_arn,
        runtime_version_arn: management.runtime_version_arn,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecursionInput {
    recursive_loop: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RecursionOutput {
    recursive_loop: RecursiveLoop,
}

async fn put_recursion(
    State(control): State<Shared>,
    Path(name): Path<String>,
    Input(input): Input<RecursionInput>,
) -> Reply {
    let reference: FunctionReference = name.parse()?;
    let mut violations = Violations::new();
    violations.required("recursiveLoop", input.recursive_loop.as_ref());
    let choices = [("Allow", RecursiveLoop::Allow), ("Terminate", RecursiveLoop::Terminate)];
    let recursive_loop =
        choose(&mut violations, "recursiveLoop", input.recursive_loop.as_deref(), &choices);
    violations.check()?;
    let recursive_loop = recursive_loop.unwrap_or_default();
    let recursive_loop =
        control.run(move |catalog| catalog.put_recursion(&reference, recursive_loop)).await?;
    ok(&RecursionOutput { recursive_loop })
}

async fn read_recursion(State(control): State<Shared>, Path(name): Path<String>) -> Reply {
    ok(&RecursionOutput { recursive_loop: control.catalog.recursion(&name.parse()?)? })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ScalingOutput {
    function_arn: String,
}

/// Nothing is set: only functions of capacity providers scale that way.
async fn read_scaling(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let listing = control.catalog.get_function(&parameters.reference(&name)?)?;
    ok(&ScalingOutput { function_arn: listing.arn })
}

async fn put_scaling(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    control.catalog.get_function(&parameters.reference(&name)?)?;
    Err(Invalid::Unsupported(
        "Function scaling is for functions of capacity providers, which are not supported here.",
    )
    .into())
}
