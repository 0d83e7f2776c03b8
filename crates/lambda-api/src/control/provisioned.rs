//! Instances that are kept ready.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use costrel_catalog::{ProvisionedDescription, ProvisionedState, Violations};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    input::{Input, Parameters},
    reply::{Reply, accepted, no_content, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route(
        "/2019-09-30/functions/{name}/provisioned-concurrency",
        get(read_or_list).put(provision).delete(remove),
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProvisionInput {
    provisioned_concurrent_executions: Option<i64>,
}

/// `ProvisionedConcurrencyConfigListItem`, and, without an ARN, all else.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProvisionedOutput {
    #[serde(skip_serializing_if = "Option::is_none")]
    function_arn: Option<String>,
    requested_provisioned_concurrent_executions: u32,
    available_provisioned_concurrent_executions: u32,
    allocated_provisioned_concurrent_executions: u32,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
    last_modified: String,
}

impl From<ProvisionedDescription> for ProvisionedOutput {
    fn from(description: ProvisionedDescription) -> Self {
        let (status, status_reason) = match description.status.state {
            ProvisionedState::InProgress => ("IN_PROGRESS", None),
            ProvisionedState::Ready => ("READY", None),
            ProvisionedState::Failed { reason } => ("FAILED", Some(reason)),
        };
        Self {
            function_arn: None,
            requested_provisioned_concurrent_executions: description.requested,
            available_provisioned_concurrent_executions: description.status.available,
            allocated_provisioned_concurrent_executions: description.status.allocated,
            status,
            status_reason,
            last_modified: description.last_modified,
        }
    }
}

async fn provision(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Input(input): Input<ProvisionInput>,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let executions = input.provisioned_concurrent_executions;
    let mut violations = Violations::new();
    violations.required("provisionedConcurrentExecutions", executions.as_ref());
    violations.check()?;
    let executions = executions.unwrap_or_default();
    let provisioned =
        control.run(move |catalog| catalog.provision_concurrency(&reference, executions)).await?;
    accepted(&ProvisionedOutput::from(provisioned))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListOutput {
    provisioned_concurrency_configs: Vec<ProvisionedOutput>,
    next_marker: Option<String>,
}

/// `GetProvisionedConcurrencyConfig`, and, by `List=ALL`, `ListProvisionedConcurrencyConfigs`.
async fn read_or_list(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&name)?;
    if parameters.get("List") != Some("ALL") {
        let provisioned = control.catalog.provisioned_concurrency(&reference)?;
        return ok(&ProvisionedOutput::from(provisioned));
    }
    let page = parameters.page()?;
    let page = control.catalog.list_provisioned_concurrency(&reference, &page)?;
    let page = page.map(|description| ProvisionedOutput {
        function_arn: Some(description.function_arn.clone()),
        ..description.into()
    });
    ok(&ListOutput { provisioned_concurrency_configs: page.items, next_marker: page.next_marker })
}

async fn remove(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&name)?;
    control.run(move |catalog| catalog.unprovision_concurrency(&reference)).await?;
    no_content()
}
